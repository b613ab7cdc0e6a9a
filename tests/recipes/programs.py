"""Recipes as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.servers import clean_environment

ROOT = Path(__file__).resolve().parents[2]


def start(*words: str, endpoint: str, **extra: str) -> subprocess.Popen[str]:
    """Run Python with these words, on the store at ``endpoint``; its own process group, text on its pipes."""
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment({"COORD_ENDPOINTS": endpoint, "PYTHONPATH": path, **extra}),
        text=True,
        start_new_session=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def end(*processes: subprocess.Popen[str]) -> None:
    """Kill what still runs, with what it has started, and close its pipes."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
