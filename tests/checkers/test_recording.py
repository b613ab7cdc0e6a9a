"""Outcomes are recorded as what they are: done, certainly not done, or unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest

import coord
from coord.rpc.status import StatusCode
from coord.testing.history import Call, Record, Recorder, Return, Status
from coord.testing.recording import RecordedClient, outcome_of, record_call
from coord.wire import rpc_pb2

FAILURES: list[tuple[BaseException, str, Status]] = [
    (coord.AmbiguousResult("Put", "reset"), "Put", "info"),
    (coord.CoordTimeout("Put", 1.0), "Put", "info"),
    (TimeoutError(), "Put", "info"),
    (asyncio.CancelledError(), "Put", "info"),
    (coord.ProtocolError("nonsense"), "Put", "info"),
    (OSError("what the client does not know"), "Put", "info"),
    (coord.Unavailable("refused"), "Put", "fail"),
    (coord.InvalidArgument("key"), "Put", "fail"),
    (coord.PermissionDenied("no"), "Put", "fail"),
    (coord.ClientClosed(), "Put", "fail"),
    (coord.Compacted("gone"), "Txn", "fail"),
    (coord.LeaseNotFound(StatusCode.NOT_FOUND, "gone"), "Put", "fail"),
    # The echo of an attempt that was done, perhaps.
    (coord.LeaseNotFound(StatusCode.NOT_FOUND, "gone"), "LeaseRevoke", "info"),
    (coord.LeaseExists(StatusCode.FAILED_PRECONDITION, "there"), "LeaseGrant", "info"),
]


@pytest.mark.parametrize(
    ("error", "op", "status"),
    FAILURES,
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
async def test_what_a_failure_says(error: BaseException, op: str, status: Status) -> None:
    assert outcome_of(error, op, writes=True) == status
    assert outcome_of(error, op, writes=False) == "fail"
    recorder = Recorder()

    async def send() -> rpc_pb2.PutResponse:
        raise error

    with pytest.raises(type(error)):
        await record_call(
            recorder, "c", op, rpc_pb2.PutRequest(key=b"k"), send, answer=lambda r: (r, True)
        )
    call, ret = recorder.records
    assert isinstance(call, Call)
    assert isinstance(ret, Return)
    assert (call.op, call.id, ret.id, ret.status) == (op, ret.id, call.id, status)
    assert type(error).__name__ in ret.error


async def test_another_client_classifies_for_itself() -> None:
    recorder = Recorder()

    async def send() -> rpc_pb2.PutResponse:
        raise KeyError("its own way to say no")

    with pytest.raises(KeyError):
        await record_call(
            recorder,
            "c",
            "Put",
            rpc_pb2.PutRequest(key=b"k"),
            send,
            answer=lambda r: (r, True),
            classify=lambda error, op: "fail",
        )
    assert [r.status for r in recorder.records if isinstance(r, Return)] == ["fail"]


def returns(records: Iterable[Record]) -> list[Return]:
    return [record for record in records if isinstance(record, Return)]


async def test_a_clients_calls_are_recorded_in_full() -> None:
    recorder = Recorder()
    async with coord.connect("memory:") as client:
        c = RecordedClient(client, recorder, "c")
        async with c.watch("k", prefix=True) as watch:
            put = await c.put("k", "1")
            assert await c.get("k") == (await client.get("k"))
            txn = c.txn().when(coord.compare.version("k") == 1)
            done = await txn.then(coord.op.put("k", "2"), coord.op.get("k")).commit()
            assert done.succeeded
            await c.delete("k", prev_kv=True)
            await c.delete("k")
            lease = await c.lease_grant(60)
            assert await c.lease_keep_alive_once(lease.id) == 60
            assert (await c.lease_time_to_live(lease.id)).granted == 60
            await c.lease_revoke(lease.id)
            await c.compact(put.revision)
            with pytest.raises(coord.Compacted):
                await c.get("k", revision=1)
            assert len(await watch.read_to(done.revision + 1, timeout=10)) == 3
    rets = returns(recorder.records)
    assert [ret.status for ret in rets] == ["ok"] * 10 + ["fail"]
    assert [ret.changed for ret in rets[:5]] == [True, False, True, True, False]
    shown = rpc_pb2.RangeResponse.FromString(rets[1].response)
    assert (shown.header.revision, shown.count, shown.kvs[0].value) == (put.revision, 1, b"1")
    answer = rpc_pb2.TxnResponse.FromString(rets[2].response)
    assert answer.responses[1].response_range.kvs[0].value == b"2"


async def test_a_watch_says_how_far_it_has_come() -> None:
    async with coord.connect("memory:") as client:
        c = RecordedClient(client, Recorder(), "c")
        async with c.witness() as watch:
            revision = (await c.put("k", "1")).revision
            await watch.read_to(revision, timeout=10)
            with pytest.raises(coord.CoordTimeout, match=f"reached {revision}"):
                await watch.read_to(revision + 1, timeout=0.01)
        with pytest.raises(RuntimeError, match="enter the watch"):
            await c.witness().read_to(1, timeout=1)


async def test_a_lost_lock_is_recorded_when_it_is_lost() -> None:
    recorder = Recorder()
    async with coord.connect("memory:") as client:
        c = RecordedClient(client, recorder, "c")
        async with client.session(ttl=10) as session:
            mutex = c.mutex("m", session=session)
            tenure = await mutex.acquire(timeout=5)
            with pytest.raises(coord.LockTimeout):
                await c.mutex("m").acquire(timeout=0.05)
            await mutex.mutex.break_lock(tenure.token, reason="test")
            await tenure.grant.lost.wait(timeout=10)
            while not any(getattr(r, "phase", "") == "lost" for r in recorder.records):
                await asyncio.sleep(0.01)
            assert not await tenure.release()
            assert not await tenure.release()
    phases = [getattr(record, "phase", "") for record in recorder.records]
    assert phases == ["call", "won", "call", "failed", "lost", "leave", "left"]


def test_records_are_values() -> None:
    call = Call(id=1, client="c", ts=1, op="Put", request=b"")
    assert replace(call, ts=2) != call
