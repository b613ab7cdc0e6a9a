"""The seams of one simulated process: clock, chance and offload, each of which dies with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from coord.testing.sim.chance import Chance

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.sim.disk import SimDisk
    from coord.testing.sim.nodeloop import NodeLoop
    from coord.testing.sim.scheduler import Scheduler

T = TypeVar("T")

EPOCH_S: Final = 1_700_000_000.0
"""Where wall clocks begin."""
# Until an idle thread has been woken, and the work itself unless it says more.
_WAKE_S: Final = 30e-6
_WORK_S: Final = 50e-6


class NodeClock:
    """Node time; ``wall_offset`` moves the wall clock alone."""

    def __init__(self, loop: NodeLoop, wall_offset: float = 0.0) -> None:
        self._loop = loop
        self.wall_offset = wall_offset

    def mono(self) -> float:
        """See :meth:`coord.runtime.Clock.mono`."""
        return self._loop.time()

    def wall(self) -> float:
        """See :meth:`coord.runtime.Clock.wall`."""
        return EPOCH_S + self._loop.moment() + self.wall_offset


class NodeRand:
    """Draws of one process; a restarted one goes on with others."""

    def __init__(self, loop: NodeLoop, seed: int, epoch: int) -> None:
        self._loop = loop
        self._chance = Chance(seed, "rand", f"{loop.name}/{epoch}")

    def bits(self, n: int) -> int:
        """See :meth:`coord.runtime.Rand.bits`."""
        self._loop.check_alive()
        return int.from_bytes(self._chance.randbytes((n + 7) // 8), "big") >> (-n % 8)

    def uniform(self, low: float, high: float) -> float:
        """See :meth:`coord.runtime.Rand.uniform`."""
        self._loop.check_alive()
        return self._chance.uniform(low, high)

    def token_bytes(self, n: int) -> bytes:
        """See :meth:`coord.runtime.Rand.token_bytes`."""
        self._loop.check_alive()
        return self._chance.randbytes(n)


class NodeOffload:
    """A thread beside the loop: the work happens at one moment, and its result comes when it is done.

    Meanwhile the loop goes on, as it does beside a real thread; one work at a time, as in a pool of one.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        loop: NodeLoop,
        seed: int,
        disk: SimDisk | None = None,
        *,
        wake_s: float = _WAKE_S,
    ) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._disk = disk
        self._chance = Chance(seed, "offload", loop.name)
        self._wake_s = wake_s
        self.free_at: float = 0.0
        """When the thread has done what it was given, in virtual time."""

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """See :meth:`coord.runtime.Offload.run`."""
        self._loop.check_alive()
        # A machine that is slow is so in all its threads.
        wake_s = self._chance.exponential(self._wake_s) * self._loop.slowness
        begin = max(self.free_at, self._scheduler.moment()) + wake_s
        self.free_at = begin
        try:
            await self._until(begin)
        except asyncio.CancelledError:
            # Work that was handed to a thread is done, whether somebody still waits for it or not.
            self._loop.check_alive()
            self._do(fn, args)
            raise
        self._loop.check_alive()
        spent = self._chance.exponential(_WORK_S) * self._loop.slowness
        try:
            outcome, more = self._do(fn, args)
        except Exception:
            await self._until(self._scheduler.moment() + spent)
            raise
        self.free_at = max(self.free_at, self._scheduler.moment() + spent + more)
        await self._until(self._scheduler.moment() + spent + more)
        return outcome

    def _do(self, fn: Callable[..., T], args: tuple[object, ...]) -> tuple[T, float]:
        disk = self._disk
        if disk is None:
            return fn(*args), 0.0
        disk.spent = 0.0
        try:
            outcome = fn(*args)
            return outcome, disk.spent
        finally:
            disk.spent = None

    async def _until(self, moment: float) -> None:
        delay = (moment - self._scheduler.moment()) * self._loop.rate
        await asyncio.sleep(max(0.0, delay))
