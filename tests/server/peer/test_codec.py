"""Messages as bytes: what goes in comes out, and no bytes do harm."""

from __future__ import annotations

import contextlib
import dataclasses
import tracemalloc
from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord_server.peer import (
    DecodeError,
    Hello,
    codec,
    decode_message,
    decode_snapshot_meta,
    encode_message,
    encode_snapshot_meta,
)
from coord_server.peer.codec import message_parts
from coord_server.peer.handshake import decode_hello, encode_hello
from coord_server.peer.packet import PACKET_BYTES, Forward, PeerMessage, pack, unpack
from coord_server.raft import (
    AppendRequest,
    Entry,
    EntryKind,
    Index,
    Membership,
    Message,
    NodeId,
    SnapshotMeta,
    Term,
)
from tests.server.peer.messages import (
    EVERYTHING,
    KINDS,
    METAS,
    NODES,
    NUMBERS,
    RAFT_KINDS,
)

DECODERS: list[Callable[[bytes], object]] = [
    decode_message,
    decode_snapshot_meta,
    decode_hello,
    unpack,
]
HELLOS = st.builds(
    Hello,
    cluster_id=NUMBERS,
    sender=NODES,
    to=NODES,
    incarnation=NUMBERS,
    urls=st.lists(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), max_size=4
    ).map(tuple),
)
N1, N2 = NodeId(1), NodeId(2)


def append(*data: bytes) -> AppendRequest:
    entries = tuple(
        Entry(Term(3), Index(8 + n), EntryKind.NORMAL, part) for n, part in enumerate(data)
    )
    return AppendRequest(
        sender=N1,
        to=N2,
        term=Term(3),
        prev_index=Index(7),
        prev_term=Term(2),
        entries=entries,
        commit=Index(6),
    )


def test_every_kind_of_message_is_generated() -> None:
    assert set(KINDS) == set(get_args(PeerMessage))
    assert set(RAFT_KINDS) == set(get_args(Message))


@pytest.mark.parametrize("kind", RAFT_KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_message_comes_back(kind: type, data: st.DataObject) -> None:
    message = data.draw(RAFT_KINDS[kind])
    assert type(message) is kind
    assert decode_message(encode_message(message)) == message


@given(METAS)
def test_what_a_snapshot_covers_comes_back(meta: SnapshotMeta) -> None:
    assert decode_snapshot_meta(encode_snapshot_meta(meta)) == meta


@given(HELLOS)
def test_a_hello_comes_back(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) == hello


@given(st.lists(EVERYTHING, max_size=8))
def test_packets_keep_the_order(messages: list[PeerMessage]) -> None:
    packets = pack(messages)
    assert sum(count for _, count in packets) == len(messages)
    assert [message for data, _ in packets for message in unpack(data)] == messages


def test_packets_are_of_bounded_size_and_a_large_message_has_its_own() -> None:
    small = [Forward(n, bytes(1000)) for n in range(3000)]
    packets = pack([*small, append(bytes(5 * PACKET_BYTES)), *small])
    sizes = [len(data) for data, _ in packets]
    assert sum(size > 1.2 * PACKET_BYTES for size in sizes) == 1
    assert len(packets) == 7


def test_the_data_of_entries_is_joined_once() -> None:
    body = bytes(1000)
    parts = message_parts(append(b"x", body))
    assert any(part is body for part in parts)


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: decode.__name__)
@given(data=st.binary(max_size=200), kind=st.integers(0, 40))
def test_noise_is_refused_in_one_way(
    decode: Callable[[bytes], object], data: bytes, kind: int
) -> None:
    """That nothing but :class:`DecodeError` comes out is the claim: a peer's bytes must not end the reader."""
    for noise in (data, bytes((kind,)) + data):
        with contextlib.suppress(DecodeError):
            decode(noise)


@given(message=EVERYTHING, data=st.data())
def test_cut_and_flipped_packets_are_refused_in_one_way(
    message: PeerMessage, data: st.DataObject
) -> None:
    ((whole, _),) = pack([message])
    cut = whole[: data.draw(st.integers(1, len(whole) - 1))]
    # The first byte alone is a packet without messages.
    if len(cut) == 1:
        assert unpack(cut) == []
    else:
        with pytest.raises(DecodeError):
            unpack(cut)
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(DecodeError):
        unpack(bytes(flipped))


@given(hello=HELLOS, data=st.data())
def test_cut_and_flipped_hellos_are_refused_in_one_way(hello: Hello, data: st.DataObject) -> None:
    """As above; what is left without its URLs, or with a flipped bit, may be another hello that is one."""
    whole = bytearray(encode_hello(hello))
    with contextlib.suppress(DecodeError):
        decode_hello(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(DecodeError):
        decode_hello(bytes(whole))


def test_a_promise_of_many_entries_takes_no_memory() -> None:
    message = bytearray(encode_message(append()))
    message[-4:] = b"\xff" * 4  # the number of entries
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="table of an append is cut off"):
            decode_message(bytes(message))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "membership",
    [
        Membership(voters=(N2, N1)),
        Membership(voters=(N1, N1)),
        Membership(voters=(N1,), learners=(N1,)),
        Membership(voters=(N1,), outgoing=(N1,), learners_next=(N1,)),
    ],
    ids=["unordered", "doubled", "voter and learner", "voter and learner to be"],
)
def test_memberships_that_cannot_be_are_refused(membership: Membership) -> None:
    data = encode_snapshot_meta(SnapshotMeta(index=Index(1), term=Term(1), membership=membership))
    with pytest.raises(DecodeError):
        decode_snapshot_meta(data)


def test_another_version_of_the_protocol_is_named() -> None:
    hello = bytearray(encode_hello(Hello(cluster_id=1, sender=N1, to=N2, incarnation=3)))
    hello[9] = 2
    with pytest.raises(DecodeError, match="version 2 of the protocol, this member 1"):
        decode_hello(bytes(hello[:10]))


def test_urls_that_do_not_fit_are_left_out() -> None:
    urls = tuple(f"http://host-{n}:2380" for n in range(1000))
    hello = Hello(cluster_id=1, sender=N1, to=N2, incarnation=3, urls=urls)
    kept = decode_hello(encode_hello(hello)).urls
    assert 100 < len(kept) < 1000
    assert kept == urls[: len(kept)]


def test_no_field_of_a_message_is_left_behind() -> None:
    # A field with a default that the codec does not know would be lost without a word.
    for _, make, _, fields in codec._FIXED:
        assert isinstance(make, type)
        assert {"sender", "to", "term", *fields} == {
            field.name for field in dataclasses.fields(make)
        }
