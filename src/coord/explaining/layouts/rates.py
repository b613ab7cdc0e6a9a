"""Rate limiters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord.errors import CoordError
from coord.explaining.layouts.scene import Described, Describer, Scene, Seat
from coord.recipes.rate_limiter.divided import MEMBERS
from coord.recipes.rate_limiter.meter import MICRO, Meter
from coord.recipes.rate_limiter.state import members_of
from coord.store import operations as op

if TYPE_CHECKING:
    from coord.store.values import KeyValue


class RateLimiters(Describer):
    """The meter under the name, and the members of a divided one."""

    layout: str = "rate limiter"

    @override
    def fits(self, scene: Scene) -> bool:
        return scene.own is not None and _meter(scene.own) is not None

    @override
    async def describe(self, scene: Scene) -> Described:
        meter = None if scene.own is None else _meter(scene.own)
        if meter is None:
            return Described()
        fact = f"{meter.mode}: {meter.rate:g} per second, {meter.burst:g} at once"
        if meter.mode == "strict":
            free = meter.free(int(scene.home.env.clock.wall() * MICRO))
            return Described(facts=(f"{fact}, {int(free)} there now",))
        prefix = scene.name + MEMBERS + b"/"
        items = (await scene.read(op.get_prefix(prefix))).range(0).items
        shares = members_of(prefix, items, meter.rate)
        seats = [
            Seat(kv=kv, role=f"has {member.share:g} per second")
            for kv, member in zip(items, shares, strict=True)
        ]
        return Described(holders=tuple(seats), facts=(fact,))


def _meter(kv: KeyValue) -> Meter | None:
    try:
        return Meter.decode(kv.key, kv.value)
    except CoordError:
        return None
