"""What a server is told to do: ``Config``, and how it is read from flags, environment and a file.

The order of precedence is flag, ``COORD_*``, ``ETCD_*``, ``--config-file``, default. etcd itself lets a
config file silence everything else and refuses a flag and its variable together; here each value simply
has one origin, kept in ``Config.origins``, and the nearest one to the caller wins.

Nothing here opens a file or reads the environment: the program's entry hands both in.
"""

from __future__ import annotations

import difflib
import importlib
import tomllib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from coord_server import config_check
from coord_server.flag_values import Url, parse_duration
from coord_server.flags import FLAGS, Flag, Standing, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DEFAULT_QUOTA_BYTES: Final = 2 * 1024 * 1024 * 1024
# etcd: what a request may be longer on the wire than --max-request-bytes.
RECEIVE_OVERHEAD_BYTES: Final = 512 * 1024


class UsageError(Exception):
    """A flag that does not exist or a value that it cannot take: one line, exit code 2."""


class ConfigError(Exception):
    """Values that are fine alone and wrong together or here: one line, exit code 1."""


class MissingExtra(ConfigError):
    """Something asked for needs a package that an optional extra installs."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package: pip install 'coord[{extra}]'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one server; a field per working flag of ``flags.py``.

    ``_s``, ``_ms`` and ``_bytes`` are units. Values of 0 that mean "the default" are resolved by the
    properties. ``origins`` tells where each given flag came from, ``warnings`` what to say about
    it in the log.
    """

    name: str = "default"
    data_dir: str = ""
    wal_dir: str = ""
    listen_client_urls: tuple[Url, ...] = (Url(scheme="http", host="localhost", port=2379),)
    advertise_client_urls: tuple[Url, ...] = ()
    listen_peer_urls: tuple[Url, ...] = (Url(scheme="http", host="localhost", port=2380),)
    listen_metrics_urls: tuple[Url, ...] = ()
    heartbeat_interval_ms: int = 100
    election_timeout_ms: int = 1000
    initial_election_tick_advance: bool = True
    pre_vote: bool = True
    snapshot_count: int = 10_000
    snapshot_catchup_entries: int = 5000
    quota_backend_bytes: int = 0
    backend_batch_limit: int = 0
    max_txn_ops: int = 128
    max_request_bytes: int = 1572864
    max_concurrent_streams: int = 4294967295
    grpc_keepalive_min_time_s: float = 5.0
    grpc_keepalive_interval_s: float = 7200.0
    grpc_keepalive_timeout_s: float = 20.0
    initial_advertise_peer_urls: tuple[Url, ...] = (
        Url(scheme="http", host="localhost", port=2380),
    )
    initial_cluster: str = ""
    initial_cluster_state: str = "new"
    initial_cluster_token: str = "etcd-cluster"  # noqa: S105 - etcd's word for a seed, no secret
    discovery_srv: str = ""
    discovery_srv_name: str = ""
    strict_reconfig_check: bool = True
    max_learners: int = 1
    force_new_cluster: bool = False
    cert_file: str = ""
    key_file: str = ""
    trusted_ca_file: str = ""
    client_cert_auth: bool = False
    client_cert_allowed_cn: tuple[str, ...] = ()
    client_cert_allowed_hostname: tuple[str, ...] = ()
    client_crl_file: str = ""
    peer_cert_file: str = ""
    peer_key_file: str = ""
    peer_client_cert_file: str = ""
    peer_client_key_file: str = ""
    peer_trusted_ca_file: str = ""
    peer_client_cert_auth: bool = False
    peer_cert_allowed_cn: tuple[str, ...] = ()
    peer_cert_allowed_hostname: tuple[str, ...] = ()
    peer_crl_file: str = ""
    auto_tls: bool = False
    peer_auto_tls: bool = False
    self_signed_cert_validity_years: int = 1
    tls_min_version: str = "TLS1.2"
    tls_max_version: str = ""
    cipher_suites: tuple[str, ...] = ()
    cors: tuple[str, ...] = ("*",)
    host_whitelist: tuple[str, ...] = ("*",)
    auto_compaction_mode: str = "periodic"
    auto_compaction_retention: str = "0"
    compaction_batch_limit: int = 0
    compaction_sleep_interval_s: float = 0.0
    watch_progress_notify_interval_s: float = 0.0
    lease_checkpoint: bool = False
    lease_checkpoint_persist: bool = False
    log_level: str = "info"
    log_outputs: tuple[str, ...] = ("default",)
    config_file: str = ""
    idle_exit_s: float = 0.0
    address_file: str = ""
    restore_snapshot: str = ""
    # Without a flag, as in etcd; other values are for simulations.
    lease_checkpoint_interval_s: float = 300.0
    max_committed_bytes: int = 256 << 10
    max_append_bytes: int = 1 << 20
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[tuple[str, Mapping[str, str]], ...] = ()

    @property
    def data_path(self) -> str:
        """Return the data directory, ``NAME.etcd`` unless one is given."""
        return self.data_dir or f"{self.name}.etcd"

    @property
    def quota_bytes(self) -> int | None:
        """Return the space quota in bytes, None if writes are never refused for space."""
        if self.quota_backend_bytes < 0:
            return None
        return self.quota_backend_bytes or DEFAULT_QUOTA_BYTES

    @property
    def max_receive_bytes(self) -> int:
        """Return the longest request message that is read from a connection."""
        return self.max_request_bytes + RECEIVE_OVERHEAD_BYTES

    @property
    def election_timeout_s(self) -> float:
        """Return the election timeout in seconds."""
        return self.election_timeout_ms / 1000

    @property
    def election_ticks(self) -> int:
        """Return the election timeout in heartbeats."""
        return max(1, self.election_timeout_ms // self.heartbeat_interval_ms)

    @property
    def request_timeout_s(self) -> float:
        """Return how long an answer may take (etcd: 5 s for the disk, two elections)."""
        return 5.0 + 2 * self.election_timeout_s

    @property
    def progress_interval_s(self) -> float:
        """Return the period of progress notifications, 10 minutes unless given."""
        return self.watch_progress_notify_interval_s or 600.0

    @property
    def flush_limit(self) -> int:
        """Return the operations that force a write to the backend, 10,000 unless given."""
        return self.backend_batch_limit or 10_000


@dataclass(frozen=True, slots=True)
class _Given:
    flag: Flag
    value: object
    text: str
    origin: str


def load(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    read_file: Callable[[str], bytes],
) -> Config:
    """Return the settings that flags, environment and config file make together.

    ``read_file`` returns the content of the config file; its OSError is reported as a refusal.
    Raises UsageError for unknown flags and impossible values, ConfigError for everything that only
    shows in combination.
    """
    flags = dict(_from_arguments(arguments))
    variables, warnings = _from_environment(environment)
    layers = [variables, flags]
    config_file = _nearest("config-file", layers)
    if config_file is not None and config_file.text:
        from_file, more = _from_file(config_file.text, read_file)
        layers.insert(0, from_file)
        warnings += more
    given: dict[str, _Given] = {}
    for layer in layers:
        given |= layer
    values: dict[str, Any] = {}
    for name, item in given.items():
        flag = item.flag
        if flag.standing is Standing.WORKS:
            values[flag.field] = item.value
        elif flag.standing is Standing.REFUSED:
            if item.text != flag.default and item.value not in (False, ()):
                reason = f": {flag.help}" if flag.help else ""
                raise ConfigError(
                    f"--{name}={item.text} ({item.origin}) is not supported by this version{reason}"
                )
        elif item.text != flag.default:
            what = "deprecated flag" if flag.standing is Standing.DEPRECATED else "flag"
            warnings.append(
                (
                    f"accepted {what} that has no effect here",
                    {"flag": f"--{name}", "from": item.origin},
                )
            )
    values["origins"] = MappingProxyType({name: item.origin for name, item in given.items()})
    values["warnings"] = tuple(warnings)
    config = Config(**values)
    problem = config_check.first_problem(config)
    if problem is not None:
        raise ConfigError(problem)
    return config


def _nearest(name: str, layers: Sequence[Mapping[str, _Given]]) -> _Given | None:
    for layer in reversed(layers):
        if name in layer:
            return layer[name]
    return None


def _value(flag: Flag, text: str, shown: str, origin: str) -> _Given:
    try:
        value = flag.kind.parse(text)
    except ValueError:
        raise UsageError(
            f'invalid value "{text}" for {shown}: must be {flag.kind.allowed}'
        ) from None
    return _Given(flag, value, text, origin)


def _from_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, _Given]]:
    rest = iter(arguments)
    for word in rest:
        if not word.startswith("-") or word in {"-", "--"}:
            raise UsageError(f'"{word}" is not a valid flag')
        name, equals, text = word[2 if word.startswith("--") else 1 :].partition("=")
        flag = find(name)
        if flag is None:
            raise UsageError(f"unknown flag --{name}{did_you_mean(name)}; --help lists all flags")
        if not equals:
            if flag.kind.is_switch:
                text = "true"
            else:
                following = next(rest, None)
                if following is None:
                    raise UsageError(f"flag --{name} needs a value: {flag.kind.allowed}")
                text = following
        yield flag.name, _value(flag, text, f"--{name}", "flag")


