"""The twins of a mutex and its grant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import mutex
from coord.runtime.threads import thread_identity
from coord.sync._portal import Twin
from coord.sync.grants import Grant, Hold

if TYPE_CHECKING:
    from coord.locking.entries import LineEntry


class MutexGrant(Grant[mutex.MutexGrant]):
    """A held lock. A reentrant one is given back by the last of its releases."""

    __slots__ = ()


class Mutex(Twin[mutex.Mutex]):
    """A named lock; see :class:`coord.Mutex`. Made by ``client.mutex(name)``; may be shared between threads.

    ``reentrant=True`` lets the thread that holds the lock acquire it again; each acquire needs its release.
    """

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    def acquire(self, *, timeout: float | None = None) -> MutexGrant:
        """Wait for the lock and return its grant.

        Raises :class:`coord.LockTimeout` after ``timeout`` seconds, :class:`coord.SessionExpired` as soon as the
        session ends. A wait that fails, or that Ctrl-C ends, leaves no place in line.
        """
        owner = thread_identity()
        grant = self._portal.obtain(
            lambda: self._async.acquire_for(owner, timeout=timeout), mutex.MutexGrant.discard
        )
        return MutexGrant(self._portal, grant)

    def try_acquire(self) -> MutexGrant | None:
        """Take the lock if it is free, else return None: one request, which never queues and leaves nothing behind."""
        owner = thread_identity()
        grant = self._portal.obtain(lambda: self._async.try_acquire_for(owner), _discard)
        return None if grant is None else MutexGrant(self._portal, grant)

    def hold(self, *, timeout: float | None = None) -> Hold[MutexGrant]:
        """Return a ``with`` that acquires, yields the grant and releases; see :class:`Hold`."""
        return Hold(lambda: self.acquire(timeout=timeout))

    def holder(self) -> LineEntry | None:
        """Return the entry that holds the lock, None if it is free."""
        return self._portal.call(self._async.holder())

    def waiters(self) -> tuple[LineEntry, ...]:
        """Return the entries that wait, first in line first."""
        return self._portal.call(self._async.waiters())

    def break_lock(self, token: int, *, reason: str) -> bool:
        """Remove the entry with ``token``, whoever owns it; say whether it was there. For operators."""
        return self._portal.call(self._async.break_lock(token, reason=reason))


def _discard(grant: mutex.MutexGrant | None) -> None:
    if grant is not None:
        grant.discard()
