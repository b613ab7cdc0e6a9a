"""Our client against a grpcio server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme

from coord.rpc import CLIENT_LIMITS, Channel, ClientStream, Limits, RpcError, StatusCode
from coord.rpc.tls import client_context
from coord.runtime import Address, TcpAddress, UnixAddress, real_env

LARGE = 20 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", LARGE),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
)
TEXT = "naïve € \U0001f512 100% \\ \t end"
BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[Any, Any]


class Service:
    """Methods of every kind, and what happened to them."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()
        self.requests_ended = asyncio.Event()
        self.time_left: float | None = None

    def handlers(self) -> grpc.GenericRpcHandler:
        unary = grpc.unary_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            "t.T",
            {
                "Echo": unary(self.echo),
                "Metadata": unary(self.metadata),
                "Fail": unary(self.fail),
                "Wait": unary(self.wait),
                "Bidi": grpc.stream_stream_rpc_method_handler(self.bidi),
                "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
            },
        )

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def metadata(self, request: bytes, context: Context) -> bytes:
        given = [
            (key, value)
            for key, value in context.invocation_metadata() or ()
            if key.startswith("x-")
        ]
        await context.send_initial_metadata(given)
        context.set_trailing_metadata((("x-trailer", "t"), ("x-trailer-bin", b"\xff\x00")))
        return repr(given).encode()

    async def fail(self, request: bytes, context: Context) -> bytes:
        code, _, text = request.partition(b" ")
        await context.abort(BY_NUMBER[int(code)], text.decode(), (("x-why", "so"),))

    async def wait(self, request: bytes, context: Context) -> bytes:
        self.time_left = context.time_remaining()
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def bidi(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        self.started.set()
        try:
            async for request in requests:
                yield request
        finally:
            self.requests_ended.set()  # by a half-close, or by a reset in one of several ways

    async def collect(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def count(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        size, count = map(int, request.split())
        for _ in range(count):
            yield bytes(size)


Serve = Callable[..., Awaitable[tuple[grpc.aio.Server, int]]]
Connect = Callable[..., Awaitable[Channel]]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def serve(service: Service) -> AsyncIterator[Serve]:
    servers: list[grpc.aio.Server] = []

    async def start(
        target: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        options: tuple[tuple[str, Any], ...] = (),
    ) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=(*OPTIONS, *options))
        server.add_generic_rpc_handlers((service.handlers(),))
        if credentials is None:
            port = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, credentials)
        await server.start()
        servers.append(server)
        return server, port

    yield start
    for server in servers:
        await server.stop(None)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    channels: list[Channel] = []

    async def open_channel(
        port: int,
        limits: Limits = CLIENT_LIMITS,
        *,
        at: Address | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        on_closed: Callable[[RpcError], None] | None = None,
    ) -> Channel:
        channel = Channel(
            at or TcpAddress("127.0.0.1", port),
            env=real_env(),
            authority="localhost",
            limits=limits,
            tls=tls,
            server_name=server_name,
            on_closed=on_closed,
        )
        channels.append(channel)
        await channel.connect(timeout=10)
        return channel

    yield open_channel
    for channel in channels:
        await channel.close()


@pytest.fixture
async def channel(serve: Serve, connect: Connect) -> Channel:
    _, port = await serve()
    return await connect(port)


async def drained(stream: ClientStream) -> list[bytes]:
    messages: list[bytes] = []
    while (message := await stream.receive()) is not None:
        messages.append(message)
    return messages


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 70_000, LARGE])
async def test_unary(channel: Channel, size: int) -> None:
    assert await channel.unary("/t.T/Echo", bytes(size), timeout=30) == bytes(size)


async def test_many_at_once(channel: Channel) -> None:
    async def call(number: int) -> None:
        request = b"%d" % number * (number % 50)
        assert await channel.unary("/t.T/Echo", request, timeout=30) == request

    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(call(number))
    assert channel.open_calls == 0


