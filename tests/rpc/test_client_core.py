"""The client's side of a connection against raw frames.

Most cases run with their bytes whole, one by one, and in sevens.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.rpc.calls import UnaryCall
from coord.rpc.limits import CLIENT_LIMITS
from coord.rpc.status import RpcError, StatusCode
from tests.rpc.raw_peer import (
    CALM,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW,
    GOAWAY,
    HEADERS,
    MAGIC,
    PING,
    PROTOCOL,
    PUSH,
    REFUSED,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    Frame,
    frame,
    message,
    setting,
    uint32,
)
from tests.rpc.raw_server import (
    HEAD,
    RawServer,
    Result,
    answer,
    body,
    fields,
    head,
    only_trailers,
    trailers,
)

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW = 1, 2, 3, 4


@pytest.fixture(params=[None, 1, 7], ids=["whole", "bytewise", "sevens"])
def server(request: pytest.FixtureRequest) -> RawServer:
    server = RawServer(request.param)
    server.greet()
    return server


def kinds(frames: list[Frame]) -> list[int]:
    return [found.kind for found in frames]


def test_client_greets_with_preface_and_settings() -> None:
    server = RawServer()
    output = server.client.take_output()
    assert output.startswith(MAGIC)
    assert output[len(MAGIC) + 3] == SETTINGS
    assert not server.client.is_ready
    assert [f.kind for f in server.greet()] == [SETTINGS]  # the acknowledgement
    assert server.client.is_ready


def test_unary_call(server: RawServer) -> None:
    server.call("a", b"request", timeout=10.0, metadata=(("k", "v"), ("b-bin", b"\0\1")))
    frames = server.take()
    assert [(f.kind, f.flags, f.stream) for f in frames] == [
        (HEADERS, END_HEADERS, 1),
        (DATA, END_STREAM, 1),
    ]
    assert frames[1].payload == message(b"request")
    assert server.headers[1] == [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/s/M"),
        ("content-type", "application/grpc"),
        ("user-agent", "coord"),
        ("te", "trailers"),
        ("k", "v"),
        ("b-bin", "AAE"),
        ("grpc-timeout", "10000000u"),
    ]
    assert server.raw(answer(1, b"reply")) == []
    assert server.results == {"a": b"reply"}
    assert server.client.open_calls == 0


def test_a_burst_of_calls_does_not_wait_for_its_end(server: RawServer) -> None:
    for number in range(18):
        server.call(f"{number}")
    assert [len(frames) for frames in server.pushed] == [8, 8, 8, 8]  # two frames for each call
    frames = [f for frames in [*server.pushed, server.take()] for f in frames]
    assert [f.stream for f in frames if f.kind == DATA] == [2 * n + 1 for n in range(18)]


def test_the_more_calls_are_open_the_larger_the_pieces_of_a_burst(server: RawServer) -> None:
    for number in range(250):
        server.call(f"{number}")
    server.take()
    server.pushed.clear()
    for number in range(250, 320):
        server.call(f"{number}")
    # An eighth of 286 and of 320 calls.
    assert [len(frames) // 2 for frames in server.pushed] == [36]
    assert len(server.take()) // 2 == 34


def test_a_burst_tells_no_end_before_its_call_returns() -> None:
    server = RawServer(limits=replace(CLIENT_LIMITS, max_send_bytes=10))
    server.greet()
    for number in range(200):
        server.call(f"{number}", b"too large" * 2)
        assert server.results[f"{number}"] is None
    server.take()
    assert server.error("199").code is StatusCode.RESOURCE_EXHAUSTED


def test_calls_made_while_answers_are_taken_leave_together(server: RawServer) -> None:
    def go_on(_: Result) -> None:
        for number in range(100):
            server.call(f"{number}")

    server.client.start_unary("/s/M", b"", go_on)
    server.take()
    frames = server.raw(answer(1))
    assert server.pushed == []
    assert len(frames) == 200


def test_repeated_calls_cost_a_few_bytes_of_headers(server: RawServer) -> None:
    sizes: list[int] = []
    for number in range(3):
        server.call(f"{number}")
        sizes.append(len(server.take()[0].payload))
        server.raw(answer(2 * number + 1))
        assert (":path", "/s/M") in server.headers[2 * number + 1]
    assert sizes[0] >= 40
    assert sizes[2] <= 10


@pytest.mark.parametrize("size", [0, 60, 300])
def test_header_table_of_the_server_is_obeyed(size: int) -> None:
    server = RawServer()
    server.decoder.max_allowed_table_size = size
    server.greet(setting(HEADER_TABLE_SIZE, size))
    for number in range(4):
        server.call(f"{number}", timeout=1.0)
        server.take()  # the oracle refuses what goes beyond
        assert server.decoder.header_table_size <= size
        assert (":path", "/s/M") in server.headers[2 * number + 1]


def test_calls_wait_for_the_servers_settings() -> None:
    server = RawServer()
    server.call("a")
    assert HEADERS not in kinds(server.take())
    assert HEADERS in kinds(server.greet())
    server.raw(answer(1))
    assert server.results == {"a": b"ok"}


def test_calls_wait_for_the_limit_of_streams() -> None:
    server = RawServer()
    server.greet(setting(MAX_STREAMS, 2))
    for name in "abcd":
        server.call(name)
    assert [f.stream for f in server.take() if f.kind == HEADERS] == [1, 3]
    assert [f.stream for f in server.raw(answer(1)) if f.kind == HEADERS] == [5]
    assert [f.stream for f in server.raw(answer(3) + answer(5)) if f.kind == HEADERS] == [7]
    server.raw(answer(7))
    assert server.results == dict.fromkeys("abcd", b"ok")


def test_all_of_one_feed_is_told_in_one_sweep_and_what_it_starts_leaves_together() -> None:
    server = RawServer()
    server.greet()
    seen: list[int] = []

    def done(result: Result) -> None:
        # All answers have been taken off the books before the first caller hears.
        seen.append(server.client.open_calls)
        if len(seen) <= 3:
            server.client.start_unary("/s/M", b"next", done)

    for _ in range(3):
        server.client.start_unary("/s/M", b"x", done)
    server.take()
    wakes = server.wakes
    frames = server.raw(answer(1) + answer(3) + answer(5))
    assert seen == [0, 1, 2]
    assert [f.stream for f in frames if f.kind == HEADERS] == [7, 9, 11]
    assert server.wakes == wakes  # the shell takes output after a feed anyway


def test_one_wake_for_many_calls() -> None:
    server = RawServer()
    server.greet()
    wakes = server.wakes
    for name in "abc":
        server.call(name)
    assert server.wakes == wakes + 1


def test_callback_that_raises_is_reported_and_harms_no_other() -> None:
    server = RawServer()
    server.greet()

    def broken(result: Result) -> None:
        raise KeyError("mine")

    server.client.start_unary("/s/M", b"x", broken)
    server.call("b")
    server.take()
    server.raw(answer(1) + answer(3))
    assert [type(error) for error in server.errors] == [KeyError]
    assert server.results == {"b": b"ok"}


STATUSES = {
    "only trailers": (
        only_trailers(1, *HEAD, ("grpc-status", "5"), ("grpc-message", "no %E2%82%AC")),
        (StatusCode.NOT_FOUND, "no €"),
    ),
    "after a message": (
        head(1) + body(1, b"x") + trailers(1, 9, ("grpc-message", "late")),
        (StatusCode.FAILED_PRECONDITION, "late"),
    ),
    "unknown number": (
        only_trailers(1, *HEAD, ("grpc-status", "77")),
        (StatusCode.UNKNOWN, ""),
    ),
    "no status": (
        head(1) + only_trailers(1, ("x", "y")),
        (StatusCode.INTERNAL, "server closed the stream without sending trailers"),
    ),
    "http 404": (
        only_trailers(1, (":status", "404"), ("content-type", "text/plain")),
        (StatusCode.UNIMPLEMENTED, "unexpected HTTP status 404 from the server"),
    ),
    "http 503, without end": (
        frame(HEADERS, END_HEADERS, 1, fields((":status", "503"))),
        (StatusCode.UNAVAILABLE, "unexpected HTTP status 503 from the server"),
    ),
    "http 405 of a gRPC server": (
        only_trailers(1, (":status", "405"), HEAD[1], ("grpc-status", "13")),
        (StatusCode.INTERNAL, ""),
    ),
    "content-type": (
        frame(HEADERS, END_HEADERS, 1, fields(HEAD[0], ("content-type", "text/html"))),
        (StatusCode.UNKNOWN, "unexpected content-type 'text/html' from the server"),
    ),
    "no content-type": (
        frame(HEADERS, END_HEADERS, 1, fields(HEAD[0])),
        (StatusCode.UNKNOWN, "unexpected content-type none from the server"),
    ),
    "end on data": (
        head(1) + frame(DATA, END_STREAM, 1, message(b"x")),
        (StatusCode.INTERNAL, "server closed the stream without sending trailers"),
    ),
    "no message": (
        head(1) + trailers(1),
        (StatusCode.INTERNAL, "cardinality violation: answer of a unary call is not one message"),
    ),
    "two messages": (
        head(1) + body(1, b"x") + body(1, b"y") + trailers(1),
        (StatusCode.INTERNAL, "cardinality violation: answer of a unary call is not one message"),
    ),
    "half a message": (
        head(1) + frame(DATA, 0, 1, message(b"whole")[:-1]) + trailers(1),
        (StatusCode.INTERNAL, "cardinality violation: answer of a unary call is not one message"),
    ),
    "compressed": (
        head(1) + frame(DATA, 0, 1, message(b"x", flag=1)),
        (StatusCode.INTERNAL, "grpc: compressed flag set with identity or empty encoding"),
    ),
    "bad binary metadata": (
        only_trailers(1, *HEAD, ("grpc-status", "0"), ("a-bin", "!!")),
        (StatusCode.INTERNAL, "malformed header: metadata value of 'a-bin' is not base64"),
    ),
}


@pytest.mark.parametrize("case", STATUSES)
def test_how_calls_fail(server: RawServer, case: str) -> None:
    data, (code, text) = STATUSES[case]
    server.call("a")
    server.take()
    server.raw(data)
    error = server.error("a")
    assert (error.code, error.message, error.sent) == (code, text, True)
    # The connection has survived, and the stream's number is not used again.
    server.call("b")
    assert [f.stream for f in server.take() if f.kind == HEADERS] == [3]
    server.raw(answer(3))
    assert server.results["b"] == b"ok"


def test_informational_heads_are_skipped(server: RawServer) -> None:
    server.call("a")
    server.take()
    server.raw(frame(HEADERS, END_HEADERS, 1, fields((":status", "103"))) + answer(1))
    assert server.results == {"a": b"ok"}


def test_trailers_come_with_the_error(server: RawServer) -> None:
    server.call("a")
    server.take()
    server.raw(only_trailers(1, *HEAD, ("grpc-status", "3"), ("why", "so"), ("d-bin", "AAE=")))
    assert server.error("a").trailers == (("why", "so"), ("d-bin", b"\0\1"))


@pytest.mark.parametrize(
    ("code", "status", "sent"),
    [
        (REFUSED, StatusCode.UNAVAILABLE, False),
        (CANCEL, StatusCode.CANCELLED, True),
        (CALM, StatusCode.RESOURCE_EXHAUSTED, True),
        (PROTOCOL, StatusCode.INTERNAL, True),
        (0xABCD, StatusCode.UNKNOWN, True),
    ],
)
def test_resets(server: RawServer, code: int, status: StatusCode, sent: bool) -> None:
    server.call("a")
    server.take()
    server.raw(frame(RST_STREAM, 0, 1, uint32(code)))
    error = server.error("a")
    assert (error.code, error.sent) == (status, sent)


def test_goaway_fails_what_was_not_processed_and_waits_for_the_rest(server: RawServer) -> None:
    for name in "abc":
        server.call(name)
    server.take()
    server.raw(frame(GOAWAY, 0, 0, uint32(3) + uint32(0) + b"bye"))
    error = server.error("c")
    assert (error.code, error.sent) == (StatusCode.UNAVAILABLE, False)
    assert error.message == "server is going away: bye"
    assert not server.client.is_ready
    server.call("late")
    server.take()
    assert server.error("late").sent is False
    drained: list[bool] = []
    for stream in (1, 3):
        server.raw(answer(stream))
        drained.append(server.client.is_drained)
    assert drained == [False, True]
    assert (server.results["a"], server.results["b"]) == (b"ok", b"ok")


def test_goaway_fails_calls_that_wait() -> None:
    server = RawServer()
    server.greet(setting(MAX_STREAMS, 1))
    server.call("a")
    server.call("b", timeout=5.0)
    server.take()
    server.raw(frame(GOAWAY, 0, 0, uint32(0x7FFFFFFF) + uint32(0)))
    assert server.error("b").sent is False
    server.raw(answer(1))
    assert server.results["a"] == b"ok"
    assert server.client.is_drained


def test_deadline(server: RawServer) -> None:
    server.call("a", timeout=2.0)
    server.call("b", timeout=3.0)
    server.take()
    assert 102.0 <= server.client.timer_at <= 102.02
    server.now = server.client.timer_at
    server.client.on_timer()
    error = server.error("a")
    assert (error.code, error.message) == (
        StatusCode.DEADLINE_EXCEEDED,
        "context deadline exceeded",
    )
    assert error.sent
    assert server.take() == [Frame(RST_STREAM, 0, 1, uint32(CANCEL))]
    assert "b" not in server.order
    server.raw(answer(1) + answer(3))  # the late one does no harm
    assert server.results["b"] == b"ok"
    server.now = 104.0
    server.client.on_timer()
    assert server.order == ["a", "b"]


def test_deadline_of_calls_that_never_left() -> None:
    server = RawServer()
    server.greet(setting(MAX_STREAMS, 1))
    server.call("a")
    server.take()
    server.call("queued", timeout=1.0)
    server.call("at once", timeout=0)
    server.take()
    assert not server.error("at once").sent
    server.now = 101.5
    server.client.on_timer()
    error = server.error("queued")
    assert (error.code, error.sent) == (StatusCode.DEADLINE_EXCEEDED, False)
    assert server.take() == []
    assert server.client.open_calls == 1


def test_time_spent_waiting_counts(server: RawServer) -> None:
    server.raw(frame(SETTINGS, 0, 0, setting(MAX_STREAMS, 1)))
    server.call("a")
    server.call("b", timeout=3.0)
    server.take()
    server.now += 1
    server.raw(answer(1))
    assert ("grpc-timeout", "2000000u") in server.headers[3]


def test_cancel(server: RawServer) -> None:
    first, second = server.call("a"), server.call("b")
    server.take()
    first.cancel()
    first.cancel()
    assert server.take() == [Frame(RST_STREAM, 0, 1, uint32(CANCEL))]
    server.raw(answer(1) + answer(3))
    assert server.results == {"a": None, "b": b"ok"}
    second.cancel()
    assert server.take() == []


def test_cancel_of_a_call_that_waits() -> None:
    server = RawServer()
    server.greet(setting(MAX_STREAMS, 1))
    server.call("a")
    waiting = server.call("b", timeout=1.0)
    server.take()
    waiting.cancel()
    assert server.client.open_calls == 1
    assert HEADERS not in kinds(server.raw(answer(1)))
    assert server.results == {"a": b"ok", "b": None}


def test_cancel_by_another_callback_of_the_same_sweep() -> None:
    server = RawServer()
    server.greet()
    calls: list[UnaryCall] = []
    server.client.start_unary("/s/M", b"", lambda result: calls[0].cancel())
    calls.append(server.call("b"))
    server.take()
    server.raw(answer(1) + answer(3))
    assert server.results == {"b": None}


def test_lost_connection_tells_what_may_have_been_processed(server: RawServer) -> None:
    server.call("whole")
    server.call("partly", b"x" * 70_000)
    server.take()
    server.call("never")
    server.client.connection_lost()
    server.client.sweep()
    flags = {name: server.error(name).sent for name in server.results}
    assert flags == {"whole": True, "partly": False, "never": False}
    assert {server.error(name).code for name in flags} == {StatusCode.UNAVAILABLE}
    server.call("after")
    server.client.sweep()
    assert server.error("after").sent is False


def test_large_request_waits_for_windows(server: RawServer) -> None:
    data = bytes(range(256)) * 400
    server.call("a", data)
    sent = b"".join(f.payload for f in server.take() if f.kind == DATA)
    assert len(sent) == 65_535
    assert server.raw(frame(WINDOW, 0, 1, uint32(100_000))) == []
    frames = server.raw(frame(WINDOW, 0, 0, uint32(100_000)))
    sent += b"".join(f.payload for f in frames)
    assert sent == message(data)
    assert all(len(f.payload) <= 16_384 for f in frames)
    assert frames[-1].flags == END_STREAM
    server.raw(answer(1))
    assert server.results == {"a": b"ok"}


def test_answer_before_the_request_is_whole_stops_the_request(server: RawServer) -> None:
    server.call("a", b"x" * 70_000)
    server.take()
    frames = server.raw(only_trailers(1, *HEAD, ("grpc-status", "8")))
    assert kinds(frames) == [RST_STREAM]
    assert server.error("a").code is StatusCode.RESOURCE_EXHAUSTED
    assert server.raw(frame(WINDOW, 0, 0, uint32(100_000))) == []
    assert server.client.unsent_bytes == 0


def test_large_answer_gets_its_windows_back() -> None:
    limits = replace(CLIENT_LIMITS, stream_window_bytes=70_000, connection_window_bytes=70_000)
    server = RawServer(limits=limits)
    server.greet()
    server.call("a")
    server.take()
    data = b"x" * 200_000
    payload = message(data)
    server.raw(head(1))
    granted = {0: 70_000, 1: 70_000}
    while payload:
        size = min(*granted.values(), 16_384, len(payload))
        assert size > 0, "the client starves us"
        for found in server.raw(frame(DATA, 0, 1, payload[:size])):
            assert found.kind == WINDOW
            granted[found.stream] += int.from_bytes(found.payload, "big")
        payload = payload[size:]
        granted = {key: window - size for key, window in granted.items()}
    server.raw(trailers(1))
    assert server.results == {"a": data}


def test_answer_beyond_the_bound_is_refused_by_its_prefix() -> None:
    server = RawServer(limits=replace(CLIENT_LIMITS, max_receive_bytes=100))
    server.greet()
    server.call("a")
    server.call("b")
    server.take()
    frames = server.raw(head(1) + frame(DATA, 0, 1, message(b"x" * 101)[:5]))
    assert frames == [Frame(RST_STREAM, 0, 1, uint32(CANCEL))]
    error = server.error("a")
    assert error.code is StatusCode.RESOURCE_EXHAUSTED
    assert error.message == "grpc: received message larger than max (101 vs. 100)"
    server.raw(answer(3, b"x" * 100))
    assert server.results["b"] == b"x" * 100


def test_request_beyond_the_bound_is_not_sent() -> None:
    server = RawServer(limits=replace(CLIENT_LIMITS, max_send_bytes=10))
    server.greet()
    server.call("a", b"x" * 11)
    assert DATA not in kinds(server.take())
    error = server.error("a")
    assert (error.code, error.sent) == (StatusCode.RESOURCE_EXHAUSTED, False)


def test_metadata_that_cannot_be_sent_raises_and_leaves_nothing(server: RawServer) -> None:
    with pytest.raises(ValueError, match="reserved"):
        server.call("a", metadata=(("grpc-status", "0"),))
    assert server.take() == []
    assert server.client.open_calls == 0


CONNECTION_ERRORS = {
    "push": frame(PUSH, END_HEADERS, 1, uint32(2) + fields(HEAD[0])),
    "head of an idle stream": head(9),
    "data of an idle stream": body(9, b"x"),
    "even stream": head(2),
    "push enabled": frame(SETTINGS, 0, 0, setting(ENABLE_PUSH, 1)),
    "window beyond bounds": frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW, 1 << 31)),
    "settings on a stream": frame(SETTINGS, 0, 1),
    "frame too large": frame(DATA, 0, 1, bytes(16_385)),
    "broken header block": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("case", CONNECTION_ERRORS)
def test_connection_errors(server: RawServer, case: str) -> None:
    server.call("a")
    server.take()
    frames = server.raw(CONNECTION_ERRORS[case])
    assert GOAWAY in kinds(frames)
    assert server.client.wants_close
    error = server.error("a")
    assert (error.code, error.sent) == (StatusCode.UNAVAILABLE, True)


STREAM_ERRORS = {
    "data before the head": body(1, b"x"),
    "two heads": head(1) + head(1),
    "window update of nothing": frame(WINDOW, 0, 1, uint32(0)),
}


@pytest.mark.parametrize("case", STREAM_ERRORS)
def test_stream_errors(server: RawServer, case: str) -> None:
    server.call("a")
    server.take()
    frames = server.raw(STREAM_ERRORS[case])
    assert frames == [Frame(RST_STREAM, 0, 1, uint32(PROTOCOL))]
    assert server.error("a").code is StatusCode.INTERNAL
    assert not server.client.wants_close


def test_stream_window_is_enforced() -> None:
    limits = replace(CLIENT_LIMITS, stream_window_bytes=65_535)
    server = RawServer(limits=limits)
    server.greet()
    stream = server.stream()
    server.take()
    data = frame(DATA, 0, 1, message(bytes(16_000)))
    frames = server.raw(head(1) + data * 5)
    assert frames == [Frame(RST_STREAM, 0, 1, uint32(FLOW))]
    assert stream.end is not None
    assert stream.end.code is StatusCode.INTERNAL


def test_stream_by_callbacks(server: RawServer) -> None:
    stream = server.stream()
    events: list[object] = []
    stream.on_message = events.append
    stream.on_closed = events.append
    stream.send(b"one")
    stream.half_close()
    frames = server.take()
    assert [(f.kind, f.flags) for f in frames] == [
        (HEADERS, END_HEADERS),
        (DATA, 0),
        (DATA, END_STREAM),
    ]
    server.raw(head(1, ("m", "1")) + body(1, b"a") + body(1, b"b"))
    assert stream.initial_metadata == (("m", "1"),)
    assert events == [b"a", b"b"]
    server.raw(trailers(1, 0, ("t", "2")))
    assert events == [b"a", b"b", None]
    assert stream.trailing_metadata == (("t", "2"),)


def test_stream_that_nobody_reads_keeps_its_window() -> None:
    limits = replace(CLIENT_LIMITS, stream_window_bytes=65_535)
    server = RawServer(limits=limits)
    server.greet()
    stream = server.stream()
    server.take()
    data = b"".join(body(1, bytes(16_000)) for _ in range(4))
    assert server.raw(head(1) + data) == []
    taken: list[bytes] = []
    stream.on_message = taken.append
    stream.deliver()
    assert len(taken) == 4
    frames = server.take()
    assert [(f.kind, f.stream) for f in frames] == [(WINDOW, 1)]
    assert int.from_bytes(frames[0].payload, "big") == 4 * 16_005


def test_pausing_within_a_feed(server: RawServer) -> None:
    stream = server.stream()
    server.take()
    taken: list[bytes] = []
    closed: list[object] = []

    def on_message(data: bytes) -> None:
        taken.append(data)
        stream.pause_reading()

    stream.on_message = on_message
    stream.on_closed = closed.append
    server.raw(head(1) + body(1, b"1") + body(1, b"2") + trailers(1))
    assert (taken, closed) == ([b"1"], [])
    stream.resume_reading()
    assert (taken, closed) == ([b"1", b"2"], [None])


def test_cancelled_stream(server: RawServer) -> None:
    stream = server.stream()
    closed: list[RpcError | None] = []
    stream.on_closed = closed.append
    stream.send(b"x" * 100_000)
    server.take()
    stream.cancel()
    stream.cancel()
    stream.send(b"ignored")
    assert kinds(server.take()) == [RST_STREAM]
    assert [error.code for error in closed if error] == [StatusCode.CANCELLED]
    assert server.client.unsent_bytes == 0
    server.raw(answer(1))
    assert len(closed) == 1


def test_deadline_of_a_stream(server: RawServer) -> None:
    stream = server.stream(timeout=1.0)
    server.take()
    server.now += 1.5
    server.client.on_timer()
    assert stream.end is not None
    assert stream.end.code is StatusCode.DEADLINE_EXCEEDED
    assert server.take() == [Frame(RST_STREAM, 0, 1, uint32(CANCEL))]


def test_keepalive() -> None:
    limits = replace(
        CLIENT_LIMITS,
        keepalive_time_s=8.0,
        keepalive_timeout_s=2.0,
        keepalive_without_calls=False,
    )
    server = RawServer(limits=limits)
    server.greet()

    def wait_for_output(until: float) -> list[Frame]:
        while not (frames := server.take()) and server.client.timer_at <= until:
            server.now = server.client.timer_at
            server.client.on_timer()
        return frames

    assert wait_for_output(200.0) == []  # no call, no ping
    server.call("a")
    server.take()
    started = server.now
    (ping,) = wait_for_output(300.0)
    assert (ping.kind, ping.flags) == (PING, 0)
    assert 4.0 <= server.now - started <= 12.0
    server.raw(frame(PING, 1, 0, ping.payload))
    assert "a" not in server.order
    (ping,) = wait_for_output(300.0)
    assert ping.kind == PING
    frames = wait_for_output(300.0)
    assert kinds(frames) == [GOAWAY]
    error = server.error("a")
    assert (error.code, error.sent) == (StatusCode.UNAVAILABLE, True)
    assert "keepalive" in error.message


def test_silent_server_is_given_up() -> None:
    server = RawServer()
    server.take()
    server.now = server.client.timer_at
    assert server.now == 110.0
    server.client.on_timer()
    assert server.client.wants_close


MOMENTS = st.sampled_from(
    [
        head(1),
        body(1, b"one"),
        frame(DATA, 0, 1, message(b"two halves")[:7]),
        frame(DATA, 0, 1, message(b"two halves")[7:]),
        trailers(1),
        trailers(1, 5, ("grpc-message", "gone")),
        answer(3, b"three"),
        answer(5),
        head(5),
        body(5, b""),
        body(5, bytes(300)),
        trailers(5),
        frame(RST_STREAM, 0, 3, uint32(REFUSED)),
        frame(RST_STREAM, 0, 1, uint32(CANCEL)),
        frame(WINDOW, 0, 0, uint32(5)),
        frame(WINDOW, 0, 1, uint32(5)),
        frame(PING, 0, 0, bytes(8)),
        frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW, 10)),
        frame(SETTINGS, 0, 0, setting(MAX_STREAMS, 1)),
        frame(GOAWAY, 0, 0, uint32(3) + uint32(0)),
        frame(0x77, 0, 0, b"unknown"),
    ]
)


def _play(moments: list[bytes], splits: list[int]) -> tuple[object, ...]:
    """Feed a session; return everything that can be seen of it."""
    server = RawServer()
    server.greet()
    events: list[tuple[str, object]] = []
    server.call("a")
    server.call("b", b"x" * 100)
    stream = server.stream()
    stream.on_message = lambda data: events.append(("message", data))
    stream.on_closed = lambda end: events.append(("closed", end and (end.code, end.sent)))
    stream.send(b"hello")
    server.call("c")
    output = server.client.take_output()
    data = b"".join(moments)
    for size in splits:
        server.client.feed(data[:size])
        data = data[size:]
        if not data:
            break
    server.client.feed(data)
    output += server.client.take_output()
    results = {
        name: (result.code, result.message, result.sent) if isinstance(result, RpcError) else result
        for name, result in server.results.items()
    }
    return output, results, server.order, events, server.client.open_calls, server.errors


@given(st.lists(MOMENTS, max_size=12), st.lists(st.integers(1, 40), max_size=60))
def test_splits_do_not_matter(moments: list[bytes], splits: list[int]) -> None:
    assert _play(moments, splits) == _play(moments, [])


@given(st.lists(MOMENTS, max_size=8))
def test_byte_by_byte(moments: list[bytes]) -> None:
    size = sum(len(moment) for moment in moments)
    assert _play(moments, [1] * size) == _play(moments, [])
