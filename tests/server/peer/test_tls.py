"""TLS between members: both show certificates, and whoever has none, or a foreign one, is kept out."""

from __future__ import annotations

import ssl
from typing import NamedTuple

import pytest
import trustme

from coord.rpc.admission import Admit
from coord.runtime import RealNet
from coord_server.allowed_names import AllowedNames, admit_called, admit_callers
from coord_server.tls import peer_dial_context, peer_listener_context
from tests.server.peer.members import N1, N2, Member, beat, introduce


class Files(NamedTuple):
    cert: str
    key: str
    ca: str
    foreign_cert: str
    foreign_key: str
    foreign_ca: str
    elsewhere_cert: str
    elsewhere_key: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    paths: list[str] = []

    def save(name: str, leaf: trustme.LeafCert) -> None:
        paths.extend(str(folder / f"{name}-{what}.pem") for what in ("cert", "key"))
        leaf.cert_chain_pems[0].write_to_path(paths[-2])
        leaf.private_key_pem.write_to_path(paths[-1])

    ours, foreign = trustme.CA(), trustme.CA()
    for name, authority in (("ours", ours), ("foreign", foreign)):
        save(name, authority.issue_cert("127.0.0.1", "localhost", common_name=name))
        paths.append(str(folder / f"{name}-ca.pem"))
        authority.cert_pem.write_to_path(paths[-1])
    save("elsewhere", ours.issue_cert("elsewhere.example"))
    return Files(*paths)


def listener(
    files: Files, *, cert: str = "", key: str = "", admit: Admit | None = None
) -> ssl.SSLContext | None:
    return peer_listener_context(
        cert_file=cert or files.cert,
        key_file=key or files.key,
        trusted_ca_file=files.ca,
        client_cert_auth=admit is None,
        admit=admit,
    )


def dialler(files: Files, *, admit: Admit | None = None) -> ssl.SSLContext:
    return peer_dial_context(
        cert_file=files.cert, key_file=files.key, trusted_ca_file=files.ca, admit=admit
    )


async def test_members_talk_under_tls(files: Files) -> None:
    one, two = (Member(node, net=RealNet(), tls=dialler(files)) for node in (N1, N2))
    await one.listen(tls=listener(files))
    await two.listen(tls=listener(files))
    introduce(one, two)
    assert one.url.startswith("https://")
    await one.connected(N2)
    await two.connected(N1)
    # Each on its own: what one write leaves behind must not hold up the next.
    for number in range(1, 9):
        one.mesh.send([beat(N1, N2, number)])
        await two.heard.until(lambda: len(two.heard.messages) == number)  # noqa: B023 - called at once
    assert two.heard.numbers() == list(range(1, 9))
    await two.kill()
    await one.heard.until(lambda: one.heard.lost.count((N2, True)) == 2)
    await one.stop()


async def refused(one: Member, two: Member, *words: str) -> None:
    """Member 1 dials member 2 and does not get through."""
    one.mesh.set_peers({N2: [two.url]})
    two.mesh.set_peers({N1: ["http://127.0.0.1:1"]})
    await one.heard.until_logged("failed to dial peer", *words)
    assert one.mesh.active_since(N2) is None
    one.mesh.send([beat(N1, N2, 1)])
    await one.heard.until(lambda: one.heard.unreached == [N2])
    assert two.heard.messages == []
    assert not two.mesh.has_stream_from(N1)
    await one.stop()
    await two.stop()


async def test_a_certificate_of_a_foreign_authority_is_refused_by_the_listener(
    files: Files,
) -> None:
    tls = peer_dial_context(
        cert_file=files.cert,
        key_file=files.key,
        trusted_ca_file=files.ca,
        client_cert_file=files.foreign_cert,
        client_key_file=files.foreign_key,
    )
    one, two = Member(N1, net=RealNet(), tls=tls), Member(N2, net=RealNet())
    await two.listen(tls=listener(files))
    await refused(one, two)


async def test_a_member_without_a_certificate_is_refused_by_the_listener(files: Files) -> None:
    tls = peer_dial_context(cert_file="", key_file="", trusted_ca_file=files.ca)
    one, two = Member(N1, net=RealNet(), tls=tls), Member(N2, net=RealNet())
    await two.listen(tls=listener(files))
    await refused(one, two)


async def test_a_listener_that_names_an_authority_asks_for_certificates_of_it(
    files: Files,
) -> None:
    tls = peer_dial_context(cert_file="", key_file="", trusted_ca_file=files.ca)
    one, two = Member(N1, net=RealNet(), tls=tls), Member(N2, net=RealNet())
    await two.listen(
        tls=peer_listener_context(
            cert_file=files.cert, key_file=files.key, trusted_ca_file=files.ca
        )
    )
    await refused(one, two)


async def test_a_listener_of_a_foreign_authority_is_refused(files: Files) -> None:
    one, two = Member(N1, net=RealNet(), tls=dialler(files)), Member(N2, net=RealNet())
    await two.listen(tls=listener(files, cert=files.foreign_cert, key=files.foreign_key))
    await refused(one, two, "certificate verify failed")


async def test_a_listener_whose_certificate_is_for_another_host_is_refused(files: Files) -> None:
    one, two = Member(N1, net=RealNet(), tls=dialler(files)), Member(N2, net=RealNet())
    await two.listen(tls=listener(files, cert=files.elsewhere_cert, key=files.elsewhere_key))
    await refused(one, two, "certificate")


