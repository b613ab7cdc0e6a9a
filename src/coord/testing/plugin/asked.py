"""What else a test has asked for, and how all of it is made to work again before clients say goodbye."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from coord.testing.faults import Faults
    from coord.testing.local import Cluster, Proxy, Server


def asks_for(request: pytest.FixtureRequest, name: str) -> bool:
    """Say whether the test, or a fixture of it, names the fixture ``name``."""
    return name in request.fixturenames


def repairs(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Return what heals everything that the test may have broken: a client that closes gives its leases back."""
    faults: Faults = request.getfixturevalue("coord_faults")
    lines: list[Proxy | Cluster] = []
    servers: list[Server] = []
    if asks_for(request, "coord_proxy"):
        line: Proxy = request.getfixturevalue("coord_proxy")
        lines.append(line)
    if asks_for(request, "coord_cluster"):
        cluster: Cluster = request.getfixturevalue("coord_cluster")
        lines.append(cluster)
        servers += cluster.members
    if asks_for(request, "coord_server"):
        server: Server = request.getfixturevalue("coord_server")
        servers.append(server)

    def repair() -> None:
        faults.clear()
        for healed in lines:
            healed.heal()
        for each in servers:
            if each.is_running:
                each.resume()

    return repair
