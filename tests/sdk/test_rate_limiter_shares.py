"""A divided rate by itself: shares never sum above it, whoever joins, leaves, dies, sleeps or hears of it late.

``COORD_RATE_SEEDS`` (default 100) is the number of fleets that are explored.
"""

from __future__ import annotations

import os

import pytest

from coord.recipes.rate_limiter.bucket import Bucket
from coord.recipes.rate_limiter.meter import Meter
from coord.recipes.rate_limiter.part import NEVER, STALE, Look, Part
from tests.sdk.rate_model import Fleet, most_beyond

SEEDS = int(os.environ.get("COORD_RATE_SEEDS", "100"))
METER = Meter(rate=10, burst=20, mode="divided", ttl=10)


def look(at: float, share: float = 1.0, *, token: int = 7, meter: Meter = METER) -> Look:
    return Look(asked_at=at, meter=meter, token=token, weight=share, total=1.0)


def followed(part: Part, until: float, share: float = 1.0, *, since: float = 0.0) -> None:
    """Look once a second, without a pause."""
    now = since
    while now <= until:
        part.seen(look(now, share), now)
        now += 1


def test_the_windows_of_a_log() -> None:
    assert most_beyond([0, 0, 1, 2], 1) == 2
    assert most_beyond([0, 0, 0.5, 1], 1) == 3
    assert most_beyond([], 1) == 0


def test_no_fleet_is_given_more_than_the_rate() -> None:
    together = 0
    for seed in range(SEEDS):
        fleet = Fleet(seed)
        fleet.run(500)
        # Clocks that run 1 % too fast give 1 % too much.
        beyond = most_beyond(fleet.permits, fleet.rate * 1.01)
        assert beyond <= fleet.burst + 2 * fleet.size, (seed, beyond)
        together += fleet.sharing > 1 and fleet.most > fleet.rate * 0.8
    # The bound is met, not only kept.
    assert together > SEEDS / 5


def test_a_joiner_waits_for_one_ttl() -> None:
    part = Part(10, 0.0)
    followed(part, 9)
    assert (part.share, part.tokens) == (0, 0)
    assert part.take(1, 9.0, wait=False) == pytest.approx(1.0)
    followed(part, 10, since=10)
    assert part.share == 10
    assert part.take(1, 10.0, wait=False) == pytest.approx(0.1)
    assert part.take(1, 10.1, wait=False) == 0


def test_a_smaller_share_counts_at_once_and_a_larger_one_later() -> None:
    part = Part(10, 0.0)
    followed(part, 30)
    part.seen(look(31, 0.25), 31)
    assert part.share == 2.5
    part.seen(look(32, 0.5), 32)
    part.seen(look(33, 1.0), 33)
    followed(part, 41, since=34)
    assert part.share == 2.5
    part.seen(look(42), 42)  # the smallest was last seen until 32
    assert part.share == 5
    part.seen(look(43), 43)
    assert part.share == 10


def test_the_bucket_is_cut_with_the_share() -> None:
    part = Part(10, 0.0)
    followed(part, 30)
    assert part.tokens == 20
    part.seen(look(31, 0.25), 31)
    assert part.tokens == 5
    part.seen(look(32, 0.001), 32)
    assert part.tokens == 1


def test_who_has_seen_nothing_for_half_a_ttl_has_no_share() -> None:
    part = Part(10, 0.0)
    followed(part, 30)
    part.advance(30 + 10 * STALE - 0.01)
    assert part.share == 10
    part.advance(30 + 10 * STALE)
    assert (part.share, part.tokens) == (0, 0)
    assert part.take(1, 36, wait=True) == NEVER
    # An answer that took too long is none, and who is back begins anew.
    part.seen(look(30.5), 36)
    assert part.look is not None
    assert part.look.asked_at == 30
    followed(part, 45, since=36)
    assert part.share == 0
    followed(part, 46, since=46)
    assert part.share == 10


def test_who_has_slept_is_given_nothing_for_it() -> None:
    part = Part(10, 0.0)
    followed(part, 30)
    for _ in range(20):
        part.take(1, 30, wait=False)
    # The answer that was under way comes first, as when a process goes on.
    part.seen(look(35.5), 36)
    assert (part.share, part.tokens) == (0, 0)


def test_another_incarnation_begins_anew() -> None:
    part = Part(10, 0.0)
    followed(part, 30)
    part.seen(look(31, token=8), 31)
    assert (part.share, part.tokens) == (0, 0)
    followed(part, 30)
    part.seen(look(32, token=0), 32)
    assert part.share == 0


def test_as_many_are_saved_up_as_somebody_waits_for() -> None:
    part = Part(10, 0.0)
    followed(part, 30, 0.1)  # one per second, and room for two
    assert part.take(5, 30, wait=False) == pytest.approx(3)
    followed(part, 40, 0.1, since=31)
    assert part.take(5, 40, wait=True) == pytest.approx(3)
    followed(part, 43, 0.1, since=41)
    assert part.take(5, 43, wait=True) == 0
    followed(part, 60, 0.1, since=44)
    assert part.tokens == 2
    part.take(5, 60, wait=True)
    followed(part, 63, 0.1, since=61)
    assert part.tokens == 5
    part.give_up()
    assert part.tokens == 2


def test_what_was_taken_for_nobody_goes_back() -> None:
    part = Part(10, 0.0)
    followed(part, 30)
    assert part.take(20, 30, wait=False) == 0
    part.put_back(3)
    assert part.tokens == 3
    part.put_back(30)
    assert part.tokens == 20


def test_the_fallback_begins_when_the_group_is_out_of_sight() -> None:
    part = Part(10, 0.0, fallback=2)
    assert part.take(1, 0, wait=True) == pytest.approx(10 * STALE)
    assert [part.take(1, 6, wait=True) for _ in range(2)] == [0, 0]
    assert part.take(1, 6, wait=True) == pytest.approx(0.5)
    assert part.take(1, 6.5, wait=True) == 0
    followed(part, 17, since=7)
    assert part.share == 10
    assert part.take(1, 17, wait=True) == pytest.approx(0.1)


def test_the_bucket() -> None:
    bucket = Bucket(2, 3, 100.0)
    assert bucket.take(3, 100.0) == 0
    assert bucket.take(1, 100.0) == 0.5
    assert bucket.take(1, 99.0) == 0.5  # a clock that goes back gives nothing
    assert bucket.take(1, 100.5) == 0
    assert bucket.take(3, 200.0) == 0
    assert bucket.take(5, 200.0) == 2.5
    assert bucket.take(5, 202.5) == 0


def test_a_change_of_mode_keeps_everybody_waiting() -> None:
    before = Meter(rate=100, burst=10, mode="divided", ttl=4)
    after = before.changed(10, 5, "strict", 1_000_000_000)
    assert after.after(1, 1_000_000_000 + 3_900_000)[0] is None
    assert after.after(5, 1_000_000_000 + 4_500_000)[0] is not None
