"""An immutable sorted map that shares what did not change with the maps it came from.

Two levels: sorted chunks of at most ``_MAX`` keys, and a list of them.
Changing a key copies its chunk and the list of chunks: for a million keys that is two copies of some 4,000 pointers,
a few tens of microseconds, done by ``memcpy``. Reading is two binary searches in C.
A tree with more levels would copy less and read slower; this one is read far more often than it is changed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

K = TypeVar("K")  # of one order: bytes or int
V = TypeVar("V")

_MAX = 512
_TARGET = _MAX // 2


class _Chunk(NamedTuple):
    """Keys and their values, side by side. Never changed once it is in a map."""

    keys: list[Any]
    values: list[Any]


class SortedMap(Generic[K, V]):
    """See the module. Safe to read from any thread."""

    __slots__ = ("_chunks", "_firsts", "_size")

    def __init__(self, keys: Sequence[K] = (), values: Sequence[V] = ()) -> None:
        """Make a map of ``keys``, which rise strictly, and their values."""
        self._chunks = _split(list(keys), list(values))
        self._firsts: list[Any] = [chunk.keys[0] for chunk in self._chunks]
        self._size = len(keys)

    def __len__(self) -> int:
        """Return the number of keys."""
        return self._size

    def get(self, key: K) -> V | None:
        """Return the value at ``key``, None if there is none."""
        place = bisect_right(self._firsts, key) - 1
        if place < 0:
            return None
        keys, values = self._chunks[place]
        at = bisect_left(keys, key)
        return values[at] if at < len(keys) and keys[at] == key else None

    def values(self, start: K | None = None, end: K | None = None) -> Iterator[V]:
        """Iterate over the values of ``[start, end)`` in the order of their keys."""
        place = 0 if start is None else max(0, bisect_right(self._firsts, start) - 1)
        for keys, values in self._chunks[place:]:
            if end is not None and keys[0] >= end:
                return
            low = 0 if start is None else bisect_left(keys, start)
            high = len(keys) if end is None else bisect_left(keys, end)
            yield from values[low:high]

    def updated(self, changes: Mapping[K, V | None]) -> SortedMap[K, V]:
        """Return a map with these changes; None takes a key out, and may do so where there is none."""
        if not changes:
            return self
        if not self._chunks:
            present = [(key, value) for key, value in changes.items() if value is not None]
            present.sort(key=_first)
            return SortedMap([key for key, _ in present], [value for _, value in present])
        by_chunk: dict[int, list[K]] = {}
        for key in changes:
            by_chunk.setdefault(max(0, bisect_right(self._firsts, key) - 1), []).append(key)
        chunks, firsts, size = self._chunks.copy(), self._firsts.copy(), self._size
        # From the end, so that the places before stay where they are.
        for place in sorted(by_chunk, reverse=True):
            old = chunks[place]
            made = _changed(old, by_chunk[place], changes)
            size += len(made.keys) - len(old.keys)
            low, high = place, place + 1
            if len(made.keys) < _TARGET // 2 and place > 0:
                # Or chunks of one key would be left where ranges were deleted.
                low -= 1
                before = chunks[low]
                made = _Chunk(before.keys + made.keys, before.values + made.values)
                if low in by_chunk:
                    # Its own changes come next, on the joined chunk.
                    chunks[low:high], firsts[low:high] = [made], [firsts[low]]
                    continue
            parts = _split(made.keys, made.values)
            chunks[low:high] = parts
            firsts[low:high] = [part.keys[0] for part in parts]
        result: SortedMap[K, V] = SortedMap()
        result._chunks, result._firsts, result._size = chunks, firsts, size
        return result

    def differences(self, newer: SortedMap[K, V]) -> list[tuple[K, V | None, V | None]]:
        """Return ``(key, value here, value in newer)`` for each key whose value is another object, in order.

        Costs what is different, when one came from the other, and one look at each chunk.
        """
        shared = {id(chunk) for chunk in self._chunks} & {id(chunk) for chunk in newer._chunks}
        before = _pairs(self._chunks, shared)
        after = _pairs(newer._chunks, shared)
        found = [
            (key, before.get(key), value)
            for key, value in after.items()
            if before.get(key) is not value
        ]
        found += [(key, value, None) for key, value in before.items() if key not in after]
        found.sort(key=_first)
        return found


def _first(item: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a key
    return item[0]


def _split(keys: list[Any], values: list[Any]) -> list[_Chunk]:
    if len(keys) <= _MAX:
        return [_Chunk(keys, values)] if keys else []
    return [
        _Chunk(keys[at : at + _TARGET], values[at : at + _TARGET])
        for at in range(0, len(keys), _TARGET)
    ]


def _changed(old: _Chunk, touched: list[Any], changes: Mapping[Any, Any]) -> _Chunk:
    keys, values = old.keys.copy(), old.values.copy()
    for key in touched:
        value = changes[key]
        at = bisect_left(keys, key)
        there = at < len(keys) and keys[at] == key
        if value is None:
            if there:
                del keys[at], values[at]
        elif there:
            values[at] = value
        else:
            keys.insert(at, key)
            values.insert(at, value)
    return _Chunk(keys, values)


def _pairs(chunks: Iterable[_Chunk], shared: set[int]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for chunk in chunks:
        if id(chunk) not in shared:
            found.update(zip(chunk.keys, chunk.values, strict=True))
    return found
