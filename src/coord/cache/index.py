"""Entries by the value of one field. Immutable like the snapshot that it belongs to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from coord.cache.sortedmap import SortedMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from coord.codec.values import Entry

T = TypeVar("T")

_MISSING = object()


class CacheIndex(Generic[T]):
    """The entries of a snapshot by the value of a field: an attribute, or an item of a mapping.

    Entries without the field, or with a value there that is not hashable, are left out.
    """

    # Maps hash(value) to the values with that hash, each with its entries by key: hashes are in order where values
    # need not be comparable.
    __slots__ = ("_buckets", "_field")

    def __init__(
        self, field: str, buckets: SortedMap[int, dict[Hashable, SortedMap[bytes, Entry[T]]]]
    ) -> None:
        self._field = field
        self._buckets = buckets

    def updated(
        self, changes: Iterable[tuple[bytes, Entry[T] | None, Entry[T] | None]]
    ) -> CacheIndex[T]:
        """Return the index after ``(key, old, new)`` of each."""
        by_value: dict[Hashable, dict[bytes, Entry[T] | None]] = {}
        for key, old, new in changes:
            before, after = self._value_of(old), self._value_of(new)
            if before is not _MISSING:
                by_value.setdefault(before, {})[key] = None
            if after is not _MISSING:
                by_value.setdefault(after, {})[key] = new
        buckets: dict[int, dict[Hashable, SortedMap[bytes, Entry[T]]]] = {}
        for value, touched in by_value.items():
            number = hash(value)
            if number not in buckets:
                buckets[number] = dict(self._buckets.get(number) or {})
            bucket = buckets[number]
            nothing: SortedMap[bytes, Entry[T]] = SortedMap()
            entries = bucket.get(value, nothing).updated(touched)
            if entries:
                bucket[value] = entries
            else:
                bucket.pop(value, None)
        return CacheIndex(
            self._field, self._buckets.updated({n: bucket or None for n, bucket in buckets.items()})
        )

    def _value_of(self, entry: Entry[T] | None) -> Hashable:
        if entry is None:
            return _MISSING
        value: object = entry.value
        if isinstance(value, Mapping):
            found = cast("Mapping[str, object]", value).get(self._field, _MISSING)
        else:
            found = getattr(value, self._field, _MISSING)
        try:
            hash(found)
        except TypeError:
            return _MISSING
        return found

    def __getitem__(self, value: Hashable) -> tuple[Entry[T], ...]:
        """Return the entries whose field equals ``value``, in the order of their keys; none is no error."""
        bucket = self._buckets.get(hash(value))
        entries = bucket.get(value) if bucket else None
        return tuple(entries.values()) if entries else ()

    def __contains__(self, value: Hashable) -> bool:
        """Say whether an entry has it."""
        bucket = self._buckets.get(hash(value))
        return bucket is not None and value in bucket

    def __iter__(self) -> Iterator[Hashable]:
        """Iterate over the values that occur, each once, in no order."""
        for bucket in self._buckets.values():
            yield from bucket


def index_of(field: str, entries: Iterable[Entry[T]]) -> CacheIndex[T]:
    """Index ``entries`` by ``field``."""
    nothing: SortedMap[int, dict[Hashable, SortedMap[bytes, Entry[T]]]] = SortedMap()
    empty = CacheIndex(field, nothing)
    return empty.updated((entry.key, None, entry) for entry in entries)
