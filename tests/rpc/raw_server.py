"""A server that speaks HTTP/2 in raw frames, for tests of the client's side."""

from __future__ import annotations

import struct
from collections.abc import Callable

import hpack as oracle

from coord.rpc.calls import CallStream, UnaryCall
from coord.rpc.client_core import ClientConnection
from coord.rpc.limits import CLIENT_LIMITS, Limits
from coord.rpc.metadata import Metadata
from coord.rpc.status import RpcError
from tests.rpc.raw_peer import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAGIC,
    SETTINGS,
    Frame,
    frame,
    message,
)

Result = bytes | RpcError


def fields(*pairs: tuple[str, str]) -> bytes:
    """Return a header block of literals only, so that it fits any moment."""
    return oracle.Encoder().encode(
        [oracle.NeverIndexedHeaderTuple(name, value) for name, value in pairs]
    )


HEAD = ((":status", "200"), ("content-type", "application/grpc"))


def head(stream: int, *more: tuple[str, str]) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, fields(*HEAD, *more))


def body(stream: int, data: bytes) -> bytes:
    return frame(DATA, 0, stream, message(data))


def trailers(stream: int, status: int = 0, *more: tuple[str, str]) -> bytes:
    block = fields(("grpc-status", str(status)), *more)
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


def only_trailers(stream: int, *pairs: tuple[str, str]) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, fields(*pairs))


def answer(stream: int, data: bytes = b"ok") -> bytes:
    return head(stream) + body(stream, data) + trailers(stream)


class RawServer:
    """Feeds a client core, reads its frames, and records how its calls end, in order."""

    def __init__(self, split: int | None = None, limits: Limits = CLIENT_LIMITS) -> None:
        self.now = 100.0
        self.split = split
        self.results: dict[str, Result | None] = {}
        self.order: list[str] = []
        self.wakes = 0
        self.pushed: list[list[Frame]] = []
        """What the client had taken in the middle of a burst."""
        self.errors: list[BaseException] = []
        self.decoder = oracle.Decoder()
        self.headers: dict[int, list[tuple[str, str]]] = {}
        self.client = ClientConnection(
            authority="a",
            limits=limits,
            clock=lambda: self.now,
            wake=self._on_wake,
            push=self._on_push,
            on_error=lambda what, error: self.errors.append(error),
        )
        self._rest = b""

    def _on_wake(self, client: ClientConnection) -> None:
        self.wakes += 1

    def _on_push(self) -> None:
        self.pushed.append(self.take())

    def greet(self, *settings: bytes) -> list[Frame]:
        """Introduce the server; returns what the client has to say."""
        return self.raw(frame(SETTINGS, 0, 0, b"".join(settings)))

    def raw(self, data: bytes) -> list[Frame]:
        step = self.split or max(len(data), 1)
        for start in range(0, len(data), step):
            self.client.feed(data[start : start + step])
        return self.take()

    def take(self) -> list[Frame]:
        """Return the frames that the client has put out."""
        output = self.client.take_output()
        pos = len(MAGIC) if output.startswith(MAGIC) else 0
        found: list[Frame] = []
        while pos < len(output):
            size, flags, stream = struct.unpack_from(">IBI", output, pos)
            end = pos + 9 + (size >> 8)
            found.append(Frame(size & 0xFF, flags, stream, output[pos + 9 : end]))
            if found[-1].kind == HEADERS:
                decoded = self.decoder.decode(found[-1].payload)
                self.headers[stream] = [(str(name), str(value)) for name, value in decoded]
            pos = end
        return found

    def done(self, name: str) -> Callable[[Result], None]:
        def note(result: Result) -> None:
            assert self.results.get(name) is None, "told twice"
            self.results[name] = result
            self.order.append(name)

        self.results.setdefault(name, None)
        return note

    def call(
        self,
        name: str,
        request: bytes = b"hi",
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> UnaryCall:
        done = self.done(name)
        return self.client.start_unary("/s/M", request, done, timeout=timeout, metadata=metadata)

    def stream(self, *, timeout: float | None = None) -> CallStream:
        stream = CallStream(self.client)
        self.client.start_stream(stream, "/s/S", timeout=timeout)
        return stream

    def error(self, name: str) -> RpcError:
        """Return the error that a call ended with."""
        result = self.results[name]
        assert isinstance(result, RpcError), result
        return result
