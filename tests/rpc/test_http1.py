"""The HTTP/1.1 side of the shared port: requests in any split, bounds, order, bad input."""

from __future__ import annotations

import re
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.rpc.http1 import Http1Connection
from coord.rpc.http1_messages import Http1Limits, Http1Request, Http1Response, Respond

SMALL = Http1Limits(max_header_bytes=200, max_body_bytes=50, max_pipelined_bytes=100)


class Server:
    """A connection whose handler answers at once with what it was asked, or keeps the answer."""

    def __init__(self, *, later: bool = False, limits: Http1Limits = SMALL) -> None:
        self.requests: list[Http1Request] = []
        self.kept: list[Respond] = []
        self.wakes = 0
        self.later = later
        self.connection = Http1Connection(self.handle, limits=limits, wake=self.wake)

    def handle(self, request: Http1Request, respond: Respond) -> None:
        self.requests.append(request)
        if self.later:
            self.kept.append(respond)
        else:
            respond(answer(request))

    def wake(self) -> None:
        self.wakes += 1

    def closing(self) -> bool:
        return self.connection.should_close

    def feed(self, data: bytes) -> bytes:
        self.connection.feed(data)
        return self.connection.take_output()


def answer(request: Http1Request) -> Http1Response:
    body = f"{request.method} {request.target} ".encode() + request.body
    return Http1Response(200, (("content-type", "text/plain"),), body)


def get(target: str = "/", *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: a", *headers, "", "")).encode()


def post(body: bytes, *headers: str) -> bytes:
    return get("/p", f"Content-Length: {len(body)}", *headers, method="POST") + body


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return get("/c", "Transfer-Encoding: chunked", method="POST") + body


def statuses(output: bytes, *methods: str) -> list[int]:
    """Read the responses with h11's client; one method per request."""
    found: list[int] = []
    rest = output
    for method in methods:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(rest)
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                found.append(event.status_code)
        rest = client.trailing_data[0]
    assert not rest
    return found


# --- requests and responses ---


def test_a_request_and_its_answer() -> None:
    server = Server()
    output = server.feed(get("/version?x=1", "X-Token: \xe4"))
    assert server.requests == [
        Http1Request("GET", "/version?x=1", (("host", "a"), ("x-token", "\xc3\xa4")), b"")
    ]
    assert output == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 17\r\n\r\nGET /version?x=1 "
    )
    assert not server.connection.should_close
    assert server.connection.idle


def test_headers_are_found_by_name() -> None:
    request = Http1Request("GET", "/", (("a", "1"), ("b", "2"), ("a", "3")))
    assert (request.header("a"), request.header("b"), request.header("c")) == ("1", "2", None)


@pytest.mark.parametrize("raw", [post(b"hello"), chunked(b"hel", b"lo")])
def test_bodies(raw: bytes) -> None:
    server = Server()
    server.feed(raw)
    assert server.requests[0].body == b"hello"


def test_pipelined_requests_are_answered_in_order() -> None:
    server = Server()
    output = server.feed(get("/1") + post(b"two") + get("/3"))
    assert [request.target for request in server.requests] == ["/1", "/p", "/3"]
    assert statuses(output, "GET", "POST", "GET") == [200, 200, 200]
    assert server.wakes == 0


def test_many_pipelined_requests_do_not_nest() -> None:
    server = Server()
    server.feed(get("/") * 3000)
    assert len(server.requests) == 3000


def test_head_has_the_length_but_no_body() -> None:
    server = Server()
    output = server.feed(get("/", method="HEAD") + get("/next"))
    head, _, rest = output.partition(b"\r\n\r\n")
    assert b"content-length: 7" in head
    assert rest.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_body(status: int) -> None:
    server = Server(later=True)
    server.feed(get())
    server.kept[0](Http1Response(status, (), b"dropped"))
    output = server.connection.take_output()
    assert output.endswith(b"\r\n\r\n")
    assert b"content-length" not in output
    assert statuses(output, "GET") == [status]


def test_status_without_a_phrase() -> None:
    server = Server(later=True)
    server.feed(get())
    server.kept[0](Http1Response(299))
    assert server.connection.take_output() == b"HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n"


def test_the_application_does_not_set_the_framing() -> None:
    server = Server(later=True)
    server.feed(get())
    headers = (("Content-Length", "7"), ("Transfer-Encoding", "chunked"), ("Connection", "close"))
    server.kept[0](Http1Response(200, headers, b"abc"))
    assert server.connection.take_output() == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"


