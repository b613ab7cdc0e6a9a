"""Snapshots between members: whole and verified, or not at all; resumed, not begun again."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from typing_extensions import override

from coord.rpc import MemoryNet, RpcError
from coord.runtime import Net, RealNet
from coord_server.peer import (
    MeshLimits,
    Snapshot,
    SnapshotFailed,
    SnapshotSource,
    applied_position,
)
from coord_server.raft import Index, InstallSnapshot, Membership, NodeId, SnapshotMeta, Term
from coord_server.storage.backend import (
    APPLIED_INDEX_KEY,
    APPLIED_TERM_KEY,
    Backend,
    Batch,
    Bucket,
    View,
)
from coord_server.storage.disk import RealDisk
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk
from coord_server.storage.snapshot_file import SnapshotFile
from tests.server.peer.members import N1, N2, N3, PATIENCE_S, SCRATCH, Member, beat, introduce
from tests.support.proxy import Proxy

MEMBERS = Membership(voters=(N1, N2, N3))
LARGE = 50_000_000
SMALL = 3_000_000


def fill(backend: Backend, *, index: int, size: int) -> None:
    batch = Batch()
    batch.put(Bucket.META, APPLIED_INDEX_KEY, index.to_bytes(8))
    batch.put(Bucket.META, APPLIED_TERM_KEY, (4).to_bytes(8))
    for number in range(size // 100_000):
        batch.put(Bucket.KEY, b"%08d" % number, number.to_bytes(4) * 25_000)
    backend.write(batch)


def describe(view: View) -> SnapshotMeta:
    index, term = applied_position(view)
    return SnapshotMeta(index=index, term=term, membership=MEMBERS)


class Leader(Member):
    """Member 1, or another, with a state that others lack."""

    def __init__(
        self,
        *,
        net: Net,
        node: NodeId = N1,
        term: int = 5,
        size: int = SMALL,
        limits: MeshLimits | None = None,
        linger_s: float = 60.0,
    ) -> None:
        self.term = Term(term)
        super().__init__(
            node, net=net, limits=limits or MeshLimits(retry_min_s=0.01, retry_max_s=0.05)
        )
        self.backend = MemoryBackend()
        fill(self.backend, index=42, size=size)
        self.source = SnapshotSource(
            env=self.env,
            directory=SCRATCH,
            describe=describe,
            about={"cluster_id": "c1"},
            log=self.mesh_log,
            linger_s=linger_s,
        )

    async def take(self, *, at_least: int = 42) -> Snapshot:
        return await self.source.take(self.backend, at_least=Index(at_least))

    def install(self, to: NodeId, snapshot: Snapshot) -> InstallSnapshot:
        return InstallSnapshot(sender=self.node, to=to, term=self.term, snapshot=snapshot.meta)

    async def offer(self, to: NodeId = N2) -> Snapshot:
        snapshot = await self.take()
        self.mesh.offer_snapshot(self.install(to, snapshot), snapshot)
        return snapshot

    @override
    async def kill(self) -> None:
        await super().kill()
        await self.source.close()
        assert self.env.disk.listdir(SCRATCH) == []


def assert_same(follower: Member, leader: Leader, path: str) -> None:
    with closing(SnapshotFile(follower.env.disk, path)) as file:
        file.verify()
        assert file.about() == {"cluster_id": "c1", "index": 42, "term": 4}
        records = list(file.records())
    with leader.backend.view() as view:
        assert records == [(b, key, value) for b in Bucket for key, value in view.scan(b)]


@pytest.fixture(params=[MemoryNet, RealNet], ids=["memory", "sockets"])
def net(request: pytest.FixtureRequest) -> Net:
    make: Callable[[], Net] = request.param
    return make()


async def meet(leader: Leader, *others: Member) -> None:
    for member in (leader, *others):
        await member.listen()
    introduce(leader, *others)
    for other in others:
        await leader.connected(other.node)
        await other.connected(N1)


@asynccontextmanager
async def half_way() -> AsyncGenerator[tuple[Leader, Member, Proxy, Snapshot]]:
    """A transfer that has begun and gets nothing more until the proxy passes on what it holds."""
    net = RealNet()
    leader, follower = Leader(net=net, size=LARGE), Member(N2, net=net)
    await leader.listen()
    await follower.listen()
    async with Proxy(f"127.0.0.1:{leader.url.rpartition(':')[2]}") as proxy:
        leader.mesh.set_peers({N2: [follower.url]})
        follower.mesh.set_peers({N1: [f"http://{proxy.endpoint}"]})
        await leader.connected(N2)
        await follower.connected(N1)
        snapshot = await leader.offer()
        await received(follower, 1)
        proxy.hold_answers()
        yield leader, follower, proxy, snapshot
        await stop(leader, follower)


async def received(follower: Member, size: int) -> None:
    counters = follower.mesh.counters(N1)
    async with asyncio.timeout(PATIENCE_S):
        while counters.received_snapshot_bytes < size:
            await asyncio.sleep(0)


async def idle(snapshot: Snapshot) -> None:
    """Wait until calls that have lost their connection are done with the file."""
    async with asyncio.timeout(PATIENCE_S):
        while snapshot.holders:
            await asyncio.sleep(0)


async def stop(*members: Member) -> None:
    for member in members:
        await member.stop()


async def test_a_snapshot_is_handed_over_whole(net: Net) -> None:
    leader, follower = Leader(net=net), Member(N2, net=net)
    await meet(leader, follower)
    snapshot = await leader.offer()
    await follower.heard.until(lambda: bool(follower.heard.snapshots))
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True)])
    ((message, path),) = follower.heard.snapshots
    assert message == leader.install(N2, snapshot)
    assert message.snapshot == SnapshotMeta(index=Index(42), term=Term(4), membership=MEMBERS)
    assert path.startswith(f"{SCRATCH}/snapshot-in-")
    assert path.endswith(".tmp")
    assert_same(follower, leader, path)
    assert snapshot.holders == 0
    assert leader.mesh.counters(N2).sent_snapshot_bytes == snapshot.size_bytes
    assert follower.mesh.counters(N1).received_snapshot_bytes == snapshot.size_bytes
    # And again, as when raft did not hear of it.
    await leader.offer()
    await follower.heard.until(lambda: len(follower.heard.snapshots) == 2)
    assert len({path for _, path in follower.heard.snapshots}) == 2
    await stop(leader, follower)


async def test_a_transfer_that_stands_still_holds_up_no_messages() -> None:
    async with half_way() as (leader, follower, proxy, _):
        leader.mesh.send([beat(N1, N2, number) for number in range(10)])
        follower.mesh.send([beat(N2, N1, 10)])
        await follower.heard.until(lambda: follower.heard.numbers() == list(range(10)))
        await leader.heard.until(lambda: leader.heard.numbers() == [10])
        assert follower.heard.snapshots == []
        proxy.pass_on()
        await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True)])


async def test_a_broken_transfer_is_resumed_where_it_broke_off(tmp_path: Path) -> None:
    """50 MB over a connection that is cut again and again, between real disks."""
    net = RealNet()
    leader = Leader(net=net, size=LARGE)
    disk = RealDisk()
    scratch = f"{tmp_path}/member"
    follower = Member(N2, net=net, disk=disk, scratch=scratch)
    await leader.listen()
    await follower.listen()
    async with Proxy(f"127.0.0.1:{leader.url.rpartition(':')[2]}") as proxy:
        leader.mesh.set_peers({N2: [follower.url]})
        follower.mesh.set_peers({N1: [f"http://{proxy.endpoint}"]})
        await leader.connected(N2)
        await follower.connected(N1)
        counters = follower.mesh.counters(N1)
        snapshot = await leader.offer()
        for part in range(1, 5):
            await received(follower, part * LARGE // 6)
            proxy.cut()
        await follower.heard.until(lambda: bool(follower.heard.snapshots))
        assert follower.heard.count_logged("resuming a snapshot") >= 4
        ((_, path),) = follower.heard.snapshots
        assert_same(follower, leader, path)
        # Each byte was written once, and of what was sent twice each cut cost no more than what a
        # connection may hold.
        assert counters.received_snapshot_bytes == snapshot.size_bytes
        sent = leader.mesh.counters(N2).sent_snapshot_bytes
        assert sent - snapshot.size_bytes < follower.heard.count_logged("resuming") * 8_000_000
        assert sent < 2 * snapshot.size_bytes
        await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True)])
        disk.unlink(path)
    await stop(leader, follower)
    assert disk.listdir(scratch) == []


async def test_an_offer_that_was_lost_is_made_again() -> None:
    net = RealNet()
    leader, follower = Leader(net=net), Member(N2, net=net)
    await leader.listen()
    await follower.listen()
    async with Proxy(f"127.0.0.1:{follower.url.rpartition(':')[2]}") as proxy:
        leader.mesh.set_peers({N2: [f"http://{proxy.endpoint}"]})
        follower.mesh.set_peers({N1: [leader.url]})
        await leader.connected(N2)
        await follower.connected(N1)
        proxy.hold_requests()
        await leader.offer()
        proxy.cut()
        proxy.pass_on()
        await follower.heard.until(lambda: bool(follower.heard.snapshots))
        await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True)])
    await stop(leader, follower)


@pytest.mark.parametrize("place", [0, 1_500_000, -1], ids=["head", "middle", "hash"])
async def test_damaged_content_is_refused(place: int) -> None:
    net = MemoryNet()
    leader, follower = Leader(net=net), Member(N2, net=net)
    await meet(leader, follower)
    snapshot = await leader.take()
    place %= snapshot.size_bytes
    (byte,) = snapshot.read(1, place)
    snapshot.file.pwrite(bytes((byte ^ 1,)), place)
    leader.mesh.offer_snapshot(leader.install(N2, snapshot), snapshot)
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, False)])
    assert follower.heard.snapshots == []
    assert follower.env.disk.listdir(SCRATCH) == []
    await stop(leader, follower)


async def test_a_file_that_was_cut_off_at_the_leader_is_refused() -> None:
    net = MemoryNet()
    leader, follower = Leader(net=net), Member(N2, net=net)
    await meet(leader, follower)
    snapshot = await leader.take()
    snapshot.file.truncate(snapshot.size_bytes - 1_000_000)
    leader.mesh.offer_snapshot(leader.install(N2, snapshot), snapshot)
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, False)])
    await leader.heard.until_logged("did not take a snapshot", "cut off")
    assert follower.env.disk.listdir(SCRATCH) == []
    await stop(leader, follower)


async def test_a_disk_without_room_is_told_of_before_anything_is_sent() -> None:
    net = MemoryNet()
    leader = Leader(net=net)
    follower = Member(N2, net=net, disk=MemoryDisk(capacity_bytes=1_000_000))
    await meet(leader, follower)
    await leader.offer()
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, False)])
    await leader.heard.until_logged("did not take a snapshot", "1000000 bytes are free")
    assert leader.mesh.counters(N2).sent_snapshot_bytes == 0
    await stop(leader, follower)


@pytest.mark.parametrize("operation", ["write", "fsync"])
async def test_a_disk_that_fails_on_the_way_is_told_of(operation: str) -> None:
    net = MemoryNet()
    disk = MemoryDisk(record_unsynced=False)
    leader, follower = Leader(net=net), Member(N2, net=net, disk=disk)
    await meet(leader, follower)
    seen: list[str] = []

    def fail(step: str, path: str) -> None:
        if path.startswith(f"{SCRATCH}/snapshot-in-"):
            seen.append(step)
            if step == operation and seen.count(step) == (2 if operation == "write" else 1):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.on_step = fail
    await leader.offer()
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, False)])
    await leader.heard.until_logged("did not take a snapshot", "No space left on device")
    assert operation in seen
    assert disk.listdir(SCRATCH) == []
    assert follower.heard.snapshots == []
    await stop(leader, follower)


async def test_a_newer_offer_takes_the_place_of_an_older_one() -> None:
    async with half_way() as (leader, follower, proxy, older):
        fill(leader.backend, index=43, size=SMALL)
        newer = await leader.take(at_least=43)
        assert newer is not older
        leader.mesh.offer_snapshot(leader.install(N2, newer), newer)
        proxy.pass_on()
        await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True)])
        assert [message.snapshot.index for message, _ in follower.heard.snapshots] == [43]
        assert follower.env.disk.listdir(SCRATCH) == [
            path.rpartition("/")[2] for _, path in follower.heard.snapshots
        ]
        await idle(older)
        await idle(newer)


async def test_an_offer_of_a_leader_that_was_deposed_is_declined() -> None:
    """Simulated seed 14518: it took the place of the leader's, which then waited for its stall time."""
    async with half_way() as (leader, follower, proxy, _):
        deposed = Leader(net=leader.env.net, node=N3, term=4)
        await deposed.listen()
        follower.mesh.set_peers({N1: [f"http://{proxy.endpoint}"], N3: [deposed.url]})
        deposed.mesh.set_peers({N2: [follower.url]})
        await deposed.connected(N2)
        await deposed.offer()
        await deposed.heard.until(lambda: deposed.heard.outcomes == [(N2, False)])
        proxy.pass_on()
        await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True)])
        assert [message.sender for message, _ in follower.heard.snapshots] == [N1]
        await stop(deposed)


