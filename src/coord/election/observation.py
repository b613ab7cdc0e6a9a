"""Following the leadership: the leader now, and every change of leader or value (spec recipes 7, observe)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.election.term import Leader
from coord.errors import Compacted, CoordTimeout, RequestRefused, Unavailable
from coord.store import operations as op
from coord.store.keys import prefix_end
from coord.store.kv import SortBy
from coord.store.values import EventType
from coord.store.watch import WatchSpec
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.store.watch import WatchFeed


class Observation:
    """The state of one ``observe()``: on the runtime's loop."""

    def __init__(self, home: Coordination, prefix: bytes) -> None:
        self._home = home
        self._prefix = prefix
        self._feed: WatchFeed | None = None
        self._leader: Leader | None = None
        self._shown: Leader | None = None
        self._is_shown = False
        self._seen = 0
        self._back: list[Leader | None] = []

    def put_back(self, leader: Leader | None) -> None:
        """Keep what a cancelled caller did not get to see."""
        self._back.append(leader)

    def close_soon(self) -> None:
        """End the watch, from any loop."""
        if not self._home.runtime.on_runtime():
            self._home.runtime.post(self._close)
        else:
            self._close()

    def _close(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    async def next(self) -> Leader | None:
        """Return the next state that differs from the last one."""
        if self._back:
            return self._back.pop()
        while True:
            if self._feed is None:
                known = await self._resync()
            else:
                known = await self._advance(self._feed)
            # Several changes may have come at once, and the last of them have undone the first.
            if known and not (self._is_shown and self._leader == self._shown):
                self._is_shown, self._shown = True, self._leader
                return self._leader

    async def _resync(self) -> bool:
        """Read the first entry and watch from there; say whether the store has answered."""
        look = op.get_prefix(self._prefix, sort_by=SortBy.CREATE_REVISION, limit=1)
        try:
            result = await self._home.txn.run((), (look,))
        except (Unavailable, CoordTimeout):
            await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)
            return False
        items = result.range(0).items
        self._close()
        self._feed = self._home.watches.open(
            WatchSpec(
                key=self._prefix, end=prefix_end(self._prefix), start_revision=result.revision + 1
            )
        )
        self._seen = result.revision
        self._leader = Leader.of(items[0]) if items else None
        return True

    async def _advance(self, feed: WatchFeed) -> bool:
        """Take one batch of events; say whether it is known who leads now."""
        try:
            batch = await feed.next()
        except (Compacted, RequestRefused):
            self._close()
            return False
        for event in batch.events:
            if event.revision <= self._seen:
                continue
            is_leader_s = self._leader is not None and event.kv.key == self._leader.key
            if event.type is EventType.DELETE:
                if is_leader_s:
                    # Who is next is not in the event: ask, and skip what that answer already covers.
                    self._close()
                    return await self._resync()
            elif is_leader_s or self._leader is None:
                self._leader = Leader.of(event.kv)
        return True
