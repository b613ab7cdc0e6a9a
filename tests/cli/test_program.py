"""The command line itself: options, variables, errors, completion, and what it never does: show a traceback."""

from __future__ import annotations

import shlex
import signal
import subprocess
from pathlib import Path

import click
import pytest
import trustme

from coord._version import __version__
from coord.cli import app, transactions
from coord.cli.cluster import readable_size
from coord.cli.options import CommandFailed, duration, full_name, parse_lease
from coord.wire import rpc_pb2
from tests.cli.tool import COMMAND, coord, started
from tests.support.servers import (
    ServerProcess,
    clean_environment,
    coord_server_process,
    free_port,
)


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("5s", 5.0), ("500ms", 0.5), ("1m30s", 90.0), ("2", 2.0), ("0.5", 0.5), ("1.5h", 5400.0)],
)
def test_durations(word: str, seconds: float) -> None:
    assert duration(word) == pytest.approx(seconds)


@pytest.mark.parametrize("word", ["", "x", "5 s", "0", "-1s", "s5"])
def test_words_that_are_no_durations(word: str) -> None:
    with pytest.raises(click.BadParameter):
        duration(word)


def test_lease_ids() -> None:
    assert parse_lease("694d") == 0x694D
    for word in ("zz", "", "fffffffffffffffff"):
        with pytest.raises(CommandFailed):
            parse_lease(word)


