"""Which item is the head of a queue: rules without I/O, fed with what a view shows."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.kv import SortBy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coord.cache import CacheBatch, CacheSnapshot
    from coord.codec.values import Entry
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.values import KeyValue

_MS = 1000.0


class Order(ABC):
    """The order of the items below ``prefix``."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix: bytes = prefix

    def start(self, snapshot: CacheSnapshot[bytes]) -> None:  # noqa: B027 - an order may do without
        """Begin with what there is."""

    def feed(self, batch: CacheBatch[bytes]) -> None:  # noqa: B027 - an order may do without
        """Take note of what has changed."""

    @abstractmethod
    def head(
        self, snapshot: CacheSnapshot[bytes], gone: Mapping[bytes, int]
    ) -> Entry[bytes] | None:
        """Return the first item; ``gone`` are keys, by mod revision, that the snapshot still has and the store not."""

    @abstractmethod
    def first(self, limit: int) -> Op:
        """Return a read of the first items."""

    def ties(self, items: list[KeyValue]) -> Op | None:  # noqa: ARG002 - of those that leave some open
        """Return a read of what may belong before the last of ``items``, which :meth:`first` had read."""
        return None

    def sort(self, items: list[KeyValue]) -> list[KeyValue]:
        """Put ``items`` into their order."""
        return items

    def due_in(self, entry: Entry[bytes]) -> float:  # noqa: ARG002 - of those that make items wait
        """Return for how many seconds an item must not be taken yet; negative since it may be."""
        return float("-inf")

    def conditions(self, entry: Entry[bytes]) -> tuple[Compare, ...]:  # noqa: ARG002 - of the strict ones
        """Return what must hold, beside that the item is there, for it to be the head."""
        return ()

    @property
    def is_strict(self) -> bool:
        """Whether a take can fail although the item is there."""
        return False


class ByRevision(Order):
    """First put, first taken; within one transaction by key."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__(prefix)
        # Items that were taken stay until they come up.
        self._heap: list[tuple[int, bytes]] = []

    @override
    def start(self, snapshot: CacheSnapshot[bytes]) -> None:
        self._heap = [(entry.mod_revision, entry.key) for entry in snapshot.entries()]
        heapq.heapify(self._heap)

    @override
    def feed(self, batch: CacheBatch[bytes]) -> None:
        for change in batch.changes:
            if change.new is not None:
                heapq.heappush(self._heap, (change.new.mod_revision, change.key))

    @override
    def head(
        self, snapshot: CacheSnapshot[bytes], gone: Mapping[bytes, int]
    ) -> Entry[bytes] | None:
        while self._heap:
            revision, key = self._heap[0]
            entry = snapshot.entry(key)
            if entry is not None and entry.mod_revision == revision != gone.get(key):
                return entry
            heapq.heappop(self._heap)
        return None

    @override
    def first(self, limit: int) -> Op:
        return op.get_prefix(self.prefix, sort_by=SortBy.MOD_REVISION, limit=limit)

    @override
    def ties(self, items: list[KeyValue]) -> Op | None:
        # Those of one transaction share a revision, and the store returns any of them first.
        if not items or b"-" not in items[-1].key[len(self.prefix) :]:
            return None
        revision = items[-1].mod_revision
        return op.get_prefix(self.prefix, min_mod_revision=revision, max_mod_revision=revision)

    @override
    def sort(self, items: list[KeyValue]) -> list[KeyValue]:
        return sorted(items, key=lambda kv: (kv.mod_revision, kv.key))


class ByKey(Order):
    """In the order of the keys. ``strict`` makes it part of each take that no item is ahead."""

    def __init__(self, prefix: bytes, *, strict: bool) -> None:
        super().__init__(prefix)
        self._strict = strict

    @override
    def head(
        self, snapshot: CacheSnapshot[bytes], gone: Mapping[bytes, int]
    ) -> Entry[bytes] | None:
        for entry in snapshot.entries():
            if gone.get(entry.key) != entry.mod_revision:
                return entry
        return None

    @override
    def first(self, limit: int) -> Op:
        return op.get_prefix(self.prefix, limit=limit)

    @override
    def conditions(self, entry: Entry[bytes]) -> tuple[Compare, ...]:
        if not self._strict:
            return ()
        # An empty range compares like a missing key.
        return (compare.create_revision(self.prefix, end=entry.key) == 0,)

    @property
    @override
    def is_strict(self) -> bool:
        return self._strict


class ByDue(ByKey):
    """In the order of the times at which items may be taken, which their keys begin with."""

    def __init__(self, prefix: bytes, wall: Callable[[], float]) -> None:
        super().__init__(prefix, strict=True)
        self._wall = wall

    @override
    def due_in(self, entry: Entry[bytes]) -> float:
        digits = entry.key[len(self.prefix) :].partition(b"-")[0]
        # What is no time was put by somebody else, and is due.
        return int(digits) / _MS - self._wall() if digits.isdigit() else 0.0
