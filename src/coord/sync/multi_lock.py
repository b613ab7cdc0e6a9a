"""The twins of a multi-lock and its grant."""

from __future__ import annotations

from coord.recipes import multi_lock
from coord.runtime.threads import thread_identity
from coord.sync._portal import Twin
from coord.sync.grants import Grant, Hold


class MultiLockGrant(Grant[multi_lock.MultiLockGrant]):
    """All names of a multi-lock, held together. Losing one of them is losing all."""

    __slots__ = ()

    @property
    def names(self) -> tuple[bytes, ...]:
        """The names, in order."""
        return self._async.names

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The key in the store for each of the names."""
        return self._async.keys


class MultiLock(Twin[multi_lock.MultiLock]):
    """Several named locks, taken all at once or not at all; see :class:`coord.MultiLock`."""

    __slots__ = ()

    @property
    def names(self) -> tuple[bytes, ...]:
        """The names, sorted and each once, as they stand in the store."""
        return self._async.names

    def acquire(self, *, timeout: float | None = None) -> MultiLockGrant:
        """Wait until all names are ours at once, and return the grant.

        Raises :class:`coord.LockTimeout` after ``timeout`` seconds, :class:`coord.SessionExpired` as soon as the
        session ends. A wait that fails, or that Ctrl-C ends, leaves no place in any line.
        """
        owner = thread_identity()
        grant = self._portal.obtain(
            lambda: self._async.acquire_for(owner, timeout=timeout),
            multi_lock.MultiLockGrant.discard,
        )
        return MultiLockGrant(self._portal, grant)

    def try_acquire(self) -> MultiLockGrant | None:
        """Take all names if all are free, else return None: one request, which leaves nothing behind."""
        owner = thread_identity()
        grant = self._portal.obtain(lambda: self._async.try_acquire_for(owner), _discard)
        return None if grant is None else MultiLockGrant(self._portal, grant)

    def hold(self, *, timeout: float | None = None) -> Hold[MultiLockGrant]:
        """Return a ``with`` that acquires, yields the grant and releases; see :class:`Hold`."""
        return Hold(lambda: self.acquire(timeout=timeout))


def _discard(grant: multi_lock.MultiLockGrant | None) -> None:
    if grant is not None:
        grant.discard()
