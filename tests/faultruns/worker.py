"""One client process: all workloads at the same time, on one client.

It is told on its standard input when to stop beginning anything (``stop``), and when everybody has stopped
(``settle``). It says ``ready`` and ``stopped`` on its standard output, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

import coord
from tests.faultruns.fence import Register
from tests.faultruns.lines import Notes, now
from tests.faultruns.recipes import WORKLOADS
from tests.faultruns.scene import Scene, Sessions

# One whose sessions end in nearly every outage, one whose sessions end in some, and one with the default.
_TTLS: tuple[int | None, ...] = (3, 6, None)
_LOOK_S = 0.05


async def work(options: argparse.Namespace) -> None:
    """Do everything, to the end."""
    number = int(options.number)
    notes = Notes(Path(options.notes), number)
    register = Register(Path(options.register))
    recipes = str(options.recipes).split(",")
    async with coord.connect(str(options.endpoints), name=f"worker{number}") as client:
        scene = Scene(
            worker=number,
            client=client,
            sessions=Sessions(client, _TTLS[number % len(_TTLS)]),
            notes=notes,
            register=register,
            rng=random.Random(f"{options.seed}/{number}"),
        )
        listening = asyncio.create_task(_listen(scene))
        _say("ready")
        async with asyncio.TaskGroup() as group:
            for recipe in recipes:
                group.create_task(_run(scene, recipe))
        await listening
    register.close()
    notes.note("worker", "ended")
    notes.close()


async def _run(scene: Scene, recipe: str) -> None:
    """Run one workload. One that fails is noted, and the others go on."""
    began = now()
    try:
        await WORKLOADS[recipe].run(scene)
    except Exception as error:  # noqa: BLE001 - the judge says that it must not be
        scene.error(recipe, "workload", began, error)
    scene.notes.note(recipe, "over")


async def _listen(scene: Scene) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while not scene.settle.is_set():
        word = (await reader.readline()).strip()
        if word == b"stop":
            scene.stop.set()
            while scene.producers:
                await asyncio.sleep(_LOOK_S)
            _say("stopped")
        else:  # settle, or nobody is there any more
            scene.stop.set()
            scene.settled_at = now()
            scene.settle.set()
    pipe.close()


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the arguments, and work."""
    parser = argparse.ArgumentParser()
    for name in ("number", "endpoints", "recipes", "notes", "register", "seed"):
        parser.add_argument(f"--{name}", required=True)
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
