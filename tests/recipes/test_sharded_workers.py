"""Workers that lose a shard while they write, and that are killed in the middle."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

import coord
from recipes.sharded_workers import PREFIX, SHARDS, handle, put, shard_of, until_done, work, workers
from tests.recipes.programs import end, line_of, start
from tests.support.servers import ServerProcess

CUSTOMERS = [f"customer-{number}" for number in range(6)]
# A worker that is killed before it has handled its 13th event; its lease is short.
WORKER = """
import asyncio, functools, itertools, sys
import coord
from recipes import sharded_workers as recipe

handled = itertools.count(1)
handle = recipe.handle

async def slower(client, own, event):
    if next(handled) == 13:
        print("in the middle", flush=True)
        await asyncio.Event().wait()
    return await handle(client, own, event)

recipe.handle = slower

async def main():
    async with coord.connect() as client:
        name = recipe.PREFIX + "/workers"
        some = client.partitioner(name, recipe.SHARDS, settle=0.05, ttl=2)
        async with some.run(functools.partial(recipe.work, client)):
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def effects(client: coord.Client) -> dict[str, str]:
    found = await client.get_prefix(f"{PREFIX}/customers/")
    return {each.key.decode().rpartition("/")[2]: each.value.decode() for each in found.items}


def test_a_shard_is_the_same_in_every_process() -> None:
    assert [shard_of(customer) for customer in ("ann", "bob", "eve")] == ["3", "0", "6"]


async def test_the_write_of_a_worker_that_lost_its_shard_changes_nothing() -> None:
    async with coord.connect("memory:") as client, workers(client).run() as some:
        async for owned in some.watch():
            if len(owned) == SHARDS:
                break
        own = some.owned()[shard_of("ann")]
        await put(client, "ann", "first")
        await put(client, "ann", "second")
        waiting = f"{PREFIX}/events/{own.partition}/"
        page = await client.get_prefix(waiting, sort_by=coord.SortBy.CREATE_REVISION)
        assert await handle(client, own, page.items[0])
        await client.delete(own.key)  # what a lease does when it ends
        assert not await handle(client, own, page.items[1])
        assert await effects(client) == {"ann": "first"}
        assert await client.count(waiting) == 1


@pytest.mark.processes
async def test_each_event_has_its_effect_once_when_a_worker_is_killed(
    coord_server: ServerProcess,
) -> None:
    async with coord.connect(coord_server.endpoint) as client:
        for number in range(4):
            for customer in CUSTOMERS:
                await put(client, customer, str(number))
        killed = start("-c", WORKER, endpoint=coord_server.endpoint)
        try:
            assert await asyncio.to_thread(line_of, killed) == "in the middle"
        finally:
            end(killed)
        begun = await effects(client)
        assert begun
        async with workers(client).run(partial(work, client)):
            await until_done(client)
        assert await effects(client) == dict.fromkeys(CUSTOMERS, "0 1 2 3")
