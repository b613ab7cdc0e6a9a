"""Our server under the grpcio client, asynchronous and blocking."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest
import trustme

from coord.rpc import (
    SERVER_LIMITS,
    AsyncCall,
    Limits,
    Method,
    Registry,
    RequestHead,
    RpcError,
    RpcServer,
    ServerConnection,
    ServerStream,
    StatusCode,
    async_stream,
    async_unary,
)
from coord.rpc.tls import server_context
from coord.runtime import Address, TcpAddress, UnixAddress, real_env

# Loosely, as the stubs ask for serializers that are optional.
AnyChannel: TypeAlias = Any

LOOPBACK = TcpAddress("127.0.0.1", 0)
LARGE = 20 << 20
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)
TEXT = "naïve € \U0001f512 100% \\ \t end"


class Service:
    """Methods of every kind, and what happened to them."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.closed = asyncio.Event()
        self.time_left: float | None = None

    def methods(self) -> list[Method]:
        return [
            Method("/t.T/Echo", unary=lambda conn, stream_id, head, message: message),
            Method("/t.T/Deferred", unary=self.deferred),
            Method("/t.T/Callbacks", stream=self.callbacks),
            async_unary("/t.T/Async", self.echo),
            async_unary("/t.T/Metadata", self.metadata),
            async_unary("/t.T/Fail", self.fail),
            async_unary("/t.T/Wait", self.wait),
            async_stream("/t.T/Bidi", self.bidi),
            async_stream("/t.T/Collect", self.collect),
            async_stream("/t.T/Count", self.count),
            async_stream("/t.T/WaitStream", self.wait_stream),
        ]

    def deferred(
        self, conn: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> None:
        asyncio.get_running_loop().call_soon(conn.respond, stream_id, message)

    def callbacks(self, stream: ServerStream) -> None:
        stream.on_message = stream.send
        stream.on_half_close = stream.finish
        stream.on_closed = self.closed.set

    async def echo(self, call: AsyncCall, request: bytes) -> bytes:
        return request

    async def metadata(self, call: AsyncCall, request: bytes) -> bytes:
        given = tuple(pair for pair in call.head.metadata if pair[0].startswith("x-"))
        call.send_headers(given)
        call.set_trailers((("x-trailer", "t"), ("x-trailer-bin", b"\xff\x00")))
        return repr(given).encode()

    async def fail(self, call: AsyncCall, request: bytes) -> bytes:
        code, _, text = request.partition(b" ")
        raise RpcError(StatusCode(int(code)), text.decode(), trailers=(("x-why", "so"),))

    async def wait(self, call: AsyncCall, request: bytes) -> bytes:
        self.time_left = call.time_left()
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def wait_stream(self, call: AsyncCall) -> None:
        await call.send(b"ready")
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await call.send(b"done")

    async def bidi(self, call: AsyncCall) -> None:
        while (message := await call.receive()) is not None:
            await call.send(message)

    async def collect(self, call: AsyncCall) -> None:
        sizes = 0
        while (message := await call.receive()) is not None:
            sizes += len(message)
        await call.send(b"%d" % sizes)

    async def count(self, call: AsyncCall) -> None:
        size, count = map(int, (await call.receive() or b"").split())
        for _ in range(count):
            await call.send(bytes(size))


Serve = Callable[..., Awaitable[tuple[RpcServer, str]]]


def plain(target: str) -> AnyChannel:
    return grpc.aio.insecure_channel(target, options=OPTIONS)


def secure(target: str, credentials: grpc.ChannelCredentials) -> AnyChannel:
    return grpc.aio.secure_channel(target, credentials, options=OPTIONS)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def serve(service: Service) -> AsyncIterator[Serve]:
    servers: list[RpcServer] = []
    errors: list[tuple[str, BaseException]] = []

    async def start(
        limits: Limits = SERVER_LIMITS,
        at: Address = LOOPBACK,
        tls: ssl.SSLContext | None = None,
    ) -> tuple[RpcServer, str]:
        server = RpcServer(
            Registry(service.methods()),
            env=real_env(),
            limits=limits,
            on_error=lambda what, error: errors.append((what, error)),
        )
        servers.append(server)
        address = await server.listen(at, tls=tls)
        return server, str(address)

    yield start
    for server in servers:
        await server.close()
    assert errors == []


@pytest.fixture
async def channel(serve: Serve) -> AsyncIterator[AnyChannel]:
    _, target = await serve(replace(SERVER_LIMITS, max_receive_bytes=LARGE))
    async with plain(target) as channel:
        yield channel


def failed(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str | None]:
    return error.code(), error.details()


UNARY = ["/t.T/Echo", "/t.T/Deferred", "/t.T/Async"]


@pytest.mark.parametrize("path", UNARY)
@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 70_000, LARGE])
async def test_unary(channel: AnyChannel, path: str, size: int) -> None:
    request = bytes(size)
    assert await channel.unary_unary(path)(request, timeout=30) == request


