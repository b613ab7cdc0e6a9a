"""The table of flags: every flag that etcd knows, what it does here, and our own under ``--coord-``.

A flag has one of four standings. ``WORKS``: it does what etcd's manual says. ``INERT``: accepted and
without meaning here; a start with it logs one warning line. ``DEPRECATED``: the same, and etcd itself
has dropped it. ``REFUSED``: ignoring it would give the user something else than was asked for (less
safety, another topology), so a start with any value but the default ends with one line.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from coord_server import flag_values as kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord_server.flag_values import Kind


class Standing(Enum):
    """What this server does with a flag."""

    WORKS = "works"
    INERT = "inert"
    DEPRECATED = "deprecated"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: ``default`` is text as on the command line; ``field`` its place in ``Config``."""

    name: str
    kind: Kind
    default: str
    help: str
    section: str
    standing: Standing = Standing.WORKS
    field: str = ""

    @property
    def env_suffix(self) -> str:
        """Return the name that follows ``ETCD_`` and ``COORD_`` in the environment."""
        return self.name.upper().replace("-", "_")


def _works(section: str, *rows: tuple[str, Kind, str, str, str]) -> Iterator[Flag]:
    for name, kind, default, field, text in rows:
        yield Flag(name, kind, default, text, section, Standing.WORKS, field)


def _accepted(standing: Standing, section: str, kind: Kind, names: str) -> Iterator[Flag]:
    for word in names.split():
        name, _, default = word.partition("=")
        if kind.is_switch and not default:
            default = "false"
        yield Flag(name, kind, default, "", section, standing)


MEMBER: Final = "Member"
CLUSTER: Final = "Cluster"
SECURITY: Final = "Security"
AUTH: Final = "Auth"
STORE: Final = "Compaction and limits"
LOG: Final = "Logging and metrics"
OTHER: Final = "Other"
OWN: Final = "Of coord-server only"


def _member() -> Iterator[Flag]:
    yield from _works(
        MEMBER,
        ("name", kinds.TEXT, "default", "name", "human-readable name of this member"),
        ("data-dir", kinds.TEXT, "", "data_dir", "where all data lives (default: NAME.etcd)"),
        ("wal-dir", kinds.TEXT, "", "wal_dir", "directory of the write-ahead log (default: in the data directory)"),
        ("listen-client-urls", kinds.URLS, "http://localhost:2379", "listen_client_urls", "where clients are served; port 0 picks a free one"),
        ("advertise-client-urls", kinds.URLS, "", "advertise_client_urls", "what clients are told to use (default: as listened on)"),
        ("listen-peer-urls", kinds.URLS, "http://localhost:2380", "listen_peer_urls", "where peers are served"),
        ("listen-metrics-urls", kinds.URLS, "", "listen_metrics_urls", "more places that serve /metrics, /health, /livez, /readyz only"),
        ("heartbeat-interval", kinds.INT, "100", "heartbeat_interval_ms", "milliseconds between heartbeats"),
        ("election-timeout", kinds.INT, "1000", "election_timeout_ms", "milliseconds without a leader before an election"),
        ("initial-election-tick-advance", kinds.SWITCH, "true", "initial_election_tick_advance", "begin with most of the first election timeout behind"),
        ("pre-vote", kinds.SWITCH, "true", "pre_vote", "ask whether an election could be won before disturbing a leader"),
        ("snapshot-count", kinds.COUNT, "10000", "snapshot_count", "applied entries between two cuts of the log"),
        ("snapshot-catchup-entries", kinds.COUNT, "5000", "snapshot_catchup_entries", "entries kept behind a cut for members that are slow"),
        ("quota-backend-bytes", kinds.INT, "0", "quota_backend_bytes", "refuse writes above this size of the store (0: 2 GiB; negative: never)"),
        ("backend-batch-limit", kinds.COUNT, "0", "backend_batch_limit", "operations between writes to the store (0: 10000)"),
        ("max-txn-ops", kinds.COUNT, "128", "max_txn_ops", "operations in one list of a txn"),
        ("max-request-bytes", kinds.COUNT, "1572864", "max_request_bytes", "size of one request that changes something"),
        ("max-concurrent-streams", kinds.COUNT, "4294967295", "max_concurrent_streams", "calls in flight on one connection"),
        ("grpc-keepalive-min-time", kinds.DURATION, "5s", "grpc_keepalive_min_time_s", "clients that ping faster are sent away"),
        ("grpc-keepalive-interval", kinds.DURATION, "2h", "grpc_keepalive_interval_s", "how often idle clients are pinged (0: never)"),
        ("grpc-keepalive-timeout", kinds.DURATION, "20s", "grpc_keepalive_timeout_s", "how long their answer may take"),
    )  # fmt: skip
    yield from _accepted(Standing.INERT, MEMBER, kinds.SWITCH,
        "socket-reuse-port socket-reuse-address memory-mlock unsafe-no-fsync")  # fmt: skip
    yield from _accepted(Standing.INERT, MEMBER, kinds.COUNT,
        "max-wals=5 max-snapshots=5")  # fmt: skip
    yield from _accepted(
        Standing.INERT,
        MEMBER,
        kinds.DURATION,
        "backend-batch-interval=0s raft-read-timeout=5s raft-write-timeout=5s",
    )
    yield Flag(
        "backend-bbolt-freelist-type",
        kinds.one_of("map", "array"),
        "map",
        "",
        MEMBER,
        Standing.INERT,
    )
    yield Flag("listen-client-http-urls", kinds.URLS, "", "", MEMBER, Standing.REFUSED)


