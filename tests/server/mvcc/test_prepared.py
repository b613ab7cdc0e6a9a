"""Transactions read once do what they do when they are read at every step, from the same bytes."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord.wire.deep import decode_txn
from coord.wire.fast import Put
from coord_server import errors
from coord_server.api import validate
from coord_server.errors import ErrorSpec, Refused
from coord_server.mvcc import txn
from coord_server.mvcc.prepared import Branch, PointRead, Transaction, prepare
from coord_server.mvcc.store import Store
from coord_server.ops import OpKind, encode_batch
from tests.server.mvcc import plain_txn
from tests.server.mvcc.driver import TERM, Driver, get, nested, put, txn_of

_MAX_OPS = 5

_keys = st.sampled_from([b"a", b"ab", b"b", b"c", b"d" * 127, b"e" * 128, b"", b"\0"])
_ends = st.sampled_from([b"", b"", b"", b"b", b"z", b"\0"])
_numbers = st.integers(-1, 6)
_bools = st.sampled_from([False, False, False, True])
_puts = st.builds(
    pb.PutRequest,
    key=_keys,
    value=st.sampled_from([b"", b"v", b"w" * 200]),
    lease=st.sampled_from([0, 0, 0, 7, 8]),
    prev_kv=_bools,
    ignore_value=_bools,
    ignore_lease=_bools,
)
_ranges = st.one_of(
    st.builds(pb.RangeRequest, key=_keys, serializable=_bools),
    st.builds(
        pb.RangeRequest,
        key=_keys,
        range_end=_ends,
        limit=st.integers(-1, 2),
        revision=st.sampled_from([0, 0, -1, 1, 3, 5, 9]),
        keys_only=_bools,
        count_only=_bools,
        serializable=_bools,
        min_mod_revision=st.sampled_from([0, 0, 3]),
    ),
    # Enums that do not exist, and a field that we do not know.
    st.sampled_from([b"\x0a\x01a\x28\x07", b"\x0a\x01a\xd2\x06\x00", b"\x0a\x01a\x38\x00"]).map(
        pb.RangeRequest.FromString
    ),
)
_deletes = st.builds(pb.DeleteRangeRequest, key=_keys, range_end=_ends, prev_kv=_bools)
_compares = st.one_of(
    *(
        st.builds(
            pb.Compare,
            key=_keys,
            range_end=_ends,
            result=st.sampled_from(pb.Compare.CompareResult.values()),
            target=st.sampled_from(pb.Compare.CompareTarget.values()),
            **{field: values},
        )
        for field, values in (
            ("version", _numbers),
            ("create_revision", _numbers),
            ("mod_revision", _numbers),
            ("lease", _numbers),
            ("value", st.sampled_from([b"", b"v", b"x"])),
        )
    ),
    st.sampled_from([b"\x08\x09\x1a\x01a", b"\x10\x09\x1a\x01a", b"\x1a\x01a"]).map(
        pb.Compare.FromString
    ),
)


def _txns(ops: st.SearchStrategy[pb.RequestOp]) -> st.SearchStrategy[pb.TxnRequest]:
    return st.builds(
        pb.TxnRequest,
        compare=st.lists(_compares, max_size=2),
        success=st.lists(ops, max_size=4),
        failure=st.lists(ops, max_size=3),
    )


_flat = st.one_of(
    st.builds(pb.RequestOp, request_put=_puts),
    st.builds(pb.RequestOp, request_range=_ranges),
    st.builds(pb.RequestOp, request_delete_range=_deletes),
    st.sampled_from([pb.RequestOp()]),
)
_requests = _txns(st.one_of(_flat, _flat, _flat, st.builds(pb.RequestOp, request_txn=_txns(_flat))))


def _driver() -> Driver:
    driver = Driver()
    driver.grant(7)
    for key in (b"a", b"b", b"a", b"c", b"d" * 127):
        driver.put(key, b"v" + key)
    driver.delete(b"c")
    driver.put(b"ab", b"x", lease=7)
    return driver


@given(_requests)
def test_judged_and_done_like_the_message(request: pb.TxnRequest) -> None:
    read = prepare(request, max_ops=_MAX_OPS)
    problem = plain_txn.validate_txn(request, max_txn_ops=_MAX_OPS)
    assert validate.validate_txn(read) is problem
    if problem is not None:
        return
    assert txn.is_read_only(read) == plain_txn.is_read_only(request)
    if txn.is_read_only(read):
        assert txn.is_serializable(read) == plain_txn.is_serializable(request)
    plain = _driver()
    expected = _outcome(plain.store, lambda: plain_txn.txn(plain.store, request))
    ours = _driver()
    assert _outcome(ours.store, lambda: txn.txn(ours.store, read)) == expected
    assert ours.everything() == plain.everything()


def _outcome(store: Store, run: Callable[[], bytes]) -> tuple[bytes | ErrorSpec, int, list[bytes]]:
    try:
        answer: bytes | ErrorSpec = run()
    except Refused as refusal:
        answer = refusal.spec
    store.commit()
    return answer, store.revision, [event.body for event in store.take_events()]


@given(_requests)
def test_equal_bytes_are_read_alike(request: pb.TxnRequest) -> None:
    data = request.SerializeToString()
    again = decode_txn(data)
    assert again is not None
    assert _spelled(prepare(request, max_ops=99)) == _spelled(prepare(again))


def _spelled(step: object) -> object:
    """Return everything that a step says, as plain values."""
    match step:
        case Transaction():
            return (
                step.oversized, step.compares, _spelled(step.success), _spelled(step.failure)
            )  # fmt: skip
        case Branch():
            return (
                step.changes, step.nests, step.is_sure, [_spelled(inner) for inner in step.steps]
            )  # fmt: skip
        case Put():
            return (
                step.key, step.value, step.lease, step.prev_kv, step.ignore_value, step.ignore_lease
            )  # fmt: skip
        case PointRead():
            return step.key, step.serializable
        case pb.RangeRequest() | pb.DeleteRangeRequest():
            return step.SerializeToString(deterministic=True)
        case _:
            return step


def test_what_is_too_large_is_not_read() -> None:
    inner = txn_of(put(b"a"), put(b"b"))
    read = prepare(txn_of(put(b""), nested(inner)), max_ops=3)
    (_, step) = read.success.steps
    assert isinstance(step, Transaction)
    assert step.oversized
    assert step.success.steps == []
    # The first problem counts, in the order of the request.
    assert validate.validate_txn(read) is errors.EMPTY_KEY
    read = prepare(txn_of(put(b"c"), nested(inner)), max_ops=3)
    assert validate.validate_txn(read) is errors.TOO_MANY_OPS


def test_reads_of_one_key_are_recognised() -> None:
    def kind(op: pb.RequestOp) -> type:
        return type(prepare(txn_of(op)).success.steps[0])

    assert kind(get(b"a")) is PointRead
    assert kind(get(b"a", serializable=True)) is PointRead
    assert kind(get(b"a" * 127)) is PointRead
    assert kind(get(b"a", revision=1)) is pb.RangeRequest
    assert kind(get(b"a", b"b")) is pb.RangeRequest
    assert kind(get(b"")) is pb.RangeRequest


def test_what_a_proposer_has_read_is_not_read_again() -> None:
    first, second = _driver(), _driver()
    request = txn_of(put(b"a", b"1"), get(b"b"))
    payload = request.SerializeToString()
    bare = fast.encode_put(b"k", b"v")
    read = [prepare(request), fast.decode_put(bare)]
    data = encode_batch([(OpKind.TXN, payload), (OpKind.PUT, bare), (OpKind.TXN, payload)])
    index = first.applier.applied_index + 1
    with_it = first.applier.apply(index, TERM, data, answers=True, prepared=read)
    without = second.applier.apply(index, TERM, data, answers=True)
    assert with_it.results == without.results
    assert len(without.results) == 3
    assert [event.body for event in with_it.events] == [event.body for event in without.events]
