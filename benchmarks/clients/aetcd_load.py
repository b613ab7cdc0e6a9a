"""aetcd as a client: ``python -m benchmarks.clients.aetcd_load HOST PORT ROW CALLERS UNTIL``."""

# ruff: noqa: ANN401 - the package is in an environment that the checkers do not see
from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from benchmarks.clients.load import Arrivals, closed_loop, idle, new_loop, ready, report, stay

aetcd: Any = importlib.import_module("aetcd")  # in an environment of its own
VALUE = b"x" * 64
LEASE_TTL_S = 9


async def run(host: str, port: int, row: str, callers: int, until: str) -> None:
    async with aetcd.Client(host=host, port=port) as client:
        if row == "watched":
            report(await watch(client, callers, int(until)))
        elif row == "sessions":
            await sessions(client, callers, until)
        else:
            report(await calls(client, row, callers, until))


async def calls(client: Any, row: str, callers: int, until: str) -> dict[str, float]:
    async def put(_: int, number: int) -> None:
        await client.put(b"/bench/%08d" % (number % 10_000), VALUE)

    async def get(_: int, number: int) -> None:
        await client.get(b"/bench/%08d" % (number % 10_000))

    async def txn(_: int, number: int) -> None:
        key = b"/bench/%08d" % (number % 10_000)
        await client.transaction(
            compare=[client.transactions.version(key) > -1],
            success=[client.transactions.put(key, VALUE), client.transactions.get(key)],
            failure=[],
        )

    async def lock(caller: int, _: int) -> None:
        async with client.lock(b"bench/aetcd%d" % caller, ttl=30):
            pass

    async def lock_one(_: int, __: int) -> None:
        async with client.lock(b"bench/aetcd", ttl=30):
            pass

    call = {"put": put, "get": get, "txn": txn, "lock-own": lock, "lock-one": lock_one}[row]
    for warm in range(50):
        await get(0, warm)
    return await closed_loop(call, callers=callers, until=until)


async def watch(client: Any, watchers: int, each: int) -> dict[str, float]:
    """Receive ``each`` events at each of the watchers."""
    arrivals = Arrivals(watchers, each)
    over = asyncio.Event()

    async def watcher(events: Any) -> None:
        async for _ in events:
            if arrivals.note():
                over.set()

    watches = [await client.watch_prefix(b"/fan/") for _ in range(watchers)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watcher(events)) for events in watches]
        ready()
        await over.wait()
        result = arrivals.result()
        for task in tasks:
            task.cancel()
    return result


async def sessions(client: Any, count: int, until: str) -> None:
    """Keep leases alive: aetcd leaves the loop to the program."""

    async def keep(lease: Any) -> None:
        while True:
            await asyncio.sleep(LEASE_TTL_S / 3)
            await lease.refresh()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep(await client.lease(LEASE_TTL_S))) for _ in range(count)]
        report(await idle(until, count))
        await asyncio.to_thread(stay)
        for task in tasks:
            task.cancel()


def main() -> None:
    host, port, row, callers, until = sys.argv[1:6]
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run(host, int(port), row, int(callers), until))


if __name__ == "__main__":
    main()
