"""The TLS contexts of the listeners, and of connections to peers, from the flags."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from coord.rpc.tls import client_context, server_context

if TYPE_CHECKING:
    from coord.rpc.admission import Admit
    from coord_server.config import Config

_VERSIONS: Final = {"TLS1.2": ssl.TLSVersion.TLSv1_2, "TLS1.3": ssl.TLSVersion.TLSv1_3}

# Names of RFC 5289 and RFC 7905, as etcd's flag takes them, to OpenSSL's. HTTP/2 forbids all others of
# TLS 1.2 (RFC 9113, appendix A).
_CIPHERS: Final = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
}
# Go names the suites of TLS 1.3 too; both programs always offer all of them.
_TLS13: Final = frozenset(
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
)


def client_listener_context(config: Config, admit: Admit | None = None) -> ssl.SSLContext | None:
    """Return the context for secure client URLs, None without a certificate.

    With ``admit`` clients must pass it, too. Raises ValueError that names the file or the cipher suite that
    cannot be used.
    """
    if not config.cert_file:
        return None
    context = server_context(
        config.cert_file,
        config.key_file,
        client_ca=config.trusted_ca_file or None,
        # As in etcd, naming an authority is asking for certificates of it.
        require_client_cert=config.client_cert_auth or bool(config.trusted_ca_file),
        admit=admit,
    )
    _restrict(context, config.tls_min_version, config.tls_max_version, tuple(config.cipher_suites))
    _load_crl(context, config.client_crl_file, "--client-crl-file")
    return context


def peer_listener_context(
    *,
    cert_file: str,
    key_file: str,
    trusted_ca_file: str = "",
    client_cert_auth: bool = False,
    crl_file: str = "",
    min_version: str = "",
    max_version: str = "",
    cipher_suites: tuple[str, ...] = (),
    admit: Admit | None = None,
) -> ssl.SSLContext | None:
    """Return the context for secure peer URLs, None without a certificate; the values are the flags'.

    With ``client_cert_auth`` or ``trusted_ca_file`` peers must show a certificate that descends from the
    latter, and with ``admit`` they must pass it, too. Raises ValueError that names the file or the cipher
    suite that cannot be used.
    """
    if not cert_file:
        return None
    context = server_context(
        cert_file,
        key_file,
        client_ca=trusted_ca_file or None,
        # As in etcd, naming an authority is asking for certificates of it.
        require_client_cert=client_cert_auth or bool(trusted_ca_file),
        admit=admit,
    )
    _restrict(context, min_version, max_version, cipher_suites)
    _load_crl(context, crl_file, "--peer-crl-file")
    return context


def peer_dial_context(
    *,
    cert_file: str,
    key_file: str,
    trusted_ca_file: str = "",
    client_cert_file: str = "",
    client_key_file: str = "",
    min_version: str = "",
    max_version: str = "",
    cipher_suites: tuple[str, ...] = (),
    verify: bool = True,
    admit: Admit | None = None,
) -> ssl.SSLContext:
    """Return the context for calling peers at https URLs; the values are the flags'.

    Their certificate must be for the host of the URL, and descend from ``trusted_ca_file`` or, without
    one, from the system's authorities, and pass ``admit``; ``verify=False`` takes any. We show the client
    certificate, if there is one, else that of our own listener. Raises ValueError that names the file or
    the cipher suite that cannot be used.
    """
    own = (client_cert_file, client_key_file) if client_cert_file else (cert_file, key_file)
    context = client_context(
        trusted_ca_file or None, own[0] or None, own[1] or None, verify=verify, admit=admit
    )
    _restrict(context, min_version, max_version, cipher_suites)
    return context


def _restrict(
    context: ssl.SSLContext, min_version: str, max_version: str, suites: tuple[str, ...]
) -> None:
    context.minimum_version = _VERSIONS[min_version or "TLS1.2"]
    if max_version:
        context.maximum_version = _VERSIONS[max_version]
    if suites:
        context.set_ciphers(":".join(_openssl_names(suites)))


def _load_crl(context: ssl.SSLContext, path: str, flag: str) -> None:
    if path:
        try:
            context.load_verify_locations(cafile=path)
        except ssl.SSLError as error:
            if error.reason != "NO_CERTIFICATE_OR_CRL_FOUND":
                raise ValueError(f"{flag} {path}: {error}") from error
            text = "no list in PEM form; `openssl crl -inform DER -in FILE -out FILE.pem` makes one of DER"
            raise ValueError(f"{flag} {path}: {text}") from error
        except OSError as error:
            raise ValueError(f"{flag} {path}: {error}") from error
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _openssl_names(suites: tuple[str, ...]) -> list[str]:
    names: list[str] = []
    for suite in suites:
        if suite in _TLS13:
            continue
        name = _CIPHERS.get(suite)
        if name is None:
            raise ValueError(
                f"--cipher-suites: {suite} is not allowed; HTTP/2 allows {', '.join(sorted(_CIPHERS))}"
            )
        names.append(name)
    if not names:
        raise ValueError("--cipher-suites names no suite of TLS 1.2: set --tls-min-version=TLS1.3")
    return names
