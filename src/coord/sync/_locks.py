"""The twin of the part of a client that makes locks of several names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.sync._portal import Twin, behind
from coord.sync.multi_lock import MultiLock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.sync.session import Session


class LockCalls(Twin[client.Client]):
    """Multi-locks of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def multi_lock(
        self,
        names: Iterable[str | bytes],
        *,
        session: Session | None = None,
        detect_deadlocks: bool = False,
        label: str | None = None,
    ) -> MultiLock:
        """Return the lock of all these names at once; see :meth:`coord.Client.multi_lock`."""
        lock = self._async.multi_lock(
            names,
            session=None if session is None else behind(session),
            detect_deadlocks=detect_deadlocks,
            label=label,
        )
        return MultiLock(self._portal, lock)
