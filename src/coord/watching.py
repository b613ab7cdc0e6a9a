"""A watch as its reader sees it, on whatever loop the reader lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from coord._telemetry import watch_span
from coord.errors import ClientClosed, CoordError, CoordTimeout, InvalidArgument
from coord.store.kv import range_request
from coord.store.resync import ResyncFeed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from opentelemetry.trace import Span

    from coord.core import Core
    from coord.store.values import WatchBatch, WatchEvent
    from coord.store.watch import WatchFeed, WatchSpec


class Watch:
    """Every change of a key or range, in order, each once. Made by ``client.watch()``.

    ``async with`` opens it: a watch from "now" sees everything that happens after the block was entered.
    ``async for event in watch`` gives events one by one; :meth:`batches` gives whole revisions, and progress
    notifications if asked for.
    Lost connections are made good in the background.

    Raises on reading: :class:`Compacted` when history that is still needed is gone (read again, and watch from the
    revision of that read), :class:`RequestRefused` and :class:`PermissionDenied` when the server refuses,
    :class:`ClientClosed`.
    A cancelled read loses nothing: what it would have returned comes next.
    One task at a time may read.
    """

    def __init__(self, core: Core, spec: WatchSpec, *, resync: bool = False) -> None:
        self._core = core
        self._spec = spec
        self._resync = resync
        self._feed: WatchFeed | ResyncFeed | None = None
        self._revision = max(0, spec.start_revision - 1)
        self._position = 0
        self._batches: deque[WatchBatch] = deque()
        self._events: deque[WatchEvent] = deque()
        self._reading = False
        self._reading_at = 0
        self._read_last: WatchEvent | None = None
        self._closed = False
        self._span: Span | None = None

    async def __aenter__(self) -> Self:
        """Open the watch.

        From "now" on: raises :class:`CoordTimeout` when no server confirms it within the request timeout, and what
        reading would raise when the server refuses it.
        """
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the watch."""
        self.close()

    @property
    def revision(self) -> int:
        """The revision up to which everything has been read; 0 before a watch from "now" was entered.

        A new watch from ``revision + 1`` continues this one.
        Moves on with progress notifications too, whether they were asked for or not.
        """
        last = self._read_last
        if last is not None:
            # A revision has been read when its last event has.
            read = last.revision - 1 if self._events else self._reading_at
            self._revision = max(self._revision, read)
        feed = self._feed
        if feed is not None and not self._batches and not self._events:
            reached = feed.reached(self._position)
            if reached is not None and reached > self._revision:
                self._revision = reached
        return self._revision

    @property
    def lag(self) -> int:
        """How many revisions of the store lie between what was read and the newest one that this watch knows of."""
        feed = self._feed
        return 0 if feed is None else max(0, feed.store_revision - self.revision)

    def close(self) -> None:
        """End the watch, without waiting. Safe to call twice, from any thread."""
        self._closed = True
        if self._span is not None:
            self._span.end()
            self._span = None
        feed, self._feed = self._feed, None
        if feed is not None:
            with contextlib.suppress(CoordError, RuntimeError):  # everything has ended already
                self._core.runtime.post(feed.close)

    def __del__(self) -> None:
        """Close a watch that was read without ``async with``."""
        if self._feed is not None or self._span is not None:
            self.close()

    def __aiter__(self) -> Self:
        """Iterate over single events."""
        return self

    async def __anext__(self) -> WatchEvent:
        """Return the next event."""
        events = self._events
        while not events:
            batch = await self._next_batch()
            events.extend(batch.events)
            self._reading_at = batch.revision
        # What this says of our revision is found out when somebody asks: most readers never do.
        event = self._read_last = events.popleft()
        return event

    async def batches(self) -> AsyncIterator[WatchBatch]:
        """Iterate over batches: all events of one or more whole revisions; without events, a progress notification."""
        while True:
            if self._events:
                raise InvalidArgument("events of the last batch are still unread: read either way")
            batch = await self._next_batch()
            self._revision = max(self._revision, batch.revision)
            yield batch

    async def _next_batch(self) -> WatchBatch:
        if self._closed:
            raise ClientClosed("the watch")
        if not self._batches:
            if self._reading:
                raise InvalidArgument("another task is reading this watch")
            self._reading = True
            try:
                await self._fetch()
            finally:
                self._reading = False
        return self._batches.popleft()

    async def _fetch(self) -> None:
        feed = self._feed or await self._open()
        batches, position = await self._core.runtime.run(feed.read(self._position))
        # No await from here to the end: either all of it has arrived, or the next call asks for it again.
        self._position = position
        self._batches.extend(batches)

    async def _open(self) -> WatchFeed | ResyncFeed:
        if self._closed:
            raise ClientClosed("the watch")
        if self._feed is None:
            if self._span is None:
                self._span = watch_span(self._spec.key, self._spec.end)
            self._feed = await self._core.runtime.run(self._start(), discard=_close)
        return self._feed

    async def _start(self) -> WatchFeed | ResyncFeed:
        """Open the feed, on the runtime's loop.

        "Now" is the revision of a read made here: what the server calls now may lie a little earlier or later than
        the answer that tells it, and would be lost or repeated after a broken connection (spec core 3.5).
        """
        spec, core = self._spec, self._core
        feed: WatchFeed | ResyncFeed
        if self._resync:
            feed = ResyncFeed(core.watches, core.kv, core.env, spec)
            await feed.open()
            if spec.start_revision:
                return feed
        elif spec.start_revision:
            return core.watches.open(spec)
        else:
            now = await core.kv.range(range_request(spec.key, b"", keys_only=True))
            feed = core.watches.open(replace(spec, start_revision=now.revision + 1))
        limit = self._core.caller.request_timeout
        try:
            async with asyncio.timeout(limit):
                await feed.created.wait()
        except TimeoutError:
            feed.close()
            raise CoordTimeout("watch", limit, explain="no server has confirmed it") from None
        except BaseException:
            feed.close()
            raise
        return feed


def _close(feed: WatchFeed | ResyncFeed) -> None:
    feed.close()
