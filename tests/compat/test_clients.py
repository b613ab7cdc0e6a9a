"""Other people's clients see the same on coord-server and on etcd.

Each exercise in ``clients/`` prints what it saw; it runs in a process of its own, as these packages
disagree about protobuf. The Node client is fetched into ``.cache/`` the first time, where Node is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.servers import (
    ServerProcess,
    clean_environment,
    coord_server_process,
    real_etcd,
)

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

HERE = Path(__file__).parent / "clients"
NODE_CLIENT = "etcd3@1.1.2"
NODE_CACHE = Path(__file__).parents[2] / ".cache" / "npm" / NODE_CLIENT


@dataclass(frozen=True, slots=True)
class Exercise:
    """How to run one; ``words`` are the first words of the lines that it must print."""

    command: tuple[str, ...]
    words: frozenset[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])


COMMON = {"put", "get", "prefix", "sorted", "delete", "txn", "event", "lease", "revoked"}
EXERCISES = {
    "aetcd": Exercise(
        (sys.executable, str(HERE / "aetcd_exercise.py")),
        frozenset({*COMMON, "lock", "release", "members", "leader", "compact"}),
    ),
    "python-etcd3": Exercise(
        (sys.executable, "-W", "ignore", str(HERE / "etcd3_exercise.py")),
        frozenset({*COMMON, "lock", "release", "members", "leader", "compact"}),
        {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    ),
}
if shutil.which("node") and shutil.which("npm"):
    EXERCISES["node-etcd3"] = Exercise(
        ("node", str(HERE / "etcd3_exercise.cjs")),
        frozenset(f'"{word}"' for word in (*COMMON, "stm", "do", "leader", "observed", "refused")),
        {"NODE_PATH": str(NODE_CACHE / "node_modules")},
    )


@pytest.fixture(scope="module")
def node_client() -> None:
    """Fetch the Node client unless it is there."""
    if "node-etcd3" in EXERCISES and not NODE_CACHE.exists():
        NODE_CACHE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=NODE_CACHE.parent) as scratch:
            prefix = Path(scratch) / "made"
            command = ["npm", "install", "--no-save", "--ignore-scripts", "--prefix", str(prefix)]
            subprocess.run([*command, NODE_CLIENT], check=True, capture_output=True, timeout=110)
            os.replace(prefix, NODE_CACHE)


def run(exercise: Exercise, server: ServerProcess) -> list[str]:
    host, _, port = server.endpoint.rpartition(":")
    done = subprocess.run(
        [*exercise.command, host, port],
        env=clean_environment(exercise.env),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.usefixtures("node_client")
@pytest.mark.parametrize("name", EXERCISES)
def test_a_client_sees_the_same(name: str, tmp_path: Path) -> None:
    exercise = EXERCISES[name]
    with (
        coord_server_process(tmp_path / "ours") as ours,
        real_etcd(tmp_path / "etcd") as theirs,
        ThreadPoolExecutor(2) as pool,
    ):
        told = pool.submit(run, exercise, ours)
        expected = pool.submit(run, exercise, theirs).result()
        assert told.result() == expected
    assert exercise.words <= {line.split(" ")[0] for line in expected}
