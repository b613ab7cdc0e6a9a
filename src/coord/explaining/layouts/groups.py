"""Services with their instances, and groups with their members."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from typing_extensions import override

from coord.explaining.layouts.scene import Described, Describer, Scene, Seat, several
from coord.metadata import parse
from coord.roster import roster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.store.values import KeyValue


class Services(Describer):
    """Entries as Go's ``naming/endpoints`` has them."""

    layout: str = "service"

    @override
    def fits(self, scene: Scene) -> bool:
        return bool(scene.first) and all(
            b"/" not in scene.leaf(kv) and "Addr" in parse(kv.value) for kv in scene.first
        )

    @override
    async def describe(self, scene: Scene) -> Described:
        line = await roster(scene.home.core, scene.name, timeout=scene.timeout)
        seats = tuple([Seat(kv=kv, role=_instance(parse(kv.value))) for kv in line])
        return Described(holders=seats, facts=(several(len(line), "instance"),))


def _instance(said: Mapping[str, object]) -> str:
    metadata = said.get("Metadata")
    health: object = "serving"
    if isinstance(metadata, dict):
        health = cast("Mapping[str, object]", metadata).get("health", health)
    return f"at {said.get('Addr')}, {health}"


class Groups(Describer):
    """Leased keys, each of one member, whose value names a nonce."""

    layout: str = "group"

    @override
    def fits(self, scene: Scene) -> bool:
        return bool(scene.first) and all(self._is_member(scene, kv) for kv in scene.first)

    @staticmethod
    def _is_member(scene: Scene, kv: KeyValue) -> bool:
        said = parse(kv.value)
        return (
            bool(kv.lease)
            and b"/" not in scene.leaf(kv)
            and set(said) <= {"nonce", "data", "base64"}
            and "nonce" in said
        )

    @override
    async def describe(self, scene: Scene) -> Described:
        line = await roster(scene.home.core, scene.name, timeout=scene.timeout)
        return Described(
            holders=tuple([Seat(kv=kv, role="is a member") for kv in line]),
            facts=(several(len(line), "member"),),
        )
