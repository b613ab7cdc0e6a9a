"""The client on asyncio: one connection, no reconnecting; whoever wants that puts it above."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final, cast

from typing_extensions import override

from coord._version import __version__
from coord.rpc.admission import PeerRefused, admission_of, peer_of
from coord.rpc.calls import CallStream, UnaryCall
from coord.rpc.client_core import ClientConnection
from coord.rpc.limits import CLIENT_LIMITS, Limits
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from coord.rpc.admission import Admit
    from coord.rpc.metadata import Metadata
    from coord.runtime import Address, Env

_WRITE_HIGH_BYTES: Final = 256 * 1024
# How long the transport may take to get rid of its last bytes once we have closed.
_CLOSE_GRACE_S: Final = 2.0


class ClientStream(CallStream):
    """A call with streams. Messages are taken by ``receive``, or by callbacks set before any comes.

    Belongs to the loop of its channel.
    """

    on_writable: Callable[[], None] | None  # of its base, and set here

    __slots__ = ("_arrival", "_writable")

    def __init__(self, conn: ClientConnection | None) -> None:
        super().__init__(conn)
        self._arrival: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    async def receive(self) -> bytes | None:
        """Return the next message, None when the call has ended with OK. Raises RpcError else.

        The server's window follows what is taken. A cancelled wait loses no message.
        """
        while not self.inbox:
            if not self.is_open:
                if self.end is not None:
                    raise self.end
                return None
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        message = self.inbox.popleft()
        if not self.inbox:
            self.deliver()
        return message

    async def drain(self) -> None:
        """Wait until less than ``low_water_bytes`` are unsent, or the call has ended."""
        conn = self.conn
        while (
            conn is not None and self.is_open and self.unsent_bytes >= conn.limits.low_water_bytes
        ):
            self._writable = asyncio.get_running_loop().create_future()
            self.on_writable = self._on_writable
            try:
                await self._writable
            finally:
                self._writable = None

    def _on_writable(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    @override
    def arrived(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        if not self.is_open:
            self._on_writable()


class Channel:
    """A connection to one server, on the loop that ``connect`` ran on.

    ``authority`` goes into requests, ``server_name`` is what the server's certificate must be
    for. ``on_closed(error)`` is called once when a connection that was made has ended, unless
    by ``close``; the calls have been told by then. With ``writes_at_once`` what is flushed goes to the
    operating system in the call, and not when the loop comes round; TLS takes no notice of it.
    """

    def __init__(
        self,
        address: Address,
        *,
        env: Env,
        authority: str,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        limits: Limits = CLIENT_LIMITS,
        user_agent: str = f"coord/{__version__}",
        on_closed: Callable[[RpcError], None] | None = None,
        writes_at_once: bool = False,
    ) -> None:
        self.address = address
        self._env = env
        self._authority = authority
        self._tls = tls
        self._server_name = server_name
        self._limits = limits
        self._user_agent = user_agent
        self._on_closed = on_closed
        # uvloop writes in the call when more would be held than the limit. Transports of TLS call a buffer
        # that is empty as full as this limit, and would have us pause for nothing.
        self._held_bytes = 0 if writes_at_once and tls is None else _WRITE_HIGH_BYTES
        self._protocol: _ChannelProtocol | None = None
        self.core: ClientConnection | None = None
        """The connection, once it is made; for those who start calls by the thousand."""
        self._is_closed = False

    @property
    def ready(self) -> bool:
        """Whether calls may be made: connected, and the server is not going away."""
        return self.core is not None and self.core.is_ready

    @property
    def open_calls(self) -> int:
        """How many calls have not ended."""
        return 0 if self.core is None else self.core.open_calls

    async def connect(self, *, timeout: float) -> None:
        """Connect, and wait for the server's settings, at most ``timeout`` seconds.

        Raises RpcError(UNAVAILABLE, sent=False), also for a server that the context does not admit
        (`AdmittingContext`). A cancelled call leaves no connection. A channel connects once.
        """
        protocol: _ChannelProtocol | None = None
        try:
            async with asyncio.timeout(timeout):
                _, made = await self._env.net.connect(
                    lambda: _ChannelProtocol(
                        self._make_core,
                        self._env.clock.mono,
                        self._lost,
                        self._held_bytes,
                        admission_of(self._tls),
                    ),
                    self.address,
                    tls=self._tls,
                    server_name=self._server_name,
                )
                protocol = cast("_ChannelProtocol", made)
                self._check_alpn(protocol)
                await protocol.settled
        except TimeoutError as error:
            raise self._unreachable("timed out") from error
        except OSError as error:
            raise self._unreachable(str(error) or type(error).__name__) from error
        else:
            self._protocol = protocol
            self.core = protocol.conn
        finally:
            if protocol is not None and self._protocol is None:
                protocol.discard()

    def _make_core(
        self, wake: Callable[[ClientConnection], None], push: Callable[[], None]
    ) -> ClientConnection:
        loop = asyncio.get_running_loop()

        def on_error(what: str, error: BaseException) -> None:
            loop.call_exception_handler({"message": f"{what} raised", "exception": error})

        return ClientConnection(
            authority=self._authority,
            scheme="http" if self._tls is None else "https",
            user_agent=self._user_agent,
            limits=self._limits,
            clock=self._env.clock.mono,
            wake=wake,
            push=push,
            on_error=on_error,
        )

    def _check_alpn(self, protocol: _ChannelProtocol) -> None:
        if self._tls is None or protocol.transport is None:
            return
        tls = protocol.transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            raise self._unreachable("the server does not speak HTTP/2")

    def _unreachable(self, reason: str) -> RpcError:
        text = f"cannot connect to {self.address}: {reason}"
        return RpcError(StatusCode.UNAVAILABLE, text, sent=False)

    def _lost(self, protocol: _ChannelProtocol, error: RpcError) -> None:
        if protocol is self._protocol and not self._is_closed and self._on_closed is not None:
            self._on_closed(error)

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> UnaryCall:
        """Start a unary call; ``done`` is called exactly once, later, but not after ``cancel``.

        ``timeout`` is in seconds; the call then ends with DEADLINE_EXCEEDED. Calls that are
        started in one turn of the loop leave in one write. Raises ValueError for metadata that
        cannot be sent.
        """
        conn = self.core
        if conn is not None:
            return conn.start_unary(path, request, done, timeout=timeout, metadata=metadata)
        call = UnaryCall(None, done)

        def refuse() -> None:
            if call.done is not None:
                call.done = None
                done(RpcError(StatusCode.UNAVAILABLE, "channel is not connected", sent=False))

        asyncio.get_running_loop().call_soon(refuse)
        return call

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> bytes:
        """Call a unary method. Raises RpcError; cancelling tells the server to stop."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(result: bytes | RpcError) -> None:
            if future.done():
                return
            if isinstance(result, RpcError):
                future.set_exception(result)
            else:
                future.set_result(result)

        call = self.start_unary(path, request, done, timeout=timeout, metadata=metadata)
        try:
            return await future
        except asyncio.CancelledError:
            call.cancel()
            raise

    def open_stream(
        self, path: str, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> ClientStream:
        """Open a call with streams. Raises ValueError for metadata that cannot be sent."""
        conn = self.core
        stream = ClientStream(conn)
        if conn is not None:
            conn.start_stream(stream, path, timeout=timeout, metadata=metadata)
        else:
            error = RpcError(StatusCode.UNAVAILABLE, "channel is not connected", sent=False)
            stream.ended(error, ())
        return stream

    def flush(self) -> None:
        """Hand what was sent to the transport now. Without this it leaves when the loop comes round."""
        protocol = self._protocol
        if protocol is not None and protocol.conn.woken:
            protocol.flush()

    def go_away(self) -> None:
        """Take no new calls; close when those that run have ended."""
        if self.core is not None:
            self.core.go_away()

    async def close(self, *, within: float = 0) -> None:
        """Let running calls end for at most ``within`` seconds, then end them and close."""
        self._is_closed = True
        protocol = self._protocol
        if protocol is None:
            return
        if within > 0 and not protocol.lost.done():
            protocol.conn.go_away()
            await asyncio.wait([protocol.lost], timeout=within)
        protocol.discard()
        await asyncio.wait([protocol.lost])


class _ChannelProtocol(asyncio.Protocol):
    """Between a transport and the core."""

    def __init__(
        self,
        make_core: Callable[
            [Callable[[ClientConnection], None], Callable[[], None]], ClientConnection
        ],
        clock: Callable[[], float],
        on_lost: Callable[[_ChannelProtocol, RpcError], None],
        held_bytes: int,
        admit: Admit | None,
    ) -> None:
        self._held_bytes = held_bytes
        self._admit = admit
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.settled: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._clock = clock
        self._on_lost = on_lost
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._closing: asyncio.TimerHandle | None = None
        self._is_paused = False
        self.conn = make_core(self._on_wake, self.flush)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._admit is not None:
            try:
                self._admit(peer_of(self.transport))
            except PeerRefused as error:
                self.settled.set_exception(error)
                self.settled.exception()  # nobody may be waiting any more
                self.transport.abort()
                return
        self.transport.set_write_buffer_limits(high=self._held_bytes)
        self.flush()

    @override
    def data_received(self, data: bytes) -> None:
        conn = self.conn
        conn.feed(data)
        if conn.settled and not self.settled.done():
            self.settled.set_result(None)
        self.flush()

    def _on_wake(self, _conn: ClientConnection) -> None:
        self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Give the transport what the core has to say."""
        transport = self.transport
        conn = self.conn
        if (
            transport is None
            or transport.is_closing()
            or (self._is_paused and not conn.wants_close)
        ):
            # What a closing transport would drop stays with the core, known as not sent.
            conn.woken = False
            conn.sweep()
        else:
            data = conn.take_output()
            if data:
                transport.write(data)
            if conn.wants_close or conn.is_drained:
                self._close(transport)
            elif conn.has_backlog:
                self._loop.call_soon(self.flush)
        if conn.timer_at < self._timer_at:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self.conn.timer_at
        if self._timer_at < math.inf:
            delay = max(0.0, self._timer_at - self._clock())
            self._timer = self._loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self.conn.on_timer()
        self.flush()

    @override
    def pause_writing(self) -> None:
        self._is_paused = True
        self.conn.pause_sending()

    @override
    def resume_writing(self) -> None:
        self._is_paused = False
        self.conn.resume_sending()
        self._loop.call_soon(self.flush)

    def _close(self, transport: asyncio.Transport) -> None:
        transport.close()
        self._closing = self._loop.call_later(_CLOSE_GRACE_S, transport.abort)

    def discard(self) -> None:
        """Close now; calls that run end with UNAVAILABLE."""
        if self.transport is not None and not self.transport.is_closing():
            self.conn.end_calls("channel was closed")
            self.conn.sweep()
            self.transport.abort()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        for timer in (self._timer, self._closing):
            if timer is not None:
                timer.cancel()
        conn = self.conn
        reason = "connection lost" if exc is None else f"connection lost: {exc}"
        conn.end_calls(reason)
        conn.connection_lost()
        conn.sweep()
        if not self.settled.done():
            self.settled.set_exception(ConnectionResetError("closed before HTTP/2 began"))
            self.settled.exception()  # nobody may be waiting any more
        if not self.lost.done():
            self.lost.set_result(None)
        self._on_lost(self, conn.going_away or RpcError(StatusCode.UNAVAILABLE, reason, sent=False))
