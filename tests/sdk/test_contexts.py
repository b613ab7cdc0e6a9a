"""What serves many callers keeps nothing of the first one's context: neither a span nor an object in a variable."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar

import pytest

import coord
from coord.core import Carrier
from tests.sdk.conftest import CARRIERS


class Request:
    """What a web framework keeps in a context variable, with all that hangs on it."""


CURRENT: ContextVar[Request] = ContextVar("current")


@pytest.mark.parametrize("transport", CARRIERS)
async def test_connections_and_streams_outlive_the_context_they_were_opened_in(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with coord.connect(endpoint, transport=transport) as client:
        session = client.session(ttl=6)  # its timers are new ones after the first renewal
        watch = client.watch(prefix)

        async def first() -> weakref.ref[Request]:
            request = Request()
            CURRENT.set(request)
            await client.put(prefix, "opens the connection")
            await session.open()
            await watch.__aenter__()
            return weakref.ref(request)

        kept = await asyncio.create_task(first())
        await client.put(prefix, "seen")
        await anext(watch)
        async with asyncio.timeout(30):
            # A cycle of the tasks that have ended may keep it for a while.
            while kept() is not None:
                gc.collect()
                await asyncio.sleep(0.1)
        await session.close()
        watch.close()
