"""Settings of TLS: what goes together, what does not, and how a file names them."""

from __future__ import annotations

import pytest

from coord_server.config import Config, ConfigError, load


def parse(*arguments: str, file: bytes = b"") -> Config:
    return load(arguments, {}, lambda _path: file)


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*arguments)
    return str(caught.value)


def test_of_peers_in_a_file() -> None:
    text = b"[peer-transport-security]\ncert-file='c'\nkey-file='k'\nclient-cert-auth=true\ntrusted-ca-file='ca'\n"
    config = parse("--config-file=x.toml", file=text)
    assert (config.peer_cert_file, config.peer_key_file) == ("c", "k")
    assert (config.peer_client_cert_auth, config.peer_trusted_ca_file) == (True, "ca")
    assert config.cert_file == ""


def test_allowed_names_on_the_command_line() -> None:
    config = parse(
        "--peer-cert-allowed-cn=a, b",
        "--peer-trusted-ca-file=ca",
        "--client-cert-allowed-hostname=h.example,10.0.0.1",
        "--trusted-ca-file=ca",
    )
    assert config.peer_cert_allowed_cn == ("a", "b")
    assert config.client_cert_allowed_hostname == ("h.example", "10.0.0.1")
    config = parse("--peer-cert-allowed-hostname=h", "--peer-trusted-ca-file=ca")
    assert config.peer_cert_allowed_hostname == ("h",)
    config = parse("--coord-client-cert-allowed-cn=a", "--trusted-ca-file=ca")
    assert config.client_cert_allowed_cn == ("a",)


def test_allowed_names_in_a_file() -> None:
    text = b"""
[client-transport-security]
trusted-ca-file = "ca"
allowed-cn = ["x", "y"]
[peer-transport-security]
trusted-ca-file = "ca"
allowed-hostname = ["h1", "h2"]
"""
    config = parse("--config-file=x.toml", file=text)
    assert (config.client_cert_allowed_cn, config.client_cert_allowed_hostname) == (("x", "y"), ())
    assert (config.peer_cert_allowed_cn, config.peer_cert_allowed_hostname) == ((), ("h1", "h2"))
    other = text.replace(b"allowed-cn", b"_").replace(b"allowed-hostname", b"allowed-cn")
    config = parse("--config-file=x.toml", file=other.replace(b"_", b"allowed-hostname"))
    assert (config.client_cert_allowed_cn, config.client_cert_allowed_hostname) == ((), ("x", "y"))
    assert (config.peer_cert_allowed_cn, config.peer_cert_allowed_hostname) == (("h1", "h2"), ())


def test_common_names_or_hosts() -> None:
    both = ("--peer-cert-allowed-cn=a,b", "--peer-cert-allowed-hostname=c")
    text = 'AllowedCNs and AllowedHostnames are mutually exclusive (cns=["a" "b"], hostnames=["c"])'
    assert refusal(*both) == text
    both = ("--coord-client-cert-allowed-cn=a,b", "--client-cert-allowed-hostname=c")
    assert refusal(*both) == text


@pytest.mark.parametrize(
    ("flag", "authority"),
    [
        ("--client-cert-auth=true", "--trusted-ca-file"),
        ("--client-cert-allowed-hostname=x", "--trusted-ca-file"),
        ("--coord-client-cert-allowed-cn=x", "--trusted-ca-file"),
        ("--peer-client-cert-auth=true", "--peer-trusted-ca-file"),
        ("--peer-cert-allowed-cn=x", "--peer-trusted-ca-file"),
        ("--peer-cert-allowed-hostname=x", "--peer-trusted-ca-file"),
    ],
)
def test_who_looks_at_certificates_needs_an_authority(flag: str, authority: str) -> None:
    other = {"--trusted-ca-file": "--peer-trusted-ca-file=ca"}.get(
        authority, "--trusted-ca-file=ca"
    )
    assert refusal(flag, other) == f"{flag.partition('=')[0]} needs {authority}"
    parse(flag, f"{authority}=ca")


def test_certificates_made_here_stand_for_given_ones() -> None:
    config = parse(
        "--auto-tls",
        "--listen-client-urls=https://127.0.0.1:1",
        "--listen-metrics-urls=https://127.0.0.1:2",
        "--peer-auto-tls",
        "--listen-peer-urls=https://127.0.0.1:3",
        "--self-signed-cert-validity=3",
    )
    assert (config.auto_tls, config.peer_auto_tls) == (True, True)
    assert config.self_signed_cert_validity_years == 3
    assert config.warnings == ()
    for flags in (("--auto-tls",), ("--peer-auto-tls", "--listen-client-urls=https://127.0.0.1:1")):
        assert "TLS key/cert" in refusal("--listen-peer-urls=https://127.0.0.1:3", *flags)


def test_certificates_made_here_in_a_file() -> None:
    text = b"[client-transport-security]\nauto-tls=true\n[peer-transport-security]\nauto-tls=true\n"
    config = parse("--config-file=x.toml", file=text)
    assert (config.auto_tls, config.peer_auto_tls) == (True, True)


@pytest.mark.parametrize("flag", ["--auto-tls", "--peer-auto-tls"])
def test_how_long_they_are_valid(flag: str) -> None:
    never = "--self-signed-cert-validity=0"
    assert refusal(flag, never) == "selfSignedCertValidity is invalid,it should be greater than 0"
    assert refusal(flag, "--self-signed-cert-validity=1001") == (
        "--self-signed-cert-validity must be at most 1000 (set to 1001)"
    )
    parse(flag, "--self-signed-cert-validity=1000")
    # Where none is made it means nothing.
    given = ("--cert-file=c", "--key-file=k", "--peer-cert-file=c", "--peer-key-file=k")
    parse(flag, never, *given)
    parse(never)


@pytest.mark.parametrize(
    "flags",
    [
        ["--peer-trusted-ca-file=x"],
        ["--peer-trusted-ca-file=x", "--peer-cert-allowed-cn=x"],
        ["--peer-client-cert-file=x", "--peer-client-key-file=x"],
        ["--peer-crl-file=x"],
    ],
)
def test_no_authority_vouches_for_certificates_that_members_made(flags: list[str]) -> None:
    name = flags[0].partition("=")[0]
    assert refusal("--peer-auto-tls", *flags) == (
        f"--peer-auto-tls does not go with {name}: "
        "no authority has signed the certificates that it makes"
    )
    # With certificates given it is not used.
    parse("--peer-auto-tls", *flags, "--peer-cert-file=c", "--peer-key-file=k")
