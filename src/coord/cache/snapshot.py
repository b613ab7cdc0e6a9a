"""A range as of one revision, and how it is read."""

from __future__ import annotations

from abc import abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from typing_extensions import override

from coord.cache.index import CacheIndex, index_of
from coord.store.keys import FROM_KEY, prefix_range, to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from coord.cache.sortedmap import SortedMap
    from coord.codec.values import Entry
    from coord.errors import DecodeError

T = TypeVar("T")


class Reads(Generic[T]):
    """Reading by key; what caches and snapshots have in common. Each call sees one revision as a whole."""

    __slots__ = ()

    @abstractmethod
    def snapshot(self) -> CacheSnapshot[T]:
        """Return what there is now, as one value that never changes. Costs nothing."""

    @property
    def revision(self) -> int:
        """The revision of the last reading or change; this is what the store holds at that revision."""
        return self.snapshot().revision

    @property
    def as_of(self) -> int:
        """The newest revision at which the store is known to hold the same."""
        return self.snapshot().as_of

    @property
    def undecodable(self) -> Mapping[bytes, DecodeError]:
        """What is wrong with the present values of which keys.

        Such a key still has the last value that could be read, and the revisions of that one; none, if none could.
        """
        return self.snapshot().undecodable

    def __getitem__(self, key: str | bytes) -> T:
        """Return the value at ``key``. Raises ``KeyError`` when there is none."""
        found = self.entry(key)
        if found is None:
            raise KeyError(key)
        return found.value

    def get(self, key: str | bytes, default: T | None = None) -> T | None:
        """Return the value at ``key``, or ``default``."""
        found = self.entry(key)
        return default if found is None else found.value

    def entry(self, key: str | bytes) -> Entry[T] | None:
        """Return the pair at ``key`` with its revisions, None if there is none."""
        return self.snapshot().entry(key)

    def __contains__(self, key: str | bytes) -> bool:
        """Say whether there is a value at ``key``."""
        return self.entry(key) is not None

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self.snapshot())

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over all keys, in order."""
        return self.keys()

    def keys(self, prefix: str | bytes = b"") -> Iterator[bytes]:
        """Iterate over the keys that start with ``prefix``, in order."""
        return (entry.key for entry in self.entries(prefix))

    def items(self, prefix: str | bytes = b"") -> Iterator[tuple[bytes, T]]:
        """Iterate over the keys that start with ``prefix`` and their values, in order."""
        return ((entry.key, entry.value) for entry in self.entries(prefix))

    def entries(self, prefix: str | bytes = b"") -> Iterator[Entry[T]]:
        """Iterate over the pairs whose keys start with ``prefix``, in order."""
        return self.snapshot().entries(prefix)

    def index(self, field: str) -> CacheIndex[T]:
        """Return the entries by the value of ``field``: ``view.index("zone")["eu"]``.

        The first call for a field looks at every entry; from then on the index moves with the changes.
        """
        return self.snapshot().index(field)


class CacheSnapshot(Reads[T]):
    """A range as of ``revision``, and as of every revision up to ``as_of``. Immutable; for any thread."""

    __slots__ = ("_as_of", "_entries", "_indexes", "_number", "_revision", "_undecodable")

    def __init__(
        self,
        entries: SortedMap[bytes, Entry[T]],
        *,
        revision: int,
        as_of: int,
        number: int = 0,
        undecodable: Mapping[bytes, DecodeError] = MappingProxyType({}),
    ) -> None:
        self._entries = entries
        self._revision = revision
        self._as_of = as_of
        self._number = number
        self._undecodable = undecodable
        # Filled by readers of any thread; one that is lost in a race is built again.
        self._indexes: dict[str, CacheIndex[T]] = {}

    @override
    def __repr__(self) -> str:
        """Show how much of what there is."""
        return f"<coord.CacheSnapshot of {len(self)} keys at revision {self._revision}>"

    @override
    def snapshot(self) -> CacheSnapshot[T]:
        """Return itself."""
        return self

    @property
    @override
    def revision(self) -> int:
        """The revision of the last reading or change; this is what the store holds at that revision."""
        return self._revision

    @property
    @override
    def as_of(self) -> int:
        """The newest revision at which the store is known to hold the same."""
        return self._as_of

    @property
    @override
    def undecodable(self) -> Mapping[bytes, DecodeError]:
        """What is wrong with the present values of which keys."""
        return self._undecodable

    @property
    def number(self) -> int:
        """Counts the snapshots of one cache that differ in their entries."""
        return self._number

    @override
    def entry(self, key: str | bytes) -> Entry[T] | None:
        """Return the pair at ``key`` with its revisions, None if there is none."""
        return self._entries.get(to_bytes(key, "key"))

    @override
    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._entries)

    @override
    def entries(self, prefix: str | bytes = b"") -> Iterator[Entry[T]]:
        """Iterate over the pairs whose keys start with ``prefix``, in order."""
        if not prefix:
            return self._entries.values()
        start, end = prefix_range(prefix)
        return self._entries.values(start, None if end == FROM_KEY else end)

    @override
    def index(self, field: str) -> CacheIndex[T]:
        """Return the entries by the value of ``field``."""
        known = self._indexes.get(field)
        if known is not None:
            return known
        made: CacheIndex[T] = index_of(field, self._entries.values())
        self._indexes[field] = made
        return made

    # For the cache.

    def changed(
        self,
        changes: Iterable[tuple[bytes, Entry[T] | None, Entry[T] | None]],
        *,
        revision: int,
        as_of: int,
        undecodable: Mapping[bytes, DecodeError],
    ) -> CacheSnapshot[T]:
        """Return the next one, after ``(key, old, new)`` of each."""
        listed = tuple(changes)
        entries = self._entries.updated({key: new for key, _, new in listed})
        return self.with_entries(
            entries, listed, revision=revision, as_of=as_of, undecodable=undecodable
        )

    def with_entries(
        self,
        entries: SortedMap[bytes, Entry[T]],
        listed: tuple[tuple[bytes, Entry[T] | None, Entry[T] | None], ...],
        *,
        revision: int,
        as_of: int,
        undecodable: Mapping[bytes, DecodeError],
    ) -> CacheSnapshot[T]:
        """As :meth:`changed`, by somebody who has the entries already."""
        made = CacheSnapshot(
            entries,
            revision=max(revision, self._revision),
            as_of=max(as_of, revision, self._as_of),
            number=self._number + bool(listed),
            undecodable=undecodable,
        )
        made._indexes.update(
            (field, index.updated(listed)) for field, index in self._indexes.copy().items()
        )
        return made

    def known_until(self, as_of: int) -> CacheSnapshot[T]:
        """Return the same, known to be true at ``as_of`` too."""
        made = CacheSnapshot(
            self._entries,
            revision=self._revision,
            as_of=as_of,
            number=self._number,
            undecodable=self._undecodable,
        )
        made._indexes = self._indexes
        return made

    def differences(
        self, newer: CacheSnapshot[T]
    ) -> list[tuple[bytes, Entry[T] | None, Entry[T] | None]]:
        """Return ``(key, old, new)`` of each key that is different in ``newer``."""
        return self._entries.differences(newer._entries)
