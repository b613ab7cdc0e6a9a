"""The twin of the part of a client that makes barriers and latches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.sync._portal import Twin, behind
from coord.sync.gates import Barrier, CountdownLatch, DoubleBarrier

if TYPE_CHECKING:
    from typing import Literal

    from coord.sync.session import Session


class GateCalls(Twin[client.Client]):
    """Barriers and latches of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def barrier(self, name: str | bytes, *, session: Session | None = None) -> Barrier:
        """Return the gate called ``name``; see :class:`Barrier`. ``session`` is what a leased gate is tied to."""
        inner = None if session is None else behind(session)
        return Barrier(self._portal, self._async.barrier(name, session=inner))

    def double_barrier(
        self,
        name: str | bytes,
        parties: int,
        *,
        session: Session | None = None,
        when_full: Literal["wait", "raise"] = "wait",
    ) -> DoubleBarrier:
        """Return a place for one of ``parties`` at the barrier called ``name``; see :class:`DoubleBarrier`."""
        inner = None if session is None else behind(session)
        barrier = self._async.double_barrier(name, parties, session=inner, when_full=when_full)
        return DoubleBarrier(self._portal, barrier)

    def latch(self, name: str | bytes, count: int) -> CountdownLatch:
        """Return the latch called ``name``, which ``count`` arrivals open; see :class:`CountdownLatch`."""
        return CountdownLatch(self._portal, self._async.latch(name, count))
