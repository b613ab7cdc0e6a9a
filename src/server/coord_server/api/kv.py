"""``etcdserverpb.KV``: ranges, puts, deletes, transactions and compaction.

Each unary method is a plain function that the parser calls with the whole request. Reads are answered
on the spot once a linearizable read may be served; writes go to the replica's batch, which answers
when their entry is applied. The order of checks is the API's: metadata, space, shape, size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.rpc.service import Method
from coord.rpc.status import RpcError
from coord.wire import fast, rpc_pb2
from coord.wire import methods as rpcs
from coord.wire.deep import NestedTooDeep, decode_txn
from coord_server import errors
from coord_server.api import validate
from coord_server.api.context import ENVELOPE_BYTES, parse, unreadable
from coord_server.api.range_stream import RangeStream
from coord_server.api.space import PUT_COST
from coord_server.errors import ErrorSpec, Refused
from coord_server.mvcc.prepared import prepare
from coord_server.mvcc.txn import is_read_only, is_serializable, txn
from coord_server.ops import OpKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.server_core import ServerConnection
    from coord.rpc.server_stream import ServerStream
    from coord.rpc.service import RequestHead
    from coord_server.api.context import ApiContext

_PUT: Final = int(OpKind.PUT)
_DELETE_RANGE: Final = int(OpKind.DELETE_RANGE)
_TXN: Final = int(OpKind.TXN)
_COMPACT: Final = int(OpKind.COMPACT)


class _Kv:
    """The handlers; what each call needs is at hand without a look at the context's fields."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._replica = context.replica
        self._store = context.store
        self._room = context.room
        self._check_head = context.check_head
        self._check_metadata = context.check_metadata
        self._max_request = context.config.max_request_bytes - ENVELOPE_BYTES
        self._max_txn_ops = context.config.max_txn_ops
        metrics = context.metrics
        self._ranges = metrics.counter(
            "etcd_mvcc_range_total", "Total number of ranges seen by this member."
        )
        self._puts = metrics.counter(
            "etcd_mvcc_put_total", "Total number of puts seen by this member."
        )
        self._deletes = metrics.counter(
            "etcd_mvcc_delete_total", "Total number of deletes seen by this member."
        )
        self._txns = metrics.counter(
            "etcd_mvcc_txn_total", "Total number of txns seen by this member."
        )

    def put(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> None:
        """Propose a put (etcd API: Put)."""
        self._check_head(head)
        put = fast.decode_put(message)
        if put is None:
            raise unreadable()
        if PUT_COST + len(put.key) + len(put.value) >= self._room.left:
            self._room.refuse(connection, stream_id)
            return
        problem = validate.validate_put(put)
        if problem is not None:
            raise Refused(problem)
        if len(message) > self._max_request:
            raise Refused(errors.REQUEST_TOO_LARGE)
        self._puts.value += 1
        self._replica.propose(_PUT, message, connection, stream_id, put)

    def range(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> bytes | None:
        """Answer a range, at once if it may be (etcd API: Range)."""
        self._check_metadata(head)
        self._ranges.value += 1
        point = fast.decode_point_range(message)
        if point is not None and (point[1] or self._replica.read_ready()):
            return self._context.header() + self._store.point_body(point[0])
        request = parse(rpc_pb2.RangeRequest, message)
        problem = validate.validate_range(request)
        if problem is not None:
            raise Refused(problem)

        def answer() -> bytes:
            return self._context.header() + self._store.range_body(request)

        if request.serializable or self._replica.read_ready():
            return answer()
        if self._context.is_learner:
            raise Refused(errors.NOT_SUPPORTED_FOR_LEARNER)
        self._later(connection, stream_id, answer)
        return None

    def delete_range(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> None:
        """Propose a delete (etcd API: DeleteRange)."""
        self._check_head(head)
        request = parse(rpc_pb2.DeleteRangeRequest, message)
        problem = validate.validate_delete(request)
        if problem is not None:
            raise Refused(problem)
        if len(message) > self._max_request:
            raise Refused(errors.REQUEST_TOO_LARGE)
        self._deletes.value += 1
        self._replica.propose(_DELETE_RANGE, message, connection, stream_id)

    def txn(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> bytes | None:
        """Propose a transaction, or answer one that only reads (etcd API: Txn)."""
        self._check_head(head)
        try:
            request = decode_txn(message)
        except NestedTooDeep:
            raise Refused(errors.TOO_MANY_OPS) from None
        if request is None:
            raise unreadable()
        if not self._room.has_for_txn(request, len(message)):
            self._room.refuse(connection, stream_id)
            return None
        transaction = prepare(request, max_ops=self._max_txn_ops)
        problem = validate.validate_txn(transaction)
        if problem is not None:
            raise Refused(problem)
        self._txns.value += 1
        if not is_read_only(transaction):
            if len(message) > self._max_request:
                raise Refused(errors.REQUEST_TOO_LARGE)
            self._replica.propose(_TXN, message, connection, stream_id, transaction)
            return None

        def answer() -> bytes:
            return self._context.header() + txn(self._store, transaction)

        if is_serializable(transaction) or self._replica.read_ready():
            return answer()
        self._later(connection, stream_id, answer)
        return None

    def compact(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> None:
        """Propose a compaction (etcd API: Compact); a physical one answers when it is swept."""
        self._check_head(head)
        request = parse(rpc_pb2.CompactionRequest, message)
        responder = _AfterSweep(self._context, connection) if request.physical else connection
        self._replica.propose(_COMPACT, message, responder, stream_id)

    def range_stream(self, stream: ServerStream) -> None:
        """Serve a range in parts (etcd API: RangeStream)."""
        RangeStream(self._context, stream).start()

    def _later(
        self, connection: ServerConnection, stream_id: int, answer: Callable[[], bytes]
    ) -> None:
        """Answer once a linearizable read may be served."""

        def run() -> None:
            try:
                body = answer()
            except RpcError as error:
                connection.fail(stream_id, error.code, error.message)
            else:
                connection.respond(stream_id, body)

        def fail(spec: ErrorSpec) -> None:
            connection.fail(stream_id, spec.code, spec.message)

        self._replica.when_readable(run, fail)


class _AfterSweep:
    """Takes the answer of a compaction and passes it on once the store is swept."""

    def __init__(self, context: ApiContext, connection: ServerConnection) -> None:
        self._context = context
        self._connection = connection

    def respond(self, stream_id: int, message: bytes) -> None:
        """Pass a success on when nothing obsolete is left."""
        self._when_swept(lambda: self._connection.respond(stream_id, message))

    def fail(
        self,
        stream_id: int,
        code: int,
        message: str,
        trailers: tuple[tuple[str, str | bytes], ...] = (),
    ) -> None:
        """Pass a refusal on; it waits for an earlier compaction too, as in etcd."""
        self._when_swept(lambda: self._connection.fail(stream_id, code, message, trailers))

    def _when_swept(self, run: Callable[[], None]) -> None:
        self._context.after_sweep(run)


def methods(context: ApiContext) -> list[Method]:
    """Return the methods of the service."""
    kv = _Kv(context)
    return [
        Method(rpcs.KV_PUT.path, unary=kv.put),
        Method(rpcs.KV_RANGE.path, unary=kv.range),
        Method(rpcs.KV_RANGE_STREAM.path, stream=kv.range_stream),
        Method(rpcs.KV_DELETE_RANGE.path, unary=kv.delete_range),
        Method(rpcs.KV_TXN.path, unary=kv.txn),
        Method(rpcs.KV_COMPACT.path, unary=kv.compact),
    ]
