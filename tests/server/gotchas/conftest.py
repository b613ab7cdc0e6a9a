"""A fresh store for every gotcha."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.endpoint import Endpoint, serving
from tests.server.gotchas.place import somewhere


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    """coord-server, or etcd if ``COORD_GOTCHAS_ON`` says so."""
    async with somewhere(tmp_path / "store") as running:
        yield running


@pytest.fixture
async def ours() -> AsyncIterator[Endpoint]:
    """coord-server whatever is asked for: these tests let time jump or look inside."""
    async with serving() as running:
        yield running
