"""A client that speaks HTTP/2 in raw frames, for tests of the server's side.

Frames and header blocks are written by hand or by other packages, so that a mistake of ours
cannot hide on both sides.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

import hpack as oracle

from coord.rpc.limits import SERVER_LIMITS, Limits
from coord.rpc.server_core import ServerConnection
from coord.rpc.server_stream import ServerStream
from coord.rpc.service import Method, PeerInfo, Registry, RequestHead

T = TypeVar("T")

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 1, 1, 4, 8, 32

NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CALM = 11

OK, UNKNOWN, INVALID, UNIMPLEMENTED, INTERNAL_STATUS, EXHAUSTED = 0, 2, 3, 12, 13, 8

MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Unary"),
    (":authority", "a"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def setting(key: int, value: int) -> bytes:
    return struct.pack(">HI", key, value)


def uint32(value: int) -> bytes:
    return struct.pack(">I", value)


def block(*fields: tuple[str, str], without: str = "", **changed: str) -> bytes:
    """Return a request's header block, with literals only, so that it fits any moment."""
    kept = [(name, changed.get(name[1:], value)) for name, value in REQUEST if name != without]
    # "Never indexed" keeps the encoder from using a dynamic table.
    secret = [oracle.NeverIndexedHeaderTuple(name, value) for name, value in (*kept, *fields)]
    return oracle.Encoder().encode(secret)


def message(body: bytes, *, flag: int = 0) -> bytes:
    return bytes((flag,)) + uint32(len(body)) + body


def unary(stream: int, body: bytes = b"hi", headers: bytes | None = None) -> bytes:
    """Return a whole unary call."""
    head = frame(HEADERS, END_HEADERS, stream, block() if headers is None else headers)
    return head + frame(DATA, END_STREAM, stream, message(body))


def opened(stream: int = 1) -> bytes:
    """Return the start of a call that the server keeps open."""
    return frame(HEADERS, END_HEADERS, stream, block(path="/test.Echo/Stream"))


def echo(
    connection: ServerConnection, stream_id: int, head: RequestHead, body: bytes
) -> bytes | None:
    return body


def never(
    connection: ServerConnection, stream_id: int, head: RequestHead, body: bytes
) -> bytes | None:
    return None


def echo_stream(stream: ServerStream) -> None:
    stream.on_message = stream.send
    stream.on_half_close = stream.finish


class Peer:
    """A client that sends raw bytes to a server core, and reads the frames that come back."""

    def __init__(self, split: int | None = None, limits: Limits = SERVER_LIMITS) -> None:
        self.now = 100.0
        self.split = split
        self.headers = oracle.Decoder()
        self.received: dict[int, list[tuple[str, str]]] = {}
        registry = Registry(
            (
                Method("/test.Echo/Unary", unary=echo),
                Method("/test.Echo/Never", unary=never),
                Method("/test.Echo/Stream", stream=echo_stream),
            )
        )
        self.connection = ServerConnection(
            registry,
            limits=limits,
            clock=lambda: self.now,
            wake=lambda connection: None,
            peer=PeerInfo(),
            spawn=self.spawn,
        )

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        raise AssertionError("no method here is a coroutine")

    def raw(self, data: bytes) -> list[Frame]:
        step = self.split or max(len(data), 1)
        for start in range(0, len(data), step):
            self.connection.feed(data[start : start + step])
        output = self.connection.take_output()
        frames: list[Frame] = []
        pos = 0
        while pos < len(output):
            size, flags, stream = struct.unpack_from(">IBI", output, pos)
            end = pos + 9 + (size >> 8)
            frames.append(Frame(size & 0xFF, flags, stream, output[pos + 9 : end]))
            if frames[-1].kind == HEADERS:
                # Every block at once and in order, as the table demands.
                assert flags & END_HEADERS
                fields = self.headers.decode(frames[-1].payload)
                texts = [(str(name), str(value)) for name, value in fields]
                self.received.setdefault(stream, []).extend(texts)
            pos = end
        assert pos == len(output)
        return frames

    def greet(self, *settings: bytes) -> list[Frame]:
        return self.raw(MAGIC + frame(SETTINGS, payload=b"".join(settings)))

    def fields(self, stream: int = 1) -> list[tuple[str, str]]:
        """Return all headers and trailers of a stream so far."""
        return self.received.get(stream, [])

    def status(self, frames: list[Frame], stream: int = 1) -> int:
        """Return the grpc-status of a call that has ended by the book."""
        ends = [f.kind for f in frames if f.stream == stream and f.flags & END_STREAM]
        assert ends == [HEADERS]
        fields = self.fields(stream)
        assert fields[0] == (":status", "200")
        return int(dict(fields)["grpc-status"])

    def closed(self) -> bool:
        return self.connection.wants_close

    def still_works(self, stream: int) -> bool:
        frames = self.raw(unary(stream, b"ok"))
        data = b"".join(f.payload for f in frames if f.kind == DATA and f.stream == stream)
        return data == message(b"ok") and not self.closed()


def goaway(frames: list[Frame]) -> int:
    """Return the error code of the one GOAWAY, which must be the last frame."""
    assert [f.kind for f in frames].count(GOAWAY) == 1
    last = frames[-1]
    assert (last.kind, last.stream) == (GOAWAY, 0)
    code: int = struct.unpack_from(">I", last.payload, 4)[0]
    return code


def resets(frames: list[Frame]) -> dict[int, int]:
    found = {f.stream: struct.unpack(">I", f.payload)[0] for f in frames if f.kind == RST_STREAM}
    assert GOAWAY not in {f.kind for f in frames}
    return found
