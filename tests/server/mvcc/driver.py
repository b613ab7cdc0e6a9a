"""A store to talk to: requests in, answers out, as a client would see them, without any transport."""

from __future__ import annotations

from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord_server.api import validate
from coord_server.apply import Applied, Applier
from coord_server.errors import ErrorSpec, Refused
from coord_server.mvcc.prepared import prepare
from coord_server.mvcc.store import StoreLimits
from coord_server.mvcc.txn import is_read_only, txn
from coord_server.ops import OpKind, encode_batch
from coord_server.storage.memory_backend import MemoryBackend

CLUSTER_ID = 0x1234
MEMBER_ID = 0x5678
TERM = 3
MAX_OPS = 128
TO_END = b"\x00"


class Driver:
    """One member's state. Every request is an entry of its own, in term ``TERM``."""

    def __init__(
        self, backend: MemoryBackend | None = None, *, limits: StoreLimits | None = None
    ) -> None:
        self.backend = MemoryBackend() if backend is None else backend
        self.limits = limits
        self.applier = Applier(self.backend, fast.HeaderStamp(CLUSTER_ID, MEMBER_ID), limits=limits)
        self.store = self.applier.store
        self.lessor = self.applier.lessor
        self.last = Applied([], [], [])

    def submit(self, kind: OpKind, payload: bytes) -> bytes:
        """Apply one operation; return its answer or raise its refusal."""
        data = encode_batch([(kind, payload)])
        self.last = self.applier.apply(self.applier.applied_index + 1, TERM, data, answers=True)
        (result,) = self.last.results
        if isinstance(result, ErrorSpec):
            raise Refused(result)
        return result

    def put(self, key: bytes, value: bytes = b"", **options: int) -> pb.PutResponse:
        request = pb.PutRequest(
            key=key,
            value=value,
            lease=options.get("lease", 0),
            prev_kv=bool(options.get("prev_kv")),
            ignore_value=bool(options.get("ignore_value")),
            ignore_lease=bool(options.get("ignore_lease")),
        )
        _raise(validate.validate_put(request))
        return pb.PutResponse.FromString(self.submit(OpKind.PUT, request.SerializeToString()))

    def delete(
        self, key: bytes, end: bytes = b"", *, prev_kv: bool = False
    ) -> pb.DeleteRangeResponse:
        request = pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv)
        _raise(validate.validate_delete(request))
        answer = self.submit(OpKind.DELETE_RANGE, request.SerializeToString())
        return pb.DeleteRangeResponse.FromString(answer)

    def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """Do a transaction the way the API does: a read-only one without the log."""
        transaction = prepare(request, max_ops=MAX_OPS)
        _raise(validate.validate_txn(transaction))
        if not is_read_only(transaction):
            return pb.TxnResponse.FromString(self.submit(OpKind.TXN, request.SerializeToString()))
        header = fast.HeaderStamp(CLUSTER_ID, MEMBER_ID).field(self.store.revision, TERM)
        return pb.TxnResponse.FromString(header + txn(self.store, transaction))

    def compact(self, revision: int) -> pb.CompactionResponse:
        request = pb.CompactionRequest(revision=revision)
        _raise(validate.validate_compact(request))
        return pb.CompactionResponse.FromString(
            self.submit(OpKind.COMPACT, request.SerializeToString())
        )

    def grant(self, lease_id: int, ttl: int = 60) -> pb.LeaseGrantResponse:
        request = pb.LeaseGrantRequest(ID=lease_id, TTL=ttl)
        return pb.LeaseGrantResponse.FromString(
            self.submit(OpKind.LEASE_GRANT, request.SerializeToString())
        )

    def revoke(
        self, lease_id: int, *, kind: OpKind = OpKind.LEASE_REVOKE
    ) -> pb.LeaseRevokeResponse:
        request = pb.LeaseRevokeRequest(ID=lease_id)
        return pb.LeaseRevokeResponse.FromString(self.submit(kind, request.SerializeToString()))

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        _raise(validate.validate_range(request))
        header = fast.HeaderStamp(CLUSTER_ID, MEMBER_ID).field(self.store.revision, TERM)
        return pb.RangeResponse.FromString(header + self.store.range_body(request))

    def get(self, key: bytes, revision: int = 0) -> pb.RangeResponse:
        return self.range(pb.RangeRequest(key=key, revision=revision))

    def keys(self, request: pb.RangeRequest) -> list[bytes]:
        return [pair.key for pair in self.range(request).kvs]

    def everything(self, revision: int = 0) -> dict[bytes, bytes]:
        request = pb.RangeRequest(key=b"\x00", range_end=TO_END, revision=revision)
        return {pair.key: pair.value for pair in self.range(request).kvs}

    def flush(self) -> None:
        batch = self.applier.take_batch()
        if batch is not None:
            self.backend.write(batch)
            self.applier.flushed()

    def sweep(self) -> None:
        while self.store.compact_some(1):
            pass

    def restart(self) -> Driver:
        """Flush, and start again from the backend alone."""
        self.flush()
        return Driver(self.backend, limits=self.limits)


def _raise(spec: ErrorSpec | None) -> None:
    if spec is not None:
        raise Refused(spec)


# Parts of transactions, short enough that a test reads like the API's own text.


def put(key: bytes, value: bytes = b"", *, lease: int = 0, prev_kv: bool = False) -> pb.RequestOp:
    return pb.RequestOp(
        request_put=pb.PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv)
    )


def delete(key: bytes, end: bytes = b"", *, prev_kv: bool = False) -> pb.RequestOp:
    return pb.RequestOp(
        request_delete_range=pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv)
    )


def get(
    key: bytes, end: bytes = b"", *, revision: int = 0, serializable: bool = False
) -> pb.RequestOp:
    return pb.RequestOp(
        request_range=pb.RangeRequest(
            key=key, range_end=end, revision=revision, serializable=serializable
        )
    )


def nested(request: pb.TxnRequest) -> pb.RequestOp:
    return pb.RequestOp(request_txn=request)


def txn_of(
    *then: pb.RequestOp,
    when: list[pb.Compare] | None = None,
    otherwise: list[pb.RequestOp] | None = None,
) -> pb.TxnRequest:
    return pb.TxnRequest(compare=when or [], success=then, failure=otherwise or [])


def compare_value(key: bytes, result: int, value: bytes, *, end: bytes = b"") -> pb.Compare:
    compare = pb.Compare(target=pb.Compare.VALUE, key=key, value=value, range_end=end)
    compare.result = pb.Compare.CompareResult.ValueType(result)
    return compare


def compare_number(
    key: bytes, target: str, result: int, number: int, *, end: bytes = b""
) -> pb.Compare:
    """Compare by one of ``version``, ``create_revision``, ``mod_revision`` and ``lease``."""
    targets = {
        "version": pb.Compare.VERSION,
        "create_revision": pb.Compare.CREATE,
        "mod_revision": pb.Compare.MOD,
        "lease": pb.Compare.LEASE,
    }
    compare = pb.Compare(target=targets[target], key=key, range_end=end)
    compare.result = pb.Compare.CompareResult.ValueType(result)
    setattr(compare, target, number)
    return compare
