"""``coord queue``: put, take, work, dead."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from tests.cli.tool import coord, started
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes


def python(program: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", program)


def test_put_and_take(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    first = coord(endpoint, "queue", "put", "q1", "a")
    assert (first.returncode, first.stderr) == (0, "")
    second = coord(endpoint, "queue", "put", "q1", stdin="from\nstdin")
    assert int(first.stdout) < int(second.stdout)
    taken = coord(endpoint, "queue", "take", "q1", "--count=2")
    assert (taken.returncode, taken.stdout, taken.stderr) == (0, "a\nfrom\nstdin\n", "")
    empty = coord(endpoint, "queue", "take", "q1", "--try")
    assert (empty.returncode, empty.stdout) == (1, "")
    assert empty.stderr == "Error: queue q1 is empty\n"
    late = coord(endpoint, "queue", "take", "q1", "--timeout=100ms")
    assert late.returncode == 1
    assert "did not finish within 0.1 s" in late.stderr
    assert coord(endpoint, "get", "q1/", "--prefix").stdout == ""


def test_take_waits_until_something_comes_or_ctrl_c(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    with started(endpoint, "queue", "take", "q2") as taker:
        while not coord(endpoint, "get", "_coord/consumers/q2/", "--prefix").stdout:
            pass
        assert coord(endpoint, "queue", "put", "q2", "x").returncode == 0
        assert taker.line() == "x"
        assert taker.end()[0] == 0
    with started(endpoint, "queue", "take", "q2") as taker:
        while not coord(endpoint, "get", "_coord/consumers/q2/", "--prefix").stdout:
            pass
        taker.send(signal.SIGINT)
        assert taker.end() == (130, "", "Error: waiting for queue q2: SIGINT\n")
    assert coord(endpoint, "get", "_coord/consumers/q2/", "--prefix").stdout == ""


def test_kinds(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    for priority in ("9", "3"):
        coord(endpoint, "queue", "put", "q3", priority, f"--priority={priority}")
    assert coord(endpoint, "queue", "take", "q3", "--kind=priority", "--try").stdout == "3\n"
    coord(endpoint, "queue", "put", "q4", "soon", "--delay=50ms")
    coord(endpoint, "queue", "put", "q4", "late", "--delay=1h")
    assert coord(endpoint, "queue", "take", "q4", "--kind=delay").stdout == "soon\n"
    assert coord(endpoint, "queue", "take", "q4", "--kind=delay", "--try").returncode == 1
    shown = coord(endpoint, "-w", "json", "queue", "take", "q3", "--kind=priority")
    assert json.loads(shown.stdout)["value"] == "OQ=="


def test_work_until_done(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    put = coord(endpoint, "queue", "put", "w1", "--work", "--dedup-id=one", "job")
    assert put.stdout == "00100-one\n"
    again = coord(endpoint, "queue", "put", "w1", "--work", "--dedup-id=one", "job")
    assert again.stdout == "00100-one (duplicate)\n"
    coord(endpoint, "queue", "put", "w1", "--work", "--priority=1", "urgent")
    program = (
        "import os, sys; print(sys.stdin.read(), os.environ['COORD_ITEM_ATTEMPT'],"
        " int(os.environ['COORD_FENCING_TOKEN']) > 0, os.environ['COORD_ITEM_ID'][:6])"
    )
    done = coord(endpoint, "queue", "work", "w1", "--count=2", *python(program))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["urgent 1 True 00001-", "job 1 True 00100-"]
    idle = coord(endpoint, "queue", "work", "w1", "--timeout=100ms", *python("raise SystemExit(1)"))
    assert (idle.returncode, idle.stdout, idle.stderr) == (0, "", "")


def test_what_fails_is_dead_at_last(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    coord(endpoint, "queue", "put", "w2", "--work", "--dedup-id=bad", "poison")
    arguments = ("queue", "work", "w2", "--max-attempts=1", "--timeout=300ms")
    failed = coord(endpoint, *arguments, *python("raise SystemExit(7)"))
    # Once it has failed it is buried when somebody looks for the next one, after the backoff.
    assert (failed.returncode, failed.stderr) == (0, "")
    while not (dead := coord(endpoint, "queue", "dead", "w2")).stdout:
        coord(endpoint, *arguments, *python("raise SystemExit(9)"))
    assert dead.stdout == "00100-bad 1 'exit code 7'\npoison\n"
    shown = json.loads(coord(endpoint, "-w", "json", "queue", "dead", "w2").stdout)
    assert shown == {
        "id": "00100-bad",
        "attempts": 1,
        "last_error": "exit code 7",
        "value": "cG9pc29u",
    }
    assert coord(endpoint, "queue", "dead", "w2", "--requeue=00100-bad").returncode == 0
    assert coord(endpoint, "queue", "dead", "w2").stdout == ""
    assert coord(endpoint, *arguments, *python("pass")).returncode == 0
    missing = coord(endpoint, "queue", "dead", "w2", "--purge=00100-bad")
    assert missing.returncode == 1
    assert missing.stderr == "Error: work queue w2 has no dead job 00100-bad\n"


def test_a_signal_gives_the_job_back_uncounted(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    coord(endpoint, "queue", "put", "w3", "--work", "job")
    sleeper = python("import signal; print('running', flush=True); signal.pause()")
    with started(endpoint, "queue", "work", "w3", *sleeper) as worker:
        assert worker.line() == "running"
        worker.send(signal.SIGTERM)
        assert worker.end()[0] == 128 + signal.SIGTERM
    done = coord(
        endpoint,
        "queue",
        "work",
        "w3",
        "--count=1",
        *python("import os; print(os.environ['COORD_ITEM_ATTEMPT'])"),
    )
    assert done.stdout == "1\n"
    with started(endpoint, "queue", "work", "w3", *sleeper) as worker:
        while not coord(endpoint, "get", "w3/consumers/", "--prefix").stdout:
            pass
        worker.send(signal.SIGINT)
        assert worker.end() == (0, "", "")


def test_a_lost_job_ends_its_command_and_not_the_worker(
    shared_coord_server: ServerProcess,
) -> None:
    endpoint = shared_coord_server.endpoint
    coord(endpoint, "queue", "put", "w4", "--work", "job")
    program = "import os, signal; print(os.environ['COORD_ITEM_ATTEMPT'], flush=True); os.environ['COORD_ITEM_ATTEMPT'] == '1' and signal.pause()"
    with started(endpoint, "queue", "work", "w4", "--count=2", *python(program)) as worker:
        assert worker.line() == "1"
        coord(endpoint, "del", "w4/claims/", "--prefix")
        assert worker.line() == "2"
        code, _, errors = worker.end()
    assert code == 0
    assert errors.startswith("Error: job lost: w4 (token ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("put",),
        ("put", "a", "b", "c"),
        ("put", "q", "v", "--dedup-id=x"),
        ("put", "q", "v", "--priority=1", "--delay=1s"),
        ("put", "q", "v", "--priority=70000"),
        ("take",),
        ("take", "q", "--try", "--timeout=1s"),
        ("take", "q", "--kind=lifo"),
        ("work", "q"),
        ("dead", "q", "--requeue=a", "--purge=b"),
    ],
    ids=" ".join,
)
def test_wrong_arguments(shared_coord_server: ServerProcess, words: tuple[str, ...]) -> None:
    done = coord(shared_coord_server.endpoint, "queue", *words)
    assert (done.returncode, done.stdout) == (128, "")
    assert done.stderr.startswith("Error: ")
