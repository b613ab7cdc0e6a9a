"""Flags, environment and file make one Config; what cannot be is refused in one line."""

from __future__ import annotations

import importlib

import pytest

from coord_server import config as config_module
from coord_server.config import Config, ConfigError, MissingExtra, UsageError, load
from coord_server.flag_values import Url, parse_bool, parse_duration, parse_url
from coord_server.flags import ALIASES, FLAGS, Standing
from coord_server.usage import help_text, version_text


def no_file(path: str) -> bytes:
    raise FileNotFoundError(2, "No such file or directory", path)


def parse(*arguments: str, env: dict[str, str] | None = None, file: bytes | None = None) -> Config:
    return load(arguments, env or {}, no_file if file is None else lambda _path: file)


def test_defaults_are_etcds() -> None:
    config = parse()
    assert config.name == "default"
    assert config.data_path == "default.etcd"
    assert [str(url) for url in config.listen_client_urls] == ["http://localhost:2379"]
    assert config.quota_bytes == 2 * 1024**3
    assert config.max_receive_bytes == 2_097_152
    assert config.request_timeout_s == 7.0
    assert config.election_ticks == 10
    assert config.warnings == ()


def test_every_working_flag_has_its_field_with_the_same_default() -> None:
    fields = Config()
    for flag in FLAGS.values():
        if flag.standing is Standing.WORKS:
            assert getattr(fields, flag.field) == flag.kind.parse(flag.default), flag.name


def test_every_alias_leads_to_a_flag_and_every_default_is_legal() -> None:
    assert set(ALIASES.values()) <= set(FLAGS)
    for flag in FLAGS.values():
        flag.kind.parse(flag.default)


@pytest.mark.parametrize(
    "arguments",
    [["--name", "n1"], ["--name=n1"], ["-name", "n1"], ["-name=n1"], ["--name=a", "--name=n1"]],
)
def test_spellings_of_a_flag(arguments: list[str]) -> None:
    assert parse(*arguments).name == "n1"


