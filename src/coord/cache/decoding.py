"""A second ledger, of decoded values, that follows one of bytes.

Codecs are the application's: they run in a worker thread, so that a slow one delays its own cache and nothing else.
"""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from coord.cache.ledger import Ledger
from coord.cache.snapshot import CacheSnapshot
from coord.cache.sortedmap import SortedMap
from coord.codec.values import decoded
from coord.errors import ClientClosed, CoordError, DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coord.codec.protocol import Codec
    from coord.codec.values import Entry
    from coord.runtime import Offload

T = TypeVar("T")


class Decoding(Generic[T]):
    """Keeps ``ledger`` equal to ``source``, decoded."""

    def __init__(self, source: Ledger[bytes], codec: Codec[T], offload: Offload) -> None:
        self._source = source
        self._codec = codec
        self._offload = offload
        self.ledger: Ledger[T] = Ledger()

    async def run(self) -> None:
        """Follow until the source ends, and end alike."""
        try:
            await self._source.ready()
            base = self._source.current
            self.ledger.start(await self._offload.run(self._all, base))
            while True:
                batches, now = await self._source.after(base)
                for batch in batches:
                    pairs = [(change.key, change.new) for change in batch.changes]
                    news, undecodable = await self._offload.run(
                        self._some, pairs, self.ledger.current
                    )
                    self.ledger.publish(
                        news,
                        revision=batch.revision,
                        undecodable=undecodable,
                        resync=batch.resync,
                        coalesced=batch.coalesced,
                    )
                self.ledger.progress(now.as_of)
                base = now
        except CoordError as error:
            self.ledger.fail(error)
        except asyncio.CancelledError:
            self.ledger.fail(ClientClosed("the cache"))
            raise
        except BaseException as error:
            self.ledger.fail(CoordError(f"the codec of a cache has failed: {error!r}"))
            raise

    def _all(self, source: CacheSnapshot[bytes]) -> CacheSnapshot[T]:
        pairs = [(entry.key, entry) for entry in source.entries()]
        empty: CacheSnapshot[T] = CacheSnapshot(SortedMap(), revision=0, as_of=0)
        news, undecodable = self._some(pairs, empty)
        entries = [entry for entry in news.values() if entry is not None]
        return CacheSnapshot(
            SortedMap([entry.key for entry in entries], entries),
            revision=source.revision,
            as_of=source.as_of,
            undecodable=undecodable,
        )

    def _some(
        self, pairs: Iterable[tuple[bytes, Entry[bytes] | None]], known: CacheSnapshot[T]
    ) -> tuple[dict[bytes, Entry[T] | None], Mapping[bytes, DecodeError]]:
        """Return the news of ``pairs``, and all keys of which the present value cannot be read."""
        news: dict[bytes, Entry[T] | None] = {}
        bad: dict[bytes, DecodeError] | None = None
        for key, entry in pairs:
            wrong: DecodeError | None = None
            if entry is None:
                news[key] = None
            else:
                try:
                    news[key] = decoded(self._codec, entry)
                except DecodeError as error:
                    wrong = error
                    last = known.entry(key)
                    # A value of a former life is not the last good one of this.
                    if last is not None and last.create_revision != entry.create_revision:
                        news[key] = None
            if wrong is not None or key in known.undecodable:
                bad = dict(known.undecodable) if bad is None else bad
                if wrong is None:
                    bad.pop(key, None)
                else:
                    bad[key] = wrong
        return news, known.undecodable if bad is None else MappingProxyType(bad)
