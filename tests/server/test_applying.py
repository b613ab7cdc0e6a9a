"""A long log is applied in parts, in order, and everything else goes on between them."""

from __future__ import annotations

import asyncio
import itertools

from coord.wire import rpc_pb2
from coord_server.ops import OpKind, encode_batch
from coord_server.raft import (
    AppendRequest,
    AppendResponse,
    ChangeKind,
    ChangeStep,
    ConfigChange,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Index,
    Membership,
    NodeId,
    RaftConfig,
    Role,
    Term,
    VoteRequest,
    VoteResponse,
)
from coord_server.replica_bounds import ReplicaBounds
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk
from tests.server.member import MEMBER, NODE, Member, alone
from tests.server.wire import Wire

OTHER, THIRD = NodeId(8), NodeId(9)
HOUR = 3600.0


def put(key: str) -> bytes:
    return rpc_pb2.PutRequest(key=key.encode(), value=b"v" * 80).SerializeToString()


def entry(index: int, term: int) -> Entry:
    data = encode_batch([(OpKind.PUT, put(f"k{index}"))])
    return Entry(Term(term), Index(index), EntryKind.NORMAL, data)


def log_of(count: int, term: int = 1) -> tuple[Entry, ...]:
    return tuple(entry(index, term) for index in range(1, count + 1))


def keys_of(member: Member) -> list[str]:
    request = rpc_pb2.RangeRequest(key=b"k", range_end=b"l", keys_only=True)
    answer = rpc_pb2.RangeResponse.FromString(member.applier.store.range_body(request))
    return [pair.key.decode() for pair in answer.kvs]


async def begun(member: Member) -> asyncio.Task[None]:
    """Start a member that does not serve yet."""
    starting = asyncio.create_task(member.replica.start())
    await asyncio.sleep(0)
    return starting


async def test_a_follower_answers_heartbeats_between_the_parts() -> None:
    wire = Wire()
    raft = RaftConfig(
        node_id=NODE,
        membership=Membership(voters=(NODE, OTHER, THIRD)),
        max_committed_bytes=300,
    )
    member = Member(
        MemoryDisk(), raft=raft, peers=wire, bounds=ReplicaBounds(tick_s=HOUR), segment_bytes=65536
    )
    replica = member.replica
    starting = await begun(member)
    count = 30
    append = AppendRequest(
        sender=OTHER, to=NODE, term=Term(1), prev_index=Index(0), prev_term=Term(0),
        entries=log_of(count), commit=Index(count),
    )  # fmt: skip
    replica.received([append])
    assert [m.index for m in wire.take(AppendResponse)] == [count]
    heartbeat = Heartbeat(sender=OTHER, to=NODE, term=Term(1), commit=Index(count), read_round=0)
    reached: list[int] = []
    while replica.applied_index < count:
        before = replica.applied_index
        # Several at once bring it no further than one.
        replica.received([heartbeat, heartbeat, heartbeat])
        assert len(wire.take(HeartbeatResponse)) == 3
        assert replica.applied_index == before
        assert replica.lags
        reached.append(before)
        await asyncio.sleep(0)
    assert len(reached) > 8
    assert all(2 <= b - a <= 3 for a, b in itertools.pairwise(reached))
    assert not replica.lags
    assert len(keys_of(member)) == count
    assert member.fatal == []
    starting.cancel()
    await member.stop()


async def test_a_start_with_a_long_log_leaves_room_for_others() -> None:
    disk = MemoryDisk()
    first = Member(disk, segment_bytes=1 << 20)
    await first.replica.start()
    for n in range(40):
        await first.replica.submit(OpKind.PUT, put(f"k{n:02}"))
    # Not stopped: the backend has nothing of it, the log everything.
    second = Member(disk, raft=alone(max_committed_bytes=250), segment_bytes=1 << 20)
    replica = second.replica
    starting = await begun(second)
    seen: list[int] = []
    while not starting.done():
        assert replica.read_ready() == (replica.applied_index == 42)
        seen.append(replica.applied_index)
        await asyncio.sleep(0)
    await starting
    assert replica.read_ready()
    assert len({*seen}) > 10
    assert max(b - a for a, b in itertools.pairwise(seen)) <= 3
    assert len(keys_of(second)) == 40
    await second.stop()
    first.wal.close()


async def test_what_a_smaller_quorum_commits_comes_behind_what_was_committed_before() -> None:
    """Three puts behind the removal of the other voter; one is committed with it, the others by it."""
    disk, wire = MemoryDisk(), Wire()
    disk.mkdir("/data")
    backend = MemoryBackend(disk, "/data/db")
    batch = Batch()
    for number in (MEMBER, OTHER):
        record = rpc_pb2.Member(ID=number, name=f"m{number}", peerURLs=[f"http://m{number}:2380"])
        batch.put(Bucket.MEMBERS, number.to_bytes(8, "big"), record.SerializeToString())
    backend.write(batch)
    raft = RaftConfig(node_id=NODE, membership=Membership(voters=(NODE, OTHER)), pre_vote=False)
    member = Member(disk, backend=backend, raft=raft, peers=wire, bounds=ReplicaBounds(tick_s=HOUR))
    replica = member.replica
    starting = await begun(member)
    while not wire.take(VoteRequest):
        replica._tick()
    replica.received([VoteResponse(sender=OTHER, to=NODE, term=Term(1), granted=True)])
    assert replica._core.role is Role.LEADER
    acknowledge(member, 1)
    change = ConfigChange((ChangeStep(ChangeKind.REMOVE, OTHER),))
    removing = asyncio.create_task(replica.change_membership(change, b""))
    await asyncio.sleep(0)
    puts: list[asyncio.Task[bytes]] = []
    for n in range(3):
        puts.append(asyncio.create_task(replica.submit(OpKind.PUT, put(f"k{n}"))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert replica.last_index == 5
    assert replica.applied_index == 1
    acknowledge(member, 3)
    assert await removing == 2
    answers = [rpc_pb2.PutResponse.FromString(await each) for each in puts]
    assert [answer.header.revision for answer in answers] == [2, 3, 4]
    assert keys_of(member) == ["k0", "k1", "k2"]
    assert member.fatal == []
    await starting
    await member.stop()


def acknowledge(member: Member, index: int) -> None:
    answer = AppendResponse(
        sender=OTHER, to=NODE, term=Term(1), index=Index(index),
        hint_index=Index(0), hint_term=Term(0),
    )  # fmt: skip
    member.replica.received([answer])
