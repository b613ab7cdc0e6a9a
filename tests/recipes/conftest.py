"""Databases for the recipes' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of this run; without one, its tests say so."""
    if not postgres.is_here():
        pytest.skip(f"needs {postgres.NEEDS}")
    with postgres.postgres_server() as url:
        yield url
