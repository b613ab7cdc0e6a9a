"""Read-write lock: many readers or one writer, downgrades, and entries that never change."""

from __future__ import annotations

from typing_extensions import override

import coord
from tests.exploration.process import Holding, Process, Scenario, Violation
from tests.exploration.store import Change
from tests.exploration.world import World

_TIMEOUTS = (None, None, 0.0, 0.003, 0.2, 1.5)


class RWLockScenario(Scenario):
    """Readers and writers in three processes; some writers go on as readers."""

    name = "rwlock"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1, 2)
    prefix = b"rw"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.bodies = self.bodies[: self.rand.randint(2, 6)]

    @override
    async def body(self, process: Process, task: int) -> None:
        await process.think()
        for _ in range(self.rand.choice((1, 1, 2))):
            session = await process.session()
            if session is None:
                return
            lock = process.client.rwlock("rw", session=session)
            downgradable = self.rand.random() < 0.4
            if self.rand.random() < 0.5:
                await self._use(process, lock.read(), "read", downgradable=False)
            else:
                side = lock.write(downgradable=downgradable)
                await self._use(process, side, "write", downgradable=downgradable)

    async def _use(
        self,
        process: Process,
        side: coord.ReadLock | coord.WriteLock,
        mode: str,
        *,
        downgradable: bool,
    ) -> None:
        timeout = self.rand.choice(_TIMEOUTS)
        grant: object
        if self.rand.random() < 0.25:
            grant = await process.call(f"try {mode}", side.try_acquire())
        else:
            grant = await process.call(mode, side.acquire(timeout=timeout), limit=timeout)
        if not isinstance(grant, (coord.ReadGrant, coord.WriteGrant)):
            return
        # Who goes on as a reader stands on another key then.
        holding = process.hold(grant, "rw", mode, keys=(grant.key, *grant._entry.beside))
        await process.think()
        if isinstance(grant, coord.WriteGrant) and downgradable:
            holding.about = "read"  # it may have happened as soon as it is asked for
            await process.call("downgrade", grant.downgrade(timeout=1.0), limit=1.0)
            await process.think(0.1)
        await process.call("release", grant.release())

    @override
    def exclude(self, one: Holding, other: Holding) -> bool:
        return "write" in (one.about, other.about)

    @override
    def judge(self, changes: list[Change]) -> None:
        for change in changes:
            if (
                change.key.startswith(b"rw/")
                and change.value is not None
                and change.created != change.revision
            ):
                raise Violation("immutable", f"{change.key!r} was changed")