def test_switches() -> None:
    assert parse("--client-cert-auth", "--trusted-ca-file=x").client_cert_auth
    assert parse("--client-cert-auth=T", "--trusted-ca-file=x").client_cert_auth
    assert not parse("--client-cert-auth", "--client-cert-auth=false").client_cert_auth
    assert parse("--experimental-watch-progress-notify-interval=3s").progress_interval_s == 3.0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--nmae=x"], "unknown flag --nmae, did you mean --name?; --help lists all flags"),
        (["--zzzzzz"], "unknown flag --zzzzzz; --help lists all flags"),
        (["serve"], '"serve" is not a valid flag'),
        (["--name"], "flag --name needs a value: text"),
        (
            ["--heartbeat-interval=fast"],
            'invalid value "fast" for --heartbeat-interval: must be a whole number',
        ),
        (
            ["--client-cert-auth=maybe"],
            'invalid value "maybe" for --client-cert-auth: must be true or false',
        ),
        (
            ["--grpc-keepalive-timeout=20"],
            (
                'invalid value "20" for --grpc-keepalive-timeout: '
                'must be a duration such as "300ms", "5s" or "1h30m"'
            ),
        ),
        (
            ["--auto-compaction-mode=x"],
            'invalid value "x" for --auto-compaction-mode: must be one of periodic, revision',
        ),
        (
            ["--listen-client-urls=ftp://h:1"],
            (
                'invalid value "ftp://h:1" for --listen-client-urls: must be URLs such as '
                "http://127.0.0.1:2379, https://..., unix:///path, with commas"
            ),
        ),
    ],
)
def test_usage_errors_name_flag_value_and_what_is_allowed(arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert str(caught.value) == text


def test_bad_value_in_the_environment_names_the_variable() -> None:
    with pytest.raises(UsageError, match='invalid value "x" for ETCD_MAX_TXN_OPS'):
        parse(env={"ETCD_MAX_TXN_OPS": "x"})


def test_precedence_and_origins() -> None:
    file = b'name = "file"\nmax-txn-ops = 4\nwal-dir = "w"\ncompaction-batch-limit = 7\n'
    env = {
        "ETCD_NAME": "etcd",
        "COORD_NAME": "coord",
        "ETCD_MAX_TXN_OPS": "8",
        "COORD_MAX_TXN_OPS": "9",
        "ETCD_COMPACTION_BATCH_LIMIT": "5",
        "ETCD_DATA_DIR": "",
        "COORD_CONFIG_FILE": "c.toml",
    }
    config = parse("--name=flag", env=env, file=file)
    assert (config.name, config.max_txn_ops, config.compaction_batch_limit, config.wal_dir) == (
        "flag",
        9,
        5,
        "w",
    )
    assert dict(config.origins) == {
        "name": "flag",
        "max-txn-ops": "COORD_MAX_TXN_OPS",
        "compaction-batch-limit": "ETCD_COMPACTION_BATCH_LIMIT",
        "wal-dir": "file c.toml",
        "config-file": "COORD_CONFIG_FILE",
    }
    assert config.data_path == "flag.etcd"


def test_own_flags_have_short_variables_and_other_names_of_the_sdk_are_ignored() -> None:
    config = parse(env={"COORD_IDLE_EXIT": "30s", "COORD_ENDPOINTS": "h:1", "ETCD_NO_SUCH": "1"})
    assert config.idle_exit_s == 30.0
    assert config.warnings == (("unrecognized environment variable", {"variable": "ETCD_NO_SUCH"}),)


def test_file_forms() -> None:
    file = b"""
listen-client-urls = ["http://127.0.0.1:1", "unix:///run/c.sock"]
grpc-keepalive-interval = 2000000000
client-cert-auth = true
trusted-ca-file = "ca.pem"
no-such-key = 1
[client-transport-security]
cert-file = "c.pem"
key-file = "k.pem"
"""
    config = parse("--config-file=c.toml", file=file)
    assert [str(url) for url in config.listen_client_urls] == [
        "http://127.0.0.1:1",
        "unix:///run/c.sock",
    ]
    assert config.grpc_keepalive_interval_s == 2.0
    assert config.client_cert_auth
    assert (config.cert_file, config.key_file) == ("c.pem", "k.pem")
    assert config.warnings[0][1]["key"] == "no-such-key"


def test_unreadable_and_broken_files() -> None:
    with pytest.raises(ConfigError, match=r"cannot read --config-file c\.toml: No such file"):
        parse("--config-file=c.toml")
    with pytest.raises(ConfigError, match=r"cannot parse --config-file c\.toml as TOML"):
        parse("--config-file=c.toml", file=b"name=")


def test_yaml_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'coord\[yaml\]'"):
        parse("--config-file=c.yaml", file=b"name: x")


def test_harmless_flags_warn_once_and_only_if_they_ask_for_something_else() -> None:
    config = parse("--enable-v2", "--strict-reconfig-check=true", "--retry-interval=3")
    assert [fields["flag"] for _, fields in config.warnings] == ["--enable-v2", "--retry-interval"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--election-timeout=400"], "--election-timeout[400ms] should be at least as 5 times as"),
        (["--election-timeout=60000"], "is too long, and should be set less than 50000ms"),
        (["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (["--listen-client-urls=http://example.com:1"], "expected IP in URL for binding"),
        (["--listen-client-urls=https://127.0.0.1:1"], "TLS key/cert (--cert-file, --key-file)"),
        (["--cert-file=c"], "must be given together"),
        (["--client-cert-auth"], "--client-cert-auth needs --trusted-ca-file"),
        (["--listen-peer-urls=https://127.0.0.1:1"], "TLS key/cert (--peer-cert-file, --peer-key"),
        (["--peer-cert-file=c"], "--peer-cert-file and --peer-key-file must be given together"),
        (["--peer-client-key-file=c"], "--peer-client-key-file must be given together"),
        (["--peer-client-cert-auth"], "--peer-client-cert-auth needs --peer-trusted-ca-file"),
        (
            ["--initial-cluster=a=http://h:1", "--discovery-srv=example.com"],
            (
                "multiple discovery or bootstrap flags are set. "
                'Choose one of "initial-cluster", "discovery" or "discovery-srv"'
            ),
        ),
        (
            ["--discovery=http://d:1"],
            "--discovery=http://d:1 (flag) is not supported by this version: there is no discovery",
        ),
        (
            ["--initial-cluster=foo"],
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
        (["--initial-cluster=a=http://h:1/x"], "URL must not contain a path: http://h:1/x"),
        (["--initial-cluster=a=http://h"], 'does not have the form "host:port": http://h'),
        (["--auto-compaction-retention=x"], 'invalid value "x" for --auto-compaction-retention'),
        (["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], "is greater than max version"),
        (
            ["--listen-metrics-urls=http://localhost:2379"],
            "cannot listen twice on http://localhost:2379",
        ),
    ],
)
def test_refused_combinations(arguments: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*arguments)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_switched_off_refused_flags_are_fine() -> None:
    assert parse("--discovery=").warnings == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("1h30m", 5400), ("300ms", 0.3), ("1.5s", 1.5), ("2us", 2e-6), ("-1s", -1)],
)
def test_durations(text: str, seconds: float) -> None:
    assert abs(parse_duration(text) - seconds) < 1e-9


@pytest.mark.parametrize("text", ["", "1", "s", "1 s", "1d", "--1s"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_duration(text)


def test_booleans_are_gos() -> None:
    assert [parse_bool(word) for word in ("1", "T", "FALSE", "f")] == [True, True, False, False]
    with pytest.raises(ValueError, match="yes"):
        parse_bool("yes")


def test_urls() -> None:
    assert parse_url("https://[::1]:2379") == Url(scheme="https", host="::1", port=2379)
    assert str(parse_url("https://[::1]:2379")) == "https://[::1]:2379"
    assert parse_url("unix:///a/b").path == "/a/b"
    assert parse_url("unix://rel.sock").path == "rel.sock"
    for bad in ("http://h", "h:1", "http://h:1/path", "http://u@h:1", "unix://", "http://h:99999"):
        with pytest.raises(ValueError, match=r".*"):
            parse_url(bad)


def test_retention() -> None:
    assert config_module.retention_s(Config(auto_compaction_retention="2")) == 7200.0
    assert config_module.retention_s(Config(auto_compaction_retention="90s")) == 90.0
    assert config_module.retention_revisions(Config(auto_compaction_retention="1000")) == 1000


def test_version_and_help_texts() -> None:
    lines = version_text().splitlines()
    assert lines[0] == "etcd Version: 3.5.21"
    assert lines[1].startswith("coord-server Version: ")
    text = help_text()
    for flag in FLAGS.values():
        if flag.standing is not Standing.DEPRECATED:
            assert flag.name in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_flags_of_a_cluster() -> None:
    config = parse(
        "--initial-cluster=a=http://h:1,b=http://h:2,a=http://h:3",
        "--initial-cluster-state=existing",
        "--strict-reconfig-check=false",
        "--pre-vote=false",
        "--experimental-max-learners=3",
        "--initial-election-tick-advance=false",
        "--snapshot-count=7",
        "--experimental-snapshot-catchup-entries=5",
        "--force-new-cluster",
        "--peer-trusted-ca-file=ca",
        env={"ETCD_DISCOVERY_SRV_NAME": "x", "COORD_PEER_CRL_FILE": "crl"},
    )
    assert config.initial_cluster_state == "existing"
    assert not config.strict_reconfig_check
    assert not config.pre_vote
    assert not config.initial_election_tick_advance
    assert config.force_new_cluster
    assert (config.max_learners, config.snapshot_count, config.snapshot_catchup_entries) == (
        3,
        7,
        5,
    )
    assert (config.discovery_srv_name, config.peer_crl_file) == ("x", "crl")
    assert config.warnings == ()
