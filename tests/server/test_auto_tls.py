"""Certificates that a server makes for itself: where they lie, what is in them, when they are made anew."""

from __future__ import annotations

import json
import ssl
import stat
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509

from coord.rpc.tls import client_context, server_context
from coord_server.auto_tls import with_own_certificates
from coord_server.config import Config, MissingExtra
from coord_server.env import ServerEnv, real_server_env
from coord_server.flag_values import parse_urls
from coord_server.log import Log
from tests.rpc.test_tls import handshake

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S


@dataclass
class Clock:
    wall_s: float

    def mono(self) -> float:
        return 0.0

    def wall(self) -> float:
        return self.wall_s


class Site:
    """A data directory, a clock that tests set, and the log."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "data"
        self.clock = Clock(1_800_000_000.0)
        real = real_server_env()
        self.env = ServerEnv(
            clock=self.clock, net=real.net, rand=real.rand, offload=real.offload, disk=real.disk
        )
        self.lines: list[str] = []
        self.log = Log(clock=self.clock, write=self.lines.append)
        self.config = Config(
            auto_tls=True,
            peer_auto_tls=True,
            listen_client_urls=parse_urls(
                "https://127.0.0.1:1,https://localhost:2,https://[::1]:3,https://127.0.0.1:4"
            ),
            listen_peer_urls=parse_urls("https://10.0.0.7:1,unixs:///x.sock"),
        )

    def start(self, config: Config | None = None) -> Config:
        return with_own_certificates(config or self.config, self.env, self.log, str(self.root))

    def messages(self) -> list[str]:
        return [json.loads(line)["msg"] for line in self.lines]

    def path(self, kind: str, name: str) -> Path:
        return self.root / "fixtures" / kind / name

    def certificate(self, kind: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.path(kind, "cert.pem").read_bytes())

    def content(self, kind: str) -> tuple[bytes, bytes]:
        return tuple(self.path(kind, name).read_bytes() for name in ("cert.pem", "key.pem"))  # type: ignore[return-value] # pyright: ignore[reportReturnType] - two names, two files


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in found.value]


def test_pairs_are_made_where_etcd_has_them(site: Site) -> None:
    config = site.start()
    assert config.cert_file == str(site.path("client", "cert.pem"))
    assert config.key_file == str(site.path("client", "key.pem"))
    assert config.peer_cert_file == str(site.path("peer", "cert.pem"))
    assert config.peer_key_file == str(site.path("peer", "key.pem"))
    assert (config.auto_tls, config.peer_auto_tls) == (True, True)
    assert names(site.certificate("client")) == ["127.0.0.1", "localhost", "::1"]
    assert names(site.certificate("peer")) == ["10.0.0.7", "localhost"]
    for kind in ("client", "peer"):
        assert stat.S_IMODE(site.path(kind, "key.pem").stat().st_mode) == 0o600
        assert sorted(p.name for p in (site.root / "fixtures" / kind).iterdir()) == [
            "cert.pem",
            "key.pem",
        ]
    assert site.messages() == ["automatically generate certificates"] * 2
    first = json.loads(site.lines[0])
    assert first["certificate-validity-bound-not-after"] == "2028-01-15T08:00:00+00:00"


def test_a_client_may_hold_a_copy_of_the_certificate(site: Site) -> None:
    site.clock.wall_s = real_server_env().clock.wall()
    config = site.start()
    server = server_context(config.cert_file, config.key_file)
    handshake(server, client_context(config.cert_file), name="localhost")
    handshake(server, client_context(config.cert_file), name="127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context(config.cert_file), name="elsewhere")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context(config.peer_cert_file), name="localhost")


def test_the_next_start_uses_them_again(site: Site) -> None:
    site.start()
    before = site.content("client"), site.content("peer")
    site.clock.wall_s += YEAR_S - 1
    site.start()
    assert (site.content("client"), site.content("peer")) == before
    assert len(site.messages()) == 2


def test_one_that_has_run_out_is_made_anew(site: Site) -> None:
    site.start()
    before = site.content("client")
    site.clock.wall_s += YEAR_S
    site.start(replace(site.config, self_signed_cert_validity_years=10))
    after = site.content("client")
    assert before[0] != after[0]
    assert before[1] != after[1]
    end = site.certificate("client").not_valid_after_utc
    assert end.timestamp() == site.clock.wall_s + 10 * YEAR_S
    assert site.messages()[2:] == [
        "a certificate of our own has run out",
        "automatically generate certificates",
    ] * 2  # fmt: skip


@pytest.mark.parametrize("name", ["cert.pem", "key.pem"])
def test_half_a_pair_is_made_whole(site: Site, name: str) -> None:
    site.start()
    site.path("client", name).unlink()
    config = site.start()
    server_context(config.cert_file, config.key_file)
    assert len(site.messages()) == 3


class Crash(Exception):
    pass


@pytest.mark.parametrize("writes", [0, 1])
def test_a_crash_while_they_are_made_leaves_no_pair_that_does_not_match(
    site: Site, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.start()
    site.clock.wall_s += YEAR_S
    write = site.env.disk.write_file_atomic
    written: list[str] = []

    def failing(path: str, data: bytes) -> None:
        if len(written) == writes:
            raise Crash
        written.append(path)
        write(path, data)

    monkeypatch.setattr(site.env.disk, "write_file_atomic", failing)
    with pytest.raises(Crash):
        site.start()
    monkeypatch.undo()
    config = site.start()
    server_context(config.cert_file, config.key_file)


def test_a_file_that_holds_no_certificate_is_named(site: Site) -> None:
    site.start()
    site.path("peer", "cert.pem").write_text("junk")
    with pytest.raises(ValueError, match=r"fixtures/peer/cert\.pem': holds no such thing"):
        site.start()


def test_given_certificates_are_taken_first(site: Site) -> None:
    given = replace(
        site.config, cert_file="c", key_file="k", peer_cert_file="pc", peer_key_file="pk"
    )
    config = site.start(given)
    assert (config.cert_file, config.peer_cert_file) == ("c", "pc")
    assert (config.auto_tls, config.peer_auto_tls) == (False, False)
    assert not site.root.exists()
    assert site.messages() == [
        "ignoring client auto TLS since certs given",
        "ignoring peer auto TLS since certs given",
    ]


def test_nobody_asked_for_them(site: Site) -> None:
    config = Config()
    assert site.start(config) is config
    assert site.lines == []


@pytest.mark.parametrize(("flag", "field"), [("--auto-tls", "peer_"), ("--peer-auto-tls", "")])
def test_without_the_package_the_way_to_it_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch, flag: str, field: str
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    other = {"peer_": replace(site.config, peer_auto_tls=False)}
    config = other.get(field, replace(site.config, auto_tls=False))
    with pytest.raises(MissingExtra) as caught:
        site.start(config)
    assert str(caught.value) == f"{flag} needs an optional package: pip install 'coord[tls]'"
