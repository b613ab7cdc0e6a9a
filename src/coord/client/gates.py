"""The part of a client that makes barriers and latches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes.barrier import Barrier
from coord.recipes.double_barrier import DoubleBarrier
from coord.recipes.latch import CountdownLatch

if TYPE_CHECKING:
    from typing import Literal

    from coord.coordination import Coordination
    from coord.session import Session


class GateCalls:
    """Barriers and latches of a :class:`coord.Client`."""

    _home: Coordination

    def barrier(self, name: str | bytes, *, session: Session | None = None) -> Barrier:
        """Return the gate called ``name``; see :class:`Barrier`. ``session`` is what a leased gate is tied to."""
        return Barrier(self._home, name, session=session)

    def double_barrier(
        self,
        name: str | bytes,
        parties: int,
        *,
        session: Session | None = None,
        when_full: Literal["wait", "raise"] = "wait",
    ) -> DoubleBarrier:
        """Return a place for one of ``parties`` at the barrier called ``name``; see :class:`DoubleBarrier`."""
        return DoubleBarrier(self._home, name, parties, session=session, when_full=when_full)

    def latch(self, name: str | bytes, count: int) -> CountdownLatch:
        """Return the latch called ``name``, which ``count`` arrivals open; see :class:`CountdownLatch`."""
        return CountdownLatch(self._home, name, count)
