"""Fixtures of real servers and clusters."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import pytest

from coord.testing.plugin.settings import note_server, project_args, settings_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from coord.testing.local import Cluster, Server


class MakeServer(Protocol):
    """Starts a server that ends with the test."""

    def __call__(self, *, args: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Server:
        """Return it once it serves."""
        ...


class MakeCluster(Protocol):
    """Starts a cluster that ends with the test."""

    def __call__(
        self, members: int = 3, *, args: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> Cluster:
        """Return it once all members serve."""
        ...


@pytest.fixture
def coord_server_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[MakeServer]:
    """A function that starts ``coord-server`` processes: ``coord_server_factory(args=["--auto-compaction-retention=1"])``."""
    from coord.testing.local import server

    with contextlib.ExitStack() as stack:

        def make(*, args: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Server:
            where = tmp_path_factory.mktemp("coord-server")
            flags = (*project_args(request.config), *args)
            made = stack.enter_context(server(args=flags, env=env, directory=where))
            note_server(request, made)
            return made

        yield make


@pytest.fixture
def coord_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Server]:
    """A fresh ``coord-server`` process, on its own data and port; flags by ``@pytest.mark.coord(args=...)``."""
    from coord.testing.local import server

    where = tmp_path_factory.mktemp("coord-server")
    with server(args=settings_of(request).args, directory=where) as made:
        note_server(request, made)
        yield made


@pytest.fixture(scope="session")
def coord_server_shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Server]:
    """The ``coord-server`` process of this pytest process; tests share it and must leave it running."""
    from coord.testing.local import server

    where = tmp_path_factory.mktemp("coord-server-shared")
    with server(args=project_args(request.config), directory=where) as made:
        yield made


@pytest.fixture
def coord_cluster_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[MakeCluster]:
    """A function that starts clusters: ``coord_cluster_factory(5)``."""
    from coord.testing.local import cluster

    with contextlib.ExitStack() as stack:

        def make(
            members: int = 3,
            *,
            args: Sequence[str] = (),
            env: Mapping[str, str] | None = None,
        ) -> Cluster:
            where = tmp_path_factory.mktemp("coord-cluster")
            flags = (*project_args(request.config), *args)
            made = stack.enter_context(cluster(members, args=flags, env=env, directory=where))
            for member in made.members:
                note_server(request, member)
            return made

        yield make


@pytest.fixture
def coord_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Cluster]:
    """A fresh cluster of processes, three unless ``@pytest.mark.coord(members=...)`` says otherwise."""
    from coord.testing.local import cluster

    said = settings_of(request)
    where = tmp_path_factory.mktemp("coord-cluster")
    with cluster(said.members, args=said.args, directory=where) as made:
        for member in made.members:
            note_server(request, member)
        yield made
