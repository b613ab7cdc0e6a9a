"""A watch that outlives compaction: what it missed is made good by a difference.

For that it has to know what it has told its reader: for each key that exists, the revisions of its creation and of
its last change. That is a dictionary entry with two numbers, some 250 bytes for each key of the range.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from coord.errors import Compacted, CoordTimeout, Unavailable
from coord.store.paging import Pages, reread
from coord.store.values import EventType, KeyValue, WatchBatch, WatchEvent

if TYPE_CHECKING:
    import asyncio

    from coord.runtime import Env
    from coord.store.kv import KV
    from coord.store.watch import WatchFeed, WatchMux, WatchSpec

State = dict[bytes, tuple[int, int]]
"""Key to the revisions of its creation and of its last change."""


def difference(known: State, items: list[KeyValue], revision: int) -> tuple[WatchEvent, ...]:
    """Return the events that turn ``known`` into ``items``, in the order of their revisions.

    A key that was deleted and created again is told as both.
    Nobody knows when a deletion was: its event carries the latest revision at which it can have been.
    """
    gone = dict(known)
    events: list[WatchEvent] = []
    for kv in items:
        before = gone.pop(kv.key, None)
        if before == (kv.create_revision, kv.mod_revision):
            continue
        if before is not None and before[0] != kv.create_revision:
            events.append(_deletion(kv.key, kv.create_revision - 1))
        events.append(WatchEvent(type=EventType.PUT, kv=kv))
    events += [_deletion(key, revision) for key in gone]
    events.sort(key=lambda event: event.kv.mod_revision)
    return tuple(events)


def _deletion(key: bytes, revision: int) -> WatchEvent:
    kv = KeyValue(key=key, value=b"", create_revision=0, mod_revision=revision, version=0)
    return WatchEvent(type=EventType.DELETE, kv=kv)


def note(state: State, events: tuple[WatchEvent, ...]) -> None:
    """Apply ``events`` to ``state``."""
    for event in events:
        if event.type is EventType.DELETE:
            state.pop(event.kv.key, None)
        else:
            state[event.kv.key] = (event.kv.create_revision, event.kv.mod_revision)


class ResyncFeed:
    """As a :class:`WatchFeed`, and goes on after a compaction. Lives on the runtime's loop.

    ``spec.start_revision`` must not lie in the future.
    """

    def __init__(self, mux: WatchMux, kv: KV, env: Env, spec: WatchSpec) -> None:
        self._mux = mux
        self._kv = kv
        self._env = env
        self.spec = spec
        # Filters are applied here: the state has to hear of everything.
        self._whole = replace(spec, no_put=False, no_delete=False)
        self._state: State = {}
        self._feed: WatchFeed | None = None
        self._inner_position = 0
        self._batches: deque[WatchBatch] = deque()
        self._taken = 0
        self._closed = False

    async def open(self) -> None:
        """Read what exists before the watch begins, and begin. Raises what a read raises."""
        start = self.spec.start_revision
        if start == 0:
            start = await self._load(None) + 1
        elif start > 1:
            try:
                await self._load(start - 1)
            except Compacted:
                # The start itself may be readable. What changed at it comes as its event, too.
                with contextlib.suppress(Compacted):  # else everything that exists is news
                    await self._load(start)
        self._feed = self._mux.open(replace(self._whole, start_revision=start))

    async def _load(self, revision: int | None) -> int:
        state: State = {}
        at = 0
        spec = self.spec
        async for page in Pages(self._kv, (spec.key, spec.end), revision=revision, keys_only=True):
            at = at or page.revision
            state.update((kv.key, (kv.create_revision, kv.mod_revision)) for kv in page.items)
        self._state = state
        return at

    @property
    def created(self) -> asyncio.Event:
        """Set once the server watches, or refuses to."""
        return self._open_feed().created

    @property
    def store_revision(self) -> int:
        """As of :class:`WatchFeed`."""
        feed = self._feed
        return 0 if feed is None else feed.store_revision

    def reached(self, position: int) -> int | None:
        """As :meth:`WatchFeed.reached`."""
        feed = self._feed
        if feed is None:
            return None
        revision = feed.reached(self._inner_position)
        return revision if self._taken + len(self._batches) <= position else None

    async def read(self, position: int) -> tuple[tuple[WatchBatch, ...], int]:
        """As :meth:`WatchFeed.read`; a difference comes as a batch with ``resync``."""
        for _ in range(position - self._taken):
            self._batches.popleft()
        self._taken = position
        while not self._batches:
            feed = self._open_feed()
            try:
                batches, inner = await feed.read(self._inner_position)
            except Compacted:
                # A cancelled reader comes here again.
                self._batches.append(await self._resync())
                break
            # No await from here: it has been taken over as a whole, or not at all.
            self._inner_position = inner
            for batch in batches:
                note(self._state, batch.events)
                self._queue(batch)
        return tuple(self._batches), self._taken + len(self._batches)

    def _queue(self, batch: WatchBatch) -> None:
        kept = self._filtered(batch)
        if kept.events or not batch.events:
            self._batches.append(kept)

    def _filtered(self, batch: WatchBatch) -> WatchBatch:
        unwanted = {
            kind
            for kind, is_unwanted in (
                (EventType.PUT, self.spec.no_put),
                (EventType.DELETE, self.spec.no_delete),
            )
            if is_unwanted
        }
        if not unwanted:
            return batch
        return replace(batch, events=tuple([e for e in batch.events if e.type not in unwanted]))

    async def _resync(self) -> WatchBatch:
        """Read the range, go on behind it, and return what is different from what was told."""
        backoff = reread(self._env.rand)
        while True:
            items: list[KeyValue] = []
            revision = 0
            try:
                async for page in Pages(self._kv, (self.spec.key, self.spec.end)):
                    revision = revision or page.revision
                    items += page.items
                break
            except (Unavailable, CoordTimeout):
                await backoff.pause()
            except Compacted:
                continue
        batch = WatchBatch(
            events=difference(self._state, items, revision), revision=revision, resync=True
        )
        feed = self._mux.open(replace(self._whole, start_revision=revision + 1))
        self._state = {kv.key: (kv.create_revision, kv.mod_revision) for kv in items}
        self._feed, self._inner_position = feed, 0
        if self._closed:
            feed.close()
        return self._filtered(batch)

    def _open_feed(self) -> WatchFeed:
        feed = self._feed
        if feed is None:
            raise RuntimeError("open() comes first")
        return feed

    def close(self) -> None:
        """End the watch. Safe to call twice."""
        self._closed = True
        if self._feed is not None:
            self._feed.close()
