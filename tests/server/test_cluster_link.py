"""What raft hears of snapshots that were sent to followers."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from coord.testing.sim.env import NodeClock
from coord.testing.sim.nodeloop import NodeLoop
from coord_server import cluster_link
from coord_server.cluster_link import ClusterLink
from coord_server.log import Log
from coord_server.raft import NodeId, SnapshotSent

A, B = NodeId(1), NodeId(2)


class _Replica:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def step(self, event: object) -> None:
        self.events.append(event)

    def connection_lost(self, node: NodeId, *, was_reset: bool) -> None:
        self.events.append((node, was_reset))

    async def install(self, message: object, path: str) -> None:
        raise OSError(28, f"no room for {path}")


class _Mesh:
    """Notes with whom it connects anew."""

    def __init__(self) -> None:
        self.reconnected: list[NodeId] = []

    def reconnect(self, node: NodeId) -> None:
        self.reconnected.append(node)


class _Offer:
    sender = A


def linked(mesh: _Mesh | None = None) -> tuple[ClusterLink, _Replica, list[str]]:
    unused, replica, lines = cast("Any", None), _Replica(), list[str]()
    loop = NodeLoop("m", on_problem=lambda _: None)
    link = ClusterLink(unused, unused, Log(clock=NodeClock(loop), write=lines.append))
    link.attach(cast("Any", mesh), cast("Any", replica))
    return link, replica, lines


def test_a_snapshot_that_did_not_arrive_is_told_at_once() -> None:
    link, replica, _ = linked()
    link.snapshot_done(A, ok=False)
    assert replica.events == [SnapshotSent(A)]


def test_who_is_lost_after_it_got_a_snapshot_may_need_another_one() -> None:
    link, replica, _ = linked()
    link.snapshot_done(A, ok=True)
    assert replica.events == []
    link.connection_lost(B, was_reset=True)
    assert replica.events == [(B, True)]
    link.connection_lost(A, was_reset=True)
    link.connection_lost(A, was_reset=False)
    assert replica.events == [(B, True), (A, True), SnapshotSent(A), (A, False)]


def test_who_cannot_install_a_snapshot_lets_the_leader_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_link, "_AGAIN_S", 0.0)
    mesh = _Mesh()

    async def receive() -> list[str]:
        link, _, lines = linked(mesh)
        link.snapshot_received(cast("Any", _Offer()), "somewhere")
        async with asyncio.timeout(10.0):
            while not mesh.reconnected:
                await asyncio.sleep(0)
        return lines

    lines = asyncio.run(receive())
    assert mesh.reconnected == [A]
    assert "no room for somewhere" in lines[0]


class _Snapshot:
    """Counts who lets go of it."""

    def __init__(self) -> None:
        self.released = 0
        self.meta = "what it covers"

    def release(self) -> None:
        self.released += 1


class _Leading:
    """A replica that led term 5 when it was asked for a snapshot."""

    node_id, first_index = A, 1

    def __init__(self, *, leads: bool, term: int) -> None:
        self.raft_term, self.is_leader = 5, True
        self._then = (term, leads)

    async def flush(self) -> None:
        self.raft_term, self.is_leader = self._then


class _Source:
    def __init__(self) -> None:
        self.snapshot = _Snapshot()

    async def take(self, _: object, *, at_least: int) -> _Snapshot:
        assert at_least == 1
        return self.snapshot


class _Offers:
    def __init__(self) -> None:
        self.offered: list[Any] = []

    def offer_snapshot(self, message: object, _: object) -> None:
        self.offered.append(message)


@pytest.mark.parametrize(
    ("leads", "term", "offers"), [(True, 5, 1), (False, 5, 0), (False, 6, 0), (True, 7, 0)]
)
async def test_only_who_still_leads_the_term_offers_a_snapshot(
    *, leads: bool, term: int, offers: int
) -> None:
    """Simulated seed 14518: a follower offered one in the term of its leader, as if it led."""
    source, mesh = _Source(), _Offers()
    unused = cast("Any", None)
    loop = NodeLoop("m", on_problem=lambda _: None)
    log = Log(clock=NodeClock(loop), write=lambda _: None)
    link = ClusterLink(unused, cast("Any", source), log)
    link.attach(cast("Any", mesh), cast("Any", _Leading(leads=leads, term=term)))
    link.offer_snapshot(B)
    async with asyncio.timeout(10.0):
        while not (mesh.offered or source.snapshot.released):
            await asyncio.sleep(0)
    assert len(mesh.offered) == offers
    assert source.snapshot.released == 1 - offers
    assert [message.term for message in mesh.offered] == [5] * offers
    await link.close()
