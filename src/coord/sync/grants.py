"""The twins of what is held, and the ``with`` around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from coord import grants
from coord.errors import LostError, NotHeld
from coord.sync._portal import Twin
from coord.sync.session import Session
from coord.sync.signals import OneShot
from coord.sync.txn import Txn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from coord.store.comparing import Compare

A_co = TypeVar("A_co", bound=grants.Grant, covariant=True)


class Grant(Twin[A_co]):
    """Something exclusive that this process holds until released or lost; see :class:`coord.Grant`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name that was acquired."""
        return self._async.name

    @property
    def key(self) -> bytes:
        """The key in the store that stands for it."""
        return self._async.key

    @property
    def token(self) -> int:
        """The fencing token; it rises with each grant of the same name."""
        return self._async.token

    @property
    def session(self) -> Session:
        """The session that it is held through."""
        return Session(self._portal, self._async.session)

    @property
    def acquired_at(self) -> float:
        """Monotonic seconds of this machine."""
        return self._async.acquired_at

    @property
    def lost(self) -> OneShot:
        """Fires once, with the reason, when the grant is lost before its release."""
        return OneShot(self._portal, self._async.lost)

    @property
    def lost_reason(self) -> str | None:
        """Why it was lost, None if it was not."""
        return self._async.lost_reason

    @property
    def released(self) -> bool:
        """Whether ``release()`` has begun."""
        return self._async.released

    def valid_for(self) -> float:
        """Seconds for which it is surely still held; 0 after loss or release."""
        return self._async.valid_for()

    def check(self) -> None:
        """Raise unless it is held right now: the lost error of its kind, or :class:`coord.NotHeld`."""
        self._async.check()

    def txn(self) -> Txn:
        """Build a transaction that runs ``then()`` only while the store still has this grant."""
        return Txn(self._portal, self._async.txn())

    def guard(self) -> Compare:
        """Return the comparison that holds exactly while the store still has this grant; put it into ``when()``."""
        return self._async.guard()

    def guards(self) -> tuple[Compare, ...]:
        """Return all comparisons that together hold exactly while the store still has this grant."""
        return self._async.guards()

    def release(self) -> bool:
        """Give it back; False if it had been lost before. A second call returns at once.

        Ctrl-C does not stop a release.
        """
        return self._portal.call(self._async.release())


G = TypeVar("G", bound=Grant[grants.Grant])


class Hold(Generic[G]):
    """``with``: acquire, run the body, release. Made by ``mutex.hold()`` and ``election.lead()``, for one use.

    A thread cannot be interrupted, so a body goes on when the grant is lost inside it, and may look at
    ``grant.lost`` and ``grant.check()``.
    The lost error is raised at the end of a body that did not raise by itself.
    """

    def __init__(self, acquire: Callable[[], G]) -> None:
        self._acquire = acquire
        self._grant: G | None = None

    def __enter__(self) -> G:
        """Acquire. Raises what ``acquire`` raises."""
        self._grant = self._acquire()
        return self._grant

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release; raise the lost error if the grant was lost inside and nothing else is to be raised."""
        grant, self._grant = self._grant, None
        if grant is None:
            return
        lost = _loss(grant)
        grant.release()
        if lost is not None and kind is None:
            raise lost


def _loss(grant: Grant[grants.Grant]) -> LostError | None:
    try:
        grant.check()
    except LostError as error:
        return error
    except NotHeld:  # the body has released it
        return None
    return None
