"""Clients that send the HEADERS of many calls before their DATA, as nghttp2 does."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from coord.rpc.limits import SERVER_LIMITS, Limits
from tests.rpc.raw_peer import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW,
    HEADERS,
    INTERNAL_STATUS,
    OK,
    PADDED,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    Peer,
    block,
    frame,
    message,
    resets,
    setting,
    uint32,
)

INITIAL_WINDOW = 4


def head(stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, block())


def data(stream: int, body: bytes) -> bytes:
    return frame(DATA, END_STREAM, stream, message(body))


def test_many_headers_then_their_data_in_any_order(peer: Peer) -> None:
    peer.greet()
    assert peer.raw(head(1) + head(3) + head(5)) == []
    assert peer.connection.open_streams == 3
    frames = peer.raw(data(5, b"five") + data(1, b"") + data(3, b"three"))
    assert [peer.status(frames, stream) for stream in (1, 3, 5)] == [OK, OK, OK]
    bodies = {f.stream: f.payload for f in frames if f.kind == DATA}
    assert bodies == {5: message(b"five"), 1: message(b""), 3: message(b"three")}
    assert peer.connection.open_streams == 0


def test_headers_and_no_data_count_as_open_calls() -> None:
    peer = Peer(limits=Limits(max_concurrent_streams=2))
    peer.greet()
    frames = peer.raw(head(1) + head(3) + head(5))
    assert list(resets(frames)) == [5]
    frames = peer.raw(data(1, b"a") + data(3, b"b"))
    assert [peer.status(frames, stream) for stream in (1, 3)] == [OK, OK]


def test_reset_between_headers_and_data(peer: Peer) -> None:
    peer.greet()
    frames = peer.raw(head(1) + frame(RST_STREAM, 0, 1, uint32(CANCEL)) + data(1, b"late"))
    assert frames == []
    assert peer.connection.open_streams == 0
    assert peer.still_works(3)


def test_window_granted_between_headers_and_data(peer: Peer) -> None:
    peer.greet(setting(INITIAL_WINDOW, 10))
    peer.raw(head(1) + frame(WINDOW, 0, 1, uint32(5)))
    frames = peer.raw(data(1, bytes(100)))
    assert sum(len(f.payload) for f in frames if f.kind == DATA) == 15


def test_initial_window_changed_between_headers_and_data(peer: Peer) -> None:
    peer.greet(setting(INITIAL_WINDOW, 10))
    frames = peer.raw(head(1) + frame(SETTINGS, payload=setting(INITIAL_WINDOW, 20)))
    frames = peer.raw(data(1, bytes(100)))
    assert sum(len(f.payload) for f in frames if f.kind == DATA) == 20


def test_window_of_a_call_with_headers_only_can_overflow(peer: Peer) -> None:
    peer.greet()
    frames = peer.raw(head(1) + frame(WINDOW, 0, 1, uint32((1 << 31) - 1)))
    assert resets(frames) == {1: FLOW}
    assert peer.still_works(3)


def test_end_of_the_connection_between_headers_and_data(peer: Peer) -> None:
    peer.greet()
    peer.raw(head(1))
    peer.connection.connection_lost()
    assert peer.connection.open_streams == 0


def test_drain_waits_for_the_data(peer: Peer) -> None:
    peer.greet()
    peer.raw(head(1))
    peer.connection.shutdown()
    peer.now += 10
    peer.connection.on_timer()
    peer.raw(b"")
    assert not peer.connection.is_drained
    frames = peer.raw(data(1, b"last"))
    assert peer.status(frames) == OK
    assert peer.connection.is_drained


def test_message_beyond_the_bound_in_one_frame() -> None:
    peer = Peer(limits=Limits(max_receive_bytes=100))
    peer.greet()
    peer.raw(head(1) + head(3))
    frames = peer.raw(data(1, bytes(101)) + data(3, bytes(100)))
    assert dict(peer.fields(1))["grpc-message"].endswith("(101 vs. 100)")
    assert peer.status(frames, 3) == OK


def test_whole_frame_that_is_no_whole_message(peer: Peer) -> None:
    peer.greet()
    bad = [message(b"a")[:-1], message(b"a") + b"b", message(b"a", flag=1), b"\0\0\0", b""]
    for stream, payload in enumerate(bad):
        peer.raw(head(2 * stream + 1))
        frames = peer.raw(frame(DATA, END_STREAM, 2 * stream + 1, payload))
        assert peer.status(frames, 2 * stream + 1) == INTERNAL_STATUS
    assert peer.connection.open_streams == 0


def test_connection_window_is_given_back(peer: Peer) -> None:
    peer.greet()
    size = 10_000
    count = SERVER_LIMITS.connection_window_bytes // size + 10
    given = 0
    for turn in range(count // 10):
        streams = range(20 * turn + 1, 20 * turn + 21, 2)
        out = peer.raw(
            b"".join(map(head, streams)) + b"".join(data(s, bytes(size)) for s in streams)
        )
        given += sum(struct.unpack(">I", f.payload)[0] for f in out if f.kind == WINDOW)
        peer.raw(frame(WINDOW, 0, 0, uint32(10 * (size + 5))))
    sent = count // 10 * 10 * (size + 5)
    assert sent - SERVER_LIMITS.connection_window_bytes < given <= sent


_STREAMS = (1, 3, 5)
# A frame with padding of no length goes the way with all checks.
_steps = st.one_of(
    st.tuples(
        st.just("data"),
        st.sampled_from(_STREAMS),
        st.sampled_from(
            [message(body) for body in (b"hello", b"", b"x" * 500, b"y" * 90)]
            + [message(b"a", flag=1), message(b"ab")[:-1], message(b"a") * 2, b"", b"\0\0"]
        ),
    ),
    st.tuples(
        st.just("frame"),
        st.just(0),
        st.sampled_from(
            [head(stream) for stream in _STREAMS]
            + [frame(WINDOW, 0, stream, uint32(7)) for stream in (0, *_STREAMS)]
            + [frame(RST_STREAM, 0, stream, uint32(CANCEL)) for stream in _STREAMS]
            + [frame(SETTINGS, payload=setting(INITIAL_WINDOW, size)) for size in (0, 30, 70_000)]
            + [frame(DATA, 0, 3, message(b"hello")[:4]), frame(DATA, 0, 1, message(b"hello"))]
        ),
    ),
)


@given(st.lists(_steps, max_size=14))
def test_short_way_does_what_the_long_way_does(steps: list[tuple[str, int, bytes]]) -> None:
    limits = Limits(max_receive_bytes=400)
    short, long = Peer(limits=limits), Peer(limits=limits)
    for peer in (short, long):
        peer.greet()
        peer.raw(head(1) + head(3))
    for kind, stream, payload in steps:
        if short.closed():
            break
        if kind == "frame":
            assert short.raw(payload) == long.raw(payload)
            continue
        taken = short.raw(frame(DATA, END_STREAM, stream, payload))
        assert taken == long.raw(frame(DATA, END_STREAM | PADDED, stream, b"\0" + payload))
    assert short.received == long.received
    assert short.closed() == long.closed()
    assert short.connection.open_streams == long.connection.open_streams
    assert short.connection.unread_bytes == long.connection.unread_bytes
