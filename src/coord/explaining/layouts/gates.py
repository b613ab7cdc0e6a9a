"""Barriers, double barriers and latches."""

from __future__ import annotations

import re

from typing_extensions import override

from coord.explaining.explanation import text_of
from coord.explaining.layouts.scene import Described, Describer, Scene, Seat, several
from coord.roster import roster

_LATCH = re.compile(rb"(\d+) (\d+)")
_SHOWN = 10


class Barriers(Describer):
    """The key itself, without a lease: the gate is closed."""

    layout: str = "barrier"

    @override
    def fits(self, scene: Scene) -> bool:
        # What a counter or a configuration holds looks like neither a nonce of ours nor Go's empty value.
        return (
            scene.own is not None
            and not scene.own.lease
            and not scene.count
            and re.fullmatch(rb"(?:[0-9a-f]{16})?", scene.own.value) is not None
        )

    @override
    async def describe(self, scene: Scene) -> Described:
        token = 0 if scene.own is None else scene.own.create_revision
        return Described(facts=(f"closed, by token {token}, until somebody opens it",))


class DoubleBarriers(Describer):
    """``waiters/`` and ``ready``."""

    layout: str = "double barrier"

    @override
    def fits(self, scene: Scene) -> bool:
        return scene.has_only(b"waiters/", b"ready")

    @override
    async def describe(self, scene: Scene) -> Described:
        line = await roster(scene.home.core, scene.name, timeout=scene.timeout)
        ready = [kv for kv in line if scene.leaf(kv) == b"ready"]
        opened = ready[0].mod_revision if ready else 0
        waiting = [kv for kv in line if scene.leaf(kv).startswith(b"waiters/")]
        inside = [kv for kv in waiting if kv.create_revision < opened]
        outside = [kv for kv in waiting if kv.create_revision > opened]
        parties = "1 party" if len(outside) == 1 else f"{len(outside)} parties"
        facts = [f"{parties} waiting to enter"]
        if inside:
            facts.append(f"a round is under way since revision {opened}")
        return Described(
            holders=tuple([Seat(kv=kv, role="is inside") for kv in inside]),
            waiters=tuple([Seat(kv=kv, role="waits to enter") for kv in outside]),
            facts=tuple(facts),
        )


class Latches(Describer):
    """``<remaining> <generation>``, and ``arrived/``."""

    layout: str = "latch"

    @override
    def fits(self, scene: Scene) -> bool:
        return (
            scene.own is not None
            and _LATCH.fullmatch(scene.own.value) is not None
            and (not scene.count or scene.has_only(b"arrived/"))
        )

    @override
    async def describe(self, scene: Scene) -> Described:
        found = None if scene.own is None else _LATCH.fullmatch(scene.own.value)
        left, generation = (0, 0) if found is None else map(int, found.groups())
        state = "open" if not left else f"waits for {several(left, 'arrival')}"
        facts = [f"{state}, of {left + scene.count}, generation {generation}"]
        if scene.first:
            names = [text_of(kv.key.rpartition(b"/arrived/")[2]) for kv in scene.first[:_SHOWN]]
            more = f" and {scene.count - len(names)} more" if scene.count > len(names) else ""
            facts.append(f"arrived: {', '.join(names)}{more}")
        return Described(facts=tuple(facts))
