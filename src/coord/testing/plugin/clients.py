"""Fixtures of clients, and where they connect to."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from coord.testing.plugin.asked import asks_for, repairs

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import coord
    import coord.sync
    from coord.testing.faults import Faults
    from coord.testing.local import Cluster, Proxy, Server


class MakeClient(Protocol):
    """Makes a client that is closed with the test."""

    def __call__(
        self,
        endpoints: str | Sequence[str] | None = None,
        **options: Any,  # noqa: ANN401 - those of coord.sync.connect
    ) -> coord.Client:
        """Return it; ``endpoints`` are those of the test unless given, ``options`` as for ``coord.sync.connect``."""
        ...


class MakeSyncClient(Protocol):
    """Makes a blocking client that is closed with the test."""

    def __call__(
        self,
        endpoints: str | Sequence[str] | None = None,
        **options: Any,  # noqa: ANN401 - those of coord.sync.connect
    ) -> coord.sync.Client:
        """Return it; see :class:`MakeClient`."""
        ...


@pytest.fixture
def coord_prefix() -> str:
    """A prefix of names and keys that nobody else has, such as ``test-5f0c2a/``."""
    return f"test-{secrets.token_hex(8)}/"


@pytest.fixture
def coord_endpoints(request: pytest.FixtureRequest) -> Generator[str]:
    """Where the test's clients connect: its ``coord_cluster``, ``coord_proxy`` or ``coord_server``, else the shared server.

    Define a fixture of this name to test against a store of your own; nothing is removed there.
    From the shared server everything is removed that came during the test.
    """
    if asks_for(request, "coord_cluster"):
        cluster: Cluster = request.getfixturevalue("coord_cluster")
        yield cluster.endpoints
    elif asks_for(request, "coord_server"):
        server: Server = request.getfixturevalue("coord_server")
        yield _line_before(request) or server.url
    else:
        from coord.testing.plugin.leftovers import removing_leftovers

        shared: Server = request.getfixturevalue("coord_server_shared")
        with removing_leftovers(shared.url):
            yield _line_before(request) or shared.url


def _line_before(request: pytest.FixtureRequest) -> str | None:
    if not asks_for(request, "coord_proxy"):
        return None
    line: Proxy = request.getfixturevalue("coord_proxy")
    return line.url


@pytest.fixture
def coord_sync_client_factory(
    request: pytest.FixtureRequest,
    coord_endpoints: str,
    coord_faults: Faults,  # noqa: ARG001 - stands under the clients
) -> Generator[MakeSyncClient]:
    """A function that makes blocking clients: ``coord_sync_client_factory(name="b", request_timeout=2)``."""
    from coord.sync import connect

    repair = repairs(request)
    with contextlib.ExitStack() as stack:

        def make(
            endpoints: str | Sequence[str] | None = None,
            **options: Any,  # noqa: ANN401 - those of coord.sync.connect
        ) -> coord.sync.Client:
            where = coord_endpoints if endpoints is None else endpoints
            return stack.enter_context(connect(where, **options))

        yield make
        repair()


@pytest.fixture
def coord_client_factory(coord_sync_client_factory: MakeSyncClient) -> MakeClient:
    """A function that makes clients, for coroutines of any loop: ``coord_client_factory(name="b")``."""
    from coord.sync._portal import behind

    def make(
        endpoints: str | Sequence[str] | None = None,
        **options: Any,  # noqa: ANN401 - those of coord.sync.connect
    ) -> coord.Client:
        return behind(coord_sync_client_factory(endpoints, **options))

    return make


@pytest.fixture
def coord_client(coord_client_factory: MakeClient) -> coord.Client:
    """A client for coroutines, connected to ``coord_endpoints``; it is closed with the test."""
    return coord_client_factory()


@pytest.fixture
def coord_sync_client(coord_sync_client_factory: MakeSyncClient) -> coord.sync.Client:
    """A blocking client, connected to ``coord_endpoints``; it is closed with the test."""
    return coord_sync_client_factory()
