"""Multi-lock: several names at once, among mutexes of single ones, without deadlock."""

from __future__ import annotations

from typing_extensions import override

import coord
from tests.exploration.process import Process, Scenario
from tests.exploration.world import World

_TIMEOUTS = (None, None, 0.0, 0.003, 0.2, 1.5)
_NAMES = ("l1", "l2", "l3")


class MultiLockScenario(Scenario):
    """Random sets of three names in random order, and mutexes of one."""

    name = "multi-lock"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1)
    prefix = b"l"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.bodies = self.bodies[: self.rand.randint(2, 5)]

    @override
    async def body(self, process: Process, task: int) -> None:
        await process.think()
        for _ in range(self.rand.choice((1, 1, 2))):
            session = await process.session()
            if session is None:
                return
            names = self.rand.sample(_NAMES, self.rand.choice((1, 2, 2, 3)))
            lock: coord.MultiLock | coord.Mutex
            if len(names) == 1:
                lock = process.client.mutex(names[0], session=session)
            else:
                lock = process.client.multi_lock(names, session=session)
            timeout = self.rand.choice(_TIMEOUTS)
            grant: object
            if self.rand.random() < 0.25:
                grant = await process.call("try", lock.try_acquire())
            else:
                grant = await process.call("acquire", lock.acquire(timeout=timeout), limit=timeout)
            if isinstance(grant, (coord.MutexGrant, coord.MultiLockGrant)):
                keys = tuple([f"{name}/{session.lease_id:x}".encode() for name in names])
                for name in names:
                    process.hold(grant, name, keys=keys)
                await process.think()
                await process.call("release", grant.release())
