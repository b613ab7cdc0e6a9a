"""Everything that ``connect()`` takes, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.errors import InvalidArgument
from coord.runtime import Address, TcpAddress, UnixAddress
from coord.target import TargetKind, TlsConfig, parse_target


def addresses(given: str | Sequence[str]) -> list[Address]:
    return [endpoint.address for endpoint in parse_target(given).endpoints]


@pytest.mark.parametrize(
    ("given", "expected", "tls"),
    [
        ("host:1", TcpAddress("host", 1), False),
        ("http://host:1", TcpAddress("host", 1), False),
        ("http://host:1/", TcpAddress("host", 1), False),
        ("http://host", TcpAddress("host", 2379), False),
        ("https://host:1", TcpAddress("host", 1), True),
        ("[::1]:1", TcpAddress("::1", 1), False),
        ("https://[::1]", TcpAddress("::1", 2379), True),
        ("unix:///run/e.sock", UnixAddress("/run/e.sock"), False),
        ("unix://e.sock", UnixAddress("e.sock"), False),
        ("unix:e.sock", UnixAddress("e.sock"), False),
        ("unixs:///run/e.sock", UnixAddress("/run/e.sock"), True),
        ("etcd://host", TcpAddress("host", 2379), False),
        ("etcd://host:1/", TcpAddress("host", 1), False),
        ("etcd+tls://host:1", TcpAddress("host", 1), True),
        (" host:1 ", TcpAddress("host", 1), False),
    ],
)
def test_one_endpoint(given: str, expected: Address, tls: bool) -> None:
    target = parse_target(given)
    (endpoint,) = target.endpoints
    assert (target.kind, endpoint.address, endpoint.tls) == (TargetKind.ENDPOINTS, expected, tls)
    assert (target.tls is not None) == tls


def test_lists() -> None:
    a, b = TcpAddress("a", 1), TcpAddress("b", 2)
    assert addresses("a:1,b:2") == [a, b]
    assert addresses("a:1, http://b:2") == [a, b]
    assert addresses(["a:1", "b:2"]) == [a, b]
    assert addresses(("http://a:1",)) == [a]
    assert addresses("a:1,a:1,b:2") == [a, b]
    assert addresses("etcd://a:1,b:2") == [a, b]


def test_urls_with_options() -> None:
    target = parse_target(
        "etcd+tls://a,b:1?ca=/c/ca.pem&cert=me.pem&key=k%20ey.pem&timeout=2.5&server_name=etcd&verify=no"
    )
    assert target.tls == TlsConfig(
        ca="/c/ca.pem", cert="me.pem", key="k ey.pem", server_name="etcd", verify=False
    )
    assert target.request_timeout == 2.5
    assert parse_target("etcd://a?timeout=3").request_timeout == 3.0


def test_tls_settings_decide_for_plain_endpoints() -> None:
    tls = TlsConfig(ca="ca.pem")
    target = parse_target("a:1,https://b:2,unix:/s", tls=tls)
    assert [e.tls for e in target.endpoints] == [True, True, True]
    assert target.tls is tls
    assert parse_target("http://a:1", tls=tls).tls is None


def test_local_and_memory() -> None:
    assert parse_target("memory:").kind is TargetKind.MEMORY
    assert parse_target("local:").path is None
    local = parse_target("local:/some/path, with commas")
    assert (local.kind, local.path) == (TargetKind.LOCAL, "/some/path, with commas")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORD_ENDPOINTS", raising=False)
    assert parse_target().kind is TargetKind.LOCAL
    monkeypatch.setenv("COORD_ENDPOINTS", "")
    assert parse_target().kind is TargetKind.LOCAL
    monkeypatch.setenv("COORD_ENDPOINTS", "a:1,b:2")
    assert [str(e.address) for e in parse_target().endpoints] == ["a:1", "b:2"]


def test_secrets_stay_out_of_sight() -> None:
    assert "secret.key" not in repr(parse_target("etcd+tls://a?cert=c.pem&key=secret.key"))
    with pytest.raises(InvalidArgument) as caught:
        parse_target("http://root:hunter2@host:1")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(parse_target("etcd://root:hunter2@host:1/space"))


def test_authorities() -> None:
    target = parse_target(["[::1]:1", "unix:/run/e.sock"])
    assert [e.authority for e in target.endpoints] == ["[::1]:1", "/run/e.sock"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "the host is missing"),
        ([], "no endpoint given"),
        ("host", "the port is missing"),
        ("memory", "the port is missing"),
        (":1", "the host is missing"),
        ("a:1,,b:2", "the host is missing"),
        ("host:0", "port '0' is not a number from 1 to 65535"),
        ("host:65536", "port '65536' is not"),
        ("host:http", "port 'http' is not"),
        ("host:\u0661", "is not a number"),
        ("::1", "IPv6 addresses are written"),
        ("[::1", "IPv6 addresses are written"),
        ("[::1]x:1", "IPv6 addresses are written"),
        ("ho st:1", "malformed"),
        ("http:host:1", "expected // after http:"),
        ("http://host:1/path", "has a path"),
        ("http://user@host:1", "user and password do not belong"),
        ("ftp://host:1", "unknown scheme 'ftp'"),
        ("unix:", "the path of the socket is missing"),
        ("unix://", "the path of the socket is missing"),
        ("memory:x", "memory: takes nothing"),
        ("local:relative", "local: takes an absolute path"),
        ("a:1,memory:", "memory: stands alone"),
        (["local:", "a:1"], "local: stands alone"),
        ("http://a:1,https://b:1", "with and without TLS do not mix"),
        ([1], "endpoint must be str, not int"),
        ("etcd:a", "expected // after etcd:"),
        ("etcd://a/50%", "must be followed by two hexadecimal digits"),
        ("etcd://a/%zz", "must be followed by two hexadecimal digits"),
        ("etcd://a?ca=x", r"option 'ca' needs etcd\+tls://"),
        ("etcd://a?colour=red", "unknown option 'colour'; allowed are timeout"),
        ("etcd+tls://a?ca=x&ca=y", "option 'ca' is given twice"),
        ("etcd+tls://a?ca=", "option 'ca' is empty"),
        ("etcd+tls://a?verify=perhaps", "option 'verify' is true or false"),
        ("etcd://a?timeout=soon", "option 'timeout' is a positive number"),
        ("etcd://a?timeout=0", "option 'timeout' is a positive number"),
        ("etcd://a?timeout=nan", "option 'timeout' is a positive number"),
        ("etcd://a?timeout=inf", "option 'timeout' is a positive number"),
    ],
    ids=repr,
)
def test_refused(given: str | list[str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_target(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("memory:", "memory: uses no TLS"),
        ("local:", "local: uses no TLS"),
        ("etcd://a", r"write etcd\+tls://"),
        ("etcd+tls://a?ca=x", "give them once"),
    ],
)
def test_tls_where_there_is_none(given: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_target(given, tls=TlsConfig())


@given(st.text(max_size=40) | st.lists(st.text(max_size=20), max_size=3))
def test_any_text_is_parsed_or_refused(given: str | list[str]) -> None:
    try:
        target = parse_target(given)
    except InvalidArgument:
        return
    assert target.endpoints or target.kind is not TargetKind.ENDPOINTS


@pytest.mark.parametrize(
    ("path", "namespace"),
    [
        ("", b""),
        ("/", b""),
        ("/team-a/", b"team-a/"),
        ("/team-a", b"team-a"),
        ("/a/b/?timeout=3", b"a/b/"),
        ("/%66%FF%00%2f%3F%25/", b"f\xff\0/?%/"),
        ("/gr\u00fcn/", "gr\u00fcn/".encode()),
    ],
)
def test_namespaces(path: str, namespace: bytes) -> None:
    target = parse_target(f"etcd://h1,h2:3{path}")
    assert target.namespace == namespace
    assert [e.text for e in target.endpoints] == ["h1:2379", "h2:3"]
