"""A module is one idea, a function fits a screen."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.sources import Source, sources

MODULE_LINES = 600
FUNCTION_LINES = 80


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.path)
def test_sizes(source: Source) -> None:
    assert source.text.count("\n") <= MODULE_LINES
    long = [
        f"{source.path}:{node.lineno} {node.name}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES
    ]
    assert long == []
