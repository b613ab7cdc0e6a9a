"""Pools that are replaced while they are used."""

from __future__ import annotations

import asyncio

import coord
from recipes.config_reload import NAME, Reloading, Settings


async def test_no_pool_closes_while_it_is_used() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with (
        coord.connect("memory:") as client,
        await client.config(NAME, Settings, default=Settings("db-0")) as config,
        asyncio.TaskGroup() as group,
    ):
        reloading = Reloading(config, told.put_nowait)
        following = group.create_task(reloading.follow())
        async with reloading.borrow() as first:
            for number in (1, 2):
                await config.publish(Settings(f"db-{number}"))
                assert await told.get() == f"uses db-{number}, 4 connections"
            async with reloading.borrow() as second:
                assert (first.settings.host, second.settings.host) == ("db-0", "db-2")
                assert first.is_open
            assert second.is_open
            following.cancel()
            await asyncio.wait([following])
            assert first.is_open
            assert not second.is_open
        assert not first.is_open


async def test_a_change_before_it_is_followed_is_not_missed() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with (
        coord.connect("memory:") as client,
        await client.config(NAME, Settings, default=Settings("db-0")) as config,
        asyncio.TaskGroup() as group,
    ):
        reloading = Reloading(config, told.put_nowait)
        await config.wait_revision(await config.publish(Settings("db-1")), timeout=30)
        following = group.create_task(reloading.follow())
        assert await told.get() == "uses db-1, 4 connections"
        following.cancel()
