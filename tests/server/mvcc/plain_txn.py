"""Transactions judged and done straight from the protobuf message: slow and plain, as an oracle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from coord.wire import fast, rpc_pb2
from coord_server import errors
from coord_server.api.validate import validate_delete, validate_put, validate_range
from coord_server.errors import ErrorSpec, Refused
from coord_server.mvcc import writes
from coord_server.mvcc.fields import decode_field
from coord_server.mvcc.index import FROM_KEY, History
from coord_server.mvcc.key_set import KeySet
from coord_server.mvcc.store import Store

Step: TypeAlias = "rpc_pb2.RangeRequest | rpc_pb2.PutRequest | rpc_pb2.DeleteRangeRequest | Plan"


def validate_txn(request: rpc_pb2.TxnRequest, *, max_txn_ops: int) -> ErrorSpec | None:
    """Check a TxnRequest, both branches and everything nested in them."""
    refusal, may_clash = _validate_shape(request, max_txn_ops)
    if refusal is not None:
        return refusal
    if may_clash and (_has_duplicates(request.success) or _has_duplicates(request.failure)):
        return errors.DUPLICATE_KEY
    return None


def _validate_shape(request: rpc_pb2.TxnRequest, budget: int) -> tuple[ErrorSpec | None, bool]:
    """Return what is wrong with a transaction, and whether a branch has changes that could clash."""
    # A nested transaction gets what its parent leaves, and each of its siblings gets as much.
    budget -= max(len(request.compare), len(request.success), len(request.failure))
    if budget < 0:
        return errors.TOO_MANY_OPS, False
    for compare in request.compare:
        if not compare.key:
            return errors.EMPTY_KEY, False
    may_clash = False
    for branch in (request.success, request.failure):
        changing = 0
        for op in branch:
            which = op.WhichOneof("request")
            if which == "request_put":
                changing += 1
                refusal = validate_put(op.request_put)
            elif which == "request_range":
                refusal = validate_range(op.request_range)
            else:
                # One change has nothing to clash with, unless it is a transaction itself.
                changing += 2 if which == "request_txn" else 1
                refusal = _validate_other(which, op, budget)
            if refusal is not None:
                return refusal, False
        may_clash = may_clash or changing > 1
    return None, may_clash


def _validate_other(which: str | None, op: rpc_pb2.RequestOp, budget: int) -> ErrorSpec | None:
    if which == "request_delete_range":
        return validate_delete(op.request_delete_range)
    if which == "request_txn":
        return _validate_shape(op.request_txn, budget)[0]
    return errors.KEY_NOT_FOUND


class _Duplicate(Exception):
    """Two operations of one branch change the same key."""


def _has_duplicates(ops: Sequence[rpc_pb2.RequestOp]) -> bool:
    """Tell whether a key would be changed twice by one branch, as far as etcd looks.

    It does not see everything: a range end of one zero byte, "from the key on", is taken literally
    and so covers nothing, and a nested delete after a nested put of the same key passes. Clients
    may rely on either answer, so the algorithm is etcd's (etcd API: Txn, duplicate keys).
    """
    try:
        _changes_of(ops)
    except _Duplicate:
        return True
    return False


def _changes_of(ops: Sequence[rpc_pb2.RequestOp]) -> tuple[set[bytes], KeySet]:
    """Return the keys that a branch puts and the intervals that it deletes."""
    puts: set[bytes] = set()
    deletes = KeySet()
    kinds = [op.WhichOneof("request") for op in ops]
    if kinds.count("request_put") == len(kinds):
        puts.update([op.request_put.key for op in ops])
        if len(puts) < len(kinds):
            raise _Duplicate
        return puts, deletes
    for op in ops:
        if op.HasField("request_delete_range"):
            delete = op.request_delete_range
            if delete.range_end:
                deletes.add(delete.key, delete.range_end)
            else:
                deletes.add_key(delete.key)
    for op in ops:
        if not op.HasField("request_txn"):
            continue
        then_puts, then_deletes = _changes_of(op.request_txn.success)
        else_puts, else_deletes = _changes_of(op.request_txn.failure)
        if not puts.isdisjoint(then_puts) or not puts.isdisjoint(else_puts):
            raise _Duplicate
        # Only one of the two branches runs, so they may put the same keys.
        nested_puts = then_puts | else_puts
        if deletes and any(key in deletes for key in nested_puts):
            raise _Duplicate
        puts |= nested_puts
        deletes.update(then_deletes)
        deletes.update(else_deletes)
    for op in ops:
        if op.HasField("request_put"):
            key = op.request_put.key
            if key in puts or (deletes and key in deletes):
                raise _Duplicate
            puts.add(key)
    return puts, deletes


_PutRequest = rpc_pb2.PutRequest
_Compare = rpc_pb2.Compare
_EQUAL: Final = int(_Compare.EQUAL)
_GREATER: Final = int(_Compare.GREATER)
_LESS: Final = int(_Compare.LESS)
_NOT_EQUAL: Final = int(_Compare.NOT_EQUAL)
_VERSION: Final = int(_Compare.VERSION)
_CREATE: Final = int(_Compare.CREATE)
_MOD: Final = int(_Compare.MOD)
_VALUE: Final = int(_Compare.VALUE)
_LEASE: Final = int(_Compare.LEASE)

# Fields of a TxnResponse and of a ResponseOp.
_SUCCEEDED: Final = b"\x10\x01"
_RESPONSES: Final = 0x1A
_RANGE: Final = 0x0A
_PUT: Final = 0x12
_DELETE_RANGE: Final = 0x1A
_TXN: Final = 0x22
# A nested answer has a header, with nothing in it.
_EMPTY_HEADER: Final = b"\x0a\x00"


class Plan:
    """A transaction whose path is decided: did the compares hold, and the operations to be done."""

    __slots__ = ("steps", "succeeded")

    def __init__(self, store: Store, request: rpc_pb2.TxnRequest) -> None:
        self.succeeded = True
        for compare in request.compare:
            if not _holds(store, compare):
                self.succeeded = False
                break
        self.steps: list[Step] = []
        for op in request.success if self.succeeded else request.failure:
            which = op.WhichOneof("request")
            if which == "request_put":
                self.steps.append(op.request_put)
            elif which == "request_range":
                self.steps.append(op.request_range)
            elif which == "request_delete_range":
                self.steps.append(op.request_delete_range)
            elif which == "request_txn":
                self.steps.append(Plan(store, op.request_txn))


def is_read_only(request: rpc_pb2.TxnRequest) -> bool:
    """Tell whether the transaction changes nothing on either branch, so that it needs no log entry.

    One with a nested transaction counts as a write, even if that only reads.
    """
    for branch in (request.success, request.failure):
        for op in branch:  # a loop, since most transactions are told by their first operation
            if not op.HasField("request_range"):
                return False
    return True


def is_serializable(request: rpc_pb2.TxnRequest) -> bool:
    """Tell whether a read-only transaction may be answered from local state.

    That is so when all its reads say so; one without any read says so vacuously.
    """
    return all(op.request_range.serializable for op in _operations(request))


def _operations(request: rpc_pb2.TxnRequest) -> Iterable[rpc_pb2.RequestOp]:
    yield from request.success
    yield from request.failure


def txn(store: Store, request: rpc_pb2.TxnRequest) -> bytes:
    """Do a valid transaction; return its TxnResponse without header. The caller commits.

    Raises `Refused` for the first operation on the path that cannot be done; nothing has changed
    then. A read-only transaction may be done outside of the log, on the state at hand.
    """
    plan = Plan(store, request)
    _check(store, plan, _Deleted())
    return _execute(store, plan)


def _holds(store: Store, compare: rpc_pb2.Compare) -> bool:
    """Evaluate a compare: every key of its range has to satisfy it."""
    target = compare.target
    if compare.range_end:
        rows = store.find_all(compare.key, compare.range_end)
    else:
        history = store.find(compare.key)
        rows = [] if history is None else [history]
    if target == _VALUE:
        given = compare.value
        # A key that is not there has no value, which satisfies nothing, not even "not equal".
        return bool(rows) and all(
            _relates(compare.result, _sign(decode_field(store.pair_field(row)).value, given))
            for row in rows
        )
    number = _operand(compare)
    if not rows:
        return _relates(compare.result, _sign(0, number))
    if len(rows) == 1:
        return _relates(compare.result, _sign(_actual(target, rows[0]), number))
    return all(_relates(compare.result, _sign(_actual(target, row), number)) for row in rows)


def _sign(actual: bytes | int, given: bytes | int) -> int:
    # Both are of one type: the target decides.
    if actual == given:
        return 0
    return 1 if actual > given else -1  # type: ignore[operator]


def _relates(result: int, sign: int) -> bool:
    if result == _EQUAL:
        return sign == 0
    if result == _GREATER:
        return sign > 0
    if result == _LESS:
        return sign < 0
    # A relation that this program does not know is satisfied, as in etcd.
    return sign != 0 if result == _NOT_EQUAL else True


def _operand(compare: rpc_pb2.Compare) -> int:
    """Return the number given for the target; 0 if the wrong one or none was given."""
    target = compare.target
    if target == _VERSION:
        return compare.version
    if target == _CREATE:
        return compare.create_revision
    if target == _MOD:
        return compare.mod_revision
    return compare.lease if target == _LEASE else 0


def _actual(target: int, row: History) -> int:
    if target == _VERSION:
        return row.version
    if target == _CREATE:
        return row.create
    if target == _MOD:
        return row.mod
    return row.lease if target == _LEASE else 0


class _Deleted:
    """The keys that earlier steps of a path delete."""

    __slots__ = ("_from_key", "_intervals")

    def __init__(self) -> None:
        self._intervals = KeySet()
        self._from_key: bytes | None = None

    def add(self, request: rpc_pb2.DeleteRangeRequest) -> None:
        key, end = request.key, request.range_end
        if not end:
            self._intervals.add_key(key)
        elif end != FROM_KEY:
            self._intervals.add(key, end)
        elif self._from_key is None or key < self._from_key:
            self._from_key = key

    def __contains__(self, key: bytes) -> bool:
        return key in self._intervals or (self._from_key is not None and key >= self._from_key)


def _check(store: Store, plan: Plan, deleted: _Deleted) -> None:
    """Raise `Refused` if a step of the path cannot be done.

    A put that wants to keep what an earlier step deletes is refused here: etcd, which looks at the
    state before the transaction only, dies of it when it gets there.
    """
    for step in plan.steps:
        if isinstance(step, _PutRequest):
            if step.lease or step.ignore_value or step.ignore_lease:
                writes.check_put(store, step)
                if (step.ignore_value or step.ignore_lease) and step.key in deleted:
                    raise Refused(errors.KEY_NOT_FOUND)
        elif isinstance(step, rpc_pb2.RangeRequest):
            at = step.revision
            # Unlike in a plain Range, a negative number is compared as it is.
            if at > store.revision:
                raise Refused(errors.FUTURE_REV)
            if at and at < store.compact_revision:
                raise Refused(errors.COMPACTED)
        elif isinstance(step, rpc_pb2.DeleteRangeRequest):
            deleted.add(step)
        else:
            _check(store, step, deleted)


def _execute(store: Store, plan: Plan) -> bytes:
    parts = [_SUCCEEDED] if plan.succeeded else []
    # The answer of a put without a previous pair: the same for all, as the first one has already
    # made what they see the transaction's own revision.
    bare = b""
    for step in plan.steps:
        if isinstance(step, _PutRequest):
            body = writes.put(store, step)
            if not body:
                bare = bare or fast.delimited(_RESPONSES, fast.delimited(_PUT, _header(store)))
                parts.append(bare)
                continue
            answer = fast.delimited(_PUT, _header(store) + body)
        elif isinstance(step, rpc_pb2.RangeRequest):
            # The header tells what the read has seen, so it is written before anything else.
            answer = fast.delimited(_RANGE, _header(store) + store.checked_range_body(step))
        elif isinstance(step, rpc_pb2.DeleteRangeRequest):
            body = writes.delete_range(store, step)
            answer = fast.delimited(_DELETE_RANGE, _header(store) + body)
        else:
            answer = fast.delimited(_TXN, _EMPTY_HEADER + _execute(store, step))
        parts.append(fast.delimited(_RESPONSES, answer))
    return b"".join(parts)


def _header(store: Store) -> bytes:
    """Return the header of a part of the answer: the revision, and nothing else."""
    number = fast.varint(store.visible_revision)
    return b"\x0a" + fast.varint(len(number) + 1) + b"\x18" + number
