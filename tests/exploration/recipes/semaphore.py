"""Semaphore: weights, a limit that changes, first come first served."""

from __future__ import annotations

from typing_extensions import override

import coord
from tests.exploration.events import event_of
from tests.exploration.process import Holding, Process, Scenario
from tests.exploration.store import Change
from tests.exploration.world import World
from tests.sdk.semaphore_model import Model

_TIMEOUTS = (None, None, 0.0, 0.003, 0.2, 1.5)


class SemaphoreScenario(Scenario):
    """Takers of one or two of at most three permits; one of them changes the limit."""

    name = "semaphore"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1, 2)
    prefix = b"s/"

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
            semaphore = process.client.semaphore("s", initial_limit=2, session=session)
            if self.rand.random() < 0.2:
                # Never below what anybody asks for, or a taker would wait for ever.
                limit = self.rand.choice((2, 3))
                await process.call("limit", semaphore.set_limit(limit, timeout=3.0), limit=3.0)
            permits = self.rand.choice((1, 1, 2))
            timeout = self.rand.choice(_TIMEOUTS)
            if self.rand.random() < 0.25:
                got = await process.call("try", semaphore.try_acquire(permits))
            else:
                taking = semaphore.acquire(permits, timeout=timeout)
                got = await process.call("acquire", taking, limit=timeout)
            if isinstance(got, coord.Permit):
                process.hold(got, "s")
                await process.think()
                await process.call("release", got.release())

    @override
    def exclude(self, one: Holding, other: Holding) -> bool:
        return False

    @override
    def stays(self, key: bytes) -> bool:
        return key == b"s/limit"

    @override
    def judge(self, changes: list[Change]) -> None:
        model = Model("s")
        for change in changes:
            if change.key.startswith(b"s/"):
                model.change(event_of(change))
        model.at_rest()
