"""The server's core beyond the protocol's letter: answers that come later, patience, its own affairs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

import hpack as oracle
import pytest

from coord.rpc.limits import Limits
from coord.rpc.server_core import ServerConnection
from coord.rpc.server_stream import ServerStream
from coord.rpc.service import Method, PeerInfo, Registry, RequestHead
from coord.rpc.status import RpcError, StatusCode
from tests.rpc.raw_peer import (
    ACK,
    CALM,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PING,
    REFUSED,
    RST_STREAM,
    WINDOW,
    Frame,
    Peer,
    block,
    frame,
    goaway,
    message,
    resets,
    setting,
    uint32,
    unary,
)

HEADER_TABLE_SIZE, INITIAL_WINDOW = 1, 4


class Server(Peer):
    """A core with methods of our choice, with the shell's part played here."""

    def __init__(self, methods: Iterable[Method], limits: Limits | None = None) -> None:
        limits = limits or Limits()
        super().__init__(None, limits)
        self.wakes = 0
        self.errors: list[tuple[str, BaseException]] = []
        self.connection = ServerConnection(
            Registry(methods),
            limits=limits,
            clock=lambda: self.now,
            wake=self._on_wake,
            peer=PeerInfo(address="here"),
            spawn=self.spawn,
            on_error=lambda what, error: self.errors.append((what, error)),
        )

    def _on_wake(self, conn: ServerConnection) -> None:
        self.wakes += 1

    def take(self) -> list[Frame]:
        return self.raw(b"")

    def pass_time(self, seconds: float) -> list[Frame]:
        """Let the clock run and its timers fire; returns what came out."""
        frames: list[Frame] = []
        end = self.now + seconds
        while self.connection.timer_at <= end and not self.closed():
            self.now = max(self.now, self.connection.timer_at)
            self.connection.on_timer()
            frames += self.take()
        self.now = end
        return frames


