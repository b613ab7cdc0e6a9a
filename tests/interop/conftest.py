"""Stores and clients for contests.

``COORD_INTEROP_ROUNDS=200`` makes long runs, with every release of etcd that this machine has; without it there are
few rounds, with the newest.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

import coord
from tests.support.servers import (
    ServerProcess,
    coord_server_process,
    etcd_versions,
    real_etcd,
)

_numbers = itertools.count()
# Long runs play with every release of etcd that is here, `make test` with the newest one.
STORES = etcd_versions() if "COORD_INTEROP_ROUNDS" in os.environ else ["3.5.1"]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ServerProcess]]:
    """A process of each store, started when it is first asked for; the tests keep to names of their own."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def started(store: str) -> ServerProcess:
            folder = tmp_path_factory.mktemp("store")
            if store == "coord":
                return stack.enter_context(coord_server_process(folder))
            return stack.enter_context(real_etcd(folder, version=store.removeprefix("etcd-")))

        yield started


@pytest.fixture(params=["coord", *(f"etcd-{version}" for version in STORES)])
def endpoint(request: pytest.FixtureRequest, servers: Callable[[str], ServerProcess]) -> str:
    """Our server, and each release of etcd."""
    return servers(request.param).endpoint


@pytest.fixture
async def client(endpoint: str) -> AsyncIterator[coord.Client]:
    """A client of that store."""
    async with coord.connect(endpoint) as made:
        yield made


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"contest-{next(_numbers):05}"  # of one length: Go's queues read every key that begins with theirs
