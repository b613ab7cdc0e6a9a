"""Alarms: raised through the log, kept until disarmed, and what they forbid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc.aio
import pytest
from google.protobuf.message import Message

from coord.rpc.status import StatusCode
from coord.wire import fast, lock_pb2
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.alarms import Alarms
from coord_server.apply import Applier
from coord_server.errors import ErrorSpec
from coord_server.ops import OpKind, encode_batch
from coord_server.storage.backend import Bucket
from coord_server.storage.memory_backend import MemoryBackend
from tests.server.endpoint import Endpoint, serving

ACTIVATE, DEACTIVATE = pb.AlarmRequest.ACTIVATE, pb.AlarmRequest.DEACTIVATE
NOSPACE, CORRUPT = pb.NOSPACE, pb.CORRUPT


async def alarm(site: Endpoint, **fields: Any) -> list[tuple[int, int]]:  # noqa: ANN401 - of the message
    answer = await site.call(rpcs.MAINTENANCE_ALARM, pb.AlarmRequest(**fields))
    assert answer.header.member_id == site.server.member_id
    return [(member.memberID, member.alarm) for member in answer.alarms]


async def refusal(site: Endpoint, rpc: rpcs.Rpc[Any, Any], request: Message) -> tuple[int, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.call(rpc, request)
    return caught.value.code().value[0], str(caught.value.details())


def spec(error: ErrorSpec) -> tuple[int, str]:
    return error.code, error.message


async def test_alarms_are_a_set_of_member_and_type() -> None:
    async with serving() as site:
        assert await alarm(site) == []
        assert await alarm(site, action=ACTIVATE, memberID=123, alarm=NOSPACE) == [(123, NOSPACE)]
        assert await alarm(site, action=ACTIVATE, memberID=123, alarm=NOSPACE) == [(123, NOSPACE)]
        assert await alarm(site, action=ACTIVATE, memberID=0, alarm=CORRUPT) == [(0, CORRUPT)]
        assert await alarm(site, action=ACTIVATE, memberID=5, alarm=pb.NONE) == []
        assert sorted(await alarm(site)) == [(0, CORRUPT), (123, NOSPACE)]
        assert await alarm(site, alarm=NOSPACE, memberID=77) == [(123, NOSPACE)]
        # 0 is a member like any other, not all of them; what is not there is no error.
        assert await alarm(site, action=DEACTIVATE, memberID=0, alarm=NOSPACE) == []
        assert await alarm(site, action=DEACTIVATE, memberID=123, alarm=CORRUPT) == []
        status = await site.call(rpcs.MAINTENANCE_STATUS, pb.StatusRequest())
        # Text form of protobuf: a number that is 0 is not written.
        assert sorted(status.errors) == ["alarm:CORRUPT ", "memberID:123 alarm:NOSPACE "]
        assert await alarm(site, action=DEACTIVATE, memberID=123, alarm=NOSPACE) == [(123, NOSPACE)]
        assert await alarm(site) == [(0, CORRUPT)]


CHANGES: list[tuple[rpcs.Rpc[Any, Any], Message]] = [
    (rpcs.KV_PUT, pb.PutRequest(key=b"k")),
    (rpcs.LEASE_GRANT, pb.LeaseGrantRequest(ID=9, TTL=60)),
    (
        rpcs.KV_TXN,
        pb.TxnRequest(failure=[pb.RequestOp(request_put=pb.PutRequest(key=b"k"))]),
    ),
]
REMOVALS: list[tuple[rpcs.Rpc[Any, Any], Message]] = [
    (rpcs.KV_DELETE_RANGE, pb.DeleteRangeRequest(key=b"k")),
    (
        rpcs.KV_TXN,
        pb.TxnRequest(
            success=[pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"other"))]
        ),
    ),
    (rpcs.KV_COMPACT, pb.CompactionRequest(revision=2)),
    (rpcs.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=7)),
]
READS: list[tuple[rpcs.Rpc[Any, Any], Message]] = [
    (rpcs.KV_RANGE, pb.RangeRequest(key=b"k")),
    (
        rpcs.KV_TXN,
        pb.TxnRequest(success=[pb.RequestOp(request_range=pb.RangeRequest(key=b"k"))]),
    ),
    (rpcs.LEASE_TIME_TO_LIVE, pb.LeaseTimeToLiveRequest(ID=7)),
    (rpcs.MAINTENANCE_HASH_KV, pb.HashKVRequest()),
    (rpcs.MAINTENANCE_DEFRAGMENT, pb.DefragmentRequest()),
]


async def test_without_space_nothing_grows_and_everything_else_works() -> None:
    async with serving() as site:
        await site.put(b"k")
        await site.grant(60, 7)
        await alarm(site, action=ACTIVATE, memberID=1, alarm=NOSPACE)
        for rpc, request in CHANGES:
            assert await refusal(site, rpc, request) == spec(errors.NO_SPACE)
        # The alarm is asked after the shape, and the refusal takes no revision.
        assert await refusal(site, rpcs.KV_PUT, pb.PutRequest()) == spec(errors.EMPTY_KEY)
        for rpc, request in READS + REMOVALS:
            await site.call(rpc, request)
        await alarm(site, action=DEACTIVATE, memberID=1, alarm=NOSPACE)
        assert await site.put(b"k") == 4


async def test_a_corrupt_cluster_changes_nothing_and_still_reads() -> None:
    async with serving() as site:
        await site.put(b"k")
        await site.grant(60, 7)
        # Corrupt wins over both.
        await alarm(site, action=ACTIVATE, memberID=1, alarm=NOSPACE)
        await alarm(site, action=ACTIVATE, memberID=1, alarm=CORRUPT)
        for rpc, request in CHANGES + REMOVALS:
            assert await refusal(site, rpc, request) == spec(errors.CORRUPT)
        for rpc, request in READS:
            await site.call(rpc, request)
        call = site.stream(rpcs.LEASE_KEEP_ALIVE)
        await call.send(pb.LeaseKeepAliveRequest(ID=7))
        assert (await call.receive()).TTL == 60
        call.cancel()
        await alarm(site, action=DEACTIVATE, memberID=1, alarm=CORRUPT)
        assert await refusal(site, *CHANGES[0]) == spec(errors.NO_SPACE)


async def test_the_quota_raises_the_alarm_and_the_alarm_stays() -> None:
    async with serving(quota_backend_bytes=20_000) as site:
        me = site.server.member_id
        big = pb.PutRequest(key=b"k", value=bytes(20_000))
        assert await refusal(site, rpcs.KV_PUT, big) == spec(errors.NO_SPACE)
        # Whoever reads the refusal finds the alarm.
        assert await alarm(site) == [(me, NOSPACE)]
        small = pb.PutRequest(key=b"k")
        assert await refusal(site, rpcs.KV_PUT, small) == spec(errors.NO_SPACE)
        await alarm(site, action=DEACTIVATE, memberID=me, alarm=NOSPACE)
        await site.put(b"k")
        # The quota comes before the shape: this one would be refused for its key, too.
        nameless = pb.PutRequest(value=bytes(20_000))
        assert await refusal(site, rpcs.KV_PUT, nameless) == spec(errors.NO_SPACE)
        assert await alarm(site) == [(me, NOSPACE)]


def nested(*values: int, depth: int = 1) -> pb.TxnRequest:
    puts = [pb.PutRequest(key=b"%d" % n, value=bytes(size)) for n, size in enumerate(values)]
    request = pb.TxnRequest(success=[pb.RequestOp(request_put=put) for put in puts])
    for _ in range(depth):
        request = pb.TxnRequest(failure=[pb.RequestOp(request_txn=request)])
    return request


@pytest.mark.parametrize(
    ("rpc", "request_", "cost"),
    [
        (rpcs.KV_PUT, pb.PutRequest(key=b"kk", value=bytes(300)), 256 + 302),
        (rpcs.KV_TXN, nested(10, 20), 2 * 257 + 30),
        (rpcs.KV_TXN, nested(), 0),
        (rpcs.KV_TXN, pb.TxnRequest(success=nested(50).failure, failure=nested(9).failure), 307),
        (rpcs.LEASE_GRANT, pb.LeaseGrantRequest(ID=1, TTL=5), 64),
        (rpcs.KV_DELETE_RANGE, pb.DeleteRangeRequest(key=b"k"), 0),
    ],
    ids=["put", "txn", "empty txn", "both branches", "grant", "delete"],
)
async def test_what_a_request_costs(rpc: rpcs.Rpc[Any, Any], request_: Message, cost: int) -> None:
    async with serving() as site:
        room = site.server.context.room
        await site.server.context.replica.flush()
        # Memory that holds nothing takes no room. A tick in between would look again.
        room._quota_bytes = None
        if cost:
            room.left = cost
            assert await refusal(site, rpc, request_) == spec(errors.NO_SPACE)
            for member, kind in await alarm(site):
                await alarm(site, action=DEACTIVATE, memberID=member, alarm=kind)
        room.left = cost + 1
        await site.call(rpc, request_)
        assert await alarm(site) == []


async def test_locks_and_elections_ask_for_space_too() -> None:
    async with serving() as site:
        room = site.server.context.room
        room._quota_bytes, room.left = None, 100
        request = lock_pb2.LockRequest(name=b"l")
        # First there is room for the lease and none for the key, then for neither. The service tells
        # every error as UNKNOWN, with its text.
        for room.left in (100, 10):
            code, text = await refusal(site, rpcs.LOCK_LOCK, request)
            assert (code, text) == (StatusCode.UNKNOWN, errors.NO_SPACE.message)
        assert await alarm(site) == [(site.server.member_id, NOSPACE)]


# Applied and saved.


def apply(applier: Applier, *requests: tuple[OpKind, Message]) -> list[bytes | ErrorSpec]:
    ops = [(kind, request.SerializeToString()) for kind, request in requests]
    return applier.apply(applier.applied_index + 1, 1, encode_batch(ops), answers=True).results


def raised(member: int, kind: int, action: int = ACTIVATE) -> tuple[OpKind, Message]:
    return OpKind.ALARM, pb.AlarmRequest(
        action=pb.AlarmRequest.AlarmAction.ValueType(action),
        memberID=member,
        alarm=pb.AlarmType.ValueType(kind),
    )


def saved(applier: Applier, backend: MemoryBackend) -> list[tuple[bytes, bytes]]:
    batch = applier.take_batch()
    assert batch is not None
    backend.write(batch)
    applier.flushed()
    return list(backend.scan(Bucket.ALARM))


def test_alarms_survive_as_etcd_writes_them() -> None:
    backend = MemoryBackend()
    stamp = fast.HeaderStamp(1, 2)
    applier = Applier(backend, stamp)
    apply(applier, raised(1 << 63, NOSPACE), raised(4, CORRUPT), raised(4, CORRUPT, DEACTIVATE))
    member = pb.AlarmMember(memberID=1 << 63, alarm=NOSPACE)
    assert saved(applier, backend) == [(member.SerializeToString(), b"")]
    again = Applier(backend, stamp)
    put = (OpKind.PUT, pb.PutRequest(key=b"k"))
    assert apply(again, put) == [errors.NO_SPACE]
    assert again.store.revision == 1
    assert list(again.alarms.listed().alarms) == [member]
    # In one entry, each operation meets the alarms as those before it have left them.
    first, second, third = apply(again, raised(1 << 63, NOSPACE, DEACTIVATE), put, raised(3, 9))
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert isinstance(third, bytes)
    assert saved(again, backend) == [(b"\x08\x03\x10\x09", b"")]
    assert Applier(backend, stamp).alarms.names() == ["UNKNOWN"]


def test_expired_leases_wait_while_the_cluster_is_corrupt() -> None:
    applier = Applier(MemoryBackend(), fast.HeaderStamp(1, 2))
    apply(applier, (OpKind.LEASE_GRANT, pb.LeaseGrantRequest(ID=7, TTL=5)), raised(1, CORRUPT))
    expiry = (OpKind.LEASE_EXPIRE, pb.LeaseRevokeRequest(ID=7))
    checkpoint = (
        OpKind.LEASE_CHECKPOINT,
        pb.LeaseCheckpointRequest(checkpoints=[pb.LeaseCheckpoint(ID=7, remaining_TTL=3)]),
    )
    assert apply(applier, expiry) == [errors.CORRUPT]
    assert isinstance(apply(applier, checkpoint)[0], bytes)
    assert applier.lessor.exists(7)


def test_names_are_told_once() -> None:
    alarms = Alarms(())
    requests: Iterable[tuple[OpKind, Message]] = (
        raised(1, CORRUPT),
        raised(2, CORRUPT),
        raised(1, NOSPACE),
    )
    for _, request in requests:
        assert isinstance(request, pb.AlarmRequest)
        alarms.apply(request)
    assert alarms.names() == ["NOSPACE", "CORRUPT"]
    assert errors.CORRUPT.code == StatusCode.DATA_LOSS
