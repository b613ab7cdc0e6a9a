"""``coord lock`` and ``coord elect`` around commands and on their own."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.cli.tool import coord, started
from tests.support.servers import ServerProcess, coord_server_process, etcdctl

pytestmark = pytest.mark.processes

SHOW = (
    "import json, os; print(json.dumps({k: v for k, v in os.environ.items()"
    " if k.startswith(('ETCD_LOCK_', 'COORD_FENCING_', 'COORD_LEADER_'))}))"
)
# Says that it runs, and then waits for ever; on SIGTERM it ends at once.
SLEEPER = "import signal; print('running', flush=True); signal.pause()"
# The same, deaf to SIGTERM.
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
# Reports the signals that it gets; the second one ends it with code 9.
LISTENER = """
import signal, sys
def heard(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(9)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, heard)
print('running', flush=True)
while True:
    signal.pause()
"""


def python(program: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", program)


def test_command_sees_key_revision_and_token(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    tokens: list[int] = []
    for _ in range(2):
        done = coord(endpoint, "lock", "env", *python(SHOW))
        assert (done.returncode, done.stderr) == (0, "")
        seen = json.loads(done.stdout)
        assert seen.keys() == {"ETCD_LOCK_KEY", "ETCD_LOCK_REV", "COORD_FENCING_TOKEN"}
        assert seen["ETCD_LOCK_KEY"].startswith("env/")
        assert int(seen["ETCD_LOCK_REV"]) >= int(seen["COORD_FENCING_TOKEN"])
        tokens.append(int(seen["COORD_FENCING_TOKEN"]))
    assert tokens[0] < tokens[1]
    assert coord(endpoint, "get", "env/", "--prefix").stdout == ""


@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137), ("pass", 0)],
)
def test_exit_code_is_passed_back(
    shared_coord_server: ServerProcess, program: str, code: int
) -> None:
    done = coord(shared_coord_server.endpoint, "lock", "codes", *python(program))
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_command_that_cannot_be_run(shared_coord_server: ServerProcess, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    endpoint = shared_coord_server.endpoint
    missing = coord(endpoint, "lock", "cannot", "--", "no-such-command")
    refused = coord(endpoint, "lock", "cannot", "--", str(plain))
    assert (missing.returncode, missing.stderr) == (
        127,
        "Error: no-such-command: command not found\n",
    )
    assert (refused.returncode, refused.stderr) == (126, f"Error: {plain}: Permission denied\n")
    assert coord(endpoint, "get", "cannot/", "--prefix").stdout == ""


def test_signals_reach_the_command(shared_coord_server: ServerProcess) -> None:
    with started(shared_coord_server.endpoint, "lock", "signals", *python(LISTENER)) as tool:
        assert tool.line() == "running"
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
            tool.send(number)
            assert tool.line() == number.name
        assert tool.end() == (9, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_command_it_holds_until_a_signal(
    shared_coord_server: ServerProcess, number: signal.Signals
) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "lock", "hold") as tool:
        key, value = tool.lines(2)
        assert key.startswith("hold/")
        assert coord(endpoint, "get", "hold/", "--prefix").stdout == f"{key}\n{value}\n"
        tool.send(number)
        assert tool.end() == (0, "", "")
    assert coord(endpoint, "get", "hold/", "--prefix").stdout == ""


def test_busy_lock(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "lock", "busy") as holder:
        key, _ = holder.lines(2)
        tried = coord(endpoint, "lock", "busy", "--try", *python("print('never')"))
        assert (tried.returncode, tried.stdout) == (1, "")
        assert tried.stderr == f"Error: lock busy is held by {key}\n"
        waited = coord(endpoint, "lock", "busy", "--timeout=100ms", *python("print('never')"))
        assert (waited.returncode, waited.stdout) == (1, "")
        assert f"held by {key}" in waited.stderr
        with started(endpoint, "lock", "busy") as waiter:
            # Its place in line shows that it waits; Ctrl-C gives the place up.
            while (
                len(coord(endpoint, "get", "busy/", "--prefix", "--keys-only").stdout.split()) < 2
            ):
                pass
            waiter.send(signal.SIGINT)
            code, out, errors = waiter.end()
            assert (code, out) == (130, "")
            assert errors == "Error: waiting for lock busy: SIGINT\n"
        assert coord(endpoint, "get", "busy/", "--prefix", "--keys-only").stdout.split() == [key]


@pytest.mark.etcd
def test_etcdctl_and_coord_exclude_each_other(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "lock", "mixed") as holder:
        holder.lines(2)
        assert etcdctl(endpoint, "get", "mixed/", "--prefix", "--keys-only").stdout.strip() != ""
        tried = coord(endpoint, "lock", "mixed", "--try")
        assert tried.returncode == 1
        holder.send(signal.SIGINT)
        assert holder.end()[0] == 0
    done = etcdctl(endpoint, "lock", "mixed", "--", "sh", "-c", "echo $ETCD_LOCK_KEY")
    assert done.stdout.startswith("mixed/")


@pytest.mark.parametrize("program", [SLEEPER, DEAF], ids=["polite", "deaf"])
def test_loss_ends_the_command(shared_coord_server: ServerProcess, program: str) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "lock", "lost", "--kill-after=200ms", *python(program)) as tool:
        assert tool.line() == "running"
        (child,) = psutil.Process(tool.process.pid).children()
        coord(endpoint, "del", "lost/", "--prefix")
        code, out, errors = tool.end()
        assert not child.is_running()
    assert (code, out) == (1, "")
    assert errors.startswith("Error: lock lost: lost (token ")
    assert errors.endswith("revoked\n")
    assert errors.count("\n") == 1


def test_dead_server_means_loss(tmp_path: Path) -> None:
    with coord_server_process(tmp_path) as server:
        with started(server.endpoint, "lock", "gone", "--ttl=2", *python(SLEEPER)) as tool:
            assert tool.line() == "running"
            (child,) = psutil.Process(tool.process.pid).children()
            server.kill()
            code, out, errors = tool.end()
            assert not child.is_running()
        assert (code, out) == (1, "")
        assert errors.startswith("Error: lock lost: gone (token ")
        assert errors.count("\n") == 1


def test_leader_and_listener(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with (
        started(endpoint, "elect", "-l", "crown") as listener,
        started(endpoint, "elect", "crown", "first") as leader,
    ):
        key, value = leader.lines(2)
        assert key.startswith("crown/")
        assert value == "first"
        assert listener.lines(2) == [key, "first"]
        with started(endpoint, "elect", "crown", "second", *python(SHOW)) as second:
            while (
                len(coord(endpoint, "get", "crown/", "--prefix", "--keys-only").stdout.split()) < 2
            ):
                pass
            leader.send(signal.SIGTERM)
            assert leader.end() == (0, "", "")
            code, out, errors = second.end()
            assert (code, errors) == (0, "")
            seen = json.loads(out)
            assert seen.keys() == {"COORD_LEADER_KEY", "COORD_FENCING_TOKEN"}
        assert listener.lines(2) == [seen["COORD_LEADER_KEY"], "second"]
        listener.send(signal.SIGINT)
        assert listener.end()[0] == 130


def test_deposed_leader(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "elect", "deposed", "me") as leader:
        leader.lines(2)
        coord(endpoint, "del", "deposed/", "--prefix")
        code, out, errors = leader.end()
    assert (code, out) == (1, "")
    assert errors.startswith("Error: leadership lost: deposed (token ")


def test_environment_is_passed_on(shared_coord_server: ServerProcess) -> None:
    with started(
        shared_coord_server.endpoint,
        "lock",
        "inherit",
        *python("import os; print(os.environ['FROM_OUTSIDE'], os.getppid())"),
        env={"FROM_OUTSIDE": "yes"},
    ) as tool:
        assert tool.line() == f"yes {tool.process.pid}"
    assert os.environ.get("COORD_FENCING_TOKEN") is None
