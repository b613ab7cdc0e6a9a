"""Pools that are replaced while they are used."""

from __future__ import annotations

import asyncio

import coord
from recipes.config_reload import NAME, Pool, Reloading, Settings


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
                assert which_are_open(first, second) == (True, True)
            following.cancel()
            await asyncio.wait([following])
            assert which_are_open(first, second) == (True, False)
        assert which_are_open(first, second) == (False, False)


def which_are_open(*pools: Pool) -> tuple[bool, ...]:
    return tuple(pool.is_open for pool in pools)


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
