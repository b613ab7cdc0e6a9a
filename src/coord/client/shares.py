"""The part of a client that makes what several may hold at once: read-write locks and semaphores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes.rwlock import RWLock

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.session import Session


class ShareCalls:
    """Read-write locks and semaphores of a :class:`coord.Client`."""

    _home: Coordination

    def rwlock(self, name: str | bytes, *, session: Session | None = None) -> RWLock:
        """Return the read-write lock called ``name``; see :class:`RWLock`."""
        return RWLock(self._home, name, session=session)
