"""What is checked in is what the generator writes today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.processes
def test_derived_files_are_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "proto.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
