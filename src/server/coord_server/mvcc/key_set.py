"""A set of keys given by intervals, for transactions that delete many of them.

A request of allowed size can hold tens of thousands of deletes and puts, so asking each interval for
each key would hold up the member for minutes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import final


@final
class KeySet:
    """The union of half-open intervals of keys, kept as disjoint ones in order."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, key: bytes) -> bool:
        place = bisect_right(self._starts, key) - 1
        return place >= 0 and key < self._ends[place]

    def add(self, start: bytes, end: bytes) -> None:
        """Add ``[start, end)``; nothing if that is empty."""
        if end <= start:
            return
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def add_key(self, key: bytes) -> None:
        """Add one key."""
        self.add(key, key + b"\x00")

    def update(self, other: KeySet) -> None:
        """Add all intervals of another set."""
        for start, end in zip(other._starts, other._ends, strict=True):
            self.add(start, end)