class Later:
    """A unary method that is answered when the test wants it."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.calls: list[tuple[ServerConnection, int, bytes]] = []

    def __call__(
        self, conn: ServerConnection, stream_id: int, head: RequestHead, request: bytes
    ) -> None:
        self.heads.append(head)
        self.calls.append((conn, stream_id, request))

    def answer(self, answer: bytes = b"late") -> None:
        calls, self.calls = self.calls, []
        for conn, stream_id, _ in calls:
            conn.respond(stream_id, answer)


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def server(later: Later) -> Server:
    server = Server((Method("/test.Echo/Unary", unary=later),))
    server.greet()
    return server


def sized(frames: list[Frame], stream: int) -> int:
    return sum(len(f.payload) for f in frames if f.kind == DATA and f.stream == stream)


def test_answers_of_one_turn_wake_the_shell_once(server: Server, later: Later) -> None:
    server.raw(unary(1) + unary(3) + unary(5))
    assert server.connection.open_streams == 3
    later.answer()
    assert server.wakes == 1
    frames = server.take()
    assert [server.status(frames, stream) for stream in (1, 3, 5)] == [0, 0, 0]
    assert server.connection.open_streams == 0
    server.raw(unary(7))
    later.answer()
    assert server.wakes == 2


def test_answer_given_within_the_handler(server: Server) -> None:
    def at_once(conn: ServerConnection, stream_id: int, head: RequestHead, request: bytes) -> None:
        conn.respond(stream_id, request)
        conn.respond(stream_id, b"twice")

    server = Server((Method("/test.Echo/Unary", unary=at_once),))
    server.greet()
    frames = server.raw(unary(1, b"one"))
    assert [f.payload for f in frames if f.kind == DATA] == [message(b"one")]
    assert server.connection.open_streams == 0
    assert server.wakes == 0  # the shell takes output after a feed anyway


def test_reset_frees_the_slot_and_drops_the_answer(later: Later) -> None:
    server = Server((Method("/test.Echo/Unary", unary=later),), Limits(max_concurrent_streams=1))
    server.greet()
    assert resets(server.raw(unary(1) + unary(3))) == {3: REFUSED}
    assert server.raw(frame(RST_STREAM, 0, 1, uint32(CANCEL))) == []
    server.raw(unary(5))
    later.answer()
    frames = server.take()
    assert {f.stream for f in frames} == {5}
    server.connection.fail(1, 5, "late as well")
    server.connection.fail(5, 5, "answered before")
    assert server.take() == []


def test_steady_answers_are_as_short_as_can_be(server: Server, later: Later) -> None:
    server.raw(unary(1))
    later.answer()
    server.take()
    server.raw(unary(3))
    later.answer(b"")
    frames = server.take()
    assert [len(f.payload) for f in frames] == [2, 5, 1]
    assert server.fields(3) == [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "0"),
    ]


@pytest.mark.parametrize("size", [0, 60, 103, 104, 200])
def test_small_header_tables_get_literals(later: Later, size: int) -> None:
    server = Server((Method("/test.Echo/Unary", unary=later),))
    server.headers.max_allowed_table_size = size
    server.greet(setting(HEADER_TABLE_SIZE, size))
    for stream in (1, 3, 5):
        server.raw(unary(stream))
        later.answer()
        assert server.status(server.take(), stream) == 0
        assert server.headers.header_table_size <= size
        assert ("content-type", "application/grpc") in server.fields(stream)


def test_header_table_that_shrinks_and_grows_between_answers(server: Server, later: Later) -> None:
    stream = 1
    for size in (4096, 0, 4096, 50, 5000, 104):
        server.headers.max_allowed_table_size = max(size, server.headers.header_table_size)
        server.raw(frame(4, 0, 0, setting(HEADER_TABLE_SIZE, size)))
        for _ in range(3):
            server.raw(unary(stream))
            later.answer()
            assert server.status(server.take(), stream) == 0
            stream += 2


def test_interleaved_streams_and_answers_agree_on_the_header_table(later: Later) -> None:
    streams: list[ServerStream] = []
    server = Server(
        (
            Method("/test.Echo/Unary", unary=later),
            Method("/test.Echo/Stream", stream=streams.append),
        )
    )
    server.greet()
    server.raw(frame(HEADERS, END_HEADERS, 1, block(path="/test.Echo/Stream")))
    streams[0].send(b"headers first, trailers much later")
    server.raw(unary(3))
    later.answer()
    server.connection.fail(99, 1, "nobody")
    server.raw(unary(5))
    server.connection.fail(5, StatusCode.ABORTED, "é %", (("k", "v"), ("b-bin", b"\0")))
    streams[0].finish(0, "", (("t", "1"),))
    server.take()
    assert server.fields(1) == [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "0"),
        ("t", "1"),
    ]
    assert server.fields(3)[-1] == ("grpc-status", "0")
    assert server.fields(5) == [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "10"),
        ("grpc-message", "%C3%A9 %25"),
        ("k", "v"),
        ("b-bin", "AA"),
    ]


def test_handler_that_raises(server: Server) -> None:
    def refuse(conn: ServerConnection, stream_id: int, head: RequestHead, request: bytes) -> None:
        raise RpcError(StatusCode.NOT_FOUND, "no such thing", trailers=(("why", "so"),))

    def crash(conn: ServerConnection, stream_id: int, head: RequestHead, request: bytes) -> None:
        raise KeyError("secret")

    def mumble(conn: ServerConnection, stream_id: int, head: RequestHead, request: bytes) -> None:
        raise RpcError(StatusCode.ABORTED, "secret", trailers=(("Bad Key", "x"),))

    def crash_stream(stream: ServerStream) -> None:
        raise KeyError("secret")

    server = Server(
        (
            Method("/s/Refuse", unary=refuse),
            Method("/s/Crash", unary=crash),
            Method("/s/Mumble", unary=mumble),
            Method("/s/Stream", stream=crash_stream),
        )
    )
    server.greet()
    frames = server.raw(unary(1, b"", block(path="/s/Refuse")))
    assert server.status(frames) == StatusCode.NOT_FOUND
    assert server.fields()[-1] == ("why", "so")
    for stream, path in ((3, "/s/Crash"), (5, "/s/Mumble"), (7, "/s/Stream")):
        frames = server.raw(unary(stream, b"", block(path=path)))
        assert server.status(frames, stream) == StatusCode.UNKNOWN
        assert "secret" not in str(server.fields(stream))
    assert [what for what, _ in server.errors] == ["/s/Crash", "/s/Mumble", "/s/Stream"]
    assert server.connection.open_streams == 0


def test_head_is_shared_while_the_peers_table_stands_still(server: Server, later: Later) -> None:
    encoder = oracle.Encoder()

    def call(stream: int, timeout: str) -> None:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", "/test.Echo/Unary")]
        fields += [("content-type", "application/grpc"), ("hasleader", "true")]
        server.raw(unary(stream, b"", encoder.encode([*fields, ("grpc-timeout", timeout)])))

    for stream, timeout in ((1, "1S"), (3, "1S"), (5, "1S"), (7, "20m"), (9, "20m")):
        call(stream, timeout)
    heads = later.heads
    assert [head.timeout_s for head in heads] == [1, 1, 1, 0.02, 0.02]
    assert heads[1] is heads[2]
    assert heads[3] is not heads[4]  # the table moved in between
    assert all(head.memo is heads[0].memo for head in heads)
    assert all(head.first("hasleader") == "true" for head in heads)
    assert heads[0].first("other") is None


def test_window_granted_before_the_answer_counts(later: Later) -> None:
    server = Server((Method("/test.Echo/Unary", unary=later),))
    server.greet(setting(INITIAL_WINDOW, 10))
    server.raw(unary(1))
    server.raw(frame(WINDOW, 0, 1, uint32(90)))
    later.answer(b"x" * 200)
    frames = server.take()
    assert sized(frames, 1) == 100
    frames = server.raw(frame(WINDOW, 0, 1, uint32(105)))
    assert sized(frames, 1) == 105
    assert frames[-1].flags & END_STREAM


def test_streams_share_the_connections_window_fairly(server: Server, later: Later) -> None:
    server.raw(frame(4, 0, 0, setting(INITIAL_WINDOW, 1 << 20)))
    server.raw(unary(1) + unary(3))
    later.answer(b"x" * 200_000)
    server.take()
    frames = server.raw(frame(WINDOW, 0, 0, uint32(10 * 16_384)))
    assert sized(frames, 1) == sized(frames, 3) == 5 * 16_384
    # A small answer does not overtake those that wait for the same window.
    server.raw(unary(5))
    later.answer(b"small")
    assert sized(server.take(), 5) == 0
    frames = server.raw(frame(WINDOW, 0, 0, uint32(1 << 20)))
    assert server.status(frames, 5) == 0


def test_one_turn_carries_a_bounded_share(later: Later) -> None:
    server = Server((Method("/test.Echo/Unary", unary=later),), Limits(turn_bytes=100_000))
    server.greet(
        setting(INITIAL_WINDOW, 1 << 24),
    )
    server.raw(frame(WINDOW, 0, 0, uint32(1 << 24)) + unary(1))
    later.answer(bytes(1 << 20))
    turns = 1
    while server.connection.has_backlog:
        assert sized(server.take(), 1) <= 100_000 + 16_384
        turns += 1
    assert turns >= 10
    assert server.connection.unsent_bytes == 0


def test_paused_transport_keeps_payload_back(server: Server, later: Later) -> None:
    server.raw(unary(1) + unary(3))
    server.connection.pause_sending()
    later.answer()
    assert sized(server.take(), 1) == 0
    assert not server.connection.has_backlog
    server.connection.resume_sending()
    frames = server.take()
    assert (server.status(frames, 1), server.status(frames, 3)) == (0, 0)


def test_peer_that_does_not_read(later: Later) -> None:
    limits = Limits(max_buffered_bytes=50_000, stall_grace_s=60, keepalive_time_s=None)
    server = Server((Method("/test.Echo/Unary", unary=later),), limits)
    server.greet(setting(INITIAL_WINDOW, 0))
    server.raw(unary(1) + unary(3))
    later.answer(b"x" * 40_000)
    assert resets(server.raw(unary(5))) == {5: REFUSED}
    assert server.pass_time(59) == []
    # Reading anything at all is a sign of life.
    assert sized(server.raw(frame(WINDOW, 0, 1, uint32(1))), 1) == 1
    assert server.pass_time(59) == []
    assert not server.closed()
    assert goaway(server.pass_time(62)) == CALM
    assert server.closed()


def test_peer_that_reads_in_the_end(later: Later) -> None:
    limits = Limits(max_buffered_bytes=50_000, stall_grace_s=60, keepalive_time_s=None)
    server = Server((Method("/test.Echo/Unary", unary=later),), limits)
    server.greet(setting(INITIAL_WINDOW, 0))
    server.raw(unary(1) + unary(3))
    later.answer(b"x" * 40_000)
    server.pass_time(30)
    frames = server.raw(frame(4, 0, 0, setting(INITIAL_WINDOW, 1 << 20)))
    frames += server.raw(frame(WINDOW, 0, 0, uint32(1 << 20)))
    assert (server.status(frames, 1), server.status(frames, 3)) == (0, 0)
    server.pass_time(120)
    assert not server.closed()
    assert server.raw(unary(5)) == []
    later.answer()
    assert server.status(server.take(), 5) == 0


class TestPings:
    """grpc-go's rule: three pings too early are one too many."""

    def ping(self, server: Server) -> list[Frame]:
        return server.raw(frame(PING, 0, 0, bytes(8)))

    def test_too_many(self, server: Server) -> None:
        server.raw(unary(1))
        for _ in range(3):
            assert [f.kind for f in self.ping(server)] == [PING]
            server.now += 4.9
        frames = self.ping(server)
        assert goaway(frames) == CALM
        assert frames[-1].payload[8:] == b"too_many_pings"

    def test_slow_enough(self, server: Server) -> None:
        server.raw(unary(1))
        for _ in range(20):
            self.ping(server)
            server.now += 5.0
        assert not server.closed()

    def test_without_calls_even_slow_ones_are_too_many(self, server: Server) -> None:
        for _ in range(4):
            self.ping(server)
            server.now += 60
        assert server.closed()

    def test_what_we_send_forgives(self, server: Server, later: Later) -> None:
        for stream in range(1, 41, 2):
            server.raw(unary(stream))
            later.answer()
            server.take()
            self.ping(server)
            self.ping(server)
        assert not server.closed()

    def test_an_answer_that_leaves_bit_by_bit_forgives(self, server: Server, later: Later) -> None:
        # grpc-go pings for each bit of a long answer, to measure the bandwidth.
        server.raw(unary(1))
        later.answer(bytes(70_000))
        server.take()
        for _ in range(20):
            self.ping(server)
            server.raw(frame(WINDOW, 0, 0, uint32(100)))
            server.raw(frame(WINDOW, 0, 1, uint32(100)))
        assert not server.closed()

    def test_no_interval_still_has_a_budget(self, later: Later) -> None:
        limits = Limits(min_ping_interval_s=0, max_pings=20)
        server = Server((Method("/test.Echo/Unary", unary=later),), limits)
        server.greet()
        for _ in range(20):
            self.ping(server)
        assert not server.closed()
        self.ping(server)
        assert server.closed()


