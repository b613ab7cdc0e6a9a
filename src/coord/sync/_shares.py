"""The twin of the part of a client that makes read-write locks and semaphores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.sync._portal import Twin, behind
from coord.sync.shares import RWLock, Semaphore

if TYPE_CHECKING:
    from coord.sync.session import Session


class ShareCalls(Twin[client.Client]):
    """Read-write locks and semaphores of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def rwlock(self, name: str | bytes, *, session: Session | None = None) -> RWLock:
        """Return the read-write lock called ``name``; see :class:`RWLock`."""
        inner = None if session is None else behind(session)
        return RWLock(self._portal, self._async.rwlock(name, session=inner))

    def semaphore(
        self,
        name: str | bytes,
        *,
        limit: int | None = None,
        initial_limit: int | None = None,
        session: Session | None = None,
    ) -> Semaphore:
        """Return the semaphore called ``name``; see :meth:`coord.Client.semaphore`."""
        inner = None if session is None else behind(session)
        made = self._async.semaphore(name, limit=limit, initial_limit=initial_limit, session=inner)
        return Semaphore(self._portal, made)
