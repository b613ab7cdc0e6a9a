"""Which items may be claimed, in which order: rules without I/O, fed with what a view shows."""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.recipes.work_queue.layout import Attempts, priority_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord.cache import CacheBatch, CacheSnapshot
    from coord.codec.values import Entry
    from coord.recipes.work_queue.layout import Layout

_MS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An item that may be claimed, as the view shows it."""

    id: bytes
    item: Entry[bytes]
    attempts: Attempts
    attempts_revision: int
    is_delayed: bool
    since: float
    """Since when it may be claimed, as far as we have seen, in monotonic seconds."""

    @property
    def state(self) -> tuple[int, int]:
        """What a claim compares; it never comes back, once a claim has succeeded or failed."""
        return self.item.create_revision, self.attempts_revision


class Agenda:
    """The items of one queue that nobody has claimed: those that may be had, and those that have to wait."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # In the order of claims: priority, age, id.
        self._ready: list[tuple[int, int, bytes]] = []
        self._places: dict[bytes, tuple[int, int, bytes]] = {}
        self._since: dict[bytes, float] = {}
        # By the time at which they are due; what has changed meanwhile stays until it comes up.
        self._waiting: list[tuple[int, bytes]] = []
        self._tried: dict[bytes, tuple[int, int]] = {}

    def start(self, snapshot: CacheSnapshot[bytes], now: float, wall: float) -> None:
        """Begin with what there is; ``now`` is monotonic, ``wall`` in seconds since 1970."""
        self._ready, self._places, self._since, self._waiting = [], {}, {}, []
        for entry in snapshot.entries(self._layout.items):
            item_id = entry.key[len(self._layout.items) :]
            place = self._place(item_id, snapshot, wall)
            if place is not None:
                self._ready.append(place)
                self._places[item_id] = place
                self._since[item_id] = now
        self._ready.sort()

    def feed(
        self, batch: CacheBatch[bytes], snapshot: CacheSnapshot[bytes], now: float, wall: float
    ) -> None:
        """Take note of what has changed; ``snapshot`` is as of the batch or later."""
        touched = {self._layout.id_in(change.key) for change in batch.changes}
        for item_id in touched - {None}:
            if item_id is not None:
                self._touch(item_id, snapshot, now, wall)

    def promote(self, snapshot: CacheSnapshot[bytes], now: float, wall: float) -> None:
        """Make those ready whose time has come."""
        while self._waiting and self._waiting[0][0] / _MS <= wall:
            self._touch(heapq.heappop(self._waiting)[1], snapshot, now, wall)

    def due_in(self, wall: float) -> float | None:
        """Return in how many seconds somebody's time comes, None for nobody's."""
        return self._waiting[0][0] / _MS - wall if self._waiting else None

    def ready(self, snapshot: CacheSnapshot[bytes]) -> Iterator[Candidate]:
        """Iterate over what may be claimed, the first to be claimed first."""
        for _, _, item_id in self._ready:
            candidate = self._candidate(item_id, snapshot)
            if candidate is not None:
                yield candidate

    def tried(self, candidate: Candidate) -> None:
        """Take note that a claim in this state has succeeded, or failed for good."""
        self._tried[candidate.id] = candidate.state

    def _candidate(self, item_id: bytes, snapshot: CacheSnapshot[bytes]) -> Candidate | None:
        item = snapshot.entry(self._layout.items + item_id)
        if item is None or snapshot.entry(self._layout.claims + item_id) is not None:
            return None  # the snapshot is newer than what we were fed with
        found = snapshot.entry(self._layout.attempts + item_id)
        candidate = Candidate(
            id=item_id,
            item=item,
            attempts=Attempts() if found is None else Attempts.decode(found.value),
            attempts_revision=0 if found is None else found.mod_revision,
            is_delayed=snapshot.entry(self._layout.delay + item_id) is not None,
            since=self._since.get(item_id, 0.0),
        )
        return None if self._tried.get(item_id) == candidate.state else candidate

    def _touch(
        self, item_id: bytes, snapshot: CacheSnapshot[bytes], now: float, wall: float
    ) -> None:
        place = self._place(item_id, snapshot, wall)
        known = self._places.get(item_id)
        if known is not None and known != place:
            del self._ready[bisect.bisect_left(self._ready, known)]
            del self._places[item_id], self._since[item_id]
        if place is not None and known != place:
            bisect.insort(self._ready, place)
            self._places[item_id] = place
            self._since[item_id] = now
        if item_id in self._tried:
            self._forget_try(item_id, snapshot)

    def _forget_try(self, item_id: bytes, snapshot: CacheSnapshot[bytes]) -> None:
        item = snapshot.entry(self._layout.items + item_id)
        attempts = snapshot.entry(self._layout.attempts + item_id)
        revision = 0 if attempts is None else attempts.mod_revision
        if item is None or self._tried[item_id] != (item.create_revision, revision):
            del self._tried[item_id]

    def _place(
        self, item_id: bytes, snapshot: CacheSnapshot[bytes], wall: float
    ) -> tuple[int, int, bytes] | None:
        item = snapshot.entry(self._layout.items + item_id)
        if item is None or snapshot.entry(self._layout.claims + item_id) is not None:
            return None
        delay = snapshot.entry(self._layout.delay + item_id)
        if delay is not None and delay.value.isdigit() and int(delay.value) / _MS > wall:
            heapq.heappush(self._waiting, (int(delay.value), item_id))
            return None
        return priority_of(item_id), item.create_revision, item_id
