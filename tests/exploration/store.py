"""One member's store without the server around it: the server's own rules of keys, leases and history, in virtual time.

Every change is kept as a :class:`Change`, with its moment and with who asked for it: what the models are fed with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from coord.rpc.status import RpcError, StatusCode
from coord.wire import fast, methods, rpc_pb2
from coord.wire.deep import decode_txn
from coord_server.api import validate
from coord_server.apply import Applier
from coord_server.errors import ErrorSpec, Refused
from coord_server.mvcc.events import DELETE, PUT, Event
from coord_server.mvcc.fields import KeyValue, decode_field
from coord_server.mvcc.prepared import prepare
from coord_server.mvcc.txn import is_read_only, txn
from coord_server.ops import OpKind, encode_batch
from coord_server.storage.memory_backend import MemoryBackend
from tests.exploration.clockwork import Clockwork

if TYPE_CHECKING:
    from coord_server.mvcc.prepared import Prepared

_TERM = 1
_MIN_TTL_S = 2
_LEASES_PER_TICK = 1000
CLIENT, EXPIRY, ADMIN = "client", "expiry", "admin"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key. ``value`` is None for a deletion; ``at`` is in seconds of the loop."""

    revision: int
    key: bytes
    value: bytes | None
    created: int
    lease: int
    at: float
    by: str


class ServerWatch:
    """One watch as the store sees it. ``tell(events)`` gets its events, those of one change at a time."""

    __slots__ = (
        "end",
        "key",
        "next_revision",
        "no_delete",
        "no_put",
        "prev_kv",
        "tell",
        "watch_id",
    )

    def __init__(
        self, request: rpc_pb2.WatchCreateRequest, tell: Callable[[ServerWatch, list[Event]], None]
    ) -> None:
        self.watch_id = request.watch_id
        self.key = request.key
        self.end = request.range_end
        self.prev_kv = request.prev_kv
        self.no_put = rpc_pb2.WatchCreateRequest.NOPUT in request.filters
        self.no_delete = rpc_pb2.WatchCreateRequest.NODELETE in request.filters
        self.next_revision = request.start_revision
        self.tell = tell

    def wants(self, event: Event) -> bool:
        """Say whether it is in the range, and not filtered."""
        if event.mod_revision < self.next_revision:
            return False
        if (self.no_put and event.kind == PUT) or (self.no_delete and event.kind == DELETE):
            return False
        if not self.end:
            return event.key == self.key
        return event.key >= self.key and (self.end == b"\0" or event.key < self.end)


