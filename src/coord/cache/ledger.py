"""Where a mirror publishes, and where followers read on from where they were."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from coord.cache.snapshot import CacheSnapshot
from coord.cache.sortedmap import SortedMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.codec.values import Entry
    from coord.errors import CoordError, DecodeError

T = TypeVar("T")

# What a follower may be behind and still get revision by revision. It keeps old values alive, hence the second bound.
_LOG_BATCHES = 1024
_LOG_CHANGES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheChange(Generic[T]):
    """One key before and after; None where it does not exist.

    Other creation revisions in ``old`` and ``new`` say that it was deleted and created again.
    """

    key: bytes
    old: Entry[T] | None
    new: Entry[T] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBatch(Generic[T]):
    """What changed up to ``revision`` since the batch before, each key once, in key order.

    As a rule the changes of one revision. With ``coalesced`` the reader was too slow to get each, and this is the
    difference of two snapshots; with ``resync`` the history between them had been compacted.
    """

    revision: int
    changes: tuple[CacheChange[T], ...]
    resync: bool = False
    coalesced: bool = False

    @property
    def puts(self) -> tuple[CacheChange[T], ...]:
        """The keys that exist now."""
        return tuple([change for change in self.changes if change.new is not None])

    @property
    def deletes(self) -> tuple[CacheChange[T], ...]:
        """The keys that are gone; only ``old`` is set."""
        return tuple([change for change in self.changes if change.new is None])


class Ledger(Generic[T]):
    """The present snapshot and the last batches. Written on the runtime's loop; ``current`` is read anywhere."""

    def __init__(self) -> None:
        self.current: CacheSnapshot[T] = CacheSnapshot(SortedMap(), revision=0, as_of=0)
        self.is_ready: bool = False
        self.error: CoordError | None = None
        self._log: deque[CacheBatch[T]] = deque()
        self._logged = 0  # changes in the log
        self._news = asyncio.Event()

    def start(self, snapshot: CacheSnapshot[T]) -> None:
        """Publish the first snapshot."""
        self.current = snapshot
        self.is_ready = True
        self.wake()

    def publish(
        self,
        news: Mapping[bytes, Entry[T] | None],
        *,
        revision: int,
        as_of: int = 0,
        undecodable: Mapping[bytes, DecodeError] = MappingProxyType({}),
        resync: bool = False,
        coalesced: bool = False,
    ) -> None:
        """Publish ``news``, all that changed up to ``revision``; None for a key that is gone."""
        old = self.current
        listed: list[tuple[bytes, Entry[T] | None, Entry[T] | None]] = []
        for key in sorted(news):
            before, after = old.entry(key), news[key]
            # A key that came and went within one revision has not been here.
            if before is not None or after is not None:
                listed.append((key, before, after))
        self.current = old.changed(listed, revision=revision, as_of=as_of, undecodable=undecodable)
        if listed:
            self._note(batch(listed, revision=revision, resync=resync, coalesced=coalesced))
        self.wake()

    def replace(
        self,
        entries: SortedMap[bytes, Entry[T]],
        listed: list[tuple[bytes, Entry[T] | None, Entry[T] | None]],
        *,
        revision: int,
    ) -> None:
        """Publish what was read again, with its differences."""
        self.current = self.current.with_entries(
            entries,
            tuple(listed),
            revision=revision,
            as_of=revision,
            undecodable=self.current.undecodable,
        )
        if listed:
            self._note(batch(listed, revision=revision, resync=True))
        self.wake()

    def progress(self, as_of: int) -> None:
        """Note that nothing else has changed up to ``as_of``."""
        if as_of > self.current.as_of:
            self.current = self.current.known_until(as_of)
            self.wake()

    def fail(self, error: CoordError) -> None:
        """End with ``error``; the first one stays."""
        if self.error is None:
            self.error = error
        self.wake()

    def _note(self, made: CacheBatch[T]) -> None:
        self._log.append(made)
        self._logged += len(made.changes)
        while len(self._log) > _LOG_BATCHES or (self._logged > _LOG_CHANGES and len(self._log) > 1):
            self._logged -= len(self._log.popleft().changes)

    def wake(self) -> None:
        """Let everybody look again."""
        self._news.set()
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait for the next publication. Raises what the ledger has ended with."""
        if self.error is not None:
            raise self.error
        await self._news.wait()

    async def ready(self) -> None:
        """Wait for the first snapshot. Raises what the ledger has ended with."""
        while not self.is_ready:
            await self.news()
        if self.error is not None:
            raise self.error

    async def reached(self, revision: int) -> None:
        """Wait until ``as_of`` is at least ``revision``. Raises what the ledger has ended with."""
        while not self.is_ready or self.current.as_of < revision:
            await self.news()

    async def after(
        self, base: CacheSnapshot[T]
    ) -> tuple[tuple[CacheBatch[T], ...], CacheSnapshot[T]]:
        """Wait until there is something newer than ``base``; return what happened since, and what there is now.

        No batches, when only ``as_of`` has moved.
        """
        while self.current is base:
            await self.news()
        return self.since(base), self.current

    def since(self, base: CacheSnapshot[T]) -> tuple[CacheBatch[T], ...]:
        """Return what happened since ``base``."""
        now = self.current
        missing = now.number - base.number
        if missing <= len(self._log):
            return tuple(islice(self._log, len(self._log) - missing, None))
        listed = base.differences(now)
        return (batch(listed, revision=now.revision, coalesced=True),) if listed else ()


def batch(
    listed: list[tuple[bytes, Entry[T] | None, Entry[T] | None]],
    *,
    revision: int,
    resync: bool = False,
    coalesced: bool = False,
) -> CacheBatch[T]:
    """Make a batch of ``(key, old, new)``."""
    changes = tuple([CacheChange(key=key, old=old, new=new) for key, old, new in listed])
    return CacheBatch(revision=revision, changes=changes, resync=resync, coalesced=coalesced)
