"""Nobody leaves a cluster as the only one who knows that it has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from coord.wire import rpc_pb2
from coord_server import errors
from coord_server.errors import Refused
from coord_server.log import Log
from coord_server.raft import (
    AppendRequest,
    AppendResponse,
    ChangeKind,
    ChangeStep,
    ConfigChange,
    Index,
    Membership,
    NodeId,
    RaftConfig,
    Term,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from coord_server.removal import LINGER_ALONE_S, LINGER_S, Removal
from coord_server.replica_bounds import ReplicaBounds
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk
from tests.server.member import NODE, Member
from tests.server.wire import Wire

OTHER, THIRD = NodeId(8), NodeId(9)


def removal_of(node: NodeId) -> ConfigChange:
    return ConfigChange((ChangeStep(ChangeKind.REMOVE, node),))


async def leader(wire: Wire) -> Member:
    """Return a leader of three, whose followers are the test's."""
    disk = MemoryDisk()
    disk.mkdir("/data")
    backend = MemoryBackend(disk, "/data/db")
    batch = Batch()
    for number in (NODE, OTHER, THIRD):
        record = rpc_pb2.Member(ID=number, name=f"m{number}", peerURLs=[f"http://m{number}:2380"])
        batch.put(Bucket.MEMBERS, number.to_bytes(8, "big"), record.SerializeToString())
    backend.write(batch)
    membership = Membership(voters=(NODE, OTHER, THIRD))
    raft = RaftConfig(node_id=NODE, membership=membership, pre_vote=False)
    bounds = ReplicaBounds(tick_s=3600.0)
    member = Member(disk, backend=backend, raft=raft, peers=wire, bounds=bounds)
    member.starting = asyncio.create_task(member.replica.start())
    await asyncio.sleep(0)
    while not wire.take(VoteRequest):
        member.replica._tick()
    member.replica.received([VoteResponse(sender=OTHER, to=NODE, term=Term(1), granted=True)])
    acknowledge(member, OTHER, 1)
    return member


def acknowledge(member: Member, sender: NodeId, index: int) -> None:
    answer = AppendResponse(
        sender=sender, to=NODE, term=Term(1), index=Index(index),
        hint_index=Index(0), hint_term=Term(0),
    )  # fmt: skip
    member.replica.received([answer])


async def ended(member: Member) -> None:
    assert member.fatal == []
    if member.starting is not None:
        member.starting.cancel()
    await member.stop()


async def test_a_leader_that_is_to_leave_hands_over_first() -> None:
    wire = Wire()
    member = await leader(wire)
    acknowledge(member, THIRD, 1)
    wire.take(TimeoutNow)
    with pytest.raises(Refused) as refused:
        await member.replica.change_membership(removal_of(NODE), b"")
    assert refused.value.spec is errors.NOT_LEADER
    assert [message.to for message in wire.take(TimeoutNow)] == [OTHER]
    assert member.replica.last_index == 1
    await ended(member)


async def test_a_removal_is_answered_when_those_who_stay_know_of_it() -> None:
    wire = Wire()
    member = await leader(wire)
    removing = asyncio.create_task(member.replica.change_membership(removal_of(THIRD), b""))
    await asyncio.sleep(0)
    assert member.replica.last_index == 2
    acknowledge(member, OTHER, 2)
    assert member.replica.applied_index == 2
    for _ in range(3):
        await asyncio.sleep(0)
    # Committed and applied; but of the two who stay only this one knows.
    assert not removing.done()
    told = [m for m in wire.take(AppendRequest) if m.entries]
    assert [(m.to, m.entries[0].index, m.commit) for m in told][-1] == (OTHER, 3, 2)
    acknowledge(member, OTHER, 3)
    assert await removing == 2
    await ended(member)


class Timers:
    """A loop's timers, which run when the test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.due: dict[float, Callable[[], None]] = {}
        patch.setattr(asyncio.get_running_loop(), "call_later", self.call_later, raising=True)

    def call_later(self, seconds: float, run: Callable[[], None]) -> Timers:
        self.due = {seconds: run}
        return self

    def cancel(self) -> None:
        self.due = {}


async def test_a_removed_member_stays_until_a_peer_has_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = Wire()
    member = await leader(wire)
    told: list[str] = []

    class State:
        applier = member.applier
        identity = rpc_pb2.ResponseHeader(cluster_id=1, member_id=NODE)

    log = Log(clock=member.clock, write=told.append)
    removal = Removal(State, log, data_dir="/data", told=lambda: told.append("ends"))  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        timers = Timers(patch)
        member.applier.members.apply_change(removal_of(NODE), b"")
        assert list(timers.due) == [LINGER_ALONE_S]
        assert len(told) == 2
        removal.confirmed()
        assert list(timers.due) == [LINGER_S]
        removal.confirmed()
        timers.due.popitem()[1]()
    assert told[2:] == ["ends"]
    await ended(member)
