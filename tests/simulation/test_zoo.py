"""A few animals of the zoo at a time: what was planted is found within a few seeds."""

from __future__ import annotations

import os

import pytest

from tests.simulation.zoo import ANIMALS, seeds_to_find

# The whole zoo is ``python -m tests.simulation.zoo``. A run looks at a few that are found fast; the
# variable says at which ones, so that runs that count it up come by all of them.
_AT_A_TIME = 6
_ROUND = int(os.environ.get("COORD_ZOO_ROUND", "0"))
_QUICK = (
    "ack_before_quorum",
    "vote_not_persisted",
    "messages_do_not_wait",
    "group_sent_twice",
    "read_numbers_reused",
    "follower_reads_alone",
    "acknowledged_before_the_disk",
    "own_copy_counted_before_the_disk",
    "vote_not_persisted_before_the_reply",
)


@pytest.mark.parametrize("place", range(_AT_A_TIME))
def test_a_bug_of_a_cluster_is_found(place: int) -> None:
    name = _QUICK[(_ROUND * _AT_A_TIME + place) % len(_QUICK)]
    count, _ = seeds_to_find(ANIMALS[name], range(25))
    assert count, f"nobody noticed {name} in 25 seeds"
