"""TLS contexts: what both sides negotiate, whom they trust, and how they name a wrong file."""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from coord.rpc.tls import client_context, server_context


class Files(NamedTuple):
    ca: str
    cert: str
    key: str
    stranger_ca: str
    stranger_cert: str
    stranger_key: str
    encrypted_key: str
    junk: str
    missing: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    for prefix in ("", "stranger-"):
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(folder / f"{prefix}ca.pem")
        leaf.private_key_pem.write_to_path(folder / f"{prefix}key.pem")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{prefix}cert.pem")
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    (folder / "encrypted.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    )
    (folder / "junk.pem").write_text("no PEM at all\n")
    names = ("ca", "cert", "key", "stranger-ca", "stranger-cert", "stranger-key", "encrypted",
             "junk", "missing")  # fmt: skip
    return Files(*(str(folder / f"{name}.pem") for name in names))


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Run a handshake in memory; raises the ssl error of whichever side refuses."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    client_end = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(5):
        for end in (client_end, server_end):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    # TLS 1.3 tells the client of a refused certificate only when it reads.
    with contextlib.suppress(ssl.SSLWantReadError):
        client_end.read(1)
    return server_end, client_end


def test_h2_over_a_modern_tls(files: Files) -> None:
    server, client = handshake(server_context(files.cert, files.key), client_context(files.ca))
    assert server.selected_alpn_protocol() == client.selected_alpn_protocol() == "h2"
    assert client.version() == "TLSv1.3"


def test_http_1_1_for_clients_without_h2(files: Files) -> None:
    plain = client_context(files.ca)
    plain.set_alpn_protocols(["http/1.1"])
    server, _ = handshake(server_context(files.cert, files.key), plain)
    assert server.selected_alpn_protocol() == "http/1.1"


def test_tls_1_2_is_the_oldest(files: Files) -> None:
    old = client_context(files.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    server, _ = handshake(server_context(files.cert, files.key), old)
    assert server.version() == "TLSv1.2"
    for context in (server_context(files.cert, files.key), client_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_client_refuses_strangers_and_wrong_names(files: Files) -> None:
    server = server_context(files.cert, files.key)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|unable to get"):
        handshake(server, client_context(files.stranger_ca))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|unable to get"):
        handshake(server, client_context())
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(server, client_context(files.ca), name="elsewhere")


def test_client_without_verification_trusts_anybody(files: Files) -> None:
    client = client_context(verify=False)
    handshake(server_context(files.stranger_cert, files.stranger_key), client, name="elsewhere")
    assert client.verify_mode is ssl.CERT_NONE


def test_required_client_certificate(files: Files) -> None:
    server = server_context(files.cert, files.key, client_ca=files.ca, require_client_cert=True)
    end, _ = handshake(server, client_context(files.ca, files.cert, files.key))
    assert end.getpeercert()
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(server, client_context(files.ca))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(server, client_context(files.ca, files.stranger_cert, files.stranger_key))


def test_optional_client_certificate(files: Files) -> None:
    server = server_context(files.cert, files.key, client_ca=files.ca)
    end, _ = handshake(server, client_context(files.ca))
    assert not end.getpeercert()
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(server, client_context(files.ca, files.stranger_cert, files.stranger_key))


def test_missing_files_are_named(files: Files) -> None:
    with pytest.raises(ValueError, match=r"certificate file '.*missing.pem': no such file"):
        server_context(files.missing, files.key)
    with pytest.raises(ValueError, match=r"key file '.*missing.pem': no such file"):
        server_context(files.cert, files.missing)
    with pytest.raises(ValueError, match=r"CA file '.*missing.pem': no such file"):
        server_context(files.cert, files.key, client_ca=files.missing)
    with pytest.raises(ValueError, match=r"CA file '.*missing.pem': no such file"):
        client_context(files.missing)


def test_a_folder_is_no_file(files: Files) -> None:
    with pytest.raises(ValueError, match=r"CA file '.*': is a directory"):
        client_context(os.path.dirname(files.ca))


def test_unusable_files_are_named(files: Files) -> None:
    with pytest.raises(ValueError, match=r"certificate file '.*junk.pem': holds no such thing"):
        server_context(files.junk, files.key)
    with pytest.raises(ValueError, match=r"key file '.*junk.pem': holds no such thing"):
        server_context(files.cert, files.junk)
    with pytest.raises(ValueError, match=r"key file '.*key.pem': is not the key of '.*cert.pem'"):
        server_context(files.cert, files.stranger_key)
    with pytest.raises(ValueError, match=r"CA file '.*junk.pem': holds no such thing"):
        client_context(files.junk)


def test_an_encrypted_key_does_not_ask_at_the_terminal(files: Files) -> None:
    with pytest.raises(ValueError, match=r"encrypted.pem': is encrypted with a passphrase"):
        server_context(files.cert, files.encrypted_key)


def test_halves_of_a_pair_are_refused(files: Files) -> None:
    with pytest.raises(ValueError, match="one of them is missing"):
        client_context(cert=files.cert)
    with pytest.raises(ValueError, match="one of them is missing"):
        client_context(key=files.key)
    with pytest.raises(ValueError, match="no client CA"):
        server_context(files.cert, files.key, require_client_cert=True)
