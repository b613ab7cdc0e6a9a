"""Listeners, protocols and channels on asyncio, over real sockets and over the memory network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from typing_extensions import override

from coord.rpc import (
    CLIENT_LIMITS,
    SERVER_LIMITS,
    AsyncCall,
    Channel,
    Http1Request,
    Http1Response,
    Limits,
    MemoryNet,
    Method,
    PeerInfo,
    Registry,
    RpcError,
    RpcServer,
    ServerConnection,
    ServerStream,
    StatusCode,
    async_stream,
    async_unary,
)
from coord.rpc.frames import PREFACE
from coord.rpc.tls import client_context, server_context
from coord.runtime import Address, Env, TcpAddress, UnixAddress, real_env

LOOPBACK = TcpAddress("127.0.0.1", 0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something that nobody tells us is so."""
    while not condition():
        await asyncio.sleep(0)


class World:
    """A server, its clients, and what they noticed."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.errors: list[tuple[str, BaseException]] = []
        self.servers: list[RpcServer] = []
        self.channels: list[Channel] = []
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.peers: list[PeerInfo] = []
        self.streams: list[ServerStream] = []
        self.deferred: list[tuple[ServerConnection, int]] = []

    async def serve(
        self,
        limits: Limits = SERVER_LIMITS,
        *,
        at: Address = LOOPBACK,
        tls: ssl.SSLContext | None = None,
        http1: Callable[[Http1Request, Callable[[Http1Response], None]], None] | None = None,
    ) -> tuple[RpcServer, Address]:
        server = RpcServer(
            Registry(
                (
                    Method("/t.T/Echo", unary=lambda conn, stream_id, head, message: message),
                    Method("/t.T/Defer", unary=self._defer),
                    Method("/t.T/Hold", stream=self._hold),
                    async_unary("/t.T/Wait", self._wait),
                    async_unary("/t.T/Crash", self._crash),
                    async_stream("/t.T/Bidi", self._bidi),
                )
            ),
            env=self.env,
            limits=limits,
            http1=http1,
            on_error=lambda what, error: self.errors.append((what, error)),
        )
        self.servers.append(server)
        return server, await server.listen(at, tls=tls)

    async def connect(
        self,
        address: Address,
        limits: Limits = CLIENT_LIMITS,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> Channel:
        channel = Channel(
            address,
            env=self.env,
            authority="a",
            limits=limits,
            tls=tls,
            server_name=server_name,
        )
        self.channels.append(channel)
        await channel.connect(timeout=10)
        return channel

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()
        for server in self.servers:
            await server.close()
            assert server.connection_count == 0

    def _defer(self, conn: ServerConnection, stream_id: int, head: object, message: bytes) -> None:
        self.deferred.append((conn, stream_id))
        self.started.set()

    def _hold(self, stream: ServerStream) -> None:
        self.streams.append(stream)
        self.started.set()

    async def _wait(self, call: AsyncCall, request: bytes) -> bytes:
        self.peers.append(call.peer)
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def _crash(self, call: AsyncCall, request: bytes) -> bytes:
        if request:
            raise RpcError(StatusCode.ABORTED, "secret", trailers=(("Bad Key", "x"),))
        raise KeyError("secret")

    async def _bidi(self, call: AsyncCall) -> None:
        while (message := await call.receive()) is not None:
            await call.send(message)


@pytest.fixture(params=["sockets", "memory"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    env = real_env()
    if request.param == "memory":
        env = replace(env, net=MemoryNet())
    world = World(env)
    yield world
    await world.close()


@pytest.fixture
async def sockets() -> AsyncIterator[World]:
    world = World(real_env())
    yield world
    await world.close()


# --- both ends of ours ---


async def test_calls(world: World) -> None:
    server, address = await world.serve()
    channel = await world.connect(address)
    assert channel.ready
    for size in (0, 1, 100_000, 3 << 20):
        assert await channel.unary("/t.T/Echo", bytes(size), timeout=30) == bytes(size)
    stream = channel.open_stream("/t.T/Bidi")
    for size in (0, 1, 100_000, 3 << 20):
        stream.send(bytes(size))
        await stream.drain()
        assert await stream.receive() == bytes(size)
    stream.half_close()
    assert await stream.receive() is None
    assert server.connection_count == 1
    assert world.errors == []


async def test_deferred_answers_of_many_connections(world: World) -> None:
    _, address = await world.serve()
    channels = [await world.connect(address) for _ in range(3)]
    calls = [
        asyncio.ensure_future(channel.unary("/t.T/Defer", b"", timeout=30))
        for channel in channels
        for _ in range(20)
    ]
    await until(lambda: len(world.deferred) == len(calls))
    for number, (conn, stream_id) in enumerate(world.deferred):
        conn.respond(stream_id, b"%d" % number)
    assert sorted([int(await call) for call in calls]) == list(range(60))


async def test_crash_is_reported_and_hidden_from_the_client(world: World) -> None:
    _, address = await world.serve()
    channel = await world.connect(address)
    for request in (b"", b"with trailers that cannot be sent"):
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t.T/Crash", request, timeout=30)
        assert caught.value.code is StatusCode.UNKNOWN
        assert "secret" not in caught.value.message
    assert [type(error) for _, error in world.errors] == [KeyError, ValueError]
    assert {what for what, _ in world.errors} == {"/t.T/Crash"}


async def test_lost_client_cancels_its_calls(world: World) -> None:
    server, address = await world.serve()
    channel = await world.connect(address)
    call = asyncio.ensure_future(channel.unary("/t.T/Wait", b"", timeout=30))
    await world.started.wait()
    await channel.close()
    with pytest.raises(RpcError) as caught:
        await call
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, True)
    await world.cancelled.wait()
    await until(lambda: not server.connection_count)


async def test_channel_closes_gracefully(world: World) -> None:
    _, address = await world.serve()
    channel = await world.connect(address)
    call = asyncio.ensure_future(channel.unary("/t.T/Wait", b"x", timeout=30))
    await world.started.wait()
    closing = asyncio.ensure_future(channel.close(within=30))
    await asyncio.sleep(0)
    assert not channel.ready
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t.T/Echo", b"", timeout=30)
    assert caught.value.sent is False
    world.release.set()
    assert await call == b"x"
    await closing
    await channel.close()


async def test_channel_goes_away_by_itself(world: World) -> None:
    server, address = await world.serve()
    channel = await world.connect(address)
    assert await channel.unary("/t.T/Echo", b"x", timeout=30) == b"x"
    channel.go_away()
    await until(lambda: not server.connection_count)


async def test_unconnected_channel(world: World) -> None:
    channel = Channel(LOOPBACK, env=world.env, authority="a")
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t.T/Echo", b"")
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)
    with pytest.raises(RpcError) as caught:
        await channel.open_stream("/t.T/Bidi").receive()
    assert caught.value.sent is False
    cancelled = channel.start_unary("/t.T/Echo", b"", lambda result: world.release.set())
    cancelled.cancel()
    await asyncio.sleep(0)
    assert not world.release.is_set()
    await channel.close()


async def test_nobody_listens(world: World) -> None:
    server, address = await world.serve()
    await server.close()
    with pytest.raises(RpcError) as caught:
        await world.connect(address)
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)
    assert str(address) in caught.value.message


async def test_server_that_says_nothing(world: World) -> None:
    listener = await world.env.net.listen(asyncio.Protocol, LOOPBACK)
    channel = Channel(listener.addresses[0], env=world.env, authority="a")
    with pytest.raises(RpcError) as caught:
        await channel.connect(timeout=0.01)
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)
    assert caught.value.message.endswith("timed out")
    listener.close()
    await listener.wait_closed()


async def test_peer_that_does_not_read_holds_a_bounded_share(world: World) -> None:
    limits = replace(SERVER_LIMITS, low_water_bytes=10_000)
    _, address = await world.serve(limits)
    channel = await world.connect(address, replace(CLIENT_LIMITS, stream_window_bytes=1 << 30))
    stream = channel.open_stream("/t.T/Hold")
    await world.started.wait()
    (held,) = world.streams
    writable = asyncio.Event()
    held.on_writable = writable.set
    while held.unsent_bytes < 10_000:
        held.send(bytes(50_000))
    writable.clear()
    await writable.wait()  # the client reads, so it leaves in the end
    assert held.unsent_bytes < 10_000
    held.finish()
    while await stream.receive() is not None:
        pass


# --- drain ---


async def test_drain_waits_for_calls_and_refuses_new_connections(world: World) -> None:
    server, address = await world.serve()
    busy = await world.connect(address)
    idle = await world.connect(address)
    call = asyncio.ensure_future(busy.unary("/t.T/Wait", b"x", timeout=30))
    await world.started.wait()
    draining = asyncio.ensure_future(server.drain(within=30))
    await until(lambda: not (idle.ready or busy.ready or server.connection_count > 1))
    with pytest.raises(RpcError) as caught:
        await world.connect(address)
    assert caught.value.sent is False
    with pytest.raises(RpcError) as caught:
        await busy.unary("/t.T/Echo", b"", timeout=30)
    assert caught.value.sent is False
    assert not draining.done()
    world.release.set()
    assert await call == b"x"
    await draining


async def test_drain_in_a_hurry(world: World) -> None:
    server, address = await world.serve()
    channel = await world.connect(address)
    call = asyncio.ensure_future(channel.unary("/t.T/Wait", b"x", timeout=30))
    await world.started.wait()
    await server.drain(within=0)
    with pytest.raises(RpcError) as caught:
        await call
    assert caught.value.code is StatusCode.UNAVAILABLE
    assert world.cancelled.is_set()
    assert server.connection_count == 0


# --- one port, two protocols ---


def answer_http1(request: Http1Request, respond: Callable[[Http1Response], None]) -> None:
    if request.target == "/crash":
        raise KeyError("mine")
    body = f"{request.method} {request.target} ".encode() + request.body
    if request.target == "/later":
        asyncio.get_running_loop().call_soon(respond, Http1Response(200, (), body))
    elif request.target != "/never":
        respond(Http1Response(200, (("content-type", "text/plain"),), body))


Ask = Callable[[bytes], Awaitable[bytes]]


async def ask(address: Address, *parts: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """Send raw bytes, piece by piece, and return all that comes until the server closes."""
    assert isinstance(address, TcpAddress)
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=tls, server_hostname="localhost" if tls else None
    )
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.001)  # lets the pieces arrive as pieces; nothing depends on it
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data


async def test_both_protocols_on_one_port(sockets: World) -> None:
    _, address = await sockets.serve(http1=answer_http1)
    channel = await sockets.connect(address)
    assert await channel.unary("/t.T/Echo", b"x", timeout=30) == b"x"
    request = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    for parts in ([request], [request[:1], request[1:9], request[9:]]):
        data = await ask(address, *parts)
        assert data.startswith(b"HTTP/1.1 200")
        assert data.endswith(b"\r\n\r\nPUT /a body")


async def test_http1_answers_later_and_in_order(sockets: World) -> None:
    _, address = await sockets.serve(http1=answer_http1)
    data = await ask(
        address,
        b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert data.index(b"GET /later ") < data.index(b"GET /last ")


async def test_http1_handler_that_raises(sockets: World) -> None:
    _, address = await sockets.serve(http1=answer_http1)
    data = await ask(address, b"GET /crash HTTP/1.1\r\nHost: x\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 500")
    assert [type(error) for _, error in sockets.errors] == [KeyError]


async def test_http1_without_a_handler_is_cut_off(sockets: World) -> None:
    _, address = await sockets.serve()
    assert await ask(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""


async def test_idle_http1_connections_do_not_hold_up_a_drain(sockets: World) -> None:
    server, address = await sockets.serve(http1=answer_http1)
    assert isinstance(address, TcpAddress)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"GET / ")
    await server.drain(within=30)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_silent_connections_are_closed(sockets: World) -> None:
    _, address = await sockets.serve(replace(SERVER_LIMITS, handshake_timeout_s=0.01))
    assert await ask(address) == b""
    assert await ask(address, b"PR") == b""
    # The preface, but no settings: told why.
    assert b"no SETTINGS in time" in await ask(address, PREFACE)


async def test_silent_connections_do_not_hold_up_a_drain(sockets: World) -> None:
    server, address = await sockets.serve()
    assert isinstance(address, TcpAddress)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    await until(lambda: server.connection_count > 0)
    await server.drain(within=30)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_comes_as_the_server_closes_is_cut_off(
    sockets: World, turns: int
) -> None:
    server, address = await sockets.serve()
    assert isinstance(address, TcpAddress)
    # The kernel connects before anybody has accepted; in which turn that happens differs.
    with socket.create_connection((address.host, address.port)) as client:
        client.settimeout(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
        with contextlib.suppress(ConnectionResetError):
            assert (
                client.recv(1) == b""
            )  # and not BlockingIOError, which says that it is still open


async def test_unix_socket(sockets: World, tmp_path: Path) -> None:
    _, address = await sockets.serve(at=UnixAddress(str(tmp_path / "s")))
    channel = await sockets.connect(address)
    assert await channel.unary("/t.T/Echo", b"x", timeout=30) == b"x"


# --- TLS ---


class Certificates:
    """What both ends need, as files."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca = str(folder / "ca")
        self.authority.cert_pem.write_to_path(self.ca)
        self.server = self._issue(folder, "server", "localhost")
        self.client = self._issue(folder, "client", "client@example.org")

    def _issue(self, folder: Path, kind: str, name: str) -> tuple[str, str]:
        issued = self.authority.issue_cert(name)
        chain, key = str(folder / f"{kind}.pem"), str(folder / f"{kind}.key")
        issued.private_key_pem.write_to_path(key)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(chain, append=True)
        return chain, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def test_tls_carries_both_protocols(sockets: World, certificates: Certificates) -> None:
    context = server_context(*certificates.server, client_ca=certificates.ca)
    _, address = await sockets.serve(tls=context, http1=answer_http1)
    mine = client_context(certificates.ca, *certificates.client)
    channel = await sockets.connect(address, tls=mine, server_name="localhost")
    assert await channel.unary("/t.T/Echo", bytes(1 << 20), timeout=30) == bytes(1 << 20)
    sockets.release.set()
    await channel.unary("/t.T/Wait", b"", timeout=30)
    (peer,) = sockets.peers
    assert peer.tls
    assert "client@example.org" in str(peer.certificate)
    # No ALPN, and http/1.1 by ALPN: the first bytes decide.
    for protocols in ([], ["http/1.1"]):
        plain = ssl.create_default_context(cafile=certificates.ca)
        plain.set_alpn_protocols(protocols)
        data = await ask(
            address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", tls=plain
        )
        assert data.endswith(b"GET / ")