@pytest.mark.parametrize(
    "raw", [get("/", "Connection: close"), b"GET / HTTP/1.0\r\n\r\n"], ids=["asked", "HTTP/1.0"]
)
def test_connection_that_ends_after_its_answer(raw: bytes) -> None:
    server = Server()
    output = server.feed(raw + get("/ignored"))
    assert statuses(output, "GET") == [200]
    assert len(server.requests) == 1
    assert server.connection.should_close
    assert server.feed(get()) == b""


def test_upgrades_are_answered_as_plain_requests() -> None:
    server = Server()
    upgrade = get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA")
    output = server.feed(upgrade + get("/next"))
    assert statuses(output, "GET", "GET") == [200, 200]


# --- answers that come later ---


def test_a_later_answer_wakes_the_shell() -> None:
    server = Server(later=True)
    assert server.feed(get("/1") + get("/2")) == b""
    assert server.connection.answering
    assert server.feed(get("/3")) == b""
    for number in range(3):
        assert server.wakes == number
        server.kept[number](answer(server.requests[number]))
    assert [request.target for request in server.requests] == ["/1", "/2", "/3"]
    assert statuses(server.connection.take_output(), "GET", "GET", "GET") == [200, 200, 200]
    assert server.connection.idle


def test_only_the_first_answer_counts() -> None:
    server = Server(later=True)
    server.feed(get("/1") + get("/2"))
    server.kept[0](Http1Response(200))
    server.kept[0](Http1Response(500))
    assert statuses(server.connection.take_output(), "GET") == [200]
    assert len(server.kept) == 2


def test_input_behind_a_slow_answer_is_bounded() -> None:
    server = Server(later=True)
    server.feed(get())
    server.feed(b"x" * 100)
    assert not server.closing()
    server.feed(b"x")
    assert server.closing()
    server.kept[0](Http1Response(200))
    assert server.connection.take_output() == b""


def test_an_answer_that_cannot_be_sent_can_be_replaced() -> None:
    server = Server(later=True)
    server.feed(get())
    for wrong in (
        Http1Response(200, (("x", "a\r\nb"),)),
        Http1Response(200, (("x y", "a"),)),
        Http1Response(200, (("x", "\u20ac"),)),
        Http1Response(42),
    ):
        with pytest.raises(ValueError, match="cannot be sent"):
            server.kept[0](wrong)
    server.kept[0](Http1Response(500))
    assert statuses(server.connection.take_output(), "GET") == [500]


def test_what_the_handler_raises_comes_out_after_a_500() -> None:
    def broken(request: Http1Request, respond: Respond) -> None:
        raise LookupError("bug")

    connection = Http1Connection(broken)
    with pytest.raises(LookupError, match="bug"):
        connection.feed(get())
    assert statuses(connection.take_output(), "GET") == [500]
    assert connection.should_close


def test_a_handler_that_fails_after_its_answer_changes_nothing() -> None:
    def broken(request: Http1Request, respond: Respond) -> None:
        respond(Http1Response(200))
        raise LookupError("bug")

    connection = Http1Connection(broken)
    with pytest.raises(LookupError, match="bug"):
        connection.feed(get())
    assert statuses(connection.take_output(), "GET") == [200]
    assert not connection.should_close


# --- the end of input ---


def test_eof_between_requests() -> None:
    server = Server()
    server.feed(get())
    server.connection.eof()
    assert server.connection.should_close


def test_eof_behind_a_whole_request_still_gets_the_answer() -> None:
    server = Server(later=True)
    server.feed(get())
    server.connection.eof()
    assert not server.connection.should_close
    server.kept[0](Http1Response(200))
    assert statuses(server.connection.take_output(), "GET") == [200]
    assert server.connection.should_close


def test_eof_within_a_request() -> None:
    server = Server()
    server.feed(post(b"hello")[:-1])
    assert not server.connection.idle
    server.connection.eof()
    assert statuses(server.connection.take_output(), "POST") == [400]
    assert server.connection.should_close
    assert server.requests == []


# --- bounds ---


def test_header_bound_is_exact() -> None:
    room = 200 - len(get("/", "X: "))
    for extra, expected in ((0, 200), (1, 431)):
        raw = get("/", "X: " + "v" * (room + extra))
        for size in (1, len(raw)):
            server = Server()
            output = b"".join(
                server.feed(raw[start : start + size]) for start in range(0, len(raw), size)
            )
            assert statuses(output, "GET") == [expected]
            assert server.connection.should_close == (expected == 431)


