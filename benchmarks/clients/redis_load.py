"""redis-py's lock: ``python -m benchmarks.clients.redis_load HOST PORT ROW CALLERS UNTIL``."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from benchmarks.clients.effects import Inside
from benchmarks.clients.load import closed_loop, new_loop, report

redis: Any = importlib.import_module("redis.asyncio")  # in an environment of its own
LOCK_TTL_S = 30


async def run(host: str, port: int, row: str, callers: int, until: str) -> dict[str, float]:
    shared = row == "lock-one"
    async with redis.Redis(host=host, port=port) as client:
        names = ["bench/one" if shared else f"bench/own{n}" for n in range(callers)]
        inside = [Inside(1)] * callers if shared else [Inside(1) for _ in range(callers)]

        async def cycle(caller: int, _: int) -> None:
            # It looks again every 0.1 s, which is its default.
            async with client.lock(names[caller], timeout=LOCK_TTL_S):
                inside[caller].enter()
                inside[caller].leave()

        return await closed_loop(cycle, callers=callers, until=until)


def main() -> None:
    host, port, row, callers, until = sys.argv[1:6]
    with asyncio.Runner(loop_factory=new_loop) as runner:
        report(runner.run(run(host, int(port), row, int(callers), until)))


if __name__ == "__main__":
    main()
