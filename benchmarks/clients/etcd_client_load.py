"""etcd-client-py (a binding of Rust's etcd-client) as a client:
``python -m benchmarks.clients.etcd_client_load HOST PORT ROW CALLERS UNTIL``.
"""

# ruff: noqa: ANN401 - the package is in an environment that the checkers do not see
from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from benchmarks.clients.load import Arrivals, closed_loop, new_loop, ready, report

rust: Any = importlib.import_module("etcd_client")  # in an environment of its own
VALUE = b"x" * 64


async def run(client: Any, row: str, callers: int, until: str) -> None:
    async with client.connect() as communicator:
        if row == "watched":
            report(await watch(communicator, callers, int(until)))
        else:
            report(await calls(client, communicator, row, callers, until))


async def calls(
    client: Any, communicator: Any, row: str, callers: int, until: str
) -> dict[str, float]:
    async def put(_: int, number: int) -> None:
        await communicator.put(b"/bench/%08d" % (number % 10_000), VALUE)

    async def get(_: int, number: int) -> None:
        await communicator.get(b"/bench/%08d" % (number % 10_000))

    async def txn(_: int, number: int) -> None:
        key = b"/bench/%08d" % (number % 10_000)
        await communicator.txn(
            rust.Txn()
            .when([rust.Compare.version(key, rust.CompareOp.GREATER, -1)])
            .and_then([rust.TxnOp.put(key, VALUE), rust.TxnOp.get(key)])
        )

    async def lock(caller: int, _: int) -> None:
        async with client.with_lock(rust.EtcdLockOption(b"bench/rust%d" % caller, ttl=30)):
            pass

    call = {"put": put, "get": get, "txn": txn, "lock-own": lock}[row]
    for warm in range(50):
        await get(0, warm)
    return await closed_loop(call, callers=callers, until=until)


async def watch(communicator: Any, watchers: int, each: int) -> dict[str, float]:
    """Receive ``each`` events at each of the watchers."""
    arrivals = Arrivals(watchers, each)
    over = asyncio.Event()
    signs = [rust.CondVar() for _ in range(watchers)]

    async def wait(sign: Any) -> None:
        await sign.wait()

    async def watcher(sign: Any) -> None:
        async for _ in communicator.watch_prefix(b"/fan/", ready_event=sign):
            if arrivals.note():
                over.set()

    async with asyncio.TaskGroup() as group:
        # Waits begin before what they wait for: a sign is given once.
        waits = [group.create_task(wait(sign)) for sign in signs]
        await asyncio.sleep(0)
        tasks = [group.create_task(watcher(sign)) for sign in signs]
        for each_wait in waits:
            await each_wait
        ready()
        await over.wait()
        result = arrivals.result()
        for task in tasks:
            task.cancel()
    return result


def main() -> None:
    host, port, row, callers, until = sys.argv[1:6]
    client = rust.Client([f"http://{host}:{port}"])
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run(client, row, int(callers), until))


if __name__ == "__main__":
    main()
