"""Blocking gRPC over discovered instances, and blocking gRPC servers that list themselves."""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health_pb2,
    health_pb2_grpc,
)

import coord
import coord.sync
import coord.sync.grpc

WITHIN_S = 20.0
ECHO, SLOW, COUNT, SUM, CHAT = (
    f"/test.Echo/{name}" for name in ("Echo", "Slow", "Count", "Sum", "Chat")
)
Context = grpc.ServicerContext


class Server:
    """A gRPC server that says who it is."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.calls: Counter[str] = Counter()
        self.fails_with: grpc.StatusCode | None = None
        self.release = threading.Event()
        self.server = grpc.server(ThreadPoolExecutor(8))
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

    def echo(self, request: bytes, context: Context) -> bytes:
        self.calls["Echo"] += 1
        if self.fails_with is not None:
            context.abort(self.fails_with, "told to")
        return self.name

    def slow(self, request: bytes, context: Context) -> bytes:
        self.calls["Slow"] += 1
        self.release.wait(WITHIN_S)
        return self.name

    def count(self, request: bytes, context: Context) -> Iterator[bytes]:
        self.calls["Count"] += 1
        for number in range(3):
            yield self.name + str(number).encode()

    def sum(self, requests: Iterator[bytes], context: Context) -> bytes:
        self.calls["Sum"] += 1
        return b"".join(requests)

    def chat(self, requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        self.calls["Chat"] += 1
        for request in requests:
            yield request.upper()


@pytest.fixture
def client() -> Iterator[coord.sync.Client]:
    with coord.sync.connect("memory:") as made:
        yield made


@contextlib.contextmanager
def serving(
    client: coord.sync.Client,
    *names: str,
    **options: Any,  # noqa: ANN401 - handed on
) -> Generator[tuple[list[Server], coord.sync.ServiceView]]:
    """Servers, listed, and a view of them."""
    registry = client.registry("echo")
    servers = [Server(name) for name in names]
    with contextlib.ExitStack() as stack:
        view = stack.enter_context(registry.discover(**options))
        for server in servers:
            listing = functools.partial(registry.register, server.addr, id=server.name.decode())
            stack.enter_context(coord.sync.grpc.register(server.server, listing, drain=0, grace=0))
        view.wait_for(len(names), timeout=WITHIN_S)
        yield servers, view


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def refused(call: Callable[[], object], match: str | None = None) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError, match=match) as caught:
        call()
    error: Any = caught.value
    code: grpc.StatusCode = error.code()
    return code


def user_of(_: str, metadata: Any) -> Any:  # noqa: ANN401 - whatever was given
    return dict(metadata).get("user")


def test_calls_go_round(client: coord.sync.Client) -> None:
    with (
        serving(client, "a", "b", "c") as (_, view),
        coord.sync.grpc.balanced_channel(view) as channel,
    ):
        echo = channel.unary_unary(ECHO)
        assert Counter(echo(b"x", timeout=WITHIN_S) for _ in range(9)) == {
            b"a": 3,
            b"b": 3,
            b"c": 3,
        }
        answer, call = echo.with_call(b"x", timeout=WITHIN_S)
        assert answer in {b"a", b"b", b"c"}
        assert call.code() is grpc.StatusCode.OK
        calls = [echo.future(b"x", timeout=WITHIN_S) for _ in range(9)]
        assert Counter(call.result(WITHIN_S) for call in calls) == {b"a": 3, b"b": 3, b"c": 3}
        call = calls[0]
        assert call.code() is grpc.StatusCode.OK
        assert call.details() == ""
        assert (call.done(), call.running(), call.is_active(), call.cancelled()) == (
            True,
            False,
            False,
            False,
        )
        assert dict(call.trailing_metadata()) == {}
        assert call.exception() is None
        assert call.traceback() is None
        assert 0 < call.time_remaining() < WITHIN_S
        done: list[object] = []
        call.add_done_callback(done.append)
        assert done == [call]
        assert call.add_callback(list) is False
        assert call.cancel() is False


def test_streams_go_to_one_instance_each(client: coord.sync.Client) -> None:
    with serving(client, "a", "b") as (_, view), coord.sync.grpc.balanced_channel(view) as channel:
        seen = {tuple(channel.unary_stream(COUNT)(b"")) for _ in range(4)}
        assert seen == {(b"a0", b"a1", b"a2"), (b"b0", b"b1", b"b2")}
        assert channel.stream_unary(SUM)(iter([b"1", b"2"]), WITHIN_S) == b"12"
        answer, call = channel.stream_unary(SUM).with_call(iter([b"3"]), timeout=WITHIN_S)
        assert (answer, call.code()) == (b"3", grpc.StatusCode.OK)
        assert channel.stream_unary(SUM).future(iter([b"4"]), timeout=WITHIN_S).result() == b"4"
        assert list(channel.stream_stream(CHAT)(iter([b"x", b"y"]))) == [b"X", b"Y"]


def test_generated_stubs_work_over_it(client: coord.sync.Client) -> None:
    registry = client.registry("echo")
    server = Server("a")
    with (
        coord.sync.grpc.register(
            server.server,
            lambda: registry.register(server.addr),
            drain=0,
            health_services=("test.Echo",),
        ),
        registry.discover() as view,
        coord.sync.grpc.balanced_channel(view) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "test.Echo"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_what_was_not_sent_goes_to_another(client: coord.sync.Client) -> None:
    with (
        serving(client, "a") as (_, view),
        # Nobody listens there.
        client.registry("echo").register("127.0.0.1:1", id="dead"),
        coord.sync.grpc.balanced_channel(view) as channel,
    ):
        view.wait_for(2, timeout=WITHIN_S)
        echo = channel.unary_unary(ECHO)
        for _ in range(10):
            assert echo(b"", timeout=WITHIN_S) == b"a"
            assert echo.future(b"", timeout=WITHIN_S).result() == b"a"
        # After five failures nobody tries it any more.
        assert {view.pick().id for _ in range(4)} == {"a"}


@pytest.mark.parametrize("how", ["blocking", "future"])
def test_only_idempotent_calls_are_sent_again(client: coord.sync.Client, how: str) -> None:
    def call(channel: coord.sync.grpc.BalancedChannel) -> object:
        made = channel.unary_unary(ECHO)
        return made(b"", timeout=WITHIN_S) if how == "blocking" else made.future(b"").result()

    with (
        serving(client, "bad", "good") as (servers, view),
        coord.sync.grpc.balanced_channel(view) as once,
        coord.sync.grpc.balanced_channel(view, idempotent={ECHO}) as again,
    ):
        bad, good = servers
        bad.fails_with = grpc.StatusCode.UNAVAILABLE
        code = refused(lambda: [call(once) for _ in range(2)], "told to")
        assert code is grpc.StatusCode.UNAVAILABLE
        assert bad.calls["Echo"] == 1
        assert [call(again) for _ in range(4)] == [b"good"] * 4
        assert bad.calls["Echo"] > 1
        # Other errors are the caller's business.
        good.fails_with = bad.fails_with = grpc.StatusCode.NOT_FOUND
        before = bad.calls["Echo"] + good.calls["Echo"]
        assert refused(lambda: call(again)) is grpc.StatusCode.NOT_FOUND
        assert bad.calls["Echo"] + good.calls["Echo"] == before + 1
        # All of them fail: the last error is told, after so many attempts.
        good.fails_with = bad.fails_with = grpc.StatusCode.UNAVAILABLE
        before = bad.calls["Echo"] + good.calls["Echo"]
        assert refused(lambda: call(again), "told to") is grpc.StatusCode.UNAVAILABLE
        assert bad.calls["Echo"] + good.calls["Echo"] == before + 3


def test_without_an_instance_calls_are_unavailable_or_wait(client: coord.sync.Client) -> None:
    registry = client.registry("echo")
    with registry.discover() as view:
        channel = coord.sync.grpc.balanced_channel(view)
        echo = channel.unary_unary(ECHO)
        unavailable, late = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED
        assert refused(lambda: echo(b""), "no instance") is unavailable
        assert refused(lambda: echo.future(b"").result(), "no instance") is unavailable
        assert echo.future(b"").code() is unavailable
        assert refused(lambda: channel.unary_stream(COUNT)(b"")) is unavailable
        assert refused(lambda: echo(b"", timeout=0.05, wait_for_ready=True)) is late
        slow = echo.future(b"", timeout=0.05, wait_for_ready=True)
        assert (slow.code(), slow.details()) == (late, "there is no instance")
        given_up = echo.future(b"", wait_for_ready=True)
        assert given_up.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            given_up.result(WITHIN_S)
        assert given_up.code() is grpc.StatusCode.CANCELLED
        waiting = echo.future(b"", timeout=WITHIN_S, wait_for_ready=True)
        with pytest.raises(grpc.FutureTimeoutError):
            waiting.result(0.01)
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        ready: Any = grpc.channel_ready_future(channel)
        server = Server("late")
        with coord.sync.grpc.register(
            server.server, lambda: registry.register(server.addr), drain=0
        ):
            assert waiting.result(WITHIN_S) == b"late"
            ready.result(WITHIN_S)
            until(lambda: grpc.ChannelConnectivity.READY in states)
            channel.unsubscribe(states.append)
            assert echo(b"", timeout=WITHIN_S) == b"late"
        channel.close()
        with pytest.raises(ValueError, match="closed channel"):
            echo(b"")


def test_deadlines_and_cancellations_reach_the_server_and_the_view(
    client: coord.sync.Client,
) -> None:
    with (
        serving(client, "a", strategy="least_loaded") as ((server,), view),
        coord.sync.grpc.balanced_channel(view, idempotent=lambda _: True) as channel,
    ):
        slow = channel.unary_unary(SLOW)
        assert refused(lambda: slow(b"", timeout=0.1)) is grpc.StatusCode.DEADLINE_EXCEEDED
        call = slow.future(b"")
        until(lambda: server.calls["Slow"] == 2)
        assert call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result(WITHIN_S)
        assert call.cancelled()
        assert call.code() is grpc.StatusCode.CANCELLED
        # Every pick has had its report, streams too.
        assert len(list(channel.unary_stream(COUNT)(b""))) == 3
        strategy: Any = view._async._strategy
        until(lambda: [len(calls) for calls in strategy._under_way.values()] == [0])
        server.release.set()


@pytest.mark.parametrize("patient", [True, False])
def test_a_running_call_ends_on_an_instance_that_has_gone(
    client: coord.sync.Client, *, patient: bool
) -> None:
    registry = client.registry("echo")
    old, new = Server("old"), Server("new")
    old.server.start()
    new.server.start()
    drain = WITHIN_S if patient else 0.05
    with (
        registry.discover() as view,
        coord.sync.grpc.balanced_channel(view, drain=drain) as channel,
    ):
        first = registry.register(old.addr)
        view.wait_for(1, timeout=WITHIN_S)
        call = channel.unary_unary(SLOW).future(b"", timeout=WITHIN_S)
        until(lambda: old.calls["Slow"] == 1)
        first.deregister()
        with registry.register(new.addr):
            until(lambda: [each.addr for each in view.instances()] == [new.addr])
            assert channel.unary_unary(ECHO)(b"", timeout=WITHIN_S) == b"new"
            assert list(channel._members) == [new.addr]
            if patient:
                old.release.set()
                assert call.result(WITHIN_S) == b"old"
                until(lambda: not channel._gone)
            else:
                assert refused(lambda: call.result(WITHIN_S)) is grpc.StatusCode.CANCELLED
                old.release.set()
    old.server.stop(None).wait()
    new.server.stop(None).wait()


def test_keys_and_named_endpoints(client: coord.sync.Client) -> None:
    registry = client.registry("echo")
    servers = [Server(name) for name in "abc"]
    with contextlib.ExitStack() as stack:
        for server in servers:
            server.server.start()
            stack.callback(server.server.stop, None)
            named = {"grpc": server.addr}
            stack.enter_context(registry.register(f"{server.name.decode()}:80", endpoints=named))
        view = stack.enter_context(registry.discover(strategy="sticky"))
        view.wait_for(3, timeout=WITHIN_S)
        channel = coord.sync.grpc.balanced_channel(view, endpoint="grpc", key=user_of)
        stack.enter_context(channel)
        echo = channel.unary_unary(ECHO)
        homes: dict[str, bytes] = {}
        for _ in range(3):
            for user in map(str, range(12)):
                answer = echo(b"", metadata=(("user", user),), timeout=WITHIN_S)
                assert homes.setdefault(user, answer) == answer
        assert len(set(homes.values())) == 3
        with coord.sync.grpc.balanced_channel(
            view, endpoint="admin", key=lambda method, _: method
        ) as missing:
            refused(lambda: missing.unary_unary(ECHO)(b""), "no endpoint admin")


def test_a_rolling_restart_fails_no_idempotent_call(client: coord.sync.Client) -> None:
    registry = client.registry("echo")
    stop = threading.Event()
    answered: Counter[bytes] = Counter()

    def caller(channel: coord.sync.grpc.BalancedChannel) -> None:
        echo = channel.unary_unary(ECHO)
        view.wait_for(1, timeout=WITHIN_S)
        while not stop.is_set():
            answered[echo(b"", timeout=WITHIN_S)] += 1

    with (
        registry.discover() as view,
        coord.sync.grpc.balanced_channel(view, idempotent={ECHO}) as channel,
        ThreadPoolExecutor() as pool,
        contextlib.ExitStack() as running,
    ):
        running.callback(stop.set)
        callers = [pool.submit(caller, channel) for _ in range(2)]
        living: list[contextlib.ExitStack] = []
        for number in range(6):
            name = str(number).encode()
            server, life = Server(name.decode()), contextlib.ExitStack()
            listing = functools.partial(registry.register, server.addr)
            life.enter_context(coord.sync.grpc.register(server.server, listing, drain=0.1, grace=5))
            living.append(life)
            until(functools.partial(operator.contains, answered, name))
            if number > 1:
                living.pop(0).close()
        stop.set()
        for each in callers:
            each.result(WITHIN_S)
        for life in living:
            life.close()
    assert len(answered) == 6


def test_the_server_is_stopped_when_it_cannot_be_listed(client: coord.sync.Client) -> None:
    registry = client.registry("echo", ttl=10)
    server = Server("a")
    with (
        registry.register(server.addr),
        pytest.raises(coord.AlreadyRegistered),
        coord.sync.grpc.register(server.server, lambda: registry.register(server.addr)),
    ):
        pass
    with grpc.insecure_channel(server.addr) as channel:
        plain: Any = channel
        made = plain.unary_unary(ECHO)
        assert refused(lambda: made(b"", timeout=WITHIN_S)) is grpc.StatusCode.UNAVAILABLE


def test_leaving_is_told_before_the_server_stops(client: coord.sync.Client) -> None:
    registry = client.registry("echo")
    server = Server("a")
    with registry.discover() as view, grpc.insecure_channel(server.addr) as channel:
        told = threading.Event()

        def live() -> None:
            listing = functools.partial(registry.register, server.addr)
            with coord.sync.grpc.register(
                server.server, listing, drain=0.3, grace=1, health_services=()
            ):
                told.wait(WITHIN_S)

        living = threading.Thread(target=live)
        living.start()
        view.wait_for(1, timeout=WITHIN_S)
        told.set()
        until(lambda: view.instances()[0].health == "draining")
        plain: Any = channel
        made = plain.unary_unary(ECHO)
        assert made(b"", timeout=WITHIN_S) == b"a"
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        living.join(WITHIN_S)
        until(lambda: view.instances() == ())


def test_health_without_its_package_says_what_to_install(
    client: coord.sync.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc_health.v1.health", None)
    server = Server("a")
    with (
        pytest.raises(coord.MissingExtra, match="coord\\[grpc\\]"),
        coord.sync.grpc.register(
            server.server, lambda: client.registry("echo").register("x:1"), health_services=()
        ),
    ):
        pass
    server.server.stop(None).wait()
