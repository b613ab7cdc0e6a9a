"""The Election service over the wire (etcd API: Lock and Election services; gotchas 105-109, 124)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from coord.wire import election_pb2, kv_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord_server.api import election
from tests.server.endpoint import Call, Endpoint, error_of, serving


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving() as running:
        yield running


def campaign(endpoint: Endpoint, lease: int, value: bytes, **options: Any) -> Any:  # noqa: ANN401
    request = election_pb2.CampaignRequest(name=b"e", lease=lease, value=value)
    return endpoint.start(rpcs.ELECTION_CAMPAIGN, request, **options)


async def proclaim(
    endpoint: Endpoint, leader: election_pb2.LeaderKey, value: bytes
) -> election_pb2.ProclaimResponse:
    request = election_pb2.ProclaimRequest(leader=leader, value=value)
    return await endpoint.call(rpcs.ELECTION_PROCLAIM, request)


async def resign(endpoint: Endpoint, leader: election_pb2.LeaderKey) -> election_pb2.ResignResponse:
    return await endpoint.call(rpcs.ELECTION_RESIGN, election_pb2.ResignRequest(leader=leader))


async def leader_of(endpoint: Endpoint) -> election_pb2.LeaderResponse:
    return await endpoint.call(rpcs.ELECTION_LEADER, election_pb2.LeaderRequest(name=b"e"))


async def entered(endpoint: Endpoint, count: int) -> None:
    watch = endpoint.watch()
    await watch.created(b"e/", b"e0")
    while len(await endpoint.keys(b"e/")) != count:
        await watch.response()
    watch.cancel()


async def refusal(call: Any) -> tuple[str, str | None]:  # noqa: ANN401
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


async def test_campaign_proclaim_resign(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    won = await campaign(endpoint, lease, b"1")
    assert won.header.revision == 2
    leader = won.leader
    assert (leader.name, leader.key, leader.rev, leader.lease) == (b"e", b"e/%x" % lease, 2, lease)
    told = await leader_of(endpoint)
    assert (told.kv.value, told.kv.create_revision, told.kv.lease) == (b"1", 2, lease)
    assert told.header.revision == 2
    assert (await proclaim(endpoint, leader, b"2")).header.revision == 3
    told = await leader_of(endpoint)
    assert (told.kv.value, told.kv.create_revision, told.kv.version) == (b"2", 2, 2)
    assert (await resign(endpoint, leader)).header.revision == 4
    assert (await resign(endpoint, leader)).header.revision == 4  # 109
    assert await refusal(leader_of(endpoint)) == ("UNKNOWN", "election: no leader")
    assert await refusal(proclaim(endpoint, leader, b"3")) == (
        "UNKNOWN",
        "election: not leader",
    )


async def test_candidates_lead_in_their_order(endpoint: Endpoint) -> None:
    leases = [await endpoint.grant(60) for _ in range(3)]
    first = await campaign(endpoint, leases[0], b"0")
    waiting: list[asyncio.Future[Any]] = []
    for number in (1, 2):
        waiting.append(asyncio.ensure_future(campaign(endpoint, leases[number], b"%d" % number)))
        await entered(endpoint, number + 1)
    assert not any(waiter.done() for waiter in waiting)
    # A candidate that waits may proclaim: its place does not change.
    second = election_pb2.LeaderKey(
        name=b"e", key=b"e/%x" % leases[1], rev=first.leader.rev + 1, lease=leases[1]
    )
    await proclaim(endpoint, second, b"one")
    await resign(endpoint, first.leader)
    won = await waiting[0]
    assert won.leader == second
    assert won.header.revision == second.rev
    assert (await leader_of(endpoint)).kv.value == b"one"
    await endpoint.revoke(leases[1])
    assert (await waiting[1]).leader.key == b"e/%x" % leases[2]


async def test_campaigning_again_proclaims(endpoint: Endpoint) -> None:  # 105, 106
    lease = await endpoint.grant(60)
    won = await campaign(endpoint, lease, b"1")
    again = await campaign(endpoint, lease, b"1")
    assert (again.leader, again.header.revision) == (won.leader, 2)
    again = await campaign(endpoint, lease, b"2")
    assert again.leader == won.leader
    told = await leader_of(endpoint)
    assert (told.kv.value, told.kv.create_revision, told.kv.mod_revision) == (b"2", 2, 3)


async def test_a_candidate_whose_lease_ends_never_leads(endpoint: Endpoint) -> None:
    first, second = await endpoint.grant(60), await endpoint.grant(60)
    await campaign(endpoint, first, b"1")
    waiter = asyncio.ensure_future(campaign(endpoint, second, b"2"))
    await entered(endpoint, 2)
    await endpoint.revoke(second)
    assert await refusal(waiter) == ("UNKNOWN", "election: session is expired")


async def test_a_cancelled_candidate_withdraws(endpoint: Endpoint) -> None:
    first, second = await endpoint.grant(60), await endpoint.grant(60)
    await campaign(endpoint, first, b"1")
    watch = endpoint.watch()
    await watch.created(b"e/", b"e0")
    call = campaign(endpoint, second, b"2")
    assert (await watch.response()).events[0].type == kv_pb2.Event.PUT
    call.cancel()
    assert (await watch.response()).events[0].type == kv_pb2.Event.DELETE
    assert (await leader_of(endpoint)).kv.value == b"1"


async def test_without_a_lease_one_is_granted(endpoint: Endpoint) -> None:
    won = await campaign(endpoint, 0, b"1")
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=won.leader.lease)
    left = await endpoint.call(rpcs.LEASE_TIME_TO_LIVE, request)
    assert left.grantedTTL == 60


async def test_without_a_lease_a_proclaimed_value_gets_one(endpoint: Endpoint) -> None:
    won = await campaign(endpoint, await endpoint.grant(60), b"1")
    won.leader.lease = 0
    await proclaim(endpoint, won.leader, b"2")
    told = (await leader_of(endpoint)).kv
    assert told.value == b"2"
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=told.lease, keys=True)
    left = await endpoint.call(rpcs.LEASE_TIME_TO_LIVE, request)
    assert (left.grantedTTL, list(left.keys)) == (60, [won.leader.key])


async def test_refusals(endpoint: Endpoint) -> None:  # 124
    missing = ("UNKNOWN", '"leader" field must be provided')
    empty = election_pb2.ProclaimRequest(value=b"v")
    assert await refusal(endpoint.call(rpcs.ELECTION_PROCLAIM, empty)) == missing
    nobody = election_pb2.ResignRequest()
    assert await refusal(endpoint.call(rpcs.ELECTION_RESIGN, nobody)) == missing
    nothing = election_pb2.LeaderKey(name=b"e", lease=99)
    no_key = ("UNKNOWN", "etcdserver: key is not provided")
    assert await refusal(proclaim(endpoint, nothing, b"v")) == no_key
    assert await refusal(resign(endpoint, nothing)) == no_key
    assert await refusal(campaign(endpoint, 99, b"v")) == (
        "UNKNOWN",
        "etcdserver: requested lease not found",
    )


def observe(endpoint: Endpoint) -> Call:
    multi: Any = endpoint.channel.unary_stream(
        rpcs.ELECTION_OBSERVE.path,
        request_serializer=election_pb2.LeaderRequest.SerializeToString,
        response_deserializer=election_pb2.LeaderResponse.FromString,
    )
    return Call(multi(election_pb2.LeaderRequest(name=b"e")))


async def test_observe(endpoint: Endpoint) -> None:  # 107, 108
    observer = observe(endpoint)
    leases = [await endpoint.grant(60) for _ in range(2)]
    first = await campaign(endpoint, leases[0], b"1")
    seen = await observer.receive()
    assert (seen.kv.value, seen.kv.version, seen.header.revision) == (b"1", 1, 2)
    waiter = asyncio.ensure_future(campaign(endpoint, leases[1], b"2"))
    await entered(endpoint, 2)
    await proclaim(endpoint, first.leader, b"1b")
    seen = await observer.receive()
    assert (seen.kv.value, seen.kv.version, seen.header.revision) == (b"1b", 2, 4)
    # The next leader's key is older than the last value that was seen.
    await resign(endpoint, first.leader)
    seen = await observer.receive()
    assert (seen.kv.value, seen.kv.key) == (b"2", b"e/%x" % leases[1])
    assert seen.header.revision == 5
    second = await waiter
    await endpoint.compact(5)
    late = observe(endpoint)
    assert (await late.receive()).kv == seen.kv
    await resign(endpoint, second.leader)
    third = await campaign(endpoint, leases[0], b"3")
    for one in (observer, late):
        seen = await one.receive()
        assert (seen.kv.value, seen.kv.create_revision) == (b"3", third.leader.rev)
        one.cancel()


async def test_an_observer_that_falls_behind_sees_the_newest(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election, "_OBSERVER_BACKLOG", 3)
    lease = await endpoint.grant(60)
    won = await campaign(endpoint, lease, b"0")
    observer = observe(endpoint)
    assert (await observer.receive()).kv.value == b"0"
    # More than a client's window and the stream's buffer: the server has to wait, and to forget.
    for number in range(1, 60):
        await proclaim(endpoint, won.leader, b"%d" % number + b"x" * 200_000)
    versions: list[int] = []
    while not versions or versions[-1] < 60:
        versions.append((await observer.receive()).kv.version)
    assert versions == sorted(set(versions))
    assert len(versions) < 59
    observer.cancel()


async def test_a_cancelled_observer_listens_no_more(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    await campaign(endpoint, lease, b"0")
    observer = observe(endpoint)
    await observer.receive()
    hub = endpoint.server._state.hub
    assert len(hub._groups) == 1
    observer.cancel()
    while len(hub._groups):
        await leader_of(endpoint)
