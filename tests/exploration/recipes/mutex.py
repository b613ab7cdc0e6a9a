"""Mutex: exclusive, first come first served, fenced; in all its kinds."""

from __future__ import annotations

from typing_extensions import override

import coord
from coord import op
from coord.mutex import Mutex, MutexGrant
from tests.exploration.process import Holding, Process, Scenario, Violation
from tests.exploration.store import CLIENT, Change
from tests.exploration.world import World

_TIMEOUTS = (None, None, 0.0, 0.003, 0.2, 1.5)
_DELAY_S = 0.4


class MutexScenario(Scenario):
    """Three processes, two of them with two tasks; a write under the token while the lock is held."""

    name = "mutex"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1)
    prefix = b"m"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.bodies = self.bodies[: self.rand.randint(2, 5)]

    def mutex(self, process: Process, session: coord.Session) -> Mutex:
        """Return the process's way to the lock."""
        return process.client.mutex("m", session=session)

    @override
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
                await self.held(process, mutex, got)

    async def held(self, process: Process, mutex: Mutex, grant: MutexGrant) -> None:
        """Use what is held."""
        del mutex
        holding = process.hold(grant, "m")
        put = op.put("w", str(grant.token))
        await process.call("write", grant.txn().then(put).commit())
        await process.think()
        holding.released = True
        await process.call("release", grant.release())

    @override
    def judge(self, changes: list[Change]) -> None:
        last = 0
        for change in changes:
            if change.key == b"w" and change.value is not None:
                token = int(change.value)
                if token < last:
                    raise Violation("fence", f"a write with token {token} after one with {last}")
                last = token


class SingleKeyScenario(MutexScenario):
    """The layout of one key, which has no line."""

    name = "mutex-single-key"

    @override
    def mutex(self, process: Process, session: coord.Session) -> Mutex:
        return process.client.mutex("m", session=session, layout="single-key")


class ReentrantScenario(MutexScenario):
    """A holder takes the lock again, and gives it back as often."""

    name = "mutex-reentrant"

    @override
    def mutex(self, process: Process, session: coord.Session) -> Mutex:
        return process.client.mutex("m", session=session, reentrant=True)

    @override
    async def held(self, process: Process, mutex: Mutex, grant: MutexGrant) -> None:
        holding = process.hold(grant, "m")
        inner = await process.call("again", mutex.acquire(timeout=1.0), limit=1.0)
        if isinstance(inner, MutexGrant) and inner is grant:
            await process.think(0.1)
            await process.call("release inner", inner.release())
        elif isinstance(inner, MutexGrant):  # the first one had been lost
            holding = process.hold(inner, "m")
            await process.call("release", grant.release())
            grant = inner
        put = op.put("w", str(grant.token))
        if not grant.released:
            await process.call("write", grant.txn().then(put).commit())
        holding.released = True
        await process.call("release", grant.release())


class LockDelayScenario(MutexScenario):
    """Nobody gets the lock soon after a holder that did not release."""

    name = "mutex-lock-delay"

    @override
    def mutex(self, process: Process, session: coord.Session) -> Mutex:
        return process.client.mutex("m", session=session, lock_delay=_DELAY_S)

    @override
    async def held(self, process: Process, mutex: Mutex, grant: MutexGrant) -> None:
        before = [h for h in self.world.holdings.get("m", []) if h.grant.token < grant.token]
        if before and grant.valid_for() > 0:
            self._check_delay(max(before, key=lambda h: h.grant.token), grant)
        await super().held(process, mutex, grant)

    def _check_delay(self, before: Holding, grant: MutexGrant) -> None:
        gone = [
            change
            for change in self.world.store.changes
            if change.key == before.grant.key
            and change.value is None
            and before.grant.token < change.revision < grant.token
        ]
        # A deletion that the waiter saw; what went before it stood in line, it learns from the marks.
        if not gone or before.released or gone[0].by == CLIENT:
            return
        passed = self.world.loop.now - gone[0].at
        if passed < _DELAY_S * 0.99:
            raise Violation("delay", f"granted {passed:.3f} s after a holder that did not release")
