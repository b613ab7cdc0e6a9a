"""What can be said about a request from its shape alone, in the API's order.

Each function returns the first refusal that applies, or None. State comes later: a lease that does
not exist or a revision that is compacted is found out when the operation is applied (etcd API: KV).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.wire import rpc_pb2
from coord.wire.fast import Put
from coord_server import errors
from coord_server.mvcc.key_set import KeySet
from coord_server.mvcc.prepared import PointRead, Transaction

if TYPE_CHECKING:
    from coord_server.errors import ErrorSpec
    from coord_server.mvcc.prepared import Branch

_LAST_SORT_ORDER: Final = int(rpc_pb2.RangeRequest.DESCEND)
_LAST_SORT_TARGET: Final = int(rpc_pb2.RangeRequest.VALUE)
_ASCEND: Final = int(rpc_pb2.RangeRequest.ASCEND)
_NONE: Final = int(rpc_pb2.RangeRequest.NONE)
_KEY: Final = int(rpc_pb2.RangeRequest.KEY)


def validate_range(request: rpc_pb2.RangeRequest) -> ErrorSpec | None:
    """Check a RangeRequest."""
    if not request.key:
        return errors.EMPTY_KEY
    if not (
        0 <= request.sort_order <= _LAST_SORT_ORDER
        and 0 <= request.sort_target <= _LAST_SORT_TARGET
    ):
        return errors.INVALID_SORT_OPTION
    return None


def validate_range_stream(request: rpc_pb2.RangeRequest) -> ErrorSpec | None:
    """Check a RangeRequest for RangeStream, which cannot sort and filter what it has not yet read."""
    refusal = validate_range(request)
    if refusal is not None:
        return refusal
    if request.sort_order != _NONE and (request.sort_order, request.sort_target) != (_ASCEND, _KEY):
        return errors.RANGE_STREAM_SORT
    if (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    ):
        return errors.RANGE_STREAM_FILTER
    return None


def validate_put(request: rpc_pb2.PutRequest | Put) -> ErrorSpec | None:
    """Check a PutRequest, decoded by protobuf or by the fast codec."""
    if not request.key:
        return errors.EMPTY_KEY
    if request.ignore_value and request.value:
        return errors.VALUE_PROVIDED
    if request.lease and request.ignore_lease:
        return errors.LEASE_PROVIDED
    return None


def validate_delete(request: rpc_pb2.DeleteRangeRequest) -> ErrorSpec | None:
    """Check a DeleteRangeRequest."""
    return None if request.key else errors.EMPTY_KEY


def validate_compact(_request: rpc_pb2.CompactionRequest) -> ErrorSpec | None:
    """Check a CompactionRequest: its shape is always right."""
    return None


def validate_txn(transaction: Transaction) -> ErrorSpec | None:
    """Check a transaction that was read as far as the limit of operations allows."""
    refusal = _validate_shape(transaction)
    if refusal is not None:
        return refusal
    for branch in (transaction.success, transaction.failure):
        # One change has nothing to clash with.
        if branch.changes > 1 and _has_duplicates(branch):
            return errors.DUPLICATE_KEY
    return None


def _validate_shape(transaction: Transaction) -> ErrorSpec | None:
    if transaction.oversized:
        return errors.TOO_MANY_OPS
    for compare in transaction.compares:
        if not compare[2]:
            return errors.EMPTY_KEY
    for branch in (transaction.success, transaction.failure):
        for step in branch.steps:
            if isinstance(step, Put):
                refusal = validate_put(step)
            elif isinstance(step, PointRead):
                continue
            else:
                refusal = _validate_other(step)
            if refusal is not None:
                return refusal
    return None


def _validate_other(
    step: rpc_pb2.RangeRequest | rpc_pb2.DeleteRangeRequest | Transaction | None,
) -> ErrorSpec | None:
    if isinstance(step, rpc_pb2.RangeRequest):
        return validate_range(step)
    if isinstance(step, rpc_pb2.DeleteRangeRequest):
        return validate_delete(step)
    return errors.KEY_NOT_FOUND if step is None else _validate_shape(step)


class _Duplicate(Exception):
    """Two operations of one branch change the same key."""


def _has_duplicates(branch: Branch) -> bool:
    """Tell whether a key would be changed twice by one branch, as far as etcd looks.

    It does not see everything: a range end of one zero byte, "from the key on", is taken literally
    and so covers nothing, and a nested delete after a nested put of the same key passes. Clients
    may rely on either answer, so the algorithm is etcd's (etcd API: Txn, duplicate keys).
    """
    try:
        _changes_of(branch)
    except _Duplicate:
        return True
    return False


def _changes_of(branch: Branch) -> tuple[set[bytes], KeySet]:
    """Return the keys that a branch puts and the intervals that it deletes."""
    steps = branch.steps
    own = [step.key for step in steps if isinstance(step, Put)]
    deletes = KeySet()
    if len(own) == branch.changes:
        puts = set(own)
        if len(puts) < len(own):
            raise _Duplicate
        return puts, deletes
    puts = set[bytes]()
    for step in steps:
        if isinstance(step, rpc_pb2.DeleteRangeRequest):
            if step.range_end:
                deletes.add(step.key, step.range_end)
            else:
                deletes.add_key(step.key)
    for step in steps:
        if not isinstance(step, Transaction):
            continue
        then_puts, then_deletes = _changes_of(step.success)
        else_puts, else_deletes = _changes_of(step.failure)
        if not puts.isdisjoint(then_puts) or not puts.isdisjoint(else_puts):
            raise _Duplicate
        # Only one of the two branches runs, so they may put the same keys.
        nested_puts = then_puts | else_puts
        if deletes and any(key in deletes for key in nested_puts):
            raise _Duplicate
        puts |= nested_puts
        deletes.update(then_deletes)
        deletes.update(else_deletes)
    for key in own:
        if key in puts or (deletes and key in deletes):
            raise _Duplicate
        puts.add(key)
    return puts, deletes
