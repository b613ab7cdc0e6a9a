"""The Lease service over the wire, by rows of the API and gotchas 80-94 (etcd API: Lease)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from coord.wire import kv_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord_server.lease import MAX_TTL_S
from coord_server.replica import Replica
from tests.server.endpoint import Call, Endpoint, error_of, serving


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving() as running:
        yield running


async def refusal(
    endpoint: Endpoint, rpc: rpcs.Rpc[Any, Any], request: Message
) -> tuple[str, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await endpoint.call(rpc, request)
    return error_of(caught.value)


async def grant(endpoint: Endpoint, ttl: int, lease_id: int = 0) -> rpc_pb2.LeaseGrantResponse:
    request = rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease_id)
    return await endpoint.call(rpcs.LEASE_GRANT, request)


async def time_to_live(endpoint: Endpoint, lease_id: int) -> rpc_pb2.LeaseTimeToLiveResponse:
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=True)
    return await endpoint.call(rpcs.LEASE_TIME_TO_LIVE, request)


async def keep_alive(call: Call, lease_id: int) -> rpc_pb2.LeaseKeepAliveResponse:
    await call.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
    answer = await call.receive()
    assert isinstance(answer, rpc_pb2.LeaseKeepAliveResponse)
    return answer


@pytest.mark.parametrize(("asked", "granted"), [(0, 2), (-5, 2), (1, 2), (2, 2), (60, 60)])
async def test_grant(endpoint: Endpoint, asked: int, granted: int) -> None:  # 80
    answer = await grant(endpoint, asked)
    assert granted == answer.TTL
    assert answer.ID > 0
    assert not answer.error
    assert answer.header.revision == 1
    assert answer.header.member_id


async def test_ids_are_chosen_apart(endpoint: Endpoint) -> None:
    assert len({await endpoint.grant(60) for _ in range(20)}) == 20


@pytest.mark.parametrize("lease_id", [-1, -(2**63), 2**63 - 1, 7])  # 81, 91
async def test_given_ids(endpoint: Endpoint, lease_id: int) -> None:
    assert lease_id == (await grant(endpoint, 60, lease_id)).ID
    again = rpc_pb2.LeaseGrantRequest(TTL=60, ID=lease_id)
    assert await refusal(endpoint, rpcs.LEASE_GRANT, again) == (
        "FAILED_PRECONDITION",
        "etcdserver: lease already exists",
    )
    # The TTL is looked at first.
    again.TTL = MAX_TTL_S + 1
    assert await refusal(endpoint, rpcs.LEASE_GRANT, again) == (
        "OUT_OF_RANGE",
        "etcdserver: too large lease TTL",
    )
    await endpoint.put(b"k", lease=lease_id)
    assert await endpoint.revoke(lease_id) == 3


async def test_the_longest_ttl(endpoint: Endpoint) -> None:
    assert (await grant(endpoint, MAX_TTL_S)).TTL == MAX_TTL_S


async def test_three_signals_of_absence(endpoint: Endpoint) -> None:  # 82, 83, 94
    call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
    for missing in (99, 0, -3):
        answer = await keep_alive(call, missing)
        assert (missing, 0) == (answer.ID, answer.TTL)
        assert answer.header.revision == 1
    lease = await endpoint.grant(60)
    assert (await keep_alive(call, lease)).TTL == 60
    gone = await time_to_live(endpoint, 99)
    assert (gone.ID, gone.TTL, gone.grantedTTL, list(gone.keys)) == (99, -1, 0, [])
    assert await refusal(endpoint, rpcs.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=99)) == (
        "NOT_FOUND",
        "etcdserver: requested lease not found",
    )


async def test_keys_move_between_leases(endpoint: Endpoint) -> None:  # 85, 86, 87
    a, b = await endpoint.grant(60), await endpoint.grant(60)
    await endpoint.put(b"moved", lease=a)
    await endpoint.put(b"moved", lease=b)
    await endpoint.put(b"freed", lease=b)
    await endpoint.put(b"freed")
    assert list((await time_to_live(endpoint, b)).keys) == [b"moved"]
    assert await endpoint.revoke(a) == 5
    assert await endpoint.keys(b"moved") == [b"moved"]
    assert await endpoint.revoke(b) == 6
    assert await endpoint.keys(b"moved") == []
    assert await endpoint.keys(b"freed") == [b"freed"]


async def test_time_runs_and_renewals_reset_it(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    endpoint.clock.jumped += 20
    assert (await time_to_live(endpoint, lease)).TTL == 39
    call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
    assert (await keep_alive(call, lease)).TTL == 60
    answer = await time_to_live(endpoint, lease)
    assert (answer.TTL, answer.grantedTTL) == (59, 60)


async def test_leases_are_listed_by_remaining_time(endpoint: Endpoint) -> None:
    leases = [await endpoint.grant(ttl) for ttl in (90, 30, 60)]
    answer = await endpoint.call(rpcs.LEASE_LEASES, rpc_pb2.LeaseLeasesRequest())
    assert [status.ID for status in answer.leases] == [leases[1], leases[2], leases[0]]


async def test_an_expired_lease_takes_its_keys(endpoint: Endpoint) -> None:
    lease, other = await endpoint.grant(10), await endpoint.grant(60)
    for key in (b"b", b"a"):
        await endpoint.put(key, lease=lease)
    await endpoint.put(b"c", lease=other)
    watch = endpoint.watch()
    await watch.created(b"a", b"z")
    endpoint.clock.jumped += 11
    gone = await watch.response()
    assert [(e.type, e.kv.key) for e in gone.events] == [
        (kv_pb2.Event.DELETE, b"a"),
        (kv_pb2.Event.DELETE, b"b"),
    ]
    assert (await time_to_live(endpoint, lease)).TTL == -1
    assert (await time_to_live(endpoint, other)).TTL > 0


async def test_the_answer_for_an_expired_lease_waits_for_its_end(  # 92
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, other = await endpoint.grant(10), await endpoint.grant(60)
    await endpoint.put(b"k", lease=lease)
    held: list[tuple[Any, ...]] = []
    proposed = asyncio.Event()
    propose = Replica.propose

    def hold(*call: object) -> None:
        held.append(call)
        proposed.set()

    monkeypatch.setattr(Replica, "propose", hold)
    endpoint.clock.jumped += 11
    call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
    await call.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
    await call.send(rpc_pb2.LeaseKeepAliveRequest(ID=other))
    await call.half_close()
    first = asyncio.ensure_future(call.receive())
    await proposed.wait()
    # A whole round trip later nothing has come: both answers wait.
    assert (await time_to_live(endpoint, lease)).TTL <= 0
    assert not first.done()
    monkeypatch.undo()
    for call_held in held:
        propose(*call_held)
    answer = await first
    assert (lease, 0) == (answer.ID, answer.TTL)
    answer = await call.receive()
    assert (other, 60) == (answer.ID, answer.TTL)
    assert await call.ended()
    assert await endpoint.keys(b"k") == []


async def test_many_renewals_on_one_stream(endpoint: Endpoint) -> None:  # 83
    leases = [await endpoint.grant(60 + n) for n in range(3)]
    call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
    for _ in range(3):
        assert [(await keep_alive(call, lease)).TTL for lease in leases] == [60, 61, 62]
    # The same id with another TTL is another lease.
    await endpoint.revoke(leases[0])
    assert (await keep_alive(call, leases[0])).TTL == 0
    await endpoint.grant(90, leases[0])
    assert [(await keep_alive(call, lease)).TTL for lease in leases] == [90, 61, 62]
    odd = rpc_pb2.LeaseKeepAliveRequest.FromString(
        rpc_pb2.LeaseKeepAliveRequest(ID=leases[1]).SerializeToString() + b"\x7a\x03new"
    )
    await call.send(odd)
    assert (await call.receive()).TTL == 61


async def test_half_close_ends_the_stream(endpoint: Endpoint) -> None:
    call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
    lease = await endpoint.grant(60)
    assert (await keep_alive(call, lease)).TTL == 60
    await call.half_close()
    assert await call.ended()


async def test_a_member_that_does_not_lead_renews_nothing(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await endpoint.grant(60)
    endpoint.server._replica.lessor.demote()
    # It asks the leader, and gives up after a request's time, of which this test has not that much.
    monkeypatch.setattr(endpoint.server._primary, "_timeout_s", 0.2)
    texts: list[tuple[str, str | None]] = []
    for leader in (7, 0):
        monkeypatch.setattr(Replica, "leader_id", leader)
        call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await keep_alive(call, lease)
        texts.append(error_of(caught.value))
    assert texts == [
        ("UNAVAILABLE", "etcdserver: request timed out"),
        ("UNAVAILABLE", "etcdserver: no leader"),
    ]


@pytest.mark.parametrize(
    "rpc", [rpcs.LEASE_GRANT, rpcs.LEASE_REVOKE, rpcs.LEASE_TIME_TO_LIVE, rpcs.LEASE_LEASES]
)
async def test_bytes_that_are_no_request(endpoint: Endpoint, rpc: rpcs.Rpc[Any, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await endpoint.channel.unary_unary(rpc.path)(b"\xff")
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_broken_renewal_ends_its_stream(endpoint: Endpoint) -> None:
    call = endpoint.channel.stream_stream(rpcs.LEASE_KEEP_ALIVE.path)()
    await call.write(b"\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_primary_that_lags_makes_sure_before_it_says_that_a_lease_is_gone(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[Callable[[], None]] = []

    def when_readable(_: Replica, run: Callable[[], None], fail: object) -> None:
        waiting.append(run)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "lags", True)
        patch.setattr(Replica, "when_readable", when_readable)
        call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
        for lease_id in (99, 98):
            await call.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
        while not waiting:
            await asyncio.sleep(0.001)
    # Another member has applied the grant and told its client; here it comes only now.
    await grant(endpoint, 60, 99)
    assert len(waiting) == 1
    waiting[0]()
    answers = [await call.receive() for _ in range(2)]
    assert [(answer.ID, answer.TTL) for answer in answers] == [(99, 60), (98, 0)]
    await call.half_close()
