"""Mutex: exclusive, first come first served, fenced; in all its kinds."""

from __future__ import annotations

import coord
from coord import op
from coord.mutex import Mutex, MutexGrant
from tests.exploration.store import Change
from tests.exploration.world import Process, Scenario, Violation, World

_TIMEOUTS = (None, None, 0.0, 0.003, 0.2, 1.5)


class MutexScenario(Scenario):
    """Three processes, two of them with two tasks; a write under the token while the lock is held."""

    name = "mutex"
    processes = 3
    bodies = (0, 1, 2, 0, 1)
    prefix = b"m"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.bodies = self.bodies[: self.rand.randint(2, 5)]

    def mutex(self, process: Process, session: coord.Session) -> Mutex:
        """Return the process's way to the lock."""
        return process.client.mutex("m", session=session)

    async def body(self, process: Process, task: int) -> None:
        await process.think()
        for _ in range(self.rand.choice((1, 1, 2))):
            session = await process.session()
            if session is None:
                return
            mutex = self.mutex(process, session)
            timeout = self.rand.choice(_TIMEOUTS)
            if self.rand.random() < 0.25:
                got = await process.call("try", mutex.try_acquire())
            else:
                got = await process.call("acquire", mutex.acquire(timeout=timeout), limit=timeout)
            if isinstance(got, MutexGrant):
                await self.held(process, got)

    async def held(self, process: Process, grant: MutexGrant) -> None:
        """Use what is held."""
        process.hold(grant, "m")
        put = op.put("w", str(grant.token))
        await process.call("write", grant.txn().then(put).commit())
        await process.think()
        await process.call("release", grant.release())

    def judge(self, changes: list[Change]) -> None:
        last = 0
        for change in changes:
            if change.key == b"w" and change.value is not None:
                token = int(change.value)
                if token < last:
                    raise Violation("fence", f"a write with token {token} after one with {last}")
                last = token
