"""Runs the command ``coord`` as a process, the way a shell does."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import clean_environment
from tests.support.warm import Warm

COMMAND = (sys.executable, "-m", "coord.cli")


def coord(
    endpoint: str | None,
    *words: str,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, warm where the system can and ``COORD_TEST_LATER`` is not set."""
    where = [] if endpoint is None else [f"--endpoints={endpoint}"]
    if hasattr(os, "pidfd_open") and not os.environ.get("COORD_TEST_LATER"):
        return _warm().run(
            [*where, *words], stdin=stdin, env=clean_environment(env), timeout=timeout
        )
    return subprocess.run(
        [*COMMAND, *where, *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=clean_environment(env),
    )


@functools.cache
def _warm() -> Warm:
    return Warm()


@dataclass(slots=True)
class Running:
    """A command that runs on."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """Wait for the next line of its output; empty at the end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def lines(self, count: int) -> list[str]:
        return [self.line() for _ in range(count)]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: exit code, rest of the output, errors."""
        out, errors = self.process.communicate(timeout=60)
        return self.process.returncode, out, errors


@contextlib.contextmanager
def started(
    endpoint: str, *words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Generator[Running]:
    """Start a command; it is killed at the end of the context if it still runs."""
    process = subprocess.Popen(
        [*COMMAND, f"--endpoints={endpoint}", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(env),
        cwd=cwd,
    )
    try:
        yield Running(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