async def test_server_without_http2_by_alpn_is_refused(
    sockets: World, certificates: Certificates
) -> None:
    context = server_context(*certificates.server)
    context.set_alpn_protocols(["http/1.1"])
    _, address = await sockets.serve(tls=context, http1=answer_http1)
    with pytest.raises(RpcError) as caught:
        await sockets.connect(address, tls=client_context(certificates.ca), server_name="localhost")
    assert caught.value.message.endswith("the server does not speak HTTP/2")


async def test_required_client_certificate(sockets: World, certificates: Certificates) -> None:
    context = server_context(
        *certificates.server, client_ca=certificates.ca, require_client_cert=True
    )
    _, address = await sockets.serve(tls=context)
    with pytest.raises(RpcError) as caught:
        await sockets.connect(address, tls=client_context(certificates.ca), server_name="localhost")
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)
    with pytest.raises(RpcError):
        await sockets.connect(address)  # plain text on a TLS port


# --- the memory network ---


async def test_memory_network_addresses() -> None:
    net = MemoryNet()
    first = await net.listen(asyncio.Protocol, LOOPBACK)
    second = await net.listen(asyncio.Protocol, LOOPBACK)
    assert first.addresses != second.addresses
    with pytest.raises(OSError, match="already"):
        await net.listen(asyncio.Protocol, first.addresses[0])
    first.close()
    first.close()
    with pytest.raises(ConnectionRefusedError):
        await net.connect(asyncio.Protocol, first.addresses[0])
    await net.listen(asyncio.Protocol, first.addresses[0])
    with pytest.raises(ConnectionRefusedError):
        await MemoryNet().connect(asyncio.Protocol, second.addresses[0])
    with pytest.raises(ValueError, match="TLS"):
        await net.connect(asyncio.Protocol, second.addresses[0], tls=ssl.create_default_context())


