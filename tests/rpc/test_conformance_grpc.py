"""The server's side of gRPC over HTTP/2 against raw frames, in any splits."""

from __future__ import annotations

import pytest

from coord.rpc.limits import Limits
from tests.rpc.raw_peer import (
    DATA,
    END_HEADERS,
    END_STREAM,
    EXHAUSTED,
    HEADERS,
    INTERNAL_STATUS,
    INVALID,
    OK,
    UNIMPLEMENTED,
    UNKNOWN,
    Peer,
    block,
    frame,
    message,
    opened,
    resets,
    uint32,
    unary,
)

# --- gRPC over HTTP/2 ---


def test_an_answer_by_the_book(peer: Peer) -> None:
    peer.greet()
    frames = peer.raw(unary(1, b"hello"))
    assert [f.kind for f in frames] == [HEADERS, DATA, HEADERS]
    assert frames[1].payload == message(b"hello")
    assert peer.fields() == [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "0"),
    ]


def test_message_over_many_data_frames(peer: Peer) -> None:
    peer.greet()
    body = message(b"hello")
    data = frame(HEADERS, END_HEADERS, 1, block())
    data += b"".join(frame(DATA, 0, 1, body[i : i + 1]) for i in range(len(body)))
    frames = peer.raw(data + frame(DATA, END_STREAM, 1))
    assert [f.payload for f in frames if f.kind == DATA] == [body]
    assert peer.status(frames) == OK


def test_many_messages_in_one_data_frame(peer: Peer) -> None:
    peer.greet()
    bodies = message(b"one") + message(b"") + message(b"three")
    frames = peer.raw(opened() + frame(DATA, END_STREAM, 1, bodies))
    assert b"".join(f.payload for f in frames if f.kind == DATA) == bodies
    assert peer.status(frames) == OK


@pytest.mark.parametrize(
    ("content_type", "ok"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc;charset=utf-8", True),
        ("application/json", False),
        ("application/grpcx", False),
        ("application/grpc-web", False),
        ("", False),
    ],
)
def test_content_type(peer: Peer, content_type: str, ok: bool) -> None:
    peer.greet()
    head = block(("content-type", content_type), without="content-type")
    peer.raw(unary(1, headers=head))
    fields = dict(peer.fields())
    assert fields[":status"] == ("200" if ok else "415")
    assert (fields["grpc-status"] == "0") == ok
    assert peer.still_works(3)


def test_missing_content_type(peer: Peer) -> None:
    peer.greet()
    peer.raw(unary(1, headers=block(without="content-type")))
    assert dict(peer.fields())[":status"] == "415"


def test_other_http_methods_are_refused(peer: Peer) -> None:
    peer.greet()
    peer.raw(frame(HEADERS, END_HEADERS | END_STREAM, 1, block(method="GET")))
    assert dict(peer.fields())[":status"] == "405"
    assert peer.still_works(3)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/test.Echo/Nothing", "unknown method Nothing for service test.Echo"),
        ("/test.Nobody/Unary", "unknown service test.Nobody"),
        ("/", "malformed method name"),
        ("no-slash", "malformed method name"),
    ],
)
def test_unknown_methods(peer: Peer, path: str, text: str) -> None:
    peer.greet()
    peer.raw(unary(1, headers=block(path=path)))
    fields = dict(peer.fields())
    assert (fields[":status"], fields["grpc-status"]) == ("200", str(UNIMPLEMENTED))
    assert text in fields["grpc-message"]
    assert peer.still_works(3)


def test_compressed_flag_without_encoding(peer: Peer) -> None:
    peer.greet()
    data = frame(HEADERS, END_HEADERS, 1, block())
    frames = peer.raw(data + frame(DATA, END_STREAM, 1, message(b"zip", flag=1)))
    assert peer.status(frames) == INTERNAL_STATUS
    assert peer.still_works(3)


def test_encoding_that_we_lack(peer: Peer) -> None:
    peer.greet()
    data = frame(HEADERS, END_HEADERS, 1, block(("grpc-encoding", "gzip")))
    peer.raw(data + frame(DATA, END_STREAM, 1, message(b"zip", flag=1)))
    fields = dict(peer.fields())
    assert fields["grpc-status"] == str(UNIMPLEMENTED)
    assert "identity" in fields["grpc-accept-encoding"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="no message"),
        pytest.param(b"\0\0\0", id="half a prefix"),
        pytest.param(message(b"hello")[:-1], id="message cut short"),
        pytest.param(message(b"one") + message(b"two"), id="two messages"),
        pytest.param(message(b"one") + b"x", id="bytes behind the message"),
    ],
)
def test_unary_requests_have_one_whole_message(peer: Peer, body: bytes) -> None:
    peer.greet()
    data = frame(HEADERS, END_HEADERS, 1, block()) + frame(DATA, END_STREAM, 1, body)
    frames = peer.raw(data)
    assert resets(frames) or peer.status(frames) in {
        INTERNAL_STATUS,
        UNIMPLEMENTED,
        UNKNOWN,
        INVALID,
    }
    assert peer.still_works(3)


def test_unary_request_that_ends_with_its_headers(peer: Peer) -> None:
    peer.greet()
    frames = peer.raw(frame(HEADERS, END_HEADERS | END_STREAM, 1, block()))
    assert resets(frames) or peer.status(frames) in {INTERNAL_STATUS, UNIMPLEMENTED}
    assert peer.still_works(3)


@pytest.mark.parametrize("size", [100, 101, 1 << 31])
def test_message_bound(peer: Peer, size: int) -> None:
    peer = Peer(peer.split, Limits(max_receive_bytes=100))
    peer.greet()
    data = frame(HEADERS, END_HEADERS, 1, block())
    data += frame(DATA, 0, 1, b"\0" + uint32(size) + b"x" * 100)
    frames = peer.raw(data)
    if size > 100:  # told by the prefix alone
        assert peer.status(frames) == EXHAUSTED
        assert f"({size} vs. 100)" in dict(peer.fields())["grpc-message"]
    else:
        assert peer.status(peer.raw(frame(DATA, END_STREAM, 1))) == OK
    assert peer.still_works(3)


@pytest.mark.parametrize("value", ["", "1", "S", "123456789S", "1.5S", "-1S"])
def test_malformed_timeouts(peer: Peer, value: str) -> None:
    peer.greet()
    peer.raw(unary(1, headers=block(("grpc-timeout", value))))
    assert dict(peer.fields()).get("grpc-status") != "0"
    assert peer.still_works(3)


def test_binary_metadata_that_is_not_base64(peer: Peer) -> None:
    peer.greet()
    peer.raw(unary(1, headers=block(("k-bin", "a$"))))
    assert dict(peer.fields())["grpc-status"] == str(INTERNAL_STATUS)
    assert peer.still_works(3)
