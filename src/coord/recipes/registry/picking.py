"""Strategies: which of several instances is next.

They are called by any thread, and keep what they know in values that change as a whole, or in iterators and deques,
whose steps are atomic; so none needs a lock.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal, Protocol

from coord.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.recipes.registry.instance import Instance
    from coord.runtime import Rand

StrategyName = Literal["random", "round_robin", "weighted", "least_loaded", "sticky", "zone"]

# Its multiples, taken modulo 1, fill the unit interval more evenly than those of any other number.
_GOLDEN = (math.sqrt(5) - 1) / 2
_KEPT_LATENCY = 0.8
_MANY_IN_FLIGHT = 100_000


class Strategy(Protocol):
    """Picks. Made for one view; called by any thread."""

    def pick(self, instances: tuple[Instance, ...], key: str | bytes | None) -> Instance:
        """Return one of ``instances``, which are not empty and stay the same object while nothing changes."""
        ...

    def report(self, instance: Instance, *, ok: bool, latency: float | None) -> None:
        """Take note of how a call that was sent to ``instance`` has ended, in how many seconds."""
        ...


class _Deaf:
    """A strategy that learns nothing from reports."""

    def report(self, instance: Instance, *, ok: bool, latency: float | None) -> None:
        """Take no note."""


class Random(_Deaf):
    """Each with the same chance."""

    def __init__(self, rand: Rand) -> None:
        self._rand = rand

    def pick(self, instances: tuple[Instance, ...], key: str | bytes | None) -> Instance:  # noqa: ARG002 - of the protocol
        """Return any."""
        return instances[self._rand.bits(48) % len(instances)]


class RoundRobin(_Deaf):
    """One after the other, beginning anywhere, so that many clients do not begin with the same."""

    def __init__(self, rand: Rand) -> None:
        self._turns = itertools.count(rand.bits(16))

    def pick(self, instances: tuple[Instance, ...], key: str | bytes | None) -> Instance:  # noqa: ARG002 - of the protocol
        """Return the next."""
        return instances[next(self._turns) % len(instances)]


class Weighted(_Deaf):
    """In proportion to the weights, and evenly mixed: no instance gets its share in one go.

    The n-th pick is at ``n * golden ratio modulo 1`` of the weights laid end to end. After n picks each share is right
    to within a few picks, whatever the weights are, and there is no state but n.
    """

    def __init__(self, rand: Rand) -> None:
        self._turns = itertools.count()
        self._offset = rand.uniform(0, 1)
        self._known: tuple[tuple[Instance, ...], list[int]] = ((), [])

    def pick(self, instances: tuple[Instance, ...], key: str | bytes | None) -> Instance:  # noqa: ARG002 - of the protocol
        """Return the next."""
        of, sums = self._known
        if of is not instances:
            sums = list(itertools.accumulate(each.weight for each in instances))
            self._known = instances, sums
        if not sums[-1]:  # nobody wants any: nobody wants less than another
            return instances[next(self._turns) % len(instances)]
        place = (self._offset + next(self._turns) * _GOLDEN) % 1.0 * sums[-1]
        return instances[min(bisect_right(sums, place), len(sums) - 1)]


class LeastLoaded:
    """Of two drawn at random the one with fewer calls under way, if equal the faster one. Each pick needs its report."""

    def __init__(self, rand: Rand) -> None:
        self._rand = rand
        # Deques, since appending and popping are atomic, and adding to a number is not.
        self._under_way: dict[bytes, deque[None]] = {}
        self._latency: dict[bytes, float] = {}

    def pick(self, instances: tuple[Instance, ...], key: str | bytes | None) -> Instance:  # noqa: ARG002 - of the protocol
        """Return the less loaded of two."""
        count = len(instances)
        first = self._rand.bits(48) % count
        # Another one, if there is one.
        second = (first + 1 + self._rand.bits(48) % max(1, count - 1)) % count
        best = min(instances[first], instances[second], key=self._load)
        self._calls(best).append(None)
        return best

    def _calls(self, instance: Instance) -> deque[None]:
        return self._under_way.setdefault(instance.key, deque(maxlen=_MANY_IN_FLIGHT))

    def _load(self, instance: Instance) -> tuple[int, float]:
        return len(self._calls(instance)), self._latency.get(instance.key, 0.0)

    def report(self, instance: Instance, *, ok: bool, latency: float | None) -> None:
        """Count one call less."""
        calls = self._calls(instance)
        if calls:
            calls.pop()
        if ok and latency is not None:
            known = self._latency.get(instance.key, latency)
            self._latency[instance.key] = known * _KEPT_LATENCY + latency * (1 - _KEPT_LATENCY)


class Sticky(_Deaf):
    """The same instance for the same key, by weighted rendezvous hashing.

    When an instance comes or goes, only keys that go to it or were with it move. The same in every process.
    """

    def pick(self, instances: tuple[Instance, ...], key: str | bytes | None) -> Instance:
        """Return the instance of ``key``. Raises :class:`InvalidArgument` without one."""
        if key is None:
            raise InvalidArgument("the sticky strategy picks by a key: pick(key)")
        raw = key.encode() if isinstance(key, str) else key
        return max(instances, key=lambda each: (_score(each, raw), each.id))


def _score(instance: Instance, key: bytes) -> float:
    who = instance.id.encode()
    digest = blake2b(len(who).to_bytes(4) + who + key, digest_size=8).digest()
    drawn = (int.from_bytes(digest) + 0.5) / 2**64  # in (0, 1)
    # The largest of such draws is an instance's with the chance that its weight gives it.
    return instance.weight / -math.log(drawn) if instance.weight else -1.0


_MADE: dict[str, Callable[[Rand], Strategy]] = {
    "random": Random,
    "round_robin": RoundRobin,
    "weighted": Weighted,
    "least_loaded": LeastLoaded,
    "sticky": lambda _: Sticky(),
    "zone": RoundRobin,
}


def strategy_of(strategy: StrategyName | Strategy, rand: Rand) -> Strategy:
    """Return a strategy by its name. Raises :class:`InvalidArgument` for an unknown one."""
    if not isinstance(strategy, str):
        return strategy
    made = _MADE.get(strategy)
    if made is None:
        raise InvalidArgument(f"strategy must be one of {', '.join(_MADE)}, not {strategy!r}")
    return made(rand)
