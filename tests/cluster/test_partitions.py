"""Members that cannot reach each other, and members that hold still: no stale read, no lost write."""

from __future__ import annotations

import asyncio

import pytest

import coord
from coord.testing.chaos import Cluster, MemberProcess, status_of, wait_until
from coord.testing.chaos.links import HELD
from tests.cluster.load import writing

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]
NOBODY_SAYS = (coord.Unavailable, coord.CoordTimeout, coord.AmbiguousResult)


async def is_without_leader(member: MemberProcess) -> bool:
    return (await status_of(member.endpoint)).leader == 0


async def test_a_leader_that_is_cut_off_refuses_and_the_others_go_on(cluster: Cluster) -> None:
    leader = await cluster.leader()
    rest = cluster.others(leader)
    async with coord.connect(leader.endpoint) as alone, coord.connect(rest[0].endpoint) as others:
        await others.put("k", "before")
        cluster.links.partition([leader.name])
        new = await cluster.leader(among=rest)
        assert new in rest
        await others.put("k", "after", timeout=10)
        # Older than the partition, and known to be.
        with pytest.raises(NOBODY_SAYS):
            await alone.get("k", timeout=8)
        with pytest.raises(NOBODY_SAYS):
            await alone.put("lost", "x", timeout=8)
        await wait_until(
            lambda: is_without_leader(leader), what="the old leader steps down", within=10
        )
        stale = await alone.get("k", serializable=True)
        assert stale is not None
        assert stale.value == b"before"
        cluster.links.heal()
        assert await cluster.leader() in rest
        found = await alone.get("k", timeout=10)
        assert found is not None
        assert found.value == b"after"
    assert len(set((await cluster.hashes()).values())) == 1


async def test_no_acknowledged_write_is_lost_over_partitions(cluster: Cluster) -> None:
    async with writing(cluster.endpoints) as load:
        await load.more(50)
        for _ in range(2):
            leader = await cluster.leader()
            cluster.links.partition([leader.name])
            await cluster.leader(among=cluster.others(leader))
            await load.more(50, within=60)
            cluster.links.heal()
            await cluster.leader()
    await cluster.caught_up()
    await load.check(cluster.members.values())
    assert len(set((await cluster.hashes()).values())) == 1


async def test_one_direction_that_is_dead_does_not_stop_the_cluster(cluster: Cluster) -> None:
    leader = await cluster.leader()
    follower = cluster.others(leader)[0]
    async with writing(cluster.endpoints) as load:
        await load.more(20)
        cluster.links.set(leader.name, follower.name, HELD)
        await load.more(100, within=60)
        cluster.links.heal()
        await load.more(20, within=60)
    await cluster.caught_up()
    await load.check(cluster.members.values())


async def test_a_leader_that_held_still_gives_no_stale_answer(cluster: Cluster) -> None:
    leader = await cluster.leader()
    rest = cluster.others(leader)
    async with coord.connect(leader.endpoint) as paused, coord.connect(rest[0].endpoint) as others:
        grant = await others.lease_grant(2)
        await others.put("leased", "x", lease=grant.lease_id)
        await others.put("k", "old")
        assert await paused.get("k") is not None
        leader.pause()
        try:
            await cluster.leader(among=rest)
            await others.put("k", "new", timeout=10)
            # These wait in the socket of the process that holds still, and are the first that it sees.
            async with asyncio.TaskGroup() as group:
                read = group.create_task(value_of(paused, "k"))
                renewed = group.create_task(renewal(paused, grant.lease_id))
                await asyncio.sleep(3)
                await wait_until(
                    lambda: is_gone(others, "leased"), what="the lease is over", within=20
                )
                leader.resume()
        finally:
            if leader.is_running:
                leader.resume()
        assert read.result() in {b"new", None}
        assert renewed.result() is False
        assert await value_of(paused, "k") == b"new"
    assert await cluster.leader() in rest


async def value_of(client: coord.Client, key: str) -> bytes | None:
    """None: no answer."""
    try:
        found = await client.get(key, timeout=20)
    except NOBODY_SAYS:
        return None
    assert found is not None
    return found.value


async def renewal(client: coord.Client, lease_id: int) -> bool:
    try:
        return await client.lease_keep_alive_once(lease_id, timeout=20) > 0
    except coord.CoordError:
        return False


async def is_gone(client: coord.Client, key: str) -> bool:
    return await client.get(key, timeout=10) is None
