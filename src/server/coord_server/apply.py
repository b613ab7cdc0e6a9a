"""What a committed entry does to the state: a function of the state and the entry alone.

Every member applies the same entries in the same order and must end in the same state, so nothing
here looks at a clock, draws a number or asks who is leader. An operation that the rules refuse is
answered with the refusal and has changed nothing. Any other failure propagates: the member must stop,
because it can no longer say what its state is.
"""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

from coord.runtime import InvariantViolation, invariant
from coord.wire import fast, rpc_pb2
from coord.wire.deep import decode_txn
from coord_server import errors
from coord_server.alarms import Alarms
from coord_server.errors import ErrorSpec, Refused
from coord_server.lease.lessor import MAX_TTL_S, Lessor
from coord_server.lease.record import record_key
from coord_server.members import AppliedChange, Members
from coord_server.mvcc import writes
from coord_server.mvcc.prepared import Transaction, prepare
from coord_server.mvcc.store import Store, StoreLimits, encode_number
from coord_server.mvcc.txn import txn
from coord_server.ops import OpKind, decode_batch, decode_in_term, decode_origin
from coord_server.raft.membership import decode_change
from coord_server.storage.backend import APPLIED_INDEX_KEY, APPLIED_TERM_KEY, Batch, Bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord_server.mvcc.events import Event
    from coord_server.mvcc.prepared import Prepared
    from coord_server.storage.backend import Backend

    Result: TypeAlias = bytes | ErrorSpec
    """A whole response message, or the refusal."""

_PUT: Final = int(OpKind.PUT)
_DELETE_RANGE: Final = int(OpKind.DELETE_RANGE)
_TXN: Final = int(OpKind.TXN)
_COMPACT: Final = int(OpKind.COMPACT)
_LEASE_GRANT: Final = int(OpKind.LEASE_GRANT)
_LEASE_REVOKE: Final = int(OpKind.LEASE_REVOKE)
_LEASE_EXPIRE: Final = int(OpKind.LEASE_EXPIRE)
_LEASE_CHECKPOINT: Final = int(OpKind.LEASE_CHECKPOINT)
_ALARM: Final = int(OpKind.ALARM)
_ORIGIN: Final = int(OpKind.ORIGIN)
_IN_TERM: Final = int(OpKind.IN_TERM)
_MEMBER_ATTRIBUTES: Final = int(OpKind.MEMBER_ATTRIBUTES)


class Origin(NamedTuple):
    """A run of forwarded operations: ``[first_result, end_result)`` of the entry's results are theirs."""

    member: int
    incarnation: int
    seq: int
    first_result: int
    end_result: int


class Applied(NamedTuple):
    """What an entry brought about: an answer for each operation, and the changes in their order.

    ``origins`` says which answers belong to operations that a member forwarded, in the entry's order;
    answers before the first of them are the leader's own. It is there even if the results are not.
    """

    results: list[Result]
    events: list[Event]
    origins: list[Origin]


