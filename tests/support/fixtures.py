"""Fixtures of running servers, for every suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import ServerProcess, coord_server_process, etcd_versions, real_etcd


@pytest.fixture
def coord_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A fresh ``coord-server`` process of the test's own."""
    with coord_server_process(tmp_path / "coord-server") as server:
        yield server


@pytest.fixture(scope="module")
def shared_coord_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A ``coord-server`` process for the tests of one module, which keep to keys of their own."""
    with coord_server_process(tmp_path_factory.mktemp("coord-server")) as server:
        yield server


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[ServerProcess]:
    """A fresh etcd 3.5.1 of the test's own."""
    with real_etcd(tmp_path / "etcd") as server:
        yield server


@pytest.fixture(scope="module")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An etcd 3.5.1 for the tests of one module, which keep to keys of their own."""
    with real_etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture(params=etcd_versions())
def etcdctl_version(request: pytest.FixtureRequest) -> str:
    """Each release of etcdctl that this machine has."""
    return str(request.param)
