"""Failpoints: found by name, armed by text, free of effect otherwise."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from coord_server import failpoints, flusher
from coord_server.storage.memory_disk import MemoryDisk
from coord_server.storage.wal import Wal


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def test_places_are_known_by_name() -> None:
    assert flusher.__name__  # places are registered when their module is imported
    assert {"wal.before_append", "wal.after_roll", "flush.before_write"} <= set(failpoints.names())
    assert failpoints.failpoint("wal.before_append") is failpoints.failpoint("wal.before_append")


def test_an_error_at_the_third_visit() -> None:
    wal = Wal.create(MemoryDisk(), "/wal", b"m", segment_bytes=4096)
    failpoints.configure(" wal.before_append=error(EIO)@3 ; ")
    wal.append(None, [])
    wal.append(None, [])
    with pytest.raises(OSError, match="Input/output"):
        wal.append(None, [])
    wal.append(None, [])
    failpoints.disarm()


def test_actions_run_at_each_visit() -> None:
    visits: list[str] = []
    failpoints.arm("wal.before_roll", lambda: visits.append("roll"))
    Wal.create(MemoryDisk(), "/wal", b"m", segment_bytes=4096)
    assert visits == ["roll"]
    with pytest.raises(KeyError):
        failpoints.arm("no.such.place", lambda: None)


@pytest.mark.parametrize(
    "text",
    [
        "nowhere=crash",
        "wal.before_append",
        "wal.before_append=explode",
        "wal.before_append=error(EWHAT)",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"wal\.before_append|nowhere"):
        failpoints.configure(text)


@pytest.mark.processes
def test_a_crash_is_one() -> None:
    code = (
        "from coord_server import failpoints\n"
        "point = failpoints.failpoint('here')\n"
        "failpoints.configure('here=crash')\n"
        "point()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
