"""``coord rwlock`` and ``coord semaphore`` around commands and on their own."""

from __future__ import annotations

import base64
import json
import signal
import sys

import psutil  # type: ignore[import-untyped]
import pytest

from tests.cli.tool import coord, started
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes

SHOW = (
    "import json, os; print(json.dumps({k: v for k, v in os.environ.items()"
    " if k.startswith(('ETCD_LOCK_', 'COORD_FENCING_', 'COORD_LOCK_', 'COORD_PERMIT_'))}))"
)
# Says that it runs, and then waits for ever; on SIGTERM it ends at once.
SLEEPER = "import signal; print('running', flush=True); signal.pause()"


def python(program: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", program)


def listed(endpoint: str, *words: str) -> list[str]:
    done = coord(endpoint, *words, "--list")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# -- read-write locks ----------------------------------------------------------------------------------------------


def test_a_command_under_a_read_write_lock(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    tokens: list[int] = []
    for mode in ("read", "write"):
        done = coord(endpoint, "rwlock", "rwenv", f"--{mode}", *python(SHOW))
        assert (done.returncode, done.stderr) == (0, "")
        seen = json.loads(done.stdout)
        assert seen.keys() == {"COORD_LOCK_KEY", "COORD_FENCING_TOKEN"}
        assert seen["COORD_LOCK_KEY"].startswith(f"rwenv/{mode}/")
        tokens.append(int(seen["COORD_FENCING_TOKEN"]))
    assert tokens[0] < tokens[1]
    failed = coord(endpoint, "rwlock", "rwenv", "--write", *python("raise SystemExit(7)"))
    assert (failed.returncode, failed.stdout, failed.stderr) == (7, "", "")
    assert coord(endpoint, "get", "rwenv/", "--prefix").stdout == ""


def test_readers_share_and_a_writer_waits(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "rwlock", "rw", "--read") as reader:
        key, _ = reader.lines(2)
        assert key.startswith("rw/read/")
        second = coord(endpoint, "rwlock", "rw", "--read", "--try", *python("print('beside')"))
        assert (second.returncode, second.stdout, second.stderr) == (0, "beside\n", "")
        tried = coord(endpoint, "rwlock", "rw", "--write", "--try", *python("print('never')"))
        assert (tried.returncode, tried.stdout) == (1, "")
        assert tried.stderr.startswith(f"Error: lock rw is held by {key} (token ")
        waited = coord(endpoint, "rwlock", "rw", "--write", "--timeout=100ms")
        assert (waited.returncode, waited.stdout) == (1, "")
        assert key in waited.stderr
        with started(endpoint, "rwlock", "rw", "--write", *python(SLEEPER)) as writer:
            while len(lines := listed(endpoint, "rwlock", "rw")) < 2:
                pass
            assert lines[0].startswith(f"reads {key} (token ")
            assert lines[1].startswith("waits to write rw/write/")
            shown = json.loads(coord(endpoint, "rwlock", "rw", "--list", "-w", "json").stdout)
            assert [base64.b64decode(one["key"]).decode() for one in shown["readers"]] == [key]
            assert shown["writers"] == []
            assert [one["mode"] for one in shown["waiting"]] == ["write"]
            reader.send(signal.SIGINT)
            assert reader.end() == (0, "", "")
            assert writer.line() == "running"
            (line,) = listed(endpoint, "rwlock", "rw")
            assert line.startswith("writes rw/write/")
            writer.send(signal.SIGTERM)
            assert writer.end()[0] == 128 + signal.SIGTERM
    assert listed(endpoint, "rwlock", "rw") == []


def test_a_lost_lock_ends_the_command(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "rwlock", "rwlost", "--write", *python(SLEEPER)) as tool:
        assert tool.line() == "running"
        (child,) = psutil.Process(tool.process.pid).children()
        coord(endpoint, "del", "rwlost/", "--prefix")
        code, out, errors = tool.end()
        assert not child.is_running()
    assert (code, out) == (1, "")
    assert errors.startswith("Error: lock lost: rwlost (token ")


@pytest.mark.parametrize(
    "words",
    [
        ["rwlock"],
        ["rwlock", "a"],
        ["rwlock", "a", "--read", "b", "--", "true"],
        ["rwlock", "a", "--read", "--try", "--timeout=1s"],
        ["rwlock", "a", "--list", "--", "true"],
        ["semaphore"],
        ["semaphore", "a", "--try", "--timeout=1s"],
        ["semaphore", "a", "--list", "--", "true"],
        ["semaphore", "a", "--set-limit=1", "--", "true"],
        ["semaphore", "a", "--limit=0x", "--", "true"],
        ["semaphore", "a", "--limit=1", "-n", "0", "--", "true"],
        ["semaphore", "a", "--limit=1", "--initial-limit=2", "--", "true"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(shared_coord_server: ServerProcess, words: list[str]) -> None:
    done = coord(shared_coord_server.endpoint, *words)
    assert (done.returncode, done.stdout) == (128, "")
    assert done.stderr.startswith("Error: ")


# -- semaphores ----------------------------------------------------------------------------------------------------


def test_a_command_with_permits(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    done = coord(endpoint, "semaphore", "senv", "--limit=2", "-n", "2", *python(SHOW))
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert seen.keys() == {"COORD_PERMIT_KEY", "COORD_PERMIT_TOKEN"}
    assert seen["COORD_PERMIT_KEY"].startswith("senv/holders/")
    other = coord(endpoint, "semaphore", "senv", "--limit=3", *python("print('never')"))
    assert (other.returncode, other.stdout) == (1, "")
    assert other.stderr == "Error: semaphore 'senv' has a limit of 2, not 3\n"
    missing = coord(endpoint, "semaphore", "snone", *python("print('never')"))
    assert missing.returncode == 1
    assert "no limit yet" in missing.stderr
    assert coord(endpoint, "get", "senv/", "--prefix").stdout == "senv/limit\n2\n"


def test_permits_run_out_and_come_back(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "semaphore", "s", "--initial-limit=1") as holder:
        key, _ = holder.lines(2)
        tried = coord(endpoint, "semaphore", "s", "--try")
        assert (tried.returncode, tried.stdout) == (1, "")
        assert tried.stderr == "Error: semaphore s has 0 of 1 permits free, 0 wait\n"
        waited = coord(endpoint, "semaphore", "s", "--timeout=100ms")
        assert waited.returncode == 1
        assert "the limit is 1" in waited.stderr
        with started(endpoint, "semaphore", "s", *python(SLEEPER)) as waiter:
            while len(lines := listed(endpoint, "semaphore", "s")) < 3:
                pass
            assert lines[0] == "limit 1, available 0"
            assert lines[1].startswith(f"holds 1 {key} (token ")
            assert lines[2].startswith("waits for 1 s/holders/")
            assert listed(endpoint, "semaphore", "s", "--set-limit=2")[0].startswith("limit 2")
            assert waiter.line() == "running"
            shown = json.loads(coord(endpoint, "semaphore", "s", "--list", "-w", "json").stdout)
            assert (shown["limit"], shown["available"], shown["waiting"]) == (2, 0, [])
            assert base64.b64decode(shown["holders"][0]["key"]).decode() == key
            assert [one["permits"] for one in shown["holders"]] == [1, 1]
            coord(endpoint, "del", "s/holders/", "--prefix")
            code, out, errors = waiter.end()
            assert (code, out) == (1, "")
            assert errors.startswith("Error: permit lost: s (token ")
        assert holder.end()[0] == 1
    assert listed(endpoint, "semaphore", "s") == ["limit 2, available 2"]
