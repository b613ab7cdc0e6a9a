"""Each hand-written codec against protobuf: same bytes out, same values in, same refusals."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given
from hypothesis import strategies as st

from coord.wire import fast, kv_pb2, rpc_pb2

M = TypeVar("M", bound=Message)

EDGES = [
    0,
    1,
    127,
    128,
    16383,
    16384,
    *(2**bits + off for bits in (21, 28, 35, 42, 49, 56, 62) for off in (-1, 0)),
    2**63 - 1,
]
int64s = st.sampled_from([*EDGES, *(-n for n in EDGES), -(2**63)]) | st.integers(
    -(2**63), 2**63 - 1
)
uint64s = st.sampled_from([*EDGES, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
revisions = st.sampled_from(EDGES) | st.integers(0, 2**63 - 1)
# Around the sizes at which a length takes another byte, without drawing that many bytes.
blobs = st.binary(max_size=40) | st.builds(
    bytes.__mul__,
    st.binary(min_size=1, max_size=1),
    st.sampled_from([126, 127, 128, 129, 16383, 16384]),
)

put_requests = st.builds(
    rpc_pb2.PutRequest,
    key=blobs,
    value=blobs,
    lease=st.just(0) | int64s,
    prev_kv=st.booleans(),
    ignore_value=st.booleans(),
    ignore_lease=st.booleans(),
)
range_requests = st.builds(
    rpc_pb2.RangeRequest,
    key=blobs,
    range_end=st.just(b"") | blobs,
    limit=st.just(0) | int64s,
    serializable=st.booleans(),
    keys_only=st.booleans(),
)
headers = st.builds(
    rpc_pb2.ResponseHeader,
    cluster_id=uint64s,
    member_id=uint64s,
    revision=int64s,
    raft_term=uint64s,
)
pairs = st.builds(
    kv_pb2.KeyValue,
    key=blobs,
    create_revision=int64s,
    mod_revision=int64s,
    version=int64s,
    value=blobs,
    lease=st.just(0) | int64s,
)
put_responses = st.builds(
    rpc_pb2.PutResponse, header=st.none() | headers, prev_kv=st.none() | pairs
)
keep_alives = st.builds(rpc_pb2.LeaseKeepAliveRequest, ID=int64s)
keep_alive_responses = st.builds(
    rpc_pb2.LeaseKeepAliveResponse, header=st.none() | headers, ID=int64s, TTL=int64s
)


@st.composite
def damaged(draw: st.DrawFn, messages: st.SearchStrategy[Message]) -> bytes:
    """Bytes near a message: cut, flipped, doubled, mixed with foreign fields, or just noise."""
    data = draw(messages).SerializeToString()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["cut", "flip", "insert", "append", "noise"])):
            case "cut":
                data = data[:at]
            case "flip":
                data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=12)) + data[at:]
            case "append":
                data += draw(messages | put_requests).SerializeToString()
            case _:
                data = draw(st.binary(max_size=24))
    return data


def encoded(messages: st.SearchStrategy[M]) -> st.SearchStrategy[bytes]:
    return messages.map(lambda message: message.SerializeToString())


def parsed(kind: type[M], data: bytes) -> M | None:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


# Numbers


@given(n=int64s)
def test_varint_of_int64(n: int) -> None:
    expected = kv_pb2.KeyValue(lease=n).SerializeToString()
    assert (b"\x30" + fast.varint(n) if n else b"") == expected


@given(n=uint64s, before=st.binary(max_size=3), after=st.binary(max_size=3))
def test_varint_of_uint64_there_and_back(n: int, before: bytes, after: bytes) -> None:
    expected = rpc_pb2.ResponseHeader(cluster_id=n).SerializeToString()
    assert (b"\x08" + fast.varint(n) if n else b"") == expected
    number = fast.varint(n)
    assert fast.read_varint(before + number + after, len(before)) == (n, len(before) + len(number))


def test_every_small_varint() -> None:
    assert [fast.read_varint(fast.varint(n), 0)[0] for n in range(70000)] == list(range(70000))


@given(
    data=st.binary(max_size=12)
    | st.lists(st.integers(128, 255), min_size=8, max_size=10).map(bytes)
)
@example(b"\xff" * 9 + b"\x01")
@example(b"\xff" * 9 + b"\x02")
@example(b"\x80" * 9 + b"\x80\x00")
@example(b"\x80\x00")
def test_read_varint_of_any_bytes(data: bytes) -> None:
    reference = 0
    for size, byte in enumerate(data[:10]):
        reference |= (byte & 0x7F) << 7 * size
        if byte < 0x80 and reference < 2**64:
            assert fast.read_varint(data, 0) == (reference, size + 1)
            header = parsed(rpc_pb2.ResponseHeader, b"\x08" + data[: size + 1])
            assert header is not None
            assert header.cluster_id == reference
            return
        if byte < 0x80:
            break
    with pytest.raises(ValueError, match="no varint"):
        fast.read_varint(data, 0)


@given(n=int64s)
def test_to_int64(n: int) -> None:
    assert fast.to_int64(n % 2**64) == n


@given(number=st.integers(1, 2047), body=blobs)
def test_delimited(number: int, body: bytes) -> None:
    field = fast.delimited(number << 3 | 2, body)
    tag, pos = fast.read_varint(field, 0)
    size, pos = fast.read_varint(field, pos)
    assert (tag, size, field[pos:]) == (number << 3 | 2, len(body), body)


# Put and Range


@given(key=blobs, value=blobs, lease=st.just(0) | int64s, prev_kv=st.booleans())
def test_encode_put(key: bytes, value: bytes, lease: int, *, prev_kv: bool) -> None:
    request = rpc_pb2.PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv)
    assert fast.encode_put(key, value, lease, prev_kv) == request.SerializeToString()


@given(data=encoded(put_requests) | damaged(put_requests))
@example(b"")
@example(b"\x0a\x00\x12\x00")
@example(b"\x0a\x01a\x12\x81\x00b")
@example(b"\x0a\x01a\x12\x81\x80\x80\x80\x80\x00b")
@example(b"\x0a\x81\x80\x80\x80\x80\x80\x00a")
@example(b"\x0a\x01a\x20\x02")
@example(b"\x0a\x01a\x0a\x01b")
@example(b"\x0a\x02a")
@example(b"\x0a\xff")
def test_decode_put(data: bytes) -> None:
    expected = parsed(rpc_pb2.PutRequest, data)
    put = fast.decode_put(data)
    if expected is None or put is None:
        assert (expected is None) == (put is None)
        return
    for field in rpc_pb2.PutRequest.DESCRIPTOR.fields:
        value = getattr(put, field.name)
        assert value == getattr(expected, field.name)
        assert type(value) is type(getattr(expected, field.name))


# Txn and what it consists of

range_fields = st.fixed_dictionaries(
    {
        "limit": st.just(0) | int64s,
        "revision": st.just(0) | int64s,
        "sort_order": st.integers(0, 2),
        "sort_target": st.integers(0, 4),
        "serializable": st.booleans(),
        "keys_only": st.booleans(),
        "count_only": st.booleans(),
    }
)
bounds = st.just((0, 0, 0, 0)) | st.tuples(*[st.just(0) | int64s] * 4)
BOUND_NAMES = (
    "min_mod_revision",
    "max_mod_revision",
    "min_create_revision",
    "max_create_revision",
)


@given(key=blobs, end=st.just(b"") | blobs, given_fields=range_fields, revisions=bounds)
def test_encode_range(
    key: bytes, end: bytes, given_fields: dict[str, Any], revisions: tuple[int, int, int, int]
) -> None:
    bounded: dict[str, Any] = dict(zip(BOUND_NAMES, revisions, strict=True))
    request = rpc_pb2.RangeRequest(key=key, range_end=end, **given_fields, **bounded)
    made = fast.encode_range(key, end, **given_fields, revisions=revisions)
    assert made == request.SerializeToString()


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_encode_range_refuses_what_is_no_int64(number: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        fast.encode_range(b"k", b"", limit=number)
    with pytest.raises(ValueError, match="out of range"):
        fast.encode_range(b"k", b"", revisions=(0, 0, 0, number))


@given(key=blobs, end=st.just(b"") | blobs, prev_kv=st.booleans())
def test_encode_delete_range(key: bytes, end: bytes, *, prev_kv: bool) -> None:
    request = rpc_pb2.DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv)
    assert fast.encode_delete_range(key, end, prev_kv) == request.SerializeToString()


OPERANDS = ("version", "create_revision", "mod_revision", "value", "lease")


@given(
    result=st.integers(0, 3),
    target=st.integers(0, 4),
    key=blobs,
    number=int64s,
    value=blobs,
    end=st.just(b"") | blobs,
)
@example(result=0, target=0, key=b"k", number=0, value=b"", end=b"")
@example(result=0, target=3, key=b"k", number=0, value=b"", end=b"")
def test_encode_compare(
    result: int, target: int, key: bytes, number: int, value: bytes, end: bytes
) -> None:
    operand: int | bytes = value if OPERANDS[target] == "value" else number
    right_side: dict[str, Any] = {OPERANDS[target]: operand}
    numbers: dict[str, Any] = {"result": result, "target": target}
    compare = rpc_pb2.Compare(key=key, range_end=end, **numbers, **right_side)
    assert fast.encode_compare(result, target, key, operand, end) == compare.SerializeToString()


operations = st.lists(
    st.builds(rpc_pb2.RequestOp, request_put=put_requests)
    | st.builds(rpc_pb2.RequestOp, request_range=range_requests),
    max_size=3,
)
comparisons = st.lists(
    st.builds(rpc_pb2.Compare, key=blobs, version=int64s, range_end=blobs), max_size=3
)


@given(compares=comparisons, success=operations, failure=operations)
def test_encode_txn(
    compares: list[rpc_pb2.Compare],
    success: list[rpc_pb2.RequestOp],
    failure: list[rpc_pb2.RequestOp],
) -> None:
    request = rpc_pb2.TxnRequest(compare=compares, success=success, failure=failure)
    made = fast.encode_txn(
        *[[m.SerializeToString() for m in part] for part in (compares, success, failure)]
    )
    assert made == request.SerializeToString()


@given(data=encoded(put_responses) | damaged(put_responses))
def test_decode_put_response(data: bytes) -> None:
    expected = parsed(rpc_pb2.PutResponse, data)
    if expected is None or expected.HasField("prev_kv"):
        assert fast.decode_put_response(data) is None
    else:
        assert fast.decode_put_response(data) == expected.header.revision


@given(key=blobs, serializable=st.booleans())
def test_point_range_there_and_back(key: bytes, *, serializable: bool) -> None:
    data = fast.encode_point_range(key, serializable)
    assert data == rpc_pb2.RangeRequest(key=key, serializable=serializable).SerializeToString()
    assert fast.decode_point_range(data) == ((key, serializable) if key else None)


@given(data=encoded(range_requests) | damaged(range_requests))
@example(b"\x0a\x81\x80\x80\x80\x80\x80\x00a")
@example(b"\x0a\x81")
@example(b"\x0a\x01a\x38\x02")
def test_decode_point_range_is_right_or_silent(data: bytes) -> None:
    found = fast.decode_point_range(data)
    if found is not None:
        key, serializable = found
        assert key
        assert rpc_pb2.RangeRequest.FromString(data) == rpc_pb2.RangeRequest(
            key=key, serializable=serializable
        )


# Header


@given(
    cluster_id=uint64s,
    member_id=uint64s,
    answers=st.lists(st.tuples(revisions, st.integers(0, 3) | uint64s), min_size=1, max_size=6),
)
@example(
    cluster_id=1, member_id=2, answers=[(0, 0), (7, 0), (7, 0), (7, 1), (0, 1), (300, 1), (300, 2)]
)
def test_header_stamp(cluster_id: int, member_id: int, answers: list[tuple[int, int]]) -> None:
    stamp = fast.HeaderStamp(cluster_id, member_id)
    for revision, term in answers:
        header = rpc_pb2.ResponseHeader(
            cluster_id=cluster_id, member_id=member_id, revision=revision, raft_term=term
        )
        assert stamp.field(revision, term) == rpc_pb2.PutResponse(header=header).SerializeToString()


# KeyValue, events, watch responses


@given(kv=pairs)
def test_encode_key_value(kv: kv_pb2.KeyValue) -> None:
    body = fast.encode_key_value(
        kv.key, kv.create_revision, kv.mod_revision, kv.version, kv.value, kv.lease
    )
    assert body == kv.SerializeToString()


@given(data=encoded(pairs) | damaged(pairs))
def test_decode_key_value(data: bytes) -> None:
    kv = parsed(kv_pb2.KeyValue, data)
    if kv is None:
        with pytest.raises(ValueError, match="not a KeyValue"):
            fast.decode_key_value(data)
        return
    fields = (kv.key, kv.create_revision, kv.mod_revision, kv.version, kv.value, kv.lease)
    assert fast.decode_key_value(data) == fields


@given(kv=pairs, prev=st.none() | pairs)
def test_encode_put_event(kv: kv_pb2.KeyValue, prev: kv_pb2.KeyValue | None) -> None:
    body = fast.encode_put_event(
        kv.SerializeToString(), None if prev is None else prev.SerializeToString()
    )
    assert body == kv_pb2.Event(kv=kv, prev_kv=prev).SerializeToString()


@given(key=blobs, mod=revisions, prev=st.none() | pairs)
def test_encode_delete_event(key: bytes, mod: int, prev: kv_pb2.KeyValue | None) -> None:
    body = fast.encode_delete_event(key, mod, None if prev is None else prev.SerializeToString())
    pair = kv_pb2.KeyValue(key=key, mod_revision=mod)
    assert body == kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=pair, prev_kv=prev).SerializeToString()


@given(header=headers, watch_id=int64s, pairs_put=st.lists(pairs, max_size=3))
def test_watch_response(
    header: rpc_pb2.ResponseHeader, watch_id: int, pairs_put: list[kv_pb2.KeyValue]
) -> None:
    field = fast.delimited(0x0A, header.SerializeToString())
    events = [fast.encode_put_event(kv.SerializeToString(), None) for kv in pairs_put]
    made = fast.encode_watch_head(field, watch_id) + b"".join(map(fast.watch_event_field, events))
    expected = rpc_pb2.WatchResponse(
        header=header, watch_id=watch_id, events=[kv_pb2.Event(kv=kv) for kv in pairs_put]
    )
    assert made == expected.SerializeToString()


# Keepalives


@given(lease_id=int64s)
def test_keep_alive_there_and_back(lease_id: int) -> None:
    data = fast.encode_keep_alive(lease_id)
    assert data == rpc_pb2.LeaseKeepAliveRequest(ID=lease_id).SerializeToString()
    assert fast.decode_keep_alive(data) == lease_id


@given(data=encoded(keep_alives) | damaged(keep_alives))
def test_decode_keep_alive(data: bytes) -> None:
    expected = parsed(rpc_pb2.LeaseKeepAliveRequest, data)
    assert fast.decode_keep_alive(data) == (None if expected is None else expected.ID)


@given(header=headers, lease_id=int64s, ttl=int64s)
def test_encode_keep_alive_response(
    header: rpc_pb2.ResponseHeader, lease_id: int, ttl: int
) -> None:
    field = fast.delimited(0x0A, header.SerializeToString())
    expected = rpc_pb2.LeaseKeepAliveResponse(header=header, ID=lease_id, TTL=ttl)
    assert fast.encode_keep_alive_response(field, lease_id, ttl) == expected.SerializeToString()


@given(data=encoded(keep_alive_responses) | damaged(keep_alive_responses))
def test_decode_keep_alive_response(data: bytes) -> None:
    expected = parsed(rpc_pb2.LeaseKeepAliveResponse, data)
    if expected is None:
        assert fast.decode_keep_alive_response(data) is None
    else:
        found = (expected.ID, expected.TTL, expected.header.revision)
        assert fast.decode_keep_alive_response(data) == found
