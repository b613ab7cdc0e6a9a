"""The replica's loop: durable before answered, one entry per turn, bounds, timeouts, silence after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest
from typing_extensions import override

from coord.rpc.status import RpcError, StatusCode
from coord.runtime import InvariantViolation
from coord.wire import rpc_pb2
from coord_server import errors
from coord_server.errors import ErrorSpec
from coord_server.mvcc.hub import Sink, Watcher
from coord_server.ops import OpKind
from coord_server.peers import NoPeers
from coord_server.raft import Persist
from coord_server.replica_bounds import ReplicaBounds
from coord_server.storage.backend import Batch
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import CrashMode, MemoryDisk
from tests.server.member import Answers, Member, Timing, image_of, server_env

if TYPE_CHECKING:
    from coord_server.env import ServerEnv

T = TypeVar("T")

HOUR = 3600.0


def put(key: bytes, value: bytes = b"v") -> bytes:
    return rpc_pb2.PutRequest(key=key, value=value).SerializeToString()


def revision(answer: bytes | tuple[int, str]) -> int:
    assert isinstance(answer, bytes)
    return rpc_pb2.PutResponse.FromString(answer).header.revision


def refused(spec: ErrorSpec) -> tuple[int, str]:
    return int(spec.code), spec.message


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Later:
    """An Offload whose work is done when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[asyncio.Future[None], Callable[[], None]]] = []
        self.most = 0

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        results: list[T] = []
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((future, lambda: results.append(fn(*args))))
        self.most = max(self.most, len(self.waiting))
        await future
        return results[0]

    async def finish(self) -> None:
        """Do the oldest piece of work."""
        future, work = self.waiting.pop(0)
        try:
            work()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)
        else:
            future.set_result(None)
        await turns()


