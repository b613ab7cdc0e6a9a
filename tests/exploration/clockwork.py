"""One loop for all processes of a schedule: virtual time, timers of one moment in any order, processes that stop.

What runs belongs to the process whose context it runs in (:data:`PROCESS`). A stopped process keeps what it has to run
until it goes on, while time passes for everybody else: what ``SIGSTOP`` does.
Within one process callbacks keep their order, which asyncio promises; between processes the network decides.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, TypeVar, cast

from typing_extensions import override

T = TypeVar("T")

PROCESS: ContextVar[int | None] = ContextVar("PROCESS", default=None)
"""The number of the process that code belongs to; None for the store and the network."""

START_S = 1000.0
# Every step takes a little time, so that nobody waits for ever for a time that is almost here; what is closer together
# than a moment happens in any order.
_STEP_S = 1e-9
_MOMENT_S = 1e-6
_STEPS_MOST = 100_000


class Stuck(AssertionError):
    """Nothing is going to happen any more, or far too much does."""


class Clockwork(asyncio.BaseEventLoop):
    """Its ``time()`` jumps to the next timer when nobody has anything to do."""

    def __init__(self, rand: random.Random) -> None:
        super().__init__()
        self.now = START_S
        self.steps = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0
        self._ready: deque[asyncio.Handle]  # of BaseEventLoop
        self._shuffle = rand.shuffle
        self._stopped: dict[int, deque[asyncio.Handle]] = {}

    @override
    def time(self) -> float:
        return self.now

    @override
    def call_at(  # type: ignore[override] # any arguments will do
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's; tuples are compared much faster than its timers."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, timer))
        return timer

    @override
    def call_later(  # type: ignore[override] # as above
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def stop_process(self, process: int) -> None:
        """Run nothing of a process from now on."""
        self._stopped.setdefault(process, deque())

    def continue_process(self, process: int) -> None:
        """Let it catch up."""
        self._ready.extend(self._stopped.pop(process, ()))

    def is_stopped(self, process: int) -> bool:
        """Say whether it is stopped."""
        return process in self._stopped

    def timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that have not been cancelled."""
        return [timer for _, _, timer in self._timers if not timer.cancelled()]

    def _process_events(self, event_list: object) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There is nobody to wake: one thread does it all."""

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        self.now += _STEP_S
        if not ready:
            if not timers:
                raise Stuck("everybody waits, and nothing is going to happen")
            self.now = max(self.now, timers[0][0])
        together = self.now + _MOMENT_S
        if timers and timers[0][0] <= together:
            due: list[asyncio.TimerHandle] = []
            while timers and timers[0][0] <= together:
                due.append(heapq.heappop(timers)[2])
            if len(due) > 1:
                self._shuffle(due)
            ready.extend(due)
        stopped = self._stopped
        self.steps += len(ready)
        if self.steps > _STEPS_MOST:
            raise Stuck(f"the loop spins, in {list(ready)[:4]}")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if stopped:
                process = cast("Any", handle)._context.get(PROCESS)
                if process in stopped:
                    stopped[process].append(handle)
                    continue
            handle._run()


class DriftingClock:
    """A process's clock, which runs at a rate of its own; its wall clock is off by ``offset`` as well."""

    def __init__(self, loop: Clockwork, rate: float, offset: float) -> None:
        self._loop = loop
        self._rate = rate
        self._offset = offset

    def mono(self) -> float:
        """See :class:`coord.runtime.Clock`."""
        return START_S + (self._loop.now - START_S) * self._rate

    def wall(self) -> float:
        """See :class:`coord.runtime.Clock`."""
        return self._loop.now + self._offset


class SeededRand:
    """Draws that a seed repeats."""

    def __init__(self, rand: random.Random) -> None:
        self._rand = rand

    def bits(self, n: int) -> int:
        """See :class:`coord.runtime.Rand`."""
        return self._rand.getrandbits(n)

    def uniform(self, low: float, high: float) -> float:
        """See :class:`coord.runtime.Rand`."""
        return low + (high - low) * self._rand.random()

    def token_bytes(self, n: int) -> bytes:
        """See :class:`coord.runtime.Rand`."""
        return self._rand.randbytes(n)


class Here:
    """Runs at once (see :class:`coord.runtime.Offload`)."""

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """Call ``fn``."""
        return fn(*args)
