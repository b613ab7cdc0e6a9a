"""The part of a client that makes locks of several names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes.multi_lock import MultiLock
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.coordination import Coordination
    from coord.session import Session


class LockCalls:
    """Multi-locks of a :class:`coord.Client`."""

    _home: Coordination

    def multi_lock(
        self,
        names: Iterable[str | bytes],
        *,
        session: Session | None = None,
        detect_deadlocks: bool = False,
        label: str | None = None,
    ) -> MultiLock:
        """Return the lock of all these names at once; see :class:`MultiLock`. Their order does not matter.

        The names are those of mutexes: ``client.mutex(name)`` and this exclude each other.
        The other options as for :meth:`mutex`.
        Raises :class:`TooManyNames` for more than 40, :class:`NameConflict` when one is a path prefix of another.
        """
        if label is not None:
            to_value(label, "the lock's label", self._home.txn.max_value_bytes)
        return MultiLock(
            self._home, names, session=session, detect_deadlocks=detect_deadlocks, label=label
        )
