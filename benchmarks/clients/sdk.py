"""Our SDK as a client: ``python -m benchmarks.clients.sdk URL ROW CALLERS UNTIL [thread|inline|grpcio]``."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Literal, cast

import coord
from benchmarks.clients.load import Arrivals, closed_loop, idle, ready, report, stay
from coord.runtime import new_loop

VALUE = b"x" * 64
LEASE_TTL_S = 9


async def run(url: str, row: str, callers: int, until: str, how: str) -> None:
    placement = cast("Literal['thread', 'inline']", "inline" if how == "inline" else "thread")
    carrier: Literal["native", "grpcio"] = "grpcio" if how == "grpcio" else "native"
    async with coord.connect(url, runtime=placement, transport=carrier) as client:
        if row == "lock-own":
            report(await lock_cycles(client, callers, until, shared=False))
        elif row == "lock-one":
            report(await lock_cycles(client, callers, until, shared=True))
        elif row == "watch":
            report(await watch_fan_out(client, callers, int(until)))
        elif row == "watched":
            report(await watched(client, callers, int(until)))
        elif row == "sessions":
            await sessions(client, callers, until)
        else:
            report(await simple(client, row, callers, until))


async def simple(client: coord.Client, row: str, callers: int, until: str) -> dict[str, float]:
    async def put(_: int, number: int) -> None:
        await client.put(b"/bench/%08d" % (number % 10_000), VALUE)

    async def get(_: int, number: int) -> None:
        await client.get(b"/bench/%08d" % (number % 10_000))

    async def txn(_: int, number: int) -> None:
        key = b"/bench/%08d" % (number % 10_000)
        builder = client.txn().when(coord.compare.version(key) > -1)
        await builder.then(coord.op.put(key, VALUE), coord.op.get(key)).commit()

    call = {"put": put, "get": get, "txn": txn}[row]
    for warm in range(50):
        await get(0, warm)
    return await closed_loop(call, callers=callers, until=until)


async def lock_cycles(
    client: coord.Client, callers: int, until: str, *, shared: bool
) -> dict[str, float]:
    """Lock and unlock: every caller its own name, or all one name, each with a session of its own."""
    sessions = [client.session(ttl=30) for _ in range(callers)]
    for session in sessions:
        await session.open()
    mutexes = [
        client.mutex("bench/one" if shared else f"bench/own{i}", session=session)
        for i, session in enumerate(sessions)
    ]

    async def cycle(caller: int, _: int) -> None:
        grant = await mutexes[caller].acquire()
        await grant.release()

    result = await closed_loop(cycle, callers=callers, until=until)
    for session in sessions:
        await session.close()
    return result


async def watch_fan_out(client: coord.Client, watchers: int, total: int) -> dict[str, float]:
    """``watchers`` watch one prefix, one writer puts ``total`` keys: events delivered per second, all received."""
    ready_all = asyncio.Barrier(watchers + 1)

    async def watcher() -> None:
        seen = 0
        async with client.watch("/fan/", prefix=True) as watch:
            await ready_all.wait()
            async for _ in watch:
                seen += 1
                if seen >= total:
                    return

    async with asyncio.TaskGroup() as group:
        for _ in range(watchers):
            group.create_task(watcher())
        await ready_all.wait()
        start = time.perf_counter()
        for number in range(total):
            await client.put(b"/fan/%d" % number, VALUE)
    seconds = time.perf_counter() - start
    return {"ops": watchers * total, "seconds": seconds, "p50_us": 0.0}


async def watched(client: coord.Client, watchers: int, each: int) -> dict[str, float]:
    """Receive ``each`` events, written by another process, at each of the watchers."""
    arrivals = Arrivals(watchers, each)
    all_watch = asyncio.Barrier(watchers + 1)

    async def watcher() -> None:
        seen = 0
        async with client.watch("/fan/", prefix=True) as watch:
            await all_watch.wait()
            async for _ in watch:
                arrivals.note()
                seen += 1
                if seen >= each:
                    return

    async with asyncio.TaskGroup() as group:
        for _ in range(watchers):
            group.create_task(watcher())
        await all_watch.wait()
        ready()
    return arrivals.result()


async def sessions(client: coord.Client, count: int, until: str) -> None:
    """Keep sessions alive."""
    kept = [client.session(ttl=LEASE_TTL_S) for _ in range(count)]
    for session in kept:
        await session.open()
    report(await idle(until, count))
    await asyncio.to_thread(stay)
    for session in kept:
        session.check()


def main() -> None:
    url, row, callers, until = sys.argv[1:5]
    how = sys.argv[5] if len(sys.argv) > 5 else "inline"
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run(url, row, int(callers), until, how))


if __name__ == "__main__":
    main()
