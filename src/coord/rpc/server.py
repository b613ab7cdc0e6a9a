"""The server on asyncio: listeners, protocols, one write per turn and connection, drain.

One port serves HTTP/2 and HTTP/1.1: the first bytes tell them apart, with and without TLS.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final, cast

from typing_extensions import override

from coord.rpc.admission import PeerRefused, admission_of, peer_of
from coord.rpc.frames import PREFACE
from coord.rpc.limits import SERVER_LIMITS, Limits
from coord.rpc.server_core import ServerConnection
from coord.runtime import Address, Env, Listener, Supervisor

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from coord.rpc.admission import Admit
    from coord.rpc.http1_messages import Http1Handler, Http1Limits
    from coord.rpc.service import Registry

# What the transport may hold before payload is kept back.
_WRITE_HIGH_BYTES: Final = 256 * 1024
# How long a connection that was closed may take to get rid of its last bytes.
_CLOSE_GRACE_S: Final = 5.0
# No method of HTTP/1.1 begins like the preface of HTTP/2.
_TELLING_BYTES: Final = 3


class RpcServer:
    """Serves a registry at any number of addresses, on the running loop.

    ``http1(request, respond)`` gets the requests of HTTP/1.1 clients; without it they are cut
    off. ``on_error(what, error)`` hears of exceptions that handlers must not raise.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        env: Env,
        limits: Limits = SERVER_LIMITS,
        http1: Http1Handler | None = None,
        http1_limits: Http1Limits | None = None,
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self.registry = registry
        self.limits = limits
        self.http1 = http1
        self.http1_limits = http1_limits
        self.on_error = on_error
        self.clock: Callable[[], float] = env.clock.mono
        self.supervisor: Supervisor = Supervisor(on_error)
        self._net = env.net
        self._listeners: list[Listener] = []
        self._protocols: dict[_Protocol, None] = {}
        self._to_flush: list[_Http2Protocol] = []
        self._is_draining = False
        self._empty: asyncio.Event | None = None

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._protocols)

    async def listen(self, address: Address, *, tls: ssl.SSLContext | None = None) -> Address:
        """Accept connections at ``address``; returns it with its real port. Raises OSError.

        Those that the context does not admit (`AdmittingContext`) are cut off before they are read.
        """
        admit = admission_of(tls)
        listener = await self._net.listen(lambda: _Sniffer(self, admit), address, tls=tls)
        self._listeners.append(listener)
        return listener.addresses[0]

    async def drain(self, *, within: float) -> None:
        """Stop accepting, let running calls end for at most ``within`` seconds, then close.

        A cancelled drain closes nothing more; ``close`` may follow.
        """
        self._is_draining = True
        for listener in self._listeners:
            listener.close()
        for protocol in list(self._protocols):
            protocol.drain()
        if self._protocols:
            self._empty = asyncio.Event()
            try:
                async with asyncio.timeout(within):
                    await self._empty.wait()
            except TimeoutError:
                pass  # those that are left are cut off
        await self.close()

    async def close(self) -> None:
        """Stop at once: calls that run lose their connection. May be called twice."""
        self._is_draining = True
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        for protocol in list(self._protocols):
            protocol.abort()
        await self.supervisor.close()
        for listener in listeners:
            await listener.wait_closed()
        if self._protocols:
            # Transports report their end in a later turn of the loop.
            self._empty = asyncio.Event()
            await self._empty.wait()

    # For the protocols.

    def add(self, protocol: _Protocol) -> None:
        """Count a connection."""
        self._protocols[protocol] = None
        if self._is_draining:
            protocol.abort()

    def replace(self, old: _Protocol, new: _Protocol) -> None:
        """Put the protocol that was recognised in place of the one that looked."""
        self._protocols.pop(old, None)
        self._protocols[new] = None
        if self._is_draining:
            new.drain()

    def remove(self, protocol: _Protocol) -> None:
        """Forget a connection that has ended."""
        self._protocols.pop(protocol, None)
        if not self._protocols and self._empty is not None:
            self._empty.set()

    def want_flush(self, protocol: _Http2Protocol) -> None:
        """Flush a connection once in this turn of the loop, with all others that asked."""
        if not self._to_flush:
            asyncio.get_running_loop().call_soon(self._flush)
        self._to_flush.append(protocol)

    def _flush(self) -> None:
        protocols, self._to_flush = self._to_flush, []
        for protocol in protocols:
            protocol.flush()