def test_unique_beginnings_of_names() -> None:
    names = ["get", "del", "demo"]
    assert full_name("g", names) == "get"
    assert full_name("de", names) is None
    assert full_name("del", names) == "del"
    assert full_name("x", names) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (20480, "20 kB"),
        (9_162_752, "9.2 MB"),
        (9_960_000, "10 MB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert readable_size(count) == text


def test_comparisons_are_read() -> None:
    compare = transactions.comparison('val("a \\"b\\" \\x01") != "line\\n"')
    assert compare == rpc_pb2.Compare(
        key=b'a "b" \x01',
        target=rpc_pb2.Compare.VALUE,
        result=rpc_pb2.Compare.NOT_EQUAL,
        value=b"line\n",
    )
    assert transactions.comparison('lease("k") = "1f"').lease == 0x1F


@pytest.mark.parametrize(
    "line",
    [
        "",
        "mod",
        'mod("k" = "1"',
        'mod("k") = 1',
        'mod("k") >= "1"',
        'what("k") = "1"',
        'mod("k") = "x"',
    ],
)
def test_comparisons_that_make_no_sense(line: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        transactions.comparison(line)
    assert caught.value.code == 3


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(app.cli)
    for name in app.cli.list_commands(context):
        command = app.cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        if name != "server":
            assert app.run([name, "--help"]) == 0
            assert capsys.readouterr().out.startswith(f"Usage: coord {name}")
    assert app.run([]) == 0
    assert capsys.readouterr().out.startswith("Usage: coord ")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["get", "k", "--nosuch"], 128, "No such option '--nosuch'"),
        (["nosuch"], 128, "No such command 'nosuch'"),
        (["get", "k", "--limit=x"], 128, "'x' is not a valid integer"),
        (["get", "k", "--prefix=maybe"], 128, "--prefix is true or false"),
        (["get", "k", "--endpoints=a://b"], 128, "unknown scheme 'a'"),
        (["-w", "table", "get", "k"], 4, "no output format 'table'"),
        (["--command-timeout=soon", "get", "k"], 128, "is not a duration"),
        (
            ["get", "k", "--endpoints=https://127.0.0.1:1", "--cacert=/no/such/file"],
            128,
            "/no/such/file",
        ),
        (["lock", "name", "--"], 128, "no command stands behind --"),
        (["lock", "name", "--try", "--timeout=1s"], 128, "--try does not wait"),
        (["completion", "csh"], 128, "no completion for 'csh'"),
    ],
)
def test_mistakes(
    words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(words) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Error: ")
    assert text in shown.err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    where = f"127.0.0.1:{free_port()}"
    assert app.run([f"--endpoints={where}", "get", "k", "--dial-timeout=50ms"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("Error: store unavailable: ")
    assert where in shown.err
    assert shown.err.count("\n") == 1


def test_a_bug_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(app.cli, "main", broken)
    assert app.run(["get", "k"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: unexpected KeyError: 'lost'\n")
    assert "--debug" in error
    assert "Traceback" not in error


@pytest.mark.processes
def test_debug_shows_where(shared_coord_server: ServerProcess) -> None:
    done = coord(shared_coord_server.endpoint, "--debug", "put", "k", "v", "--lease=12")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("Error: etcdserver: requested lease not found\n")


@pytest.mark.processes
def test_variables_and_their_order(shared_coord_server: ServerProcess) -> None:
    here, nowhere = shared_coord_server.endpoint, f"127.0.0.1:{free_port()}"
    both = {"COORD_ENDPOINTS": here, "ETCDCTL_ENDPOINTS": nowhere}
    assert coord(None, "put", "env", "v", env=both).stdout == "OK\n"
    assert coord(None, "get", "env", env={"ETCDCTL_ENDPOINTS": here}).stdout == "env\nv\n"
    assert coord(here, "get", "env", env={"COORD_ENDPOINTS": nowhere}).stdout == "env\nv\n"
    flag_behind = coord(None, "get", "env", f"--endpoints={here}", env={"COORD_ENDPOINTS": nowhere})
    assert flag_behind.stdout == "env\nv\n"
    as_json = coord(here, "get", "env", env={"ETCDCTL_WRITE_OUT": "json"})
    assert as_json.stdout.startswith('{"header":')


@pytest.mark.processes
def test_value_from_standard_input(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    assert coord(endpoint, "put", "piped", stdin="two\nlines\n").stdout == "OK\n"
    assert coord(endpoint, "get", "piped", "--print-value-only").stdout == "two\nlines\n\n"


@pytest.mark.processes
def test_bytes_go_through_unchanged(shared_coord_server: ServerProcess) -> None:
    command = [*COMMAND, f"--endpoints={shared_coord_server.endpoint}"]
    key, value = b"\xff\xfe", b"\x80\x81"
    subprocess.run(
        [*command, "put", key, value], check=True, env=clean_environment(), capture_output=True
    )
    done = subprocess.run(
        [*command, "get", key], check=True, env=clean_environment(), capture_output=True
    )
    assert done.stdout == key + b"\n" + value + b"\n"


@pytest.mark.processes
def test_count_only_counts(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    for number in range(3):
        coord(endpoint, "put", f"count/{number}", "v")
    assert coord(endpoint, "get", "count/", "--prefix", "--count-only").stdout == "3\n"


@pytest.mark.processes
def test_a_store_inside_the_command() -> None:
    assert coord("memory:", "get", "nothing").stdout == ""
    assert coord("memory:", "status").stdout.startswith("memory:, ")


@pytest.mark.processes
def test_status_goes_on_after_a_dead_endpoint(shared_coord_server: ServerProcess) -> None:
    dead = f"127.0.0.1:{free_port()}"
    both = f"{dead},{shared_coord_server.endpoint}"
    done = coord(both, "status", "--dial-timeout=100ms")
    assert done.returncode == 1
    assert done.stdout.startswith(f"{shared_coord_server.endpoint}, ")
    assert done.stderr.startswith(f"Failed to get the status of endpoint {dead} (")
    sick = coord(both, "endpoint", "health", "--dial-timeout=100ms")
    assert sick.returncode == 1
    assert f"{shared_coord_server.endpoint} is healthy" in sick.stdout
    assert sick.stderr.endswith("Error: unhealthy cluster\n")


def write_pair(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
    pair = authority.issue_cert("127.0.0.1", common_name=name)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    key.write_bytes(pair.private_key_pem.bytes())
    return cert, key


@pytest.mark.processes
def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    cert, key = write_pair(authority, tmp_path, "server")
    mine, my_key = write_pair(authority, tmp_path, "client")
    flags = (f"--cert-file={cert}", f"--key-file={key}", f"--trusted-ca-file={ca}")
    with coord_server_process(
        tmp_path / "d", *flags, "--client-cert-auth", listen="https://127.0.0.1:0"
    ) as server:
        known = (f"--cacert={ca}", f"--cert={mine}", f"--key={my_key}")
        # Any of the three turns TLS on for a plain host:port.
        assert coord(server.endpoint, *known, "put", "a", "1").stdout == "OK\n"
        variables = {"ETCDCTL_CACERT": str(ca), "ETCDCTL_CERT": str(mine), "COORD_KEY": str(my_key)}
        assert coord(server.url, "get", "a", env=variables).stdout == "a\n1\n"
        stranger = coord(server.url, f"--cacert={ca}", "get", "a", "--dial-timeout=1s")
        assert (stranger.returncode, stranger.stdout) == (1, "")
        assert stranger.stderr.startswith("Error: ")


@pytest.mark.processes
def test_watch(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    start = coord(endpoint, "put", "w/a", "1", "-w", "json").stdout
    revision = start.partition('"revision":')[2].partition(",")[0]
    with started(endpoint, "watch", "w/", "--prefix", f"--rev={revision}", "--prev-kv") as tool:
        assert tool.lines(3) == ["PUT", "w/a", "1"]
        coord(endpoint, "put", "w/a", "2")
        assert tool.lines(5) == ["PUT", "w/a", "1", "w/a", "2"]
        coord(endpoint, "del", "w/a")
        assert tool.lines(5) == ["DELETE", "w/a", "2", "w/a", ""]
        tool.send(signal.SIGINT)
        # The newline keeps the prompt off the line of ^C.
        assert tool.end() == (130, "", "\n")


@pytest.mark.processes
def test_watch_with_a_command(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    start = coord(endpoint, "put", "wc", 'say "hi"', "-w", "json").stdout
    revision = start.partition('"revision":')[2].partition(",")[0]
    show = 'echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY "$ETCD_WATCH_VALUE"; exit 3'
    done = coord(endpoint, "watch", "wc", f"--rev={revision}", "--", "sh", "-c", show)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == f'{revision} "PUT" "wc" "say \\"hi\\""'
    assert done.stderr.endswith("error (exit status 3)\n")


@pytest.mark.processes
def test_watch_of_compacted_history(coord_server: ServerProcess) -> None:
    endpoint = coord_server.endpoint
    for number in range(3):
        coord(endpoint, "put", "k", str(number))
    assert coord(endpoint, "compaction", "4").returncode == 0
    done = coord(endpoint, "watch", "k", "--rev=2")
    assert (done.returncode, done.stdout) == (5, "")
    first, last = done.stderr.splitlines()
    assert first.startswith(
        "watch was canceled (etcdserver: mvcc: required revision has been compacted"
    )
    assert last == "Error: watch is canceled by the server"


@pytest.mark.processes
def test_lease_is_kept_alive_until_revoked(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    lease = coord(endpoint, "lease", "grant", "6").stdout.split()[1]
    with started(endpoint, "lease", "keep-alive", lease) as tool:
        for line in tool.lines(3):
            assert line == f"lease {lease} keepalived with TTL(6)"
        coord(endpoint, "lease", "revoke", lease)
        code, out, errors = tool.end()
    assert (code, errors) == (0, "")
    assert out.endswith(f"lease {lease} expired or revoked.\n")


@pytest.mark.processes
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = coord(None, "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_COORD_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.processes
def test_completion_knows_commands_and_flags() -> None:
    def complete(line: str) -> list[str]:
        words = line.split(" ")
        env = {
            "_COORD_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        return coord(None, env=env).stdout.split()

    assert complete("coord le") == ["plain,lease"]
    assert complete("coord lease k") == ["plain,keep-alive"]
    assert "plain,--prefix" in complete("coord get --pre")


@pytest.mark.processes
def test_server_takes_its_own_flags() -> None:
    assert "coord-server Version:" in coord(None, "server", "--version").stdout
    wrong = coord(None, "server", "--no-such-flag=1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("coord-server: ")


@pytest.mark.parametrize("word", ["version", "--version"])
def test_version(capfd: pytest.CaptureFixture[str], word: str) -> None:
    assert app.run([word]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[:2] == [f"coord version: {__version__}", "API version: 3.5"]
    assert [line.partition(":")[0] for line in shown[2:]] == ["Python", "OS"]
    assert "protobuf " in shown[2]
    assert "missing" not in shown[2]


@pytest.mark.processes
def test_reader_that_goes_away(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    command = shlex.join([*COMMAND, f"--endpoints={endpoint}", "get", "", "--prefix"])
    done = subprocess.run(
        ["sh", "-c", f"{command} | true"],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
