"""What aetcd offers, once through; prints what it sees. Arguments: host and port."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

# The package has no types.
aetcd: Any = importlib.import_module("aetcd")


def pair(kv: Any) -> object:  # noqa: ANN401
    if kv is None:
        return None
    return kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version


async def keys(client: Any) -> None:  # noqa: ANN401
    print("put", (await client.put(b"k/1", b"one")).header.revision)
    print("put", pair((await client.put(b"k/1", b"uno", prev_kv=True)).prev_kv))
    await client.put(b"k/2", b"two")
    print("get", pair(await client.get(b"k/1")), await client.get(b"missing"))
    print("prefix", [pair(kv) for kv in await client.get_prefix(b"k/")])
    order = {"sort_order": "descend", "sort_target": "value"}
    print("sorted", [pair(kv) for kv in await client.get_range(b"k/", b"k0", **order)])
    print("replace", await client.replace(b"k/2", b"two", b"dos"))
    print("replace", await client.replace(b"k/2", b"two", b"dos"))
    print("delete", pair((await client.delete(b"k/1", prev_kv=True)).prev_kv))
    print("delete", (await client.delete_prefix(b"k/")).deleted)


async def transactions(client: Any) -> None:  # noqa: ANN401
    of = client.transactions
    for _ in range(2):
        done, parts = await client.transaction(
            compare=[of.version(b"t") == 0],
            success=[of.put(b"t", b"new"), of.get(b"t")],
            failure=[of.get(b"t"), of.delete(b"t")],
        )
        # Only ranges come as lists; the rest are bare messages.
        found: list[list[Any]] = [part for part in parts if isinstance(part, list)]
        print("txn", done, [[pair(kv) for _, kv in part] for part in found])


async def watches(client: Any) -> None:  # noqa: ANN401
    await client.put(b"w/1", b"before")
    watch = await client.watch_prefix(b"w/", prev_kv=True)
    await client.put(b"w/1", b"after")
    await client.put(b"w/2", b"new")
    await client.delete(b"w/1")
    seen = 0
    async for event in watch:
        print("event", event.kind, pair(event.kv), pair(event.prev_kv))
        seen += 1
        if seen == 3:
            await watch.cancel()
            break


async def leases(client: Any) -> None:  # noqa: ANN401
    lease = await client.lease(600)
    await client.put(b"leased", b"v", lease=lease)
    print("lease", await lease.granted_ttl(), await lease.remaining_ttl() > 500, await lease.keys())
    print("refresh", [answer.TTL for answer in [await lease.refresh()]])
    await lease.revoke()
    print("revoked", await client.get(b"leased"))


async def locks(client: Any) -> None:  # noqa: ANN401
    first, second = client.lock(b"lock", ttl=600), client.lock(b"lock", ttl=600)
    print("lock", await first.acquire(), await first.is_acquired(), await second.is_acquired())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(second.acquire(timeout=30))
        print("release", await first.release())
    print("lock", waiting.result(), await second.is_acquired(), await second.release())


async def rest(client: Any) -> None:  # noqa: ANN401
    print("members", len([member async for member in client.members()]))
    print("leader", (await client.status()).leader is not None)
    await client.compact(5, physical=True)
    try:
        await client.compact(5)
    except Exception as error:  # noqa: BLE001 - whatever it makes of the refusal
        print("compact", type(error).__name__, str(error)[:60])


async def main() -> None:
    async with aetcd.Client(sys.argv[1], int(sys.argv[2]), timeout=30) as client:
        for part in (keys, transactions, watches, leases, locks, rest):
            await part(client)


asyncio.run(main())