class Store:
    """Answers encoded requests at once. ``changes`` is all that has ever happened."""

    def __init__(self, loop: Clockwork, on_expired: Callable[[int], object]) -> None:
        self._loop = loop
        self._on_expired = on_expired
        self.applier = Applier(MemoryBackend(), fast.HeaderStamp(7, 9), min_ttl=_MIN_TTL_S)
        self._keys = self.applier.store
        self.lessor = self.applier.lessor
        self.lessor.promote(loop.now, 0.0)
        self.changes: list[Change] = []
        self.watches: dict[ServerWatch, None] = {}
        self._taken_away: set[int] = set()
        """Leases that an operator has revoked."""
        self.by = CLIENT
        """Who asks at present."""
        self._history: list[Event] = []
        self._context = Context()
        self._index = 0
        self._unary: dict[str, Callable[[bytes], bytes]] = {
            methods.KV_TXN.path: self._txn,
            methods.KV_RANGE.path: self._range,
            methods.KV_PUT.path: self._put,
            methods.KV_DELETE_RANGE.path: lambda raw: self._apply(OpKind.DELETE_RANGE, raw),
            methods.KV_COMPACT.path: self._compact,
            methods.LEASE_GRANT.path: self._grant,
            methods.LEASE_REVOKE.path: lambda raw: self._apply(OpKind.LEASE_REVOKE, raw),
            methods.LEASE_TIME_TO_LIVE.path: self._time_to_live,
            methods.MAINTENANCE_STATUS.path: self._status,
        }
        self._next_look = 0.0

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        return self._keys.revision

    @property
    def compact_revision(self) -> int:
        """Below this the past is gone."""
        return self._keys.compact_revision

    @property
    def header(self) -> bytes:
        """The header of an answer now, encoded."""
        return self.applier._stamp.field(self._keys.revision, _TERM)

    # -- requests --------------------------------------------------------------------------------------------------

    def unary(self, path: str, request: bytes) -> bytes:
        """Answer a request. Raises ``RpcError`` for a refusal."""
        self.expire()
        return self._unary[path](request)

    def _apply(self, kind: OpKind, payload: bytes, ready: Prepared | None = None) -> bytes:
        self._index += 1
        applied = self.applier.apply(
            self._index,
            _TERM,
            encode_batch([(kind, payload)]),
            answers=True,
            prepared=() if ready is None else (ready,),
        )
        self.lessor.settle(self._loop.now)
        if applied.events:
            self._note(applied.events)
        result = applied.results[0]
        if isinstance(result, ErrorSpec):
            raise Refused(result)
        return result

    def _note(self, events: list[Event]) -> None:
        self._history += events
        now, by = self._loop.now, self.by
        for event in events:
            if event.kind == PUT:
                pair = decode_field(event.field)
                change = Change(
                    event.mod_revision,
                    event.key,
                    pair.value,
                    pair.create_revision,
                    pair.lease,
                    now,
                    by,
                )
            else:
                change = Change(event.mod_revision, event.key, None, 0, 0, now, by)
            self.changes.append(change)
        for watch in list(self.watches):
            wanted = [event for event in events if watch.wants(event)]
            if wanted:
                watch.next_revision = wanted[-1].mod_revision + 1
                watch.tell(watch, wanted)

    def _grant(self, raw: bytes) -> bytes:
        if rpc_pb2.LeaseGrantRequest.FromString(raw).ID in self._taken_away:
            # A copy of its grant would let a lease that an operator has taken away live on, and no session could know.
            raise RpcError(StatusCode.UNAVAILABLE, "lost")
        try:
            return self._apply(OpKind.LEASE_GRANT, raw)
        finally:
            self._plan_look()

    def _txn(self, raw: bytes) -> bytes:
        request = decode_txn(raw)
        if request is None:
            raise RpcError(StatusCode.INTERNAL, "unreadable")
        transaction = prepare(request)
        problem = validate.validate_txn(transaction)
        if problem is not None:
            raise Refused(problem)
        if is_read_only(transaction):
            return self.header + txn(self._keys, transaction)
        return self._apply(OpKind.TXN, raw, transaction)

    def _put(self, raw: bytes) -> bytes:
        put = fast.decode_put(raw)
        if put is None:
            raise RpcError(StatusCode.INTERNAL, "unreadable")
        problem = validate.validate_put(put)
        if problem is not None:
            raise Refused(problem)
        return self._apply(OpKind.PUT, raw, put)

    def _range(self, raw: bytes) -> bytes:
        request = rpc_pb2.RangeRequest.FromString(raw)
        problem = validate.validate_range(request)
        if problem is not None:
            raise Refused(problem)
        return self.header + self._keys.range_body(request)

    def _compact(self, raw: bytes) -> bytes:
        answer = self._apply(OpKind.COMPACT, raw)
        while self._keys.compact_some(1000):
            pass
        return answer

    def _time_to_live(self, raw: bytes) -> bytes:
        request = rpc_pb2.LeaseTimeToLiveRequest.FromString(raw)
        remaining = self.lessor.remaining(request.ID, self._loop.now)
        answer = rpc_pb2.LeaseTimeToLiveResponse(ID=request.ID)
        if remaining is None:
            answer.TTL = -1
        else:
            answer.TTL = int(remaining)
            answer.grantedTTL = self.lessor.granted_ttl(request.ID)
            if request.keys:
                answer.keys.extend(self.lessor.keys(request.ID))
        return self.header + answer.SerializeToString()

    def _status(self, raw: bytes) -> bytes:
        del raw
        return self.header + rpc_pb2.StatusResponse(version="3.5.21").SerializeToString()

    def keep_alive(self, request: bytes) -> bytes:
        """Answer one message of a stream of renewals."""
        self.expire()
        lease_id = fast.decode_keep_alive(request)
        if lease_id is None:
            raise RpcError(StatusCode.INTERNAL, "unreadable")
        ttl = self.lessor.renew(lease_id, self._loop.now) or 0
        return fast.encode_keep_alive_response(self.header, lease_id, ttl)

    # -- watches ---------------------------------------------------------------------------------------------------

    def watch(self, watch: ServerWatch) -> bool:
        """Begin to watch, from a revision in the past if it says so; False if that is compacted."""
        if 0 < watch.next_revision < self.compact_revision:
            return False
        if watch.next_revision == 0:
            watch.next_revision = self.revision + 1
        self.watches[watch] = None
        past = [event for event in self._history if watch.wants(event)]
        if past:
            watch.next_revision = past[-1].mod_revision + 1
            watch.tell(watch, past)
        return True

    def unwatch(self, watch: ServerWatch) -> None:
        """End a watch."""
        self.watches.pop(watch, None)

    def event_body(self, watch: ServerWatch, event: Event) -> bytes:
        """Encode an event for a watch."""
        if not watch.prev_kv or event.is_create:
            return event.body
        before = event.store_prev
        if before is None:
            before = self._keys.value_at(event.key, event.mod_revision - 1)
        return event.body if before is None else event.body + fast.delimited(0x1A, before)

    # -- time and trouble ------------------------------------------------------------------------------------------

    def _plan_look(self) -> None:
        """Look again when the first lease may be over."""
        heap, now = self.lessor._heap, self._loop.now
        if heap and not now < self._next_look <= heap[0][0]:
            self._next_look = max(heap[0][0], now + 0.001)
            self._loop.call_at(self._next_look, self._look, context=self._context)

    def _look(self) -> None:
        self.expire()
        self._plan_look()

    def expire(self) -> None:
        """Take away the leases whose time is over."""
        heap = self.lessor._heap
        if not heap or heap[0][0] > self._loop.now:
            return
        for lease_id in self.lessor.expired(self._loop.now, _LEASES_PER_TICK):
            self._as(EXPIRY, partial(self._revoke, lease_id))
            self._on_expired(lease_id)

    def revoke(self, lease_id: int) -> None:
        """Take a lease away as an operator can."""
        if self.lessor.exists(lease_id):
            self._taken_away.add(lease_id)
            self._as(ADMIN, lambda: self._revoke(lease_id))

    def _revoke(self, lease_id: int) -> None:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease_id).SerializeToString()
        self._apply(OpKind.LEASE_EXPIRE, request)

    def delete(self, key: bytes) -> None:
        """Delete a key as an operator can."""
        request = rpc_pb2.DeleteRangeRequest(key=key).SerializeToString()
        self._as(ADMIN, lambda: self._apply(OpKind.DELETE_RANGE, request))

    def compact(self, behind: int = 0) -> None:
        """Forget the past up to so many revisions ago."""
        revision = self.revision - behind
        if revision > max(self.compact_revision, 1):
            self._compact(rpc_pb2.CompactionRequest(revision=revision).SerializeToString())

    def _as(self, by: str, act: Callable[[], object]) -> None:
        self.by = by
        try:
            act()
        finally:
            self.by = CLIENT

    # -- looks for models ------------------------------------------------------------------------------------------

    def keys(self, prefix: bytes = b"\0") -> list[bytes]:
        """Return the keys below a prefix, or all."""
        return [
            key
            for key in self._keys.keys(b"\0", b"\0")
            if prefix == b"\0" or key.startswith(prefix)
        ]

    def created(self, key: bytes) -> int:
        """Return a key's create revision, 0 if it is absent."""
        found = self._keys.find(key)
        return 0 if found is None else found.create

    def pair(self, key: bytes) -> KeyValue:
        """Return a key that is there, with its counters."""
        pair = self._keys.get(key)
        assert pair is not None
        return pair

    def values(self, prefix: bytes) -> list[bytes]:
        """Return the values below a prefix."""
        return [self.pair(key).value for key in self.keys(prefix)]

    def lease_of(self, key: bytes) -> int:
        """Return the lease that a key hangs on, 0 for none."""
        found = self._keys.find(key)
        return 0 if found is None else found.lease
