"""The twins of barriers and latches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes import barrier, double_barrier, latch
from coord.sync._portal import Twin
from coord.sync.signals import OneShot

if TYPE_CHECKING:
    from types import TracebackType

    from coord.store.comparing import Compare


class Gate(Twin[barrier.Gate]):
    """A gate that this process has closed; see :class:`coord.Gate`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The barrier's name."""
        return self._async.name

    @property
    def key(self) -> bytes:
        """The key in the store that closes it: the barrier's name."""
        return self._async.key

    @property
    def token(self) -> int:
        """The key's create revision; it rises each time that the gate is closed."""
        return self._async.token

    @property
    def leased(self) -> bool:
        """Whether it opens with the end of its session."""
        return self._async.leased

    @property
    def lost(self) -> OneShot:
        """Fires once, with the reason, when a leased gate opens before its release; never for an unleased one."""
        return OneShot(self._portal, self._async.lost)

    @property
    def lost_reason(self) -> str | None:
        """Why it was lost, None if it was not."""
        return self._async.lost_reason

    def guard(self) -> Compare:
        """Return the comparison that holds exactly while this gate is closed; put it into ``when()``."""
        return self._async.guard()

    def check(self) -> None:
        """Raise :class:`coord.BarrierLost` when a leased gate is not surely closed, :class:`coord.NotHeld` after release."""
        self._async.check()

    def release(self, *, timeout: float | None = None) -> bool:
        """Open the gate; False if it was open before, or closed again by somebody else, which stays."""
        return self._portal.call(self._async.release(timeout=timeout))


class Barrier(Twin[barrier.Barrier]):
    """A named gate; see :class:`coord.Barrier`. Made by ``client.barrier(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    def hold(self, *, leased: bool = False, timeout: float | None = None) -> Gate:
        """Close the gate and return it. Raises :class:`coord.BarrierHeld` at once when it is closed already.

        ``leased=True`` ties it to the session: it opens when that ends.
        """
        gate = self._portal.obtain(
            lambda: self._async.hold(leased=leased, timeout=timeout), barrier.Gate.discard
        )
        return Gate(self._portal, gate)

    def release(self, *, force: bool = False, timeout: float | None = None) -> bool:
        """Open the gate that this object has closed, or with ``force=True`` any; say whether that was still closed."""
        return self._portal.call(self._async.release(force=force, timeout=timeout))

    def wait(self, *, timeout: float | None = None) -> None:
        """Return when the gate is open, at once if it is. Raises :class:`coord.BarrierTimeout`."""
        self._portal.call(self._async.wait(timeout=timeout))

    def is_closed(self, *, timeout: float | None = None) -> bool:
        """Return whether the gate is closed, as of now (linearizable)."""
        return self._portal.call(self._async.is_closed(timeout=timeout))


class DoubleBarrier(Twin[double_barrier.DoubleBarrier]):
    """One party's place at a named barrier; see :class:`coord.DoubleBarrier`. Each thread has its own."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    @property
    def parties(self) -> int:
        """How many make a round."""
        return self._async.parties

    def enter(self, *, timeout: float | None = None) -> int:
        """Wait until ``parties`` are here, and return the round: a number that rises.

        Raises :class:`coord.BarrierTimeout` after ``timeout`` seconds, :class:`coord.SessionExpired` as soon as the
        session ends, :class:`coord.BarrierFull` with ``when_full="raise"``. A wait that fails, or that Ctrl-C ends,
        leaves no entry.
        """
        return self._portal.call(self._async.enter(timeout=timeout))

    def leave(self, *, timeout: float | None = None) -> None:
        """Wait until all parties of the round have left, crashed ones included. However it ends, we have left."""
        self._portal.call(self._async.leave(timeout=timeout))

    def joined(self, *, timeout: float | None = None) -> Joined:
        """Return a ``with`` for one round: :meth:`enter`, the body, :meth:`leave`; see :class:`Joined`."""
        return Joined(self._portal, self._async.joined(timeout=timeout))


class Joined(Twin[double_barrier.Joined]):
    """``with``: enter, run the body, leave. Gives the round; see :class:`coord.Joined`. For one use."""

    __slots__ = ()

    def __enter__(self) -> int:
        """Enter. Raises what :meth:`DoubleBarrier.enter` raises."""
        return self._portal.call(self._async.__aenter__())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave, without waiting for the others if the body raised."""
        self._portal.call(self._async.__aexit__(kind, error, trace))


class CountdownLatch(Twin[latch.CountdownLatch]):
    """A named latch; see :class:`coord.CountdownLatch`. Made by ``client.latch(name, count)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    @property
    def count(self) -> int:
        """How many arrivals open it."""
        return self._async.count

    def count_down(self, who: str | bytes | None = None, *, timeout: float | None = None) -> int:
        """Report an arrival and return how many are missing now; the same ``who`` counts once."""
        return self._portal.call(self._async.count_down(who, timeout=timeout))

    def wait(self, *, timeout: float | None = None) -> None:
        """Return when the latch has opened, even if it has been reset meanwhile. Raises :class:`coord.LatchTimeout`."""
        self._portal.call(self._async.wait(timeout=timeout))

    def remaining(self, *, timeout: float | None = None) -> int:
        """Return how many arrivals are missing, as of now (linearizable)."""
        return self._portal.call(self._async.remaining(timeout=timeout))

    def reset(self, count: int, *, timeout: float | None = None) -> None:
        """Close an open latch again, for ``count`` new arrivals. Raises :class:`coord.LatchPending`."""
        self._portal.call(self._async.reset(count, timeout=timeout))
