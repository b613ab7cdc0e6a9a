"""``coord barrier`` and ``coord latch``."""

from __future__ import annotations

import json
import signal
import sys
import time

import pytest

from tests.cli.tool import coord, started
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes

# Says which token it was given, and waits for ever.
SLEEPER = "import os, signal; print(os.environ['COORD_FENCING_TOKEN'], flush=True); signal.pause()"


def test_a_gate_stays_closed_until_it_is_released(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    assert coord(endpoint, "barrier", "wait", "gate").returncode == 0
    held = coord(endpoint, "barrier", "hold", "gate")
    name, token = held.stdout.splitlines()
    assert (held.returncode, name, held.stderr) == (0, "gate", "")
    again = coord(endpoint, "barrier", "hold", "gate")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"Error: barrier 'gate' is closed already (token {token})\n"
    late = coord(endpoint, "barrier", "wait", "gate", "--timeout=100ms")
    assert late.returncode == 1
    assert f"closed with token {token}" in late.stderr
    with started(endpoint, "barrier", "wait", "gate") as waiter:
        time.sleep(0.5)  # it may wait already, or find the gate open: both must do
        released = coord(endpoint, "barrier", "release", "gate")
        assert (released.returncode, released.stdout, released.stderr) == (0, "", "")
        assert waiter.end() == (0, "", "")
    released = coord(endpoint, "barrier", "release", "gate")
    assert (released.returncode, released.stdout) == (0, "barrier gate was open\n")


def test_json(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    held = json.loads(coord(endpoint, "-w", "json", "barrier", "hold", "json").stdout)
    assert held["name"] == "json"
    assert held["token"] > 0
    for was_closed in (True, False):
        released = coord(endpoint, "-w", "json", "barrier", "release", "json")
        assert json.loads(released.stdout) == {"name": "json", "released": was_closed}
    left = coord(endpoint, "-w", "json", "latch", "remaining", "json-latch", "3")
    assert json.loads(left.stdout) == {"name": "json-latch", "remaining": 3}


def test_a_gate_is_closed_while_a_command_runs(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "barrier", "hold", "while", "--", sys.executable, "-c", SLEEPER) as tool:
        token = tool.line()
        refused = coord(endpoint, "barrier", "hold", "while")
        assert f"token {token}" in refused.stderr
        tool.send(signal.SIGTERM)
        code, _, errors = tool.end()
        assert (code, errors) == (143, "")
    assert coord(endpoint, "barrier", "wait", "while").returncode == 0
    done = coord(
        endpoint, "barrier", "hold", "while", "--", sys.executable, "-c", "raise SystemExit(7)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert coord(endpoint, "get", "while").stdout == ""


def test_a_command_is_ended_when_its_gate_is_opened(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "barrier", "hold", "lost", "--", sys.executable, "-c", SLEEPER) as tool:
        token = tool.line()
        coord(endpoint, "barrier", "release", "lost")
        code, _, errors = tool.end()
        assert (code, errors) == (1, f"Error: barrier lost: lost (token {token}): revoked\n")


def test_a_signal_ends_a_wait(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    for words in (("barrier", "wait", "signal"), ("latch", "wait", "signal-latch", "1")):
        coord(endpoint, "barrier", "hold", "signal")
        with started(endpoint, *words) as waiter:
            time.sleep(1.0)
            waiter.send(signal.SIGTERM)
            code, out, errors = waiter.end()
        # If it was too early for the signal to be caught, the process dies of it.
        assert code in (143, -signal.SIGTERM)
        assert out == ""
        assert errors in (
            f"Error: waiting {'at barrier' if words[0] == 'barrier' else 'for latch'} {words[2]}: SIGTERM\n",
            "",
        )


def test_a_latch(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint

    def count_down(*who: str) -> str:
        return coord(endpoint, "latch", "count-down", "latch", "2", *who).stdout

    assert coord(endpoint, "latch", "remaining", "latch", "2").stdout == "2\n"
    assert [count_down("--who=a"), count_down("--who=a")] == ["1\n", "1\n"]
    late = coord(endpoint, "latch", "wait", "latch", "2", "--timeout=100ms")
    assert late.returncode == 1
    assert "1 arrivals were missing" in late.stderr
    pending = coord(endpoint, "latch", "reset", "latch", "2")
    assert (pending.returncode, pending.stderr) == (
        1,
        "Error: latch 'latch' still waits for 1 arrivals\n",
    )
    with started(endpoint, "latch", "wait", "latch", "2") as waiter:
        assert count_down() == "0\n"
        assert waiter.end() == (0, "", "")
    assert coord(endpoint, "latch", "reset", "latch", "3").returncode == 0
    other = coord(endpoint, "latch", "remaining", "latch", "2")
    assert other.stderr == "Error: latch 'latch' is one of 3 arrivals, not of 2\n"
    wrong = coord(endpoint, "latch", "remaining", "latch", "0")
    assert wrong.returncode == 128
    assert wrong.stderr.startswith("Error: a latch opens after at least 1 arrival, not 0\n")