async def test_many_at_once(channel: AnyChannel) -> None:
    async def call(number: int) -> None:
        request = b"%d" % number * (number % 50)
        path = UNARY[number % 3]
        assert await channel.unary_unary(path)(request, timeout=30) == request

    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(call(number))


@pytest.mark.parametrize("path", ["/t.T/Bidi", "/t.T/Callbacks"])
async def test_bidirectional(channel: AnyChannel, path: str) -> None:
    call = channel.stream_stream(path)(timeout=30)
    for size in (0, 5, 100_000, 3 << 20):
        await call.write(bytes(size))
        assert await call.read() == bytes(size)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_client_streaming(channel: AnyChannel) -> None:
    requests = [bytes(50_000)] * 100
    assert await channel.stream_unary("/t.T/Collect")(iter(requests), timeout=30) == b"5000000"


async def test_server_streaming(channel: AnyChannel) -> None:
    call = channel.unary_stream("/t.T/Count")(b"50000 100", timeout=30)
    assert [len(message) async for message in call] == [50_000] * 100


@pytest.mark.parametrize("path", ["/t.T/Wait", "/t.T/WaitStream"])
async def test_client_cancels(channel: AnyChannel, service: Service, path: str) -> None:
    call = channel.unary_stream(path)(b"", timeout=30)
    await service.started.wait()
    call.cancel()
    await service.cancelled.wait()
    assert await channel.unary_unary("/t.T/Echo")(b"on", timeout=30) == b"on"


async def test_client_cancels_callbacks(channel: AnyChannel, service: Service) -> None:
    call = channel.stream_stream("/t.T/Callbacks")(timeout=30)
    await call.write(b"x")
    assert await call.read() == b"x"
    call.cancel()
    await service.closed.wait()