def _cluster() -> Iterator[Flag]:
    yield from _works(
        CLUSTER,
        ("initial-advertise-peer-urls", kinds.URLS, "http://localhost:2380", "initial_advertise_peer_urls", "this member's own peer URLs; its id is made of them"),
        ("initial-cluster", kinds.TEXT, "", "initial_cluster", "all founding members, NAME=URL,NAME=URL; a name may come more than once (default: this member alone)"),
        ("initial-cluster-state", kinds.one_of("new", "existing"), "new", "initial_cluster_state", "new, or existing to join a cluster that this member was added to"),
        ("initial-cluster-token", kinds.TEXT, "etcd-cluster", "initial_cluster_token", "mixed into the ids of members and cluster"),
        ("discovery-srv", kinds.TEXT, "", "discovery_srv", "domain whose SRV records name the founding members (needs the srv extra)"),
        ("discovery-srv-name", kinds.TEXT, "", "discovery_srv_name", "suffix of the service names that are asked for"),
        ("strict-reconfig-check", kinds.SWITCH, "true", "strict_reconfig_check", "refuse changes of members that could cost the quorum"),
        ("max-learners", kinds.COUNT, "1", "max_learners", "members without a vote that may be added"),
        ("force-new-cluster", kinds.SWITCH, "false", "force_new_cluster", "go on alone with the data that is here; all other members are removed"),
    )  # fmt: skip
    yield from _accepted(Standing.INERT, CLUSTER, kinds.SWITCH,
        "discovery-insecure-transport=true discovery-insecure-skip-tls-verify")  # fmt: skip
    yield from _accepted(Standing.INERT, CLUSTER, kinds.DURATION,
        "discovery-dial-timeout=2s discovery-request-timeout=5s discovery-keepalive-time=2s discovery-keepalive-timeout=6s")  # fmt: skip
    yield from _accepted(Standing.INERT, CLUSTER, kinds.TEXT,
        "discovery-cert discovery-key discovery-cacert discovery-user discovery-password discovery-proxy")  # fmt: skip
    yield Flag("discovery-fallback", kinds.one_of("exit"), "exit", "", CLUSTER, Standing.INERT)
    for name in ("discovery", "discovery-token", "discovery-endpoints"):
        yield Flag(name, kinds.TEXT, "", _NO_DISCOVERY, CLUSTER, Standing.REFUSED)


_NO_DISCOVERY: Final = "there is no discovery service; name the members with --initial-cluster, or in DNS with --discovery-srv"
_TLS_VERSION: Final = kinds.one_of("", "TLS1.2", "TLS1.3")


