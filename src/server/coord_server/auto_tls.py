"""Certificates that a server makes for itself: ``--auto-tls`` and ``--peer-auto-tls``.

They lie where etcd has them, ``cert.pem`` and ``key.pem`` in ``fixtures/client`` and ``fixtures/peer`` of the
data directory, and are used again at the next start unless they have run out. Nobody has signed them:
a client trusts them unseen or has a copy of ``cert.pem``, and members trust each other unseen.
"""

from __future__ import annotations

import dataclasses
import importlib
import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from coord_server.config import Config, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

    from coord_server.env import ServerEnv
    from coord_server.flag_values import Url
    from coord_server.log import Log

_DAYS_A_YEAR: Final = 365
_SERIAL_BITS: Final = 127
_SUBJECT: Final = "coord-server"


def with_own_certificates(config: Config, env: ServerEnv, log: Log, root: str) -> Config:
    """Return the settings with pairs of this server's own where they ask for them.

    ``auto_tls`` and ``peer_auto_tls`` stay set only where such a pair is in use. ``root`` is the data
    directory, which must be locked. Raises MissingExtra, OSError, and ValueError for a file that is there
    and holds no certificate.
    """
    if config.auto_tls:
        if config.cert_file:
            log.warning("ignoring client auto TLS since certs given")
            config = dataclasses.replace(config, auto_tls=False)
        else:
            cert, key = _own_pair(
                env,
                log,
                f"{root}/fixtures/client",
                flag="--auto-tls",
                urls=config.listen_client_urls,
                years=config.self_signed_cert_validity_years,
            )
            config = dataclasses.replace(config, cert_file=cert, key_file=key)
    if config.peer_auto_tls:
        if config.peer_cert_file:
            log.warning("ignoring peer auto TLS since certs given")
            config = dataclasses.replace(config, peer_auto_tls=False)
        else:
            cert, key = _own_pair(
                env,
                log,
                f"{root}/fixtures/peer",
                flag="--peer-auto-tls",
                urls=config.listen_peer_urls,
                years=config.self_signed_cert_validity_years,
            )
            config = dataclasses.replace(config, peer_cert_file=cert, peer_key_file=key)
    return config


def _own_pair(
    env: ServerEnv, log: Log, directory: str, *, flag: str, urls: Sequence[Url], years: int
) -> tuple[str, str]:
    """Return the paths of a certificate and its key, which are made unless they are there and valid."""
    _require_library(flag)
    disk = env.disk
    cert, key = f"{directory}/cert.pem", f"{directory}/key.pem"
    now = datetime.fromtimestamp(env.clock.wall(), UTC)
    if disk.exists(cert) and disk.exists(key):
        end = _valid_until(cert, disk.read_file(cert))
        if now < end:
            return cert, key
        log.warning("a certificate of our own has run out", file=cert, not_after=end.isoformat())
        # First, so that a crash between the two writes never leaves a pair that does not match.
        disk.unlink(cert)
    elif disk.exists(cert):
        disk.unlink(cert)
    end = now + timedelta(days=_DAYS_A_YEAR * years)
    log.warning(
        "automatically generate certificates",
        certificate_validity_bound_not_after=end.isoformat(),
        directory=directory,
    )
    # A path of a socket is called by the name of this machine.
    hosts = list(dict.fromkeys(url.host or "localhost" for url in urls))
    made, key_bytes = _make(hosts, now, end, serial=env.rand.bits(_SERIAL_BITS) | 1)
    disk.mkdir(directory, 0o700)
    disk.write_file_atomic(key, key_bytes)
    disk.write_file_atomic(cert, made)
    return cert, key


def _require_library(flag: str) -> None:
    try:
        # By name: only whether it is there.
        importlib.import_module("cryptography")
    except ImportError:
        raise MissingExtra(flag, "tls") from None


def _valid_until(path: str, pem: bytes) -> datetime:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc
    except ValueError as error:
        raise ValueError(f"certificate file {path!r}: holds no such thing in PEM form") from error


def _make(
    hosts: Sequence[str], start: datetime, end: datetime, *, serial: int
) -> tuple[bytes, bytes]:
    """Return a certificate for ``hosts`` and its key, both in PEM form."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, _SUBJECT)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    purposes = (x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([_general(h) for h in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


def _general(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