async def test_deadline(channel: AnyChannel, service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/t.T/Wait")(b"", timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await service.cancelled.wait()
    assert service.time_left is not None
    assert 0 < service.time_left <= 0.31  # as the header said, rounded up to milliseconds


async def test_call_without_deadline(channel: AnyChannel, service: Service) -> None:
    service.release.set()
    assert await channel.unary_unary("/t.T/Wait")(b"x") == b"x"
    assert service.time_left is None


async def test_metadata(channel: AnyChannel) -> None:
    given = (("x-text", "a, b"), ("x-text", "twice"), ("x-raw-bin", b"\0\xff,"))
    call = channel.unary_unary("/t.T/Metadata")(b"", metadata=given, timeout=30)
    assert await call == repr(given).encode()
    initial = await call.initial_metadata()
    trailing = await call.trailing_metadata()
    assert tuple(initial) == given
    assert tuple(trailing) == (("x-trailer", "t"), ("x-trailer-bin", b"\xff\x00"))


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
async def test_errors(channel: AnyChannel, code: grpc.StatusCode) -> None:
    request = b"%d %s" % (code.value[0], TEXT.encode())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/t.T/Fail")(request, timeout=30)
    assert failed(caught.value) == (code, TEXT)
    assert tuple(caught.value.trailing_metadata()) == (("x-why", "so"),)


async def test_unknown_method(channel: AnyChannel) -> None:
    for path, text in (
        ("/t.T/None", "unknown method None for service t.T"),
        ("/x.X/None", "unknown service x.X"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"", timeout=30)
        assert failed(caught.value) == (grpc.StatusCode.UNIMPLEMENTED, text)


@pytest.mark.parametrize("path", [*UNARY, "/t.T/Bidi"])
async def test_message_beyond_the_bound(serve: Serve, path: str) -> None:
    _, target = await serve(replace(SERVER_LIMITS, max_receive_bytes=1000))
    async with plain(target) as channel:
        call = channel.unary_unary(path)
        assert await call(bytes(1000), timeout=30) == bytes(1000)
        for size in (1001, 1 << 20):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(bytes(size), timeout=30)
            assert failed(caught.value) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"grpc: received message larger than max ({size} vs. 1000)",
            )


async def test_compressed_requests_are_refused(channel: AnyChannel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/t.T/Echo")(
            bytes(1000), timeout=30, compression=grpc.Compression.Gzip
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_beyond_the_limit_wait(serve: Serve, service: Service) -> None:
    _, target = await serve(replace(SERVER_LIMITS, max_concurrent_streams=2))
    async with plain(target) as channel:
        call = channel.unary_unary("/t.T/Wait")
        calls = [call(b"%d" % number, timeout=30) for number in range(5)]
        await service.started.wait()
        service.release.set()
        assert [await one for one in calls] == [b"0", b"1", b"2", b"3", b"4"]


async def until_it_fails(channel: AnyChannel) -> None:
    while True:
        await channel.unary_unary("/t.T/Echo")(b"", timeout=30)


async def test_drain(serve: Serve, service: Service) -> None:
    server, target = await serve()
    async with plain(target) as channel:
        running = channel.unary_unary("/t.T/Wait")(b"x", timeout=30)
        await service.started.wait()
        assert server.connection_count == 1
        drain = asyncio.ensure_future(server.drain(within=30))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await until_it_fails(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not drain.done()
        service.release.set()
        assert await running == b"x"
        await drain
        assert server.connection_count == 0


async def test_drain_that_takes_too_long(serve: Serve, service: Service) -> None:
    server, target = await serve()
    async with plain(target) as channel:
        running = channel.unary_unary("/t.T/Wait")(b"x", timeout=30)
        await service.started.wait()
        await server.drain(within=0.01)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert service.cancelled.is_set()


async def test_unix_socket(serve: Serve, tmp_path: Path) -> None:
    _, target = await serve(at=UnixAddress(str(tmp_path / "s")))
    async with plain(target) as channel:
        assert await channel.unary_unary("/t.T/Echo")(b"x", timeout=30) == b"x"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_tls(serve: Serve, authority: trustme.CA, tmp_path: Path) -> None:
    chain, key, ca = (str(tmp_path / name) for name in ("chain", "key", "ca"))
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(key)
    for pem in issued.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    authority.cert_pem.write_to_path(ca)
    context = server_context(chain, key, client_ca=ca, require_client_cert=True)
    _, target = await serve(tls=context)
    mine = authority.issue_cert("client@example.org")
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        mine.private_key_pem.bytes(),
        mine.cert_chain_pems[0].bytes(),
    )
    async with secure(target, credentials) as channel:
        large = bytes(3 << 20)
        assert await channel.unary_unary("/t.T/Echo")(large, timeout=30) == large
    anonymous = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    async with secure(target, anonymous) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/Echo")(b"", timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def _blocking_session(target: str) -> None:
    """Everything once with the blocking client, in a thread of its own."""
    opened: AnyChannel = grpc.insecure_channel(target, options=OPTIONS)
    with opened as channel:
        assert channel.unary_unary("/t.T/Echo")(b"x", timeout=30) == b"x"
        assert channel.unary_unary("/t.T/Async")(bytes(100_000), timeout=30) == bytes(100_000)
        messages = [b"", b"a", bytes(70_000)]
        assert list(channel.stream_stream("/t.T/Bidi")(iter(messages), timeout=30)) == messages
        assert channel.stream_unary("/t.T/Collect")(iter(messages), timeout=30) == b"70001"
        call = channel.unary_stream("/t.T/Count")(b"3 4", timeout=30)
        assert list(call) == [bytes(3)] * 4
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t.T/Fail")(b"5 no", timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        stream = channel.unary_stream("/t.T/WaitStream")(b"", timeout=30)
        assert next(stream) == b"ready"
        stream.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.CANCELLED


async def test_blocking_client(serve: Serve, service: Service) -> None:
    _, target = await serve()
    await asyncio.to_thread(_blocking_session, target)
    await service.cancelled.wait()