async def test_plain_bytes_do_not_pass_a_secure_listener(files: Files) -> None:
    one, two = Member(N1, net=RealNet()), Member(N2, net=RealNet())
    await two.listen(tls=listener(files))
    two.scheme = "http"
    await refused(one, two)


async def test_tls_does_not_pass_a_plain_listener(files: Files) -> None:
    one, two = Member(N1, net=RealNet(), tls=dialler(files)), Member(N2, net=RealNet())
    await two.listen()
    two.scheme = "https"
    await refused(one, two)


async def test_a_secure_url_needs_certificates(files: Files) -> None:
    one, two = Member(N1, net=RealNet()), Member(N2, net=RealNet())
    await two.listen(tls=listener(files))
    await refused(one, two, "asks for TLS, and no certificates of peers are configured")


OURS = [AllowedNames(common_names=("x", "ours")), AllowedNames(hosts=("x", "localhost"))]
OTHERS = [AllowedNames(common_names=("x", "y")), AllowedNames(hosts=("x", "127.0.0.2"))]


@pytest.mark.parametrize("allowed", OURS)
async def test_members_with_a_name_that_is_allowed_talk(
    files: Files, allowed: AllowedNames
) -> None:
    one, two = (
        Member(node, net=RealNet(), tls=dialler(files, admit=admit_called(allowed)))
        for node in (N1, N2)
    )
    for member in (one, two):
        await member.listen(
            tls=listener(files, admit=admit_callers(allowed, member.mesh_log, kind="peer"))
        )
    introduce(one, two)
    await one.connected(N2)
    await two.connected(N1)
    assert one.heard.count_logged("rejected connection") == 0
    await one.stop()
    await two.stop()


@pytest.mark.parametrize("allowed", OTHERS)
async def test_a_caller_with_another_name_is_refused_by_the_listener(
    files: Files, allowed: AllowedNames
) -> None:
    one, two = Member(N1, net=RealNet(), tls=dialler(files)), Member(N2, net=RealNet())
    await two.listen(tls=listener(files, admit=admit_callers(allowed, two.mesh_log, kind="peer")))
    await refused(one, two)
    # It tries again and again, and is told of once.
    assert two.heard.count_logged("rejected connection", "127.0.0.1:") == 1
    assert two.heard.count_logged("rejected connection", r"CN \"ours\"", r"\"x\", ") == 1


async def test_a_caller_without_a_certificate_is_refused_where_names_are_asked_for(
    files: Files,
) -> None:
    tls = peer_dial_context(cert_file="", key_file="", trusted_ca_file=files.ca)
    one, two = Member(N1, net=RealNet(), tls=tls), Member(N2, net=RealNet())
    await two.listen(tls=listener(files, admit=admit_callers(OURS[0], two.mesh_log, kind="peer")))
    await refused(one, two)


@pytest.mark.parametrize("allowed", OTHERS)
async def test_a_listener_with_another_name_is_refused(files: Files, allowed: AllowedNames) -> None:
    one = Member(N1, net=RealNet(), tls=dialler(files, admit=admit_called(allowed)))
    two = Member(N2, net=RealNet())
    await two.listen(tls=listener(files))
    await refused(one, two, "cannot connect to 127.0.0.1:", r"CN \"ours\"", r"\"x\", ")


async def test_members_that_made_their_own_certificates_trust_each_other_unseen(
    files: Files,
) -> None:
    one, two = (
        Member(
            node, net=RealNet(), tls=peer_dial_context(cert_file=cert, key_file=key, verify=False)
        )
        for node, cert, key in (
            (N1, files.foreign_cert, files.foreign_key),
            (N2, files.elsewhere_cert, files.elsewhere_key),
        )
    )
    await one.listen(
        tls=peer_listener_context(cert_file=files.foreign_cert, key_file=files.foreign_key)
    )
    await two.listen(
        tls=peer_listener_context(cert_file=files.elsewhere_cert, key_file=files.elsewhere_key)
    )
    introduce(one, two)
    await one.connected(N2)
    await two.connected(N1)
    await one.stop()
    await two.stop()


def test_files_that_cannot_be_used_are_named(files: Files) -> None:
    assert peer_listener_context(cert_file="", key_file="") is None
    with pytest.raises(ValueError, match="no client CA file is given"):
        peer_listener_context(cert_file=files.cert, key_file=files.key, client_cert_auth=True)
    with pytest.raises(ValueError, match="--peer-crl-file /missing"):
        peer_listener_context(
            cert_file=files.cert, key_file=files.key, trusted_ca_file=files.ca, crl_file="/missing"
        )
    with pytest.raises(ValueError, match="no list in PEM form; `openssl crl"):
        peer_listener_context(
            cert_file=files.cert, key_file=files.key, trusted_ca_file=files.ca, crl_file=files.key
        )
    with pytest.raises(ValueError, match="/missing"):
        peer_dial_context(cert_file=files.cert, key_file=files.key, trusted_ca_file="/missing")
    with pytest.raises(ValueError, match="is not allowed"):
        peer_dial_context(cert_file=files.cert, key_file=files.key, cipher_suites=("NULL",))
    modern = peer_dial_context(
        cert_file=files.cert,
        key_file=files.key,
        min_version="TLS1.3",
        cipher_suites=("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",),
    )
    assert modern.minimum_version is ssl.TLSVersion.TLSv1_3
