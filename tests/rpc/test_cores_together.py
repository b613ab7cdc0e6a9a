"""Our client's core against our server's, in memory: any sizes, windows, splits and resets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from coord.rpc.calls import CallStream
from coord.rpc.client_core import ClientConnection
from coord.rpc.limits import CLIENT_LIMITS, SERVER_LIMITS, Limits
from coord.rpc.server_core import ServerConnection
from coord.rpc.server_stream import ServerStream
from coord.rpc.service import Method, PeerInfo, Registry, RequestHead
from coord.rpc.status import RpcError, StatusCode

T = TypeVar("T")


def _no_tasks(coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    raise AssertionError("no method here is a coroutine")


class Pair:
    """Both cores and the wire between them, which cuts what it carries."""

    def __init__(self, client: Limits, server: Limits, splits: list[int]) -> None:
        self.errors: list[BaseException] = []
        self.deferred: list[tuple[int, bytes]] = []
        self.streams: list[ServerStream] = []
        self.closed_streams = 0
        self._splits = splits or [1 << 30]
        self._turn = 0
        self.now = 0.0
        self.client = ClientConnection(
            authority="a",
            limits=client,
            clock=lambda: self.now,
            wake=lambda conn: None,
            on_error=lambda what, error: self.errors.append(error),
        )
        methods = (
            Method("/s/Echo", unary=lambda conn, stream_id, head, message: message),
            Method("/s/Late", unary=self._late),
            Method("/s/Stream", stream=self._stream),
        )
        self.server = ServerConnection(
            Registry(methods),
            limits=server,
            clock=lambda: self.now,
            wake=lambda conn: None,
            peer=PeerInfo(),
            spawn=_no_tasks,
            on_error=lambda what, error: self.errors.append(error),
        )

    def _late(
        self, conn: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> None:
        self.deferred.append((stream_id, message))

    def _stream(self, stream: ServerStream) -> None:
        def on_closed() -> None:
            self.closed_streams += 1

        self.streams.append(stream)
        stream.on_message = stream.send
        stream.on_half_close = stream.finish
        stream.on_closed = on_closed

    def _carry(self, data: bytes, to: ClientConnection | ServerConnection) -> None:
        while data:
            size = self._splits[self._turn % len(self._splits)]
            self._turn += 1
            to.feed(data[:size])
            data = data[size:]

    def settle(self) -> None:
        """Carry bytes until neither has anything to say."""
        while True:
            there = self.client.take_output()
            self._carry(there, self.server)
            back = self.server.take_output()
            self._carry(back, self.client)
            if not there and not back:
                return

    def answer_deferred(self) -> None:
        deferred, self.deferred = self.deferred, []
        for stream_id, message in deferred:
            self.server.respond(stream_id, message)


@dataclass
class Echoed:
    """A stream of the client, and what it has seen."""

    stream: CallStream
    sent: list[bytes]
    got: list[bytes] = field(default_factory=list[bytes])
    ends: list[RpcError | None] = field(default_factory=list[RpcError | None])


def _windows(stream: int, concurrent: int) -> tuple[Limits, Limits]:
    client = replace(CLIENT_LIMITS, stream_window_bytes=stream, connection_window_bytes=65_535)
    server = replace(
        SERVER_LIMITS,
        stream_window_bytes=stream,
        connection_window_bytes=65_535,
        max_concurrent_streams=concurrent,
        turn_bytes=50_000,
    )
    return client, server


SIZES = st.one_of(st.integers(0, 300), st.integers(0, 40_000), st.just(16_379))
SPLITS = st.lists(st.one_of(st.integers(1, 30), st.integers(1, 70_000)), max_size=20)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["/s/Echo", "/s/Late"]), SIZES, st.booleans()),
        st.tuples(st.just("/s/Stream"), st.lists(SIZES, max_size=5), st.booleans()),
    ),
    max_size=12,
)


def _payload(size: int, mark: int) -> bytes:
    return bytes((mark & 0xFF,)) * size


@given(CALLS, SPLITS, st.one_of(st.integers(1, 100), st.integers(100, 100_000)), st.integers(1, 20))
def test_everything_arrives(
    calls: list[tuple[str, Any, bool]], splits: list[int], window: int, concurrent: int
) -> None:
    pair = Pair(*_windows(window, concurrent), splits)
    results: dict[int, bytes | RpcError] = {}
    expected: dict[int, bytes] = {}
    most = window * 200  # tiny windows make a round trip of every few bytes
    echoed: list[Echoed] = []
    for number, (path, what, settle) in enumerate(calls):
        if path == "/s/Stream":
            stream = CallStream(pair.client)
            record = Echoed(stream, [_payload(min(size, most), number) for size in what])
            stream.on_message = record.got.append
            stream.on_closed = record.ends.append
            pair.client.start_stream(stream, path)
            for message in record.sent:
                stream.send(message)
            stream.half_close()
            echoed.append(record)
        else:
            expected[number] = _payload(min(what, most), number)

            def done(result: bytes | RpcError, number: int = number) -> None:
                results[number] = result

            pair.client.start_unary(path, expected[number], done)
        if settle:
            pair.settle()
    pair.settle()
    while pair.deferred:
        pair.answer_deferred()
        pair.settle()
    assert results == expected
    for record in echoed:
        assert record.got == record.sent
        assert record.ends == [None]
    assert pair.closed_streams == len(echoed)
    _assert_at_rest(pair)


def _assert_at_rest(pair: Pair) -> None:
    assert pair.errors == []
    assert pair.client.open_calls == 0
    assert pair.server.open_streams == 0
    for core in (pair.client, pair.server):
        assert core.unsent_bytes == 0
        assert core.unread_bytes == 0
        assert not core.wants_close


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "unary",
                    "late",
                    "stream",
                    "cancel",
                    "abort",
                    "answer",
                    "settle",
                    "client",
                    "server",
                ]
            ),
            st.integers(0, 30_000),
        ),
        max_size=25,
    ),
    SPLITS,
    st.one_of(st.integers(1, 100), st.integers(100, 100_000)),
)
def test_resets_from_both_sides_leave_nothing_behind(
    steps: list[tuple[str, int]], splits: list[int], window: int
) -> None:
    pair = Pair(*_windows(window, 5), splits)
    told: list[int] = []
    started: list[tuple[int, Any]] = []
    cancelled: set[int] = set()
    ends: list[RpcError | None] = []
    streams = 0
    for number, (step, size) in enumerate(steps):
        if step in {"unary", "late"}:
            path = "/s/Echo" if step == "unary" else "/s/Late"

            def done(result: bytes | RpcError, number: int = number) -> None:
                told.append(number)

            started.append((number, pair.client.start_unary(path, bytes(size), done)))
        elif step == "stream":
            streams += 1
            stream = CallStream(pair.client)
            stream.on_message = lambda message: None
            stream.on_closed = ends.append
            pair.client.start_stream(stream, "/s/Stream")
            stream.send(bytes(size))
            started.append((number, stream))
        elif step == "cancel" and started:
            key, call = started[size % len(started)]
            if key not in told:
                cancelled.add(key)
            call.cancel()
        elif step == "abort" and pair.streams:
            pair.streams[size % len(pair.streams)].abort(StatusCode.ABORTED, "no more")
        elif step == "answer":
            pair.answer_deferred()
        elif step == "client":
            pair.server.feed(pair.client.take_output())
        elif step == "server":
            pair.client.feed(pair.server.take_output())
        else:
            pair.settle()
    for _, call in started:
        if isinstance(call, CallStream):
            call.cancel()
    pair.settle()
    while pair.deferred:
        pair.answer_deferred()
        pair.settle()
    unary = [number for number, call in started if not isinstance(call, CallStream)]
    assert len(told) == len(set(told))
    assert set(told) == set(unary) - cancelled
    assert len(ends) == streams
    _assert_at_rest(pair)


@given(st.integers(1, 60), SPLITS)
def test_connection_lost_at_any_byte(cut: int, splits: list[int]) -> None:
    pair = Pair(*_windows(1000, 100), splits)
    pair.settle()
    told: list[bytes | RpcError] = []
    for _ in range(3):
        pair.client.start_unary("/s/Echo", bytes(50), told.append)
    pair.server.feed(pair.client.take_output())
    pair.client.feed(pair.server.take_output()[:cut])
    pair.client.connection_lost()
    pair.server.connection_lost()
    pair.client.sweep()
    assert len(told) == 3
    assert pair.client.open_calls == pair.server.open_streams == 0
    for result in told:
        assert result == bytes(50) or (isinstance(result, RpcError) and result.sent)
