"""What takes the items of one queue object: it follows the queue, and tries its head when it is its turn.

Getters that wait at the same time are served by one transaction, which takes the head and those that follow it.
So the order holds as if each had been taken by itself; and nobody else's turn is disturbed, since every take begins
with the head.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from functools import partial
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
from coord.store.marker import MARKER_OPS, Marked
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from coord.cache import Changes, Mirrors
    from coord.codec.values import Entry
    from coord.coordination import Coordination
    from coord.recipes.queues.orders import Order
    from coord.recipes.queues.producer import Producer
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue

LIMITS = Limits(max_keys=1_000_000, max_bytes=1 << 30)
# A wall clock may be set while somebody waits for it.
_LONGEST_WAIT_S = 30.0

# So many items at most in one transaction.
_MOST = 64

Taken = list[QueueItem] | CoordError
"""How a take ended: the items, none if somebody else was faster, or that it failed."""


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
        # What takes have brought: a getter gets the item, or raises the error.
        self._spare: deque[QueueItem | CoordError] = deque()
        self._most = _MOST
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
            flight = self._begin([entry], insistent=False)
            try:
                await asyncio.wait({flight})
            except BaseException:
                flight.add_done_callback(self._hand_on)
                raise
            for outcome in _outcomes(flight, 1):
                return _item(outcome)

    async def _next(self) -> QueueItem:
        while True:
            if self._spare:
                item = _item(self._spare.popleft())
                self._has_served = True
                return item
            self._check()
            flight = self._flight
            if flight is None:
                entries = await self._candidates()
                if not entries:
                    continue
                flight = self._flight = self._begin(entries, insistent=True)
                flight.add_done_callback(partial(self._landed, count=len(entries)))
            # A getter that goes away in this moment leaves the flight to the next one.
            await asyncio.wait({flight})

    def _leave(self) -> None:
        """See to it that nothing is lost that the last getter has left behind."""
        if not self._getters:
            self._return_spares()

    def _return_spares(self) -> None:
        spare, self._spare = self._spare, deque()
        self._return([item for item in spare if isinstance(item, QueueItem)])

    def _landed(self, flight: asyncio.Task[Taken], count: int) -> None:
        self._flight = None
        # Getters that have come since stand behind those for whom this was.
        outcomes = _outcomes(flight, min(count, self._getters))
        self._spare.extend(outcomes)
        self._leave()

    def _hand_on(self, flight: asyncio.Task[Taken]) -> None:
        """Find a use for what a take has brought whose getter has gone."""
        for outcome in _outcomes(flight, 0):
            if isinstance(outcome, QueueItem):
                self.give_back(outcome)

    def give_back(self, item: QueueItem) -> None:
        """Give an item to the next getter, or put it back into the queue."""
        if self._getters:
            self._spare.append(item)
            self._news.set()
        else:
            self._return([item])

    def _return(self, items: list[QueueItem]) -> None:
        """Put items back into the queue, in their order."""
        if not items:
            return
        task = self._home.background(self._put_back_all(items), name="queue-return")
        if task is not None:
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)

    async def _put_back_all(self, items: list[QueueItem]) -> None:
        for item in items:
            await self._put_back(item)

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

    async def _candidates(self) -> Sequence[Entry[bytes]]:
        """Wait until there are items whose turn it is, one for each getter at most, or one to spare (none)."""
        while not self._spare:
            self._check()
            if self._hint is not None:
                hint, self._hint = self._hint, None
                return [hint]
            view = self._view
            if view is None:
                entry = await self._one_off()
                if entry is not None:
                    return [entry]
                continue
            self._news.clear()
            within = _LONGEST_WAIT_S
            entries = self._order.heads(view.snapshot(), self._gone, self._wanted())
            if entries:
                wait = self._wait_for(entries[0])
                if wait <= 0:
                    return [entry for entry in entries if self._order.due_in(entry) <= 0]
                within = min(within, wait)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._news.wait()
        return []

    def _wanted(self) -> int:
        """Return how many items to take in one transaction."""
        most = self._order.most(self._home.txn.max_ops - MARKER_OPS)
        return max(1, min(self._getters, self._most, most))

    def _wait_for(self, entry: Entry[bytes]) -> float:
        """Return for how many seconds an item is not ours to try; 0 or less if it is."""
        now, due = self._clock.mono(), self._order.due_in(entry)
        self._note_head(entry, now)
        if due > 0:
            return due
        has_been = min(now - self._head[1], -due)
        return self._turns.left(entry.key, now, has_been)

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

    def _begin(self, entries: Sequence[Entry[bytes]], *, insistent: bool) -> asyncio.Task[Taken]:
        """Start a take, which goes on whoever waits for it."""
        task = self._home.background(self._take(entries, insistent=insistent), name="queue-take")
        if task is None:
            raise ClientClosed
        return cast("asyncio.Task[Taken]", task)

    async def _take(self, entries: Sequence[Entry[bytes]], *, insistent: bool) -> Taken:
        """Take all of ``entries``, the head and those that follow it, in one transaction."""
        when = [mod_revision(entry.key) == entry.mod_revision for entry in entries]
        when += self._order.conditions(entries)
        then = [op.delete(entry.key) for entry in entries]
        try:
            done = await self._settled(
                tuple(when), tuple(then), self._look(entries), insistent=insistent
            )
        except CoordError as error:
            return error
        if done.applied:
            self._most = min(2 * self._most, _MOST)
            for entry in entries:
                self._note_gone(entry)
            now, head = self._clock.mono(), entries[0].key
            if self._turns.left(head, now, now - self._head[1]) == 0:
                self._turns.passed(head, now)
            return [item_of(entry) for entry in entries]
        if done.result is not None:
            self._lost(entries, done.result)
        return []

    def _look(self, entries: Sequence[Entry[bytes]]) -> tuple[Op, ...]:
        """Return what to read when a take fails, to know why."""
        if self._order.is_strict:
            return (self._order.first(1),)
        if len(entries) == 1:
            return ()
        return tuple([op.get(entry.key, keys_only=True) for entry in entries])

    def _lost(self, entries: Sequence[Entry[bytes]], result: TxnResult) -> None:
        """Take note of why a take failed: items are gone, or there is one ahead of them."""
        self._turns.lost(self._clock.mono())
        self._most = max(1, len(entries) // 2)
        if self._order.is_strict:
            there = result.range(0).items
            first = there[0] if there else None
            if first is not None and self._order.due_in(first) <= 0:
                self._hint, gone = first, []
            else:
                # What the store has first is behind them, or nothing.
                gone = [e for e in entries if first is None or e.key < first.key]
        elif len(entries) == 1:
            gone = [*entries]
        else:
            found = [result.range(n).items for n in range(len(entries))]
            gone = [
                entry
                for entry, items in zip(entries, found, strict=True)
                if not items or items[0].mod_revision != entry.mod_revision
            ]
        for entry in gone:
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
        self._return_spares()
        while self._returns:
            await asyncio.wait(self._returns)
        if self._follower is not None:
            self._follower.cancel()
        self._drop_view()
        await self._enrolment.end()

    def close_soon(self) -> None:
        """Close in the background."""
        self._home.background(self.close(), name="queue-close")


def _outcomes(flight: asyncio.Task[Taken], getters: int) -> Sequence[QueueItem | CoordError]:
    """Return what a take has brought: its items, or how it failed, to each of the getters."""
    taken = ClientClosed() if flight.cancelled() else flight.result()
    return [taken] * getters if isinstance(taken, CoordError) else taken


def _item(outcome: QueueItem | CoordError) -> QueueItem:
    if isinstance(outcome, CoordError):
        raise outcome
    return outcome
