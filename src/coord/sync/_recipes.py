"""The twin of the part of a client that makes sessions and recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.errors import InvalidArgument
from coord.sync._portal import Twin, behind
from coord.sync.election import Election
from coord.sync.mutex import Mutex
from coord.sync.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal


class RecipeCalls(Twin[client.Client]):
    """Sessions, mutexes and elections of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def session(
        self,
        *,
        ttl: int = 15,
        lease_id: int | None = None,
        critical: bool = False,
        liveness: Callable[[], bool] | None = None,
        liveness_timeout: float | None = None,
        name: str | None = None,
    ) -> Session:
        """Return a session, to be opened with ``with`` or ``session.open()``; see :meth:`coord.Client.session`.

        ``liveness`` is a function, which worker threads call; there is no loop to watch here.
        """
        if liveness is not None and not callable(liveness):
            raise InvalidArgument(
                f"liveness must be a function that returns True while all is well, not {liveness!r}"
            )
        session = self._async.session(
            ttl=ttl,
            lease_id=lease_id,
            critical=critical,
            liveness=liveness,
            liveness_timeout=liveness_timeout,
            name=name,
        )
        return Session(self._portal, session)

    def default_session(self) -> Session:
        """Return the session that mutexes and elections use when they are given none."""
        return Session(self._portal, self._portal.call(self._async.default_session()))

    def mutex(
        self,
        name: str | bytes,
        *,
        session: Session | None = None,
        reentrant: bool = False,
        lock_delay: float = 0,
        layout: Literal["line", "single-key"] = "line",
        detect_deadlocks: bool = False,
        label: str | None = None,
    ) -> Mutex:
        """Return the lock called ``name``; see :class:`Mutex`. The options as for :meth:`coord.Client.mutex`."""
        mutex = self._async.mutex(
            name,
            session=None if session is None else behind(session),
            reentrant=reentrant,
            lock_delay=lock_delay,
            layout=layout,
            detect_deadlocks=detect_deadlocks,
            label=label,
        )
        return Mutex(self._portal, mutex)

    def election(self, name: str | bytes, *, session: Session | None = None) -> Election:
        """Return the election called ``name``; see :class:`Election`."""
        inner = None if session is None else behind(session)
        return Election(self._portal, self._async.election(name, session=inner))
