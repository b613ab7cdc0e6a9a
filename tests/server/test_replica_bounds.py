"""Who campaigns first when a leader's process has died."""

from __future__ import annotations

import itertools
import random
from typing import cast

from coord.runtime import Rand
from coord_server.raft import NodeId
from coord_server.replica_bounds import wait_after_reset

VOTERS = frozenset(NodeId(n) for n in (3, 7, 11, 20, 21))


def wait(me: int, leader: int, seed: int) -> float:
    # It only draws a number between two.
    rand = cast("Rand", random.Random(seed))
    return wait_after_reset(rand, VOTERS, me=me, leader=NodeId(leader))


def test_those_who_follow_take_turns() -> None:
    for leader in VOTERS:
        followers = sorted(VOTERS - {leader})
        for seed in range(50):
            # Each draws for itself, and yet there is room for an election between two of them.
            waits = [wait(node, leader, seed * 100 + node) for node in followers]
            assert all(b - a >= 0.015 for a, b in itertools.pairwise(waits))


def test_the_first_does_not_wait_long_and_no_two_clusters_are_in_step() -> None:
    waits = {wait(3, 21, seed) for seed in range(50)}
    assert len(waits) == 50
    assert max(waits) < 0.02
    assert {wait(7, 3, seed) for seed in range(50)} == waits