async def test_bidirectional(channel: Channel) -> None:
    stream = channel.open_stream("/t.T/Bidi", timeout=30)
    for size in (0, 5, 100_000, 3 << 20):
        stream.send(bytes(size))
        await stream.drain()
        assert await stream.receive() == bytes(size)
    stream.half_close()
    assert await stream.receive() is None
    assert await stream.receive() is None


async def test_client_streaming(channel: Channel) -> None:
    stream = channel.open_stream("/t.T/Collect", timeout=30)
    for _ in range(100):
        stream.send(bytes(50_000))
        await stream.drain()
        assert stream.unsent_bytes < CLIENT_LIMITS.low_water_bytes
    stream.half_close()
    assert await drained(stream) == [b"5000000"]


async def test_server_streaming(serve: Serve, connect: Connect) -> None:
    _, port = await serve()
    limits = replace(CLIENT_LIMITS, stream_window_bytes=65_535, connection_window_bytes=65_535)
    channel = await connect(port, limits)
    stream = channel.open_stream("/t.T/Count", timeout=30)
    stream.send(b"50000 100")
    stream.half_close()
    assert [len(message) for message in await drained(stream)] == [50_000] * 100


async def test_slow_reader_holds_no_more_than_its_window(serve: Serve, connect: Connect) -> None:
    _, port = await serve()
    limits = replace(CLIENT_LIMITS, stream_window_bytes=100_000)
    channel = await connect(port, limits)
    stream = channel.open_stream("/t.T/Count", timeout=30)
    stream.send(b"10000 500")
    stream.half_close()
    assert await stream.receive() == bytes(10_000)
    # Another call goes through meanwhile: only this stream's window is shut.
    for _ in range(50):
        await channel.unary("/t.T/Echo", b"", timeout=30)
    assert sum(len(message) for message in stream.inbox) <= 100_000
    assert len(await drained(stream)) == 499


async def test_cancelled_unary(channel: Channel, service: Service) -> None:
    task = asyncio.ensure_future(channel.unary("/t.T/Wait", b"", timeout=30))
    await service.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await service.cancelled.wait()
    assert channel.open_calls == 0
    assert await channel.unary("/t.T/Echo", b"on", timeout=30) == b"on"


async def test_cancelled_stream(channel: Channel, service: Service) -> None:
    stream = channel.open_stream("/t.T/Bidi", timeout=30)
    stream.send(b"x")
    assert await stream.receive() == b"x"
    stream.cancel()
    with pytest.raises(RpcError) as caught:
        await stream.receive()
    assert caught.value.code is StatusCode.CANCELLED
    await service.requests_ended.wait()


async def test_deadline(channel: Channel, service: Service) -> None:
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t.T/Wait", b"", timeout=0.3)
    assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
    assert caught.value.sent
    await service.cancelled.wait()
    assert service.time_left is not None
    assert 0 < service.time_left <= 0.31


async def test_metadata(channel: Channel) -> None:
    given = (("x-text", "a, b"), ("x-text", "twice"), ("x-raw-bin", b"\0\xff,"))
    assert await channel.unary("/t.T/Metadata", b"", metadata=given) == repr(list(given)).encode()
    stream = channel.open_stream("/t.T/Metadata", metadata=given)
    stream.send(b"")
    stream.half_close()
    await drained(stream)
    assert tuple(pair for pair in stream.initial_metadata if pair[0][:2] == "x-") == given
    assert stream.trailing_metadata == (("x-trailer", "t"), ("x-trailer-bin", b"\xff\x00"))


@pytest.mark.parametrize("code", [code for code in StatusCode if code])
async def test_errors(channel: Channel, code: StatusCode) -> None:
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t.T/Fail", b"%d %s" % (code, TEXT.encode()), timeout=30)
    assert (caught.value.code, caught.value.message) == (code, TEXT)
    assert caught.value.sent
    assert ("x-why", "so") in caught.value.trailers


async def test_unknown_method(channel: Channel) -> None:
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t.T/None", b"", timeout=30)
    assert caught.value.code is StatusCode.UNIMPLEMENTED


