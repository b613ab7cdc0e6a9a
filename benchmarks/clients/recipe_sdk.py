"""Our recipes: ``python -m benchmarks.clients.recipe_sdk URL ROW CALLERS UNTIL``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING

import coord
from benchmarks.clients.effects import Inside, Items
from benchmarks.clients.load import closed_loop, report
from coord.runtime import new_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PERMITS = 4
SESSION_TTL_S = 30
VIEWERS = 10

Result = dict[str, float]


async def _sessions(client: coord.Client, count: int) -> list[coord.Session]:
    return [await client.session(ttl=SESSION_TTL_S).open() for _ in range(count)]


async def locks(client: coord.Client, callers: int, until: str, *, shared: bool) -> Result:
    """Lock and unlock, each caller with a session of its own."""
    mutexes = [
        client.mutex("bench/one" if shared else f"bench/own{n}", session=session)
        for n, session in enumerate(await _sessions(client, callers))
    ]
    inside = [Inside(1)] * callers if shared else [Inside(1) for _ in range(callers)]

    async def cycle(caller: int, _: int) -> None:
        grant = await mutexes[caller].acquire()
        inside[caller].enter()
        inside[caller].leave()
        await grant.release()

    return await closed_loop(cycle, callers=callers, until=until)


async def campaigns(client: coord.Client, callers: int, until: str) -> Result:
    """Campaign and resign."""
    elections = [
        client.election("bench/election", session=session)
        for session in await _sessions(client, callers)
    ]
    inside = Inside(1)

    async def cycle(caller: int, _: int) -> None:
        term = await elections[caller].campaign(str(caller))
        inside.enter()
        inside.leave()
        await term.resign()

    return await closed_loop(cycle, callers=callers, until=until)


async def permits(client: coord.Client, callers: int, until: str) -> Result:
    """Acquire one of the permits and give it back."""
    semaphores = [
        client.semaphore("bench/permits", limit=PERMITS, session=session)
        for session in await _sessions(client, callers)
    ]
    inside = Inside(PERMITS)

    async def cycle(caller: int, _: int) -> None:
        permit = await semaphores[caller].acquire()
        inside.enter()
        inside.leave()
        await permit.release()

    return await closed_loop(cycle, callers=callers, until=until)


async def queue(client: coord.Client, callers: int, until: str) -> Result:
    """Put an item and take one."""
    items = Items()
    async with client.queue("bench/queue") as line:

        async def cycle(_: int, __: int) -> None:
            await line.put(items.make())
            items.take((await line.get()).value)

        result = await closed_loop(cycle, callers=callers, until=until)
    items.check_all_taken()
    return result


async def work_queue(client: coord.Client, callers: int, until: str) -> Result:
    """Put a job, claim one, and acknowledge it."""
    items = Items()
    async with client.work_queue("bench/work") as line:

        async def cycle(_: int, __: int) -> None:
            await line.put(items.make())
            (job,) = await line.receive()
            items.take(job.value)
            await job.ack()

        result = await closed_loop(cycle, callers=callers, until=until)
    items.check_all_taken()
    return result


async def fan_out(client: coord.Client, instances: int, url: str) -> Result:
    """Register instances one after the other; an operation is one of them shown in one view of another client."""
    async with contextlib.AsyncExitStack() as stack:
        views: list[coord.ServiceView] = []
        for _ in range(VIEWERS):
            viewer = await stack.enter_async_context(coord.connect(url))
            views.append(await stack.enter_async_context(viewer.registry("bench/svc").discover()))
        start, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for view in views:
                group.create_task(view.wait_for(instances))
            for number in range(1, instances + 1):
                await client.registry("bench/svc").register(f"10.0.0.1:{number}")
        return {
            "ops": float(instances * VIEWERS),
            "seconds": time.perf_counter() - start,
            "cpu_s": time.process_time() - cpu,
            "p50_us": 0.0,
        }


async def barrier(client: coord.Client, parties: int, rounds: int) -> Result:
    """Enter and leave together; an operation is one party in one round."""
    gates = [
        client.double_barrier("bench/barrier", parties, session=session)
        for session in await _sessions(client, parties)
    ]
    there = [0] * rounds

    async def party(caller: int, _: int) -> None:
        for number in range(rounds):
            there[number] += 1
            await gates[caller].enter()
            if there[number] != parties:
                raise ValueError("it opened before all were there")
            await gates[caller].leave()

    result = await closed_loop(party, callers=parties, until=str(parties))
    return result | {"ops": result["ops"] * rounds}


async def run(url: str, row: str, callers: int, until: str) -> Result:
    async with coord.connect(url) as client:
        calls: dict[str, Callable[[], Awaitable[Result]]] = {
            "lock-own": lambda: locks(client, callers, until, shared=False),
            "lock-one": lambda: locks(client, callers, until, shared=True),
            "campaign": lambda: campaigns(client, callers, until),
            "semaphore": lambda: permits(client, callers, until),
            "queue": lambda: queue(client, callers, until),
            "work-queue": lambda: work_queue(client, callers, until),
            "fan-out": lambda: fan_out(client, int(until), url),
            "barrier": lambda: barrier(client, callers, int(until)),
        }
        return await calls[row]()


def main() -> None:
    url, row, callers, until = sys.argv[1:5]
    with asyncio.Runner(loop_factory=new_loop) as runner:
        report(runner.run(run(url, row, int(callers), until)))


if __name__ == "__main__":
    main()