async def test_the_same_file_under_a_newer_offer_goes_on() -> None:
    async with half_way() as (leader, follower, proxy, snapshot):
        assert await leader.offer() is snapshot
        proxy.pass_on()
        await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True)])
        assert follower.mesh.counters(N1).received_snapshot_bytes == snapshot.size_bytes
        assert len(follower.heard.snapshots) == 1
        await idle(snapshot)


async def test_a_follower_that_does_not_fetch_is_given_up() -> None:
    net = MemoryNet()
    limits = MeshLimits(retry_min_s=0.01, retry_max_s=0.05, snapshot_stall_s=0.05)
    leader, follower = Leader(net=net, limits=limits), Member(N2, net=net)
    # It hears of the leader, but knows no way to it.
    await leader.listen()
    await follower.listen()
    leader.mesh.set_peers({N2: [follower.url]})
    follower.mesh.set_peers({N1: ["http://127.0.0.1:1"]})
    await leader.connected(N2)
    snapshot = await leader.offer()
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, False)])
    assert snapshot.holders == 0
    await follower.heard.until_logged("cannot receive a snapshot", "gave up after 16 attempts")
    assert follower.env.disk.listdir(SCRATCH) == []
    await stop(leader, follower)


async def test_snapshots_in_flight_are_bounded() -> None:
    net = MemoryNet()
    limits = MeshLimits(retry_min_s=0.01, retry_max_s=0.05, snapshots_in_flight=1)
    leader, two, three = Leader(net=net, limits=limits), Member(N2, net=net), Member(N3, net=net)
    await meet(leader, two, three)
    snapshot = await leader.offer(N2)
    assert await leader.take() is snapshot
    with pytest.raises(RpcError, match="1 snapshots are on their way already"):
        leader.mesh.offer_snapshot(leader.install(N3, snapshot), snapshot)
    snapshot.release()
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True)])
    await leader.offer(N3)
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, True), (N3, True)])
    await stop(leader, two, three)


