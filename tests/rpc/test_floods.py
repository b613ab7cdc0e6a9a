"""Peers that want to make the server work, hold or answer without bound: each comes to an end."""

from __future__ import annotations

import struct

import hpack as oracle
import pytest

from coord.rpc.limits import Limits
from tests.rpc.raw_peer import (
    ACK,
    CALM,
    CANCEL,
    COMPRESSION,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    EXHAUSTED,
    GOAWAY,
    HEADERS,
    MAGIC,
    NO_ERROR,
    OK,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL,
    REFUSED,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    Peer,
    block,
    frame,
    goaway,
    message,
    opened,
    resets,
    setting,
    uint32,
    unary,
)

# --- floods ---


def test_header_list_beyond_the_limit(peer: Peer) -> None:
    peer.greet()
    head = block(*((f"x-{number}", "v" * 100) for number in range(150)))
    data = frame(HEADERS, 0, 1, head[:16_000]) + frame(CONTINUATION, END_HEADERS, 1, head[16_000:])
    frames = peer.raw(data + frame(DATA, END_STREAM, 1, message(b"x")))
    assert not peer.closed()
    if not resets(frames):
        assert dict(peer.fields())["grpc-status"] == str(EXHAUSTED)
    assert peer.still_works(3)


def test_header_table_survives_a_list_beyond_the_limit(peer: Peer) -> None:
    peer.greet()
    encoder = oracle.Encoder()
    large = encoder.encode([*REQUEST, *(("x", f"{number:0300}") for number in range(60))])
    data = frame(HEADERS, 0, 1, large[:9_000]) + frame(CONTINUATION, END_HEADERS, 1, large[9_000:])
    peer.raw(data + frame(DATA, END_STREAM, 1, message(b"x")))
    frames = peer.raw(unary(3, b"ok", headers=encoder.encode(REQUEST)))
    assert b"".join(f.payload for f in frames if f.kind == DATA) == message(b"ok")


def test_header_block_without_end(peer: Peer) -> None:
    peer.greet()
    peer.raw(frame(HEADERS, 0, 1, block()))
    filler = frame(CONTINUATION, 0, 1, b"v" * 16_384)
    frames = peer.raw(filler * 5)
    assert goaway(frames) in {CALM, PROTOCOL, COMPRESSION}


def test_empty_continuations_without_end(peer: Peer) -> None:
    peer.greet()
    frames = peer.raw(frame(HEADERS, 0, 1, block()) + frame(CONTINUATION, 0, 1) * 10_000)
    assert goaway(frames) in {CALM, PROTOCOL}


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(SETTINGS), id="SETTINGS"),
        pytest.param(frame(PING, 0, 0, bytes(8)), id="PING"),
        pytest.param(frame(DATA, 0, 1), id="empty DATA"),
        pytest.param(frame(DATA, PADDED, 1, b"\x01\x00"), id="DATA of padding"),
        pytest.param(frame(PRIORITY, 0, 1, bytes(5)), id="PRIORITY"),
        pytest.param(frame(99), id="unknown frames"),
        pytest.param(frame(WINDOW, 0, 1, uint32(1)), id="WINDOW_UPDATE"),
        pytest.param(frame(RST_STREAM, 0, 1, uint32(CANCEL)), id="RST_STREAM of one stream"),
    ],
)
def test_floods_end_the_connection_or_cost_nothing(peer: Peer, flood: bytes) -> None:
    peer.greet()
    peer.raw(opened())
    answered = 0
    for _ in range(30):
        frames = peer.raw(flood * 100)
        answered += len(frames)
        if peer.closed():
            assert goaway(frames) == CALM
            break
    else:
        assert answered == 0


def test_rapid_resets_end_the_connection(peer: Peer) -> None:
    peer.greet()
    for first in range(1, 10_000, 200):
        data = b"".join(
            frame(HEADERS, END_HEADERS, stream, block(path="/test.Echo/Stream"))
            + frame(RST_STREAM, 0, stream, uint32(CANCEL))
            for stream in range(first, first + 200, 2)
        )
        frames = peer.raw(data)
        assert peer.connection.open_streams == 0 or peer.closed()
        if peer.closed():
            assert goaway(frames) == CALM
            return
    pytest.fail("5,000 resets were borne")


def test_resets_that_we_are_made_to_send_are_bounded_too(peer: Peer) -> None:
    peer.greet()
    for first in range(1, 20_000, 200):
        data = b"".join(
            opened(stream) + frame(WINDOW, 0, stream, uint32(0))
            for stream in range(first, first + 200, 2)
        )
        frames = peer.raw(data)
        if peer.closed():
            assert goaway(frames) == CALM
            return
    pytest.fail("10,000 streams were reset for the peer's faults")


def test_settings_of_thousands_of_values_are_refused(peer: Peer) -> None:
    peer.greet()
    peer.raw(opened())
    values = b"".join(setting(4, 65_535 + number % 2) for number in range(2_000))
    assert goaway(peer.raw(frame(SETTINGS, 0, 0, values))) in {CALM, PROTOCOL}


def test_resets_at_a_human_pace_are_borne(peer: Peer) -> None:
    peer.greet()
    for stream in range(1, 4_001, 2):
        peer.now += 0.1
        peer.raw(opened(stream) + frame(RST_STREAM, 0, stream, uint32(CANCEL)))
    assert peer.still_works(5_001)


def test_streams_beyond_the_limit_are_refused(peer: Peer) -> None:
    peer = Peer(peer.split, Limits(max_concurrent_streams=3))
    hello = peer.greet()[0].payload
    assert setting(3, 3) in [hello[i : i + 6] for i in range(0, len(hello), 6)]
    frames = peer.raw(b"".join(opened(stream) for stream in (1, 3, 5, 7)))
    assert resets(frames) == {7: REFUSED}
    assert peer.connection.open_streams == 3
    peer.raw(frame(RST_STREAM, 0, 3, uint32(CANCEL)))
    assert peer.still_works(9)


def test_silence_after_the_preface_is_not_borne(peer: Peer) -> None:
    peer.raw(MAGIC)
    peer.now += 60
    peer.connection.on_timer()
    peer.raw(b"")
    assert peer.closed()


def test_shutdown_lets_open_calls_end(peer: Peer) -> None:
    peer.greet()
    peer.raw(opened())
    peer.connection.shutdown()
    first = peer.raw(b"")
    assert [f.kind for f in first if f.kind == GOAWAY] == [GOAWAY]
    pings = [f for f in first if f.kind == PING]
    later = peer.raw(b"".join(frame(PING, ACK, 0, ping.payload) for ping in pings))
    last = [f for f in (*first, *later) if f.kind == GOAWAY][-1]
    assert struct.unpack(">II", last.payload[:8]) == (1, NO_ERROR)
    frames = peer.raw(frame(DATA, END_STREAM, 1, message(b"x")))
    assert peer.status(frames) == OK
    assert peer.connection.is_drained
