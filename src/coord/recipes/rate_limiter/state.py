"""What a limiter tells of itself, and how its members are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from coord.errors import DecodeError
from coord.names import as_text
from coord.recipes.membership import MemberCodec

if TYPE_CHECKING:
    from coord.recipes.rate_limiter.meter import Mode
    from coord.store.values import KeyValue

_CODEC = MemberCodec()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterMember:
    """One that shares a divided rate; ``share`` is what follows from the weights of all members, in permits per second."""

    id: str
    weight: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterState:
    """A limiter as of one revision.

    ``available`` is how many permits could be taken at once: by anybody in the strict mode, by this very object in the
    divided one, where ``share`` is its part of the rate that is in force.
    """

    mode: Mode
    rate: float
    burst: float
    available: float
    share: float
    members: tuple[LimiterMember, ...]


def weight_of(kv: KeyValue) -> float:
    """Return the weight of a member. One that cannot be read counts as one."""
    try:
        data = _CODEC.decode(kv.value).data
    except DecodeError:
        return 1.0
    weight = cast("dict[str, Any]", data).get("weight") if isinstance(data, dict) else None
    if isinstance(weight, (int, float)) and weight > 0 and math.isfinite(weight):
        return float(weight)
    return 1.0


def members_of(
    prefix: bytes, items: tuple[KeyValue, ...], rate: float
) -> tuple[LimiterMember, ...]:
    """Return the members, by their ids."""
    weights = [weight_of(kv) for kv in items]
    total = sum(weights)
    return tuple(
        [
            LimiterMember(
                id=as_text(kv.key[len(prefix) :]),
                weight=weight,
                share=rate * weight / total,
            )
            for kv, weight in zip(items, weights, strict=True)
        ]
    )
