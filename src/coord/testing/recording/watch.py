"""A watch, with everything that it delivered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from coord.errors import Compacted, CoordTimeout
from coord.store.kv import range_request
from coord.store.values import EventType, WatchFilter
from coord.testing.lines import key_text, value_text
from coord.testing.records import Pair, SeenEvent, WatchEnded, WatchOpened, WatchResponded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from types import TracebackType

    from coord.client import Client
    from coord.store.values import KeyValue, WatchBatch, WatchEvent
    from coord.testing.history import Recorder
    from coord.watching import Watch


class RecordedWatch:
    """As ``coord.Watch``, read in batches. Made by ``RecordedClient.watch``; an async context manager.

    Lost connections are made good by the watch itself, so in the history this is one watcher all its life.
    """

    def __init__(
        self,
        client: Client,
        recorder: Recorder,
        watcher: str,
        key: bytes,
        end: bytes,
        *,
        start_revision: int | None,
        prev_kv: bool,
        filters: Collection[WatchFilter],
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._watcher = watcher
        self._key = key
        self._end = end
        self._start = start_revision
        self._prev_kv = prev_kv
        self._filters = filters
        self._watch: Watch | None = None
        self._reached = 0
        self._ended = False

    async def __aenter__(self) -> Self:
        """Open it. Raises what the client raises."""
        start = self._start
        if start is None:
            # The watch does the same inside; here the revision is known, and a judge needs it.
            request = range_request(self._key, b"", keys_only=True)
            now = await self._client.get_range(request.key, b"", keys_only=True)
            start = now.revision + 1
        recorder = self._recorder
        recorder.add(
            WatchOpened(
                watcher=self._watcher,
                ts=recorder.now(),
                key=self._key,
                end=self._end,
                start=start,
                prev_kv=self._prev_kv,
                no_puts=WatchFilter.NO_PUT in self._filters,
                no_deletes=WatchFilter.NO_DELETE in self._filters,
            )
        )
        self._watch = self._client.watch(
            self._key,
            end=self._end,
            start_revision=start,
            prev_kv=self._prev_kv,
            filters=self._filters,
        )
        try:
            await self._watch.__aenter__()
        except BaseException:
            self._record_end()
            raise
        recorder.add(
            WatchResponded(watcher=self._watcher, ts=recorder.now(), revision=0, created=True)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; what :meth:`read_to` has reached is recorded as the end."""
        self._record_end()
        if self._watch is not None:
            self._watch.close()

    async def batches(self) -> AsyncIterator[WatchBatch]:
        """Iterate over batches, as ``Watch.batches``."""
        while True:
            yield await self._next()

    async def read_to(self, revision: int, *, timeout: float) -> list[WatchEvent]:
        """Read until something of ``revision`` or later has come, and return all events until then.

        Everything up to there has come then. Raises CoordTimeout after ``timeout`` seconds: wait only for a
        revision that changes something which is watched.
        """
        events: list[WatchEvent] = []
        try:
            async with asyncio.timeout(timeout):
                while self._reached < revision:
                    events += (await self._next()).events
        except TimeoutError:
            what = f"watch {self._watcher} up to revision {revision}"
            raise CoordTimeout(what, timeout, explain=f"it has reached {self._reached}") from None
        return events

    async def _next(self) -> WatchBatch:
        if self._watch is None:
            raise RuntimeError("enter the watch first: async with")
        try:
            # A new iterator keeps nothing: what was not taken stays with the watch.
            batch = await anext(self._watch.batches())
        except Compacted as error:
            self._record_end(error.compact_revision)
            raise
        self._record(batch)
        return batch

    def _record(self, batch: WatchBatch) -> None:
        self._reached = max(self._reached, batch.revision)
        self._recorder.add(
            WatchResponded(
                watcher=self._watcher,
                ts=self._recorder.now(),
                revision=batch.revision,
                progress=not batch.events,
                events=tuple(_seen(event) for event in batch.events),
            )
        )

    def _record_end(self, compact_revision: int = 0) -> None:
        if self._ended:
            return
        self._ended = True
        self._recorder.add(
            WatchEnded(
                watcher=self._watcher,
                ts=self._recorder.now(),
                compact_revision=compact_revision,
                reached=0 if compact_revision else self._reached,
            )
        )


def _pair(kv: KeyValue) -> Pair:
    return Pair(
        key=key_text(kv.key),
        value=value_text(kv.value),
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )


def _seen(event: WatchEvent) -> SeenEvent:
    return SeenEvent(
        is_delete=event.type is EventType.DELETE,
        pair=_pair(event.kv),
        previous=None if event.previous is None else _pair(event.previous),
    )
