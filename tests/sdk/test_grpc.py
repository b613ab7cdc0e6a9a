"""gRPC over discovered instances, and gRPC servers that list themselves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import operator
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health_pb2,
    health_pb2_grpc,
)

import coord
import coord.grpc

WITHIN_S = 20.0
ECHO, FAIL, SLOW, COUNT, SUM, CHAT = (
    f"/test.Echo/{name}" for name in ("Echo", "Fail", "Slow", "Count", "Sum", "Chat")
)


Context = grpc.aio.ServicerContext


class Server:
    """A gRPC server that says who it is."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.calls: Counter[str] = Counter()
        self.fails_with: grpc.StatusCode | None = None
        self.release = asyncio.Event()
        self.server = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Slow": grpc.unary_unary_rpc_method_handler(self.slow),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }
        generic = grpc.method_handlers_generic_handler("test.Echo", handlers)
        self.server.add_generic_rpc_handlers((generic,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.addr = f"127.0.0.1:{self.port}"

    async def echo(self, request: bytes, context: Context[bytes, bytes]) -> bytes:
        self.calls["Echo"] += 1
        if self.fails_with is not None:
            await context.abort(self.fails_with, "told to")
        return self.name

    async def slow(self, request: bytes, context: Context[bytes, bytes]) -> bytes:
        self.calls["Slow"] += 1
        await self.release.wait()
        return self.name

    async def count(self, request: bytes, context: Context[bytes, bytes]) -> AsyncIterator[bytes]:
        self.calls["Count"] += 1
        for number in range(3):
            yield self.name + str(number).encode()

    async def sum(self, requests: AsyncIterator[bytes], context: Context[bytes, bytes]) -> bytes:
        self.calls["Sum"] += 1
        return b"".join([request async for request in requests])

    async def chat(
        self, requests: AsyncIterator[bytes], context: Context[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        self.calls["Chat"] += 1
        async for request in requests:
            yield request.upper()


@pytest.fixture(params=["thread", "inline"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime=request.param) as made:
        yield made


@contextlib.asynccontextmanager
async def serving(
    client: coord.Client,
    *names: str,
    **options: Any,  # noqa: ANN401 - handed on
) -> AsyncGenerator[tuple[list[Server], coord.ServiceView]]:
    """Servers, listed, and a view of them."""
    registry = client.registry("echo")
    servers = [Server(name) for name in names]
    async with contextlib.AsyncExitStack() as stack:
        view = await stack.enter_async_context(registry.discover(**options))
        for server in servers:
            opening = registry.register(server.addr, id=server.name.decode())
            await stack.enter_async_context(
                coord.grpc.register(server.server, opening, drain=0, grace=0)
            )
        await view.wait_for(len(names), timeout=WITHIN_S)
        yield servers, view


async def call(channel: grpc.aio.Channel) -> bytes:
    untyped: Any = channel
    answer: bytes = await untyped.unary_unary(ECHO)(b"", timeout=WITHIN_S)
    return answer


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_calls_go_round(client: coord.Client) -> None:
    async with (
        serving(client, "a", "b", "c") as (_, view),
        coord.grpc.balanced_channel(view) as channel,
    ):
        echo = channel.unary_unary(ECHO)
        answers = Counter([await echo(b"x", timeout=WITHIN_S) for _ in range(9)])
        assert answers == {b"a": 3, b"b": 3, b"c": 3}
        call = echo(b"x", timeout=WITHIN_S)
        done: list[object] = []
        call.add_done_callback(done.append)
        assert await call.code() is grpc.StatusCode.OK
        assert await call in {b"a", b"b", b"c"}
        assert await call.details() == ""
        assert call.done()
        assert not call.cancelled()
        assert dict(await call.trailing_metadata() or ()) == {}
        assert isinstance(await call.initial_metadata(), grpc.aio.Metadata)
        await until(lambda: done == [call])
        remaining = call.time_remaining()
        assert remaining is not None
        assert 0 < remaining < WITHIN_S


async def test_streams_go_to_one_instance_each(client: coord.Client) -> None:
    async with (
        serving(client, "a", "b") as (_, view),
        coord.grpc.balanced_channel(view) as channel,
    ):
        seen = {
            tuple([answer async for answer in channel.unary_stream(COUNT)(b"")]) for _ in range(4)
        }
        assert seen == {(b"a0", b"a1", b"a2"), (b"b0", b"b1", b"b2")}
        assert await channel.stream_unary(SUM)(iter([b"1", b"2"])) == b"12"
        chat = channel.stream_stream(CHAT)()
        await chat.write(b"x")
        assert await chat.read() == b"X"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF


async def test_generated_stubs_work_over_it(client: coord.Client) -> None:
    registry = client.registry("echo")
    server = Server("a")
    opening = registry.register(server.addr)
    async with (
        coord.grpc.register(server.server, opening, drain=0, health_services=("test.Echo",)),
        registry.discover() as view,
        coord.grpc.balanced_channel(view) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "test.Echo"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_was_not_sent_goes_to_another(client: coord.Client) -> None:
    async with serving(client, "a") as (_, view):
        registry = client.registry("echo")
        # Nobody listens there.
        async with (
            registry.register("127.0.0.1:1", id="dead"),
            coord.grpc.balanced_channel(view) as channel,
        ):
            await view.wait_for(2, timeout=WITHIN_S)
            for _ in range(20):
                assert await channel.unary_unary(ECHO)(b"", timeout=WITHIN_S) == b"a"
            # After five failures nobody tries it any more.
            assert {view.pick().id for _ in range(4)} == {"a"}


async def test_only_idempotent_calls_are_sent_again(client: coord.Client) -> None:
    async with (
        serving(client, "bad", "good") as (servers, view),
        coord.grpc.balanced_channel(view) as once,
        coord.grpc.balanced_channel(view, idempotent={ECHO}) as again,
    ):
        bad, good = servers
        bad.fails_with = grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError, match="told to") as caught:
            for _ in range(2):
                await once.unary_unary(ECHO)(b"", timeout=WITHIN_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert bad.calls["Echo"] == 1
        answers = [await again.unary_unary(ECHO)(b"", timeout=WITHIN_S) for _ in range(4)]
        assert answers == [b"good"] * 4
        assert bad.calls["Echo"] > 1
        # Other errors are the caller's business.
        good.fails_with = bad.fails_with = grpc.StatusCode.NOT_FOUND
        before = bad.calls["Echo"] + good.calls["Echo"]
        call = again.unary_unary(ECHO)(b"", timeout=WITHIN_S)
        assert await call.code() is grpc.StatusCode.NOT_FOUND
        assert await call.details() == "told to"
        assert isinstance(await call.initial_metadata(), grpc.aio.Metadata)
        assert isinstance(await call.trailing_metadata(), grpc.aio.Metadata)
        assert bad.calls["Echo"] + good.calls["Echo"] == before + 1
        # All of them fail: the last error is told, after so many attempts.
        good.fails_with = bad.fails_with = grpc.StatusCode.UNAVAILABLE
        before = bad.calls["Echo"] + good.calls["Echo"]
        with pytest.raises(grpc.aio.AioRpcError, match="told to"):
            await again.unary_unary(ECHO)(b"", timeout=WITHIN_S)
        assert bad.calls["Echo"] + good.calls["Echo"] == before + 3


async def test_without_an_instance_calls_are_unavailable_or_wait(client: coord.Client) -> None:
    registry = client.registry("echo")
    async with registry.discover() as view, coord.grpc.balanced_channel(view) as channel:
        echo = channel.unary_unary(ECHO)
        with pytest.raises(grpc.aio.AioRpcError, match="no instance") as caught:
            await echo(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            channel.unary_stream(COUNT)(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await echo(b"", timeout=0.05, wait_for_ready=True)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        waiting = echo(b"", timeout=WITHIN_S, wait_for_ready=True)
        ready = asyncio.ensure_future(channel.channel_ready())
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        changed = asyncio.ensure_future(
            channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE)
        )
        server = Server("late")
        async with coord.grpc.register(server.server, registry.register(server.addr), drain=0):
            assert await waiting == b"late"
            await waiting.wait_for_connection()
            await asyncio.wait_for(ready, WITHIN_S)
            await asyncio.wait_for(changed, WITHIN_S)
            assert channel.get_state(True) is grpc.ChannelConnectivity.READY
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
    with pytest.raises(grpc.aio.UsageError):
        await echo(b"")


async def test_deadlines_and_cancellations_reach_the_server_and_the_view(
    client: coord.Client,
) -> None:
    async with (
        serving(client, "a", strategy="least_loaded") as ((server,), view),
        coord.grpc.balanced_channel(view, idempotent=lambda _: True) as channel,
    ):
        slow = channel.unary_unary(SLOW)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await slow(b"", timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = slow(b"")
        await until(lambda: server.calls["Slow"] == 2)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        waiting = asyncio.ensure_future(_await(slow(b"")))
        await until(lambda: server.calls["Slow"] == 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # Every pick has had its report, streams too.
        async for _ in channel.unary_stream(COUNT)(b""):
            pass
        strategy: Any = view._strategy
        await until(lambda: [len(calls) for calls in strategy._under_way.values()] == [0])
        server.release.set()


async def _await(made: Awaitable[object]) -> object:
    return await made


async def test_a_running_call_ends_on_an_instance_that_has_gone(client: coord.Client) -> None:
    registry = client.registry("echo")
    old, new = Server("old"), Server("new")
    await old.server.start()
    await new.server.start()
    async with registry.discover() as view, coord.grpc.balanced_channel(view) as channel:
        first = await registry.register(old.addr)
        await view.wait_for(1, timeout=WITHIN_S)
        call = channel.unary_unary(SLOW)(b"", timeout=WITHIN_S)
        await until(lambda: old.calls["Slow"] == 1)
        await first.deregister()
        async with registry.register(new.addr):
            await until(lambda: [each.addr for each in view.instances()] == [new.addr])
            assert await channel.unary_unary(ECHO)(b"", timeout=WITHIN_S) == b"new"
            assert list(channel._channels) == [new.addr]
            old.release.set()
            assert await call == b"old"
    await old.server.stop(None)
    await new.server.stop(None)


def key_of(method: str, metadata: object) -> str:
    return "x"


async def test_keys_and_named_endpoints(client: coord.Client) -> None:
    registry = client.registry("echo")
    servers = [Server(name) for name in "abc"]
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await server.server.start()
            stack.push_async_callback(server.server.stop, None)
            named = {"grpc": server.addr}
            opening = registry.register(f"{server.name.decode()}:80", endpoints=named)
            await stack.enter_async_context(opening)
        view = await stack.enter_async_context(registry.discover(strategy="sticky"))
        channel = coord.grpc.balanced_channel(
            view, endpoint="grpc", key=lambda _, metadata: dict(metadata).get("user")
        )
        await stack.enter_async_context(channel)
        echo = channel.unary_unary(ECHO)
        homes: dict[str, bytes] = {}
        for _ in range(3):
            for user in map(str, range(12)):
                answer = await echo(b"", metadata=(("user", user),), timeout=WITHIN_S)
                assert homes.setdefault(user, answer) == answer
        assert len(set(homes.values())) == 3
        missing = coord.grpc.balanced_channel(view, endpoint="admin", key=key_of)
        async with missing:
            with pytest.raises(grpc.aio.AioRpcError, match="no endpoint admin"):
                await missing.unary_unary(ECHO)(b"")


async def test_a_rolling_restart_fails_no_idempotent_call(client: coord.Client) -> None:
    registry = client.registry("echo")
    stop = asyncio.Event()
    answered: Counter[bytes] = Counter()

    async def live(server: Server, until_told: asyncio.Event, listed: asyncio.Event) -> None:
        opening = registry.register(server.addr)
        async with coord.grpc.register(server.server, opening, drain=0.1, grace=5):
            listed.set()
            await until_told.wait()

    async def caller(channel: coord.grpc.BalancedChannel) -> None:
        echo = channel.unary_unary(ECHO)
        await view.wait_for(1, timeout=WITHIN_S)
        while not stop.is_set():
            answered[await echo(b"", timeout=WITHIN_S)] += 1

    async with (
        registry.discover() as view,
        coord.grpc.balanced_channel(view, idempotent={ECHO}) as channel,
        asyncio.TaskGroup() as group,
    ):
        running: list[asyncio.Event] = []
        for _ in range(3):
            group.create_task(caller(channel))
        for number in range(9):
            name = str(number).encode()
            told, listed = asyncio.Event(), asyncio.Event()
            group.create_task(live(Server(name.decode()), told, listed))
            await listed.wait()
            running.append(told)
            if number > 2:
                running.pop(0).set()
            await until(functools.partial(operator.contains, answered, name))
        stop.set()
        for told in running:
            told.set()
    assert len(answered) == 9


async def test_the_server_is_stopped_when_it_cannot_be_listed(client: coord.Client) -> None:
    registry = client.registry("echo", ttl=10)
    server = Server("a")
    async with registry.register(server.addr):
        with pytest.raises(coord.AlreadyRegistered):
            async with coord.grpc.register(server.server, registry.register(server.addr)):
                pass
    async with grpc.aio.insecure_channel(server.addr) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel)


async def test_leaving_is_told_before_the_server_stops(client: coord.Client) -> None:
    registry = client.registry("echo")
    server = Server("a")
    opening = registry.register(server.addr)
    async with registry.discover() as view, grpc.aio.insecure_channel(server.addr) as channel:

        async def live(told: asyncio.Event) -> None:
            async with coord.grpc.register(
                server.server, opening, drain=0.3, grace=1, health_services=()
            ):
                await told.wait()

        told = asyncio.Event()
        living = asyncio.ensure_future(live(told))
        await view.wait_for(1, timeout=WITHIN_S)
        living.cancel()  # a cancellation does not cut the end short
        await until(lambda: view.instances()[0].health == "draining")
        assert await call(channel) == b"a"
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(asyncio.CancelledError):
            await living
        await until(lambda: view.instances() == ())


async def test_health_without_its_package_says_what_to_install(
    client: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc_health.v1.health", None)
    server = Server("a")
    opening = client.registry("echo").register(server.addr)
    with pytest.raises(coord.MissingExtra, match="coord\\[grpc\\]"):
        async with coord.grpc.register(server.server, opening, health_services=()):
            pass
    await server.server.stop(None)
