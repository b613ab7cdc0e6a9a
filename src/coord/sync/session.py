"""The twin of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import session
from coord.sync._portal import Twin
from coord.sync.signals import OneShot

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from coord.session import SessionState


class Session(Twin[session.Session]):
    """A lease kept alive; see :class:`coord.Session`. Made by ``client.session()``; a context manager."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """What it was called by its maker."""
        return self._async.name

    @property
    def lease_id(self) -> int:
        """The lease; 0 before the session is open."""
        return self._async.lease_id

    @property
    def ttl(self) -> int:
        """The lease's TTL in seconds; 0 before the session is open."""
        return self._async.ttl

    @property
    def state(self) -> SessionState:
        """The state now, by the clock."""
        return self._async.state

    @property
    def expired(self) -> OneShot:
        """Fires once, with the reason, when the session expires."""
        return OneShot(self._portal, self._async.expired)

    def valid_for(self) -> float:
        """Seconds for which the session is surely still valid; 0 if it is not."""
        return self._async.valid_for()

    def check(self) -> None:
        """Raise :class:`coord.SessionExpired` or :class:`coord.SessionClosed` unless it is valid right now."""
        self._async.check()

    def on_state(self, callback: Callable[[SessionState], object]) -> Callable[[], None]:
        """Call ``callback(state)`` at each change, on a worker thread (on its loop, if this thread runs one).

        Returns what ends that.
        """
        return self._async.on_state(callback)

    def __enter__(self) -> Self:
        """Open the session."""
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""
        self.close()

    def open(self, *, timeout: float | None = None) -> Self:
        """Grant or adopt the lease and start renewing. Raises as :meth:`coord.Session.open`."""
        self._portal.call(self._async.open(timeout=timeout))
        return self

    def close(self) -> None:
        """Stop renewing and revoke the lease, which deletes every key held through it."""
        self._portal.call(self._async.close())

    def orphan(self) -> int:
        """Stop renewing but keep the lease, and return its id, for another process to adopt."""
        return self._portal.call(self._async.orphan())
