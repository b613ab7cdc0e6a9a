"""Closed loops of concurrent callers, measured: the part that every load generator shares.

Nothing but the standard library is imported here, since generators run in environments of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

clock = time.perf_counter


def numbers(until: str) -> Iterator[int]:
    """Return 0, 1, 2 ...: as many as ``until`` says, or for so long if it ends in "s"."""
    if not until.endswith("s"):
        yield from range(int(until))
        return
    end = clock() + float(until[:-1])
    for number in itertools.count():
        if clock() >= end:
            return
        yield number


async def closed_loop(
    call: Callable[[int, int], Awaitable[object]], *, callers: int, until: str
) -> dict[str, float]:
    """Call from ``callers`` tasks, ``call(caller, number)`` each; return what was seen."""
    given = numbers(until)
    latencies: list[float] = []

    async def caller(index: int) -> None:
        for number in given:
            before = clock()
            await call(index, number)
            latencies.append(clock() - before)

    start, cpu = clock(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for index in range(callers):
            group.create_task(caller(index))
    return outcome(latencies, clock() - start, time.process_time() - cpu)


def closed_threads(
    call: Callable[[int, int], object], *, callers: int, until: str
) -> dict[str, float]:
    """As :func:`closed_loop` for calls that block: a thread for each caller; a lone one needs none."""
    counted = itertools.count()
    latencies: list[float] = []
    failures: list[BaseException] = []

    def caller(index: int) -> None:
        # A generator belongs to one thread, so each has its own; numbers are drawn from one counter.
        try:
            for _ in numbers(until):
                before = clock()
                call(index, next(counted))
                latencies.append(clock() - before)
        except BaseException as error:
            failures.append(error)
            raise

    start, cpu = clock(), time.process_time()
    if callers == 1:
        caller(0)
    else:
        threads = [threading.Thread(target=caller, args=(index,)) for index in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return outcome(latencies, clock() - start, time.process_time() - cpu)


def outcome(latencies: list[float], seconds: float, cpu_s: float) -> dict[str, float]:
    """Return what a loop reports: calls that ended, how long it ran, its CPU, the median latency."""
    latencies.sort()
    return {
        "ops": len(latencies),
        "seconds": seconds,
        "cpu_s": cpu_s,
        "p50_us": latencies[len(latencies) // 2] * 1e6,
    }


class Arrivals:
    """Counts what watchers receive, and measures from the first event to the last.

    A watcher has seen all when ``each`` events have come; ``finished`` is the number of those that have.
    """

    def __init__(self, watchers: int, each: int) -> None:
        self.expected = watchers * each
        self.seen = 0
        self._start = 0.0
        self._cpu = 0.0

    def note(self, events: int = 1) -> bool:
        """Count; say whether these were the last."""
        if not self.seen:
            self._start, self._cpu = clock(), time.process_time()
        self.seen += events
        return self.seen >= self.expected

    def result(self) -> dict[str, float]:
        """Return the rate. Raises ValueError when more has come than was sent."""
        if self.seen != self.expected:
            raise ValueError(f"{self.seen} events came, {self.expected} were sent")
        return {
            "ops": self.seen,
            "seconds": clock() - self._start,
            "cpu_s": time.process_time() - self._cpu,
            "p50_us": 0.0,
        }


async def idle(until: str, kept: int) -> dict[str, float]:
    """Measure the CPU that ``kept`` things cost in the background, while nothing is called."""
    start, cpu = clock(), time.process_time()
    await asyncio.sleep(float(until.removesuffix("s")))
    return {
        "ops": kept,
        "seconds": clock() - start,
        "cpu_s": time.process_time() - cpu,
        "p50_us": 0.0,
    }


def report(result: dict[str, float]) -> None:
    """Print the result for the parent."""
    print(json.dumps(result), flush=True)


def ready() -> None:
    """Tell the parent that everything is in place: it may begin to write."""
    print("ready", flush=True)


def stay() -> None:
    """Wait until the parent has looked at the store."""
    sys.stdin.read()


def new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's loop where it is installed: it is the faster one for every client here."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
