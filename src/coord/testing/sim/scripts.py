"""The scripts of client programs: what each does, one operation after the other.

Clients of a run differ, as programs do. One that only reads is what meets a state that is too old: who also
writes waits with its write where nothing can be written, and never gets to read there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coord.testing.sim.chance import Chance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord.testing.sim.options import Options

_Weights = tuple[tuple[str, int], ...]

# By role: the weight of each operation.
_ROLES: Final[dict[str, _Weights]] = {
    "mixed": (
        ("put", 30), ("get", 20), ("list", 6), ("delete", 8), ("cas", 14), ("pair", 6),
        ("grant", 3), ("leased", 5), ("renew", 6), ("revoke", 1), ("compact", 1), ("past", 3),
    ),
    "reader": (("get", 60), ("list", 36), ("past", 4)),
    "writer": (("put", 50), ("cas", 20), ("delete", 15), ("pair", 12), ("compact", 3)),
    "holder": (
        ("grant", 20), ("leased", 30), ("renew", 20), ("revoke", 4), ("get", 14), ("put", 12),
    ),
}  # fmt: skip
# How often a client has which role.
_SHARES: Final[_Weights] = (("mixed", 30), ("reader", 30), ("writer", 15), ("holder", 25))
# Whose operations are how many times as many as the options say: what is wrong for a moment must be met.
_BUSIER: Final = {"reader": 4, "writer": 2, "holder": 2}

# Between the operations of a burst.
_GAP_S: Final = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """A step of a client's script: wait ``after`` seconds, then do it within ``timeout`` seconds."""

    id: int
    client: str
    op: str
    key: int
    after: float
    timeout: float


def draw_script(options: Options, name: str, *, first: int) -> list[Op]:
    """Return the script of the client ``name``; its operations are numbered from ``first``."""
    role = _drawn(Chance(options.seed, "role", name), _SHARES)
    weights = _ROLES[role]
    chance = Chance(options.seed, "script", name)
    # The scripts fill the chaos, whatever their length and however bursty they are.
    count = options.ops_per_client * _BUSIER.get(role, 1)
    pause = options.chaos_s / (count / options.burst)
    script: list[Op] = []
    for number in range(count):
        op = _drawn(chance, weights)
        pauses = chance.below(1.0 / options.burst)
        after = chance.exponential(pause * 0.8) if pauses else chance.exponential(_GAP_S)
        script.append(
            Op(
                id=first + number,
                client=name,
                op=op,
                key=chance.randrange(options.keys),
                after=round(after, 4),
                timeout=round(chance.uniform(1.0, 6.0), 2),
            )
        )
    return script


def _drawn(chance: Chance, weights: Sequence[tuple[str, int]]) -> str:
    place = chance.randrange(sum(weight for _, weight in weights))
    for name, weight in weights:
        place -= weight
        if place < 0:
            return name
    raise ValueError("no such place")
