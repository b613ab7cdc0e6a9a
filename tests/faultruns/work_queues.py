"""Queues: every worker puts, and every worker takes; at the end they are emptied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import coord
from coord import op
from tests.faultruns.lines import Notes, now
from tests.faultruns.scene import Scene

_PUT_S = 10.0
_TAKE_S = 2.0
_PRIORITIES = (10, 10, 20, 30)
_GIVE_BACK = 10
_MOST_ATTEMPTS = 100
"""Nothing here fails by itself: a worker that is lost, or an answer, must never make a dead letter."""

AnyQueue = coord.Queue | coord.PriorityQueue | coord.DelayQueue


async def queue(scene: Scene) -> None:
    """First in, first out."""
    made = scene.client.queue("fr/queue")
    await _both(scene, "queue", made, lambda value: (made.put(value, timeout=_PUT_S), 0))


async def priority_queue(scene: Scene) -> None:
    """The most urgent first."""
    made = scene.client.priority_queue("fr/priority")

    def put(value: str) -> tuple[Awaitable[object], float]:
        priority = scene.rng.choice(_PRIORITIES)
        return made.put(value, priority=priority, timeout=_PUT_S), priority

    await _both(scene, "priority_queue", made, put)


async def delay_queue(scene: Scene) -> None:
    """By their times."""
    made = scene.client.delay_queue("fr/delay")

    def put(value: str) -> tuple[Awaitable[object], float]:
        due = round(time.time() + scene.rng.choice((0.0, 0.5, 2.0)), 3)
        return made.put(value, at=due, timeout=_PUT_S), due

    await _both(scene, "delay_queue", made, put)


async def _both(
    scene: Scene,
    recipe: str,
    made: AnyQueue,
    put: Callable[[str], tuple[Awaitable[object], float]],
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_produce(scene, recipe, put))
        group.create_task(_consume(scene, recipe, made))
    await scene.did(recipe, "close", made.close(), within=10)


async def _produce(
    scene: Scene, recipe: str, put: Callable[[str], tuple[Awaitable[object], float]]
) -> None:
    with scene.producing():
        while not scene.stop.is_set():
            value, asked = scene.unique(recipe), now()
            call, rank = put(value)
            done = await scene.step(recipe, "put", call, within=_PUT_S)
            scene.notes.note(
                recipe,
                "put",
                value=value,
                asked=asked,
                rank=rank,
                known=done is not None,
                revision=done.revision if isinstance(done, coord.WorkReceipt) else done,
            )
            await scene.pause(0.8)


async def _consume(scene: Scene, recipe: str, made: AnyQueue) -> None:
    while True:
        asked = now()
        item = await scene.step(recipe, "get", _get(made), within=_TAKE_S)
        if item is not None:
            scene.notes.note(
                recipe,
                "got",
                value=item.value.decode(),
                asked=asked,
                revision=item.revision,
                returned=item.returned,
                wall=time.time(),
            )
            scene.ok(recipe, asked)
        elif scene.settle.is_set():
            size = await scene.step(recipe, "size", made.size(timeout=_PUT_S), within=_PUT_S)
            if size == 0 or scene.is_over:
                return


async def _get(made: AnyQueue) -> coord.QueueItem | None:
    try:
        return await made.get(timeout=_TAKE_S)
    except coord.QueueEmpty:
        return None


async def work_queue(scene: Scene) -> None:
    """Jobs whose effects are written together with the acknowledgement."""
    made = scene.client.work_queue("fr/work", max_attempts=_MOST_ATTEMPTS)
    async with asyncio.TaskGroup() as group:
        group.create_task(
            _produce(scene, "work_queue", lambda value: (made.put(value, timeout=_PUT_S), 0))
        )
        group.create_task(_do_jobs(scene, made))
    await scene.did("work_queue", "close", made.close(), within=10)


async def _do_jobs(scene: Scene, made: coord.WorkQueue) -> None:
    while True:
        asked = now()
        items = await scene.step("work_queue", "receive", _receive(made), within=_TAKE_S)
        for item in items or ():
            await _do_job(scene, item, asked)
        if not items and scene.settle.is_set():
            stats = await scene.step(
                "work_queue", "stats", made.stats(timeout=_PUT_S), within=_PUT_S
            )
            # What somebody claimed who has lost it comes back when its lease ends.
            if (stats is not None and stats.items == 0) or scene.is_over:
                return


async def _receive(made: coord.WorkQueue) -> list[coord.WorkItem]:
    try:
        return await made.receive(timeout=_TAKE_S)
    except coord.ReceiveTimeout:
        return []


async def _do_job(scene: Scene, item: coord.WorkItem, asked: float) -> None:
    value = item.value.decode()
    await scene.moment(0.1)
    if scene.rng.random() < 0.1:
        nack = item.nack(delay=0.2, reason="again")
        await scene.did("work_queue", "nack", nack, within=10)
        return
    # Were two deliveries of one item acknowledged, there would be two of these keys.
    effect = op.put(f"fr-done/{value}/{item.token}", str(scene.worker))
    began = now()
    done = await scene.did("work_queue", "ack", item.ack(also=[effect], timeout=10), within=10)
    scene.notes.note("work_queue", "acked", value=value, token=item.token, asked=began, known=done)
    if done:
        scene.ok("work_queue", asked)
        return
    # It is ours for as long as the session lasts, which may be the whole run: give it back.
    for _ in range(_GIVE_BACK):
        if item.ended.is_set() or await scene.did(
            "work_queue", "nack", item.nack(reason="no answer"), within=10
        ):
            return
        await scene.moment(1.0)


async def work_queue_end(client: coord.Client, notes: Notes) -> None:
    """Read what the jobs have done, and what is left."""
    done = await client.get_prefix("fr-done/", keys_only=True)
    stats = await client.work_queue("fr/work", max_attempts=_MOST_ATTEMPTS).stats()
    effects = [kv.key.decode().split("/")[1:] for kv in done.items]
    notes.note(
        "work_queue",
        "final",
        effects=[[value, int(token)] for value, token in effects],
        items=stats.items,
        dead=stats.dead,
    )


def size_at_end(recipe: str) -> Callable[[coord.Client, Notes], Awaitable[None]]:
    """Return what reads how many items a queue has at the end."""

    async def read(client: coord.Client, notes: Notes) -> None:
        made: dict[str, AnyQueue] = {
            "queue": client.queue("fr/queue"),
            "priority_queue": client.priority_queue("fr/priority"),
            "delay_queue": client.delay_queue("fr/delay"),
        }
        notes.note(recipe, "final", size=await made[recipe].size())

    return read
