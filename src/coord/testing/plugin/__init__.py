"""The pytest plugin: servers, clusters, clients, faults and virtual time as fixtures.

It is loaded by every pytest that finds ``coord`` installed, so that nothing here imports more than pytest itself before
a fixture is used; ``-p no:coord`` leaves it out.

No fixture is a coroutine: clients and servers live on threads of their own, so that the same fixtures serve plain
tests, those of pytest-asyncio in both modes, of anyio, and ``unittest``.

Isolation: a test that asks for nothing else works on one server per pytest process, from which everything is removed
that came during the test; ``coord_server`` and ``coord_cluster`` belong to one test.
Workers of pytest-xdist are processes, each with a server of its own.
"""

from __future__ import annotations

from coord.testing.plugin.clients import (
    coord_client,
    coord_client_factory,
    coord_endpoints,
    coord_prefix,
    coord_sync_client,
    coord_sync_client_factory,
)
from coord.testing.plugin.faults import coord_faults, coord_proxy
from coord.testing.plugin.servers import (
    coord_cluster,
    coord_cluster_factory,
    coord_server,
    coord_server_factory,
    coord_server_shared,
)
from coord.testing.plugin.settings import (
    pytest_addoption,
    pytest_configure,
    pytest_runtest_makereport,
)
from coord.testing.plugin.virtual import (
    coord_clock,
    coord_memory,
    coord_memory_client,
    coord_memory_sync_client,
)

__all__ = [
    "coord_client",
    "coord_client_factory",
    "coord_clock",
    "coord_cluster",
    "coord_cluster_factory",
    "coord_endpoints",
    "coord_faults",
    "coord_memory",
    "coord_memory_client",
    "coord_memory_sync_client",
    "coord_prefix",
    "coord_proxy",
    "coord_server",
    "coord_server_factory",
    "coord_server_shared",
    "coord_sync_client",
    "coord_sync_client_factory",
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_makereport",
]
