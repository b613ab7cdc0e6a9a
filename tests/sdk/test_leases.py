"""Leases, on every store and carrier."""

from __future__ import annotations

import asyncio

import pytest

import coord


async def test_grant_attach_and_revoke(client: coord.Client, prefix: str) -> None:
    lease = await client.lease_grant(60)
    assert lease.ttl == 60
    assert lease.id == lease.lease_id > 0
    await client.put(prefix + "a", "x", lease=lease.id)
    await client.put(prefix + "b", "x", lease=lease.id)
    found = await client.get(prefix + "a")
    assert found is not None
    assert found.lease == lease.id
    info = await client.lease_time_to_live(lease.id, keys=True)
    assert info.granted == 60
    assert info.remaining is not None
    assert 50 < info.remaining <= 60
    assert sorted(info.keys) == [(prefix + n).encode() for n in "ab"]
    assert lease.id in await client.leases()
    before = (await client.get_prefix(prefix)).revision
    assert await client.lease_revoke(lease.id) == before + 1
    assert await client.count(prefix) == 0
    assert lease.id not in await client.leases()


async def test_ids_of_ones_own(client: coord.Client) -> None:
    lease = await client.lease_grant(60)
    with pytest.raises(coord.LeaseExists):
        await client.lease_grant(60, lease_id=lease.id)
    await client.lease_revoke(lease.id)
    again = await client.lease_grant(60, lease_id=lease.id)
    assert again.id == lease.id
    await client.lease_revoke(lease.id)


async def test_a_lease_that_is_not_there(client: coord.Client, prefix: str) -> None:
    with pytest.raises(coord.LeaseNotFound):
        await client.lease_revoke(12345)
    with pytest.raises(coord.LeaseNotFound):
        await client.lease_keep_alive_once(12345)
    with pytest.raises(coord.LeaseNotFound):
        await client.put(prefix, "x", lease=12345)
    info = await client.lease_time_to_live(12345)
    assert (info.remaining, info.granted, info.keys) == (None, 0, ())


async def test_keep_alive(client: coord.Client) -> None:
    lease = await client.lease_grant(60)
    assert await client.lease_keep_alive_once(lease.id) == 60
    await client.lease_revoke(lease.id)


async def test_a_put_moves_a_key_between_leases(client: coord.Client, prefix: str) -> None:
    one, two = await client.lease_grant(60), await client.lease_grant(60)
    await client.put(prefix, "x", lease=one.id)
    await client.put(prefix, "x", lease=two.id)
    await client.lease_revoke(one.id)
    assert await client.get(prefix) is not None
    await client.put(prefix, "x")
    await client.lease_revoke(two.id)
    assert await client.get(prefix) is not None


async def test_an_expired_lease_takes_its_keys_along(client: coord.Client, prefix: str) -> None:
    lease = await client.lease_grant(1)
    await client.put(prefix + "a", "x", lease=lease.id)
    await client.put(prefix + "b", "x", lease=lease.id)
    async with asyncio.timeout(30), client.watch(prefix, prefix=True) as watch:
        gone = [await anext(watch), await anext(watch)]
    assert [(e.type, e.key.decode()[-1]) for e in gone] == [(coord.EventType.DELETE, n) for n in "ab"]  # fmt: skip
    assert gone[0].revision == gone[1].revision
    assert (await client.lease_time_to_live(lease.id)).remaining is None
