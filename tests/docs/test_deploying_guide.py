"""What the guide deploying.md shows for three machines works, on one machine with other ports."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from coord.testing.chaos import free_ports
from tests.cli.tool import coord
from tests.docs.pages import ROOT, Block, blocks
from tests.docs.test_cluster_guide import servers, wait_for, words
from tests.support.servers import clean_environment, etcd_binary

GUIDE = ROOT / "docs" / "guides" / "deploying.md"
BLOCKS = blocks(GUIDE)
RUN = [block for block in BLOCKS if block.run_by is not None]
FIRST, HEALTH, SAVE, RESTORE = RUN
UNIT, VARIABLES, ENDPOINTS = [block for block in BLOCKS if block.language == "ini"]
_ADDRESS = re.compile(r"10\.0\.0\.([123]):(\d+)")
NAMES = "abc"


class Machines:
    """Three machines, all of them here: a free port for each of their addresses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._free = free_ports(12)
        self._real: dict[str, int] = {}

    def of(self, text: str) -> str:
        for address in _ADDRESS.finditer(text):
            if address[0] not in self._real:
                self._real[address[0]] = self._free.pop()
        text = _ADDRESS.sub(lambda match: f"127.0.0.1:{self._real[match[0]]}", text)
        return text.replace("/var/lib/coord", str(self._directory))

    def member(self, block: Block, number: int) -> list[str]:
        """Return the command of one member: as the text says, with its own name and address."""
        head, flag, founders = block.text.partition("--initial-cluster ")
        head = head.replace("10.0.0.1", f"10.0.0.{number + 1}").replace(
            "--name a", f"--name {NAMES[number]}"
        )
        head = head.replace("/coord/a ", f"/coord/{NAMES[number]} ")
        return words(self.of(head + flag + founders))


def start(command: list[str], name: str, directory: Path) -> subprocess.Popen[bytes]:
    assert command[0] == "coord-server"
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "coord_server", *command[1:]],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment(),
        )


@pytest.mark.processes
@pytest.mark.timeout(180)
def test_three_members_a_backup_and_a_new_beginning(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    endpoints = machines.of(ENDPOINTS.text).strip().removeprefix("COORD_ENDPOINTS=")
    env = {"COORD_ENDPOINTS": endpoints}
    with servers(tmp_path) as running:
        for number, name in enumerate(NAMES):
            running[name] = start(machines.member(FIRST, number), name, tmp_path)
        wait_for(tmp_path, *NAMES)
        assert coord(None, "put", "k", "v", env=env).stdout == "OK\n"
        for line in HEALTH.text.splitlines():
            shown = coord(None, *shlex.split(line)[1:], env=env)
            assert (shown.returncode, shown.stdout.count("\n")) == (0, 3), shown
        save = [etcd_binary("etcdctl"), *shlex.split(machines.of(SAVE.text))[1:]]
        subprocess.run(
            save, cwd=tmp_path, env=clean_environment({"ETCDCTL_API": "3"}), check=True, timeout=60,
            capture_output=True,
        )  # fmt: skip
        for process in running.values():
            process.terminate()
            assert process.wait(30) == 0
        running["restored"] = start(words(machines.of(RESTORE.text)), "restored", tmp_path)
        wait_for(tmp_path, "restored")
        first = endpoints.partition(",")[0]
        assert coord(first, "get", "k").stdout == "k\nv\n"


def test_the_variables_say_what_the_flags_say() -> None:
    given = words(FIRST.text)[1:]
    flags = dict(zip(given[::2], given[1::2], strict=True))
    lines = [line.partition("=") for line in VARIABLES.text.splitlines()]
    variables = {
        f"--{name.removeprefix('COORD_').lower().replace('_', '-')}": value
        for name, _, value in lines
    }
    assert variables == flags


@pytest.mark.processes
def test_the_service_starts_what_is_there() -> None:
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign] # names of systemd have capitals
    unit.read_string(UNIT.text)
    assert unit["Service"]["ExecStart"] == "/opt/coord/bin/coord-server"
    # It tells systemd nothing by itself, so that the type must not wait for a word.
    assert unit["Service"]["Type"] == "exec"
    shown = subprocess.run(
        [sys.executable, "-m", "coord_server", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    text = GUIDE.read_text("utf-8")
    for flag in set(re.findall(r"--[a-z][a-z-]+[a-z]", text)) - {
        "--system",
        "--home-dir",
        "--create-home",
        "--endpoints",
    }:
        assert f"  {flag}" in shown or f"--peer{flag[1:]}" in shown, flag
