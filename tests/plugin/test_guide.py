"""The suites that the guide shows pass."""

from __future__ import annotations

import re

import pytest

from tests.plugin.suites import ROOT, RunSuite

pytestmark = [pytest.mark.processes, pytest.mark.timeout(110)]

BLOCK = re.compile(r'^```python title="(test_\w+\.py)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SUITES = BLOCK.findall((ROOT / "docs/guides/testing.md").read_text("utf-8"))


def test_the_guide_has_suites() -> None:
    assert len(SUITES) == 4


@pytest.mark.parametrize(("name", "text"), [pytest.param(*each, id=each[0]) for each in SUITES])
def test_a_suite_of_the_guide(suite: RunSuite, name: str, text: str) -> None:
    result = suite(text, settings={"asyncio_mode": "auto"})
    result.assert_outcomes(passed=len(re.findall(r"^(?:async )?def test_", text, re.MULTILINE)))