def did_you_mean(name: str) -> str:
    """Return ``, did you mean --x?`` for the flag nearest to ``name``, or nothing."""
    near = difflib.get_close_matches(name, FLAGS, n=1, cutoff=0.7)
    return f", did you mean --{near[0]}?" if near else ""


def _from_environment(
    environment: Mapping[str, str],
) -> tuple[dict[str, _Given], list[tuple[str, Mapping[str, str]]]]:
    given: dict[str, _Given] = {}
    warnings: list[tuple[str, Mapping[str, str]]] = []
    names = {flag.env_suffix: flag for flag in FLAGS.values()}
    # Sorted for the log; COORD_ is read last and so wins over ETCD_.
    for prefix in ("ETCD_", "COORD_"):
        for variable in sorted(environment):
            text = environment[variable]
            if not variable.startswith(prefix) or not text:
                continue
            suffix = variable.removeprefix(prefix)
            flag = names.get(suffix) or find(suffix.lower().replace("_", "-"))
            if flag is None and prefix == "COORD_":
                # --coord-idle-exit is COORD_IDLE_EXIT; other COORD_ names belong to the SDK.
                flag = names.get(f"COORD_{suffix}")
            elif flag is None:
                warnings.append(("unrecognized environment variable", {"variable": variable}))
            if flag is not None:
                given[flag.name] = _value(flag, text, variable, variable)
    return given, warnings


