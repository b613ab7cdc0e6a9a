"""``coord-server`` as a process: exit codes, signals, ports, sockets, TLS, and unmodified etcdctl."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
import trustme

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from tests.support.servers import (
    ServerDied,
    ServerProcess,
    clean_environment,
    coord_server_command,
    coord_server_process,
    etcdctl,
    get,
    start_coord_server,
    wait_for_message,
)

Watch: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"

pytestmark = pytest.mark.processes


def run(*flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        coord_server_command(*flags),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(env),
    )


# Words on the command line.


@pytest.mark.parametrize("flag", ["--version", "-version"])
def test_version(flag: str) -> None:
    result = run("--data-dir=x", flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("etcd Version: 3.5.21\ncoord-server Version: ")
    assert "\nGit SHA: " in result.stdout


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str) -> None:
    result = run(flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: coord-server")


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--nmae=x"], 2, "unknown flag --nmae, did you mean --name?"),
        (["--election-timeout=soon"], 2, 'invalid value "soon" for --election-timeout'),
        (["--election-timeout=1"], 1, "--election-timeout[1ms] should be at least as 5 times"),
        (["--initial-cluster=default=localhost:2380"], 1, "error setting up initial cluster: URL"),
        (["--initial-cluster-state=joined"], 2, 'invalid value "joined" for --initial-cluster'),
        (["--config-file=/nonexistent.toml"], 1, "cannot read --config-file /nonexistent.toml"),
        (["--log-outputs=/nonexistent/log"], 1, "No such file or directory"),
    ],
)
def test_refusals_are_one_line(flags: list[str], code: int, text: str) -> None:
    result = run(*flags)
    assert (result.returncode, result.stdout) == (code, "")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_environment_counts(tmp_path: Path) -> None:
    result = run(env={"ETCD_MAX_TXN_OPS": "many"})
    assert result.returncode == 2
    assert 'invalid value "many" for ETCD_MAX_TXN_OPS' in result.stderr
    with coord_server_process(tmp_path, env={"ETCD_NAME": "e", "COORD_NAME": "c"}) as server:
        assert etcdctl(server.url, "member", "list").stdout.split(", ")[2] == "c"


# Starting.


def started(line: dict[str, object]) -> bool:
    return line["msg"] == "ready to serve client requests"


def test_log_of_a_life(tmp_path: Path) -> None:
    with coord_server_process(tmp_path, "--name=n1", "--enable-v2") as server:
        assert server.stop() == 0
        lines = server.log_lines()
    assert all(list(line)[:4] == ["level", "ts", "caller", "msg"] for line in lines)
    messages = [line["msg"] for line in lines]
    assert messages == [
        "accepted flag that has no effect here",
        "starting an etcd server",
        "enabled capabilities for version",
        "published local member to cluster through raft",
        "serving client traffic insecurely; this is strongly discouraged!",
        "ready to serve client requests",
        "received signal; shutting down",
        "closing etcd server",
        "closed etcd server",
    ]
    (ready,) = (line for line in lines if started(line))
    assert ready["address"] == server.url
    assert not server.url.endswith(":0")


def test_a_data_directory_has_one_server(tmp_path: Path) -> None:
    with coord_server_process(tmp_path) as server:
        assert etcdctl(server.url, "put", "a", "1").returncode == 0
        with pytest.raises(ServerDied) as caught:
            start_coord_server(tmp_path / "second", data_dir=server.data_dir)
        text = str(caught.value)
        assert text.startswith("exit code 1\n")
        assert f"is locked by process {server.pid}" in text
        assert '"level":"fatal"' in text
        assert text.count("\n") == 1
        assert get(server.url, "/health")[0] == 200
    assert oct((server.data_dir / "member").stat().st_mode & 0o777) == "0o700"


def test_directories_that_are_not_ours(tmp_path: Path) -> None:
    etcds = tmp_path / "etcd"
    (etcds / "member" / "snap").mkdir(parents=True)
    (etcds / "member" / "snap" / "db").write_bytes(b"bolt")
    file = tmp_path / "file"
    file.write_text("x")
    newer = tmp_path / "newer"
    (newer / "member").mkdir(parents=True)
    (newer / "member" / "FORMAT").write_text('{"program": "coord-server", "format": 99}')
    for path, reason in (
        (etcds, "belongs to etcd"),
        (file, "Not a directory"),
        (newer, "is of coord-server format 99"),
    ):
        result = run(f"--data-dir={path}", "--listen-client-urls=http://127.0.0.1:0")
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert reason in json.loads(line)["error"]


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(f"--data-dir={tmp_path}/d", f"--listen-client-urls=http://127.0.0.1:{port}")
    assert result.returncode == 1
    last = json.loads(result.stderr.splitlines()[-1])
    assert last["level"] == "fatal"
    assert last["error"] == f"listen tcp 127.0.0.1:{port}: bind: address already in use"
    assert "Traceback" not in result.stderr


def test_a_config_file_and_a_log_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    log = tmp_path / "server.log"
    config.write_text(f'name = "from-file"\nlog-outputs = ["{log}"]\n')
    with coord_server_process(tmp_path / "s", f"--config-file={config}") as server:
        assert etcdctl(server.url, "member", "list").stdout.split(", ")[2] == "from-file"
        assert server.log_text() == ""
        assert "ready to serve client requests" in log.read_text()


def test_identity_and_data_survive_a_restart(tmp_path: Path) -> None:
    with coord_server_process(tmp_path, "--initial-cluster-token=one") as server:
        etcdctl(server.url, "put", "a", "1")
        member = server.member_id
        server.kill()
    # What would give another identity is ignored from now on, as etcd ignores it.
    with coord_server_process(tmp_path, "--initial-cluster-token=two") as server:
        assert server.member_id == member
        assert etcdctl(server.url, "get", "a").stdout == "a\n1\n"


def test_a_store_without_its_log_is_refused(tmp_path: Path) -> None:
    with coord_server_process(tmp_path) as server:
        etcdctl(server.url, "put", "a", "1")
        server.stop()
    for segment in (server.data_dir / "member" / "wal").iterdir():
        segment.unlink()
    with pytest.raises(ServerDied, match=r"is missing, but .* holds data"):
        start_coord_server(tmp_path)


# Stopping.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly_although_clients_are_there(
    tmp_path: Path, number: signal.Signals
) -> None:
    with coord_server_process(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))):
            assert server.stop(number) == 0
        assert server.messages()[-1] == "closed etcd server"


def test_idle_exit(tmp_path: Path) -> None:
    with coord_server_process(tmp_path, "--coord-idle-exit=300ms") as server:
        assert server.wait() == 0
        assert "no client for a while; shutting down" in server.messages()


def test_a_connected_client_keeps_it_from_idling(tmp_path: Path) -> None:
    with coord_server_process(tmp_path, "--coord-idle-exit=100ms") as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.5)
        assert server.wait() == 0


# Addresses.


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with coord_server_process(tmp_path / "d", listen=f"unix://{path}") as server:
        assert server.url == f"unix://{path}"
        assert etcdctl(server.url, "put", "a", "1").stdout == "OK\n"
        assert etcdctl(server.url, "get", "a").stdout == "a\n1\n"
        assert server.stop() == 0
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with coord_server_process(tmp_path / "d", listen=f"unix://{path}") as server:
        server.kill()
    assert path.exists()
    with coord_server_process(tmp_path / "d", listen=f"unix://{path}") as server:
        assert etcdctl(server.url, "put", "a", "1").stdout == "OK\n"


def test_several_addresses_and_metrics_apart(tmp_path: Path) -> None:
    metrics = socket.socket()
    metrics.bind(("127.0.0.1", 0))
    port = metrics.getsockname()[1]
    metrics.close()
    with coord_server_process(
        tmp_path,
        f"--listen-metrics-urls=http://127.0.0.1:{port}",
        listen="http://127.0.0.1:0,http://localhost:0",
    ) as server:
        first, second = server.urls
        assert first != second
        etcdctl(first, "put", "a", "1")
        assert etcdctl(second, "get", "a").stdout == "a\n1\n"
        apart = f"http://127.0.0.1:{port}"
        assert "etcd_server_has_leader 1\n" in get(apart, "/metrics")[1]
        assert get(apart, "/health") == (200, '{"health":"true","reason":""}')
        assert get(apart, "/version")[0] == 404
        assert etcdctl(apart, "get", "a", "--command-timeout=2s").returncode != 0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_pair(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
    pair = authority.issue_cert("127.0.0.1", common_name=name)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    key.write_bytes(pair.private_key_pem.bytes())
    return cert, key


def test_tls_and_client_certificates(tmp_path: Path, authority: trustme.CA) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    cert, key = write_pair(authority, tmp_path, "server")
    mine, my_key = write_pair(authority, tmp_path, "client")
    with coord_server_process(
        tmp_path / "d",
        f"--cert-file={cert}",
        f"--key-file={key}",
        f"--trusted-ca-file={ca}",
        "--client-cert-auth",
        listen="https://127.0.0.1:0",
    ) as server:
        assert server.url.startswith("https://")
        assert "serving client traffic securely" in server.messages()
        known = (f"--cacert={ca}", f"--cert={mine}", f"--key={my_key}")
        assert etcdctl(server.url, *known, "put", "a", "1").stdout == "OK\n"
        stranger = etcdctl(server.url, f"--cacert={ca}", "--command-timeout=2s", "get", "a")
        assert stranger.returncode != 0
        plain = etcdctl(f"http://{server.endpoint}", "--command-timeout=2s", "get", "a")
        assert plain.returncode != 0
        assert etcdctl(server.url, *known, "get", "a").stdout == "a\n1\n"


def test_broken_certificates_are_one_line(tmp_path: Path) -> None:
    cert = tmp_path / "c.pem"
    cert.write_text("no certificate")
    result = run(
        f"--data-dir={tmp_path}/d",
        "--listen-client-urls=https://127.0.0.1:0",
        f"--cert-file={cert}",
        f"--key-file={cert}",
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert str(cert) in json.loads(line)["error"]


# Unmodified etcdctl.


@pytest.mark.etcd
def test_etcdctl(shared_coord_server: ServerProcess, etcdctl_version: str) -> None:
    server = shared_coord_server
    prefix = f"ctl{etcdctl_version}/"

    def ctl(*words: str, stdin: str = "") -> str:
        result = etcdctl(server.url, *words, version=etcdctl_version, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert ctl("put", f"{prefix}a", "1") == "OK\n"
    assert ctl("put", f"{prefix}b", "2") == "OK\n"
    assert ctl("get", "--prefix", prefix) == f"{prefix}a\n1\n{prefix}b\n2\n"
    assert ctl("del", f"{prefix}a", "--prev-kv") == f"1\n{prefix}a\n1\n"
    txn = f'value("{prefix}b") = "2"\n\nput {prefix}c 3\nget {prefix}b\n\nput {prefix}d 4\n\n'
    assert ctl("txn", stdin=txn) == f"SUCCESS\n\nOK\n\n{prefix}b\n2\n"
    member = f"{server.member_id}, started, default, http://localhost:2380, {server.url}, false\n"
    assert ctl("member", "list") == member
    columns = ctl("endpoint", "status").strip().split(", ")
    assert columns[:3] == [server.url, server.member_id, "3.5.21"]
    assert columns[4:6] == ["true", "false"]
    health = etcdctl(server.url, "endpoint", "health", version=etcdctl_version)
    assert f"{server.url} is healthy" in health.stdout + health.stderr
    assert health.returncode == 0
    assert ctl("alarm", "list") == ""
    revision = int(json.loads(ctl("get", "x", "-w", "json"))["header"]["revision"])
    assert ctl("compaction", str(revision)) == f"compacted revision {revision}\n"


# Ending what would not end by itself.


def test_open_streams_are_told_and_do_not_hold_up_the_end(tmp_path: Path) -> None:
    with coord_server_process(tmp_path) as server:
        channel = grpc.insecure_channel(server.endpoint)
        watch: Watch = channel.stream_stream(rpcs.WATCH_WATCH.path)
        create = rpc_pb2.WatchCreateRequest(key=b"w")
        request = rpc_pb2.WatchRequest(create_request=create).SerializeToString()
        call = watch(iter([request, request]), timeout=60)
        assert rpc_pb2.WatchResponse.FromString(next(call)).created
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "etcdserver: server stopped"
        channel.close()


def test_a_second_signal_ends_a_drain_that_hangs(tmp_path: Path) -> None:
    with coord_server_process(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
            client.sendall(unfinished_put())
            # Its settings and their acknowledgement: the call has arrived.
            received = b""
            while b"\0\0\0\4\1" not in received:
                received += client.recv(4096)
            server.process.send_signal(signal.SIGTERM)
            wait_for_message(server, "closing etcd server")
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 128 + signal.SIGTERM
        assert server.messages()[-1] == "closing etcd server"


def unfinished_put() -> bytes:
    """A connection with one unary call whose request never ends."""

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value

    block = b"".join(
        literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/etcdserverpb.KV/Put"),
            (b":authority", b"x"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )
    settings = b"\0\0\0\4\0\0\0\0\0"
    headers = len(block).to_bytes(3, "big") + b"\1\4" + (1).to_bytes(4, "big") + block
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + headers
