"""Virtual time for our own tests, from where users have it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import coord
from coord.client.connecting import open_client
from coord.testing.virtual import (
    InlineOffload,
    VirtualClock,
    VirtualLoop,
    run_virtual,
    virtual_env,
)

__all__ = [
    "InlineOffload",
    "VirtualClock",
    "VirtualLoop",
    "run_virtual",
    "virtual_client",
    "virtual_env",
]


@contextlib.asynccontextmanager
async def virtual_client(loop: VirtualLoop) -> AsyncGenerator[coord.Client]:
    """A client and its server in the time of the loop: no thread and no clock of theirs is outside of it."""
    options = coord.connect("memory:", runtime="inline")._options
    async with await open_client(options, virtual_env(loop)) as client:
        yield client
