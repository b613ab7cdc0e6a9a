"""Every scenario under tests/scenarios/raft gives the output that stands in it.

``pytest tests/server/raft/test_scenarios.py --rewrite`` accepts what the code does now; the diff is
the review.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.raft.script import rewritten

SCENARIOS = Path(__file__).parents[2] / "scenarios" / "raft"
FILES = sorted(SCENARIOS.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    actual = rewritten(text)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(actual)
        return
    assert actual == text


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 8
