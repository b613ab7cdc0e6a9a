"""Our SDK as a client: ``python -m benchmarks.clients.sdk URL ROW CALLERS TOTAL [thread|inline]``."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Literal, cast

import coord
from benchmarks.clients.load import closed_loop, report
from coord.runtime import new_loop

VALUE = b"x" * 64


async def run(
    url: str, row: str, callers: int, total: int, runtime: Literal["thread", "inline"]
) -> None:
    async with coord.connect(url, runtime=runtime) as client:
        if row == "lock-own":
            report(await lock_cycles(client, callers, total, shared=False))
        elif row == "lock-one":
            report(await lock_cycles(client, callers, total, shared=True))
        elif row == "watch":
            report(await watch_fan_out(client, callers, total))
        else:
            report(await simple(client, row, callers, total))


async def simple(client: coord.Client, row: str, callers: int, total: int) -> dict[str, float]:
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
    return await closed_loop(call, callers=callers, total=total)


async def lock_cycles(
    client: coord.Client, callers: int, total: int, *, shared: bool
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

    result = await closed_loop(cycle, callers=callers, total=total)
    for session in sessions:
        await session.close()
    return result


async def watch_fan_out(client: coord.Client, watchers: int, total: int) -> dict[str, float]:
    """``watchers`` watch one prefix, one writer puts ``total`` keys: events delivered per second, all received."""
    ready = asyncio.Barrier(watchers + 1)

    async def watcher() -> None:
        seen = 0
        async with client.watch("/fan/", prefix=True) as watch:
            await ready.wait()
            async for _ in watch:
                seen += 1
                if seen >= total:
                    return

    async with asyncio.TaskGroup() as group:
        for _ in range(watchers):
            group.create_task(watcher())
        await ready.wait()
        start = time.perf_counter()
        for number in range(total):
            await client.put(b"/fan/%d" % number, VALUE)
    seconds = time.perf_counter() - start
    return {"ops": watchers * total, "seconds": seconds, "p50_us": 0.0}


def main() -> None:
    url, row, callers, total = sys.argv[1:5]
    runtime = sys.argv[5] if len(sys.argv) > 5 else "inline"
    placement = cast("Literal['thread', 'inline']", runtime)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run(url, row, int(callers), int(total), placement))


if __name__ == "__main__":
    main()
