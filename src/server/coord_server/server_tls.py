"""The three TLS contexts of one server: for its clients, for peers that call, for calling peers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord_server.allowed_names import AllowedNames, admit_called, admit_callers
from coord_server.auto_tls import with_own_certificates
from coord_server.tls import client_listener_context, peer_dial_context, peer_listener_context

if TYPE_CHECKING:
    import ssl

    from coord_server.config import Config
    from coord_server.env import ServerEnv
    from coord_server.log import Log


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """None where the settings have no certificates."""

    clients: ssl.SSLContext | None
    peers: ssl.SSLContext | None
    calling: ssl.SSLContext | None


def make_contexts(config: Config, env: ServerEnv, log: Log, root: str) -> Contexts:
    """Return the contexts; certificates of the server's own are made below ``root``, the data directory.

    Raises ValueError that names what cannot be used, MissingExtra, and OSError of the disk.
    """
    config = with_own_certificates(config, env, log, root)
    clients = AllowedNames(
        common_names=config.client_cert_allowed_cn, hosts=config.client_cert_allowed_hostname
    )
    return Contexts(
        clients=client_listener_context(config, admit_callers(clients, log, kind="client")),
        peers=_listening(config, log),
        calling=_calling(config),
    )


def _peers(config: Config) -> AllowedNames:
    return AllowedNames(
        common_names=config.peer_cert_allowed_cn, hosts=config.peer_cert_allowed_hostname
    )


def _listening(config: Config, log: Log) -> ssl.SSLContext | None:
    return peer_listener_context(
        cert_file=config.peer_cert_file,
        key_file=config.peer_key_file,
        trusted_ca_file=config.peer_trusted_ca_file,
        client_cert_auth=config.peer_client_cert_auth,
        crl_file=config.peer_crl_file,
        min_version=config.tls_min_version,
        max_version=config.tls_max_version,
        cipher_suites=tuple(config.cipher_suites),
        admit=admit_callers(_peers(config), log, kind="peer"),
    )


def _calling(config: Config) -> ssl.SSLContext | None:
    if not (config.peer_cert_file or config.peer_trusted_ca_file):
        return None
    return peer_dial_context(
        cert_file=config.peer_cert_file,
        key_file=config.peer_key_file,
        trusted_ca_file=config.peer_trusted_ca_file,
        client_cert_file=config.peer_client_cert_file,
        client_key_file=config.peer_client_key_file,
        min_version=config.tls_min_version,
        max_version=config.tls_max_version,
        cipher_suites=tuple(config.cipher_suites),
        # Nobody has signed what members make for themselves: there is nothing to verify it with.
        verify=not config.peer_auto_tls,
        admit=admit_called(_peers(config)),
    )