class _Protocol(asyncio.Protocol):
    """A connection as the server keeps it."""

    def __init__(self, server: RpcServer) -> None:
        self.server = server
        self.transport: asyncio.Transport | None = None
        self._closing: asyncio.TimerHandle | None = None

    def drain(self) -> None:
        """Close as soon as nothing runs."""
        self.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """Close after what was written has left, within bounds."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.close()
            loop = asyncio.get_running_loop()
            self._closing = loop.call_later(_CLOSE_GRACE_S, transport.abort)

    def take_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """Become the protocol of a transport that has already delivered something."""
        self.transport = transport
        transport.set_protocol(self)
        self.data_received(data)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self.server.remove(self)
        self.transport = None


class _Sniffer(_Protocol):
    """Looks at the first bytes of a connection and hands it to the protocol they belong to."""

    def __init__(self, server: RpcServer, admit: Admit | None) -> None:
        super().__init__(server)
        self._admit = admit
        self._seen = b""
        self._timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast("asyncio.Transport", transport)
        if self._admit is not None:
            try:
                self._admit(peer_of(connection))
            except PeerRefused:
                # Without a transport of ours nothing of it is read.
                connection.abort()
                return
        self.transport = connection
        self._timer = asyncio.get_running_loop().call_later(
            self.server.limits.handshake_timeout_s, self.close
        )
        self.server.add(self)

    @override
    def data_received(self, data: bytes) -> None:
        server = self.server
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        data = self._seen + data
        start = data[:_TELLING_BYTES]
        if start == PREFACE[: len(start)]:
            if len(start) < _TELLING_BYTES:
                self._seen = data
                return
            protocol: _Protocol = _Http2Protocol(server, transport)
        elif server.http1 is not None:
            protocol = _Http1Protocol(server, server.http1)
        else:
            transport.abort()
            return
        if self._timer is not None:
            self._timer.cancel()
        protocol.take_over(transport, data)
        if not transport.is_closing():
            server.replace(self, protocol)
        else:
            server.remove(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)


class _Http2Protocol(_Protocol):
    """Between a transport and the core."""

    def __init__(self, server: RpcServer, transport: asyncio.Transport) -> None:
        super().__init__(server)
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._is_paused = False
        self._conn = ServerConnection(
            server.registry,
            limits=server.limits,
            clock=server.clock,
            wake=self._on_wake,
            peer=peer_of(transport),
            spawn=server.supervisor.spawn,
            on_error=server.on_error,
        )

    @override
    def data_received(self, data: bytes) -> None:
        conn = self._conn
        running = len(conn.open)
        conn.feed(data)
        if len(conn.open) > running and not (conn.has_said or conn.wants_close):
            # Whatever answers these calls was told to run before this flush: acknowledgements leave
            # with the answers, one write for both.
            conn.touch()
        else:
            self.flush()

    def _on_wake(self, _conn: ServerConnection) -> None:
        self.server.want_flush(self)

    def flush(self) -> None:
        """Write what the core has, and follow its wishes."""
        transport = self.transport
        if transport is None:
            return
        conn = self._conn
        if not self._is_paused or conn.wants_close:
            data = conn.take_output()
            if data:
                transport.write(data)
            if conn.wants_close or conn.is_drained:
                self.close()
                return
            if conn.has_backlog:
                self.server.want_flush(self)
        if conn.timer_at < self._timer_at:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._conn.timer_at
        if self._timer_at < math.inf:
            delay = max(0.0, self._timer_at - self.server.clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._conn.on_timer()
        self.flush()

    @override
    def pause_writing(self) -> None:
        self._is_paused = True
        self._conn.pause_sending()

    @override
    def resume_writing(self) -> None:
        self._is_paused = False
        self._conn.resume_sending()
        self.server.want_flush(self)

    @override
    def drain(self) -> None:
        self._conn.shutdown()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._conn.connection_lost()
        super().connection_lost(exc)


class _Http1Protocol(_Protocol):
    """Between a transport and a connection of HTTP/1.1."""

    def __init__(self, server: RpcServer, handler: Http1Handler) -> None:
        super().__init__(server)
        # Late: h11 is slow to load, and many a server never meets such a client.
        from coord.rpc.http1 import Http1Connection

        self._conn = Http1Connection(handler, limits=server.http1_limits, wake=self._flush)
        self._is_draining = False

    @override
    def data_received(self, data: bytes) -> None:
        try:
            self._conn.feed(data)
        except Exception as error:  # noqa: BLE001 - a request's bug must not end the server
            self.server.on_error("http/1.1 request", error)
        self._flush()

    @override
    def eof_received(self) -> bool:
        self._conn.eof()
        self._flush()
        return self._conn.answering and not self._conn.should_close

    def _flush(self) -> None:
        transport = self.transport
        if transport is None:
            return
        data = self._conn.take_output()
        if data:
            transport.write(data)
        if self._conn.should_close or (self._is_draining and self._conn.idle):
            self.close()

    @override
    def drain(self) -> None:
        self._is_draining = True
        self._flush()
