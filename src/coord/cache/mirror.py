"""One range of the store, copied and followed. Everything here lives on the runtime's loop."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.cache.ledger import Ledger
from coord.cache.snapshot import CacheSnapshot
from coord.cache.sortedmap import SortedMap
from coord.errors import (
    CacheOverflow,
    ClientClosed,
    Compacted,
    CoordError,
    CoordTimeout,
    Unavailable,
)
from coord.store.kv import range_request
from coord.store.paging import Pages, reread
from coord.store.values import EventType, KeyValue
from coord.store.watch import WatchSpec

if TYPE_CHECKING:
    from coord.codec.values import Entry
    from coord.core import Core
    from coord.store.values import WatchBatch, WatchEvent
    from coord.store.watch import WatchFeed

# An event that is on its way arrives within this time, and saves a question.
_GRACE_S = 0.03
# etcd tells watches that are idle every 10 minutes how far the store is. Who has heard nothing for longer asks.
_QUIET_S = 660.0
_ASK_WITHIN_S = 60.0
_ADVICE = "filling it takes seconds and all of it is in memory; watch a narrower prefix"
# A server that has a watch which is behind does not answer: ask again (etcd's own cache does so as often).
_PROGRESS_S = 0.1
# Releases from which an answer about progress stays behind the events before it (spec core 3.11).
_ORDERED_SINCE = ((3, 4, 25), (3, 5, 8), (3, 6, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a cache may hold."""

    max_keys: int
    max_bytes: int


