"""What the guide about clusters shows is what happens, with other ports."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from coord.testing.chaos import free_ports
from tests.cli.tool import coord
from tests.support.servers import clean_environment, etcd_binary

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "cluster.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
LOCAL, ORDERS, FOUND, REPLACE, JOIN = BLOCKS
_PORT = re.compile(r"127\.0\.0\.1:(\d+)")
WITHIN_S = 60.0


class Ports:
    """A free port for each that the guide names."""

    def __init__(self) -> None:
        self._free = free_ports(12)
        self._real: dict[str, int] = {}

    def of(self, text: str) -> str:
        for port in _PORT.findall(text):
            if port not in self._real:
                self._real[port] = self._free.pop()
        return _PORT.sub(lambda match: f"127.0.0.1:{self._real[match[1]]}", text)


def words(block: str) -> list[str]:
    (line,) = block.replace("\\\n", " ").splitlines()
    return shlex.split(line)


@contextlib.contextmanager
def servers(directory: Path) -> Generator[dict[str, subprocess.Popen[bytes]]]:
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def start(command: list[str], directory: Path) -> subprocess.Popen[bytes]:
    assert command[0] == "coord-server"
    with (directory / f"{command[2]}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "coord_server", *command[1:]],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment(),
        )


def wait_for(directory: Path, *names: str) -> None:
    give_up = time.monotonic() + WITHIN_S
    logs = [directory / f"{name}.log" for name in names]
    while not all("ready to serve client requests" in log.read_text() for log in logs):
        assert time.monotonic() < give_up, [log.read_text() for log in logs]
        time.sleep(0.1)


def shell(line: str, endpoints: str) -> subprocess.CompletedProcess[str]:
    command = [etcd_binary("etcdctl"), *shlex.split(line)[1:]]
    env = clean_environment({"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": endpoints})
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


@pytest.mark.processes
@pytest.mark.timeout(180)
def test_three_by_hand_and_one_is_replaced(tmp_path: Path) -> None:
    ports = Ports()
    with servers(tmp_path) as running:
        for name, prefix in (("a", ""), ("b", "2"), ("c", "3")):
            # As the text says: the same words, with another name and other ports of its own.
            head, _, founders = FOUND.partition("--initial-cluster a=")
            head = re.sub(r":(23\d\d)", rf":{prefix}\1", head).replace(" a", f" {name}")
            block = f"{head}--initial-cluster a={founders}"
            running[name] = start(words(ports.of(block)), tmp_path)
        wait_for(tmp_path, "a", "b", "c")
        export, *commands = ports.of(REPLACE).splitlines()
        endpoints = export.removeprefix("export ETCDCTL_ENDPOINTS=")
        env = {"COORD_ENDPOINTS": endpoints}
        assert coord(None, "put", "k", "v", env=env).stdout == "OK\n"
        running["c"].kill()
        listing, removal, addition = commands
        rows = [row.split(", ") for row in shell(listing, endpoints).stdout.splitlines()]
        (lost,) = [row[0] for row in rows if row[2] == "c"]
        assert shell(re.sub(r"[0-9a-f]{16}", lost, removal), endpoints).returncode == 0
        give_up = time.monotonic() + WITHIN_S
        while (added := shell(addition, endpoints)).returncode:
            assert "unhealthy cluster" in added.stderr
            assert time.monotonic() < give_up
            time.sleep(0.5)
        running["d"] = start(words(ports.of(JOIN)), tmp_path)
        wait_for(tmp_path, "d")
        told = dict(line.split("=", 1) for line in added.stdout.splitlines()[2:])
        given = words(ports.of(JOIN))
        founders = given[given.index("--initial-cluster") + 1]
        assert set(told["ETCD_INITIAL_CLUSTER"].strip('"').split(",")) == set(founders.split(","))
        there = ports.of("127.0.0.1:42379")
        assert coord(there, "get", "k").stdout == "k\nv\n"


def test_the_orders_exist() -> None:
    assert words(LOCAL) == ["coord", "cluster", "start", "-n", "3"]
    shown = coord(None, "cluster", "--help").stdout
    for line in ORDERS.splitlines():
        program, group, order, *_ = shlex.split(line)
        assert (program, group) == ("coord", "cluster")
        assert re.search(rf"^  {order} ", shown, re.MULTILINE), order
