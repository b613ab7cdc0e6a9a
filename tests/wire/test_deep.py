"""Transactions of any depth are decoded as protobuf would, if it went that far."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.wire import deep, rpc_pb2
from coord.wire.deep import MAX_NESTED, NestedTooDeep, decode_txn
from coord.wire.fast import delimited

PUT = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k", value=b"v"))


def chain(levels: int, inner: bytes = b"") -> bytes:
    """A transaction in a transaction, so many times."""
    for _ in range(levels):
        inner = delimited(0x12, delimited(0x22, inner))
    return inner


def rebuilt(data: bytes) -> rpc_pb2.TxnRequest:
    request = rpc_pb2.TxnRequest()
    deep._Builder(data).txn(request, 0, len(data), 0)
    return request


def innermost(request: rpc_pb2.TxnRequest) -> tuple[int, rpc_pb2.TxnRequest]:
    levels = 0
    while request.success and request.success[0].HasField("request_txn"):
        request = request.success[0].request_txn
        levels += 1
    return levels, request


@pytest.mark.parametrize("levels", [0, 1, 49, 50, 51, 100, 128, MAX_NESTED])
def test_chains(levels: int) -> None:
    leaf = rpc_pb2.TxnRequest(success=[PUT, PUT]).SerializeToString()
    request = decode_txn(chain(levels, leaf))
    assert request is not None
    found, inner = innermost(request)
    assert (found, list(inner.success)) == (levels, [PUT, PUT])


@pytest.mark.parametrize("levels", [MAX_NESTED + 1, 1000, 10_000])
def test_what_is_too_deep(levels: int) -> None:
    with pytest.raises(NestedTooDeep):
        decode_txn(chain(levels))


@pytest.mark.parametrize("bad", [b"\xff", b"\x0b\x0c", b"\x12\x05a", b"\x00\x01", b"\x0a\x01\xff", b"\x0f", b"\x7d\x01"])  # fmt: skip
def test_damage_at_any_depth(bad: bytes) -> None:
    for levels in (51, 90, MAX_NESTED):
        assert decode_txn(chain(levels, bad)) is None


def test_the_work_is_bounded() -> None:
    wide = delimited(0x12, PUT.SerializeToString()) * 30_000
    assert decode_txn(chain(60, wide)) is None
    assert decode_txn(wide) is not None
    assert decode_txn(wide + b"\xff") is None


compares = st.builds(
    rpc_pb2.Compare, key=st.binary(max_size=3), version=st.integers(0, 9), range_end=st.binary(max_size=2)
)  # fmt: skip
leaves = st.one_of(
    st.builds(rpc_pb2.RequestOp, request_put=st.builds(rpc_pb2.PutRequest, key=st.binary(max_size=3))),
    st.builds(rpc_pb2.RequestOp, request_range=st.builds(rpc_pb2.RangeRequest, limit=st.integers(-5, 5))),
    st.builds(rpc_pb2.RequestOp),
)  # fmt: skip


def txns(ops: st.SearchStrategy[rpc_pb2.RequestOp]) -> st.SearchStrategy[rpc_pb2.TxnRequest]:
    several = st.lists(ops, max_size=3)
    return st.builds(
        rpc_pb2.TxnRequest, compare=st.lists(compares, max_size=2), success=several, failure=several
    )


operations = st.recursive(
    leaves, lambda ops: st.builds(rpc_pb2.RequestOp, request_txn=txns(ops)), max_leaves=12
)


@given(txns(operations), st.data())
def test_what_is_put_together_equals_what_protobuf_reads(
    request: rpc_pb2.TxnRequest, data: st.DataObject
) -> None:
    raw = request.SerializeToString()
    assert rebuilt(raw) == request
    # Concatenation merges; a second nested transaction in one operation is merged into the first.
    other = data.draw(txns(operations)).SerializeToString()
    assert rebuilt(raw + other) == rpc_pb2.TxnRequest.FromString(raw + other)
    op = delimited(0x12, delimited(0x22, raw) + delimited(0x12, b"") + delimited(0x22, other))
    assert rebuilt(op) == rpc_pb2.TxnRequest.FromString(op)


@given(st.binary(max_size=40), st.integers(51, 80))
def test_any_bytes_are_decoded_or_refused(noise: bytes, levels: int) -> None:
    found = decode_txn(chain(levels, noise))
    if found is None:
        return
    # What passes is what protobuf reads at the bottom, which it refuses only for groups.
    assert (
        innermost(found)[1] == rpc_pb2.TxnRequest.FromString(noise) or levels < innermost(found)[0]
    )
