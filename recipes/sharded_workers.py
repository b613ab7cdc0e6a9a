"""Events that are handled in order, by many workers, each event once.

Problem: what happens to one customer must be handled in the order in which it came, but there is too much for one
process. Workers come and go, and one of them may sleep just as it writes.

Guarantee: customers are divided into ``SHARDS``, and each shard has at most one owner, who handles its events in the
order in which they were put. An event is taken away in the same transaction that writes its effect, under the guard
of the ownership: so each event has its effect once, whoever dies or sleeps in between. While the group of workers does
not change, every shard has an owner.

On loss: ``work`` is cancelled; what it was about to commit is refused by the store, and the next owner begins with
that event. When a worker joins or leaves properly, shards change hands between two events.

Run it: ``python -m recipes.sharded_workers``.
"""

from __future__ import annotations

import asyncio
import zlib
from functools import partial
from uuid import uuid4

import coord

PREFIX = "recipes/sharded-workers"
SHARDS = 8
PAGE = 100


def shard_of(customer: str) -> str:
    """Return the shard of a customer; the same in every process, which ``hash()`` would not be."""
    return str(zlib.crc32(customer.encode()) % SHARDS)


async def put(client: coord.Client, customer: str, what: str) -> None:
    """Put an event; one customer's come in the order of these calls."""
    key = f"{PREFIX}/events/{shard_of(customer)}/{uuid4().hex}"
    await client.put(key, f"{customer} {what}")


async def work(client: coord.Client, own: coord.Ownership) -> None:
    """Handle the events of a shard for as long as it is ours; ends by being cancelled."""
    waiting = f"{PREFIX}/events/{own.partition}/"
    while not own.lost.is_set():
        page = await client.get_prefix(waiting, sort_by=coord.SortBy.CREATE_REVISION, limit=PAGE)
        for event in page.items:
            if not await handle(client, own, event):
                return
        if not page.items:
            after = page.revision + 1
            async with client.watch(waiting, prefix=True, start_revision=after) as changes:
                await anext(changes)


async def handle(client: coord.Client, own: coord.Ownership, event: coord.KeyValue) -> bool:
    """Write the effect of an event and take it away, both or nothing; False if the shard is somebody else's."""
    customer, _, what = event.value.decode().partition(" ")
    key = f"{PREFIX}/customers/{customer}"
    # Nobody but the owner of the shard writes here, so that what was read is still so, if we still are.
    before = await client.get(key)
    effect = what if before is None else f"{before.value.decode()} {what}"
    writes = coord.op.put(key, effect), coord.op.delete(event.key)
    return (await client.txn().when(own.guard()).then(*writes).commit()).succeeded


# -- a worker, and another one that comes and goes -----------------------------------------------------------------


def workers(client: coord.Client) -> coord.Partitioner:
    """Return one more worker; ``settle`` is really a second or more, so that a restart moves nothing."""
    return client.partitioner(f"{PREFIX}/workers", SHARDS, settle=0.1)


async def put_rounds(client: coord.Client, customers: list[str], rounds: range) -> None:
    for number in rounds:
        for customer in customers:
            await put(client, customer, str(number))


async def until_done(client: coord.Client) -> None:
    while await client.count(f"{PREFIX}/events/"):  # noqa: ASYNC110 - a person would look, too
        await asyncio.sleep(0.02)


async def main() -> None:
    customers = [f"customer-{number}" for number in range(10)]
    async with coord.connect() as client:
        await client.delete_prefix(f"{PREFIX}/")
        async with workers(client).run(partial(work, client)) as first:
            await put_rounds(client, customers, range(3))
            async with workers(client).run(partial(work, client)) as second:
                async for owned in second.watch():
                    if owned:
                        break
                await put_rounds(client, customers, range(3, 6))
                await until_done(client)
                print("both have shards:", bool(first.owned()) and bool(second.owned()))
            await put_rounds(client, customers, range(6, 9))
            await until_done(client)
        found = await client.get_prefix(f"{PREFIX}/customers/")
        effects = {each.value.decode() for each in found.items}
        print(len(found.items), "customers, all with", " and ".join(effects))


if __name__ == "__main__":
    asyncio.run(main())