def test_header_bound_counts_one_request_at_a_time() -> None:
    server = Server()
    for _ in range(5):
        assert statuses(server.feed(post(b"x" * 40, "X: " + "v" * 100)), "POST") == [200]
    output = server.feed(b"".join(post(b"x" * 40, "X: " + "v" * 100) for _ in range(5)))
    assert statuses(output, *["POST"] * 5) == [200] * 5


def test_endless_headers_are_refused_early() -> None:
    server = Server()
    output = b""
    fed = 0
    while not output:
        output = server.feed(b"X-Filler: y\r\n" if fed else b"GET / HTTP/1.1\r\n")
        fed += 13
    assert statuses(output, "GET") == [431]
    assert fed < 300


@pytest.mark.parametrize("extra", [0, 1, 1000])
def test_body_bound(extra: int) -> None:
    body = b"x" * (50 + extra)
    expected = [413 if extra else 200]
    for raw in (post(body), chunked(*(body[i : i + 7] for i in range(0, len(body), 7)))):
        server = Server()
        assert statuses(server.feed(raw), "POST") == expected
        assert server.connection.should_close == bool(extra)
        assert len(server.requests) == int(not extra)


def test_body_is_refused_by_its_announcement() -> None:
    server = Server()
    output = server.feed(get("/", "Content-Length: 51", "Expect: 100-continue", method="POST"))
    assert statuses(output, "POST") == [413]
    assert b"100 Continue" not in output


def test_continue_is_sent_before_the_body() -> None:
    server = Server()
    raw = post(b"hello", "Expect: 100-continue")
    assert server.feed(raw[:-5]) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert statuses(server.feed(raw[-5:]), "POST") == [200]


# --- bad input ---


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"junk\r\n\r\n", id="no request line"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS hello"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost a\r\n\r\n", id="header without colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", id="NUL in a value"),
        pytest.param(get("/", "Content-Length: -1"), id="negative length"),
        pytest.param(get("/", "Content-Length: 1", "Content-Length: 2"), id="two lengths"),
        pytest.param(get("/", "Content-Length: 3", "Transfer-Encoding: chunked"), id="smuggling"),
        pytest.param(get("/", "Transfer-Encoding: chunked") + b"zz\r\n", id="no chunk size"),
    ],
)
def test_malformed_requests_get_a_400_and_the_end(raw: bytes) -> None:
    server = Server()
    assert statuses(server.feed(raw + get("/next")), "GET") == [400]
    assert server.connection.should_close
    assert server.requests == []


def test_connect_is_not_for_us() -> None:
    server = Server()
    assert statuses(server.feed(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"), "GET") == [405]
    assert server.connection.should_close


@pytest.mark.parametrize("raw", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n"])
def test_other_versions(raw: bytes) -> None:
    server = Server()
    assert statuses(server.feed(raw), "GET") == [505]
    assert server.connection.should_close


def test_unknown_transfer_encodings() -> None:
    server = Server()
    assert statuses(server.feed(get("/", "Transfer-Encoding: gzip")), "GET") == [501]


def test_a_malformed_request_behind_good_ones() -> None:
    server = Server()
    output = server.feed(get() + get() + b"junk\r\n\r\n")
    assert statuses(output, "GET", "GET", "GET") == [200, 200, 400]


# --- any split is the whole ---

requests = st.one_of(
    st.sampled_from(["/", "/version", "/health?serializable=1"]).map(get),
    st.binary(max_size=60).map(post),
    st.lists(st.binary(min_size=1, max_size=30), max_size=3).map(lambda parts: chunked(*parts)),
    st.just(get("/", method="HEAD")),
    st.just(get("/", "Connection: close")),
    st.just(get("/", "X: " + "v" * 300)),
    st.binary(max_size=30),
)


def run(raw: bytes, cuts: list[int]) -> tuple[bytes, bool, list[Http1Request]]:
    server = Server()
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    output = b"".join(server.feed(raw[start:stop]) for start, stop in pairwise(edges))
    server.connection.eof()
    output += server.connection.take_output()
    # A head that is malformed as well as too large may be refused for either.
    output = re.sub(rb"(?s)HTTP/1.1 4(00|31) .*\Z", b"refused", output)
    return output, server.connection.should_close, server.requests


@given(st.lists(requests, max_size=4), st.lists(st.integers(0, 2000), max_size=6))
def test_splits_do_not_matter(parts: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(parts)
    whole = run(raw, [])
    assert run(raw, cuts) == whole
    assert run(raw, list(range(len(raw)))) == whole
