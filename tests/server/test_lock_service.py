"""The Lock service over the wire (etcd API: Lock and Election services; gotchas 100-104, 124)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from coord.wire import kv_pb2, lock_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord_server.ops import OpKind
from tests.server.endpoint import Endpoint, error_of, serving


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving() as running:
        yield running


def acquire(endpoint: Endpoint, name: bytes, lease: int, **options: Any) -> Any:  # noqa: ANN401
    return endpoint.start(rpcs.LOCK_LOCK, lock_pb2.LockRequest(name=name, lease=lease), **options)


async def unlock(endpoint: Endpoint, key: bytes) -> lock_pb2.UnlockResponse:
    return await endpoint.call(rpcs.LOCK_UNLOCK, lock_pb2.UnlockRequest(key=key))


async def in_line(endpoint: Endpoint, name: bytes, count: int) -> list[bytes]:
    """Wait until so many keys are in line; return them."""
    watch = endpoint.watch()
    await watch.created(name + b"/", name + b"0")
    while len(keys := await endpoint.keys(name + b"/")) != count:
        await watch.response()
    watch.cancel()
    return keys


async def test_a_free_lock_is_taken_at_once(endpoint: Endpoint) -> None:  # 104
    await endpoint.put(b"a")
    await endpoint.put(b"ab")
    lease = await endpoint.grant(60)
    answer = await acquire(endpoint, b"a", lease)
    assert answer.key == b"a/%x" % lease
    assert answer.header.revision == 4
    assert answer.header.raft_term
    pair = (await endpoint.call(rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=answer.key))).kvs[0]
    assert (pair.lease, pair.value, pair.create_revision) == (lease, b"", 4)


async def test_a_name_may_end_with_a_slash_and_a_lease_be_negative(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60, -255)
    assert (await acquire(endpoint, b"a/", lease)).key == b"a//-ff"


async def test_the_same_lease_locks_again(endpoint: Endpoint) -> None:  # 100
    lease = await endpoint.grant(60)
    first = await acquire(endpoint, b"m", lease)
    second = await acquire(endpoint, b"m", lease)
    assert first.key == second.key
    await unlock(endpoint, first.key)
    assert await endpoint.keys(b"m/") == []


async def test_waiters_are_served_in_their_order(endpoint: Endpoint) -> None:
    leases = [await endpoint.grant(60) for _ in range(4)]
    owner = await acquire(endpoint, b"m", leases[0])
    waiting: list[asyncio.Future[Any]] = []
    for count, lease in enumerate(leases[1:], 2):
        waiting.append(asyncio.ensure_future(acquire(endpoint, b"m", lease)))
        await in_line(endpoint, b"m", count)
    for number, waiter in enumerate(waiting):
        assert [one.done() for one in waiting] == [True] * number + [False] * (3 - number)
        answer = await unlock(endpoint, owner.key)
        owner = await waiter
        assert owner.key == b"m/%x" % leases[number + 1]
        assert owner.header.revision >= answer.header.revision
    await unlock(endpoint, owner.key)
    assert await endpoint.keys(b"m/") == []


@pytest.mark.parametrize("compact", [False, True], ids=["kept", "compacted"])
async def test_an_owner_that_leaves_at_once_owned_until_then(
    endpoint: Endpoint, *, compact: bool
) -> None:
    first, second = await endpoint.grant(60), await endpoint.grant(60)
    owner = await acquire(endpoint, b"m", first)
    replica = endpoint.server._replica
    submit, has_left = replica.submit, asyncio.Event()

    async def slow(kind: OpKind, payload: bytes) -> bytes:
        answer: bytes = await submit(kind, payload)
        if kind == OpKind.TXN:
            await has_left.wait()
        return answer

    replica.submit = slow
    waiter = asyncio.ensure_future(acquire(endpoint, b"m", second))
    await in_line(endpoint, b"m", 2)
    left = await unlock(endpoint, owner.key)
    if compact:
        request = rpc_pb2.CompactionRequest(revision=left.header.revision)
        await endpoint.call(rpcs.KV_COMPACT, request)
    has_left.set()
    assert (await waiter).header.revision == left.header.revision


async def test_a_waiter_outlives_the_one_before_it(endpoint: Endpoint) -> None:  # 101
    leases = [await endpoint.grant(60) for _ in range(3)]
    owner = await acquire(endpoint, b"m", leases[0])
    middle = asyncio.ensure_future(acquire(endpoint, b"m", leases[1]))
    await in_line(endpoint, b"m", 2)
    last = asyncio.ensure_future(acquire(endpoint, b"m", leases[2]))
    await in_line(endpoint, b"m", 3)
    await endpoint.revoke(leases[1])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await middle
    assert error_of(caught.value) == ("UNKNOWN", "mutex: session is expired")
    assert await in_line(endpoint, b"m", 2)
    assert not last.done()
    await unlock(endpoint, owner.key)
    assert (await last).key == b"m/%x" % leases[2]


async def test_a_waiter_whose_lease_ends_never_owns(endpoint: Endpoint) -> None:  # 102
    first, second = await endpoint.grant(60), await endpoint.grant(10)
    owner = await acquire(endpoint, b"m", first)
    waiter = asyncio.ensure_future(acquire(endpoint, b"m", second))
    await in_line(endpoint, b"m", 2)
    endpoint.clock.jumped += 11
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await waiter  # told while the owner still holds it
    assert error_of(caught.value) == ("UNKNOWN", "mutex: session is expired")
    assert await endpoint.keys(b"m/") == [owner.key]


async def test_owner_and_waiter_that_go_together(endpoint: Endpoint) -> None:
    leases = [await endpoint.grant(60) for _ in range(3)]
    await acquire(endpoint, b"m", leases[0])
    waiters: list[asyncio.Future[Any]] = []
    for count, lease in enumerate(leases[1:], 2):
        waiters.append(asyncio.ensure_future(acquire(endpoint, b"m", lease)))
        await in_line(endpoint, b"m", count)
    keys = [b"m/%x" % lease for lease in leases[:2]]
    deletes = [
        rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key)) for key in keys
    ]
    await endpoint.call(rpcs.KV_TXN, rpc_pb2.TxnRequest(success=deletes))
    with pytest.raises(grpc.aio.AioRpcError):
        await waiters[0]
    assert (await waiters[1]).key == b"m/%x" % leases[2]


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_cancelled_waiter_leaves_no_key(endpoint: Endpoint, how: str) -> None:  # 103
    first, second = await endpoint.grant(60), await endpoint.grant(60)
    owner = await acquire(endpoint, b"m", first)
    watch = endpoint.watch()
    await watch.created(b"m/", b"m0")
    call = acquire(endpoint, b"m", second, timeout=0.05 if how == "deadline" else None)
    assert (await watch.response()).events[0].type == kv_pb2.Event.PUT
    if how == "cancel":
        call.cancel()
    gone = (await watch.response()).events[0]
    assert (gone.type, gone.kv.key) == (kv_pb2.Event.DELETE, b"m/%x" % second)
    assert await endpoint.keys(b"m/") == [owner.key]
    hub = endpoint.server._state.hub
    assert len(hub._groups) == 1  # the watch of this test
    assert await call.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_a_call_cancelled_while_it_enters_leaves_no_key(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    watch = endpoint.watch()
    await watch.created(b"m/", b"m0")
    replica = endpoint.server._replica
    entered = asyncio.Event()
    submit = replica.submit

    async def slow(kind: int, payload: bytes) -> bytes:
        answer: bytes = await submit(kind, payload)
        entered.set()
        while not replica.may_answer.is_set():
            await replica.may_answer.wait()
        return answer

    replica.may_answer = asyncio.Event()
    replica.submit = slow
    call = acquire(endpoint, b"m", lease)
    await entered.wait()
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    # A round trip later the server has heard of it.
    await endpoint.keys(b"m/")
    replica.may_answer.set()
    kinds = [(await watch.response()).events[0].type for _ in range(2)]
    assert kinds == [kv_pb2.Event.PUT, kv_pb2.Event.DELETE]


async def test_without_a_lease_the_lock_vanishes_after_a_minute(endpoint: Endpoint) -> None:
    answer = await acquire(endpoint, b"m", 0)
    name, _, lease = answer.key.partition(b"/")
    assert name == b"m"
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=int(lease, 16), keys=True)
    left = await endpoint.call(rpcs.LEASE_TIME_TO_LIVE, request)
    assert (left.grantedTTL, list(left.keys)) == (60, [answer.key])
    waiter = asyncio.ensure_future(acquire(endpoint, b"m", 0))
    await in_line(endpoint, b"m", 2)
    endpoint.clock.jumped += 30
    assert not waiter.done()
    await endpoint.revoke(int(lease, 16))
    assert (await waiter).key != answer.key


async def test_unlock_deletes_whatever_key(endpoint: Endpoint) -> None:
    revision = await endpoint.put(b"any")
    assert (await unlock(endpoint, b"any")).header.revision == revision + 1
    assert (await unlock(endpoint, b"any")).header.revision == revision + 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unlock(endpoint, b"")
    assert error_of(caught.value) == ("UNKNOWN", "etcdserver: key is not provided")


async def test_refusals_are_unknown_with_the_text(endpoint: Endpoint) -> None:  # 124
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await acquire(endpoint, b"m", 99)
    assert error_of(caught.value) == ("UNKNOWN", "etcdserver: requested lease not found")
    lease = await endpoint.grant(60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await acquire(endpoint, b"m" * 2_000_000, lease)
    assert error_of(caught.value) == ("UNKNOWN", "etcdserver: request is too large")
