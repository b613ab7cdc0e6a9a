"""``coord multilock`` around commands and on its own, and what ``coord lock`` has beyond etcdctl's."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from tests.cli.tool import coord, started
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes

SHOW = (
    "import json, os; print(json.dumps({k: v for k, v in os.environ.items()"
    " if k.startswith(('ETCD_LOCK_', 'COORD_FENCING_', 'COORD_LOCK_'))}))"
)
SLEEPER = "import signal; print('running', flush=True); signal.pause()"


def python(program: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", program)


def test_command_sees_keys_and_token(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    done = coord(endpoint, "multilock", "multi/b", "multi/a", *python(SHOW))
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert seen.keys() == {"COORD_FENCING_TOKEN", "COORD_LOCK_KEYS"}
    keys = seen["COORD_LOCK_KEYS"].split("\n")
    assert [key.rpartition("/")[0] for key in keys] == ["multi/a", "multi/b"]
    assert int(seen["COORD_FENCING_TOKEN"]) > 0
    assert coord(endpoint, "get", "multi/", "--prefix").stdout == ""


def test_it_holds_all_until_a_signal(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "multilock", "both/b", "both/a") as tool:
        a, _, b, _ = tool.lines(4)
        assert (a.rpartition("/")[0], b.rpartition("/")[0]) == ("both/a", "both/b")
        single = coord(endpoint, "lock", "both/b", "--try")
        assert single.returncode == 1
        assert single.stderr == f"Error: lock both/b is held by {b}\n"
        tried = coord(endpoint, "multilock", "both/a", "both/c", "--try")
        assert (tried.returncode, tried.stdout) == (1, "")
        assert tried.stderr == "Error: not all locks are free: both/a both/c\n"
        waited = coord(endpoint, "multilock", "both/a", "both/c", "--timeout=100ms")
        assert waited.returncode == 1
        assert a in waited.stderr
        tool.send(signal.SIGINT)
        assert tool.end() == (0, "", "")
    assert coord(endpoint, "get", "both/", "--prefix").stdout == ""


def test_losing_one_ends_the_command(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "multilock", "gone/a", "gone/b", *python(SLEEPER)) as tool:
        assert tool.line() == "running"
        assert coord(endpoint, "del", "gone/b/", "--prefix").returncode == 0
        code, out, errors = tool.end()
    assert (code, out) == (1, "")
    assert errors.startswith("Error: locks lost: 'gone/a', 'gone/b' (token ")
    assert coord(endpoint, "get", "gone/", "--prefix").stdout == ""


def test_exit_code_is_passed_back(shared_coord_server: ServerProcess) -> None:
    done = coord(shared_coord_server.endpoint, "multilock", "codes/m", *python("exit(7)"))
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_wrong_arguments(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    nothing = coord(endpoint, "multilock")
    assert (nothing.returncode, "at least one lock name" in nothing.stderr) == (128, True)
    both = coord(endpoint, "multilock", "a", "--try", "--timeout=1s")
    assert (both.returncode, "either --try or --timeout" in both.stderr) == (128, True)
    nested = coord(endpoint, "multilock", "a", "a/b", "--try")
    assert nested.returncode == 1
    assert "path prefix" in nested.stderr


def test_a_lock_waits_after_a_holder_that_was_removed(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    released = coord(endpoint, "lock", "delayed", "--lock-delay=1h", "--", "true")
    assert released.returncode == 0
    with started(endpoint, "lock", "delayed", "--lock-delay=1h") as holder:
        holder.lines(2)
        assert coord(endpoint, "del", "delayed/", "--prefix").returncode == 0
        assert holder.end()[0] == 1
    waited = coord(endpoint, "lock", "delayed", "--lock-delay=1h", "--timeout=200ms", "--", "true")
    assert waited.returncode == 1
    assert "did not leave by itself" in waited.stderr
