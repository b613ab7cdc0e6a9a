"""Txn: compare, check, execute; in this order, each over the whole transaction.

All compares, those of nested transactions too, look at the state before the transaction, so the path
is known before anything changes. What is on the path is then checked against the same state, and only
then does anything change: a transaction is refused as a whole or done as a whole (etcd API: Txn).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from coord.wire import fast, rpc_pb2
from coord.wire.fast import Put
from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc import writes
from coord_server.mvcc.fields import decode_field
from coord_server.mvcc.index import FROM_KEY
from coord_server.mvcc.key_set import KeySet
from coord_server.mvcc.prepared import CREATE, LEASE, MOD, VALUE, VERSION, PointRead, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coord_server.mvcc.index import History
    from coord_server.mvcc.prepared import Branch, Compare
    from coord_server.mvcc.store import Store

    Step: TypeAlias = (
        "Put | PointRead | rpc_pb2.RangeRequest | rpc_pb2.DeleteRangeRequest | Plan | None"
    )

_Compare = rpc_pb2.Compare
_EQUAL: Final = int(_Compare.EQUAL)
_GREATER: Final = int(_Compare.GREATER)
_LESS: Final = int(_Compare.LESS)
_NOT_EQUAL: Final = int(_Compare.NOT_EQUAL)

# Fields of a TxnResponse and of a ResponseOp.
_SUCCEEDED: Final = b"\x10\x01"
_RESPONSES: Final = 0x1A
_RANGE: Final = 0x0A
_PUT: Final = 0x12
_DELETE_RANGE: Final = 0x1A
_TXN: Final = 0x22
_EMPTY_HEADER: Final = b"\x0a\x00"
# What stands before the revision in a header, by the size of the revision.
_HEADS: Final = [bytes((0x0A, size + 1, 0x18)) for size in range(11)]


@final
class Plan:
    """A transaction whose path is decided: did the compares hold, and the operations to be done."""

    __slots__ = ("is_sure", "steps", "succeeded")

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self.succeeded = True
        for compare in transaction.compares:
            if not _holds(store, compare):
                self.succeeded = False
                break
        branch = transaction.success if self.succeeded else transaction.failure
        self.is_sure = branch.is_sure
        self.steps: Sequence[Step] = _plan_nested(store, branch) if branch.nests else branch.steps  # type: ignore[assignment]


def _plan_nested(store: Store, branch: Branch) -> list[Step]:
    return [Plan(store, step) if isinstance(step, Transaction) else step for step in branch.steps]


def is_read_only(transaction: Transaction) -> bool:
    """Tell whether the transaction changes nothing on either branch, so that it needs no log entry.

    One with a nested transaction counts as a write, even if that only reads.
    """
    return not (transaction.success.changes or transaction.failure.changes)


def is_serializable(transaction: Transaction) -> bool:
    """Tell whether a read-only transaction may be answered from local state.

    That is so when all its reads say so; one without any read says so vacuously.
    """
    return all(
        step.serializable
        for branch in (transaction.success, transaction.failure)
        for step in branch.steps
        if isinstance(step, PointRead | rpc_pb2.RangeRequest)
    )


def has_put(request: rpc_pb2.TxnRequest) -> bool:
    """Tell whether either branch puts, nested ones included: the only thing that needs room."""
    return any(
        op.HasField("request_put") or (op.HasField("request_txn") and has_put(op.request_txn))
        for op in _operations(request)
    )


def _operations(request: rpc_pb2.TxnRequest) -> Iterable[rpc_pb2.RequestOp]:
    yield from request.success
    yield from request.failure


def txn(store: Store, transaction: Transaction) -> bytes:
    """Do a valid transaction; return its TxnResponse without header. The caller commits.

    Raises `Refused` for the first operation on the path that cannot be done; nothing has changed
    then. A read-only transaction may be done outside of the log, on the state at hand.
    """
    plan = Plan(store, transaction)
    if not plan.is_sure:
        _check(store, plan, _Deleted())
    return _execute(store, plan)


def _holds(store: Store, compare: Compare) -> bool:
    """Evaluate a compare: every key of its range has to satisfy it."""
    target, result, key, end, given = compare
    if end:
        rows = store.find_all(key, end)
    else:
        history = store.find(key)
        if target != VALUE:
            return _relates(result, 0 if history is None else _actual(target, history), given)
        rows = [] if history is None else [history]
    if target == VALUE:
        # A key that is not there has no value, which satisfies nothing, not even "not equal".
        return bool(rows) and all(
            _relates(result, decode_field(store.pair_field(row)).value, given) for row in rows
        )
    if not rows:
        return _relates(result, 0, given)
    return all(_relates(result, _actual(target, row), given) for row in rows)


def _relates(result: int, actual: bytes | int, given: bytes | int) -> bool:
    # Both are of one type: the target decides.
    if result == _EQUAL:
        return actual == given
    if result == _GREATER:
        return actual > given  # type: ignore[operator]
    if result == _LESS:
        return actual < given  # type: ignore[operator]
    # A relation that this program does not know is satisfied, as in etcd.
    return actual != given if result == _NOT_EQUAL else True


def _actual(target: int, row: History) -> int:
    if target == VERSION:
        return row.version
    if target == CREATE:
        return row.create
    if target == MOD:
        return row.mod
    return row.lease if target == LEASE else 0


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
        if isinstance(step, Put):
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
        elif isinstance(step, Plan):
            _check(store, step, deleted)


def _execute(store: Store, plan: Plan) -> bytes:
    parts = [_SUCCEEDED] if plan.succeeded else []
    # A part's header tells what it has seen: the first change makes that the transaction's own revision.
    header = b""
    for step in plan.steps:
        if isinstance(step, Put):
            tag = _PUT
            body = writes.put(store, step)
            header = b""
        elif isinstance(step, PointRead):
            tag = _RANGE
            body = store.point_body(step.key)
        elif isinstance(step, rpc_pb2.RangeRequest):
            tag = _RANGE
            body = store.checked_range_body(step)
        elif isinstance(step, rpc_pb2.DeleteRangeRequest):
            tag = _DELETE_RANGE
            body = writes.delete_range(store, step)
            header = b""
        elif isinstance(step, Plan):
            # A nested answer has a header, with nothing in it.
            answer = _EMPTY_HEADER + _execute(store, step)
            parts.append(fast.delimited_twice(_RESPONSES, _TXN, answer))
            header = b""
            continue
        else:
            continue
        header = header or _header(store.visible_revision)
        parts.append(fast.delimited_twice(_RESPONSES, tag, header + body))
    return b"".join(parts)


def _header(revision: int) -> bytes:
    """Return the header of a part of the answer: the revision, and nothing else."""
    number = fast.varint(revision)
    return _HEADS[len(number)] + number
