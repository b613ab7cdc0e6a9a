"""Read-write locks and semaphores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord.explaining.layouts.scene import Described, Describer, Scene, Seat, several
from coord.recipes.rwlock.state import state_of
from coord.recipes.semaphore.entries import Names, entry_of, limit_of
from coord.roster import roster
from coord.store import operations as op

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.recipes.rwlock.state import RWEntry


class RWLocks(Describer):
    """``read/`` and ``write/``."""

    layout: str = "read-write lock"

    @override
    def fits(self, scene: Scene) -> bool:
        return scene.has_only(b"read/", b"write/")

    @override
    async def describe(self, scene: Scene) -> Described:
        line = await roster(scene.home.core, scene.name, timeout=scene.timeout)
        found = {kv.key: kv for kv in line}
        state = state_of(scene.name, line)

        def seats(entries: Iterable[RWEntry], role: str) -> tuple[Seat, ...]:
            return tuple(
                [
                    Seat(
                        kv=found[entry.key],
                        role=role.format(entry.mode),
                        metadata=entry.metadata,
                    )
                    for entry in entries
                ]
            )

        writing = () if state.writer is None else (state.writer,)
        return Described(
            holders=seats(state.readers, "reads") + seats(writing, "writes"),
            waiters=seats(state.waiting, "waits to {}"),
        )


class Semaphores(Describer):
    """``limit`` and ``holders/``."""

    layout: str = "semaphore"

    @override
    def fits(self, scene: Scene) -> bool:
        return scene.has_only(b"limit", b"holders/")

    @override
    async def describe(self, scene: Scene) -> Described:
        names = Names(scene.name)
        result = await scene.read(op.get(names.limit), op.get_prefix(names.holders))
        limit = limit_of(result.range(0))
        holders: list[Seat] = []
        waiters: list[Seat] = []
        used = 0
        for kv in sorted(result.range(1).items, key=lambda kv: kv.create_revision):
            entry = entry_of(kv)
            permits = several(entry.permits, "permit")
            if entry.state == "granted":
                used += entry.permits
                holders.append(Seat(kv=kv, role=f"holds {permits}", metadata=entry.metadata))
            else:
                waiters.append(Seat(kv=kv, role=f"waits for {permits}", metadata=entry.metadata))
        fact = "no limit is set" if limit is None else f"limit {limit.value}, {used} in use"
        return Described(holders=tuple(holders), waiters=tuple(waiters), facts=(fact,))
