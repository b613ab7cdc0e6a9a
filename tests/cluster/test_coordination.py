"""Watches, leases, locks and elections through members that do not lead, and across members."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator

import grpc.aio
import pytest

import coord
from coord.testing.chaos import Cluster, call
from coord.wire import election_pb2, lock_pb2, methods, rpc_pb2

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@contextlib.asynccontextmanager
async def everywhere(cluster: Cluster) -> AsyncGenerator[list[coord.Client]]:
    """A client for each member, the leader's first."""
    leader = await cluster.leader()
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(coord.connect(member.endpoint))
            for member in (leader, *cluster.others(leader))
        ]


async def test_a_write_is_read_and_watched_on_every_member(cluster: Cluster) -> None:
    async with everywhere(cluster) as clients, contextlib.AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(client.watch("k/", prefix=True)) for client in clients
        ]
        for number in range(30):
            written = await clients[number % 3].put(f"k/{number}", str(number))
            found = await clients[(number + 1) % 3].get(f"k/{number}")
            assert found is not None
            assert (found.value, found.mod_revision) == (b"%d" % number, written.revision)
        for watch in watches:
            async with asyncio.timeout(20):
                seen = [await anext(watch) for _ in range(30)]
            assert [event.value for event in seen] == [b"%d" % n for n in range(30)]
            assert all(a.revision + 1 == b.revision for a, b in itertools.pairwise(seen))


async def test_leases_are_granted_renewed_and_asked_for_through_followers(
    cluster: Cluster,
) -> None:
    async with everywhere(cluster) as (leader, one, two):
        grant = await one.lease_grant(60)
        await two.put("leased", "x", lease=grant.lease_id)
        assert await one.lease_keep_alive_once(grant.lease_id) == 60
        for client in (leader, one, two):
            info = await client.lease_time_to_live(grant.lease_id, keys=True)
            assert info.granted == 60
            assert info.remaining is not None
            assert 0 < info.remaining <= 60
            assert [bytes(key) for key in info.keys] == [b"leased"]
            assert grant.lease_id in await client.leases()
        await two.lease_revoke(grant.lease_id)
        assert await one.get("leased") is None
        with pytest.raises(coord.LeaseNotFound):
            await one.put("leased", "y", lease=grant.lease_id)

        short = await one.lease_grant(1)
        await one.put("short", "x", lease=short.lease_id)
        async with asyncio.timeout(20):
            while await two.get("short") is not None:
                await asyncio.sleep(0.1)


async def test_a_lease_outlives_its_leader(cluster: Cluster) -> None:
    leader = await cluster.leader()
    other = cluster.others(leader)[0]
    async with coord.connect(other.endpoint) as client, client.session(ttl=5) as session:
        await client.put("mine", "x", lease=session.lease_id)
        await leader.kill()
        await cluster.leader(among=cluster.others(leader))
        # Longer than the lease would live unless the session renewed it at the new leader.
        await asyncio.sleep(7)
        session.check()
        assert await client.get("mine") is not None


async def test_the_sdk_locks_and_leads_across_members(cluster: Cluster) -> None:
    order: list[int] = []
    async with everywhere(cluster) as clients:

        async def work(client: coord.Client) -> None:
            for _ in range(4):
                async with client.mutex("jobs").hold(timeout=60) as grant:
                    order.append(grant.token)
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(work(client))
        assert order == sorted(set(order))
        assert len(order) == 12

        first = await clients[1].election("boss").campaign("one", timeout=20)
        waiting = asyncio.ensure_future(clients[2].election("boss").campaign("two", timeout=60))
        seen = await clients[0].election("boss").leader(timeout=20)
        assert seen.value == b"one"
        await first.release()
        second = await waiting
        assert second.token > first.token
        assert (await clients[1].election("boss").leader(timeout=20)).value == b"two"
        await second.release()


async def test_the_lock_service_keeps_its_line_across_members(cluster: Cluster) -> None:
    leader = await cluster.leader()
    one, two = cluster.others(leader)
    leases = [
        (await call(m.endpoint, methods.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(TTL=60))).ID
        for m in (one, two)
    ]
    request = lock_pb2.LockRequest(name=b"lock", lease=leases[0])
    held = await call(one.endpoint, methods.LOCK_LOCK, request, timeout=10)
    async with asyncio.TaskGroup() as group:
        other = lock_pb2.LockRequest(name=b"lock", lease=leases[1])
        waiting = group.create_task(call(two.endpoint, methods.LOCK_LOCK, other, timeout=30))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await call(leader.endpoint, methods.LOCK_UNLOCK, lock_pb2.UnlockRequest(key=held.key))
    assert waiting.result().key != held.key
    assert waiting.result().header.revision > held.header.revision


async def test_the_election_service_is_observed_on_another_member(cluster: Cluster) -> None:
    leader = await cluster.leader()
    one, two = cluster.others(leader)
    lease = (await call(one.endpoint, methods.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(TTL=60))).ID
    async with grpc.aio.insecure_channel(two.endpoint) as channel:
        observe = channel.unary_stream(
            methods.ELECTION_OBSERVE.path,
            request_serializer=election_pb2.LeaderRequest.SerializeToString,
            response_deserializer=election_pb2.LeaderResponse.FromString,
        )
        stream = observe(election_pb2.LeaderRequest(name=b"boss"), timeout=60)
        campaign = election_pb2.CampaignRequest(name=b"boss", lease=lease, value=b"one")
        won = await call(one.endpoint, methods.ELECTION_CAMPAIGN, campaign, timeout=10)
        assert value_of(await stream.read()) == b"one"
        proclaim = election_pb2.ProclaimRequest(leader=won.leader, value=b"again")
        await call(leader.endpoint, methods.ELECTION_PROCLAIM, proclaim)
        assert value_of(await stream.read()) == b"again"
        stream.cancel()


def value_of(answer: object) -> bytes:
    assert isinstance(answer, election_pb2.LeaderResponse)
    return answer.kv.value
