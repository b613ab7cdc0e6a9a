"""A disk that becomes full under the program: it ends with a clear word, and nothing acknowledged is lost.

What was acknowledged is judged inside (``full_disk.py``), on file systems of a few MiB that only exist there.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.outages import End
from tests.chaos.small_disk import run_inside, why_not

pytestmark = [pytest.mark.processes, pytest.mark.timeout(150)]

_WITHIN_S = 120.0


def run(scenario: str, directory: Path) -> dict[str, Any]:
    reason = why_not(directory)
    if reason is not None:
        pytest.skip(f"no small disks on this machine: {reason}")
    return run_inside("tests.chaos.full_disk", scenario, str(directory), timeout=_WITHIN_S)


def check_ends(ends: list[End], *directories: str) -> None:
    """Each ended by itself, with one line that says why and where."""
    assert len(ends) == len(directories)
    for end, directory in zip(ends, directories, strict=True):
        assert end["code"] == 1, end
        assert not end["traceback"], end
        (line,) = end["fatal"]
        assert line["msg"] in {"the server cannot go on", "cannot run"}
        assert f"no space left in {directory}" in line["reason"]
        assert "No space left on device" in line["error"]


def test_the_first_start_finds_no_room(tmp_path: Path) -> None:
    facts = run("first_start", tmp_path)
    check_ends(facts["ends"], *[facts["directory"]] * 2)
    assert facts["acknowledged"] > 0


def test_a_new_backend_finds_no_room_at_any_of_its_pages(tmp_path: Path) -> None:
    facts = run("new_store", tmp_path)
    ends = facts["ends"]
    assert set(ends) == {0, errno.ENOSPC}
    assert ends == sorted(ends, reverse=True)
    assert facts["opened"] == len(ends)


def test_no_room_for_the_backend(tmp_path: Path) -> None:
    facts = run("backend", tmp_path)
    check_ends(facts["ends"], *[f"{facts['directory']}/member/store"] * 3)
    assert facts["fitted"] > 0
    assert facts["acknowledged"] > facts["fitted"]


def test_no_room_for_the_log(tmp_path: Path) -> None:
    facts = run("log", tmp_path)
    check_ends(facts["ends"], *[facts["directory"]] * 3)
    # In the middle of a write, which was not acknowledged and was cut off later; then for the next piece.
    assert (facts["torn"], facts["cut"]) == (0, True)
    assert facts["rolled"] < 3
    assert facts["more"] == 3
    assert facts["went_on_in"] > facts["ended_in"]
    assert facts["acknowledged"] == facts["fitted"] + facts["rolled"] + facts["more"]


def test_no_room_for_a_snapshot(tmp_path: Path) -> None:
    facts = run("snapshot", tmp_path)
    assert facts["told"] == (
        f"snapshot failed: [Errno 28] No space left on device: '{facts['directory']}/member'"
    )
    assert (facts["left"], facts["taken"]) == ([], 0)
    assert facts["then"] is None
    assert facts["code"] == 0
    assert facts["acknowledged"] > 8


def test_the_disk_of_one_of_three_is_full(tmp_path: Path) -> None:
    facts = run("cluster", tmp_path)
    check_ends(facts["ends"], *(f"{place}/member/store" for place in facts["directories"]))
    # The others went on without it.
    assert all(count > 0 for count in facts["meanwhile"])
    assert len(facts["hashes"]) == 3
    assert len({tuple(found) for found in facts["hashes"].values()}) == 1