def _security() -> Iterator[Flag]:
    yield from _works(
        SECURITY,
        ("cert-file", kinds.TEXT, "", "cert_file", "certificate chain shown to clients, PEM"),
        ("key-file", kinds.TEXT, "", "key_file", "its private key, PEM"),
        ("trusted-ca-file", kinds.TEXT, "", "trusted_ca_file", "who may sign client certificates, PEM"),
        ("client-cert-auth", kinds.SWITCH, "false", "client_cert_auth", "require a client certificate"),
        ("client-cert-allowed-hostname", kinds.WORDS, "", "client_cert_allowed_hostname", "hosts, one of which a client certificate must be for, with commas"),
        ("client-crl-file", kinds.TEXT, "", "client_crl_file", "revoked client certificates, PEM"),
        ("peer-cert-file", kinds.TEXT, "", "peer_cert_file", "certificate chain shown to peers, PEM"),
        ("peer-key-file", kinds.TEXT, "", "peer_key_file", "its private key, PEM"),
        ("peer-client-cert-file", kinds.TEXT, "", "peer_client_cert_file", "certificate chain for calling peers (default: the same)"),
        ("peer-client-key-file", kinds.TEXT, "", "peer_client_key_file", "its private key, PEM"),
        ("peer-trusted-ca-file", kinds.TEXT, "", "peer_trusted_ca_file", "who may sign certificates of peers, PEM"),
        ("peer-client-cert-auth", kinds.SWITCH, "false", "peer_client_cert_auth", "require a certificate of peers that connect"),
        ("peer-cert-allowed-cn", kinds.WORDS, "", "peer_cert_allowed_cn", "common names, one of which a peer's certificate must have, with commas"),
        ("peer-cert-allowed-hostname", kinds.WORDS, "", "peer_cert_allowed_hostname", "hosts, one of which a peer's certificate must be for, with commas"),
        ("peer-crl-file", kinds.TEXT, "", "peer_crl_file", "revoked certificates of peers, PEM"),
        ("auto-tls", kinds.SWITCH, "false", "auto_tls", "make a self-signed certificate for client URLs if none is given (needs the tls extra)"),
        ("peer-auto-tls", kinds.SWITCH, "false", "peer_auto_tls", "the same for peer URLs; members then talk in private, but do not know to whom"),
        ("self-signed-cert-validity", kinds.COUNT, "1", "self_signed_cert_validity_years", "years that these certificates are valid"),
        ("tls-min-version", _TLS_VERSION, "TLS1.2", "tls_min_version", "oldest TLS version spoken"),
        ("tls-max-version", _TLS_VERSION, "", "tls_max_version", "newest TLS version spoken (default: what there is)"),
        ("cipher-suites", kinds.WORDS, "", "cipher_suites", "cipher suites of TLS 1.2 by their standard names"),
        ("cors", kinds.WORDS, "*", "cors", "origins that browsers may call from"),
        ("host-whitelist", kinds.WORDS, "*", "host_whitelist", "Host values that plain HTTP requests may carry"),
    )  # fmt: skip
    yield from _accepted(Standing.INERT, SECURITY, kinds.TEXT,
        "client-cert-file client-key-file")  # fmt: skip
    # Names in certificates of peers that connect are not compared with their addresses.
    yield from _accepted(
        Standing.INERT, SECURITY, kinds.SWITCH, "peer-skip-client-san-verification"
    )
    yield Flag("auth-token", kinds.TEXT, "simple", "", AUTH, Standing.INERT)
    yield from _accepted(Standing.INERT, AUTH, kinds.COUNT, "bcrypt-cost=10 auth-token-ttl=300")


def _store() -> Iterator[Flag]:
    yield from _works(
        STORE,
        ("auto-compaction-mode", kinds.one_of("periodic", "revision"), "periodic", "auto_compaction_mode", "how the retention is counted: by time or by revisions"),
        ("auto-compaction-retention", kinds.TEXT, "0", "auto_compaction_retention", "history to keep: hours or a duration, or a number of revisions (0: off)"),
        ("compaction-batch-limit", kinds.COUNT, "0", "compaction_batch_limit", "records looked at in one step of a compaction (0: 1000)"),
        ("compaction-sleep-interval", kinds.DURATION, "0s", "compaction_sleep_interval_s", "pause between steps (0: 10ms)"),
        ("watch-progress-notify-interval", kinds.DURATION, "0s", "watch_progress_notify_interval_s", "how often idle watchers hear of progress (0: 10m)"),
        ("experimental-enable-lease-checkpoint", kinds.SWITCH, "false", "lease_checkpoint", "keep the remaining time of long leases over restarts and changes of leader"),
        ("experimental-enable-lease-checkpoint-persist", kinds.SWITCH, "false", "lease_checkpoint_persist", "the same: remaining times that are kept are always on disk"),
    )  # fmt: skip
    yield from _accepted(Standing.INERT, STORE, kinds.DURATION,
        "corrupt-check-time=0s compact-hash-check-time=1m downgrade-check-time=5s "
        "warning-apply-duration=100ms warning-unary-request-duration=300ms")  # fmt: skip
    yield from _accepted(
        Standing.INERT, STORE, kinds.COUNT, "bootstrap-defrag-threshold-megabytes=0"
    )


