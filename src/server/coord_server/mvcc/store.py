"""The state that the replicated log builds: keys at revisions, and what changed.

Reads may come at any time between two operations. Writes come in requests: any number of ``put`` and
``delete``, then ``commit``, which makes them one revision. There is no undo; whoever writes has
checked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, final

from coord.runtime import invariant
from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc import past, ranges
from coord_server.mvcc.compact import Sweep
from coord_server.mvcc.events import DELETE, PUT, Event, RecentEvents
from coord_server.mvcc.fields import KeyValue, decode_field, encode_field, strip
from coord_server.mvcc.index import History, Index
from coord_server.mvcc.load import load_histories
from coord_server.mvcc.records import Records
from coord_server.storage.backend import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.wire import rpc_pb2
    from coord_server.storage.backend import Backend, Batch

# A store without any write stands at revision 1, so that 0 can mean "now" on the wire.
FIRST_REVISION: Final = 1
NEVER_COMPACTED: Final = -1

COMPACT_KEY: Final = b"compact_revision"
SCHEDULED_COMPACT_KEY: Final = b"scheduled_compact_revision"
REVISION_KEY: Final = b"current_revision"


class Attachments(Protocol):
    """What the store asks and tells the leases: whether they exist, and which keys hang on them."""

    def exists(self, lease_id: int) -> bool:
        """Tell whether a lease exists."""
        ...

    def attach(self, lease_id: int, key: bytes) -> None:
        """Hang a key on a lease."""
        ...

    def detach(self, lease_id: int, key: bytes) -> None:
        """Take a key off a lease."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """How much of the past and of the values stays in memory; what is not here is in the backend."""

    record_cache_bytes: int = 256 << 20
    """Newest records of live keys. Holds a store within the default quota's order of magnitude."""
    recent_events: int = 20_000
    recent_bytes: int = 16 << 20


