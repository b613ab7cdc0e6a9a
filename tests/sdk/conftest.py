"""Stores and clients for the SDK's tests: the same tests, on every store and over every carrier.

``COORD_SDK_FLAVOURS=all`` runs all tests on all flavours.
``COORD_SDK_ETCD=3.4.23`` runs them against that release of etcd instead of 3.5.1; ``COORD_SDK_CLUSTER=1`` on three members whose leader is
killed before each test, instead of the other stores.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typing_extensions import override

import coord
from coord.core import Carrier, Placement
from tests.sdk.failing_cluster import FailingCluster
from tests.support.servers import ServerProcess, coord_server_process, real_etcd

_numbers = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One store, and one way to be a client of it."""

    store: str
    transport: Carrier = "native"
    runtime: Placement = "thread"

    @override
    def __str__(self) -> str:
        extra = [self.transport] * (self.transport != "native") + [self.runtime] * (
            self.runtime != "thread"
        )
        return "-".join([self.store, *extra])


FLAVOURS = (
    Flavour(store="etcd"),
    Flavour(store="etcd", transport="grpcio"),
    Flavour(store="coord"),
    Flavour(store="coord", transport="grpcio"),
    Flavour(store="coord", runtime="inline"),
    Flavour(store="memory"),
)
# By default these two are run: each server and each carrier once.
BY_DEFAULT = frozenset(("etcd", "coord-grpcio"))
# Of a recipe's tests these two, which is each store and each runtime once: carriers are below recipes.
FOR_RECIPES = frozenset(("etcd", "coord-inline"))
RECIPES = [
    "atomic",
    "barrier",
    "config",
    "counter",
    "cron",
    "deadlock",
    "double_barrier",
    "election_run",
    "election_transfer",
    "latch",
    "lock_delay",
    "membership",
    "multi_lock",
    "partitioner",
    "queue",
    "rate_limiter",
    "registry",
    "rwlock",
    "semaphore",
    "single_key",
    "topic",
    "work_queue",
]
ALL_FLAVOURS = os.environ.get("COORD_SDK_FLAVOURS", "") == "all" or "COORD_SDK_ETCD" in os.environ
ON_A_CLUSTER = (
    Flavour(store="cluster"),
    Flavour(store="cluster", transport="grpcio"),
    Flavour(store="cluster", runtime="inline"),
)
WITH_KILLS = os.environ.get("COORD_SDK_CLUSTER", "") not in ("", "0")
CARRIERS: tuple[Carrier, ...] = ("native", "grpcio")
STORES = ("etcd", "coord")
ETCD_RELEASE = os.environ.get("COORD_SDK_ETCD", "3.5.1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only ``COORD_SDK_FLAVOURS=all`` asks for."""
    if ALL_FLAVOURS or WITH_KILLS:
        return
    left_out = [item for item in items if not _is_wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _is_wanted(item)]


def _is_wanted(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    flavour = call.params.get("client") if call is not None else None
    if item.path.parent != Path(__file__).parent or not isinstance(flavour, Flavour):
        return True
    name = item.path.stem.removeprefix("test_")
    return str(flavour) in (FOR_RECIPES if name.startswith(tuple(RECIPES)) else BY_DEFAULT)


@pytest.fixture(scope="session")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One etcd for all SDK tests, which keep to keys of their own; progress five times a second."""
    with real_etcd(
        tmp_path_factory.mktemp("etcd"),
        "--experimental-watch-progress-notify-interval=200ms",
        version=ETCD_RELEASE,
    ) as server:
        yield server


@pytest.fixture(scope="session")
def coord_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One coord-server for all SDK tests, which keep to keys of their own."""
    with coord_server_process(
        tmp_path_factory.mktemp("coord-server"),
        "--experimental-watch-progress-notify-interval=200ms",
    ) as server:
        yield server


@pytest.fixture(scope="session")
def failing_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingCluster]:
    """Three members whose leader dies before each test."""
    with FailingCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def _target(store: str, request: pytest.FixtureRequest) -> str:
    if store == "memory":
        return "memory:"
    if store == "cluster":
        cluster: FailingCluster = request.getfixturevalue("failing_cluster")
        cluster.kill_leader()
        return cluster.endpoints
    server: ServerProcess = request.getfixturevalue(f"{store}_process")
    return server.endpoint


@pytest.fixture(params=ON_A_CLUSTER if WITH_KILLS else FLAVOURS, ids=str)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[coord.Client]:
    """A client, over every store and carrier."""
    flavour: Flavour = request.param
    async with coord.connect(
        _target(flavour.store, request), transport=flavour.transport, runtime=flavour.runtime
    ) as made:
        yield made


@pytest.fixture(params=STORES)
def endpoint(request: pytest.FixtureRequest) -> str:
    """The ``host:port`` of every store that is a process, for tests with clients of their own."""
    return _target(request.param, request)


@pytest.fixture
def prefix() -> str:
    """A prefix of keys that no other test uses."""
    return f"t{next(_numbers)}/"
