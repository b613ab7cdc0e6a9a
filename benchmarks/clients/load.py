"""A closed loop of concurrent callers, measured."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def closed_loop(
    call: Callable[[int, int], Awaitable[object]], *, callers: int, total: int
) -> dict[str, float]:
    """Run ``total`` calls from ``callers`` tasks, ``call(caller, number)`` each; return what was seen."""
    numbers = iter(range(total))
    latencies: list[float] = []
    clock = time.perf_counter

    async def caller(index: int) -> None:
        for number in numbers:
            before = clock()
            await call(index, number)
            latencies.append(clock() - before)

    start = clock()
    async with asyncio.TaskGroup() as group:
        for index in range(callers):
            group.create_task(caller(index))
    seconds = clock() - start
    latencies.sort()
    return {"ops": total, "seconds": seconds, "p50_us": latencies[len(latencies) // 2] * 1e6}


def report(result: dict[str, float]) -> None:
    """Print the result for the parent."""
    print(json.dumps(result), flush=True)
