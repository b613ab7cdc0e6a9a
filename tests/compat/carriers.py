"""How requests get to a server: by grpcio, or by our own client's core over a plain socket.

The first is somebody else's client. The second spends a tenth on each call, for the runs of many
thousand scripts.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import grpc

from coord.rpc import CLIENT_LIMITS, ClientConnection, RpcError
from coord.rpc.calls import CallStream
from coord.wire import methods as rpcs

_CHUNK = 1 << 16

AnyRpc: TypeAlias = "rpcs.Rpc[Any, Any]"
Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
ServerStream: TypeAlias = "grpc.UnaryStreamMultiCallable[bytes, bytes]"
Stream: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"


class CallFailed(Exception):
    """A call that ended with another status than OK."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class Call(Protocol):
    """A call under way."""

    def done(self) -> bool:
        """Whether the answer is there."""
        ...

    def result(self) -> bytes:
        """Wait for the answer, of a stream the first. Raises CallFailed."""
        ...


class Carrier(Protocol):
    """Starts calls on one server."""

    def start(self, rpc: AnyRpc, data: bytes) -> Call:
        """Send the request of a unary call, or the only one of a stream."""
        ...


class GrpcioCarrier:
    """By grpcio."""

    def __init__(self, channel: grpc.Channel, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s

    def start(self, rpc: AnyRpc, data: bytes) -> Call:
        """Send a request."""
        if rpc.client_streaming:
            stream: Stream = self._channel.stream_stream(rpc.path)
            return _GrpcioStream(stream(iter([data]), timeout=self._timeout_s))
        if rpc.server_streaming:
            answers: ServerStream = self._channel.unary_stream(rpc.path)
            return _GrpcioStream(answers(data, timeout=self._timeout_s))
        unary: Unary = self._channel.unary_unary(rpc.path)
        return _GrpcioCall(unary.future(data, timeout=self._timeout_s))


class _GrpcioCall:
    def __init__(self, future: grpc.Future[bytes]) -> None:
        self._future = future

    def done(self) -> bool:
        return bool(self._future.done())

    def result(self) -> bytes:
        try:
            return bytes(self._future.result())
        except grpc.RpcError as error:
            raise _failed(error) from None


class _GrpcioStream:
    def __init__(self, call: Iterator[bytes]) -> None:
        self._call: Any = call

    def done(self) -> bool:
        return not self._call.is_active()

    def result(self) -> bytes:
        try:
            return bytes(next(self._call))
        except grpc.RpcError as error:
            raise _failed(error) from None
        finally:
            self._call.cancel()


def _failed(error: grpc.RpcError) -> CallFailed:
    # What is raised is a call too. grpc's own enum carries (number, text).
    call: Any = error
    return CallFailed(int(call.code().value[0]), call.details() or "")


class NativeCarrier:
    """By our own client's core, without a loop: whoever waits for an answer reads the socket."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        host, _, port = endpoint.rpartition(":")
        self._timeout_s = timeout_s
        self._socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._core = ClientConnection(
            authority=endpoint,
            limits=CLIENT_LIMITS,
            clock=time.monotonic,
            wake=lambda _core: None,
            on_error=_raise,
        )
        while not self._core.settled:
            self.turn()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def start(self, rpc: AnyRpc, data: bytes) -> Call:
        """Send a request."""
        call: _NativeStream | _NativeCall
        if rpc.client_streaming or rpc.server_streaming:
            call = _NativeStream(self, self._core)
            self._core.start_stream(call, rpc.path)
            call.send(data)
            call.half_close()
        else:
            call = _NativeCall(self)
            self._core.start_unary(rpc.path, data, call.take)
        self.flush()
        return call

    def flush(self) -> None:
        """Send what is to be sent."""
        if data := self._core.take_output():
            self._socket.sendall(data)

    def turn(self) -> None:
        """Wait for something from the server, and take it."""
        self.flush()
        data = self._socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._core.feed(data)
        self.flush()


class _NativeCall:
    def __init__(self, carrier: NativeCarrier) -> None:
        self._carrier = carrier
        self._answer: bytes | RpcError | None = None

    def take(self, answer: bytes | RpcError) -> None:
        self._answer = answer

    def done(self) -> bool:
        return self._answer is not None

    def result(self) -> bytes:
        while self._answer is None:
            self._carrier.turn()
        if isinstance(self._answer, RpcError):
            raise CallFailed(int(self._answer.code), self._answer.message)
        return self._answer


class _NativeStream(CallStream):
    __slots__ = ("_carrier",)

    def __init__(self, carrier: NativeCarrier, core: ClientConnection) -> None:
        super().__init__(core)
        self._carrier = carrier

    def done(self) -> bool:
        return bool(self.inbox) or not self.is_open

    def result(self) -> bytes:
        while not self.done():
            self._carrier.turn()
        if self.inbox:
            message = self.inbox.popleft()
            self.cancel()
            self._carrier.flush()
            return message
        raise CallFailed(int(self.end.code), self.end.message) if self.end else CallFailed(0, "")


def _raise(what: str, error: BaseException) -> None:
    raise RuntimeError(what) from error
