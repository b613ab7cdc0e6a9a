"""Mutexes, multi-locks and elections, whose layout is one; and locks that are a single key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord.entry import META_PREFIX
from coord.explaining.explanation import text_of
from coord.explaining.layouts.scene import Described, Describer, Scene, Seat
from coord.metadata import parse
from coord.roster import roster
from coord.store import operations as op

if TYPE_CHECKING:
    from coord.store.values import KeyValue

_MOST_NAMES = 16


class Lines(Describer):
    """Leased keys that are called by their leases, in order of creation: the first one holds."""

    layout: str = "line"

    @override
    def fits(self, scene: Scene) -> bool:
        """Whether some key is called by its lease; others in the line may be those of other programs."""
        return any(kv.lease and scene.leaf(kv) == b"%x" % kv.lease for kv in scene.first)

    @override
    async def describe(self, scene: Scene) -> Described:
        line = await roster(scene.home.core, scene.name, timeout=scene.timeout)
        seats = tuple([Seat(kv=kv, metadata=parse(kv.value)) for kv in line])
        return Described(
            holders=seats[:1],
            waiters=seats[1:],
            facts=await _beside(scene, line[0]) if line else (),
        )


async def _beside(scene: Scene, first: KeyValue) -> tuple[str, ...]:
    """Say which other names the holder has with the same entry: those of a multi-lock."""
    if not first.lease:
        return ()
    info = await scene.home.leases.time_to_live(first.lease, keys=True, timeout=scene.timeout)
    leaf = b"/%x" % first.lease
    keys = [
        key
        for key in info.keys
        if key.endswith(leaf) and key != first.key and not key.startswith(META_PREFIX)
    ][:_MOST_NAMES]
    if not keys:
        return ()
    result = await scene.read(*[op.get(key, keys_only=True) for key in keys])
    names = [
        text_of(kv.key.removesuffix(leaf))
        for number in range(len(keys))
        for kv in result.range(number).items
        if kv.create_revision == first.create_revision
    ]
    return (f"taken together with {', '.join(names)}",) if names else ()


class SingleKeys(Describer):
    """The key itself, with a lease: its creator holds, and nobody is in line. A leased gate looks the same."""

    layout: str = "single key"

    @override
    def fits(self, scene: Scene) -> bool:
        return scene.own is not None and bool(scene.own.lease) and not scene.count

    @override
    async def describe(self, scene: Scene) -> Described:
        kv = scene.own
        return Described(
            holders=() if kv is None else (Seat(kv=kv, metadata=parse(kv.value)),),
            facts=("whoever waits for it leaves no trace, and has no order",),
        )