_TRANSPORT: Final = frozenset(
    (
        "cert-file",
        "key-file",
        "client-cert-file",
        "client-key-file",
        "client-cert-auth",
        "trusted-ca-file",
        "auto-tls",
        "client-crl-file",
    )
)
# Keys whose flags do not have their name: the flag for clients, and the one for peers.
_TRANSPORT_NAMES: Final = {
    "allowed-cn": ("coord-client-cert-allowed-cn", "peer-cert-allowed-cn"),
    "allowed-hostname": ("client-cert-allowed-hostname", "peer-cert-allowed-hostname"),
}


def _from_file(
    path: str, read_file: Callable[[str], bytes]
) -> tuple[dict[str, _Given], list[tuple[str, Mapping[str, str]]]]:
    try:
        raw = read_file(path)
    except OSError as error:
        raise ConfigError(f"cannot read --config-file {path}: {error.strerror or error}") from error
    table = dict(_parse_file(path, raw))
    # etcd groups the flags of TLS under a key for clients and one for peers.
    groups = (("client-transport-security", ""), ("peer-transport-security", "peer-"))
    for number, (group, prefix) in enumerate(groups):
        transport: Any = table.pop(group, None)
        if isinstance(transport, dict):
            names = {key: prefix + key for key in sorted(_TRANSPORT)}
            names |= {key: flags[number] for key, flags in _TRANSPORT_NAMES.items()}
            table |= {names[key]: transport[key] for key in names if key in transport}
    given: dict[str, _Given] = {}
    warnings: list[tuple[str, Mapping[str, str]]] = []
    for key, value in table.items():
        flag = find(key)
        if flag is None:
            warnings.append(("unknown key in config file", {"key": key, "file": path}))
        elif value is not None and value != "":
            text = _file_text(flag, value)
            given[flag.name] = _value(flag, text, f"{key} in {path}", f"file {path}")
    return given, warnings


def _parse_file(path: str, raw: bytes) -> Mapping[str, Any]:
    if path.endswith((".yml", ".yaml", ".json")):
        return _parse_yaml(path, raw)
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot parse --config-file {path} as TOML: {error}") from error


def _parse_yaml(path: str, raw: bytes) -> Mapping[str, Any]:
    try:
        # By name: an optional package without types.
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise MissingExtra("a YAML config file", "yaml") from None
    try:
        table: object = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot parse --config-file {path} as YAML: {reason}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"cannot parse --config-file {path}: it holds no keys")
    return {str(key): value for key, value in table.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - any YAML


def _file_text(flag: Flag, value: object) -> str:
    """Return a value of the file as a flag's text: lists joined, etcd's nanoseconds as a duration."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(str(part) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - any list
    if isinstance(value, int) and flag.kind.label == "duration":
        return f"{value}ns"
    return str(value)


def retention_s(config: Config) -> float:
    """Return the retention of periodic compaction in seconds; 0 if it is off."""
    text = config.auto_compaction_retention
    return int(text) * 3600.0 if text.isdigit() else parse_duration(text)


def retention_revisions(config: Config) -> int:
    """Return how many revisions the revision mode keeps; 0 if it is off."""
    text = config.auto_compaction_retention
    return int(text) if text.isdigit() else int(parse_duration(text) * 1e9)
