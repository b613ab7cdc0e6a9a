"""Election: one leader at a time, proclaims that end with the term, observers who see the true history."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from itertools import groupby, pairwise
from typing import cast

from typing_extensions import override

import coord
from tests.exploration.process import TTL_S, Process, Scenario, Violation
from tests.exploration.store import Change
from tests.exploration.world import World

TTL_AND_MORE_S = TTL_S + 1.0
_TIMEOUTS = (None, None, 0.0, 0.003, 0.2, 1.5)
Seen = tuple[int, int, bytes] | None


class ElectionScenario(Scenario):
    """Three candidates who proclaim, resign or hand on, and two observers."""

    name = "election"
    bodies: tuple[int, ...] = (0, 1, 2, 1, 2)
    prefix = b"e/"
    observers = (3, 4)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.seen: dict[int, list[Seen]] = {}
        self.leading = 3

    @override
    async def body(self, process: Process, task: int) -> None:
        if task in self.observers:
            await self._observe(process, task)
            return
        try:
            await process.think()
            for round_ in range(self.rand.choice((1, 1, 2))):
                session = await process.session()
                if session is None:
                    return
                await self._stand(process, session, f"{task}.{round_}")
        finally:
            self.leading -= 1

    async def _stand(self, process: Process, session: coord.Session, value: str) -> None:
        election = process.client.election("e", session=session)
        timeout = self.rand.choice(_TIMEOUTS)
        campaign = election.campaign(value, timeout=timeout)
        term = await process.call("campaign", campaign, limit=timeout)
        if not isinstance(term, coord.Term):
            return
        process.hold(term, "e")
        await process.think()
        if self.rand.random() < 0.5:
            await process.call("proclaim", term.proclaim(f"{value}!", timeout=1.0), limit=1.0)
        if self.rand.random() < 0.3:
            line = await process.call("candidates", election.candidates())
            if isinstance(line, tuple) and len(line) > 1:
                to = self.rand.choice(line[1:]).key
                await process.call("transfer", term.transfer(to, patience=1.0, timeout=2.0))
        await process.call("resign", term.resign())

    async def _observe(self, process: Process, task: int) -> None:
        await process.think()
        seen = self.seen[task] = []
        observing = cast(
            "AsyncGenerator[coord.Leader | None]", process.client.election("e").observe()
        )

        async def read() -> None:
            async for leader in observing:
                seen.append(  # noqa: PERF401 - for ever
                    None if leader is None else (leader.token, leader.revision, leader.value)
                )

        reading = asyncio.ensure_future(read())
        try:
            await self.world.calm.wait()
            while self.leading and not reading.done():
                await asyncio.sleep(0.5)
            await asyncio.sleep(TTL_AND_MORE_S)  # who was cut off leaves the line by then
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, coord.CoordError):
                await reading
            await observing.aclose()
        if not process.is_closed and (not seen or seen[-1] != self._now()):
            raise Violation("observed", f"last seen is {seen[-1:]}, true is {self._now()}")

    def _now(self) -> Seen:
        store = self.world.store
        first = min(store.keys(self.prefix), key=store.created, default=None)
        if first is None:
            return None
        pair = store.pair(first)
        return pair.create_revision, pair.mod_revision, pair.value

    @override
    def judge(self, changes: list[Change]) -> None:
        history = _leaders(changes, self.prefix)
        for task, seen in self.seen.items():
            place = 0
            for each in seen:
                while place < len(history) and history[place] != each:
                    place += 1
                if place == len(history):
                    raise Violation("observed", f"observer {task} saw {seen}, true is {history}")
            if any(a == b for a, b in pairwise(seen)):
                raise Violation("observed", f"observer {task} saw something twice: {seen}")


def _leaders(changes: list[Change], prefix: bytes) -> list[Seen]:
    """Return who led after each change, beginning with nobody."""
    line: dict[bytes, tuple[int, int, bytes]] = {}
    history: list[Seen] = [None]
    for _, group in groupby(changes, key=lambda change: change.revision):
        for change in group:
            if not change.key.startswith(prefix):
                continue
            if change.value is None:
                line.pop(change.key, None)
            else:
                line[change.key] = (change.created, change.revision, change.value)
        history.append(min(line.values(), default=None))
    return history


class ElectionRunScenario(Scenario):
    """Functions that lead: in one process, and between processes, two of them never overlap."""

    name = "election-run"
    bodies: tuple[int, ...] = (0, 1, 2)
    prefix = b"e/"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.inside: dict[int, int] = {}

    @override
    async def body(self, process: Process, task: int) -> None:
        election = process.client.election("e")

        async def lead(term: coord.Term) -> None:
            self.inside[process.number] = self.inside.get(process.number, 0) + 1
            try:
                if self.inside[process.number] > 1:
                    raise Violation("overlap", f"process {process.number} runs two functions")
                process.hold(term, "e")
                try:
                    await process.think(1.0)
                except asyncio.CancelledError:
                    await asyncio.sleep(self.rand.choice((0.0, 0.2)))  # slow to stop
                    raise
                if self.rand.random() < 0.2:
                    raise LookupError
            finally:
                self.inside[process.number] -= 1

        running = asyncio.ensure_future(election.run(lead, value=str(task)))
        await self.world.until_calm(1.0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, coord.CoordError):
            await running
