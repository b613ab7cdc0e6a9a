"""Members come and go: replaced with an empty disk, removed, added as learners, refused with an old id."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.message import Message

import coord
from coord.rpc.status import RpcError, StatusCode
from coord.testing.chaos import Cluster, call, change, status_of, wait_until
from coord.wire import methods, rpc_pb2
from coord.wire.methods import Rpc
from tests.cluster.load import writing
from tests.support.servers import get

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


async def settled(cluster: Cluster) -> None:
    """A change of voters is refused before all have been in touch for five seconds."""
    leader = await cluster.leader()

    async def adds() -> bool:
        # Refused for its URL, once it is not refused for the health of the cluster.
        request = rpc_pb2.MemberAddRequest(peerURLs=[leader.peer_url])
        try:
            await change(leader.endpoint, methods.CLUSTER_MEMBER_ADD, request)
        except RpcError as error:
            return "Peer URLs already exists" in error.message
        return False

    await wait_until(adds, what="the cluster may be changed", within=30, poll_s=0.2)


async def test_a_dead_member_is_replaced_and_watchers_on_the_new_one_miss_nothing(
    cluster: Cluster,
) -> None:
    leader = await cluster.leader()
    dead, alive = cluster.others(leader)
    async with writing(cluster.endpoints) as load:
        await load.more(100)
        await dead.kill()
        await load.more(20)
        await cluster.remove(dead, asked=leader)
        cluster.forget(dead)
        await settled(cluster)
        fresh = await cluster.add("m4", asked=alive)
        async with (
            coord.connect(fresh.endpoint) as client,
            client.watch("load/", prefix=True, start_revision=1) as events,
        ):
            await load.more(50)
            seen: dict[str, str] = {}
            last = 0
            async with asyncio.timeout(30):
                async for event in events:
                    assert event.revision > last
                    last = event.revision
                    seen[event.key.decode()] = event.value.decode()
                    if load.acked.keys() <= seen.keys():
                        break
    await cluster.caught_up()
    await load.check(cluster.members.values())
    assert len(set((await cluster.hashes()).values())) == 1


async def test_a_removed_member_says_so_and_ends(cluster: Cluster) -> None:
    leader = await cluster.leader()
    gone, other = cluster.others(leader)
    await settled(cluster)
    await cluster.remove(gone, asked=other)
    # A read there finds no leader: it is let go long before the request timeout of 7 s.
    with pytest.raises(RpcError):
        await call(gone.endpoint, methods.KV_RANGE, rpc_pb2.RangeRequest(key=b"k"), timeout=20)
    assert await gone.ended(within=5) == 0
    messages = [line["msg"] for line in gone.log_lines()]
    assert "the member has been permanently removed from the cluster" in messages
    assert "data-dir used by this member must be removed" in messages
    # Its data is of no use any more, and says so.
    await gone.start(wait=False)
    assert await gone.ended() in {0, 1}
    assert "permanently removed from the cluster" in gone.log_text()


async def test_a_leader_removes_itself(cluster: Cluster) -> None:
    await settled(cluster)
    leader = await cluster.leader()
    rest = cluster.others(leader)
    await cluster.remove(leader, asked=leader)
    assert await leader.ended() == 0
    cluster.forget(leader)
    assert await cluster.leader() in rest
    async with coord.connect(rest[0].endpoint) as client:
        await client.put("k", "v")


async def test_a_member_that_was_away_hears_of_its_removal_from_the_others(
    cluster: Cluster,
) -> None:
    leader = await cluster.leader()
    gone, _ = cluster.others(leader)
    await gone.kill()
    await cluster.remove(gone, asked=leader)
    await gone.start(wait=False)
    assert await gone.ended() == 0
    assert "the member has been permanently removed from the cluster" in gone.log_text()


@pytest.mark.parametrize("state", ["new", "existing"])
async def test_a_wiped_member_is_refused_with_its_old_id(cluster: Cluster, state: str) -> None:
    victim = cluster.others(await cluster.leader())[0]
    number = victim.member_id
    await victim.kill()
    victim.wipe()
    await victim.start(f"--initial-cluster-state={state}", wait=False)
    assert await victim.ended() == 1
    assert f"member {number:x} has already been bootstrapped" in victim.log_text()


async def test_a_learner_catches_up_answers_little_and_is_promoted(cluster: Cluster) -> None:
    leader = await cluster.leader()
    async with coord.connect(leader.endpoint) as client:
        await client.put("k", "v")
    await settled(cluster)
    learner = await cluster.add("m4", asked=leader, learner=True)
    assert (await status_of(learner.endpoint)).isLearner
    await cluster.caught_up()
    read = rpc_pb2.RangeRequest(key=b"k", serializable=True)
    answer = await call(learner.endpoint, methods.KV_RANGE, read)
    assert answer.kvs[0].value == b"v"
    refused: list[tuple[Rpc[Any, Any], Message]] = [
        (methods.KV_RANGE, rpc_pb2.RangeRequest(key=b"k")),
        (methods.KV_PUT, rpc_pb2.PutRequest(key=b"k")),
        (methods.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(TTL=5)),
        (methods.CLUSTER_MEMBER_LIST, rpc_pb2.MemberListRequest()),
        (methods.MAINTENANCE_HASH_KV, rpc_pb2.HashKVRequest()),
    ]
    for rpc, request in refused:
        with pytest.raises(RpcError, match="rpc not supported for learner") as caught:
            await call(learner.endpoint, rpc, request)
        assert caught.value.code == StatusCode.FAILED_PRECONDITION
    assert (await asyncio.to_thread(get, learner.client_url, "/readyz/non_learner"))[0] == 503
    second = rpc_pb2.MemberAddRequest(peerURLs=["http://127.0.0.1:1"], isLearner=True)
    with pytest.raises(RpcError, match="too many learner members in cluster"):
        await change(leader.endpoint, methods.CLUSTER_MEMBER_ADD, second)
    promote = rpc_pb2.MemberPromoteRequest(ID=learner.member_id)
    follower = cluster.others(leader, learner)[0]
    await change(follower.endpoint, methods.CLUSTER_MEMBER_PROMOTE, promote)
    await cluster.caught_up()
    assert not (await status_of(learner.endpoint)).isLearner
    assert (await asyncio.to_thread(get, learner.client_url, "/readyz/non_learner"))[0] == 200
    async with coord.connect(learner.endpoint) as client:
        await client.put("k", "w")
