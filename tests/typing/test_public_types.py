"""What a type checker infers from the public API. Checked by mypy and pyright; nothing runs."""

from __future__ import annotations

from typing import assert_type

import coord
import coord.sync
from coord import compare, op


async def keys(client: coord.Client) -> None:
    assert_type(await client.put("k", b"v", lease=1, prev_kv=True, timeout=1), coord.PutResult)
    found = await client.get("k", revision=3)
    assert_type(found, coord.KeyValue | None)
    if found is not None:
        assert_type(found.value, bytes)
        assert_type(found.mod_revision, int)
    listed = await client.get_prefix("k", sort_by=coord.SortBy.VALUE, descending=True)
    assert_type(listed, coord.RangeResult)
    assert_type(listed.items, tuple[coord.KeyValue, ...])
    assert_type(await client.count("k"), int)
    assert_type(await client.delete("k"), coord.DeleteResult)
    assert_type(await client.compact(1), int)


async def transactions(client: coord.Client) -> None:
    assert_type(compare.version("k"), coord.Operand)
    assert_type(compare.version("k") == 0, coord.Compare)
    assert_type(compare.value("k") != "v", coord.Compare)
    assert_type(compare.version("k") <= 3, coord.Compare)
    assert_type(compare.missing("k"), coord.Compare)
    assert_type(op.put("k", "v"), coord.Op)
    built = client.txn().when(compare.lease("k") == 1).then(op.get("k")).otherwise()
    assert_type(built, coord.Txn)
    result = await built.commit()
    assert_type(result, coord.TxnResult)
    assert_type(result.succeeded, bool)
    assert_type(result.range(0), coord.RangeResult)


async def optimistic(client: coord.Client, grant: coord.MutexGrant) -> None:
    async def move(tx: coord.StmTxn) -> str:
        assert_type(await tx.get("k"), bytes | None)
        assert_type(await tx.range("k"), dict[bytes, bytes])
        assert_type(tx.revision("k"), int)
        tx.guard(grant)
        return "moved"

    done = await client.stm(move, isolation="serializable", prefetch=["k", b"l"])
    assert_type(done, coord.StmResult[str])
    assert_type(done.value, str)
    assert_type(done.revision, int)


async def many(client: coord.Client) -> None:
    async with client.batch() as batch:
        put = batch.put("k", "v")
        assert_type(put, coord.Pending[coord.PutResult])
        assert_type(await batch.get("k"), coord.KeyValue | None)
    assert_type(put.result(), coord.PutResult)
    async for page in client.pages("k"):
        assert_type(page, coord.RangeResult)
    async for pair in client.iterate(start="a", end="b"):
        assert_type(pair, coord.KeyValue)


def from_threads(client: coord.sync.Client, grant: coord.sync.MutexGrant) -> None:
    def move(tx: coord.sync.StmTxn) -> int:
        assert_type(tx.get("k"), bytes | None)
        tx.guard(grant)
        return 1

    assert_type(client.stm(move), coord.StmResult[int])
    with client.batch() as batch:
        put = batch.put("k", "v")
    assert_type(put.result(), coord.PutResult)
    for page in client.pages("k"):
        assert_type(page, coord.RangeResult)


async def watches(client: coord.Client) -> None:
    async with client.watch("k", filters=[coord.WatchFilter.NO_DELETE]) as watch:
        assert_type(watch, coord.Watch)
        async for event in watch:
            assert_type(event, coord.WatchEvent)
            assert_type(event.type, coord.EventType)
            assert_type(event.previous, coord.KeyValue | None)
        async for batch in watch.batches():
            assert_type(batch, coord.WatchBatch)
            assert_type(batch.events, tuple[coord.WatchEvent, ...])


async def leases(client: coord.Client) -> None:
    lease = await client.lease_grant(10)
    assert_type(lease, coord.LeaseGrant)
    assert_type(lease.id, int)
    assert_type(await client.lease_time_to_live(lease.id), coord.LeaseInfo)
    assert_type(await client.lease_keep_alive_once(lease.id), int)
    assert_type(await client.leases(), tuple[int, ...])


async def ways_in() -> None:
    assert_type(coord.connect(), coord.Connecting)
    assert_type(await coord.connect("host:2379", tls=coord.TlsConfig(ca="ca.pem")), coord.Client)
    async with coord.connect(["a:1", "b:1"], runtime="inline", transport="grpcio") as client:
        assert_type(client, coord.Client)
        assert_type(await client.members(), tuple[coord.Member, ...])
        assert_type(await client.status(), coord.MemberStatus)
        assert_type(client.after_fork(), coord.Connecting)


async def several(client: coord.Client) -> None:
    lock = client.multi_lock(["a", b"b"], detect_deadlocks=True)
    assert_type(lock, coord.MultiLock)
    assert_type(await lock.try_acquire(), coord.MultiLockGrant | None)
    async with lock.hold(timeout=5) as grant:
        assert_type(grant, coord.MultiLockGrant)
        assert_type(grant.guards(), tuple[coord.Compare, ...])
        assert_type(grant.names, tuple[bytes, ...])
    mutex = client.mutex("a", layout="single-key", lock_delay=1)
    assert_type(await mutex.holder(), coord.LineEntry | None)


def several_from_threads(client: coord.sync.Client) -> None:
    lock = client.multi_lock(["a", b"b"])
    assert_type(lock.try_acquire(), coord.sync.MultiLockGrant | None)
    with lock.hold(timeout=5) as grant:
        assert_type(grant, coord.sync.MultiLockGrant)
        assert_type(grant.guards(), tuple[coord.Compare, ...])
