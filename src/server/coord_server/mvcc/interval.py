"""Which half-open ranges contain a key: a sorted list of ranges, in blocks that know how far they reach.

A question walks over the blocks that begin at or before the key, and looks only into those whose
farthest end lies beyond it. A handful of prefixes is one block; thousands of disjoint prefixes cost
one comparison per block and one block's scan; a change touches one block. Ranges without an end have
a list of their own, where the answer is a plain prefix of the list.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, Generic, TypeVar

from coord.runtime import invariant

T = TypeVar("T")

# A block is split in two at this size: scans stay short, and so do insertions.
_BLOCK_LIMIT: Final = 128
_NO_END: Final = b"\x00"


class _Block(Generic[T]):
    """Some neighbouring ranges in order of (start, end); ``reach`` is the greatest end."""

    __slots__ = ("bounds", "items", "reach")

    def __init__(self, bounds: list[tuple[bytes, bytes]], items: list[T]) -> None:
        self.bounds = bounds
        self.items = items
        self.reach = max(end for _, end in bounds)


class IntervalIndex(Generic[T]):
    """A map from ranges to items, one item to a range, that finds all ranges around a key.

    A range is ``[start, end)``; the end None means that it has none.
    """

    __slots__ = ("_blocks", "_open_items", "_open_starts", "_size")

    def __init__(self) -> None:
        self._blocks: list[_Block[T]] = []
        self._open_starts: list[bytes] = []
        self._open_items: list[T] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def items(self) -> list[T]:
        """Return all items: ranges by start and end, then those without an end."""
        return [*(item for block in self._blocks for item in block.items), *self._open_items]

    def add(self, start: bytes, end: bytes | None, item: T) -> None:
        """Add a range. It must not be there yet, and must not be empty."""
        self._size += 1
        if end is None:
            place = bisect_left(self._open_starts, start)
            invariant(self._open_starts[place : place + 1] != [start], "a range is added once")
            self._open_starts.insert(place, start)
            self._open_items.insert(place, item)
            return
        bound = (start, end)
        if not self._blocks:
            self._blocks.append(_Block([bound], [item]))
            return
        number = max(0, bisect_right(self._blocks, bound, key=_first_bound) - 1)
        block = self._blocks[number]
        place = bisect_left(block.bounds, bound)
        invariant(block.bounds[place : place + 1] != [bound], "a range is added once")
        block.bounds.insert(place, bound)
        block.items.insert(place, item)
        block.reach = max(block.reach, end)
        if len(block.bounds) > _BLOCK_LIMIT:
            half = _BLOCK_LIMIT // 2
            self._blocks[number : number + 1] = [
                _Block(block.bounds[:half], block.items[:half]),
                _Block(block.bounds[half:], block.items[half:]),
            ]

    def remove(self, start: bytes, end: bytes | None) -> None:
        """Remove a range that is there."""
        self._size -= 1
        if end is None:
            place = bisect_left(self._open_starts, start)
            invariant(self._open_starts[place : place + 1] == [start], "only what is there goes")
            del self._open_starts[place]
            del self._open_items[place]
            return
        bound = (start, end)
        number = max(0, bisect_right(self._blocks, bound, key=_first_bound) - 1)
        block = self._blocks[number]
        place = bisect_left(block.bounds, bound)
        invariant(block.bounds[place : place + 1] == [bound], "only what is there goes")
        del block.bounds[place]
        del block.items[place]
        if not block.bounds:
            del self._blocks[number]
        elif end == block.reach:
            block.reach = max(end for _, end in block.bounds)

    def get(self, start: bytes, end: bytes | None) -> T | None:
        """Return the item of exactly this range, or None."""
        if end is None:
            place = bisect_left(self._open_starts, start)
            there = self._open_starts[place : place + 1] == [start]
            return self._open_items[place] if there else None
        if not self._blocks:
            return None
        bound = (start, end)
        block = self._blocks[max(0, bisect_right(self._blocks, bound, key=_first_bound) - 1)]
        place = bisect_left(block.bounds, bound)
        return block.items[place] if block.bounds[place : place + 1] == [bound] else None

    def stab(self, key: bytes) -> list[T]:
        """Return the items of all ranges that contain the key, in order of their start."""
        found: list[T] = []
        after = (key + b"\x00", b"")  # no range that starts at or before the key sorts higher
        for block in self._blocks:
            bounds = block.bounds
            if bounds[0] >= after:
                break
            if block.reach > key:
                stop = bisect_left(bounds, after)
                for place in range(stop):
                    if bounds[place][1] > key:
                        found.append(block.items[place])  # noqa: PERF401 - extend builds a generator
        if self._open_starts:
            found += self._open_items[: bisect_right(self._open_starts, key)]
        return found


def _first_bound(block: _Block[T]) -> tuple[bytes, bytes]:
    return block.bounds[0]


class RangeMap(Generic[T]):
    """A map from ranges as requests write them to items, that finds all ranges around a key.

    In a request no end means the one key, and a zero byte as the end means that there is no end.
    """

    __slots__ = ("_keys", "_ranges")

    def __init__(self) -> None:
        self._keys: dict[bytes, T] = {}
        self._ranges: IntervalIndex[T] = IntervalIndex()

    def __len__(self) -> int:
        return len(self._keys) + len(self._ranges)

    def items(self) -> list[T]:
        """Return all items, in no particular order that could depend on anything but the calls."""
        return [*self._keys.values(), *self._ranges.items()]

    def get(self, key: bytes, end: bytes) -> T | None:
        """Return the item of exactly this range, or None."""
        if not end:
            return self._keys.get(key)
        return self._ranges.get(key, None if end == _NO_END else end)

    def add(self, key: bytes, end: bytes, item: T) -> None:
        """Add a range that is not there and not empty."""
        if end:
            self._ranges.add(key, None if end == _NO_END else end, item)
        else:
            self._keys[key] = item

    def remove(self, key: bytes, end: bytes) -> None:
        """Remove a range that is there."""
        if end:
            self._ranges.remove(key, None if end == _NO_END else end)
        else:
            del self._keys[key]

    def around(self, key: bytes) -> list[T]:
        """Return the items of all ranges that contain the key."""
        found = self._ranges.stab(key) if len(self._ranges) else []
        item = self._keys.get(key)
        if item is not None:
            found.append(item)
        return found
