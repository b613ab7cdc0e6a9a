"""Reading a topic."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Literal, Self

from coord.errors import (
    Compacted,
    CoordTimeout,
    InvalidArgument,
    Unavailable,
)
from coord.recipes.topic.message import Gap, Message, decode
from coord.store.keys import prefix_end
from coord.store.kv import SortBy, range_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from coord.coordination import Coordination
    from coord.recipes.topic.cursor import Cursor
    from coord.store.operations import Op
    from coord.watching import Watch

From = Literal["latest", "earliest"] | int

_PAGE = 500
_HEARTBEATS = 16


class Subscription:
    """The messages of a topic, in order. Made by ``topic.subscribe()``; on one loop.

    ``async with`` opens it: a subscription from "latest" sees everything that is published after the block was entered.
    ``async for item in subscription`` gives a :class:`Message`, or a :class:`Gap` where some may be missing.
    Lost connections are made good in the background.

    A durable one keeps a cursor: asking for the next message says that the one before is handled, as does
    ``message.commit()``. The cursor is saved every ``save_every`` messages or ``save_within`` seconds, and at the end
    of the block; what was not saved is delivered again.
    Reading raises :class:`coord.CursorBusy` when another consumer of the same name has moved the cursor.
    """

    def __init__(
        self,
        home: Coordination,
        log: bytes,
        watch: Callable[[int], Watch],
        *,
        from_: From,
        retention: float,
        cursor: Cursor | None,
        save_every: int,
        save_within: float,
    ) -> None:
        self._home = home
        self._core = home.core
        self._clock = home.env.clock
        self._log = log
        self._new_watch = watch
        self._from: From = from_
        self._retention = retention
        self._cursor = cursor
        self._save_every = save_every
        self._save_within = save_within
        self._watch: Watch | None = None
        self._pending: deque[Message | Gap] = deque()
        self._seen = 0  # the revision of the last message that was taken out of the store
        self._given: Message | None = None
        self._handled = 0
        self._unsaved = 0
        self._saved_at = 0.0
        self._reading = False

    async def __aenter__(self) -> Self:
        """Open it."""
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Save the cursor, if there is one, and close."""
        try:
            if self._cursor is not None and self._unsaved and kind is None:
                await self.save(self._handled, (), None)
        finally:
            self.close()

    def close(self) -> None:
        """End it, without saving and without waiting. Safe to call twice."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def __aiter__(self) -> Self:
        """Iterate over messages and gaps."""
        return self

    async def __anext__(self) -> Message | Gap:
        """Return the next one. A cancelled read loses nothing."""
        if self._reading:
            raise InvalidArgument("another task is reading this subscription")
        self._reading = True
        try:
            return await self._next()
        finally:
            self._reading = False

    async def _next(self) -> Message | Gap:
        given, self._given = self._given, None
        if given is not None and given.revision > self._handled:
            self._handled = given.revision
            self._unsaved += 1
        await self._save_if_due()
        if self._watch is None:
            await self._open()
        while not self._pending:
            await self._read()
        item = self._pending.popleft()
        if isinstance(item, Message):
            self._given = item
        return item

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if self._watch is not None:
            return
        start = self._seen or await self._start()
        self._seen = start
        watch = self._new_watch(start + 1)
        await watch.__aenter__()
        self._watch = watch

    async def _start(self) -> int:
        """Find where to begin; return the revision after which the watch goes on."""
        cursor, start = self._cursor, 0
        if cursor is not None and await cursor.load(timeout=None):
            self._handled = cursor.revision
            # To save it again would replace what its lag proves by what is known now, which is less.
            self._saved_at = self._clock.mono()
            return cursor.revision
        messages: list[Message] = []
        if isinstance(self._from, int):
            start = first = self._from
        else:
            sent = self._clock.mono()
            now = await self._core.kv.range(range_request(self._log, b"", keys_only=True))
            start = first = now.revision
            if cursor is not None:
                cursor.mark(sent, start)
            if self._from == "earliest":
                messages = await self._retained(0, start)
                first = messages[0].revision - 1 if messages else start
        if cursor is not None:
            # Nobody can tell a first start from one after the cursor has expired.
            self._pending.append(Gap(start=0, end=first + 1))
            self._handled = cursor.revision = first
            await self.save(first, (), None)
        self._pending += messages
        return start

    async def _retained(self, after: int, revision: int) -> list[Message]:
        """Return all messages after ``after`` that the store still has at ``revision``."""
        low = after + 1
        messages: list[Message] = []
        while True:
            request = range_request(
                self._log,
                prefix_end(self._log),
                limit=_PAGE,
                revision=revision,
                sort_by=SortBy.CREATE_REVISION,
                min_create_revision=low,
            )
            found = await self._core.kv.range(request)
            # The last revision of a page is asked for again: keys of one transaction share one.
            known = {m.key for m in messages[-_PAGE:]}
            messages += [decode(kv, self._committing) for kv in found.items if kv.key not in known]
            if len(found.items) < _PAGE:
                return messages
            low = messages[-1].revision

    async def _read(self) -> None:
        """Wait for the next message, or until something else is to be done."""
        watch = self._watch
        if watch is None:
            raise InvalidArgument("the subscription is closed")
        scope = asyncio.timeout(self._pause())
        try:
            async with scope:
                event = await anext(watch)
        except TimeoutError:
            if not scope.expired():
                raise
            await self._save_if_due()
            return
        except Compacted:
            await self._recover()
            return
        if event.is_create and event.revision > self._seen:
            self._seen = event.revision
            self._pending.append(decode(event.kv, self._committing))

    async def _recover(self) -> None:
        """Go on after history has been compacted: read what is retained."""
        after = self._seen
        self.close()
        while True:
            proven, revision = await self._now()
            try:
                messages = await self._retained(after, revision)
            except Compacted:
                continue  # that one too, meanwhile
            break
        if not proven:
            end = messages[0].revision if messages else revision + 1
            self._pending.append(Gap(start=after, end=end))
        self._pending += messages
        self._seen = revision
        await self._open()

    async def _now(self) -> tuple[bool, int]:
        """Return the store's revision, and whether the cursor proves that nothing unhandled has expired by then."""
        if self._cursor is not None:
            return await self._cursor.proves()
        now = await self._core.kv.range(range_request(self._log, b"", keys_only=True))
        return False, now.revision

    @property
    def _committing(self) -> Subscription | None:
        return self if self._cursor is not None else None

    # -- the cursor ------------------------------------------------------------------------------------------------

    def _pause(self) -> float | None:
        """Return after how many seconds the cursor is to be saved, None without one."""
        if self._cursor is None:
            return None
        within = self._save_within if self._unsaved else self._retention / _HEARTBEATS
        return max(0.0, self._saved_at + within - self._clock.mono())

    async def _save_if_due(self) -> None:
        pause = self._pause()
        if self._watch is None or pause is None or (pause > 0 and self._unsaved < self._save_every):
            return
        try:
            await self.save(self._handled, (), None)
        except (Unavailable, CoordTimeout):
            self._saved_at = self._clock.mono()  # later

    async def save(self, revision: int, also: tuple[Op, ...], timeout: float | None) -> None:
        """Move the cursor; for messages."""
        if self._cursor is None:
            raise InvalidArgument("only a durable subscription keeps a cursor")
        await self._cursor.save(revision, also, timeout=timeout)
        if revision >= self._handled:
            self._handled = revision
            self._unsaved = 0
        self._saved_at = self._clock.mono()