def _log() -> Iterator[Flag]:
    yield from _works(
        LOG,
        ("log-level", kinds.one_of("debug", "info", "warn", "error", "dpanic", "panic", "fatal"), "info", "log_level", "least important lines to write"),
        ("log-outputs", kinds.WORDS, "default", "log_outputs", "default or stderr, stdout, or files, with commas"),
    )  # fmt: skip
    yield Flag("metrics", kinds.one_of("basic", "extensive"), "basic", "", LOG, Standing.INERT)
    yield Flag("logger", kinds.one_of("zap"), "zap", "", LOG, Standing.INERT)
    yield Flag("log-format", kinds.one_of("json", "console"), "json", "", LOG, Standing.INERT)
    yield Flag("distributed-tracing-sampling-rate", kinds.NUMBER, "0", "", LOG, Standing.INERT)
    yield from _accepted(Standing.INERT, LOG, kinds.TEXT,
        "log-rotation-config-json distributed-tracing-address=localhost:4317 "
        "distributed-tracing-service-name=etcd distributed-tracing-instance-id log-package-levels log-output")  # fmt: skip
    yield from _accepted(Standing.INERT, LOG, kinds.SWITCH,
        "enable-log-rotation enable-pprof enable-distributed-tracing debug")  # fmt: skip


def _other() -> Iterator[Flag]:
    yield from _works(
        OTHER,
        ("config-file", kinds.TEXT, "", "config_file", "TOML file with flag names as keys (YAML with the yaml extra)"),
    )  # fmt: skip
    yield from _accepted(Standing.INERT, OTHER, kinds.TEXT, "feature-gates v2-deprecation=not-yet")
    yield from _accepted(Standing.INERT, OTHER, kinds.SWITCH,
        "enable-grpc-gateway=true enable-v2 experimental-initial-corrupt-check "
        "experimental-compact-hash-check-enabled experimental-stop-grpc-service-on-defrag "
        "experimental-txn-mode-write-with-shared-buffer=true")  # fmt: skip
    yield from _accepted(Standing.DEPRECATED, OTHER, kinds.TEXT,
        "cluster-active-size cluster-remove-delay cluster-sync-interval config max-result-buffer "
        "max-retry-attempts peer-heartbeat-interval peer-election-timeout retry-interval proxy "
        "proxy-failure-wait proxy-refresh-interval proxy-dial-timeout proxy-write-timeout "
        "proxy-read-timeout")  # fmt: skip
    yield from _accepted(Standing.DEPRECATED, OTHER, kinds.SWITCH, "force snapshot v vv")
    yield from _works(
        OWN,
        ("coord-idle-exit", kinds.DURATION, "0s", "idle_exit_s", "exit once no client was connected for this long (0: never)"),
        ("coord-restore-snapshot", kinds.TEXT, "", "restore_snapshot", "fill an empty data directory from this file before the first start"),
        ("coord-client-cert-allowed-cn", kinds.WORDS, "", "client_cert_allowed_cn", "common names, one of which a client certificate must have; etcd has this in its config file only"),
        ("coord-address-file", kinds.TEXT, "", "address_file", "write the real client addresses here as JSON once ready"),
    )  # fmt: skip


FLAGS: Final[dict[str, Flag]] = {
    flag.name: flag
    for part in (_member(), _cluster(), _security(), _store(), _log(), _other())
    for flag in part
}

# Flags that etcd 3.4-3.6 spell with a prefix that later fell away.
ALIASES: Final[dict[str, str]] = {
    f"experimental-{name}": name
    for name in (
        "bootstrap-defrag-threshold-megabytes",
        "compact-hash-check-time",
        "compaction-batch-limit",
        "compaction-sleep-interval",
        "corrupt-check-time",
        "distributed-tracing-address",
        "distributed-tracing-service-name",
        "distributed-tracing-instance-id",
        "distributed-tracing-sampling-rate",
        "enable-distributed-tracing",
        "downgrade-check-time",
        "memory-mlock",
        "peer-skip-client-san-verification",
        "max-learners",
        "snapshot-catchup-entries",
        "warning-apply-duration",
        "warning-unary-request-duration",
        "watch-progress-notify-interval",
    )
}


def find(name: str) -> Flag | None:
    """Return the flag of this name or former name, without its dashes."""
    return FLAGS.get(ALIASES.get(name, name))
