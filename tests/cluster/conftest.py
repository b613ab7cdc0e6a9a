"""Clusters of real processes for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coord.testing.chaos import Cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three members that serve, behind proxies."""
    async with Cluster(tmp_path) as made:
        yield made