async def test_one_file_serves_all_followers_and_goes_when_it_is_old() -> None:
    net = MemoryNet()
    leader, two, three = Leader(net=net, linger_s=0.0), Member(N2, net=net), Member(N3, net=net)
    await meet(leader, two, three)
    async with asyncio.timeout(PATIENCE_S):
        taken = await _both(leader)
    assert taken[0] is taken[1]
    assert leader.heard.count_logged("wrote a snapshot for followers") == 1
    assert len(leader.env.disk.listdir(SCRATCH)) == 1
    for node, snapshot in zip((N2, N3), taken, strict=True):
        leader.mesh.offer_snapshot(leader.install(node, snapshot), snapshot)
    await leader.heard.until(lambda: len(leader.heard.outcomes) == 2)
    async with asyncio.timeout(PATIENCE_S):
        while leader.env.disk.listdir(SCRATCH):
            await asyncio.sleep(0)
    await stop(leader, two, three)


async def _both(leader: Leader) -> list[Snapshot]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leader.take()) for _ in range(2)]
    return [task.result() for task in tasks]


async def test_a_removed_follower_frees_its_snapshot_and_stops_fetching() -> None:
    async with half_way() as (leader, follower, proxy, snapshot):
        follower.mesh.set_peers({})
        leader.mesh.set_peers({})
        await idle(snapshot)
        async with asyncio.timeout(PATIENCE_S):
            while follower.env.disk.listdir(SCRATCH):
                await asyncio.sleep(0)
        proxy.pass_on()
        assert leader.heard.outcomes == []
        assert follower.heard.snapshots == []