@final
class Store:
    """All keys at all revisions from ``compact_revision`` on (etcd API: KV).

    ``attachments`` hears of every key that is hung on a lease or taken off, loading included.
    """

    def __init__(
        self, backend: Backend, attachments: Attachments, *, limits: StoreLimits | None = None
    ) -> None:
        self._attachments = attachments
        self._backend = backend
        self._limits = StoreLimits() if limits is None else limits
        self.examined: int = 0
        """How many changes all readings of history have looked at."""
        self.on_compact: Callable[[], None] = _nothing
        """Called when a sweep is to begin, inside the request that asks for it."""
        self.on_swept: Callable[[], None] = _nothing
        """Called when no sweep is under way any longer: the last step is done, or the content was replaced."""
        self.load()

    def load(self) -> None:
        """Read everything from the backend, as at the start, or after its content was replaced.

        The attachments have been loaded before, without keys.
        """
        backend, limits = self._backend, self._limits
        self._index = Index()
        self._records = Records(backend, self._index, cache_bytes=limits.record_cache_bytes)
        scheduled = _load_number(backend, SCHEDULED_COMPACT_KEY, NEVER_COMPACTED)
        finished = _load_number(backend, COMPACT_KEY, NEVER_COMPACTED)
        newest = load_histories(backend, self._index, self._records, self._attachments)
        self.compact_revision: int = max(scheduled, finished)
        """Reads below this are refused; -1 before the first compaction."""
        # Records say it too, but only as long as every rule of the sweep is right; a revision that
        # went back would break every watcher and every fence.
        self.revision: int = max(
            FIRST_REVISION, newest, _load_number(backend, REVISION_KEY, 0), self.compact_revision
        )
        """The revision of the last request that changed something."""
        self._sweep = None if scheduled == finished else Sweep(self._index, scheduled)
        self._swept = finished
        self._next_sub = 0
        self._fresh: list[Event] = []
        self._recent = RecentEvents(
            self.revision + 1, max_events=limits.recent_events, max_bytes=limits.recent_bytes
        )
        self._saved = (self.revision, scheduled, finished)
        if self._sweep is None:
            self.on_swept()  # if one was under way, the content that it swept is not there any more

    # Writing.

    @property
    def visible_revision(self) -> int:
        """The revision that a read sees now: inside a request, its own once it changed something."""
        return self.revision + 1 if self._next_sub else self.revision

    def lease_exists(self, lease_id: int) -> bool:
        """Tell whether a key may be hung on this lease."""
        return self._attachments.exists(lease_id)

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Set a key in the request under way; the lease exists or is 0."""
        main = self.revision + 1
        sub = self._next_sub
        self._next_sub = sub + 1
        index = self._index
        history = index.histories.get(key)
        prev: bytes | None = None
        if history is None:
            history = History(key, main, sub)
            index.histories[key] = history
            index.live.add(key)
            held = 0
        elif history.version:
            # Validation lets no request put a key twice, so this is the pair before the request.
            prev = history.field
            held = history.lease
            if history.older is None:
                index.worn[key] = None
            history.supersede(main, sub)
            history.version += 1
        else:
            held = 0
            history.supersede(main, sub)
            history.create = main
            history.version = 1
            index.revive(key)
        if held != lease:
            if held:
                self._attachments.detach(held, key)
            if lease:
                self._attachments.attach(lease, key)
            history.lease = lease
        create = history.create
        field = encode_field(key, create, main, history.version, value, lease)
        self._records.store(history, field)
        self._fresh.append(Event(PUT, key, main, create, field, prev))

    def delete(self, key: bytes) -> None:
        """Delete a live key in the request under way."""
        main = self.revision + 1
        sub = self._next_sub
        self._next_sub = sub + 1
        history = self._index.histories[key]
        prev = history.field if history.mod != main else self._before(history, main)
        if history.lease:
            self._attachments.detach(history.lease, key)
            history.lease = 0
        history.supersede(main, sub)
        history.version = 0
        self._index.bury(key)
        # The record names the key alone, as etcd's does; the revision is in its place.
        self._records.bury(history, encode_field(key, 0, 0, 0, b"", 0))
        self._fresh.append(Event(DELETE, key, main, 0, past.delete_field(key, main), prev))

    def _before(self, history: History, main: int) -> bytes | None:
        """Return a key's record before the request under way, which has changed it already."""
        place = history.at(main - 1)
        return None if place is None else self._records.fetch(*place)

    def commit(self) -> None:
        """End a request: its changes, if any, are the new revision."""
        if self._next_sub:
            self.revision += 1
            self._next_sub = 0

    def take_events(self) -> list[Event]:
        """Return the changes since the last call, and remember them as recent ones."""
        events = self._fresh
        if events:
            self._fresh = []
            self._recent.extend(events)
        return events

    # Reading. Inside a request these see its changes.

    def history(
        self,
        key: bytes,
        end: bytes,
        start: int,
        stop: int,
        limit_revisions: int,
        limit_bytes: int = past.EXAMINED_BYTES_PER_CALL,
    ) -> tuple[list[Event], int]:
        """Return the changes of a range with ``start <= revision <= stop``, and where to go on.

        Changes come in the order in which they happened. At most ``limit_revisions`` revisions are
        in the answer, none of them cut, and none after ``limit_bytes`` of changes; fewer if matches
        are rare. The second value is the first revision that was not looked at, ``stop + 1`` at the
        end. ``end`` is as on the wire. Raises `Refused` COMPACTED if ``start`` is below the compact
        revision.
        """
        if start < self.compact_revision:
            raise Refused(errors.COMPACTED)
        reading = past.events_between(
            self._records,
            self._recent,
            key=key,
            end=end,
            start=start,
            stop=stop,
            limit_revisions=limit_revisions,
            limit_bytes=limit_bytes,
        )
        self.examined += reading.examined
        return reading.events, reading.following

    @property
    def oldest_in_memory(self) -> int:
        """Changes from this revision on need no look at the backend."""
        return self._recent.oldest

    def value_at(self, key: bytes, revision: int) -> bytes | None:
        """Return the encoded pair as of a revision; None if there was none or it is compacted."""
        if revision < self.compact_revision:
            return None
        history = self._index.histories.get(key)
        place = None if history is None else history.at(revision)
        return None if place is None else strip(self._records.fetch(*place))

    def record_at(self, key: bytes, revision: int) -> tuple[int, int] | None:
        """Return where the record is that a key had at a revision that is not compacted; None if none."""
        history = self._index.histories.get(key)
        return None if history is None else history.at(revision)

    def point_body(self, key: bytes) -> bytes:
        """Return a RangeResponse without header for one key as of now."""
        return ranges.point_body(self._index, self._records, key)

    def range_body(self, request: rpc_pb2.RangeRequest) -> bytes:
        """Return a RangeResponse without header.

        Negative revisions mean now. Raises `Refused` FUTURE_REV or COMPACTED, in this order.
        """
        at = request.revision
        if at > self.revision:
            raise Refused(errors.FUTURE_REV)
        if 0 < at < self.compact_revision:
            raise Refused(errors.COMPACTED)
        return self.checked_range_body(request)

    def checked_range_body(self, request: rpc_pb2.RangeRequest) -> bytes:
        """Do the same for a request whose revision is known to be readable."""
        at = request.revision
        if at <= 0 or at >= self.visible_revision:
            at = 0
        return ranges.range_body(self._index, self._records, request, at)

    def find(self, key: bytes) -> History | None:
        """Return the counters of a live key."""
        history = self._index.histories.get(key)
        return history if history is not None and history.version else None

    def find_all(self, key: bytes, end: bytes) -> list[History]:
        """Return the counters of the live keys of a range, in order."""
        histories = self._index.histories
        return [histories[name] for name in self._index.keys(key, end)]

    def pair_field(self, history: History) -> bytes:
        """Return the record of a live key as field 2 of an answer."""
        return history.field or self._records.newest(history)

    def get(self, key: bytes) -> KeyValue | None:
        """Return one pair as of now."""
        history = self.find(key)
        return None if history is None else decode_field(self.pair_field(history))

    def keys(self, key: bytes, end: bytes) -> list[bytes]:
        """Return the live keys of a range, in order."""
        return self._index.keys(key, end)

    def count(self, key: bytes, end: bytes) -> int:
        """Return how many live keys a range has."""
        return self._index.count(key, end)

    def first_created(
        self, key: bytes, end: bytes, *, max_create: int | None = None
    ) -> KeyValue | None:
        """Return the pair with the lowest create revision, at most ``max_create``, of a range."""
        rows = self._created_until(key, end, max_create)
        oldest = min(rows, key=lambda row: (row.create, row.key), default=None)
        return None if oldest is None else decode_field(self.pair_field(oldest))

    def last_created(
        self, key: bytes, end: bytes, *, max_create: int | None = None
    ) -> KeyValue | None:
        """Return the pair with the highest create revision, at most ``max_create``, of a range."""
        rows = self._created_until(key, end, max_create)
        youngest = max(rows, key=lambda row: (row.create, row.key), default=None)
        return None if youngest is None else decode_field(self.pair_field(youngest))

    def _created_until(self, key: bytes, end: bytes, max_create: int | None) -> list[History]:
        rows = self.find_all(key, end)
        return rows if max_create is None else [row for row in rows if row.create <= max_create]

    # Compacting and saving.

    @property
    def compacting(self) -> bool:
        """Whether a sweep is under way: obsolete records of the last compaction still exist."""
        return self._sweep is not None

    def compact(self, revision: int) -> None:
        """Give up all revisions below ``revision``; the sweep follows with ``compact_some``.

        Raises `Refused` COMPACTED if that was done already, FUTURE_REV if it is not written yet.
        """
        if revision <= self.compact_revision:
            raise Refused(errors.COMPACTED)
        if revision > self.revision:
            raise Refused(errors.FUTURE_REV)
        self.compact_revision = revision
        self._sweep = Sweep(self._index, revision)
        self.on_compact()

    def compact_some(self, budget: int) -> bool:
        """Sweep about ``budget`` keys and records; return whether there is more to do."""
        invariant(not self._next_sub, "a sweep runs between requests")
        sweep = self._sweep
        if sweep is None:
            return False
        if sweep.step(self._records, budget):
            return True
        self._sweep = None
        self._swept = sweep.revision
        self.on_swept()
        return False

    @property
    def pending_count(self) -> int:
        """How many records wait to be written or removed."""
        return self._records.pending_count

    def take(self, batch: Batch) -> None:
        """Move all that the backend lacks into ``batch``."""
        self._records.take(batch)
        now = (self.revision, self.compact_revision, self._swept)
        for key, number, saved in zip(
            (REVISION_KEY, SCHEDULED_COMPACT_KEY, COMPACT_KEY), now, self._saved, strict=True
        ):
            if number != saved:
                batch.put(Bucket.META, key, encode_number(number))
        self._saved = now

    def flushed(self) -> None:
        """Let go of what the batch taken last held."""
        self._records.flushed()


def encode_number(number: int) -> bytes:
    """Encode a number of the META bucket: 8 bytes, big endian, signed."""
    return number.to_bytes(8, "big", signed=True)


def _nothing() -> None:
    """Nobody waits for this."""


def _load_number(backend: Backend, key: bytes, default: int) -> int:
    value = backend.get(Bucket.META, key)
    return default if value is None else int.from_bytes(value, "big", signed=True)