def test_keepalive_of_a_vanished_peer(later: Later) -> None:
    limits = Limits(keepalive_time_s=100, keepalive_timeout_s=20)
    server = Server((Method("/test.Echo/Unary", unary=later),), limits)
    server.greet()
    (ping,) = server.pass_time(130)
    assert (ping.kind, ping.flags) == (PING, 0)
    server.raw(frame(PING, ACK, 0, ping.payload))
    (ping, bye) = server.pass_time(400)
    assert (ping.kind, bye.kind) == (PING, GOAWAY)
    assert server.closed()


class Recorder:
    """A stream handler that writes down what happens."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.streams: list[ServerStream] = []

    def __call__(self, stream: ServerStream) -> None:
        self.streams.append(stream)
        stream.on_message = self.events.append
        stream.on_half_close = lambda: self.events.append("half-closed")
        stream.on_closed = lambda: self.events.append("closed")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def streaming(
    recorder: Callable[[ServerStream], None], limits: Limits | None = None, *settings: bytes
) -> Server:
    server = Server((Method("/test.Echo/Stream", stream=recorder),), limits)
    server.greet(*settings)
    return server


def opened(stream: int = 1, *fields: tuple[str, str]) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, block(*fields, path="/test.Echo/Stream"))


def test_life_of_a_stream(recorder: Recorder) -> None:
    server = streaming(recorder)
    server.raw(opened(1, ("k", "v")))
    (stream,) = recorder.streams
    assert stream.head.metadata == (("k", "v"),)
    stream.send_headers((("m", "1"),))
    stream.send_headers((("m", "2"),))  # too late
    server.raw(frame(DATA, 0, 1, message(b"a") + message(b"b")))
    stream.send_many([b"x", b"y", b"z"])
    frames = server.take()
    assert [f.payload for f in frames if f.kind == DATA] == [
        message(b"x") + message(b"y") + message(b"z")
    ]
    server.raw(frame(DATA, END_STREAM, 1))
    stream.finish(StatusCode.OUT_OF_RANGE, "far", (("t", "2"),))
    stream.finish()
    stream.send(b"ignored")
    frames = server.take()
    assert [f.kind for f in frames] == [HEADERS]
    assert recorder.events == [b"a", b"b", "half-closed", "closed"]
    assert server.fields()[2:] == [
        ("m", "1"),
        ("grpc-status", "11"),
        ("grpc-message", "far"),
        ("t", "2"),
    ]


def test_stream_that_ends_early_tells_the_client_to_stop(recorder: Recorder) -> None:
    server = streaming(recorder)
    server.raw(opened())
    recorder.streams[0].finish()
    frames = server.take()
    assert [f.kind for f in frames] == [HEADERS, RST_STREAM]
    assert frames[1].payload == uint32(NO_ERROR)
    assert server.raw(frame(DATA, END_STREAM, 1, message(b"late"))) == []
    assert recorder.events == ["closed"]


@pytest.mark.parametrize("how", ["reset", "lost", "fault"])
def test_closed_is_told_once_however_it_ends(recorder: Recorder, how: str) -> None:
    server = streaming(recorder)
    server.raw(opened())
    recorder.streams[0].send(b"x" * 100_000)
    if how == "reset":
        server.raw(frame(RST_STREAM, 0, 1, uint32(CANCEL)))
    elif how == "lost":
        server.connection.connection_lost()
    else:
        server.raw(frame(DATA, 0, 0))
    recorder.streams[0].finish()
    assert recorder.events == ["closed"]
    if how == "reset":
        server.take()
        assert server.raw(frame(WINDOW, 0, 0, uint32(1 << 20))) == []
        assert server.connection.unsent_bytes == 0


def test_deadline_of_a_stream(recorder: Recorder) -> None:
    server = streaming(recorder)
    server.raw(opened(1, ("grpc-timeout", "1500m")))
    server.raw(opened(3, ("grpc-timeout", "1500m")))
    server.raw(frame(RST_STREAM, 0, 3, uint32(CANCEL)))
    recorder.streams[0].send(b"x" * 100_000)  # what is unsent does not delay the end
    server.take()
    assert server.pass_time(1.4) == []
    frames = server.pass_time(0.2)
    assert [(f.kind, f.stream) for f in frames] == [(HEADERS, 1), (RST_STREAM, 1)]
    assert ("grpc-status", "4") in server.fields()
    assert ("grpc-message", "context deadline exceeded") in server.fields()
    assert recorder.events == ["closed", "closed"]
    assert server.connection.open_streams == 0


def test_paused_stream_keeps_window_and_messages(recorder: Recorder) -> None:
    server = streaming(recorder, Limits(stream_window_bytes=65_535))
    server.raw(opened())
    (stream,) = recorder.streams
    stream.pause_reading()
    data = frame(DATA, 0, 1, message(bytes(16_000)))
    assert server.raw(data * 3) == []
    assert recorder.events == []
    stream.resume_reading()
    assert recorder.events == [bytes(16_000)] * 3
    (update,) = server.take()
    assert (update.kind, update.stream, update.payload) == (WINDOW, 1, uint32(3 * 16_005))


def test_half_close_waits_for_paused_messages(recorder: Recorder) -> None:
    server = streaming(recorder)
    server.raw(opened())
    (stream,) = recorder.streams
    stream.pause_reading()
    server.raw(frame(DATA, END_STREAM, 1, message(b"last")))
    assert recorder.events == []
    stream.resume_reading()
    assert recorder.events == [b"last", "half-closed"]


def test_unread_bytes_of_a_connection_are_bounded(recorder: Recorder) -> None:
    server = streaming(recorder, Limits(max_unread_bytes=30_000))
    server.raw(opened(1) + opened(3))
    for stream in recorder.streams:
        stream.pause_reading()
    data = message(bytes(16_000))
    server.raw(frame(DATA, 0, 1, data))
    server.raw(frame(DATA, 0, 3, data))
    assert dict(server.fields(3))["grpc-status"] == "8"
    assert server.fields(1) == []
    recorder.streams[0].resume_reading()
    assert server.connection.unread_bytes == 0


def test_writable_below_the_low_water_mark(recorder: Recorder) -> None:
    limits = Limits(low_water_bytes=1_000)
    server = streaming(recorder, limits, setting(INITIAL_WINDOW, 0))
    server.raw(opened())
    (stream,) = recorder.streams
    told: list[int] = []
    stream.on_writable = lambda: told.append(stream.unsent_bytes)
    stream.send(bytes(495))
    server.raw(frame(WINDOW, 0, 1, uint32(500)))
    assert told == []  # it never was above
    stream.send(bytes(2_995))
    assert stream.unsent_bytes == 3_000
    server.raw(frame(WINDOW, 0, 1, uint32(1_500)))
    assert told == []
    server.raw(frame(WINDOW, 0, 1, uint32(700)))
    assert told == [800]
    server.raw(frame(WINDOW, 0, 1, uint32(800)))
    assert told == [800]


def test_messages_beyond_the_send_bound(recorder: Recorder, later: Later) -> None:
    limits = Limits(max_send_bytes=100)
    server = Server(
        (
            Method("/test.Echo/Stream", stream=recorder),
            Method("/test.Echo/Unary", unary=later),
        ),
        limits,
    )
    server.greet()
    server.raw(opened() + unary(3))
    recorder.streams[0].send(bytes(100))
    recorder.streams[0].send(bytes(101))
    later.answer(bytes(101))
    server.take()
    for stream in (1, 3):
        assert dict(server.fields(stream))["grpc-status"] == "8"
        text = "trying to send message larger than max (101 vs. 100)"
        assert dict(server.fields(stream))["grpc-message"] == text


def test_drain_without_an_answer_to_its_ping(later: Later) -> None:
    server = Server((Method("/test.Echo/Unary", unary=later),))
    server.greet()
    server.raw(unary(1))
    server.connection.shutdown()
    server.connection.shutdown()
    first = server.take()
    assert [f.kind for f in first] == [GOAWAY, PING]
    assert struct.unpack(">I", first[0].payload[:4]) == (0x7FFFFFFF,)
    server.raw(unary(3))  # it was on its way
    (last,) = server.pass_time(2)
    assert struct.unpack(">II", last.payload[:8]) == (3, NO_ERROR)
    assert resets(server.raw(unary(5))) == {5: REFUSED}
    assert not server.connection.is_drained
    later.answer()
    assert server.connection.is_drained
