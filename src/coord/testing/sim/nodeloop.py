# ruff: noqa: SLF001 - the one file that uses what asyncio keeps private, and overrides its signatures
# pyright: reportPrivateUsage=false, reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false
"""The event loop of one simulated node. It never runs itself: the scheduler runs bursts of its handles.

Everything that asyncio keeps private and a simulator needs (``_ready``, ``_scheduled``, the running loop)
is used in this file and nowhere else. Within a node handles run in asyncio's own order, first in first
out: shuffling them would report bugs that cannot happen.

A node that dies keeps its loop, its handles and its tasks in memory until the run has ended. If they were
collected earlier, the ``finally`` blocks of dead coroutines would run and act after death; what acts
nevertheless meets :class:`NodeDead` at every seam.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from asyncio import events
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from contextvars import Context

    from coord.testing.sim.trace import Trace

# Virtual time and node time are converted back and forth; this covers the rounding, in seconds.
_EPSILON: Final = 1e-9
# Cancelled timers are swept out of the heap when there are this many, and more than the live ones.
_SWEEP_FROM: Final = 100
_NEVER: Final = float("inf")


class NodeDead(BaseException):
    """The node that asks for this has crashed. No ``Exception``: product code must not handle it."""


class NodeLoop(asyncio.BaseEventLoop):
    """A loop whose time is ``offset + rate * virtual time``, and in a burst also what the burst has cost.

    ``on_problem(context)`` hears what asyncio would log: unhandled errors of tasks and callbacks.
    """

    # asyncio's own; its stubs do not name them.
    _ready: deque[Any]
    _scheduled: list[Any]
    _timer_cancelled_count: int

    def __init__(
        self,
        name: str,
        *,
        offset: float = 0.0,
        rate: float = 1.0,
        on_problem: Callable[[dict[str, Any]], None],
    ) -> None:
        self._in_burst = False
        super().__init__()
        self.name = name
        self.offset = offset
        self.rate = rate
        self.now: float = 0.0
        """Virtual time as of the last burst or jump; the scheduler sets it."""
        self.cost: float = 0.0
        """Virtual seconds that the running burst has taken so far."""
        self.slowness: float = 1.0
        """How many times longer than usual each handle takes."""
        self.free_at: float = 0.0
        """When the node has done what it was charged for."""
        self.known_at: float | None = None
        """What :meth:`runnable_at` would return; None if that must be found out."""
        self._stopped_until = 0.0
        self.is_dead: bool = False
        self._on_problem = on_problem
        # What kept a dead node's unfinished work alive; see the module's text.
        self._graveyard: list[asyncio.Task[Any]] = []

    @override
    def time(self) -> float:
        return self.offset + self.rate * (self.now + self.cost)

    @override
    def __del__(self, **_unused: Any) -> None:
        """Say nothing: a loop that has opened nothing need not be closed."""

    @property
    def stopped_until(self) -> float:
        """A paused process is not picked before this moment."""
        return self._stopped_until

    @stopped_until.setter
    def stopped_until(self, moment: float) -> None:
        self._stopped_until = moment
        self.known_at = None

    def moment(self) -> float:
        """Return virtual time, with what the running burst has cost."""
        return self.now + self.cost

    def check_alive(self) -> None:
        """Raise NodeDead after a crash. Every seam asks before it acts."""
        if self.is_dead:
            raise NodeDead(self.name)

    # What asyncio's objects call. Handles of a dead node are kept, and never run.

    @override
    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        self.known_at = None
        return handle

    @override
    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    @override
    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = events.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        self.known_at = None
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        super()._timer_handle_cancelled(handle)  # type: ignore[misc]
        self.known_at = None

    @override
    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_dead and not isinstance(context.get("exception"), NodeDead):
            self._on_problem(context)

    @override
    def run_in_executor(self, *_given: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("a simulated node has no threads: use the Offload seam")

    @override
    async def getaddrinfo(self, host: Any, port: Any, **_options: Any) -> Any:
        raise OSError("a simulated node resolves no names: addresses are hosts of the SimNet")

    @override
    async def create_server(self, *_args: Any, **_options: Any) -> Any:
        raise RuntimeError("a simulated node has no sockets: use the Net seam")

    @override
    async def create_connection(self, *_args: Any, **_options: Any) -> Any:
        raise RuntimeError("a simulated node has no sockets: use the Net seam")

    @override
    def add_signal_handler(self, *_given: Any) -> None:  # type: ignore[override]
        """Accept a handler that is never called: nobody signals a simulated process."""

    @override
    def remove_signal_handler(self, *_given: Any) -> bool:
        return True

    @override
    def run_forever(self) -> None:
        raise RuntimeError("a simulated node is run by its scheduler")

    @override
    def is_running(self) -> bool:
        return self._in_burst

    # What the scheduler calls.

    def runnable_at(self) -> float:
        """Return the virtual time from which this node has something to run; infinity if nothing waits."""
        self.known_at = found = self._runnable_at()
        return found

    def _runnable_at(self) -> float:
        timers = self._scheduled
        if self._ready:
            at = self.free_at
        else:
            while timers and timers[0]._cancelled:
                heapq.heappop(timers)._scheduled = False
                self._timer_cancelled_count -= 1
            if not timers:
                return _NEVER
            at = (timers[0]._when - self.offset) / self.rate
            at = max(at, self.free_at)
        return max(at, self._stopped_until)

    def run_burst(self, now: float, most: int, cpu_s: float, trace: Trace) -> int:
        """Run at most ``most`` handles, each charged ``cpu_s``; return how many ran."""
        self.now = now
        self.cost = 0.0
        self._wake_timers()
        ready = self._ready
        ran = 0
        cpu_s *= self.slowness
        events._set_running_loop(self)
        self._in_burst = True
        try:
            while ran < most and ready:
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                ran += 1
                self.cost += cpu_s
                callback = handle._callback
                kind = getattr(callback, "__qualname__", None) or type(callback).__name__
                trace.note(now, self.name, kind)
                handle._run()
                if self.is_dead:
                    break
        finally:
            self._in_burst = False
            events._set_running_loop(None)
        self.free_at = now + self.cost
        self.known_at = None
        self.now = self.free_at
        self.cost = 0.0
        return ran

    def _wake_timers(self) -> None:
        timers = self._scheduled
        end = self.time() + _EPSILON
        while timers and timers[0]._when <= end:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            if timer._cancelled:
                self._timer_cancelled_count -= 1
            else:
                self._ready.append(timer)
        if self._timer_cancelled_count > _SWEEP_FROM and 2 * self._timer_cancelled_count > len(
            timers
        ):
            live = [timer for timer in timers if not timer._cancelled]
            heapq.heapify(live)
            self._scheduled[:] = live
            self._timer_cancelled_count = 0

    def die(self) -> None:
        """Stop for good, in the middle of whatever is going on."""
        self.is_dead = True
        self._graveyard = list(asyncio.all_tasks(self))

    def bury(self) -> None:
        """Take apart what a dead loop has left; only when the run is over."""
        for task in sorted(self._graveyard, key=lambda task: task.get_name()):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            # Whatever a dead task still wants to say.
            with contextlib.suppress(BaseException):
                coroutine.close()
        self._graveyard.clear()
        self._ready.clear()
        self._scheduled.clear()
        self._closed = True
