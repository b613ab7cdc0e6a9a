"""What takes the items of one queue object: it follows the queue, and tries its head when it is its turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, cast

from coord.cache import Cache
from coord.cache.mirror import Limits
from coord.errors import (
    AmbiguousResult,
    CacheOverflow,
    ClientClosed,
    CoordError,
    CoordTimeout,
    Unavailable,
)
from coord.recipes.consumers import Enrolment
from coord.recipes.queues.items import QueueItem, item_of
from coord.recipes.turns import Turns
from coord.store import operations as op
from coord.store.comparing import mod_revision
from coord.store.keys import prefix_range
from coord.store.marker import Marked
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.cache import Changes, Mirrors
    from coord.codec.values import Entry
    from coord.coordination import Coordination
    from coord.recipes.queues.orders import Order
    from coord.recipes.queues.producer import Producer
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.values import KeyValue

LIMITS = Limits(max_keys=1_000_000, max_bytes=1 << 30)
# A wall clock may be set while somebody waits for it.
_LONGEST_WAIT_S = 30.0

Taken = QueueItem | CoordError | None
"""How a take ended: the item, that it failed, or that somebody else was faster."""


class Consumer:
    """Takes items of one queue. On the runtime's loop."""

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        order: Order,
        *,
        producer: Producer,
    ) -> None:
        self._home = home
        self._mirrors = mirrors
        self._order = order
        self._producer = producer
        self._clock = home.env.clock
        self._getters = 0
        self._line = asyncio.Lock()  # wakes its waiters in order
        self._flight: asyncio.Task[Taken] | None = None
        self._spare: deque[QueueItem] = deque()
        self._hint: Entry[bytes] | None = None
        self._gone: dict[bytes, int] = {}
        self._news = asyncio.Event()
        self._view: Cache[bytes] | None = None
        self._follower: asyncio.Task[object] | None = None
        self._turns = Turns()
        self._enrolment = Enrolment(home, mirrors, producer.name, self._turns)
        self._has_served = False
        self._is_too_large = False
        self._failed: CoordError | None = None
        self._head: tuple[bytes, float] = (b"", 0.0)
        self._returns: set[asyncio.Task[object]] = set()
        self._closed = False
        self._forget: Callable[[], None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether something has to be closed."""
        return self._forget is not None

    # -- getters ---------------------------------------------------------------------------------------------------

    async def get(self) -> QueueItem:
        """Wait for an item and take it."""
        self._getters += 1
        try:
            async with self._line:
                return await self._next()
        finally:
            self._getters -= 1
            self._leave()

    async def try_get(self) -> QueueItem | None:
        """Take the first item if there is one that may be taken now."""
        while True:
            self._check()
            entry = self._hint
            if entry is None and self._view is not None:
                entry = self._order.head(self._view.snapshot(), self._gone)
            if entry is None or self._order.due_in(entry) > 0:
                entry = await self.read_first()  # the view may be a moment behind
            if entry is None or self._order.due_in(entry) > 0:
                return None
            flight = self._begin(entry, insistent=False)
            try:
                await asyncio.wait({flight})
            except BaseException:
                flight.add_done_callback(self._hand_on)
                raise
            if (item := _outcome(flight)) is not None:
                return item

    async def _next(self) -> QueueItem:
        while True:
            self._check()
            if self._spare:
                return self._spare.popleft()
            if self._flight is None:
                entry = await self._candidate()
                if entry is None:
                    continue
                self._flight = self._begin(entry, insistent=True)
            # A getter that goes away in this moment leaves the flight to the next one.
            await asyncio.wait({self._flight})
            flight, self._flight = self._flight, None
            item = _outcome(flight)
            if item is not None:
                self._has_served = True
                return item

    def _leave(self) -> None:
        """See to it that nothing is lost that the last getter has left behind."""
        if self._getters:
            return
        while self._spare:
            self.give_back(self._spare.popleft())
        flight = self._flight
        if flight is not None:
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[Taken]) -> None:
        if self._flight is flight and not self._getters:
            self._flight = None
            self._hand_on(flight)

    def _hand_on(self, flight: asyncio.Task[Taken]) -> None:
        """Find a use for what a take has brought whose getter has gone."""
        if not flight.cancelled() and isinstance(taken := flight.result(), QueueItem):
            self.give_back(taken)

    def give_back(self, item: QueueItem) -> None:
        """Give an item to the next getter, or put it back into the queue."""
        if self._getters:
            self._spare.append(item)
            self._news.set()
            return
        task = self._home.background(self._put_back(item), name="queue-return")
        if task is not None:
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)

    async def _put_back(self, item: QueueItem) -> None:
        while True:
            try:
                await self._producer.put_back(item)
            except (Unavailable, CoordTimeout):
                await self._pause()
            except AmbiguousResult as error:
                if await self._resolved(error) is not False:
                    return
            else:
                return

    # -- the head --------------------------------------------------------------------------------------------------

    async def _candidate(self) -> Entry[bytes] | None:
        """Wait until there is an item whose turn it is, or one to spare (None)."""
        while not self._spare:
            self._check()
            if self._hint is not None:
                hint, self._hint = self._hint, None
                return hint
            view = self._view
            if view is None:
                entry = await self._one_off()
                if entry is not None:
                    return entry
                continue
            self._news.clear()
            within = _LONGEST_WAIT_S
            entry = self._order.head(view.snapshot(), self._gone)
            if entry is not None:
                wait = self._wait_for(entry)
                if wait <= 0:
                    return entry
                within = min(within, wait)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._news.wait()
        return None

    def _wait_for(self, entry: Entry[bytes]) -> float:
        """Return for how many seconds an item is not ours to try; 0 or less if it is."""
        now, due = self._clock.mono(), self._order.due_in(entry)
        self._note_head(entry, now)
        if due > 0:
            return due
        has_been = min(now - self._head[1], -due)
        return self._turns.wait(entry.key, now) - has_been

    def _note_head(self, entry: Entry[bytes] | None, now: float) -> None:
        key = b"" if entry is None else entry.key
        if key != self._head[0]:
            self._head = (key, now)

    async def _one_off(self) -> Entry[bytes] | None:
        """Take from a single read, where a view does not pay or fit; else open one."""
        if self._is_too_large or not self._has_served:
            try:
                entry = await self.read_first()
            except (Unavailable, CoordTimeout):
                await self._pause()
                return None
            if entry is not None and self._order.due_in(entry) <= 0:
                return entry
        try:
            await self._open()
        except CacheOverflow:
            self._is_too_large = True
            await self._pause()
        return None

    async def read_first(self) -> KeyValue | None:
        """Read the head, as of now."""
        items = await self.read(1)
        return items[0] if items else None

    async def read(self, limit: int) -> list[KeyValue]:
        """Read the first items, as of now, in their order."""
        result = await self._home.txn.run((), (self._order.first(limit),))
        items = list(result.range(0).items)
        ties = self._order.ties(items)
        if ties is not None:
            known = {kv.key for kv in items}
            more = (await self._home.txn.run((), (ties,))).range(0).items
            items += [kv for kv in more if kv.key not in known]
        return self._order.sort(items)[:limit]

    # -- taking ----------------------------------------------------------------------------------------------------

    def _begin(self, entry: Entry[bytes], *, insistent: bool) -> asyncio.Task[Taken]:
        """Start a take, which goes on whoever waits for it."""
        task = self._home.background(self._take(entry, insistent=insistent), name="queue-take")
        if task is None:
            raise ClientClosed
        return cast("asyncio.Task[Taken]", task)

    async def _take(self, entry: Entry[bytes], *, insistent: bool) -> Taken:
        look = (self._order.first(1),) if self._order.is_strict else ()
        when = (mod_revision(entry.key) == entry.mod_revision, *self._order.conditions(entry))
        try:
            done = await self._settled(when, (op.delete(entry.key),), look, insistent=insistent)
        except CoordError as error:
            return error
        if done.applied:
            self._note_gone(entry)
            now = self._clock.mono()
            if now - self._head[1] >= self._turns.wait(entry.key, now):
                self._turns.passed(entry.key, now)
            return item_of(entry)
        if done.result is not None:
            self._lost(entry, done)
        return None

    def _lost(self, entry: Entry[bytes], done: Marked) -> None:
        """Take note of why a take failed: the item is gone, or there is one ahead of it."""
        self._turns.lost(self._clock.mono())
        if not self._order.is_strict:
            self._note_gone(entry)
        elif done.result is not None:
            items = done.result.range(0).items
            if items and self._order.due_in(items[0]) <= 0:
                self._hint = items[0]
            elif not items or items[0].key > entry.key:
                self._note_gone(entry)

    def _note_gone(self, entry: Entry[bytes]) -> None:
        shown = None if self._view is None else self._view.entry(entry.key)
        if shown is not None and shown.mod_revision == entry.mod_revision:
            self._gone[entry.key] = entry.mod_revision

    async def _settled(
        self,
        when: tuple[Compare, ...],
        then: tuple[Op, ...],
        otherwise: tuple[Op, ...],
        *,
        insistent: bool,
    ) -> Marked:
        """Run a marked transaction until its outcome is known, for as long as somebody wants it."""
        while True:
            try:
                return await self._home.core.markers.run(when, then, otherwise)
            except (Unavailable, CoordTimeout):
                if not insistent:
                    raise
                if not self._getters:
                    return Marked(applied=False, revision=0)
                await self._pause()
            except AmbiguousResult as error:
                applied = await self._resolved(error)
                if applied is None:
                    raise
                return Marked(applied=applied, revision=0)

    async def _resolved(self, error: AmbiguousResult) -> bool | None:
        """Find out whether it was applied, however long that takes; None when nobody can know any more."""
        while True:
            try:
                found = await error.resolve()
            except (Unavailable, CoordTimeout, AmbiguousResult):
                await self._pause()
            except CoordError:
                return None  # the marker's lease has ended, and all evidence with it
            else:
                if found is None:
                    return False
                return True if isinstance(found, int) else None

    def _pause(self) -> Awaitable[None]:
        return self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)

    # -- the view --------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        start, end = prefix_range(self._order.prefix)
        view: Cache[bytes] = Cache(
            self._mirrors, start, end, codec=None, limits=LIMITS, timeout=None
        )
        await view.open()
        if self._closed:
            view.close()
            return
        changes = view.changes()
        self._order.start(view.snapshot())
        self._gone.clear()
        self._view = view
        self._follower = self._home.background(self._follow(changes), name="queue-view")
        self._enrolment.begin()
        if self._forget is None:
            self._forget = self._home.core.at_close(self.close)

    async def _follow(self, changes: Changes[bytes]) -> None:
        try:
            async for batch in changes:
                self._order.feed(batch)
                for change in batch.changes:
                    if change.new is None or change.new.mod_revision != self._gone.get(change.key):
                        self._gone.pop(change.key, None)
                if self._view is not None:
                    head = self._order.head(self._view.snapshot(), self._gone)
                    self._note_head(head, self._clock.mono())
                self._news.set()
        except CacheOverflow:
            self._is_too_large = True
            self._drop_view()
        except CoordError as error:
            self._failed = error
        self._news.set()

    def _drop_view(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()

    # -- the end ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise ClientClosed("the queue")
        if self._failed is not None:
            raise self._failed

    async def close(self) -> None:
        """End it: getters raise :class:`ClientClosed`, takes under way come to their end, and the view closes."""
        self._closed = True
        self._news.set()
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()
        if self._flight is not None:
            await asyncio.wait({self._flight})
            await asyncio.sleep(0)  # what it has brought goes to a getter, or back
        while self._returns:
            await asyncio.wait(self._returns)
        if self._follower is not None:
            self._follower.cancel()
        self._drop_view()
        await self._enrolment.end()

    def close_soon(self) -> None:
        """Close in the background."""
        self._home.background(self.close(), name="queue-close")


def _outcome(flight: asyncio.Task[Taken]) -> QueueItem | None:
    if flight.cancelled():
        raise ClientClosed
    taken = flight.result()
    if isinstance(taken, CoordError):
        raise taken
    return taken
