"""Rules between settings, with etcd's texts where etcd has one; the first that fails is reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord_server.flag_values import Url, is_bindable, parse_url, parse_wait, parse_words
from coord_server.tls_check import tls_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.config import Config

# etcd: 50 times the default of 1 s.
_MAX_ELECTION_MS: Final = 50_000


def first_problem(config: Config) -> str | None:
    """Return why a server cannot run with ``config``, None if it can."""
    for check in _CHECKS:
        problem = check(config)
        if problem is not None:
            return problem
    return None


def _timing(config: Config) -> str | None:
    heartbeat, election = config.heartbeat_interval_ms, config.election_timeout_ms
    if heartbeat <= 0:
        return f"--heartbeat-interval must be >0 (set to {heartbeat}ms)"
    if election <= 0:
        return f"--election-timeout must be >0 (set to {election}ms)"
    if 5 * heartbeat > election:
        return (
            f"--election-timeout[{election}ms] should be at least as 5 times as "
            f"--heartbeat-interval[{heartbeat}ms]"
        )
    if election > _MAX_ELECTION_MS:
        return (
            f"--election-timeout[{election}ms] is too long, "
            f"and should be set less than {_MAX_ELECTION_MS}ms"
        )
    return None


def _checkpoints(config: Config) -> str | None:
    if config.lease_checkpoint_persist and not config.lease_checkpoint:
        return (
            "setting experimental-enable-lease-checkpoint-persist requires "
            "experimental-enable-lease-checkpoint"
        )
    return None


def _names(config: Config) -> str | None:
    if not config.name:
        return "--name must not be empty"
    if not config.listen_client_urls:
        return "--listen-client-urls must name at least one URL"
    if not config.listen_peer_urls:
        return "--listen-peer-urls must name at least one URL"
    if not config.initial_advertise_peer_urls:
        return "--initial-advertise-peer-urls must name at least one URL"
    return None


def _binding(config: Config) -> str | None:
    listening = (
        *config.listen_client_urls,
        *config.listen_peer_urls,
        *config.listen_metrics_urls,
    )
    for url in listening:
        if not is_bindable(url):
            return f"expected IP in URL for binding ({url})"
    own = (*config.listen_client_urls, *config.listen_metrics_urls)
    fixed = [str(url) for url in own if url.is_unix or url.port]
    for text in fixed:
        if fixed.count(text) > 1:
            return f"cannot listen twice on {text}"
    return None


def parse_initial_cluster(text: str) -> dict[str, tuple[Url, ...]]:
    """Return member name to peer URLs of ``name=url,name=url``; ValueError says what is wrong."""
    members: dict[str, tuple[Url, ...]] = {}
    for part in parse_words(text):
        name, _, url = part.partition("=")
        members[name] = (*members.get(name, ()), parse_peer_url(url))
    return members


def parse_peer_url(text: str) -> Url:
    """Return a peer URL; ValueError has etcd's reason."""
    scheme, _, rest = text.partition("://")
    if scheme not in {"http", "https", "unix", "unixs"}:
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    if not scheme.startswith("unix") and rest.partition("/")[1]:
        raise ValueError(f"URL must not contain a path: {text}")
    try:
        return parse_url(text)
    except ValueError:
        raise ValueError(f'URL address does not have the form "host:port": {text}') from None


def _cluster(config: Config) -> str | None:
    if config.initial_cluster and config.discovery_srv:
        return (
            "multiple discovery or bootstrap flags are set. "
            'Choose one of "initial-cluster", "discovery" or "discovery-srv"'
        )
    try:
        parse_initial_cluster(config.initial_cluster)
    except ValueError as error:
        return f"error setting up initial cluster: {error}"
    return None


def _limits(config: Config) -> str | None:
    retention = config.auto_compaction_retention
    try:
        if not retention.isdigit():
            parse_wait(retention)
    except ValueError:
        return (
            f'invalid value "{retention}" for --auto-compaction-retention: '
            "must be a whole number or a duration"
        )
    if config.max_txn_ops < 1:
        return "--max-txn-ops must be at least 1"
    if config.max_request_bytes < 1:
        return "--max-request-bytes must be at least 1"
    if config.max_concurrent_streams < 1:
        return "--max-concurrent-streams must be at least 1"
    if not config.log_outputs:
        return "--log-outputs must name at least one output"
    return None


_CHECKS: Final[tuple[Callable[[Config], str | None], ...]] = (
    _timing, _names, _binding, tls_problem, _cluster, _limits, _checkpoints,
)  # fmt: skip