class Noting(NoPeers):
    """Notes when what was sent is to leave."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    @override
    def flush(self) -> None:
        self.order.append("flush")


def env_with(disk: MemoryDisk, offload: Later) -> ServerEnv:
    env = server_env(disk)
    return type(env)(clock=env.clock, net=env.net, rand=env.rand, offload=offload, disk=disk)


async def started(disk: MemoryDisk | None = None, **bounds: float) -> Member:
    member = Member(
        disk if disk is not None else MemoryDisk(),
        bounds=ReplicaBounds(**{"tick_s": HOUR, **bounds}),  # type: ignore[arg-type]
    )
    await member.replica.start()
    return member


def slow_writes(disk: MemoryDisk, offload: Later) -> Member:
    """A member whose log writes always go aside."""
    return Member(
        disk,
        env=env_with(disk, offload),
        bounds=ReplicaBounds(tick_s=HOUR, inline_sync_s=0.0, flush_ops=1_000_000),
    )


async def test_a_started_member_leads_and_answers() -> None:
    member = await started()
    replica = member.replica
    assert replica.is_leader
    assert replica.read_ready()
    assert (replica.term, replica.leader_id, replica.member_id) == (1, 7, 7)
    assert replica.applied_index == replica.committed_index == 1
    assert revision(await replica.submit(OpKind.PUT, put(b"a"))) == 2
    assert replica.applied_index == 2
    assert replica.sync_average_s > 0
    await member.stop()


async def test_what_waits_in_a_turn_is_one_entry_with_one_write() -> None:
    disk = MemoryDisk()
    member = await started(disk)
    syncs = 0

    def count(operation: str, path: str) -> None:
        nonlocal syncs
        syncs += operation == "fsync" and "/wal/" in path

    disk.on_step = count
    answers = Answers()
    for n in range(50):
        member.replica.propose(OpKind.PUT, put(b"%d" % n), answers, n)
    assert answers.given == {}
    await turns()
    assert [revision(answers.given[n]) for n in range(50)] == list(range(2, 52))
    assert (syncs, member.replica.applied_index) == (1, 2)
    await member.stop()


async def test_messages_leave_before_the_disk_is_waited_for() -> None:
    disk = MemoryDisk()
    member = await started(disk)
    order: list[str] = []

    def note(operation: str, path: str) -> None:
        if operation == "fsync" and "/wal/" in path:
            order.append("sync")

    disk.on_step = note
    member.replica._writer._peers = Noting(order)
    await member.replica.submit(OpKind.PUT, put(b"a"))
    await member.replica.submit(OpKind.PUT, put(b"b"))
    assert order == ["flush", "sync"] * 2
    await member.stop()


async def test_large_batches_are_split_in_order() -> None:
    member = await started(max_batch_ops=10, max_batch_bytes=500)
    answers = Answers()
    for n in range(25):
        member.replica.propose(OpKind.PUT, put(b"%d" % n), answers, n)
    member.replica.propose(OpKind.PUT, put(b"big", b"x" * 2000), answers, 25)
    member.replica.propose(OpKind.PUT, put(b"more", b"x" * 300), answers, 26)
    member.replica.propose(OpKind.PUT, put(b"more", b"x" * 300), answers, 27)
    await turns(20)
    assert [revision(answers.given[n]) for n in range(28)] == list(range(2, 30))
    assert member.replica.applied_index == 1 + 3 + 3
    await member.stop()


async def test_nothing_is_answered_or_delivered_before_it_is_durable() -> None:
    disk, offload = MemoryDisk(), Later()
    member = slow_writes(disk, offload)
    starting = asyncio.ensure_future(member.replica.start())
    await turns()
    while not starting.done():
        await offload.finish()
    delivered: list[bytes] = []

    def deliver(messages: list[bytes]) -> bool:
        delivered.extend(messages)
        return True

    member.hub.add(Watcher(Sink(deliver), 0, b"a", b""), 2)
    answers = Answers()
    member.replica.propose(OpKind.PUT, put(b"a"), answers, 1)
    await turns()
    assert len(offload.waiting) == 1
    for mode in CrashMode:  # nothing of it is on the disk
        assert len(Member(image_of(disk, mode, 0)).recovered.entries) == 1
    member.replica.propose(OpKind.PUT, put(b"a"), answers, 2)
    member.replica.propose(OpKind.PUT, put(b"b"), answers, 3)
    await turns()
    assert (answers.given, delivered) == ({}, [])
    assert len(offload.waiting) == 1  # one write at a time; the rest forms the next batch
    await offload.finish()
    assert list(answers.given) == [1]
    assert len(delivered) == 1
    await offload.finish()
    assert list(answers.given) == [1, 2, 3]
    assert len(delivered) == 2
    assert offload.most == 1
    stopping = asyncio.ensure_future(member.replica.stop())
    await turns()
    await offload.finish()
    await stopping


async def test_writes_go_aside_while_the_disk_is_slow_and_back_when_it_is_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    member = await started()
    writer = member.replica._writer
    offloaded = 0
    run = writer._offload.run

    async def counted(fn: Callable[..., T], *args: object) -> T:
        nonlocal offloaded
        offloaded += 1
        return await run(fn, *args)

    append = writer._append

    def quick(persist: Persist) -> float:
        append(persist)
        return 0.0001  # whatever this machine is busy with

    writer._offload.run = counted  # type: ignore[method-assign]
    monkeypatch.setattr(writer, "_append", quick)
    limit_s = ReplicaBounds().inline_sync_s
    writer.average_s = 2 * limit_s
    for n in range(30):
        await member.replica.submit(OpKind.PUT, put(b"%d" % n))
    assert 0 < offloaded < 30
    assert writer.average_s < limit_s
    await member.stop()


async def test_refusals_of_apply_are_answers() -> None:
    member = await started()
    with pytest.raises(RpcError) as caught:
        await member.replica.submit(
            OpKind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=5).SerializeToString()
        )
    assert (caught.value.code, caught.value.message) == (
        errors.LEASE_NOT_FOUND.code,
        errors.LEASE_NOT_FOUND.message,
    )
    assert member.fatal == []
    await member.stop()


async def test_a_full_queue_refuses() -> None:
    member = await started(max_queued_ops=3)
    answers = Answers()
    for n in range(5):
        member.replica.propose(OpKind.PUT, put(b"%d" % n), answers, n)
    assert answers.given == {n: refused(errors.TOO_MANY_REQUESTS) for n in (3, 4)}
    await turns()
    assert len(answers.given) == 5
    await member.stop()


async def test_proposals_that_never_commit_time_out() -> None:
    disk, offload = MemoryDisk(), Later()
    member = slow_writes(disk, offload)
    starting = asyncio.ensure_future(member.replica.start())
    await turns()
    while not starting.done():
        await offload.finish()
    answers = Answers()
    member.replica.propose(OpKind.PUT, put(b"written"), answers, 1)
    await turns()
    member.replica.propose(OpKind.PUT, put(b"queued"), answers, 2)
    for _ in range(69):
        member.replica._tick()
    member.replica.propose(OpKind.PUT, put(b"young"), answers, 3)
    assert answers.given == {}
    member.replica._tick()
    assert answers.given == {n: refused(errors.TIMEOUT) for n in (1, 2)}
    while offload.waiting:
        await offload.finish()
    assert sorted(answers.given) == [1, 2, 3]
    store = member.applier.store
    # The one in the log was applied after all; the one in the queue certainly was not.
    assert store.get(b"written") is not None
    assert store.get(b"queued") is None
    assert store.get(b"young") is not None


async def test_stop_refuses_what_waits_and_finishes_what_is_written() -> None:
    disk, offload = MemoryDisk(), Later()
    member = slow_writes(disk, offload)
    starting = asyncio.ensure_future(member.replica.start())
    await turns()
    while not starting.done():
        await offload.finish()
    answers = Answers()
    member.replica.propose(OpKind.PUT, put(b"written"), answers, 1)
    await turns()
    member.replica.propose(OpKind.PUT, put(b"queued"), answers, 2)
    stopping = asyncio.ensure_future(member.replica.stop())
    await turns()
    assert answers.given == {2: refused(errors.STOPPED)}
    member.replica.propose(OpKind.PUT, put(b"late"), answers, 3)
    assert answers.given[3] == refused(errors.STOPPED)
    assert errors.STOPPED.code is StatusCode.UNAVAILABLE
    while not stopping.done():
        await offload.finish()
    assert revision(answers.given[1]) == 2
    await member.replica.stop()
    again = Member(image_of(disk, CrashMode.NONE, 0))
    assert again.applier.store.get(b"written") is not None  # flushed, no replay needed


async def test_a_hanging_disk_does_not_hold_up_a_stop_for_ever() -> None:
    disk, offload = MemoryDisk(), Later()
    member = Member(
        disk,
        env=env_with(disk, offload),
        bounds=ReplicaBounds(tick_s=HOUR, inline_sync_s=0.0),
        timing=Timing(request_timeout_s=0.05),
    )
    starting = asyncio.ensure_future(member.replica.start())
    await turns()
    while not starting.done():
        await offload.finish()
    answers = Answers()
    member.replica.propose(OpKind.PUT, put(b"a"), answers, 1)
    await turns()
    await member.replica.stop()
    assert answers.given == {1: refused(errors.STOPPED)}


@pytest.mark.parametrize("slow", [False, True])
async def test_a_failed_sync_silences_the_node(*, slow: bool) -> None:
    disk = MemoryDisk()
    member = await started(disk, inline_sync_s=0.0 if slow else 1.0)
    disk.fail_next_sync()
    answers = Answers()
    failed: list[object] = []
    for n in range(3):
        member.replica.propose(OpKind.PUT, put(b"%d" % n), answers, n)
    await turns()
    member.replica.propose(OpKind.PUT, put(b"late"), answers, 9)
    member.replica.when_readable(lambda: failed.append("ran"), failed.append)
    await turns()
    assert answers.given == {}
    assert failed == []
    assert not member.replica.read_ready()
    assert [type(error) for error in member.fatal] == [OSError]
    writes_before = disk.unsynced
    await member.replica.stop()
    assert answers.given == {}
    assert disk.unsynced == writes_before


class BrokenBackend(MemoryBackend):
    """A backend whose device has failed."""

    broken = False

    @override
    def write(self, batch: Batch) -> None:
        if self.broken:
            raise OSError(5, "backend failed")
        super().write(batch)


async def test_a_failed_flush_silences_the_node() -> None:
    disk, backend = MemoryDisk(), BrokenBackend()
    member = Member(disk, backend=backend)
    await member.replica.start()
    await member.replica.submit(OpKind.PUT, put(b"a"))
    backend.broken = True
    member.replica._tick()
    await turns()
    assert [str(error) for error in member.fatal] == ["[Errno 5] backend failed"]
    answers = Answers()
    member.replica.propose(OpKind.PUT, put(b"b"), answers, 1)
    await turns()
    assert answers.given == {}
    await member.stop()


async def test_an_operation_of_a_newer_program_stops_the_node() -> None:
    member = await started()
    answers = Answers()
    member.replica.propose(99, b"", answers, 1)
    await turns()
    assert [type(error) for error in member.fatal] == [InvariantViolation]
    assert answers.given == {}
    await member.stop()


async def test_a_broken_log_fails_the_start() -> None:
    disk = MemoryDisk()
    member = Member(disk)
    disk.fail_next_sync()
    with pytest.raises(OSError, match="Input/output"):
        await member.replica.start()
    await member.stop()


async def test_the_backend_is_written_each_tick_and_the_log_released() -> None:
    disk = MemoryDisk()
    member = await started(disk)
    for n in range(12):
        await member.replica.submit(OpKind.PUT, put(b"%d" % n, b"x" * 1000))
    names = disk.listdir("/data/wal")
    assert len([name for name in names if name.endswith(".wal")]) >= 3
    assert member.applier.pending_ops == 12
    member.replica._tick()
    await turns()
    assert member.applier.pending_ops == 0
    assert member.core.first_index == member.replica.applied_index + 1
    await member.replica.submit(OpKind.PUT, put(b"x"))  # writes the release down
    member.replica._tick()
    await turns()
    left = [name for name in disk.listdir("/data/wal") if name.endswith(".wal")]
    assert len(left) == 1
    await member.stop()


async def test_the_backend_is_written_after_many_operations_too() -> None:
    by_count = await started(flush_ops=5)
    for n in range(6):
        await by_count.replica.submit(OpKind.PUT, put(b"%d" % n))
    await turns()
    assert by_count.applier.pending_ops < 5
    await by_count.stop()
    by_bytes = await started(flush_bytes=3000)
    for n in range(4):
        await by_bytes.replica.submit(OpKind.PUT, put(b"%d" % n, b"x" * 1000))
    await turns()
    assert by_bytes.applier.pending_ops < 4
    await by_bytes.stop()


async def test_proposals_wait_for_a_flush_that_lags_too_far_behind() -> None:
    disk, offload = MemoryDisk(), Later()
    member = Member(
        disk,
        env=env_with(disk, offload),
        bounds=ReplicaBounds(tick_s=HOUR, inline_sync_s=1.0, flush_ops=2, max_unflushed_ops=4),
    )
    await member.replica.start()
    answers = Answers()
    for n in range(20):
        member.replica.propose(OpKind.PUT, put(b"%d" % n), answers, n)
        await turns()
    told = len(answers.given)
    assert told < 10
    assert len(offload.waiting) == 1
    while len(answers.given) < 20:
        await offload.finish()
    assert [revision(answers.given[n]) for n in range(20)] == list(range(2, 22))
    assert offload.most == 1
    stopping = asyncio.ensure_future(member.replica.stop())
    await turns()
    while not stopping.done():
        await offload.finish()


def swept(member: Member) -> bool:
    return not member.applier.store.compacting


async def test_a_compaction_is_swept_in_steps() -> None:
    member = await started(compaction_step=5, compaction_pause_s=0.0)
    for n in range(40):
        await member.replica.submit(OpKind.PUT, put(b"%d" % (n % 4)))
    await member.replica.submit(
        OpKind.COMPACT, rpc_pb2.CompactionRequest(revision=40).SerializeToString()
    )
    told: list[bool] = []
    member.applier.store.on_swept = lambda: told.append(swept(member))
    await turns(2)  # no tick: it begins by itself
    assert not swept(member)  # not all at once
    await turns(100)
    assert swept(member)
    assert told == [True]
    await member.stop()


async def test_tickers_hear_every_tick() -> None:
    member = Member(MemoryDisk(), bounds=ReplicaBounds(tick_s=0.001))
    heard: list[float] = []
    enough = asyncio.Event()

    def tick(now: float) -> None:
        heard.append(now)
        if len(heard) >= 5:
            enough.set()

    member.replica.add_ticker(tick)
    await member.replica.start()
    await enough.wait()
    assert heard == sorted(heard)
    await member.stop()
    count = len(heard)
    await turns()
    assert len(heard) == count


async def test_a_broken_ticker_stops_the_node() -> None:
    member = await started()

    def broken(now: float) -> None:
        raise InvariantViolation(f"broken at {now}")

    member.replica.add_ticker(broken)
    member.replica._tick()
    assert [type(error) for error in member.fatal] == [InvariantViolation]
    await member.stop()


async def test_reads_wait_for_the_first_commit_of_the_term() -> None:
    disk, offload = MemoryDisk(), Later()
    member = slow_writes(disk, offload)
    log: list[object] = []
    member.replica.when_readable(lambda: log.append("too early"), log.append)
    assert log == [errors.STOPPED]  # not started
    log.clear()
    starting = asyncio.ensure_future(member.replica.start())
    await turns()
    assert not member.replica.read_ready()
    for n in range(3):
        member.replica.when_readable(partial(log.append, n), log.append)
    await turns()
    assert log == []
    while not starting.done():
        await offload.finish()
    assert log == [0, 1, 2]
    assert member.replica.read_ready()
    assert member.replica.lessor.primary
    member.replica.when_readable(lambda: log.append("at once"), log.append)
    assert log[-1] == "at once"


async def test_reads_that_cannot_be_served_time_out_or_are_refused_at_stop() -> None:
    disk, offload = MemoryDisk(), Later()
    member = slow_writes(disk, offload)
    log: list[object] = []
    starting = asyncio.ensure_future(member.replica.start())
    await turns()
    member.replica.when_readable(lambda: log.append("ran"), log.append)
    await turns()
    for _ in range(70):
        member.replica._tick()
    assert log == [errors.TIMEOUT]
    member.replica.when_readable(lambda: log.append("ran"), log.append)
    stopping = asyncio.ensure_future(member.replica.stop())
    await turns()
    assert log == [errors.TIMEOUT, errors.STOPPED]
    while not stopping.done():
        await offload.finish()
    starting.cancel()


async def test_a_cancelled_submit_is_still_applied_and_disturbs_nobody() -> None:
    member = await started()
    call = asyncio.ensure_future(member.replica.submit(OpKind.PUT, put(b"a")))
    await asyncio.sleep(0)
    call.cancel()
    await turns()
    assert call.cancelled()
    assert member.applier.store.get(b"a") is not None
    assert member.fatal == []
    await member.stop()


async def test_a_restart_goes_on_in_a_later_term() -> None:
    disk = MemoryDisk()
    first = await started(disk)
    await first.replica.submit(OpKind.PUT, put(b"a"))
    second = await started(image_of(disk, CrashMode.NONE, 0))
    assert second.replica.term == 2
    assert second.applier.store.get(b"a") is not None
    assert revision(await second.replica.submit(OpKind.PUT, put(b"a"))) == 3
    await second.stop()
    await first.stop()


async def test_a_watcher_of_the_past_is_brought_up_in_pieces() -> None:
    member = await started(catch_up_events=3)
    answers = Answers()
    for n in range(2500):  # the hub sends a thousand at once and asks for turns for the rest
        member.replica.propose(OpKind.PUT, put(b"k", b"%d" % n), answers, n)
    await turns()
    assert len(answers.given) == 2500
    delivered: list[bytes] = []

    def deliver(messages: list[bytes]) -> bool:
        delivered.extend(messages)
        return True

    def values() -> list[int]:
        parsed = [rpc_pb2.WatchResponse.FromString(raw) for raw in delivered]
        return [int(event.kv.value) for response in parsed for event in response.events]

    member.hub.add(Watcher(Sink(deliver), 0, b"k", b""), 2)
    assert values() == list(range(1000))
    await asyncio.sleep(0)
    assert values() == list(range(2000))
    await asyncio.sleep(0)
    assert values() == list(range(2500))
    await member.stop()


async def test_a_broken_hub_stops_the_node() -> None:
    member = await started()

    def broken(budget: int) -> bool:
        raise InvariantViolation(f"broken at {budget}")

    member.hub.catch_up = broken  # type: ignore[method-assign]
    member.hub.wake()
    await turns()
    assert [type(error) for error in member.fatal] == [InvariantViolation]
    member.hub.wake()
    await turns()
    await member.stop()
