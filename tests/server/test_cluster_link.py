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
