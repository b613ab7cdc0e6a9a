"""Fixtures of what goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coord.testing.plugin.asked import asks_for

if TYPE_CHECKING:
    from collections.abc import Generator

    from coord.testing.faults import Faults
    from coord.testing.local import Proxy, Server


@pytest.fixture
def coord_faults() -> Generator[Faults]:
    """Faults of single requests, under every client that is connected during the test, by fixtures or by the program."""
    from coord.testing.faults import Faults

    faults = Faults()
    with faults.everywhere():
        yield faults


@pytest.fixture
def coord_proxy(request: pytest.FixtureRequest) -> Generator[Proxy]:
    """A line to the test's ``coord_server``, or to the shared server; the client fixtures go through it."""
    from coord.testing.local import proxy

    name = "coord_server" if asks_for(request, "coord_server") else "coord_server_shared"
    server: Server = request.getfixturevalue(name)
    with proxy(server.endpoint) as line:
        yield line
