"""A cluster that starts together need not wait for the silence of a leader it cannot have."""

from __future__ import annotations

import pytest

from coord_server.head_start import HeadStart
from coord_server.raft import Event, NodeId, Tick


class Replica:
    def __init__(self) -> None:
        self.leader_id = 0
        self.events: list[Event] = []

    def step(self, event: Event) -> None:
        self.events.append(event)


def head_start(replica: Replica, active: dict[NodeId, float], *, ticks: int = 10) -> HeadStart:
    return HeadStart(
        replica,
        election_ticks=ticks,
        peers=lambda: [NodeId(2), NodeId(3)],
        active_since=active.get,
    )


def test_it_is_given_once_when_two_peers_are_connected() -> None:
    replica, active = Replica(), dict[NodeId, float]()
    start = head_start(replica, active)
    start.tick(100.0)
    active[NodeId(2)] = 100.0
    start.tick(100.1)
    assert replica.events == []
    active[NodeId(3)] = 100.1
    start.tick(100.2)
    start.tick(100.3)
    assert replica.events == [Tick(0)] * 8


@pytest.mark.parametrize("reason", ["leader", "late", "short"])
def test_it_is_not_given(reason: str) -> None:
    replica, active = Replica(), dict[NodeId, float]()
    start = head_start(replica, active, ticks=2 if reason == "short" else 10)
    start.tick(100.0)
    replica.leader_id = 2 if reason == "leader" else 0
    start.tick(101.0)
    replica.leader_id = 0
    active |= {NodeId(2): 101.0, NodeId(3): 101.0}
    start.tick(105.1 if reason == "late" else 102.0)
    assert replica.events == []
