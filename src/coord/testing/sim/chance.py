"""Draws that a seed decides, one by one: ``draw = mix(key(seed, stream, entity), counter)``.

There is no shared sequence. Each decision has a stream (what is decided) and an entity (for whom), and
the n-th draw there is the same whatever else was drawn meanwhile. So a plan with one item less gives
the same chances to everything that is left, which is what makes shrinking work.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

_MASK: Final = (1 << 64) - 1
# SplitMix64 (Steele, Lea, Flood 2014): the odd number nearest to 2^64 divided by the golden ratio, and two mixers.
_STEP: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_TO_UNIT: Final = 1.0 / (1 << 53)


def key_of(seed: int, stream: str, entity: str) -> int:
    """Return the 64 bits that all draws of one stream and entity grow from."""
    text = f"{seed}\0{stream}\0{entity}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class Chance:
    """The draws of one stream for one entity, in order."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, stream: str, entity: str = "") -> None:
        self._state = key_of(seed, stream, entity)

    def bits64(self) -> int:
        """Return 64 bits."""
        self._state = z = (self._state + _STEP) & _MASK
        z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
        z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
        return z ^ (z >> 31)

    def unit(self) -> float:
        """Return a number in ``[0, 1)``."""
        return (self.bits64() >> 11) * _TO_UNIT

    def uniform(self, low: float, high: float) -> float:
        """Return a number in ``[low, high]``."""
        return low + (high - low) * self.unit()

    def exponential(self, mean: float) -> float:
        """Return a waiting time with this mean."""
        return -mean * math.log(1.0 - self.unit())

    def log_uniform(self, low: float, high: float) -> float:
        """Return a number in ``[low, high]`` whose order of magnitude is uniform."""
        return low * math.exp(self.unit() * math.log(high / low))

    def randrange(self, stop: int, /) -> int:
        """Return a number in ``[0, stop)``."""
        return self.bits64() % stop

    def below(self, probability: float) -> bool:
        """Tell whether something with this probability happens."""
        return self.unit() < probability

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.randrange(len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Return ``count`` of the options (all, if there are fewer), in their order."""
        left = list(range(len(options)))
        chosen = [left.pop(self.randrange(len(left))) for _ in range(min(count, len(options)))]
        return [options[place] for place in sorted(chosen)]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Return the options in another order."""
        left = list(options)
        return [left.pop(self.randrange(len(left))) for _ in range(len(left))]

    def randbytes(self, n: int, /) -> bytes:
        """Return ``n`` bytes."""
        words = [self.bits64().to_bytes(8, "big") for _ in range((n + 7) // 8)]
        return b"".join(words)[:n]