class Pipe(asyncio.Protocol):
    """Writes down what happens to it."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.transport: asyncio.BaseTransport | None = None
        self.lost = asyncio.Event()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        self.events.append(data)

    @override
    def eof_received(self) -> bool | None:
        self.events.append("eof")
        return None

    @override
    def pause_writing(self) -> None:
        self.events.append("pause")

    @override
    def resume_writing(self) -> None:
        self.events.append("resume")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(("lost", type(exc)))
        self.lost.set()


async def pipe() -> tuple[Pipe, Pipe, asyncio.Transport, asyncio.Transport]:
    net = MemoryNet()
    far = Pipe()
    listener = await net.listen(lambda: far, LOOPBACK)
    near = Pipe()
    mine, _ = await net.connect(lambda: near, listener.addresses[0])
    assert isinstance(far.transport, asyncio.Transport)
    return near, far, mine, far.transport


async def test_memory_transport_has_flow_control() -> None:
    near, far, mine, theirs = await pipe()
    theirs.pause_reading()
    mine.set_write_buffer_limits(high=100)
    mine.write(bytes(60))
    mine.write(bytes(60))
    await asyncio.sleep(0)
    assert (near.events, far.events) == (["pause"], [])
    assert mine.get_write_buffer_size() == 120
    theirs.resume_reading()
    await asyncio.sleep(0)
    assert (near.events, far.events) == (["pause", "resume"], [bytes(120)])
    mine.close()
    await near.lost.wait()


async def test_memory_transport_delivers_before_it_closes() -> None:
    near, far, mine, theirs = await pipe()
    mine.write(b"last words")
    mine.close()
    mine.write(b"ignored")
    await near.lost.wait()
    await far.lost.wait()
    assert near.events == [("lost", type(None))]
    assert far.events == [b"last words", "eof", ("lost", type(None))]
    assert mine.is_closing()
    assert theirs.is_closing()


async def test_memory_transport_aborts() -> None:
    near, far, mine, _ = await pipe()
    mine.write(b"lost")
    mine.abort()
    await near.lost.wait()
    await far.lost.wait()
    assert near.events == [("lost", type(None))]
    assert far.events == [("lost", ConnectionResetError)]
