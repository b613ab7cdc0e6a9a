"""Which names in a certificate are good for which allowed ones, and how a refusal reads."""

from __future__ import annotations

import json

import pytest

from coord.rpc import PeerInfo
from coord.rpc.admission import PeerRefused
from coord.runtime import real_env
from coord_server.allowed_names import (
    AllowedNames,
    Shown,
    admit_called,
    admit_callers,
    is_valid_for,
    names_in,
)
from coord_server.log import Log

CERTIFICATE: dict[str, object] = {
    "subject": ((("organizationName", "o"),), (("commonName", "first"),), (("commonName", "cn"),)),
    "subjectAltName": (
        ("DNS", "a.example"),
        ("IP Address", "10.0.0.1"),
        ("URI", "https://u.example"),
        ("DNS", "*.b.example"),
        ("IP Address", "0:0:0:0:0:0:0:1"),
    ),
}


def test_names_in_a_certificate() -> None:
    assert names_in(CERTIFICATE) == Shown(
        common_name="cn",
        dns_names=("a.example", "*.b.example"),
        ip_addresses=("10.0.0.1", "0:0:0:0:0:0:0:1"),
    )
    assert names_in({}) == Shown()


@pytest.mark.parametrize(
    ("pattern", "host", "is_good"),
    [
        ("a.example", "a.example", True),
        ("A.Example", "a.eXAMPLE", True),
        ("a.example", "a.example.", True),
        ("a.example", "b.example", False),
        ("a.example", "x.a.example", False),
        ("a.example", "example", False),
        ("*.example", "a.example", True),
        ("*.EXAMPLE", "a.example.", True),
        ("*.example", "example", False),
        ("*.example", ".example", False),
        ("*.example", "b.a.example", False),
        ("a*.example", "ab.example", False),
        ("b.*.example", "b.a.example", False),
        ("*", "a", False),
        ("*", "a.example", False),
        ("*.example", "*.example", True),
        ("a.example", "*.example", False),
        ("*.b.example", "*.example", False),
        ("*.", "a.", False),
        ("", "", False),
        ("a.example", "", False),
        # A name that only looks like an address is none, and the other way round.
        ("10.0.0.1", "10.0.0.1", False),
        # The Kelvin sign is not a k.
        ("\u212a.example", "k.example", False),
    ],
)
def test_host_names(pattern: str, host: str, is_good: bool) -> None:
    assert is_valid_for(Shown(dns_names=("other", pattern)), host) is is_good


@pytest.mark.parametrize(
    ("shown", "host", "is_good"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("0:0:0:0:0:0:0:1", "[::1]", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("<invalid>", "<invalid>", False),
    ],
)
def test_addresses(shown: str, host: str, is_good: bool) -> None:
    assert is_valid_for(Shown(ip_addresses=("192.0.2.1", shown)), host) is is_good


def test_common_names_are_compared_to_the_letter() -> None:
    allowed = AllowedNames(common_names=("one", "two"))
    assert allowed.permit(Shown(common_name="two"))
    for name in ("Two", "tw", "two.", ""):
        assert not allowed.permit(Shown(common_name=name, dns_names=("one",)))
    assert not AllowedNames(common_names=("",)).permit(Shown())
    # And a common name is no host.
    assert not AllowedNames(hosts=("one",)).permit(Shown(common_name="one"))


def test_a_refusal_names_what_was_shown_and_what_is_allowed() -> None:
    AllowedNames(common_names=("cn",)).check(CERTIFICATE)
    with pytest.raises(PeerRefused) as caught:
        AllowedNames(common_names=("x", "y")).check(CERTIFICATE)
    assert str(caught.value) == (
        'certificate authentication failed: CN "cn", DNS names ["a.example", "*.b.example"] and '
        'IP addresses ["10.0.0.1", "0:0:0:0:0:0:0:1"] were shown; the CN must be one of ["x", "y"]'
    )
    with pytest.raises(PeerRefused) as caught:
        AllowedNames(hosts=("h",)).check(None)
    assert str(caught.value) == 'no certificate was shown; it must be for one of the hosts ["h"]'


def test_who_allows_everybody_asks_nothing() -> None:
    nobody = AllowedNames()
    log = Log(clock=real_env().clock, write=lambda _line: None)
    assert admit_called(nobody) is None
    assert admit_callers(nobody, log, kind="peer") is None


def test_callers_that_are_refused_are_logged_once_until_their_host_is_let_in() -> None:
    lines: list[str] = []
    log = Log(clock=real_env().clock, write=lines.append)
    admit = admit_callers(AllowedNames(common_names=("good",)), log, kind="peer")
    assert admit is not None

    def call(name: str, address: str) -> None:
        certificate: dict[str, object] = {"subject": ((("commonName", name),),)}
        admit(PeerInfo(address=address, tls=True, certificate=certificate))

    for port in range(3):
        with pytest.raises(PeerRefused):
            call("bad", f"10.0.0.1:{port}")
    (line,) = lines
    fields = json.loads(line)
    assert (fields["level"], fields["msg"]) == ("warn", "rejected connection on peer endpoint")
    assert fields["remote-addr"] == "10.0.0.1:0"
    assert 'CN "bad"' in fields["error"]
    assert '["good"]' in fields["error"]
    for name, address, count in (
        ("bad", "10.0.0.2:1", 2),
        ("worse", "10.0.0.1:1", 3),
        ("worse", "10.0.0.1:1", 3),
    ):
        with pytest.raises(PeerRefused):
            call(name, address)
        assert len(lines) == count
    call("good", "10.0.0.1:1")
    with pytest.raises(PeerRefused):
        call("worse", "10.0.0.1:1")
    assert len(lines) == 4
    for number in range(2000):
        with pytest.raises(PeerRefused):
            call("bad", f"h{number}:1")
    assert len(lines) == 2004


def test_those_that_we_call_are_judged_without_a_log() -> None:
    admit = admit_called(AllowedNames(hosts=("a.example",)))
    assert admit is not None
    admit(PeerInfo(certificate=CERTIFICATE))
    with pytest.raises(PeerRefused):
        admit(PeerInfo(certificate=None))
