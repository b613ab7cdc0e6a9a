"""kill -9 of the leader, of a majority, of all: what was acknowledged is there, and the cluster goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import coord
from coord.rpc.status import RpcError
from coord.testing.chaos import Cluster, MemberProcess, call, status_of, wait_until
from coord.wire import methods, rpc_pb2
from tests.cluster.load import writing

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


async def test_the_leader_is_killed_under_load(cluster: Cluster) -> None:
    async with writing(cluster.endpoints) as load:
        await load.more(100)
        leader = await cluster.leader()
        await leader.kill()
        await load.more(100)
        assert await cluster.leader() is not leader
        await leader.start()
        await load.more(50)
    await cluster.caught_up()
    await load.check(cluster.members.values())
    assert len(set((await cluster.hashes()).values())) == 1


async def test_a_majority_is_killed_and_comes_back(cluster: Cluster) -> None:
    async with writing(cluster.endpoints) as load:
        await load.more(50)
        leader = await cluster.leader()
        (one, other) = cluster.others(leader)
        await cluster.kill(leader.name, one.name)
        async with coord.connect(other.endpoint) as client:
            with pytest.raises((coord.Unavailable, coord.CoordTimeout, coord.AmbiguousResult)):
                await client.put("alone", "x", timeout=2)
            with pytest.raises((coord.Unavailable, coord.CoordTimeout)):
                await client.get("alone", timeout=2)
            assert await client.get("alone", serializable=True, timeout=5) is None
        await cluster.start(leader.name, one.name)
        await load.more(50)
    await cluster.caught_up()
    await load.check(cluster.members.values())


async def test_all_are_killed_at_once_and_come_back(cluster: Cluster) -> None:
    async with writing(cluster.endpoints) as load:
        for _ in range(3):
            await load.more(50)
            await cluster.kill()
            await cluster.start()
        await load.more(50)
    await cluster.caught_up()
    await load.check(cluster.members.values())
    assert len(set((await cluster.hashes()).values())) == 1


async def test_members_are_restarted_one_by_one_under_load(cluster: Cluster) -> None:
    async with writing(cluster.endpoints) as load:
        await load.more(50)
        for member in cluster.members.values():
            assert await member.stop() == 0
            await load.more(20)
            await member.start()
            await cluster.leader()
            await load.more(20)
    await cluster.caught_up()
    await load.check(cluster.members.values())
    for member in cluster.members.values():
        assert not [line for line in member.log_lines() if line["level"] in {"error", "fatal"}]


async def is_without_leader(member: MemberProcess) -> bool:
    return (await status_of(member.endpoint)).leader == 0


async def refusal(member: MemberProcess) -> str:
    with pytest.raises(RpcError) as caught:
        await call(member.endpoint, methods.KV_RANGE, rpc_pb2.RangeRequest(key=b"k"), timeout=20)
    return caught.value.message


async def test_a_member_without_a_quorum_stops_at_once(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    async with cluster.unstarted():
        alone = cluster["m1"]
        for _ in range(2):
            # The first time it has never been in a cluster that works, the second time it has.
            await alone.start(wait=False)
            await wait_until(
                lambda: alone.log_text().count("serving peer traffic") == alone.starts,
                what="it looks for the others",
                within=30,
            )
            assert not alone.is_ready
            assert await alone.stop(within=5) == 0
            await cluster.start()
            await cluster.stop()
        # And one that has lost the others, while it serves what it can.
        await cluster.start()
        await cluster.kill("m2", "m3")
        async with asyncio.TaskGroup() as group:
            await wait_until(lambda: is_without_leader(alone), what="it is alone", within=20)
            # A read that waits for the others does not hold it up.
            waiting = group.create_task(refusal(alone))
            await asyncio.sleep(0.5)
            assert await alone.stop(within=4) == 0
        assert waiting.result() == "etcdserver: server stopped"
        assert "Traceback" not in alone.log_text()
