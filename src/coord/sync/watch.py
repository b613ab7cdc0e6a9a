"""The twin of a watch."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from coord import watching
from coord.errors import CoordTimeout, InvalidArgument
from coord.sync._portal import Portal, Twin, first_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType
    from typing import Self

    from coord.store.values import WatchBatch, WatchEvent


class Watch(Twin[watching.Watch]):
    """Every change of a key or range, in order, each once; see :class:`coord.Watch`. Made by ``client.watch()``.

    ``with`` opens it: a watch from "now" sees everything that happens after the block was entered.
    ``for event in watch`` gives events one by one; :meth:`batches` gives whole revisions; :meth:`read` waits for a
    limited time.
    One thread at a time may read; any may :meth:`close`, and the reader raises :class:`coord.ClientClosed` then.
    A read that Ctrl-C or a timeout ended loses nothing: what it would have returned comes next.
    """

    __slots__ = ("_events", "_returned")

    def __init__(self, portal: Portal, wrapped: watching.Watch) -> None:
        super().__init__(portal, wrapped)
        self._events: deque[WatchEvent] = deque()
        # Batches that had left the asynchronous watch when their reader was interrupted.
        self._returned: deque[WatchBatch] = deque()

    def __enter__(self) -> Self:
        """Open the watch. Raises :class:`coord.CoordTimeout` when no server confirms it within the request timeout."""
        self._portal.call(self._async.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the watch."""
        self.close()

    @property
    def revision(self) -> int:
        """The revision up to which everything has been read; see :attr:`coord.Watch.revision`."""
        reached = self._async.revision
        waiting = [
            event.revision
            for event in (*self._events, *(e for b in self._returned for e in b.events))
        ]
        return min(reached, *(revision - 1 for revision in waiting)) if waiting else reached

    @property
    def lag(self) -> int:
        """How many revisions the store is known to be ahead of what was read."""
        return self._async.lag + self._async.revision - self.revision

    def close(self) -> None:
        """End the watch, without waiting. Safe to call twice, from any thread."""
        self._async.close()

    def __iter__(self) -> Self:
        """Iterate over single events."""
        return self

    def __next__(self) -> WatchEvent:
        """Wait for the next event."""
        return self.read()

    def read(self, *, timeout: float | None = None) -> WatchEvent:
        """Return the next event. Raises :class:`coord.CoordTimeout` after ``timeout`` seconds without one."""
        while not self._events:
            self._events.extend(self._next_batch(timeout).events)
        return self._events.popleft()

    def batches(self) -> Generator[WatchBatch, None, None]:
        """Iterate over batches: all events of one or more whole revisions; without events, a progress notification."""
        while True:
            if self._events:
                raise InvalidArgument("events of the last batch are still unread: read either way")
            yield self._next_batch(None)

    def _next_batch(self, timeout: float | None) -> WatchBatch:
        return self._portal.obtain(lambda: self._fetch(timeout), self._returned.append)

    async def _fetch(self, timeout: float | None) -> WatchBatch:
        if self._returned:
            return self._returned.popleft()
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await first_of(self._async.batches())
        except TimeoutError:
            if not scope.expired():
                raise
            raise CoordTimeout("watch", timeout, explain="no event") from None
