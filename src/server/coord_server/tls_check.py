"""Rules between the settings of TLS, with etcd's texts where etcd has one; the first that fails is reported.

etcd passes over some settings in silence and lets more people in than was asked for; these are refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.config import Config

# Certificates cannot name years after 9999, and nobody means more than this.
_MAX_YEARS: Final = 1000


def tls_problem(config: Config) -> str | None:
    """Return why the settings of TLS cannot be used together, None if they can."""
    for check in _CHECKS:
        problem = check(config)
        if problem is not None:
            return problem
    return None


def _pairs(config: Config) -> str | None:
    for prefix, cert, key in (
        ("", config.cert_file, config.key_file),
        ("peer-", config.peer_cert_file, config.peer_key_file),
        ("peer-client-", config.peer_client_cert_file, config.peer_client_key_file),
    ):
        if bool(cert) != bool(key):
            return f"--{prefix}cert-file and --{prefix}key-file must be given together"
    has_pair = bool(config.cert_file) or config.auto_tls
    for url in config.listen_client_urls:
        if url.is_secure and not has_pair:
            return (
                "TLS key/cert (--cert-file, --key-file) must be provided "
                f"for client url {url} with HTTPS scheme"
            )
    has_peer_pair = bool(config.peer_cert_file) or config.peer_auto_tls
    for url in config.listen_peer_urls:
        if url.is_secure and not has_peer_pair:
            return (
                "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided "
                f"for peer url {url} with HTTPS scheme"
            )
    if any(url.is_secure for url in config.listen_metrics_urls) and not has_pair:
        return (
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
        )
    return None


def _trust(config: Config) -> str | None:
    """Whoever looks at certificates needs an authority: one that nobody vouches for proves nothing."""
    of_clients = {
        "client-cert-auth": config.client_cert_auth,
        "client-cert-allowed-hostname": config.client_cert_allowed_hostname,
        "coord-client-cert-allowed-cn": config.client_cert_allowed_cn,
    }
    of_peers = {
        "peer-client-cert-auth": config.peer_client_cert_auth,
        "peer-cert-allowed-cn": config.peer_cert_allowed_cn,
        "peer-cert-allowed-hostname": config.peer_cert_allowed_hostname,
    }
    for prefix, ca, flags in (
        ("", config.trusted_ca_file, of_clients),
        ("peer-", config.peer_trusted_ca_file, of_peers),
    ):
        for flag, value in flags.items():
            if value and not ca:
                return f"--{flag} needs --{prefix}trusted-ca-file"
    return None


def _allowed(config: Config) -> str | None:
    for names, hosts in (
        (config.client_cert_allowed_cn, config.client_cert_allowed_hostname),
        (config.peer_cert_allowed_cn, config.peer_cert_allowed_hostname),
    ):
        if names and hosts:
            return (
                "AllowedCNs and AllowedHostnames are mutually exclusive "
                f"(cns={_quoted(names)}, hostnames={_quoted(hosts)})"
            )
    return None


def _quoted(words: tuple[str, ...]) -> str:
    """Return words as Go's ``%q`` writes them."""
    return f"[{' '.join(json.dumps(word, ensure_ascii=False) for word in words)}]"


def _made_here(config: Config) -> str | None:
    makes_peer_pair = config.peer_auto_tls and not config.peer_cert_file
    if makes_peer_pair:
        # Certificates that members made for themselves would not pass, and no member would be heard.
        for flag, value in (
            ("peer-trusted-ca-file", config.peer_trusted_ca_file),
            ("peer-client-cert-file", config.peer_client_cert_file),
            ("peer-crl-file", config.peer_crl_file),
        ):
            if value:
                return (
                    f"--peer-auto-tls does not go with --{flag}: "
                    "no authority has signed the certificates that it makes"
                )
    if makes_peer_pair or (config.auto_tls and not config.cert_file):
        years = config.self_signed_cert_validity_years
        if years == 0:
            return "selfSignedCertValidity is invalid,it should be greater than 0"
        if years > _MAX_YEARS:
            return f"--self-signed-cert-validity must be at most {_MAX_YEARS} (set to {years})"
    return None


def _versions(config: Config) -> str | None:
    if config.tls_max_version and config.tls_min_version > config.tls_max_version:
        return (
            f"min version ({config.tls_min_version}) is greater than "
            f"max version ({config.tls_max_version})"
        )
    if config.cipher_suites and config.tls_min_version == "TLS1.3":
        return "cipher suites cannot be configured when only TLS1.3 is enabled"
    return None


_CHECKS: Final[tuple[Callable[[Config], str | None], ...]] = (
    _pairs, _allowed, _trust, _made_here, _versions,
)  # fmt: skip
