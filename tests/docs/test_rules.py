"""The table of rules names tests that exist, and leaves out no rule."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / "docs/reliability/rules.md").read_text()
GUARDS = (ROOT / "docs/reliability/recipes.md").read_text()
FOUND = (ROOT / "docs/reliability/exploration.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE + GUARDS + FOUND)))


def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


@pytest.mark.parametrize(("path", "name"), NAMED, ids=str)
def test_a_named_test_exists(path: str, name: str) -> None:
    assert name in defined_in(ROOT / path)


def test_no_rule_is_left_out() -> None:
    rows = [line for line in TABLE.splitlines() if re.match(r"\| C\d+ ", line)]
    assert [row.split()[1] for row in rows] == [f"C{number}" for number in range(1, 19)]
    assert all(re.search(r"`tests/[^`]+::", row) for row in rows)
