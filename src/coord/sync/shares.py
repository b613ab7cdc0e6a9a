"""The twins of read-write locks and semaphores, and of what they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes import rwlock, semaphore
from coord.runtime.threads import thread_identity
from coord.sync._portal import Twin
from coord.sync.grants import Grant, Hold

if TYPE_CHECKING:
    from coord.recipes.rwlock import RWState
    from coord.recipes.semaphore import PermitEntry, SemaphoreState


class ReadGrant(Grant[rwlock.ReadGrant]):
    """The right to read. Its token tells which writers it comes after: all those with smaller ones."""

    __slots__ = ()


class WriteGrant(Grant[rwlock.WriteGrant]):
    """The right to write, alone; its token is higher than that of every grant before it."""

    __slots__ = ()

    @property
    def downgraded(self) -> bool:
        """Whether ``downgrade()`` has begun: from then on it is a right to read."""
        return self._async.downgraded

    def downgrade(self, *, timeout: float | None = None) -> None:
        """Go on as a reader, without letting any writer in between; see :meth:`coord.WriteGrant.downgrade`.

        Ctrl-C does not stop it.
        """
        self._portal.call(self._async.downgrade(timeout=timeout))


class ReadLock(Twin[rwlock.ReadLock]):
    """The readers' side of a lock. Made by ``rwlock.read()``; may be shared between threads."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The lock's name, as it stands in the store."""
        return self._async.name

    def acquire(self, *, timeout: float | None = None) -> ReadGrant:
        """Wait for the turn and return the grant.

        Raises :class:`coord.LockTimeout` after ``timeout`` seconds, :class:`coord.SessionExpired` as soon as the
        session ends. A wait that fails, or that Ctrl-C ends, leaves no place in line.
        """
        owner = thread_identity()
        grant = self._portal.obtain(
            lambda: self._async.acquire_for(owner, timeout=timeout), rwlock.ReadGrant.discard
        )
        return ReadGrant(self._portal, grant)

    def try_acquire(self) -> ReadGrant | None:
        """Take it if nobody is in the way, else return None: one request, which never queues and leaves nothing behind."""
        owner = thread_identity()
        grant = self._portal.obtain(lambda: self._async.try_acquire_for(owner), _discard)
        return None if grant is None else ReadGrant(self._portal, grant)

    def hold(self, *, timeout: float | None = None) -> Hold[ReadGrant]:
        """Return a ``with`` that acquires, yields the grant and releases; see :class:`Hold`."""
        return Hold(lambda: self.acquire(timeout=timeout))


class WriteLock(Twin[rwlock.WriteLock]):
    """The writers' side of a lock. Made by ``rwlock.write()``; may be shared between threads."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The lock's name, as it stands in the store."""
        return self._async.name

    def acquire(self, *, timeout: float | None = None) -> WriteGrant:
        """Wait for the turn and return the grant.

        Raises as :meth:`ReadLock.acquire`, and :class:`coord.UpgradeRefused` when the calling thread reads under this
        lock already.
        """
        owner = thread_identity()
        grant = self._portal.obtain(
            lambda: self._async.acquire_for(owner, timeout=timeout), rwlock.WriteGrant.discard
        )
        return WriteGrant(self._portal, grant)

    def try_acquire(self) -> WriteGrant | None:
        """Take it if nobody is in the way, else return None: one request, which never queues and leaves nothing behind."""
        owner = thread_identity()
        grant = self._portal.obtain(lambda: self._async.try_acquire_for(owner), _discard)
        return None if grant is None else WriteGrant(self._portal, grant)

    def hold(self, *, timeout: float | None = None) -> Hold[WriteGrant]:
        """Return a ``with`` that acquires, yields the grant and releases; see :class:`Hold`."""
        return Hold(lambda: self.acquire(timeout=timeout))


class RWLock(Twin[rwlock.RWLock]):
    """A named lock for many readers or one writer; see :class:`coord.RWLock`. Made by ``client.rwlock(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    def read(self) -> ReadLock:
        """Return the readers' side: shared with other readers, after the writers who came before."""
        return ReadLock(self._portal, self._async.read())

    def write(self, *, downgradable: bool = False) -> WriteLock:
        """Return the writers' side: alone, after everybody who came before.

        ``downgradable``: its grants can go on as readers, at the price of one more key while they write.
        """
        return WriteLock(self._portal, self._async.write(downgradable=downgradable))

    def state(self, *, timeout: float | None = None) -> RWState:
        """Return who reads, who writes and who waits, as of one revision."""
        return self._portal.call(self._async.state(timeout=timeout))


class Permit(Grant[semaphore.Permit]):
    """Permits of a semaphore, held until released or lost; see :class:`coord.Permit`."""

    __slots__ = ()

    @property
    def permits(self) -> int:
        """How many."""
        return self._async.permits


class Semaphore(Twin[semaphore.Semaphore]):
    """A named number of permits; see :class:`coord.Semaphore`. Made by ``client.semaphore(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    def acquire(self, permits: int = 1, *, timeout: float | None = None) -> Permit:
        """Wait for so many permits at once and return them; first come, first served.

        Raises :class:`coord.SemaphoreTimeout` after ``timeout`` seconds, :class:`coord.SessionExpired` as soon as the
        session ends, :class:`coord.LimitMismatch` when the limit is not the expected one.
        A wait that fails, or that Ctrl-C ends, leaves no place in line.
        """
        owner = thread_identity()
        permit = self._portal.obtain(
            lambda: self._async.acquire_for(owner, permits, timeout=timeout),
            semaphore.Permit.discard,
        )
        return Permit(self._portal, permit)

    def try_acquire(self, permits: int = 1) -> Permit | None:
        """Take so many permits if they are free and nobody waits, else return None: never queues, leaves nothing behind."""
        owner = thread_identity()
        permit = self._portal.obtain(lambda: self._async.try_acquire_for(owner, permits), _discard)
        return None if permit is None else Permit(self._portal, permit)

    def hold(self, permits: int = 1, *, timeout: float | None = None) -> Hold[Permit]:
        """Return a ``with`` that acquires, yields the permits and releases; see :class:`Hold`."""
        return Hold(lambda: self.acquire(permits, timeout=timeout))

    def set_limit(self, limit: int, *, timeout: float | None = None) -> None:
        """Set the number of permits, for everybody; see :meth:`coord.Semaphore.set_limit`."""
        self._portal.call(self._async.set_limit(limit, timeout=timeout))

    def state(self, *, timeout: float | None = None) -> SemaphoreState:
        """Return the limit, who holds permits and who waits, as of one revision."""
        return self._portal.call(self._async.state(timeout=timeout))

    def available(self, *, timeout: float | None = None) -> int:
        """Return how many permits are not in use; see :class:`coord.SemaphoreState`."""
        return self._portal.call(self._async.available(timeout=timeout))

    def holders(self, *, timeout: float | None = None) -> tuple[PermitEntry, ...]:
        """Return who holds permits, the oldest first."""
        return self._portal.call(self._async.holders(timeout=timeout))


def _discard(grant: rwlock.ReadGrant | rwlock.WriteGrant | semaphore.Permit | None) -> None:
    if grant is not None:
        grant.discard()
