"""Only the seams touch the world: the rest of the code can be replayed from a seed."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.doors import findings
from tests.architecture.sources import ROOT, Source, sources

# Path (a folder ends with "/") and the reason why it may touch the world.
WORLD_DOORS = {
    "src/coord/runtime/": "the real Clock, Net, Rand and Offload, and the threads that run loops",
    "src/coord/testing/": "the harness: makes worlds",
    "src/coord/cli/": "a program: terminals, signals, child processes",
    "src/coord/sync/grpc/": "lives between gRPC's own threads, which know locks and futures of the standard library only",
    "src/coord/embed/": "finds, locks and starts the machine-local server",
    "src/server/coord_server/storage/disk.py": "the real Disk",
    "src/server/coord_server/storage/lmdb_backend.py": "wraps lmdb, which opens its own files",
    "src/server/coord_server/failpoints.py": "a failpoint may kill its own process",
    "src/server/coord_server/program.py": "a program: signals and exit codes",
}

# The one place that makes tasks outside a TaskGroup: it owns them.
TASK_DOORS = {
    "src/coord/runtime/tasks.py": "Supervisor and finish own what they start",
}


def behind(doors: dict[str, str], path: str) -> bool:
    return any(path == door or (door.endswith("/") and path.startswith(door)) for door in doors)


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.path)
def test_the_world_is_touched_only_behind_a_door(source: Source) -> None:
    allowed = {
        kind
        for kind, doors in (("world", WORLD_DOORS), ("task", TASK_DOORS))
        if behind(doors, source.path)
    }
    stray = [
        f"{source.path}:{f.line}: {f.what}" for f in findings(source.tree) if f.kind not in allowed
    ]
    assert stray == []


@pytest.mark.parametrize("door", sorted(WORLD_DOORS | TASK_DOORS))
def test_every_door_leads_somewhere(door: str) -> None:
    assert (ROOT / door).exists()


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "import random as r",
        "from time import monotonic",
        "import concurrent.futures",
        "from os import urandom",
        "from os.path import exists",
        "import os\nos.urandom(8)",
        "import os\nos.path.exists('x')",
        "import os\nread = os.open",
        "open('x')",
        "loop.run_in_executor(None, f)",
        "asyncio.to_thread(f)",
        "datetime.datetime.now()",
        "datetime.now(tz=utc)",
        "date.today()",
        "asyncio.create_task(f())",
        "asyncio.gather(a, b)",
        "from asyncio import ensure_future",
        "self._loop.create_task(f())",
        "asyncio.get_running_loop().create_task(f())",
    ],
)
def test_the_finder_finds(text: str) -> None:
    assert findings(ast.parse(text)) != []


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.environ.get('HOME')",
        "import os\nflags = os.O_RDWR | os.O_CREAT",
        "import os\nos.path.join('a', 'b')",
        "env.clock.mono()",
        "disk.open('x')",
        "group.create_task(f())",
        "datetime.timedelta(seconds=1)",
        "asyncio.sleep(1)",
        "hours.now",
    ],
)
def test_the_finder_leaves_the_tame_alone(text: str) -> None:
    assert findings(ast.parse(text)) == []
