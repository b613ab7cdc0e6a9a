"""Fixtures of a store whose time the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    import coord
    import coord.sync
    from coord.testing.faults import Faults
    from coord.testing.memory import MemoryWorld
    from coord.testing.stopped import Clock


@pytest.fixture
def coord_memory(coord_faults: Faults) -> Generator[MemoryWorld]:
    """A server in memory and its clients, in a time that only ``coord_memory.clock`` moves."""
    from coord.testing.memory import MemoryWorld

    with MemoryWorld() as world:
        yield world
        coord_faults.clear()


@pytest.fixture
def coord_clock(coord_memory: MemoryWorld) -> Clock:
    """The time of ``coord_memory`` and its clients: ``coord_clock.advance(30)``."""
    return coord_memory.clock


@pytest.fixture
def coord_memory_client(coord_memory: MemoryWorld) -> coord.Client:
    """A client for coroutines of a fresh store in memory, in the time of ``coord_clock``."""
    return coord_memory.connect()


@pytest.fixture
def coord_memory_sync_client(coord_memory: MemoryWorld) -> coord.sync.Client:
    """A blocking client of a fresh store in memory, in the time of ``coord_clock``."""
    return coord_memory.connect_sync()