@final
class Applier:
    """The replicated state of one member: keys, leases, alarms, members, and how far the log is applied.

    Loads everything from ``backend``. ``min_ttl`` is the shortest lease in seconds; a cluster's
    members must agree on it.
    """

    def __init__(
        self,
        backend: Backend,
        stamp: fast.HeaderStamp,
        *,
        limits: StoreLimits | None = None,
        min_ttl: int = 2,
    ) -> None:
        self._backend = backend
        self._stamp = stamp
        self.lessor: Lessor = Lessor(min_ttl)
        self.lessor.load(backend.scan(Bucket.LEASE))
        self.store: Store = Store(backend, self.lessor, limits=limits)
        self.alarms: Alarms = Alarms()
        self.members: Members = Members()
        self._load_rest()

    def reload(self) -> None:
        """Load everything anew: the backend's content was replaced. Its parts stay the objects they are.

        What was applied and not saved is forgotten with the rest.
        """
        self.lessor.load(self._backend.scan(Bucket.LEASE))
        self.store.load()
        self._load_rest()

    def _load_rest(self) -> None:
        backend = self._backend
        self.alarms.load(backend.scan(Bucket.ALARM))
        self.members.load(backend.scan(Bucket.MEMBERS))
        self.applied_index: int = _load_count(backend, APPLIED_INDEX_KEY)
        self.term: int = _load_count(backend, APPLIED_TERM_KEY)
        """The term of the last applied entry."""
        self._saved = (self.applied_index, self.term)
        self._ops_since_take = 0
        # Leases whose record in the backend is behind. A dict for its order.
        self._stale_leases: dict[int, None] = {}

    # Applying.

    def apply(
        self,
        index: int,
        term: int,
        data: bytes,
        *,
        answers: bool,
        prepared: Sequence[Prepared] = (),
    ) -> Applied:
        """Apply the entry at ``index``; one that was applied before does nothing.

        With ``answers=False``, as on a member that nobody asked, the results are left out.
        ``prepared`` is what the proposer has read of the entry's first operations already.
        """
        if index <= self.applied_index:
            return Applied([], [], [])
        invariant(term >= self.term, "terms in the log never go back")
        self.term = term
        results: list[Result] = []
        marks: list[tuple[bytes, int]] = []
        ops = decode_batch(data)
        for (kind, payload), ready in zip(ops, chain(prepared, repeat(None)), strict=False):
            try:
                self._apply_one(kind, payload, ready, results, marks)
            except Refused as refusal:
                results.append(refusal.spec)
        self.applied_index = index
        self._ops_since_take += len(ops)
        origins = _origins(marks, len(results)) if marks else []
        return Applied(results if answers else [], self.store.take_events(), origins)

    def apply_config(self, index: int, term: int, data: bytes) -> AppliedChange:
        """Apply the CONFIG entry at ``index``; one that was applied before does nothing.

        Raft is then told with ConfigApplied(index, change) of what this returns. Raises ValueError if
        the entry holds no change.
        """
        if index <= self.applied_index:
            return AppliedChange(None, None)
        invariant(term >= self.term, "terms in the log never go back")
        change, context = decode_change(data)
        refusal = self.members.apply_change(change, context)
        self.term = term
        self.applied_index = index
        self._ops_since_take += 1
        return AppliedChange(change if refusal is None else None, refusal)

    def _apply_one(
        self,
        kind: int,
        payload: bytes,
        ready: Prepared,
        results: list[Result],
        marks: list[tuple[bytes, int]],
    ) -> None:
        store = self.store
        if self.alarms.any:
            refusal = self.alarms.refusal(kind, payload)
            if refusal is not None:
                raise Refused(refusal)
        if kind == _PUT:
            put = ready if isinstance(ready, fast.Put) else fast.decode_put(payload)
            if put is None:
                raise InvariantViolation("an operation of kind PUT holds no PutRequest")
            if put.lease or put.ignore_value or put.ignore_lease:
                writes.check_put(store, put)
            body = writes.put(store, put)
        elif kind == _TXN:
            body = txn(store, ready if isinstance(ready, Transaction) else _read_txn(payload))
        elif kind == _DELETE_RANGE:
            body = writes.delete_range(store, rpc_pb2.DeleteRangeRequest.FromString(payload))
        elif kind == _LEASE_GRANT:
            body = self._grant(rpc_pb2.LeaseGrantRequest.FromString(payload))
        elif kind == _LEASE_REVOKE:
            body = self._revoke(rpc_pb2.LeaseRevokeRequest.FromString(payload))
        elif kind == _ORIGIN:
            marks.append((payload, len(results)))
            return
        else:
            body = self._apply_rare(kind, payload)
        store.commit()
        results.append(self._stamp.field(store.revision, self.term) + body)

    def _apply_rare(self, kind: int, payload: bytes) -> bytes:
        if kind == _IN_TERM:
            term, kind, payload = decode_in_term(payload)
            # The proposer may have been deposed since, and others may know better by now.
            if term != self.term:
                raise Refused(errors.NOT_PRIMARY_LESSOR)
        if kind == _LEASE_EXPIRE:
            return self._revoke(rpc_pb2.LeaseRevokeRequest.FromString(payload))
        if kind == _LEASE_CHECKPOINT:
            return self._checkpoint(rpc_pb2.LeaseCheckpointRequest.FromString(payload))
        if kind == _COMPACT:
            self.store.compact(rpc_pb2.CompactionRequest.FromString(payload).revision)
            return b""
        if kind == _ALARM:
            return self.alarms.apply(rpc_pb2.AlarmRequest.FromString(payload)).SerializeToString()
        if kind == _MEMBER_ATTRIBUTES:
            self.members.apply_attributes(payload)
            return b""
        # Passing over what a newer program wrote would let members drift apart.
        raise InvariantViolation(f"an operation of kind {kind} is unknown to this program")

    def _grant(self, request: rpc_pb2.LeaseGrantRequest) -> bytes:
        lease_id = request.ID
        if request.TTL > MAX_TTL_S:
            raise Refused(errors.LEASE_TTL_TOO_LARGE)
        if self.lessor.exists(lease_id):
            raise Refused(errors.LEASE_EXIST)
        ttl = self.lessor.grant(lease_id, request.TTL)
        self._stale_leases[lease_id] = None
        return b"\x10" + fast.varint(lease_id) + b"\x18" + fast.varint(ttl)

    def _revoke(self, request: rpc_pb2.LeaseRevokeRequest) -> bytes:
        lease_id = request.ID
        if not self.lessor.exists(lease_id):
            raise Refused(errors.LEASE_NOT_FOUND)
        self._stale_leases[lease_id] = None
        for key in self.lessor.revoke(lease_id):
            self.store.delete(key)
        return b""

    def _checkpoint(self, request: rpc_pb2.LeaseCheckpointRequest) -> bytes:
        for checkpoint in request.checkpoints:
            if self.lessor.exists(checkpoint.ID):
                self.lessor.checkpoint(checkpoint.ID, checkpoint.remaining_TTL)
                self._stale_leases[checkpoint.ID] = None
        return b""

    # Saving.

    @property
    def pending_ops(self) -> int:
        """How much waits for the next batch: operations, or records if a sweep made more of them."""
        return max(self._ops_since_take, self.store.pending_count)

    def take_batch(self) -> Batch | None:
        """Return all that the backend lacks, as one batch; None if it lacks nothing.

        The batch holds the applied index together with the changes up to it. The caller writes it
        and then calls ``flushed``; it takes no other batch before that.
        """
        batch = Batch()
        self.store.take(batch)
        for lease_id in self._stale_leases:
            if self.lessor.exists(lease_id):
                batch.put(Bucket.LEASE, *self.lessor.encode_record(lease_id))
            else:
                batch.delete(Bucket.LEASE, record_key(lease_id))
        self._stale_leases = {}
        self.alarms.take(batch)
        self.members.take(batch)
        now = (self.applied_index, self.term)
        if now != self._saved:
            batch.put(Bucket.META, APPLIED_INDEX_KEY, encode_number(self.applied_index))
            batch.put(Bucket.META, APPLIED_TERM_KEY, encode_number(self.term))
            self._saved = now
        self._ops_since_take = 0
        return batch if len(batch) else None

    def flushed(self) -> None:
        """Let go of what the batch taken last held: it is durable."""
        self.store.flushed()


def _origins(marks: list[tuple[bytes, int]], end: int) -> list[Origin]:
    ends = [first for _, first in marks[1:]] + [end]
    return [
        Origin(*decode_origin(payload), first, stop)
        for (payload, first), stop in zip(marks, ends, strict=True)
    ]


def applied_index(backend: Backend) -> int:
    """Return the index of the last log entry whose changes a backend holds."""
    return _load_count(backend, APPLIED_INDEX_KEY)


def _read_txn(payload: bytes) -> Transaction:
    request = decode_txn(payload)
    if request is None:
        raise InvariantViolation("an operation of kind TXN holds no TxnRequest")
    return prepare(request)


def _load_count(backend: Backend, key: bytes) -> int:
    value = backend.get(Bucket.META, key)
    return 0 if value is None else int.from_bytes(value, "big")