async def test_an_offer_without_a_connection_leaves_the_hold_with_the_caller() -> None:
    leader = Leader(net=MemoryNet())
    await leader.listen()
    snapshot = await leader.take()
    with pytest.raises(RpcError, match="no connection to member 2"):
        leader.mesh.offer_snapshot(leader.install(N2, snapshot), snapshot)
    assert snapshot.holders == 1
    await leader.stop()


async def test_a_member_without_a_place_for_snapshots_declines() -> None:
    net = MemoryNet()
    leader, follower = Leader(net=net), Member(N2, net=net, scratch=None)
    await meet(leader, follower)
    await leader.offer()
    await leader.heard.until(lambda: leader.heard.outcomes == [(N2, False)])
    await stop(leader, follower)


# The source alone.


@contextmanager
def failing(disk: MemoryDisk, operation: str) -> Generator[None]:
    def fail(step: str, _path: str) -> None:
        if step == operation:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.on_step = fail
    try:
        yield
    finally:
        disk.on_step = None


async def test_a_snapshot_that_cannot_be_written_leaves_nothing() -> None:
    leader = Leader(net=MemoryNet())
    disk = leader.env.disk
    assert isinstance(disk, MemoryDisk)
    with failing(disk, "write"), pytest.raises(SnapshotFailed, match="No space left"):
        await leader.take()
    assert disk.listdir(SCRATCH) == []
    snapshot = await leader.take()
    data = snapshot.read(snapshot.size_bytes, 0)
    assert hashlib.sha256(data[:-32]).digest() == data[-32:] == snapshot.digest
    await leader.stop()


