"""Suites of users, run by a pytest of their own."""

from __future__ import annotations

import functools

import pytest

from tests.plugin.suites import RunSuite, run_suite


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunSuite:
    """A function that runs the text of a test file with the plugin, and returns the result."""
    return functools.partial(run_suite, pytester, monkeypatch)
