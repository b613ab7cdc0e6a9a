"""``coord cluster``: members in the foreground, orders from another shell, and nothing left at the end."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from coord.cli.local_cluster.screen import readable
from tests.cli.tool import COMMAND, coord
from tests.support.servers import clean_environment

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]
WITHIN_S = 60.0


@dataclass
class Keeper:
    """A running ``coord cluster start``."""

    process: subprocess.Popen[str]
    env: dict[str, str]
    where: list[str]
    lines: list[str] = field(default_factory=list[str])

    def until(self, text: str) -> str:
        """Read lines up to one with this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise AssertionError("\n".join(self.lines))

    @property
    def endpoints(self) -> str:
        (line,) = [line for line in self.lines if line.startswith("export COORD_ENDPOINTS=")]
        return line.partition("=")[2]

    def order(self, *words: str) -> subprocess.CompletedProcess[str]:
        return coord(None, "cluster", *words, *self.where, env=self.env)

    def obeyed(self, *words: str) -> list[str]:
        done = self.order(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def states(self) -> dict[str, str]:
        found: list[dict[str, Any]] = json.loads(self.obeyed("status", "-w", "json")[0])
        return {each["name"]: each["state"] for each in found}

    def wait_for(self, holds: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        give_up = time.monotonic() + WITHIN_S
        while not holds(states := self.states()):
            assert time.monotonic() < give_up, states
            time.sleep(0.2)
        return states

    def all_serve(self) -> dict[str, str]:
        return self.wait_for(lambda s: sorted(s.values()) == ["follower", "follower", "leader"])

    def family(self) -> list[psutil.Process]:
        """The members, and who ends them if the keeper cannot."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def ended(self) -> int:
        """The rest of the output, and the exit code."""
        out, _ = self.process.communicate(timeout=WITHIN_S)
        self.lines += out.splitlines()
        return self.process.returncode


@contextlib.contextmanager
def started(tmp_path: Path, *words: str, keeps: bool = False) -> Generator[Keeper]:
    where = ["--data-dir", str(tmp_path / "data")] if keeps else []
    env = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [*COMMAND, "cluster", "start", *where, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(env),
    )
    keeper = Keeper(process, env, where)
    try:
        yield keeper
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def test_members_are_killed_paused_cut_off_and_come_back(tmp_path: Path) -> None:
    with started(tmp_path) as keeper:
        keeper.until("export COORD_ENDPOINTS=")
        keeper.until("ready")
        assert len(keeper.endpoints.split(",")) == 3
        env = {"COORD_ENDPOINTS": keeper.endpoints}
        assert coord(None, "put", "k", "v", env=env).stdout == "OK\n"
        states = keeper.all_serve()
        leader = next(name for name, state in states.items() if state == "leader")

        assert keeper.obeyed("kill", leader) == [f"{leader}: kill"]
        states = keeper.wait_for(lambda s: s[leader] == "stopped" and "leader" in s.values())
        assert coord(None, "get", "k", env=env).stdout == "k\nv\n"
        assert keeper.obeyed("restart", leader) == [f"{leader}: restart"]
        states = keeper.all_serve()

        leader = next(name for name, state in states.items() if state == "leader")
        assert keeper.obeyed("pause", leader) == [f"{leader}: pause"]
        states = keeper.wait_for(lambda s: s[leader] == "paused" and "leader" in s.values())
        assert keeper.obeyed("resume", leader) == [f"{leader}: resume"]
        states = keeper.all_serve()

        leader = next(name for name, state in states.items() if state == "leader")
        others = ",".join(sorted(states.keys() - {leader}))
        assert keeper.obeyed("partition", leader) == [f"partition: {leader} / {others}"]
        keeper.wait_for(lambda s: s[leader] == "no leader" and "leader" in s.values())
        assert keeper.obeyed("status")[-1] == f"partition: {leader} / {others}"
        keeper.obeyed("heal")
        keeper.all_serve()

        family = keeper.family()
        assert len(family) == 4
        assert keeper.obeyed("stop") == ["stopping"]
        assert keeper.ended() == 0
        assert not [child for child in family if child.is_running()]
        assert {line[:2] for line in keeper.lines if line.endswith("ended with 0")} == set(states)
        assert list(tmp_path.glob("coord-cluster-*/*")) == []
        done = keeper.order("status")
        assert done.returncode == 1
        assert done.stderr.startswith("Error: no cluster runs here")


def test_bad_orders_are_refused(tmp_path: Path) -> None:
    with started(tmp_path, "-n", "1") as keeper:
        keeper.until("ready")
        for words, text, code in [
            (("kill", "m9"), "no member 'm9': there is m1", 1),
            (("partition", "m1,m1"), "'m1' is no member, or on two sides", 1),
            (("partition", "/"), "'/' does not name members, as in m1 or m1,m2/m3", 128),
            (("kill",), "Missing argument 'NAME...'.", 128),
        ]:
            done = keeper.order(*words)
            assert (done.returncode, done.stderr.splitlines()[0]) == (code, f"Error: {text}")
        keeper.obeyed("kill", "m1")
        for verb in ("kill", "pause", "resume"):
            done = keeper.order(verb, "m1")
            assert (done.returncode, done.stderr) == (1, "Error: m1 does not run\n")
        second = keeper.order("start")
        assert second.returncode == 1
        assert "Error: a cluster runs already" in second.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_members_and_data_that_is_kept_is_there_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    with started(tmp_path, keeps=True) as keeper:
        keeper.until("ready")
        first = keeper.endpoints
        env = {"COORD_ENDPOINTS": first}
        assert coord(None, "put", "k", "v", env=env).returncode == 0
        family = keeper.family()
        keeper.obeyed("pause", "m2")
        keeper.process.send_signal(number)
        assert keeper.ended() == 0
        assert not [child for child in family if child.is_running()]
    with started(tmp_path, "-n", "5", keeps=True) as keeper:
        assert keeper.ended() == 1
        assert "holds a cluster of 3 members: m1, m2, m3" in "\n".join(keeper.lines)
    with started(tmp_path, keeps=True) as keeper:
        keeper.until("ready")
        assert keeper.endpoints == first
        assert coord(None, "get", "k", env=env).stdout == "k\nv\n"


def test_nothing_outlives_a_keeper_that_is_killed(tmp_path: Path) -> None:
    with started(tmp_path) as keeper:
        keeper.until("ready")
        family = keeper.family()
        keeper.obeyed("kill", "m1")
        keeper.obeyed("pause", "m2")
        keeper.process.kill()
        _, alive = psutil.wait_procs(family, timeout=WITHIN_S)
        assert alive == []


def test_flags_go_to_the_servers(tmp_path: Path) -> None:
    with started(tmp_path, "-n", "1", "--", "--no-such-flag") as keeper:
        assert "ended with 2" in keeper.until("ended with")


def test_a_line_of_the_log_is_readable() -> None:
    line = b'{"level":"info","ts":"x","caller":"y","msg":"hello","a":1,"b":"two","c":[3]}\n'
    assert readable(line) == "info  hello a=1 b=two c=[3]"
    assert readable(b"no json\n") == "no json"
    assert readable(b"[1]\n") == "[1]"
    assert len(readable(b'{"msg":"' + b"x" * 1000 + b'"}')) == 403


@pytest.mark.parametrize("no_colour", [False, True])
def test_colours_only_on_a_terminal_that_wants_them(tmp_path: Path, no_colour: bool) -> None:
    ours, theirs = pty.openpty()
    extra = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    env = clean_environment(extra | ({"NO_COLOR": "1"} if no_colour else {}))
    if not no_colour:
        env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [*COMMAND, "cluster", "start", "-n", "1"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=env,
    )
    os.close(theirs)
    shown = b""
    try:
        while b"clients http" not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal goes with the last who had it open
            while os.read(ours, 4096):
                pass
        assert process.wait(WITHIN_S) == 0
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
            process.wait()
    assert (b"\x1b[" in shown) is not no_colour
