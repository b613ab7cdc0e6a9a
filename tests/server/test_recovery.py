"""After a crash at any step, in any manner: what was acknowledged is there, once, and nothing else."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from coord.wire import rpc_pb2
from coord_server.ops import OpKind
from coord_server.raft import Role
from coord_server.replica_bounds import ReplicaBounds
from coord_server.storage.memory_disk import CrashMode, MemoryDisk
from tests.server.member import Answers, Member, image_of, lose_power_after

CYCLES = 120
BOUNDS = ReplicaBounds(tick_s=3600.0, flush_ops=12, max_batch_ops=5)


@dataclass(frozen=True)
class Value:
    value: bytes
    create: int
    mod: int
    version: int


class Model:
    """What the store must hold after each of the operations, by plain dicts."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = -1
        self.records: dict[bytes, Value] = {}
        # (revision, compacted, records) after each operation.
        self.after = [(1, -1, dict[bytes, Value]())]

    def apply(self, kind: int, payload: bytes) -> None:
        if kind == OpKind.PUT:
            put = rpc_pb2.PutRequest.FromString(payload)
            self.revision += 1
            old = self.records.get(put.key)
            self.records[put.key] = Value(
                put.value,
                old.create if old else self.revision,
                self.revision,
                old.version + 1 if old else 1,
            )
        elif kind == OpKind.DELETE_RANGE:
            key = rpc_pb2.DeleteRangeRequest.FromString(payload).key
            if self.records.pop(key, None) is not None:
                self.revision += 1
        else:
            wanted = rpc_pb2.CompactionRequest.FromString(payload).revision
            if self.compacted < wanted <= self.revision:
                self.compacted = wanted
        self.after.append((self.revision, self.compacted, dict(self.records)))

    def cut(self, length: int) -> None:
        """Forget all but the first ``length`` operations."""
        del self.after[length + 1 :]
        self.revision, self.compacted, records = self.after[-1]
        self.records = dict(records)


def content(member: Member) -> dict[bytes, Value]:
    found: dict[bytes, Value] = {}
    for n in range(8):
        pair = member.applier.store.get(b"key%d" % n)
        if pair is not None:
            found[b"key%d" % n] = Value(
                pair.value, pair.create_revision, pair.mod_revision, pair.version
            )
    return found


def operation(chance: random.Random, model: Model) -> tuple[int, bytes]:
    draw = chance.random()
    key = b"key%d" % chance.randrange(8)
    if draw < 0.7:
        value = chance.randbytes(chance.choice([0, 8, 90, 700]))
        return OpKind.PUT, rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
    if draw < 0.95:
        return OpKind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=key).SerializeToString()
    revision = chance.randrange(max(1, model.revision - 8), model.revision + 1)
    return OpKind.COMPACT, rpc_pb2.CompactionRequest(revision=revision).SerializeToString()


async def live(member: Member, chance: random.Random, model: Model) -> int:
    """Propose until the power is lost; return the number of the last acknowledged operation."""
    answers = Answers()
    proposed = len(model.after) - 1
    try:
        await member.replica.start()
    except OSError:
        return proposed
    while not member.fatal:
        for _ in range(chance.randrange(1, 9)):
            kind, payload = operation(chance, model)
            model.apply(kind, payload)
            proposed += 1
            member.replica.propose(kind, payload, answers, proposed)
        for _ in range(chance.randrange(1, 6)):
            await asyncio.sleep(0)
        if chance.randrange(4) == 0:
            member.replica._tick()
    said = dict(answers.given)
    await asyncio.sleep(0)
    member.replica.propose(OpKind.PUT, b"", answers, 0)
    await member.replica.stop()
    assert answers.given == said, "a broken member must not speak"
    for number, answer in said.items():
        if isinstance(answer, bytes):
            kind_revision = rpc_pb2.PutResponse.FromString(answer).header.revision
            assert kind_revision == model.after[number][0]
    acked = [number for number, answer in said.items() if isinstance(answer, bytes)]
    return max(acked, default=0)


def check(member: Member, model: Model, acked: int) -> None:
    """Find which prefix of the operations survived, and continue from there."""
    store = member.applier.store
    for length in range(len(model.after) - 1, -1, -1):
        revision, compacted, records = model.after[length]
        if (store.revision, store.compact_revision) == (revision, compacted):
            assert content(member) == records
            assert length >= acked, "an acknowledged operation is lost"
            model.cut(length)
            return
    pytest.fail(f"revision {store.revision} stands for no prefix of the operations")


@pytest.mark.parametrize("mode", CrashMode)
async def test_every_acknowledged_operation_survives(mode: CrashMode) -> None:
    chance = random.Random(f"recovery {mode.value}")
    disk = MemoryDisk()
    model = Model()
    acked = 0
    segments = flushes = 0
    for cycle in range(CYCLES):
        lose_power_after(disk, chance.randrange(1, 150))
        try:
            member = Member(disk, bounds=BOUNDS)
        except OSError:
            pass
        else:
            acked = max(acked, await live(member, chance, model))
            segments = max(segments, len(disk.listdir("/data/wal")))
        disk = image_of(disk, mode, cycle)
        # A member that comes up without further trouble, on a copy, shows what survived.
        witness = Member(image_of(disk, CrashMode.ALL, 0), bounds=BOUNDS)
        flushes = max(flushes, witness.applier.applied_index)
        await witness.replica.start()
        assert witness.replica.is_leader
        check(witness, model, acked)
        await witness.stop()
        assert witness.fatal == []
        acked = len(model.after) - 1  # what is durable now must not vanish later either
    assert len(model.after) > CYCLES
    assert segments > 2
    assert flushes > CYCLES


async def test_an_entry_is_applied_once_although_the_log_repeats_it() -> None:
    disk = MemoryDisk()
    member = Member(disk)
    await member.replica.start()
    for n in range(10):
        await member.replica.submit(
            OpKind.PUT, rpc_pb2.PutRequest(key=b"k", value=b"%d" % n).SerializeToString()
        )
    await member.stop()
    assert member.fatal == []
    again = Member(disk)
    assert again.applier.store.revision == 11  # the backend has it all
    assert len(again.recovered.entries) >= 10  # and the log too
    await again.replica.start()
    assert again.core.role is Role.LEADER
    assert again.applier.store.revision == 11
    pair = again.applier.store.get(b"k")
    assert pair is not None
    assert (pair.value, pair.version) == (b"9", 10)
    await again.stop()
