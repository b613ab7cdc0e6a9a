"""etcetra as a client: ``python -m benchmarks.clients.etcetra_load HOST PORT ROW CALLERS UNTIL``."""

# ruff: noqa: ANN401 - the package is in an environment that the checkers do not see
from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from benchmarks.clients.load import Arrivals, closed_loop, idle, new_loop, ready, report, stay

etcetra: Any = importlib.import_module("etcetra")  # in an environment of its own
VALUE = "x" * 64
LEASE_TTL_S = 9


async def run(client: Any, row: str, callers: int, until: str) -> None:
    async with client.connect() as communicator:
        if row == "watched":
            report(await watch(communicator, callers, int(until)))
        elif row == "sessions":
            await sessions(communicator, callers, until)
        else:
            report(await calls(client, communicator, row, callers, until))


async def calls(
    client: Any, communicator: Any, row: str, callers: int, until: str
) -> dict[str, float]:
    async def put(_: int, number: int) -> None:
        await communicator.put(f"/bench/{number % 10_000:08}", VALUE)

    async def get(_: int, number: int) -> None:
        # Its reads are always serializable: the server may answer with what is old, and has less to do.
        await communicator.get(f"/bench/{number % 10_000:08}")

    async def txn(_: int, number: int) -> None:
        key = f"/bench/{number % 10_000:08}"

        def build(success: Any, failure: Any) -> None:
            for branch in (success, failure):
                branch.put(key, VALUE)
                branch.get(key, serializable=False)

        # 0.1.19 can compare values only: other comparisons raise TypeError.
        await communicator.txn_compare([etcetra.CompareKey(key).value != ""], build)

    async def lock(caller: int, _: int) -> None:
        async with client.with_lock(f"bench/etcetra{caller}", ttl=30):
            pass

    call = {"put": put, "get": get, "txn": txn, "lock-own": lock}[row]
    for warm in range(50):
        await get(0, warm)
    return await closed_loop(call, callers=callers, until=until)


async def watch(communicator: Any, watchers: int, each: int) -> dict[str, float]:
    """Receive ``each`` events at each of the watchers."""
    arrivals = Arrivals(watchers, each)
    over = asyncio.Event()
    signs = [asyncio.Event() for _ in range(watchers)]

    async def watcher(sign: asyncio.Event) -> None:
        async for _ in communicator.watch_prefix("/fan/", ready_event=sign):
            if arrivals.note():
                over.set()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watcher(sign)) for sign in signs]
        for sign in signs:
            await sign.wait()
        ready()
        await over.wait()
        result = arrivals.result()
        for task in tasks:
            task.cancel()
    return result


async def sessions(communicator: Any, count: int, until: str) -> None:
    """Keep leases alive, each by the task that etcetra makes for it."""
    tasks: list[asyncio.Task[None]] = []
    for _ in range(count):
        lease = await communicator.grant_lease(LEASE_TTL_S)
        tasks.append(communicator.create_lease_keepalive_task(lease, LEASE_TTL_S / 3))
    report(await idle(until, count))
    await asyncio.to_thread(stay)
    for task in tasks:
        task.cancel()


def main() -> None:
    host, port, row, callers, until = sys.argv[1:6]
    client = etcetra.EtcdClient(etcetra.HostPortPair(host, int(port)))
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run(client, row, int(callers), until))


if __name__ == "__main__":
    main()
