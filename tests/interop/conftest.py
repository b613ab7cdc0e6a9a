"""Stores and clients for contests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

import coord
from tests.support.servers import ServerProcess

_numbers = itertools.count()


@pytest.fixture(params=["coord", "etcd"])
def endpoint(request: pytest.FixtureRequest) -> str:
    """Our server, and etcd 3.5.1."""
    server: ServerProcess = request.getfixturevalue(
        "shared_coord_server" if request.param == "coord" else "shared_etcd"
    )
    return server.endpoint


@pytest.fixture
async def client(endpoint: str) -> AsyncIterator[coord.Client]:
    """A client of that store."""
    async with coord.connect(endpoint) as made:
        yield made


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"contest-{next(_numbers)}"