async def test_a_snapshot_without_room_is_not_begun() -> None:
    leader = Leader(net=MemoryNet())
    disk = leader.env.disk
    assert isinstance(disk, MemoryDisk)
    disk.limit(disk.used_bytes() + leader.backend.in_use_bytes() - 1)
    with (
        spying(disk) as steps,
        pytest.raises(SnapshotFailed, match=f"No space left on device: '{SCRATCH}'"),
    ):
        await leader.take()
    assert steps == []
    disk.limit(None)
    await leader.take()
    await leader.stop()


@contextmanager
def spying(disk: MemoryDisk) -> Generator[list[str]]:
    """Note what is done to the disk."""
    steps: list[str] = []
    disk.on_step = lambda step, path: steps.append(f"{step} {path}")
    try:
        yield steps
    finally:
        disk.on_step = None


async def test_a_backend_that_does_not_reach_so_far_is_told_of() -> None:
    leader = Leader(net=MemoryNet())
    with pytest.raises(SnapshotFailed, match="does not reach index 43"):
        await leader.take(at_least=43)
    await leader.stop()
    with pytest.raises(SnapshotFailed, match="stopping"):
        await leader.take()


async def test_a_cancelled_take_holds_nothing() -> None:
    leader = Leader(net=MemoryNet(), size=LARGE)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(leader.take())
        await asyncio.sleep(0)
        task.cancel()
    snapshot = await leader.take()
    assert snapshot.holders == 1
    assert leader.heard.count_logged("wrote a snapshot for followers") == 1
    await leader.stop()