class Seat:
    """The place of one cache at its mirror. ``error`` is what this one has ended with, while others go on."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.error: CoordError | None = None

    def check(self, what: str, keys: int, size_bytes: int) -> bool:
        """Say whether that much may be held, and note the error if not."""
        if keys > self.limits.max_keys:
            self.error = CacheOverflow(what, limit=self.limits.max_keys, unit="keys")
        elif size_bytes > self.limits.max_bytes:
            self.error = CacheOverflow(what, limit=self.limits.max_bytes, unit="bytes")
        return self.error is None


class Mirror:
    """Keeps ``ledger`` equal to ``[start, end)`` of the store, for as long as there are seats."""

    def __init__(self, mirrors: Mirrors, start: bytes, end: bytes) -> None:
        self._mirrors = mirrors
        self._core = mirrors.core
        self._clock = mirrors.core.env.clock
        self.start: bytes = start
        self.end: bytes = end
        self.ledger: Ledger[bytes] = Ledger()
        self._seats: dict[Seat, None] = {}
        self._size_bytes = 0
        self._feed: WatchFeed | None = None
        self._fresh_at = self._clock.mono()
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None

    @override
    def __str__(self) -> str:
        """Name the range."""
        return f"[{self.start!r}, {self.end!r})" if self.end else repr(self.start)

    def add(self, seat: Seat) -> None:
        """Take one more, and begin with the first."""
        if self.ledger.is_ready:
            seat.check(str(self), len(self.ledger.current), self._size_bytes)
        self._seats[seat] = None
        if self._task is None:
            try:
                self._task = self._core.supervisor.spawn(self._run(), name=f"cache of {self}")
                self._asking = self._core.supervisor.spawn(
                    self._keep_asking(), name=f"progress of the cache of {self}"
                )
            except RuntimeError:
                raise ClientClosed from None

    def remove(self, seat: Seat) -> None:
        """Forget one, and end with the last."""
        self._seats.pop(seat, None)
        if not self._seats:
            self._mirrors.forget(self)
            for task in (self._task, self._asking):
                if task is not None:
                    task.cancel()

    def stale_for(self) -> float:
        """Return for how many seconds nobody has told us of changes; 0 while the store watches. From any thread."""
        feed = self._feed
        if feed is None:
            return max(0.0, self._clock.mono() - self._fresh_at)
        if feed.live:
            return 0.0
        return max(0.0, self._clock.mono() - max(feed.lost_at, self._fresh_at))

    async def reach(self, revision: int) -> None:
        """Return when the ledger is known to be right at ``revision``. Raises what the ledger has ended with."""
        await self.ledger.ready()
        backoff = reread(self._core.env.rand)
        if await self._within(revision, _GRACE_S):
            return
        while self.ledger.current.as_of < revision:
            try:
                if await self._mirrors.has_ordered_progress():
                    self._core.watches.ask_progress()
                    if await self._within(revision, _PROGRESS_S):
                        return
                await self._compare()
            except (Unavailable, CoordTimeout):
                pass
            if self.ledger.current.as_of < revision:
                await backoff.pause()
            if self.ledger.error is not None:
                raise self.ledger.error

    async def _within(self, revision: int, seconds: float) -> bool:
        scope = asyncio.timeout(seconds)
        with contextlib.suppress(TimeoutError):
            async with scope:
                await self.ledger.reached(revision)
        return self.ledger.current.as_of >= revision

    async def _compare(self) -> None:
        """Find out whether anything has changed, without the help of the watch, whose server cannot tell.

        If no key was changed after our revision, and there are as many as we have, then they are the ones we have,
        and nothing has happened in between: a key that was deleted and created again has a newer revision.
        """
        ours = self.ledger.current
        request = range_request(
            self.start, self.end, limit=1, keys_only=True, min_mod_revision=ours.revision + 1
        )
        theirs = await self._core.kv.range(request)
        if not theirs.items and theirs.count == len(ours):
            self.ledger.progress(theirs.revision)

    # The copy.

    async def _run(self) -> None:
        try:
            while True:
                revision = await self._load()
                await self._follow(revision + 1)
        except CoordError as error:
            self._end(error)
        except asyncio.CancelledError:
            self._end(ClientClosed("the cache"))
            raise
        except BaseException as error:
            self._end(CoordError(f"the cache of {self} has failed: {error!r}"))
            raise

    async def _keep_asking(self) -> None:
        """Move ``as_of`` on where nobody tells of progress, such as behind a proxy that keeps it to itself."""
        rand = self._core.env.rand
        while True:
            told = self.ledger.current.as_of
            await asyncio.sleep(rand.uniform(_QUIET_S, _QUIET_S * 1.1))
            if self.ledger.is_ready and self.ledger.current.as_of == told:
                with contextlib.suppress(CoordError, TimeoutError):
                    async with asyncio.timeout(_ASK_WITHIN_S):
                        await self._ask()

    async def _ask(self) -> None:
        request = range_request(self.start, b"", keys_only=True)
        now = (await self._core.kv.range(request)).revision
        # In a store that stands still there is nothing to find out.
        if now > self.ledger.current.as_of:
            await self.reach(now)

    def _end(self, error: CoordError) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._drop_feed()
        self._mirrors.forget(self)
        self.ledger.fail(error)

    def _drop_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            self._fresh_at = max(self._fresh_at, feed.lost_at)
            feed.close()

    async def _load(self) -> int:
        """Read all of the range at one revision, for as long as it takes; publish it and return the revision."""
        items, revision, asked_at = await self._read_patiently()
        self._size_bytes = sum([len(kv.key) + len(kv.value) for kv in items])
        old = self.ledger.current
        if not self.ledger.is_ready:
            keys = [kv.key for kv in items]
            entries: SortedMap[bytes, Entry[bytes]] = SortedMap(keys, items)
            self.ledger.start(CacheSnapshot(entries, revision=revision, as_of=revision))
        elif revision >= old.revision:
            # A large range takes a while, in which leases have to be renewed.
            entries, listed = await self._core.env.offload.run(_compare_all, old, items)
            self.ledger.replace(entries, listed, revision=revision)
        self._fresh_at = asked_at
        self._check_limits()
        return revision

    async def _read_patiently(self) -> tuple[list[KeyValue], int, float]:
        backoff = reread(self._core.env.rand)
        while True:
            asked_at = self._clock.mono()
            try:
                return *(await self._read()), asked_at
            except Compacted:
                continue  # the pages took longer than the history lasts
            except (Unavailable, CoordTimeout):
                await backoff.pause()

    async def _read(self) -> tuple[list[KeyValue], int]:
        items: list[KeyValue] = []
        revision = size_bytes = 0
        async for page in Pages(self._core.kv, (self.start, self.end)):
            # Of the first page it is all that will come: no need to read it first.
            self._check(page.count if not items else len(items) + len(page.items), size_bytes)
            revision = revision or page.revision
            items += page.items
            size_bytes += sum([len(kv.key) + len(kv.value) for kv in page.items])
            self._check(len(items), size_bytes)
        return items, revision

    async def _follow(self, revision: int) -> None:
        """Apply what happens from ``revision`` on, until history that is still needed is gone."""
        self._feed = self._core.watches.open(
            WatchSpec(key=self.start, end=self.end, start_revision=revision, progress_notify=True)
        )
        try:
            while True:
                self._apply(await self._feed.next())
        except Compacted:
            return
        finally:
            self._drop_feed()

    def _apply(self, batch: WatchBatch) -> None:
        if not batch.events:
            self.ledger.progress(batch.revision)
            return
        for revision, events in groupby(batch.events, key=_revision):
            news: dict[bytes, Entry[bytes] | None] = {}
            for event in events:
                news[event.kv.key] = None if event.type is EventType.DELETE else event.kv
            self._count(news)
            self.ledger.publish(news, revision=revision)
        self._check_limits()

    def _count(self, news: dict[bytes, Entry[bytes] | None]) -> None:
        for key, new in news.items():
            old = self.ledger.current.entry(key)
            if old is not None:
                self._size_bytes -= len(key) + len(old.value)
            if new is not None:
                self._size_bytes += len(key) + len(new.value)

    def _check_limits(self) -> None:
        self._check(len(self.ledger.current), self._size_bytes)

    def _check(self, keys: int, size_bytes: int) -> None:
        """End the caches for which this is too much. Raises :class:`CacheOverflow` when it is so for all."""
        over = [seat for seat in self._seats if not seat.check(str(self), keys, size_bytes)]
        for seat in over:
            del self._seats[seat]
        if over:
            self.ledger.wake()
            if not self._seats:
                raise over[-1].error or CacheOverflow(str(self), limit=0, unit="keys")
        self._core.key_counts.note(f"the cache of {self}", keys, _ADVICE)


def _revision(event: WatchEvent) -> int:
    return event.kv.mod_revision


def _compare_all(
    old: CacheSnapshot[bytes], items: list[KeyValue]
) -> tuple[
    SortedMap[bytes, Entry[bytes]], list[tuple[bytes, Entry[bytes] | None, Entry[bytes] | None]]
]:
    """Return ``items`` as a map, in which what has not changed is the same object, and the differences."""
    keys: list[bytes] = []
    values: list[Entry[bytes]] = []
    for kv in items:
        known = old.entry(kv.key)
        # As the key may have been deleted and created again with an equal value.
        same = known is not None and (known.create_revision, known.mod_revision) == (
            kv.create_revision,
            kv.mod_revision,
        )
        keys.append(kv.key)
        values.append(known if same and known is not None else kv)
    entries = SortedMap(keys, values)
    return entries, old.differences(CacheSnapshot(entries, revision=old.revision, as_of=old.as_of))


class Mirrors:
    """The mirrors of one client, one for each range."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._open: dict[tuple[bytes, bytes], Mirror] = {}
        self._judged = (0, 0)
        self._is_ordered = False

    def __len__(self) -> int:
        """Return the number of mirrors."""
        return len(self._open)

    def take(self, start: bytes, end: bytes, seat: Seat) -> Mirror:
        """Return the mirror of ``[start, end)``, with ``seat`` on it."""
        if self.core.closing.is_set():
            raise ClientClosed
        mirror = self._open.get((start, end))
        if mirror is None:
            mirror = self._open[start, end] = Mirror(self, start, end)
        mirror.add(seat)
        return mirror

    def forget(self, mirror: Mirror) -> None:
        """Let the next cache of that range begin a new one."""
        if self._open.get((mirror.start, mirror.end)) is mirror:
            del self._open[mirror.start, mirror.end]

    async def has_ordered_progress(self) -> bool:
        """Say whether the server of the present watch stream may be asked for progress.

        Not when it cannot be told who that is. Raises :class:`Unavailable`, :class:`CoordTimeout`.
        """
        watches = self.core.watches
        stream = (watches.stream_number, watches.member_id)
        if stream != self._judged and stream[1]:
            try:
                status = await self.core.admin.status()
            except (Unavailable, CoordTimeout):
                raise
            except CoordError:
                self._judged, self._is_ordered = stream, False
                return False
            self._judged = stream
            self._is_ordered = status.member_id == stream[1] and is_ordered(status.version)
        # The stream may be another one meanwhile.
        return self._is_ordered and self._judged == (watches.stream_number, watches.member_id)


def is_ordered(version: str) -> bool:
    """Say whether a server of this version keeps answers about progress behind the events before them."""
    try:
        major, minor, patch = (int(part) for part in version.partition("-")[0].split("."))
    except ValueError:
        return False
    first = [since for since in _ORDERED_SINCE if since[:2] == (major, minor)]
    return (major, minor, patch) >= (first[0] if first else _ORDERED_SINCE[-1])
