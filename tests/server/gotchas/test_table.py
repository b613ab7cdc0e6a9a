"""The table of gotchas is complete, and what it points at exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.gotchas.table import COUNT, GOTCHAS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """The node ids that pytest finds in the files of the table, without parameters."""
    files = {test.partition("::")[0] for row in GOTCHAS.values() for test in row.tests}
    files |= {str(path.relative_to(ROOT)) for path in Path(__file__).parent.glob("test_*.py")}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *sorted(files)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}


def test_every_gotcha_has_a_row() -> None:
    assert list(GOTCHAS) == list(range(1, COUNT + 1))


@pytest.mark.parametrize("number", GOTCHAS)
def test_rows_say_and_prove_something(number: int) -> None:
    row = GOTCHAS[number]
    assert row.statement.endswith((".", ".)"))
    assert row.tests or row.waits_for
    assert len(set(row.tests)) == len(row.tests)


def test_all_tests_of_the_table_exist(collected: set[str]) -> None:
    assert {test for row in GOTCHAS.values() for test in row.tests} - collected == set()


def test_every_named_test_is_in_its_row(collected: set[str]) -> None:
    named = {test: found for test in collected if (found := re.search(r"::test_g(\d{3})_", test))}
    assert named
    for test, found in named.items():
        assert test in GOTCHAS[int(found[1])].tests


def test_what_waits_is_listed_for_users() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    for missing in ("cluster", "auth", "recipes"):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {missing} |"))
        told = {int(number) for number in re.findall(r"\d+", line)}
        assert told == {n for n, row in GOTCHAS.items() if row.waits_for == missing}