async def test_bounds_of_messages(serve: Serve, connect: Connect) -> None:
    _, port = await serve()
    channel = await connect(port, replace(CLIENT_LIMITS, max_receive_bytes=1000))
    assert await channel.unary("/t.T/Echo", bytes(1000), timeout=30) == bytes(1000)
    for size in (1001, 1 << 20):
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t.T/Echo", bytes(size), timeout=30)
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        text = f"grpc: received message larger than max ({size} vs. 1000)"
        assert caught.value.message == text
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t.T/Echo", bytes(LARGE + 1), timeout=30)
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_compressed_answers_are_refused(connect: Connect, service: Service) -> None:
    server = grpc.aio.server(options=OPTIONS, compression=grpc.Compression.Gzip)
    server.add_generic_rpc_handlers((service.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        channel = await connect(port)
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t.T/Echo", bytes(5000), timeout=30)
        assert caught.value.code is StatusCode.INTERNAL
        assert await channel.unary("/t.T/Echo", b"", timeout=30) == b""
    finally:
        await server.stop(None)


async def test_calls_beyond_the_limit_wait(
    serve: Serve, connect: Connect, service: Service
) -> None:
    _, port = await serve(options=(("grpc.max_concurrent_streams", 2),))
    channel = await connect(port)

    async def call(number: int) -> bytes:
        while True:
            try:
                return await channel.unary("/t.T/Wait", b"%d" % number, timeout=30)
            except RpcError as error:
                # grpcio may count a call that it has answered, and refuse the next one.
                if error.sent:
                    raise

    calls = [asyncio.ensure_future(call(number)) for number in range(5)]
    await service.started.wait()
    service.release.set()
    assert [await call for call in calls] == [b"0", b"1", b"2", b"3", b"4"]


async def test_server_drains(serve: Serve, connect: Connect, service: Service) -> None:
    server, port = await serve()
    ended: asyncio.Future[RpcError] = asyncio.get_running_loop().create_future()
    channel = await connect(port, on_closed=ended.set_result)
    running = asyncio.ensure_future(channel.unary("/t.T/Wait", b"x", timeout=30))
    await service.started.wait()
    stop = asyncio.ensure_future(server.stop(30))
    while channel.ready:
        with contextlib.suppress(RpcError):  # grpcio cancels some that come before its GOAWAY
            await channel.unary("/t.T/Echo", b"", timeout=30)
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t.T/Echo", b"", timeout=30)
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)
    service.release.set()
    assert await running == b"x"
    error = await ended
    assert error.code is StatusCode.UNAVAILABLE
    await stop


async def test_server_dies(serve: Serve, connect: Connect, service: Service) -> None:
    server, port = await serve()
    ended: asyncio.Future[RpcError] = asyncio.get_running_loop().create_future()
    channel = await connect(port, on_closed=ended.set_result)
    stream = channel.open_stream("/t.T/Bidi")
    running = asyncio.ensure_future(channel.unary("/t.T/Wait", b"x", timeout=30))
    await service.started.wait()
    await server.stop(None)
    with pytest.raises(RpcError) as caught:
        await running
    assert caught.value.sent
    with pytest.raises(RpcError):
        await stream.receive()
    await ended
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t.T/Echo", b"", timeout=30)
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)


async def test_unix_socket(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    await serve(f"unix:{path}")
    channel = await connect(0, at=UnixAddress(path))
    assert await channel.unary("/t.T/Echo", b"x", timeout=30) == b"x"


async def test_tls(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    _, port = await serve(credentials=grpc.ssl_server_credentials([pair]))
    ca = tmp_path / "ca"
    authority.cert_pem.write_to_path(str(ca))
    context = client_context(str(ca))
    channel = await connect(port, tls=context, server_name="localhost")
    assert await channel.unary("/t.T/Echo", bytes(3 << 20), timeout=30) == bytes(3 << 20)
    with pytest.raises(RpcError) as caught:
        await connect(port, tls=context, server_name="example.org")
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)
    with pytest.raises(RpcError):
        await connect(port, tls=client_context(), server_name="localhost")
    with pytest.raises(RpcError):
        await connect(port)  # plain text on a TLS port
