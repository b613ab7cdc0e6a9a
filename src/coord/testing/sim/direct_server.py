"""The server's end of the direct carrier: the handlers of a registry, called with whole messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from typing_extensions import override

from coord.rpc.limits import SERVER_LIMITS
from coord.rpc.messages import MessageReader
from coord.rpc.server_stream import ServerStream
from coord.rpc.service import PeerInfo, Registry, RequestHead
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import Supervisor
from coord.testing.sim.frames import Frame, FrameReader, Kind, pack, unpack_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.metadata import Metadata
    from coord.rpc.server_core import ServerConnection
    from coord.rpc.service import Method
    from coord.runtime import Address, Env

_NO_WINDOW: Final = 1 << 30


class DirectServer:
    """Serves a registry at one address. ``on_error(what, error)`` hears of what handlers must not raise."""

    def __init__(
        self, registry: Registry, env: Env, *, on_error: Callable[[str, BaseException], None]
    ) -> None:
        self.registry = registry
        self.clock: Callable[[], float] = env.clock.mono
        self.on_error = on_error
        self.supervisor: Supervisor = Supervisor(on_error)
        self.connections: dict[_Connection, None] = {}
        self._net = env.net

    async def listen(self, address: Address) -> None:
        """Accept connections. Raises OSError."""
        await self._net.listen(lambda: _Connection(self), address)


class _Connection(asyncio.Protocol):
    """One client; stands where handlers expect a ``ServerConnection``."""

    def __init__(self, server: DirectServer) -> None:
        self.limits = SERVER_LIMITS
        self.peer = PeerInfo()
        self.clock = server.clock
        self.spawn = server.supervisor.spawn
        self.peer_window = self.peer_max_frame = _NO_WINDOW
        self.pings_forgiven = False
        self._server = server
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, ServerStream] = {}
        self._unary: dict[int, str] = {}
        self._memos: dict[tuple[str, Metadata], dict[object, object]] = {}
        self._is_paused = False

    @property
    def _as_connection(self) -> ServerConnection:
        return cast("ServerConnection", self)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections[self] = None

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.pop(self, None)
        self._unary.clear()
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.ended()

    @override
    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        number = frame.call
        if frame.kind is Kind.CALL or frame.kind is Kind.OPEN:
            path, timeout_s, metadata, message = unpack_head(frame.body)
            memo = self._memos.setdefault((path, metadata), {})
            head = RequestHead(path, "sim", metadata, timeout_s, memo)
            # Until it turns out to be a stream.
            self._unary[number] = path
            try:
                method = self._server.registry.find(path)
                if frame.kind is Kind.CALL and method.unary is not None:
                    answer = method.unary(self._as_connection, number, head, message)
                    if answer is not None:
                        self.respond(number, answer)
                    return
                self._open(number, head, method, None if frame.kind is Kind.OPEN else message)
            except Exception as error:  # noqa: BLE001 - one call must not end the others
                self._raised(number, path, error)
            return
        stream = self._streams.get(number)
        if frame.kind is Kind.CANCEL:
            self._unary.pop(number, None)
            if stream is not None:
                del self._streams[number]
                stream.ended()
        elif stream is not None:
            try:
                self._push(stream, frame)
            except Exception as error:  # noqa: BLE001 - see above
                self._raised(number, stream.head.path, error)

    def _open(self, number: int, head: RequestHead, method: Method, message: bytes | None) -> None:
        if method.stream is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{head.path} is no stream")
        del self._unary[number]
        stream = self._streams[number] = ServerStream(self._as_connection, number, head)
        method.stream(stream)
        if message is not None:
            stream.inbox.append(message)
            stream.half_closed = True
            stream.deliver()

    @staticmethod
    def _push(stream: ServerStream, frame: Frame) -> None:
        if frame.kind is Kind.MESSAGE:
            stream.inbox.append(frame.body)
            stream.inbox_bytes += len(frame.body)
        else:
            stream.half_closed = True
        if not stream.is_delivering:
            stream.deliver()

    def _raised(self, number: int, path: str, error: Exception) -> None:
        if isinstance(error, RpcError):
            self._end(number, error.code, error.message)
        else:
            self._server.on_error(path, error)
            self._end(number, StatusCode.UNKNOWN, f"unexpected error in {path}")

    def _end(self, number: int, code: int, message: str) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            self.finish_stream(stream, code, message, ())
        else:
            self.fail(number, code, message)

    def _send(self, kind: Kind, number: int, body: bytes) -> None:
        if self._transport is not None:
            self._transport.write(pack(kind, number, body))

    # A responder.

    def respond(self, stream_id: int, message: bytes) -> None:
        """End a unary call with OK."""
        if self._unary.pop(stream_id, None) is not None:
            self._send(Kind.ANSWER, stream_id, message)

    def fail(self, stream_id: int, code: int, message: str, trailers: Metadata = ()) -> None:
        """End a unary call with a status."""
        del trailers
        if self._unary.pop(stream_id, None) is not None:
            self._send(Kind.STATUS, stream_id, bytes((code,)) + message.encode())

    # What a ServerStream asks of its connection.

    def send_headers(self, stream: ServerStream, metadata: Metadata) -> None:
        """Take note; there are no headers here."""
        del metadata
        stream.has_headers = True

    def send_message(self, stream: ServerStream, message: bytes) -> None:
        """Send a message."""
        self._send(Kind.MESSAGE, stream.stream_id, message)
        if self._is_paused:
            stream.unsent_bytes += len(message)
            stream.is_high = stream.is_high or stream.unsent_bytes >= self.limits.low_water_bytes

    def send_data(self, stream: ServerStream, data: bytes) -> None:
        """Send messages that are framed already."""
        for message in MessageReader(self.limits.max_send_bytes).feed(data):
            self.send_message(stream, message)

    def finish_stream(
        self, stream: ServerStream, code: int, message: str, trailers: Metadata
    ) -> None:
        """End a call with a status."""
        del trailers
        if self._streams.pop(stream.stream_id, None) is not None:
            self._send(Kind.STATUS, stream.stream_id, bytes((code,)) + message.encode())
        stream.ended()

    def drop_unsent(self, stream: ServerStream) -> None:
        """Keep what was handed to the transport: there is no queue before it."""

    def hold(self, state: Any, size: int) -> bool:  # noqa: ANN401 - any state of a stream
        """Accept whatever is not read yet; the transport's window bounds it."""
        del state, size
        return True

    def give_back(self, stream: ServerStream) -> None:
        """Do nothing: windows belong to the transport."""

    def receive(self, stream: ServerStream, size: int) -> None:
        """Do nothing: windows belong to the transport."""

    @override
    def pause_writing(self) -> None:
        self._is_paused = True

    @override
    def resume_writing(self) -> None:
        self._is_paused = False
        for stream in list(self._streams.values()):
            was_high, stream.is_high, stream.unsent_bytes = stream.is_high, False, 0
            if was_high and stream.on_writable is not None:
                stream.on_writable()
