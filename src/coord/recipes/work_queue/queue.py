"""A work queue as applications hold it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from coord._telemetry import WORK_QUEUE, observed_wait
from coord.entry import check_name
from coord.errors import InvalidArgument
from coord.names import as_text
from coord.recipes.ending import Ending
from coord.recipes.queues.delayed import due_ms
from coord.recipes.work_queue.backoff import Backoff
from coord.recipes.work_queue.errors import ReceiveTimeout
from coord.recipes.work_queue.layout import (
    Conf,
    DeadLetter,
    Layout,
    WorkReceipt,
    WorkStats,
    check_dedup_id,
    dead_letter,
    make_id,
    raw_id,
    text_of,
)
from coord.recipes.work_queue.receiver import MOST_AT_ONCE, Receiver
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.keys import prefix_range
from coord.store.paging import Pages
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.work_queue.claim import WorkItem
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op


class WorkQueue(Ending):
    """Jobs that survive whoever works on them. Made by ``client.work_queue(name)``.

    An item is delivered until a consumer acknowledges it, or until it has failed ``max_attempts`` times: at least once,
    and what is written together with the acknowledgement exactly once.
    The most urgent first, then the oldest; an item that comes back keeps its place.
    Keep one object per process and queue, and close it.
    """

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        name: str | bytes,
        *,
        max_attempts: int = 5,
        claim: Literal["session", "visibility"] = "session",
        visibility: int = 30,
        max_processing: float | None = None,
        backoff: Backoff | None = None,
        dedup_window: float = 60,
        session: Session | None = None,
    ) -> None:
        if max_attempts < 1:
            raise InvalidArgument(f"max_attempts must be at least 1, not {max_attempts}")
        if claim not in {"session", "visibility"}:
            raise InvalidArgument(f'claim is "session" or "visibility", not {claim!r}')
        if visibility < 1:
            raise InvalidArgument(f"visibility must be at least 1 second, not {visibility}")
        if max_processing is not None and not max_processing > 0:
            raise InvalidArgument(f"max_processing must be positive seconds, not {max_processing}")
        if dedup_window < 1:
            raise InvalidArgument(f"dedup_window must be at least 1 second, not {dedup_window}")
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._text = as_text(self.name)
        self._layout = Layout(self.name)
        conf = Conf(
            max_attempts=max_attempts,
            claim=claim,
            visibility=visibility if claim == "visibility" else 0,
            dedup_window=dedup_window,
        )
        self._works = self._receiver = Receiver(
            home,
            mirrors,
            self.name,
            self._layout,
            conf,
            backoff=Backoff() if backoff is None else backoff,
            session=session,
            max_processing=max_processing,
        )

    # -- putting ---------------------------------------------------------------------------------------------------

    async def put(
        self,
        value: str | bytes,
        *,
        priority: int = 100,
        delay: float | None = None,
        at: float | datetime | None = None,
        dedup_id: str | None = None,
        timeout: float | None = None,
    ) -> WorkReceipt:
        """Put an item, and say which id it has.

        Exactly once: a lost answer is cleared up by an operation marker. With a ``dedup_id``, putting it again while it
        is there, or for a dedup window after it was done, changes nothing and says ``duplicate``; ids of different
        priorities are different.
        ``priority`` from 0, the most urgent, to 65535. It may be claimed in ``delay`` seconds, or ``at`` a time (as
        :meth:`DelayQueue.put`), else at once.
        Raises :class:`PayloadTooLarge`, :class:`BadPriority`, :class:`AmbiguousResult` when the store does not answer.
        """
        item_id = self._new_id(priority, dedup_id)
        layout = self._layout
        done = await self._home.core.markers.run(
            (
                compare.create_revision(layout.items + item_id) == 0,
                compare.create_revision(layout.done + item_id) == 0,
            ),
            self._put_ops(item_id, value, delay, at),
            timeout=timeout,
        )
        if done.applied:
            self._receiver.note_own(done.revision)
        return WorkReceipt(id=text_of(item_id), revision=done.revision, duplicate=not done.applied)

    def put_ops(
        self,
        value: str | bytes,
        *,
        priority: int = 100,
        delay: float | None = None,
        at: float | datetime | None = None,
        dedup_id: str | None = None,
    ) -> tuple[Op, ...]:
        """Return operations that put an item, for a transaction of your own: ``txn().then(*q.put_ops("x"), ...)``.

        The item is there if that transaction was applied, and exactly then. Nothing asks whether a ``dedup_id`` is
        there already; its item is replaced then.
        """
        return self._put_ops(self._new_id(priority, dedup_id), value, delay, at)

    def _new_id(self, priority: int, dedup_id: str | None) -> bytes:
        if dedup_id is not None:
            return make_id(priority, check_dedup_id(dedup_id))
        return make_id(priority, format(self._home.env.rand.bits(64), "016x").encode())

    def _put_ops(
        self,
        item_id: bytes,
        value: str | bytes,
        delay: float | None,
        at: float | datetime | None,
    ) -> tuple[Op, ...]:
        raw = to_value(
            value, f"an item of work queue {self._text!r}", self._home.txn.max_value_bytes
        )
        put = op.put(self._layout.items + item_id, raw)
        if delay is None and at is None:
            return (put,)
        due = due_ms(self._home.env.clock.wall(), delay, at)
        return put, op.put(self._layout.delay + item_id, str(due))

    # -- claiming --------------------------------------------------------------------------------------------------

    async def receive(self, *, max: int = 1, timeout: float | None = None) -> list[WorkItem]:  # noqa: A002 - the usual name
        """Wait until there is an item, and claim it; up to ``max`` of them, at most 40, if there are more.

        Items that are claimed together have one token, as those of calls that wait at the same time.
        Each must be acknowledged or given back: ``async with item:`` does either.
        Raises :class:`ReceiveTimeout` after ``timeout`` seconds, :class:`ConfMismatch`, and :class:`SessionExpired`
        as soon as the session that the queue was made with ends.
        After a cancellation or a timeout nothing is claimed.
        """
        if not 1 <= max <= MOST_AT_ONCE:
            raise InvalidArgument(f"max is a number from 1 to {MOST_AT_ONCE}, not {max}")
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
        waiting = observed_wait(
            WORK_QUEUE,
            WORK_QUEUE.wait,
            self._text,
            lambda: self._receive(max, timeout),
            clock=self._home.env.clock,
        )
        return await self._home.run(waiting, discard=self._receiver.give_back)

    async def _receive(self, most: int, timeout: float | None) -> list[WorkItem]:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self._receiver.receive(most)
        except TimeoutError:
            if not scope.expired():
                raise
            raise ReceiveTimeout(f"receive from work queue {self._text!r}", timeout) from None

    async def consume(self, *, concurrency: int = 1) -> AsyncIterator[WorkItem]:
        """Yield items as they can be claimed, at most ``concurrency`` of them at a time unacknowledged.

        ``async for item in queue.consume():`` with ``async with item:`` around the work. With more than one, start a
        task for each.
        """
        if concurrency < 1:
            raise InvalidArgument(f"concurrency must be at least 1, not {concurrency}")
        open_items: list[WorkItem] = []
        while True:
            open_items = [item for item in open_items if not item.ended.is_set()]
            if len(open_items) < concurrency:
                (item,) = await self.receive()
                open_items.append(item)
                yield item
            else:
                await self._home.run(_any_ended(open_items))

    def give_back(self, items: list[WorkItem]) -> None:
        """Find a use for items whose receiver has gone. On the runtime's loop."""
        self._receiver.give_back(items)

    # -- looking ---------------------------------------------------------------------------------------------------

    async def stats(self, *, timeout: float | None = None) -> WorkStats:
        """Count the items, at one revision."""
        layout = self._layout
        parts = (layout.items, layout.claims, layout.delay, layout.dead, layout.consumers)
        counts = tuple([op.get_prefix(part, count_only=True) for part in parts])
        result = await self._home.txn.run((), counts, timeout=timeout)
        items, claimed, delayed, dead, consumers = (
            result.range(i).count for i in range(len(parts))
        )
        return WorkStats(
            items=items,
            ready=max(0, items - claimed - delayed),
            claimed=claimed,
            delayed=delayed,
            dead=dead,
            consumers=consumers,
            revision=result.revision,
        )

    async def dead_letters(self, *, timeout: float | None = None) -> tuple[DeadLetter, ...]:
        """Return the items that failed too often, in the order of their ids."""
        prefix = self._layout.dead
        pages = Pages(self._home.core.kv, prefix_range(prefix), timeout=timeout)
        return tuple([dead_letter(kv, prefix) async for page in pages for kv in page.items])

    async def requeue(self, id: str, *, timeout: float | None = None) -> bool:  # noqa: A002 - as in WorkItem.id
        """Make a dead letter an item again, with no attempts counted; say whether there was one.

        False too if an item with this id has been put meanwhile: the dead letter stays then.
        """
        item_id, layout = raw_id(id), self._layout
        found = await self._home.core.kv.get(layout.dead + item_id, timeout=timeout)
        if found is None:
            return False
        letter = dead_letter(found, layout.dead)
        absent = compare.create_revision(layout.items + item_id) == 0
        put = op.put(layout.items + item_id, letter.value)
        return await self._remove_dead(item_id, found.mod_revision, (absent,), (put,), timeout)

    async def purge(self, id: str, *, timeout: float | None = None) -> bool:  # noqa: A002 - as in WorkItem.id
        """Delete a dead letter; say whether there was one."""
        item_id = raw_id(id)
        found = await self._home.core.kv.get(self._layout.dead + item_id, timeout=timeout)
        if found is None:
            return False
        return await self._remove_dead(item_id, found.mod_revision, (), (), timeout)

    async def _remove_dead(
        self,
        item_id: bytes,
        revision: int,
        when: tuple[Compare, ...],
        then: tuple[Op, ...],
        timeout: float | None,
    ) -> bool:
        key = self._layout.dead + item_id
        done = await self._home.core.markers.run(
            (compare.mod_revision(key) == revision, *when),
            (op.delete(key), *then),
            timeout=timeout,
        )
        return done.applied

    # -- the end ---------------------------------------------------------------------------------------------------

    @override
    async def close(self) -> None:
        """End the view. Receivers that wait raise :class:`ClientClosed`. What is claimed stays so. Safe to call twice."""
        await self._end()


async def _any_ended(items: list[WorkItem]) -> None:
    """Return when one of ``items`` has ended. On the runtime's loop."""
    ended = asyncio.Event()
    ends = [item.ended.watch(ended.set) for item in items]
    try:
        await ended.wait()
    finally:
        for end in ends:
            end()
