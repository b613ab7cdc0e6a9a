"""A disk that fails while something else than a write is going on: the node falls silent there too.

The ordinary cases are in ``test_replica.py``.
"""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from coord.wire import rpc_pb2
from coord_server.errors import Refused
from coord_server.member_records import MemberNote, encode_notes, member_records
from coord_server.ops import OpKind
from coord_server.raft import ChangeKind, ChangeStep, ConfigChange, HardState, NodeId, Persist
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk
from tests.server.member import MEMBER, Member

OTHER = NodeId(2)
SEGMENT = 4096


async def turns() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


async def founder(disk: MemoryDisk) -> Member:
    """A member with a table of members, which can grow."""
    disk.mkdir("/data")
    backend, batch = MemoryBackend(disk, "/data/db"), Batch()
    for key, value in member_records([rpc_pb2.Member(ID=MEMBER, peerURLs=["http://own:2380"])]):
        batch.put(Bucket.MEMBERS, key, value)
    backend.write(batch)
    member = Member(disk, backend=backend, segment_bytes=SEGMENT)
    await member.replica.start()
    return member


def a_voter_more() -> tuple[ConfigChange, bytes]:
    """A change of membership, and what goes with it."""
    change = ConfigChange((ChangeStep(ChangeKind.ADD_VOTER, OTHER),))
    added = rpc_pb2.Member(ID=OTHER, peerURLs=["http://other:2380"])
    return change, encode_notes(MemberNote(member=added))


def told(member: Member) -> list[str]:
    """What the owner was told, once."""
    return [str(error) for error in member.fatal]


async def test_a_failed_sync_of_a_change_of_membership() -> None:
    disk = MemoryDisk()
    member = await founder(disk)
    disk.fail_next_sync()
    asking = asyncio.ensure_future(member.replica.change_membership(*a_voter_more()))
    await turns()
    assert told(member) == ["[Errno 5] Input/output error"]
    # Whoever asked is not told: the change may be in the log.
    assert not asking.done()
    asking.cancel()
    with pytest.raises(Refused, match="server stopped"):
        await member.replica.change_membership(*a_voter_more())
    await member.stop()


async def test_a_failed_sync_while_leadership_moves() -> None:
    disk = MemoryDisk()
    member = await founder(disk)
    await member.replica.change_membership(*a_voter_more())
    core = member.core
    # What any step may find: something that waits for the disk.
    waiting = Persist(HardState(core.term), (), core.last_index, core.term, core.term)
    member.replica._writer.queue(waiting)
    disk.fail_next_sync()
    assert member.replica.transfer(OTHER)
    assert told(member) == ["[Errno 5] Input/output error"]
    assert not member.replica.read_ready()
    assert not member.replica.transfer(OTHER)
    await member.stop()


async def fill_half_a_segment(member: Member) -> None:
    """Make the member want the next piece of its log, and let it try."""
    put = rpc_pb2.PutRequest(key=b"k", value=bytes(SEGMENT * 3 // 4)).SerializeToString()
    await member.replica.submit(OpKind.PUT, put)
    member.replica._tick()
    await turns()


@pytest.mark.parametrize(
    ("code", "fatal"),
    [
        (errno.EIO, ["[Errno 5] Input/output error"]),
        # There may be room when the piece is needed.
        (errno.ENOSPC, []),
        (errno.EDQUOT, []),
    ],
)
async def test_the_next_piece_of_the_log_cannot_be_prepared(code: int, fatal: list[str]) -> None:
    disk = MemoryDisk()
    member = await founder(disk)
    failed: list[str] = []

    def fail(operation: str, path: str) -> None:
        if path.endswith("next.tmp") and operation == "fsync":
            failed.append(path)
            raise OSError(code, os.strerror(code))

    disk.on_step = fail
    await fill_half_a_segment(member)
    disk.on_step = None
    assert failed == ["/data/wal/next.tmp"]
    assert told(member) == fatal
    # What could be reserved is given back.
    assert not disk.exists("/data/wal/next.tmp")
    if not fatal:
        await fill_half_a_segment(member)
        await fill_half_a_segment(member)
        assert [n for n in disk.listdir("/data/wal") if n.startswith("0000000000000002-")]
    await member.stop()


async def test_the_last_room_is_not_taken_for_the_next_piece_of_the_log() -> None:
    disk = MemoryDisk()
    member = await founder(disk)
    asked: list[str] = []
    disk.on_step = lambda operation, path: asked.append(f"{operation} {path}")
    disk.limit(disk.used_bytes() + SEGMENT)
    await fill_half_a_segment(member)
    assert asked
    assert not [step for step in asked if "next.tmp" in step]
    assert told(member) == []
    await member.stop()
