"""Static checks: their order, the limit of operations, the table of duplicates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.api import validate
from coord_server.api.validate import (
    validate_compact,
    validate_delete,
    validate_put,
    validate_range,
    validate_range_stream,
)
from coord_server.mvcc.key_set import KeySet
from coord_server.mvcc.prepared import prepare
from tests.server.mvcc.driver import TO_END, compare_value, delete, get, nested, put, txn_of

R = pb.RangeRequest


def validate_txn(request: pb.TxnRequest, *, max_txn_ops: int = 128) -> errors.ErrorSpec | None:
    return validate.validate_txn(prepare(request, max_ops=max_txn_ops))


def raw_range(order: int, target: int, key: bytes = b"k") -> pb.RangeRequest:
    """Return a request with enum values that need not exist, as a client may send them."""
    return R.FromString(
        (fast.delimited(0x0A, key) if key else b"")
        + b"\x28"
        + fast.varint(order)
        + b"\x30"
        + fast.varint(target)
    )


@pytest.mark.parametrize(
    ("order", "target", "spec"),
    [
        (0, 0, None),
        (2, 4, None),
        (3, 0, errors.INVALID_SORT_OPTION),
        (-1, 0, errors.INVALID_SORT_OPTION),
        (0, 5, errors.INVALID_SORT_OPTION),
        (0, -1, errors.INVALID_SORT_OPTION),
    ],
)
def test_sort_options(order: int, target: int, spec: errors.ErrorSpec | None) -> None:
    assert validate_range(raw_range(order, target)) is spec
    assert validate_range(raw_range(order, target, b"")) is errors.EMPTY_KEY
    in_txn = pb.TxnRequest(failure=[pb.RequestOp(request_range=raw_range(order, target))])
    assert validate_txn(in_txn) is spec


def test_gotcha_17_the_whole_key_space_needs_a_key() -> None:
    assert validate_range(R(range_end=TO_END)) is errors.EMPTY_KEY
    assert validate_delete(pb.DeleteRangeRequest(range_end=TO_END)) is errors.EMPTY_KEY
    assert validate_delete(pb.DeleteRangeRequest(key=b"\x00", range_end=TO_END)) is None


def test_range_stream_cannot_sort_or_filter() -> None:
    assert validate_range_stream(R()) is errors.EMPTY_KEY
    for order, target in ((R.NONE, R.VALUE), (R.ASCEND, R.KEY), (R.NONE, R.KEY)):
        assert validate_range_stream(R(key=b"k", sort_order=order, sort_target=target)) is None
    for order, target in ((R.DESCEND, R.KEY), (R.ASCEND, R.MOD)):
        request = R(key=b"k", sort_order=order, sort_target=target, min_mod_revision=1)
        assert validate_range_stream(request) is errors.RANGE_STREAM_SORT
    for option in (
        "min_mod_revision",
        "max_mod_revision",
        "min_create_revision",
        "max_create_revision",
    ):
        request = R(key=b"k")
        setattr(request, option, 1)
        assert validate_range_stream(request) is errors.RANGE_STREAM_FILTER


def test_put_in_order() -> None:
    request = pb.PutRequest(value=b"v", lease=1, ignore_value=True, ignore_lease=True)
    assert validate_put(request) is errors.EMPTY_KEY
    request.key = b"k"
    assert validate_put(request) is errors.VALUE_PROVIDED
    request.value = b""
    assert validate_put(request) is errors.LEASE_PROVIDED
    plain = fast.decode_put(request.SerializeToString())
    assert plain is not None
    assert validate_put(plain) is errors.LEASE_PROVIDED
    request.lease = 0
    assert validate_put(request) is None


def test_compaction_has_no_wrong_shape() -> None:
    assert validate_compact(pb.CompactionRequest(revision=-5)) is None


def many(count: int) -> list[pb.RequestOp]:
    return [get(b"k")] * count


def test_gotcha_40_each_list_has_the_limit_to_itself() -> None:
    compares = [compare_value(b"k", 0, b"v")] * 128
    assert validate_txn(txn_of(*many(128), when=compares, otherwise=many(128))) is None
    for request in (
        txn_of(*many(129)),
        txn_of(otherwise=many(129)),
        txn_of(when=[*compares, compares[0]]),
    ):
        assert validate_txn(request) is errors.TOO_MANY_OPS
    assert validate_txn(txn_of(*many(3)), max_txn_ops=2) is errors.TOO_MANY_OPS


def test_nested_transactions_get_what_is_left() -> None:
    assert validate_txn(txn_of(nested(txn_of(*many(127))))) is None
    assert validate_txn(txn_of(nested(txn_of(*many(128))))) is errors.TOO_MANY_OPS
    # Siblings do not share what is left.
    both = txn_of(nested(txn_of(*many(126))), nested(txn_of(otherwise=many(126))))
    assert validate_txn(both) is None
    both.success[1].request_txn.failure.add().request_range.key = b"k"
    assert validate_txn(both) is errors.TOO_MANY_OPS


def test_order_of_checks_in_a_txn() -> None:
    empty_compare = compare_value(b"", 0, b"")
    twice = [put(b"a"), put(b"a")]
    assert validate_txn(txn_of(*many(129), when=[empty_compare])) is errors.TOO_MANY_OPS
    assert validate_txn(txn_of(pb.RequestOp(), when=[empty_compare])) is errors.EMPTY_KEY
    assert validate_txn(txn_of(pb.RequestOp(), put(b""))) is errors.KEY_NOT_FOUND
    assert validate_txn(txn_of(put(b""), pb.RequestOp())) is errors.EMPTY_KEY
    assert validate_txn(txn_of(*twice, otherwise=[get(b"")])) is errors.EMPTY_KEY
    assert validate_txn(txn_of(*twice, nested(txn_of(delete(b""))))) is errors.EMPTY_KEY
    assert validate_txn(txn_of(*twice)) is errors.DUPLICATE_KEY


def test_gotcha_29_both_branches_are_checked() -> None:
    assert validate_txn(txn_of(get(b"a"), otherwise=[put(b"")])) is errors.EMPTY_KEY
    assert validate_txn(txn_of(get(b"a"), otherwise=[put(b"a"), put(b"a")])) is errors.DUPLICATE_KEY


@pytest.mark.parametrize(
    ("ops", "accepted"),
    [
        pytest.param([put(b"a"), put(b"a")], False, id="put twice"),
        pytest.param([put(b"a"), delete(b"a", b"b")], False, id="put, delete range"),
        pytest.param([delete(b"a", b"b"), put(b"a")], False, id="delete range, put"),
        pytest.param([delete(b"a"), put(b"a")], False, id="delete key, put"),
        pytest.param([delete(b"a"), put(b"a\x00")], True, id="delete key, put the next"),
        pytest.param([delete(b"a", b"b"), put(b"b")], True, id="the end is not in the range"),
        pytest.param([delete(b"a"), delete(b"a")], True, id="delete twice"),
        pytest.param([delete(b"a", b"c"), delete(b"b", b"d")], True, id="overlapping deletes"),
        pytest.param(
            [nested(txn_of(put(b"a"), otherwise=[put(b"a")]))], True, id="then and else of one"
        ),
        pytest.param(
            [nested(txn_of(put(b"a"), otherwise=[delete(b"a")]))],
            True,
            id="then puts, else deletes",
        ),
        pytest.param(
            [put(b"a"), nested(txn_of(delete(b"a")))], False, id="outer put, nested delete"
        ),
        pytest.param(
            [nested(txn_of(delete(b"a"))), nested(txn_of(put(b"a")))], False, id="delete, then put"
        ),
        pytest.param(
            [nested(txn_of(put(b"a"))), nested(txn_of(delete(b"a")))], True, id="put, then delete"
        ),
        pytest.param(
            [nested(txn_of(put(b"a"))), nested(txn_of(put(b"a")))], False, id="siblings both put"
        ),
        pytest.param(
            [nested(txn_of(put(b"a"))), nested(txn_of(otherwise=[put(b"a")]))],
            False,
            id="a sibling's other branch puts",
        ),
        pytest.param([nested(txn_of(put(b"a"))), put(b"a")], False, id="nested put, outer put"),
        pytest.param(
            [delete(b"a"), nested(txn_of(put(b"a")))], False, id="outer delete, nested put"
        ),
        pytest.param([put(b"a"), delete(b"a", TO_END)], True, id="put, delete from key"),
        pytest.param([delete(b"\x00", TO_END), put(b"a")], True, id="delete from key, put"),
        pytest.param([put(b"a"), nested(txn_of(get(b"a")))], True, id="reads never count"),
        pytest.param([nested(txn_of(put(b"a"), put(b"a")))], False, id="twice inside a nested one"),
    ],
)
def test_gotcha_44_duplicates(ops: list[pb.RequestOp], accepted: bool) -> None:
    expected = None if accepted else errors.DUPLICATE_KEY
    assert validate_txn(txn_of(*ops)) is expected
    assert validate_txn(txn_of(get(b"a"), otherwise=ops)) is expected


def test_branches_are_independent() -> None:
    assert validate_txn(txn_of(put(b"a"), otherwise=[put(b"a")])) is None
    assert validate_txn(txn_of(put(b"a"), otherwise=[delete(b"a")])) is None


KEYS = st.binary(max_size=2)


@given(st.lists(st.tuples(KEYS, KEYS), max_size=8), st.lists(KEYS, max_size=8))
def test_intervals_are_the_union(intervals: list[tuple[bytes, bytes]], keys: list[bytes]) -> None:
    union, other = KeySet(), KeySet()
    for place, (start, end) in enumerate(intervals):
        (union if place % 2 else other).add(start, end)
    union.update(other)
    points = [*keys, *(bound for interval in intervals for bound in interval)]
    for key in points:
        assert (key in union) == any(start <= key < end for start, end in intervals)
    assert bool(union) == any(start < end for start, end in intervals)
