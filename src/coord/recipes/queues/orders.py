"""Which item is the head of a queue: rules without I/O, fed with what a view shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.kv import SortBy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    def heads(
        self, snapshot: CacheSnapshot[bytes], gone: Mapping[bytes, int], limit: int
    ) -> list[Entry[bytes]]:
        """Return the first items; ``gone`` are keys, by mod revision, that the snapshot still has and the store not."""

    def head(
        self, snapshot: CacheSnapshot[bytes], gone: Mapping[bytes, int]
    ) -> Entry[bytes] | None:
        """Return the first item."""
        found = self.heads(snapshot, gone, 1)
        return found[0] if found else None

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

    def conditions(self, entries: Sequence[Entry[bytes]]) -> tuple[Compare, ...]:  # noqa: ARG002 - of the strict ones
        """Return what must hold, beside that the items are there, for them to be the first ones."""
        return ()

    def most(self, max_ops: int) -> int:
        """Return how many items one transaction can take that may have ``max_ops`` operations."""
        return max_ops

    @property
    def is_strict(self) -> bool:
        """Whether a take can fail although the item is there."""
        return False


class ByRevision(Order):
    """First put, first taken; within one transaction by key."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__(prefix)
        # By revision and key, which is the order in which they come; what was taken stays until it comes up.
        self._items: deque[tuple[int, bytes]] = deque()

    @override
    def start(self, snapshot: CacheSnapshot[bytes]) -> None:
        self._items = deque(
            sorted([(entry.mod_revision, entry.key) for entry in snapshot.entries()])
        )

    @override
    def feed(self, batch: CacheBatch[bytes]) -> None:
        # All of a batch is newer than what was before it; one that was coalesced has several revisions.
        self._items.extend(
            sorted([(c.new.mod_revision, c.key) for c in batch.changes if c.new is not None])
        )

    @override
    def heads(
        self, snapshot: CacheSnapshot[bytes], gone: Mapping[bytes, int], limit: int
    ) -> list[Entry[bytes]]:
        found: list[Entry[bytes]] = []
        while self._items and len(found) < limit:
            revision, key = self._items.popleft()
            entry = snapshot.entry(key)
            if entry is not None and entry.mod_revision == revision != gone.get(key):
                found.append(entry)
        self._items.extendleft([(entry.mod_revision, entry.key) for entry in reversed(found)])
        return found

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
    def heads(
        self, snapshot: CacheSnapshot[bytes], gone: Mapping[bytes, int], limit: int
    ) -> list[Entry[bytes]]:
        there = (e for e in snapshot.entries() if gone.get(e.key) != e.mod_revision)
        return list(islice(there, limit))

    @override
    def first(self, limit: int) -> Op:
        return op.get_prefix(self.prefix, limit=limit)

    @override
    def conditions(self, entries: Sequence[Entry[bytes]]) -> tuple[Compare, ...]:
        if not self._strict:
            return ()
        starts = [self.prefix, *[entry.key + b"\0" for entry in entries]]
        gaps = [(start, e.key) for start, e in zip(starts, entries, strict=False) if start < e.key]
        # An empty range compares like a missing key.
        return tuple([compare.create_revision(start, end=end) == 0 for start, end in gaps])

    @override
    def most(self, max_ops: int) -> int:
        return max_ops // 2 if self._strict else max_ops

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
