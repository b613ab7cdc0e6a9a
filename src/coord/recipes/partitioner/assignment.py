"""Who should have which partition: a pure function of the members and the partitions (spec recipes 16).

Weighted rendezvous hashing (Thaler and Ravishankar 1998): each pair of a partition and a member has a score, and a
partition goes to the member with the best one. A member that comes takes partitions to itself, one that goes leaves
only its own behind.

Hashing alone is uneven, so nobody gets more than :data:`LOAD` times the fair share, rounded up (Mirrokni, Thorup and
Zadimoghaddam 2018). What does not fit goes where its score is next best. Partitions propose and members keep those that
score best with them (Gale and Shapley 1962). Since both sides rank by the same scores there is one stable outcome: the
order of the partitions and of the members does not matter.

Everything is in whole numbers, so that all machines agree to the bit.
"""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

LOAD = (5, 4)
"""The most that a member gets, as a fraction of its fair share."""

_BITS = 64
_ONE = 1 << (_BITS - 1)


def capacity(partitions: int, weight: int, total_weight: int) -> int:
    """Return the most partitions that a member of ``weight`` may get: 1.25 times its fair share, rounded up."""
    numerator, denominator = LOAD
    return -(-numerator * partitions * weight // (denominator * total_weight))


def score(partition: bytes, member: bytes, weight: int) -> int:
    """Return how far a member is from a partition; the nearest one has it.

    The hash is taken for a number u between 0 and 1, and ``-log2(u) / weight`` is the distance: the member with the
    smallest one is then drawn in proportion to the weights. The logarithm is that of Mitchell (1962), a straight line
    between powers of two: it keeps the order, is exact in whole numbers, and bends the proportions by some percent.
    """
    h = int.from_bytes(blake2b(b"%b\0%b" % (partition, member), digest_size=8).digest()) or 1
    n = h.bit_length()
    mantissa = h << (_BITS - n)  # from 1 to below 2, in units of _ONE
    return (((_BITS - n + 2) * _ONE - mantissa) << 16) // weight


def assign(partitions: Collection[str], members: Mapping[str, int]) -> dict[str, str]:
    """Return the member that should have each partition; nothing, without members.

    ``members``: their ids and weights, which are whole numbers from 1 on.
    """
    if not members:
        return {}
    total = sum(members.values())
    room = {m: capacity(len(partitions), weight, total) for m, weight in members.items()}
    known = [(m, m.encode(), weight) for m, weight in members.items()]
    # Per member a heap of what it keeps, the farthest first; per refused partition where it has yet to ask.
    kept: dict[str, list[tuple[int, str]]] = {m: [] for m in members}
    left: dict[str, list[tuple[int, str]]] = {}
    for partition in partitions:
        raw = partition.encode()
        best, at = min([(score(raw, key, weight), m) for m, key, weight in known])
        asking, distance, member = partition, best, at
        while True:
            keeps = kept[member]
            if len(keeps) < room[member]:
                heapq.heappush(keeps, (-distance, asking))
                break
            # Two partitions at the same distance are told apart by their names.
            _, asking = heapq.heappushpop(keeps, (-distance, asking))
            distance, member = _next(asking, known, left)
    return {p: m for m, keeps in kept.items() for _, p in keeps}


def _next(
    partition: str, known: list[tuple[str, bytes, int]], left: dict[str, list[tuple[int, str]]]
) -> tuple[int, str]:
    """Return where a partition asks after it was refused."""
    rest = left.get(partition)
    if rest is None:
        raw = partition.encode()
        rest = sorted([(score(raw, key, weight), m) for m, key, weight in known], reverse=True)
        rest.pop()  # it began with the best
        left[partition] = rest
    return rest.pop()
