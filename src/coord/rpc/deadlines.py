"""Many deadlines, one timer: a wheel with slots of ten milliseconds.

Nearly all calls end long before their deadline, so adding and removing must be cheap and leave
nothing behind; firing may be late by a slot, and never is early.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Final

SLOTS_PER_S: Final = 100
# The slot of an infinite deadline; no clock gets there.
_NEVER: Final = 1 << 60


class DeadlineWheel:
    """Deadlines of stream ids, in the seconds of a monotonic clock."""

    __slots__ = ("_due", "_slots", "next_at")

    def __init__(self) -> None:
        # Slot number -> the ids in it, in the order they were added.
        self._slots: dict[int, dict[int, None]] = {}
        self._due: list[int] = []  # heap of the slots' numbers
        self.next_at: float = math.inf  # when to call pop_due next, at the latest

    def add(self, when: float, key: int) -> int:
        """Remember ``key``; returns the slot, which ``remove`` wants."""
        # The end of the slot: everything in it is due then.
        try:
            slot = int(when * SLOTS_PER_S) + 1
        except OverflowError:
            slot = _NEVER
        keys = self._slots.get(slot)
        if keys is None:
            self._slots[slot] = {key: None}
            heappush(self._due, slot)
            if slot < self.next_at * SLOTS_PER_S:
                self.next_at = self._due[0] / SLOTS_PER_S
        else:
            keys[key] = None
        return slot

    def remove(self, slot: int, key: int) -> None:
        """Forget ``key``, which may have gone already."""
        keys = self._slots.get(slot)
        if keys is not None:
            keys.pop(key, None)

    def pop_due(self, now: float) -> list[int]:
        """Return the ids whose deadline has passed, earliest slot first, and forget them."""
        due: list[int] = []
        heap = self._due
        while heap:
            slot = heap[0]
            keys = self._slots[slot]
            # Slots that emptied meanwhile need no timer of their own.
            if keys and slot / SLOTS_PER_S > now:
                break
            heappop(heap)
            del self._slots[slot]
            due.extend(keys)
        self.next_at = heap[0] / SLOTS_PER_S if heap else math.inf
        return due
