"""What the hub needs of a store, and what the watchers of one range have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord_server.mvcc.events import Event
    from coord_server.mvcc.hub import Watcher


class History(Protocol):
    """What the hub needs of the store (``mvcc.store.Store`` has the contracts)."""

    revision: int
    compact_revision: int
    examined: int

    @property
    def oldest_in_memory(self) -> int: ...  # noqa: D102 - the store's

    def history(  # noqa: D102 - the store's
        self,
        key: bytes,
        end: bytes,
        start: int,
        stop: int,
        limit_revisions: int,
        limit_bytes: int,
    ) -> tuple[Sequence[Event], int]: ...
    def value_at(self, key: bytes, revision: int) -> bytes | None: ...  # noqa: D102 - the store's


class Due:
    """The cost of responses that backlogs share, in bytes; it is due until the last one lets go."""

    __slots__ = ("holders", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.holders = 0


class Group:
    """The watchers of one range, and the events filed for them in this turn."""

    __slots__ = ("cohorts", "end", "key", "listeners", "pending")

    def __init__(self, key: bytes, end: bytes) -> None:
        self.key: bytes = key
        self.end: bytes = end
        # By ``share``: those who get equal bytes.
        self.cohorts: dict[tuple[int, int, int], dict[Watcher, None]] = {}
        self.listeners: list[Callable[[list[Event]], None]] = []
        self.pending: list[tuple[Event, bytes]] = []

    @property
    def members(self) -> list[Watcher]:
        """All watchers."""
        return [watcher for cohort in self.cohorts.values() for watcher in cohort]
