"""Every example and recipe runs as a reader would run it, and prints what it is meant to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PRINTS = {
    "examples/config.py": [
        "limit: 250",
        "a mistake was noticed: True",
        "limit: 250",
        "repaired: True",
    ],
    "examples/counter.py": [
        "visits: 10",
        "ids rise: True",
        "somebody else was first: True",
    ],
    "examples/barrier.py": [
        "through before it opens: 0",
        "worker 0 is through",
        "worker 1 is through",
        "worker 2 is through",
    ],
    "examples/double_barrier.py": ["step 1, step 1, step 1, step 2, step 2, step 2"],
    "examples/latch.py": [
        "reader has arrived, missing: 2",
        "parser has arrived, missing: 1",
        "parser has arrived, missing: 1",
        "writer has arrived, missing: 0",
        "all are here",
        "missing again: 3",
    ],
    "examples/cron.py": ["each tick once: True", "tokens rise: True", "outcome: done"],
    "examples/election.py": [
        "leader: host-a:8080 True",
        "leader: host-a:9090",
        "leader: none",
    ],
    "examples/grpc_service.py": ["b'hello world'"],
    "examples/kv.py": [
        "was green, is blue",
        "keys: examples/kv/colour, examples/kv/size",
        "deleted: 2",
    ],
    "examples/lease.py": ["present: True", "present: False"],
    "examples/membership.py": [
        "joined a",
        "members: {'a': {'cores': 8}, 'b': {'cores': 2}}",
        "joined b",
        "left b",
    ],
    "examples/partitioner.py": [
        "alone it has: 8",
        "both have all: 8",
        "one owner each: True",
        "alone again: 8",
    ],
    "examples/multi_lock.py": ["both done: True one after the other: True"],
    "examples/mutex.py": [
        "worker 0 is alone",
        "worker 1 is alone",
        "worker 2 is alone",
        "tokens rise: True",
    ],
    "examples/rwlock.py": [
        "two read at once",
        "others read: False",
        "after the downgrade others read, too",
    ],
    "examples/semaphore.py": ["10 done, at most 3 at once", "free now: 5"],
    "examples/rate_limiter.py": [
        "at once: 2",
        "and three more, in their time",
        "not within a millisecond",
    ],
    "examples/queues.py": [
        "waiting: 3",
        "got first",
        "got second",
        "got third",
        "left: None",
        "most urgent: put out the fire",
        "yet: None",
        "later: tea is ready",
    ],
    "examples/registry.py": [
        "share of the large one: 8 of 10",
        "after draining: {'10.0.0.1:80'}",
        "service 'examples/registry' has no instance",
    ],
    "examples/session.py": ["valid: True", "present: True", "present: False"],
    "examples/sync_mutex.py": ["holding, token is positive: True", "hello"],
    "examples/testing.py": [
        "after 29 s: here",
        "after 31 s: gone",
        "the answer was lost, the write was not: True",
    ],
    "examples/topic.py": ["seen: reload drain stop", "the same for all: True"],
    "examples/txn.py": ["transferred: True", "examples/txn/a 70", "examples/txn/b 30"],
    "examples/watch.py": [
        "put examples/watch/a 1",
        "put examples/watch/b 2",
        "delete examples/watch/a ",
    ],
    "examples/work_queue.py": [
        "put twice, there once: True",
        "attempt 2 after 'the printer is out of paper'",
        "done: invoice 7",
        "left: 0",
    ],
    "recipes/config_reload.py": [
        "uses db-2, 8 connections",
        "the request under way has db-1 - open: True",
        "refused, not valid",
        "refused, nobody is there",
        "a new request has db-2 - open: True",
    ],
    "recipes/django_app.py": [
        "the view: 200",
        "while somebody else builds: 409",
        "the command: done",
        "the command: done elsewhere",
        "the report was built at night",
    ],
    "recipes/fastapi_app.py": [
        "ready: ready",
        "listed: True",
        "balance: 50",
        "exported: True",
        "leads: True",
    ],
    "recipes/fenced_db_writer.py": [
        "the late writer was refused",
        "the report says: second",
    ],
    "recipes/fenced_postgres_writer.py": [
        "the late writer was refused",
        "the report says: second",
        "the journal says: first, second",
    ],
    "recipes/grpc_failover.py": [
        "20 calls, answered by one and two",
        "20 calls, answered by one",
        "three is there, and was found",
    ],
    "recipes/leader_only_worker.py": ["round 1", "round 2", "round 3", "done: 3"],
    "recipes/rolling_restart.py": [
        "v2: 6 of 6 restarted",
        "enough have served: True",
        "v3: 0 of 6 restarted",
        "stopped, at most 2 are down: True",
        "nobody else was touched: True",
    ],
    "recipes/sharded_workers.py": [
        "both have shards: True",
        "10 customers, all with 0 1 2 3 4 5 6 7 8",
    ],
    "recipes/web_hooks.py": [
        "attempt 1: RemoteProtocolError",
        "attempt 1: HTTPStatusError",
        "attempt 2: HTTPStatusError",
        "attempt 3: HTTPStatusError",
        "dead: refund 8 after 3 attempts",
        "done, each once: pay 7, pay 9",
    ],
}

# Run in tests/recipes, which have what these need.
NEED_SERVERS = {"recipes/fenced_postgres_writer.py"}


def test_every_program_is_listed() -> None:
    found = {
        file.relative_to(ROOT).as_posix()
        for folder in ("examples", "recipes")
        for file in (ROOT / folder).glob("*.py")
    }
    assert found == set(PRINTS)


@pytest.mark.parametrize("program", sorted(set(PRINTS) - NEED_SERVERS))
def test_program_prints(program: str) -> None:
    check_program(program)


def check_program(program: str, **environment: str) -> None:
    # Warnings are errors here too: an example that leaves a task or a socket behind fails.
    module = program.removesuffix(".py").replace("/", ".")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module],
        cwd=ROOT,
        # gRPC would write down what a server said as it died.
        env=os.environ | {"COORD_ENDPOINTS": "memory:", "GRPC_VERBOSITY": "ERROR"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == PRINTS[program]


@pytest.mark.parametrize("program", sorted(p for p in PRINTS if p.startswith("examples/")))
def test_an_example_is_short(program: str) -> None:
    code = [line for line in (ROOT / program).read_text("utf-8").splitlines() if line.strip()]
    assert len(code) <= 40
