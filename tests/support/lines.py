"""Waiting until contenders stand in the store's line."""

from __future__ import annotations

import asyncio

import coord

WITHIN_S = 20.0


async def lined_up(client: coord.Client, name: str, count: int) -> None:
    """Wait until there are exactly so many keys below ``name/``."""
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while await client.count(name + "/") != count:
            await anext(watch)
