"""Who runs next, and when: one thread, one clock, any number of simulated nodes.

A step delivers what is due (packets, plan events), then runs a burst of 1 to 8 handles of one node that
has work, drawn by the seed, and charges that node for the time. When nobody has work, time jumps to the
next thing that is due. Nodes run beside each other: what one is charged does not delay another.
"""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING, Any, Final

from coord.testing.sim.chance import Chance
from coord.testing.sim.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.sim.nodeloop import NodeLoop

CPU_S: Final = 20e-6
"""What one handle costs on average."""
_FOREVER: Final = float("inf")
# The processor's time is looked at once in so many steps.
_CPU_EVERY: Final = 4096


class LimitExceeded(Exception):
    """The run is longer than it may be; ``kind`` says which limit: steps, progress or cpu."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


class Limits:
    """Bounds of one run: steps in all, steps without time passing, and seconds of the processor."""

    __slots__ = ("max_cpu_s", "max_idle_steps", "max_steps")

    def __init__(
        self,
        *,
        max_steps: int = 5_000_000,
        max_idle_steps: int = 200_000,
        max_cpu_s: float = 120.0,
    ) -> None:
        self.max_steps: int = max_steps
        self.max_idle_steps: int = max_idle_steps
        self.max_cpu_s: float = max_cpu_s


class Scheduler:
    """Runs loops and events in virtual time. ``on_step(loop)`` is called after each burst."""

    def __init__(
        self, seed: int, *, limits: Limits | None = None, trace: Trace | None = None
    ) -> None:
        self.now: float = 0.0
        self.steps: int = 0
        self.trace: Trace = trace if trace is not None else Trace()
        self.on_step: Callable[[NodeLoop], None] | None = None
        self._limits = limits if limits is not None else Limits()
        self._chance = Chance(seed, "scheduler")
        self._loops: list[NodeLoop] = []
        self._dead: list[NodeLoop] = []
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0
        self._running: NodeLoop | None = None
        self._began = time.process_time()
        self._idle_steps = 0

    # Nodes.

    def add(self, loop: NodeLoop) -> None:
        """Let a loop take part from now on."""
        loop.now = loop.free_at = self.now
        loop.known_at = None
        self._loops.append(loop)

    def remove(self, loop: NodeLoop) -> None:
        """Kill a loop; what it was doing stays as it is until the end of the run."""
        loop.die()
        if loop in self._loops:
            self._loops.remove(loop)
            self._dead.append(loop)

    @property
    def running(self) -> NodeLoop | None:
        """The loop whose burst is running."""
        return self._running

    def moment(self) -> float:
        """Return virtual time as whoever runs now sees it: with what its burst has cost."""
        running = self._running
        return self.now if running is None else running.now + running.cost

    def charge(self, seconds: float) -> None:
        """Let the node that runs now be busy for so much longer."""
        if self._running is not None:
            self._running.cost += seconds

    # Events.

    def at(self, when: float, run: Callable[..., object], *args: Any) -> None:  # noqa: ANN401 - passed on
        """Call ``run(*args)`` at a virtual time, on no node."""
        self._serial += 1
        heapq.heappush(self._events, (when, self._serial, run, args))

    def after(self, delay: float, run: Callable[..., object], *args: Any) -> None:  # noqa: ANN401 - passed on
        """Call ``run(*args)`` so many virtual seconds from the moment of the caller."""
        self.at(self.moment() + delay, run, *args)

    # Running.

    def run(self, until: float, *, stop: Callable[[], bool] | None = None) -> bool:
        """Run to the virtual time ``until``, or until ``stop()`` holds after a step; tell whether it did.

        Raises LimitExceeded.
        """
        queue = self._events
        while True:
            if stop is not None and stop():
                return True
            now = self.now
            if queue and queue[0][0] <= now:
                _, _, run, args = heapq.heappop(queue)
                run(*args)
                continue
            loop, next_at = self._pick(now)
            if loop is not None:
                self._burst(loop)
                continue
            if queue and queue[0][0] < next_at:
                next_at = queue[0][0]
            if next_at > until:
                self.now = max(now, until)
                return False
            self.now = next_at
            self._idle_steps = 0

    def _pick(self, now: float) -> tuple[NodeLoop | None, float]:
        """Return a loop that can run now, or else the time when the next one can."""
        able: list[NodeLoop] = []
        next_at = _FOREVER
        for loop in self._loops:
            from_at = loop.known_at
            if from_at is None:
                from_at = loop.runnable_at()
            if from_at <= now:
                able.append(loop)
            elif from_at < next_at:
                next_at = from_at
        if not able:
            return None, next_at
        if len(able) == 1:
            return able[0], now
        return able[self._chance.randrange(len(able))], now

    def _burst(self, loop: NodeLoop) -> None:
        self._count_step()
        bits = self._chance.bits64()
        # From the upper bits: how many handles, and up to a quarter more or less time than usual.
        cpu_s = CPU_S * (0.75 + ((bits >> 8) & 0xFF) / 510.0)
        self._running = loop
        try:
            loop.run_burst(self.now, 1 + (bits >> 60 & 7), cpu_s, self.trace)
        finally:
            self._running = None
        if self.on_step is not None:
            self.on_step(loop)

    def _count_step(self) -> None:
        limits = self._limits
        self.steps += 1
        self._idle_steps += 1
        if self.steps > limits.max_steps:
            raise LimitExceeded("steps", f"more than {limits.max_steps} steps")
        if self._idle_steps > limits.max_idle_steps:
            raise LimitExceeded(
                "progress",
                f"{limits.max_idle_steps} steps at {self.now:.6f} s without a moment's pause",
            )
        if self.steps % _CPU_EVERY == 0 and time.process_time() - self._began > limits.max_cpu_s:
            raise LimitExceeded("cpu", f"more than {limits.max_cpu_s:g} s of processor time")

    def close(self) -> None:
        """End every loop and take apart what dead ones have left."""
        for loop in list(self._loops):
            self.remove(loop)
        for loop in self._dead:
            loop.bury()
        self._dead.clear()
        self._events.clear()
