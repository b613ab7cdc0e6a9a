"""Cron: each tick begins in its time and order, at most as often as its policy says, and what has begun ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Literal

from typing_extensions import override

import coord
from coord.recipes.cron.layout import tick_id
from tests.exploration.process import TTL_S, Holding, Process, Scenario, Violation
from tests.exploration.store import Change
from tests.exploration.world import World
from tests.sdk.cron_model import Model

_POLICIES: tuple[tuple[str, Literal["at_most_once", "at_least_once"]], ...] = (
    ("once", "at_most_once"),
    ("sure", "at_least_once"),
)
_OWNERSHIPS: tuple[Literal["partitioned", "elected"], ...] = ("elected", "partitioned")
_GRACE_S = 5.0
_TAKEN_OVER_S = 2 * TTL_S
"""After the last fault those who have died are replaced within this time."""
_CLEARED_S = 2 * TTL_S
"""What is begun then, and what waits, has ended within this time: further attempts come after some seconds each."""


class CronScenario(Scenario):
    """Three schedulers that come and go, two jobs, and somebody who pauses them and asks for runs."""

    name = "cron"
    bodies: tuple[int, ...] = (0, 1, 2, 1)
    prefix = b"c/"
    keeps_watching = True
    operator = 3

    def __init__(self, world: World) -> None:
        super().__init__(world)
        rand = world.rand
        self.ownership = rand.choice(_OWNERSHIPS)
        self.jobs = [
            coord.Job(
                name=name,
                schedule=rand.choice(("@every 1s", "@every 2s")),
                policy=policy,
                retries=rand.choice((0, 2)),
                misfire=rand.choice(("skip", "once", "all")),
                misfire_grace=rand.choice((1.5, 60.0)),
                overlap=rand.random() < 0.3,
                timeout=rand.choice((None, None, 0.5)),
                jitter=rand.choice((0.0, 0.0, 0.5)),
            )
            for name, policy in _POLICIES
        ]
        self.begun: dict[tuple[str, str], int] = {}
        self.watched = 0
        """How many have seen to the jobs from before these were paused until nothing was left to do."""

    @override
    def deletable(self) -> list[bytes]:
        return [key for key in super().deletable() if not key.startswith(b"c/ticks/")]

    @override
    def stays(self, key: bytes) -> bool:
        return key.startswith((b"c/jobs/", b"c/state/"))

    @override
    def exclude(self, one: Holding, other: Holding) -> bool:
        return one.about == other.about or not self._job(one.grant).overlap

    @staticmethod
    def _job(grant: coord.Grant) -> coord.Job:
        assert isinstance(grant, coord.Tick)
        return grant.job

    def _cron(self, process: Process) -> coord.Cron:
        return process.client.cron("c", ownership=self.ownership, history=60, ttl=TTL_S)

    @override
    async def body(self, process: Process, task: int) -> None:
        if task == self.operator:
            await self._operate(process)
            return
        for last in self.rand.choice(((True,), (False, True), (False,))):
            await process.think(1.0)
            cron = self._cron(process)
            running = asyncio.ensure_future(
                cron.run(self._handler(process), grace=self.rand.choice((0.0, _GRACE_S)))
            )
            try:
                if last:
                    await self._to_the_end(process, running)
                else:
                    await asyncio.wait({running}, timeout=self.rand.choice((0.01, 1.0, 3.0)))
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError, coord.CoordError):
                    await running

    async def _to_the_end(self, process: Process, running: asyncio.Task[None]) -> None:
        await self.world.until_calm(_TAKEN_OVER_S)
        stayed = not (running.done() or process.is_closed)
        paused = 0
        for job in self.jobs:
            done = await process.call("pause", self._cron(process).pause(job.name, timeout=2.0))
            # Whether it was done by us, by another one, or there is no such job.
            paused += isinstance(done, bool | coord.UnknownJob)
        await self.world.until_calm(_TAKEN_OVER_S + _CLEARED_S)
        self.watched += stayed and paused == len(self.jobs) and not running.done()

    async def _operate(self, process: Process) -> None:
        cron = self._cron(process)
        for job in self.jobs:
            await process.call("add", cron.add(job, timeout=2.0), limit=2.0)
        for _ in range(self.rand.choice((0, 1, 3))):
            await process.think(1.0)
            name = self.rand.choice(self.jobs).name
            change = self.rand.choice((cron.pause, cron.resume, cron.run_now, cron.run_now))
            await process.call("change", change(name, timeout=2.0), limit=2.0)

    def _handler(self, process: Process) -> Any:  # noqa: ANN401 - as a cron takes it
        async def handle(tick: coord.Tick) -> None:
            process.hold(tick, tick.job.name, tick_id(tick.at))
            if tick.at.timestamp() > process.core.env.clock.wall() + 0.001:
                raise Violation("early", f"{tick.job.name} of {tick.at} begins before its time")
            key = (tick.job.name, tick_id(tick.at))
            self.begun[key] = times = self.begun.get(key, 0) + 1
            if times > 1 and tick.job.policy == "at_most_once":
                raise Violation("twice", f"{key} begins again")
            await asyncio.sleep(self.rand.choice((0.0, 0.01, 0.3, 1.2)))
            if self.rand.random() < 0.1:
                raise LookupError("this run fails")

        return handle

    @override
    def is_told(self, context: dict[str, Any]) -> bool:
        return isinstance(context.get("exception"), LookupError)

    @override
    def judge(self, changes: list[Change]) -> None:
        model = Model("c")
        for change in changes:
            if change.key.startswith(self.prefix):
                model.change(_event(change))
        if self.watched:
            model.at_rest()


def _event(change: Change) -> coord.WatchEvent:
    """Return a change as a watch of a client would show it."""
    gone = change.value is None
    kv = coord.KeyValue(
        key=change.key,
        value=change.value or b"",
        create_revision=0 if gone else change.created,
        mod_revision=change.revision,
        version=0 if gone else 1 + (change.created != change.revision),
        lease=change.lease,
    )
    return coord.WatchEvent(type=coord.EventType.DELETE if gone else coord.EventType.PUT, kv=kv)
