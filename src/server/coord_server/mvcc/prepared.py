"""Transactions in the form in which they are judged and done.

Reading a field of a protobuf message costs more than the decision that hangs on it, and a transaction
is looked at several times: by validation, by the test for reads, when its path is decided, checked and
done. So it is read once, into values. The member that proposes a transaction hands this form on to
where the entry is applied; all others make it from the log's bytes, with the same result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from coord.wire import rpc_pb2
from coord.wire.fast import Put

if TYPE_CHECKING:
    from collections.abc import Iterable

    Prepared: TypeAlias = "Put | Transaction | None"
    """What a proposer has already read of its operation; None if nothing."""

    Compare: TypeAlias = tuple[int, int, bytes, bytes, bytes | int]
    """Target, result, key, range end, and what is given for the target; 0 if that is not there."""

_Compare = rpc_pb2.Compare
VERSION: Final = int(_Compare.VERSION)
CREATE: Final = int(_Compare.CREATE)
MOD: Final = int(_Compare.MOD)
VALUE: Final = int(_Compare.VALUE)
LEASE: Final = int(_Compare.LEASE)

# Keys below this size have a length of one byte: these are the tag and the length, and a field that
# is true.
_SHORT: Final = 128
_KEY_ALONE: Final = 2
_KEY_AND_FLAG: Final = 4
_UNBOUNDED: Final = 1 << 62


@final
class PointRead:
    """A RangeRequest that has a key, which is not empty, and nothing else but ``serializable``."""

    __slots__ = ("key", "serializable")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.serializable = False


@final
class Transaction:
    """A TxnRequest, read.

    ``oversized`` says that it has more operations than its reader wanted to look at; it is empty then.
    """

    __slots__ = ("compares", "failure", "oversized", "success")

    def __init__(self, compares: list[Compare], success: Branch, failure: Branch) -> None:
        self.compares: list[Compare] = compares
        self.success: Branch = success
        self.failure: Branch = failure
        self.oversized: bool = False


Operation: TypeAlias = (
    Put | PointRead | rpc_pb2.RangeRequest | rpc_pb2.DeleteRangeRequest | Transaction
)
Step: TypeAlias = Operation | None
"""None is an operation that holds no request: validation refuses it, and applying passes over it."""


@final
class Branch:
    """One side of a transaction.

    ``changes`` counts what may change a key, as far as two of them can clash: a nested transaction
    counts for two. ``nests`` tells of nested transactions. ``is_sure`` says that nothing on it can
    fail once it is valid.
    """

    __slots__ = ("changes", "is_sure", "nests", "steps")

    def __init__(self, steps: list[Step]) -> None:
        self.steps: list[Step] = steps
        self.changes: int = 0
        self.nests: bool = False
        self.is_sure: bool = True


_NOTHING: Final = Branch([])


def prepare(request: rpc_pb2.TxnRequest, *, max_ops: int = _UNBOUNDED) -> Transaction:
    """Read a transaction.

    Its compares, and each branch, may have ``max_ops`` elements. A nested transaction gets what its
    parent leaves, and each of its siblings gets as much. One that is larger is not read.
    """
    compares, success, failure = request.compare, request.success, request.failure
    budget = max_ops - max(len(compares), len(success), len(failure))
    if budget < 0:
        transaction = Transaction([], _NOTHING, _NOTHING)
        transaction.oversized = True
        return transaction
    # Slices: going through protobuf's own sequence costs twice as much.
    return Transaction(
        [_read_compare(compare) for compare in compares[:]],
        _read_branch(success[:], budget) if success else _NOTHING,
        _read_branch(failure[:], budget) if failure else _NOTHING,
    )


def _read_compare(compare: rpc_pb2.Compare) -> Compare:
    target = compare.target
    given: bytes | int = 0
    if target == VERSION:
        given = compare.version
    elif target == CREATE:
        given = compare.create_revision
    elif target == MOD:
        given = compare.mod_revision
    elif target == VALUE:
        given = compare.value
    elif target == LEASE:
        given = compare.lease
    return target, compare.result, compare.key, compare.range_end, given


def _read_branch(ops: Iterable[rpc_pb2.RequestOp], budget: int) -> Branch:
    steps: list[Step] = []
    branch = Branch(steps)
    changes = 0
    for op in ops:
        which = op.WhichOneof("request")
        if which == "request_put":
            request = op.request_put
            put = Put(request.key, request.value)
            put.lease = request.lease
            put.prev_kv = request.prev_kv
            put.ignore_value = request.ignore_value
            put.ignore_lease = request.ignore_lease
            steps.append(put)
            changes += 1
            if put.lease or put.ignore_value or put.ignore_lease:
                branch.is_sure = False
        elif which == "request_range":
            read = _read_range(op.request_range)
            steps.append(read)
            if not isinstance(read, PointRead):
                branch.is_sure = False
        elif which == "request_delete_range":
            steps.append(op.request_delete_range)
            changes += 1
        elif which == "request_txn":
            steps.append(prepare(op.request_txn, max_ops=budget))
            changes += 2
            branch.nests = True
            branch.is_sure = False
        else:
            steps.append(None)
            changes += 1
    branch.changes = changes
    return branch


def _read_range(request: rpc_pb2.RangeRequest) -> PointRead | rpc_pb2.RangeRequest:
    key = request.key
    size = len(key)
    if 0 < size < _SHORT:
        # Its size tells that nothing else is there: quicker than a look at all its fields.
        more = request.ByteSize() - size
        if more == _KEY_ALONE:
            return PointRead(key)
        if more == _KEY_AND_FLAG and request.serializable:
            read = PointRead(key)
            read.serializable = True
            return read
    return request
