"""TLS contexts for both sides of an HTTP/2 connection (RFC 9113 section 9.2): TLS 1.2 or newer, ALPN."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NoReturn

from coord.rpc.admission import AdmittingContext

if TYPE_CHECKING:
    from coord.rpc.admission import Admit


def server_context(
    cert: str,
    key: str,
    *,
    client_ca: str | None = None,
    require_client_cert: bool = False,
    admit: Admit | None = None,
) -> ssl.SSLContext:
    """Return a context for listeners, which offers ``h2`` and ``http/1.1``.

    ``cert`` and ``key`` are paths of PEM files, the chain in the first. With ``client_ca`` clients
    may show a certificate, which then must descend from it; ``require_client_cert`` makes them.
    ``admit`` is asked about each that has got so far.
    Raises ValueError that names the file that is missing, unreadable or no match.
    """
    if require_client_cert and client_ca is None:
        raise ValueError("client certificates are required, but no client CA file is given")
    context = AdmittingContext(ssl.PROTOCOL_TLS_SERVER)
    context.admit = admit
    _harden(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    _load_pair(context, cert, key)
    if client_ca is not None:
        _load_ca(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if require_client_cert else ssl.CERT_OPTIONAL
    return context


def client_context(
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    *,
    verify: bool = True,
    admit: Admit | None = None,
) -> ssl.SSLContext:
    """Return a context for connections to servers, which asks for ``h2``.

    Servers must show a certificate for the name they are called by, from ``ca`` (a PEM file) or
    from the system's authorities; ``verify=False`` trusts anybody. ``cert`` and ``key`` are the
    client's own. ``admit`` is asked about each server that has got so far. Raises ValueError that names the file that is missing, unreadable or no match.
    """
    if (cert is None) != (key is None):
        raise ValueError("a client certificate and its key go together: one of them is missing")
    context = AdmittingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.admit = admit
    _harden(context)
    context.set_alpn_protocols(["h2"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if ca is not None:
        _load_ca(context, ca)
    if cert is not None and key is not None:
        _load_pair(context, cert, key)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Compression leaks secrets; renegotiation is forbidden by HTTP/2 (section 9.2.1).
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"CA file {path!r}: {_reason(error)}") from error


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Load a certificate chain and its key, and blame the right file for a failure."""
    # load_cert_chain does not tell which of its files it could not read, so ask for one first.
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=cert)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"certificate file {cert!r}: {_reason(error)}") from error

    def encrypted() -> NoReturn:
        # Without this OpenSSL would ask at the terminal, and a daemon would hang.
        raise ValueError(f"key file {key!r}: is encrypted with a passphrase")

    try:
        context.load_cert_chain(cert, key, password=encrypted)
    except (OSError, ssl.SSLError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"key file {key!r}: is not the key of {cert!r}") from error
        raise ValueError(f"key file {key!r}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "holds no such thing in PEM form"
    return (error.strerror or "cannot be read").lower()
