"""Gotchas 100-119: what recipes need of a store, done with the raw requests that their Go originals send."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coord.wire import election_pb2, lock_pb2
from coord.wire import methods as rpcs
from tests.server.endpoint import Endpoint
from tests.server.gotchas.place import (
    DELETE,
    PUT,
    Compare,
    Range,
    brief,
    delete_op,
    get,
    get_op,
    keys,
    pair,
    put,
    put_op,
    refused,
    txn,
)


def lock(endpoint: Endpoint, name: bytes, lease: int) -> Any:  # noqa: ANN401 - grpcio's call
    request = lock_pb2.LockRequest(name=name, lease=lease)
    return endpoint.start(rpcs.LOCK_LOCK, request)


async def unlock(endpoint: Endpoint, key: bytes) -> None:
    await endpoint.call(rpcs.LOCK_UNLOCK, lock_pb2.UnlockRequest(key=key))


async def campaign(endpoint: Endpoint, lease: int, value: bytes) -> election_pb2.CampaignResponse:
    request = election_pb2.CampaignRequest(name=b"e", lease=lease, value=value)
    return await endpoint.call(rpcs.ELECTION_CAMPAIGN, request)


async def leader(endpoint: Endpoint) -> election_pb2.LeaderResponse:
    return await endpoint.call(rpcs.ELECTION_LEADER, election_pb2.LeaderRequest(name=b"e"))


async def in_line(endpoint: Endpoint, name: bytes, count: int) -> None:
    """Return once so many are in line."""
    watch = endpoint.watch()
    await watch.created(name + b"/", name + b"0")
    while len(await endpoint.keys(name + b"/")) != count:
        await watch.response()
    watch.cancel()


def missing(key: bytes) -> Compare:
    return Compare(key=key, target=Compare.VERSION, version=0)


def unchanged(key: bytes, revision: int) -> Compare:
    return Compare(key=key, target=Compare.MOD, mod_revision=revision)


async def test_g100_a_session_locks_twice_and_unlocks_once(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    first, second = await lock(endpoint, b"m", lease), await lock(endpoint, b"m", lease)
    assert first.key == second.key == b"m/%x" % lease
    await unlock(endpoint, first.key)
    assert await endpoint.keys(b"m/") == []
    other = await endpoint.grant(60)
    assert (await lock(endpoint, b"m", other)).key == b"m/%x" % other


async def test_g102_a_waiter_without_a_session_never_owns(endpoint: Endpoint) -> None:
    first, second = await endpoint.grant(60), await endpoint.grant(60)
    owner = await lock(endpoint, b"m", first)
    waiter = asyncio.ensure_future(lock(endpoint, b"m", second))
    await in_line(endpoint, b"m", 2)
    await endpoint.revoke(second)
    await unlock(endpoint, owner.key)
    assert await refused(waiter) == ("UNKNOWN", "mutex: session is expired")
    assert await endpoint.keys(b"m/") == []


async def test_g104_neighbours_of_a_name_do_not_matter(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    for name in (b"a", b"ab", b"a0", b"a-", b"a.b"):
        await endpoint.put(name)
    assert (await lock(endpoint, b"a", lease)).key == b"a/%x" % lease
    request = election_pb2.CampaignRequest(name=b"ab", lease=lease, value=b"v")
    won = await endpoint.call(rpcs.ELECTION_CAMPAIGN, request)
    assert won.leader.key == b"ab/%x" % lease


async def test_g105_campaigning_again_proclaims(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    first, second = await campaign(endpoint, lease, b"1"), await campaign(endpoint, lease, b"2")
    assert first.leader == second.leader
    kv = (await leader(endpoint)).kv
    assert (kv.value, kv.version, kv.create_revision) == (b"2", 2, first.leader.rev)


async def test_g109_a_stale_resignation_does_nothing(endpoint: Endpoint) -> None:
    lease, other = await endpoint.grant(60), await endpoint.grant(60)
    stale = (await campaign(endpoint, lease, b"1")).leader

    async def resign(key: election_pb2.LeaderKey) -> None:
        await endpoint.call(rpcs.ELECTION_RESIGN, election_pb2.ResignRequest(leader=key))

    await resign(stale)
    won = await campaign(endpoint, lease, b"2")
    await resign(stale)  # of an earlier candidacy
    nobody = election_pb2.LeaderKey(name=b"e", key=b"e/%x" % other, rev=1, lease=other)
    await resign(nobody)
    assert (await leader(endpoint)).kv.value == b"2"
    await resign(won.leader)
    assert await refused(leader(endpoint)) == ("UNKNOWN", "election: no leader")


async def test_g110_a_barrier_is_one_key(endpoint: Endpoint) -> None:
    assert (await txn(endpoint, put_op(b"k", b""), when=[missing(b"k")])).succeeded
    assert not (await txn(endpoint, put_op(b"k", b""), when=[missing(b"k")])).succeeded
    await endpoint.put(b"k-0")
    watch = endpoint.watch()
    await watch.created(b"k")
    await endpoint.delete(b"k-0")
    revision = await endpoint.delete(b"k")
    assert brief(await watch.response()) == [(DELETE, b"k", revision)]
    assert (await get(endpoint, b"k")).count == 0


async def test_g111_the_surplus_client_sees_that_it_is_one(endpoint: Endpoint) -> None:
    # Two may enter. The third reads who came before it, and takes its own key away.
    async def enter(name: bytes) -> int:
        key = b"b/waiters/" + name
        entered = await txn(endpoint, put_op(key, b""), when=[missing(key)])
        return int(entered.header.revision)

    async def last_that_fits() -> int:
        order = Range.ASCEND
        line = await get(
            endpoint, b"b/waiters", b"b/waitert", sort_target=Range.CREATE, sort_order=order
        )
        return int(line.kvs[1].create_revision)

    await enter(b"z")
    second = await enter(b"a")
    assert await last_that_fits() == second
    surplus = await enter(b"m")
    assert await last_that_fits() == second < surplus
    await endpoint.delete(b"b/waiters/m")
    assert await endpoint.keys(b"b/waiters") == [b"b/waiters/a", b"b/waiters/z"]


async def test_g112_the_lease_of_a_waiter_ends_its_part_in_leaving(endpoint: Endpoint) -> None:
    leases = [await endpoint.grant(60) for _ in range(2)]
    for n, lease in enumerate(leases):
        await put(endpoint, b"b/waiters/%d" % n, b"", lease=lease)
    line = await get(endpoint, b"b/waiters", b"b/waitert")
    watch = endpoint.watch()
    await watch.created(line.kvs[1].key, start_revision=line.kvs[1].mod_revision)
    assert brief(await watch.response())[0][0] == PUT
    revision = await endpoint.revoke(leases[1])
    assert brief(await watch.response()) == [(DELETE, b"b/waiters/1", revision)]
    assert await endpoint.keys(b"b/waiters") == [b"b/waiters/0"]


async def test_g113_equal_priorities_are_served_by_sequence(endpoint: Endpoint) -> None:
    async def enqueue(priority: int, value: bytes) -> None:
        prefix = b"q/%05d" % priority
        last = await get(endpoint, prefix, prefix + b"\xff", limit=1, sort_order=Range.DESCEND)
        sequence = int(last.kvs[0].key.rpartition(b"/")[2]) + 1 if last.kvs else 0
        guard = Compare(
            key=b"__" + prefix,
            target=Compare.MOD,
            result=Compare.LESS,
            mod_revision=last.header.revision + 1,
        )
        item = put_op(prefix + b"/%016d" % sequence, value)
        assert (await txn(endpoint, put_op(b"__" + prefix, b""), item, when=[guard])).succeeded

    for priority, value in ((7, b"c"), (3, b"a"), (7, b"d"), (100, b"e"), (3, b"b")):
        await enqueue(priority, value)
    taken: list[bytes] = []
    while (first := await get(endpoint, b"q/", b"q0", limit=1)).kvs:
        kv = first.kvs[0]
        assert (
            await txn(endpoint, delete_op(kv.key), when=[unchanged(kv.key, kv.mod_revision)])
        ).succeeded
        taken.append(kv.value)
    assert taken == [b"a", b"b", b"c", b"d", b"e"]


async def test_g113_two_that_enqueue_at_once_do_not_get_one_sequence(endpoint: Endpoint) -> None:
    seen = (await get(endpoint, b"q/00001", b"q/00002")).header.revision
    guard = Compare(
        key=b"__q/00001", target=Compare.MOD, result=Compare.LESS, mod_revision=seen + 1
    )
    ops = [put_op(b"__q/00001", b""), put_op(b"q/00001/0000000000000000", b"v")]
    outcomes = [(await txn(endpoint, *ops, when=[guard])).succeeded for _ in range(2)]
    assert outcomes == [True, False]


async def test_g114_a_queue_sees_the_items_of_a_longer_name(endpoint: Endpoint) -> None:
    await endpoint.put(b"q2/100", b"theirs")
    await endpoint.put(b"q/200", b"ours")
    first = await get(endpoint, b"q", b"r", limit=1, sort_target=Range.MOD, sort_order=Range.ASCEND)
    assert first.kvs[0].value == b"theirs"
    assert keys(await get(endpoint, b"q/", b"q0")) == [b"q/200"]


async def test_g115_a_deletion_of_what_was_read_is_a_conflict(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    guard = unchanged(b"k", (await pair(endpoint, b"k")).mod_revision)
    await endpoint.delete(b"k")
    assert not (await txn(endpoint, put_op(b"k"), when=[guard])).succeeded
    assert (await get(endpoint, b"k")).count == 0
    # And of what was not there, its creation.
    absent = unchanged(b"k", 0)
    await endpoint.put(b"k")
    assert not (await txn(endpoint, put_op(b"k", b"mine"), when=[absent])).succeeded


async def test_g116_a_blind_write_after_a_commit_succeeds(endpoint: Endpoint) -> None:
    # With nothing read the guard of a written key is "before the end of all revisions".
    blind = Compare(key=b"k", target=Compare.MOD, result=Compare.LESS, mod_revision=2**63 - 1)
    for n in range(3):
        answer = await txn(endpoint, put_op(b"k", b"%d" % n), when=[blind])
        assert answer.succeeded
    # With a read, it is "not after the revision that was read".
    read = await txn(endpoint, get_op(b"other"))
    pinned = read.responses[0].response_range.header.revision
    guard = Compare(key=b"k", target=Compare.MOD, result=Compare.LESS, mod_revision=pinned + 1)
    assert (await txn(endpoint, put_op(b"k"), when=[guard])).succeeded
    assert not (await txn(endpoint, put_op(b"k"), when=[guard])).succeeded


@pytest.mark.parametrize("kind", [PUT, DELETE])
async def test_g119_one_update_of_endpoints_is_one_batch(endpoint: Endpoint, kind: int) -> None:
    names = [b"svc/a", b"svc/b"]
    if kind == DELETE:
        for name in names:
            await endpoint.put(name)
    watch = endpoint.watch()
    await watch.created(b"svc/", b"svc0")
    ops = [put_op(name) if kind == PUT else delete_op(name) for name in names]
    revision = (await txn(endpoint, *ops)).header.revision
    assert brief(await watch.response()) == [(kind, name, revision) for name in names]
