"""The part of a client that makes what several may hold at once: read-write locks and semaphores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes.rwlock import RWLock
from coord.recipes.semaphore import Semaphore

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.session import Session


class ShareCalls:
    """Read-write locks and semaphores of a :class:`coord.Client`."""

    _home: Coordination

    def rwlock(self, name: str | bytes, *, session: Session | None = None) -> RWLock:
        """Return the read-write lock called ``name``; see :class:`RWLock`."""
        return RWLock(self._home, name, session=session)

    def semaphore(
        self,
        name: str | bytes,
        *,
        limit: int | None = None,
        initial_limit: int | None = None,
        session: Session | None = None,
    ) -> Semaphore:
        """Return the semaphore called ``name``; see :class:`Semaphore`.

        ``limit`` is the number of permits that all its users expect; the first one sets it, and the others raise
        :class:`LimitMismatch` when the store has another. With ``initial_limit`` the first one sets it, and the others
        take what there is. With neither it must exist.
        """
        return Semaphore(
            self._home, name, limit=limit, initial_limit=initial_limit, session=session
        )
