"""Where the bytes of records are: cached with their key, waiting to be flushed, or in the backend.

Three places, asked in this order. A live key's newest record hangs on its history as long as the
cache has room. A record that the backend does not have yet is held under its backend key, first as
*pending*, then as *in flight* while a batch is being written. Everything else is in the backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from coord.runtime import InvariantViolation, invariant
from coord_server.mvcc.fields import make_field, strip
from coord_server.mvcc.revision import encode_revision, encode_tombstone
from coord_server.storage.backend import Bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord_server.mvcc.index import History, Index
    from coord_server.storage.backend import Backend, Batch

# The cache is emptied by this share of its budget at once, so that finding victims costs little.
_EVICT_SHARE = 128


@final
class Records:
    """The records behind an index. ``cache_bytes`` bounds what hangs on histories."""

    def __init__(self, backend: Backend, index: Index, *, cache_bytes: int) -> None:
        self._backend = backend
        self._index = index
        self.cache_bytes = cache_bytes
        self._cached = 0
        self._evict_from = b""
        # Backend key to field, in order of revision.
        self._pending: dict[bytes, bytes] = {}
        self._in_flight: dict[bytes, bytes] = {}
        self._doomed: list[bytes] = []

    @property
    def pending_count(self) -> int:
        """How many changes of the record bucket wait for the next batch."""
        return len(self._pending) + len(self._doomed)

    def store(self, history: History, field: bytes) -> None:
        """Keep a put's record: the history's newest, not yet flushed."""
        self._pending[encode_revision(history.mod, history.sub)] = field
        self.cache(history, field)

    def bury(self, history: History, field: bytes) -> None:
        """Keep a delete's record, which is the history's newest, and uncache the one before it."""
        self._pending[encode_tombstone(history.mod, history.sub)] = field
        if history.field is not None:
            self._cached -= len(history.field)
            history.field = None

    def cache(self, history: History, field: bytes) -> None:
        """Hang the newest record on its history, and make room when the budget is used up."""
        old = history.field
        self._cached += len(field) if old is None else len(field) - len(old)
        history.field = field
        if self._cached > self.cache_bytes:
            self._evict()

    def newest(self, history: History) -> bytes:
        """Return the newest record of a live key, and keep it cached if it was not."""
        field = history.field
        if field is None:
            field = self.fetch(history.mod, history.sub)
            self.cache(history, field)
        return field

    def peek(self, history: History) -> bytes:
        """Return the newest record of a live key without disturbing the cache."""
        field = history.field
        return self.fetch(history.mod, history.sub) if field is None else field

    def fetch(self, main: int, sub: int) -> bytes:
        """Return the field of a put's record that the index names."""
        key = encode_revision(main, sub)
        field = self._pending.get(key)
        if field is None:
            field = self._in_flight.get(key)
        if field is not None:
            return field
        body = self._backend.get(Bucket.KEY, key)
        if body is None:
            raise InvariantViolation(f"record {main}.{sub} is in the index and nowhere else")
        return make_field(body)

    def discard(self, main: int, sub: int, *, tombstone: bool) -> None:
        """Remove a record that the index has forgotten, wherever it is."""
        key = encode_tombstone(main, sub) if tombstone else encode_revision(main, sub)
        if self._pending.pop(key, None) is None:
            self._doomed.append(key)

    def between(self, start: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield backend key and encoded pair of the records from ``start`` to ``stop``, in order."""
        low, high = encode_revision(start, 0), encode_revision(stop + 1, 0)
        # Batches are taken in order of revision, so the backend alone has what is older than the
        # first record in memory. Above it the backend may already hold what is in flight.
        first = next(iter(self._in_flight or self._pending), high)
        yield from self._backend.scan(Bucket.KEY, low, min(first, high))
        for held in (self._in_flight, self._pending):
            for key, field in list(held.items()):
                if low <= key < high:
                    yield key, strip(field)

    def take(self, batch: Batch) -> None:
        """Move all that waits into ``batch``. The batch before it must have been flushed."""
        invariant(not self._in_flight, "one batch is written at a time")
        bucket = Bucket.KEY
        batch.deletes += [(bucket, key) for key in self._doomed]
        batch.puts += [(bucket, key, strip(field)) for key, field in self._pending.items()]
        self._in_flight, self._pending = self._pending, {}
        self._doomed = []

    def flushed(self) -> None:
        """Let go of the records of the batch taken last: the backend has them."""
        self._in_flight = {}

    def _evict(self) -> None:
        """Uncache records of successive keys until there is room.

        The walk goes round the key space, so each record gets about the same stay; that needs no
        bookkeeping at a read.
        """
        goal = self.cache_bytes - self.cache_bytes // _EVICT_SHARE
        histories = self._index.histories
        for start in (self._evict_from, b""):
            for key in self._index.live.irange(start):
                history = histories[key]
                if history.field is not None:
                    self._cached -= len(history.field)
                    history.field = None
                    if self._cached <= goal:
                        self._evict_from = key
                        return
        self._evict_from = b""
