"""Queues: how much is in them, what is oldest, and who works on what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.explaining.explanation import text_of
from coord.explaining.layouts.scene import Described, Describer, Scene, Seat, several
from coord.recipes.work_queue.layout import Attempts, Layout
from coord.store import operations as op
from coord.store.kv import SortBy

if TYPE_CHECKING:
    from coord.store.values import KeyValue, RangeResult

_MOST_CLAIMS = 100
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    leaf: re.Pattern[bytes]


# Ours are named by nonces, Go's queues by the time in nanoseconds.
_KINDS = (
    _Kind("priority queue", re.compile(rb"\d{5}/\d{16}")),
    _Kind("delay queue", re.compile(rb"\d{16}-[0-9a-f]+")),
    _Kind("queue", re.compile(rb"[0-9a-f]{16}|\d{19}")),
)


class Queues(Describer):
    """Items without a lease, each a key."""

    layout: str = "queue"

    @override
    def fits(self, scene: Scene) -> bool:
        return self._kind(scene) is not None

    def _kind(self, scene: Scene) -> str | None:
        for kind in _KINDS:
            if scene.first and all(
                not kv.lease and kind.leaf.fullmatch(scene.leaf(kv)) for kv in scene.first
            ):
                return kind.name
        return None

    @override
    async def describe(self, scene: Scene) -> Described:
        result = await scene.read(_oldest(scene.prefix))
        facts = [f"a {self._kind(scene)} of {several(scene.count, 'item')}"]
        facts += _age(result.range(0), len(scene.prefix))
        if self._kind(scene) == "delay queue":
            due = int(scene.leaf(scene.first[0])[:16]) / _MS - scene.home.env.clock.wall()
            facts.append("the next one is due" + (f" in {due:.1f} s" if due > 0 else ""))
        return Described(facts=tuple(facts))


class WorkQueues(Describer):
    """``items/``, ``claims/`` and their likes."""

    layout: str = "work queue"

    @override
    def fits(self, scene: Scene) -> bool:
        folders = (b"items/", b"claims/", b"attempts/", b"delay/", b"dead/", b"done/")
        return scene.has_only(b"conf", b"consumers/", *folders)

    @override
    async def describe(self, scene: Scene) -> Described:
        keys = Layout(scene.name)
        folders = (keys.items, keys.claims, keys.delay, keys.dead, keys.consumers)
        result = await scene.read(
            *[op.get_prefix(folder, count_only=True) for folder in folders],
            op.get_prefix(keys.claims, sort_by=SortBy.CREATE_REVISION, limit=_MOST_CLAIMS),
            _oldest(keys.items),
        )
        items, claims, delayed, dead, consumers = [result.range(n).count for n in range(5)]
        depth = (
            f"{several(items, 'item')}: {max(0, items - claims - delayed)} ready, {claims} claimed,"
            f" {delayed} delayed; {several(dead, 'dead letter')}, {several(consumers, 'consumer')}"
        )
        facts = [depth]
        facts += _age(result.range(6), len(keys.items))
        claimed = result.range(5).items
        attempts = await self._attempts(scene, keys, claimed)
        seats = [
            Seat(kv=kv, role=f"works on {text_of(kv.key[len(keys.claims) :])}, attempt {n}")
            for kv, n in zip(claimed, attempts, strict=True)
        ]
        return Described(holders=tuple(seats), facts=tuple(facts))

    async def _attempts(
        self, scene: Scene, keys: Layout, claims: tuple[KeyValue, ...]
    ) -> list[int]:
        if not claims:
            return []
        reads = [op.get(keys.attempts + kv.key[len(keys.claims) :]) for kv in claims]
        result = await scene.read(*reads)
        found = [result.range(n).items for n in range(len(claims))]
        return [Attempts.decode(items[0].value).n if items else 0 for items in found]


def _oldest(prefix: bytes) -> op.Op:
    return op.get_prefix(prefix, sort_by=SortBy.CREATE_REVISION, limit=1, keys_only=True)


def _age(found: RangeResult, cut: int) -> list[str]:
    """Say which item is oldest; how old it is no key tells but by revisions."""
    if not found.items:
        return []
    kv = found.items[0]
    since = f"{kv.create_revision} ({found.revision - kv.create_revision} ago)"
    return [f"the oldest is {text_of(kv.key[cut:])}, from revision {since}"]
