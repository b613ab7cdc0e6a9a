"""aetcd as a client: ``python -m benchmarks.clients.aetcd_load HOST PORT ROW CALLERS TOTAL``."""

from __future__ import annotations

import asyncio
import sys

import aetcd

from benchmarks.clients.load import closed_loop, report

VALUE = b"x" * 64


async def run(host: str, port: int, row: str, callers: int, total: int) -> None:
    async with aetcd.Client(host=host, port=port) as client:

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

        call = {"put": put, "get": get, "txn": txn, "lock-own": lock}[row]
        for warm in range(50):
            await get(0, warm)
        report(await closed_loop(call, callers=callers, total=total))


def main() -> None:
    host, port, row, callers, total = sys.argv[1:6]
    asyncio.run(run(host, int(port), row, int(callers), int(total)))


if __name__ == "__main__":
    main()
