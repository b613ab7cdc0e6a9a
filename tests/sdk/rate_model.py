"""What may be said of a log of permits, and a fleet of members that share a rate, without a store or a loop."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from coord.recipes.rate_limiter.meter import Meter
from coord.recipes.rate_limiter.part import Look, Part


def most_beyond(times: Iterable[float], rate: float) -> float:
    """Return the largest ``permits - rate * T`` of all windows."""
    lowest, most = float("inf"), 0.0
    for number, time in enumerate(sorted(times)):
        ahead = number - rate * time
        lowest = min(lowest, ahead)
        most = max(most, ahead - lowest + 1)
    return most


@dataclass
class Member:
    """A process: its part, its own clock, its key in the store, and what it is waiting to hear."""

    number: int
    part: Part
    speed: float
    weight: float
    token: int = 0
    """Of its key in the store; 0: there is none."""
    asked_at: float | None = None
    """On its own clock, of the look under way."""
    answer: Look | None = None
    paused_until: float = 0.0


@dataclass
class Fleet:
    """Members and their store. Everything that may go wrong does, at times drawn at random."""

    seed: int
    size: int = 4
    rate: float = 10.0
    burst: float = 6.0
    ttl: int = 4
    now: float = 0.0
    revision: int = 1
    members: list[Member] = field(default_factory=list[Member])
    permits: list[float] = field(default_factory=list[float])
    most: float = 0.0
    """The largest sum of shares, and how many members had one then."""
    sharing: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.meter = Meter(rate=self.rate, burst=self.burst, mode="divided", ttl=self.ttl)
        for number in range(self.size):
            speed = self.chance.choice([0.99, 1.0, 1.01])
            weight = self.chance.choice([1.0, 1.0, 3.0])
            self.members.append(Member(number, Part(self.ttl, 0.0), speed, weight))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now += self.chance.choice([0.0, 0.02, 0.05, 0.1, 0.2])
            self._happen(self.chance.choice(self.members))
            self.check()

    def _happen(self, one: Member) -> None:
        what = self.chance.random()
        if what < 0.02:  # joins, or comes back as another incarnation
            self.revision += 1
            one.token = one.token or self.revision
        elif what < 0.024:  # its lease ends, or somebody deletes its key: it is not told
            one.token = 0
        elif what < 0.028:  # leaves, and another process takes its place
            one.token, one.asked_at, one.answer = 0, None, None
            one.part = Part(self.ttl, self._clock(one))
        elif what < 0.034:
            one.paused_until = self.now + self.chance.uniform(0, 2 * self.ttl)
        elif self.now >= one.paused_until:
            self._act(one)
        elif what < 0.5 and one.asked_at is not None:
            self._answer(one)  # the store goes on while the process does not

    def _act(self, one: Member) -> None:
        if one.answer is not None:
            one.part.seen(one.answer, self._clock(one))
            one.answer, one.asked_at = None, None
        elif one.asked_at is not None:
            self._answer(one)
        else:
            one.asked_at = self._clock(one)
        for n in (1, 1, 2):
            if one.part.take(n, self._clock(one), wait=self.chance.random() < 0.5) == 0.0:
                self.permits += [self.now] * n

    def _answer(self, one: Member) -> None:
        """The store reads at this moment; the answer is heard later."""
        assert one.asked_at is not None
        there = [each for each in self.members if each.token]
        one.answer = one.answer or Look(
            asked_at=one.asked_at,
            meter=self.meter,
            token=one.token,
            weight=one.weight,
            total=sum(each.weight for each in there),
        )

    def _clock(self, one: Member) -> float:
        return self.now * one.speed

    def check(self) -> None:
        shares: list[float] = []
        for each in self.members:
            each.part.advance(self._clock(each))
            shares.append(each.part.share)
        self.most = max(self.most, sum(shares))
        self.sharing = max(self.sharing, sum(share > 0 for share in shares))
        assert sum(shares) <= self.rate + 1e-6, (self.seed, self.now, shares)
