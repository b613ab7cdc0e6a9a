"""A disk of a few MiB that can be filled, for processes in a namespace of mounts of their own.

The namespace needs no rights on the host, and takes its mounts and its processes with it when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.servers import clean_environment

_ROOT = Path(__file__).parents[2]
_PIECE = bytes(4096)
# A process of the namespace that dies takes all others along: nothing is left when a test is interrupted.
_NAMESPACE = (
    *("unshare", "--user", "--map-root-user", "--mount"),
    *("--pid", "--fork", "--kill-child"),
)


def why_not(directory: Path) -> str | None:
    """Return why this machine has no such disks; None if it has."""
    if shutil.which("unshare") is None:
        return "the program unshare is not installed"
    command = [*_NAMESPACE, "mount", "-t", "tmpfs", "none", str(directory)]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if tried.returncode == 0:
        return None
    return f"`{' '.join(command[:-1])}` ended with {tried.returncode}: {tried.stderr.strip()}"


def run_inside(module: str, *arguments: str, timeout: float) -> dict[str, Any]:
    """Run a module as a program in a namespace of its own, and return what it prints, as JSON."""
    done = subprocess.run(
        [*_NAMESPACE, sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


class SmallDisk:
    """A new file system at ``path``. Inside a namespace only."""

    def __init__(self, path: Path, *, mib: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", path], check=True)
        self._ballast = path / "ballast"

    def grow(self, mib: int) -> None:
        """Make it larger."""
        subprocess.run(["mount", "-o", f"remount,size={mib}m", self.path], check=True)

    @property
    def free_bytes(self) -> int:
        """What may still be written."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Take the room from everybody else, but for ``leave`` bytes."""
        with self._ballast.open("wb", buffering=0) as ballast:
            if leave:
                os.posix_fallocate(ballast.fileno(), 0, self.free_bytes - leave)
                return
            with contextlib.suppress(OSError):
                os.posix_fallocate(ballast.fileno(), 0, self.free_bytes)
            ballast.seek(0, os.SEEK_END)
            with contextlib.suppress(OSError):
                while ballast.write(_PIECE):
                    pass

    def clear(self) -> None:
        """Give the room back."""
        self._ballast.unlink()
