"""Barrier, double barrier and latch: nobody passes too early, nobody is forgotten."""

from __future__ import annotations

import asyncio
from typing import Literal

from typing_extensions import override

import coord
from tests.exploration.process import Cancelled, Process, Scenario, Violation
from tests.exploration.store import Change
from tests.exploration.world import World

_TIMEOUTS = (None, None, 0.003, 0.2, 1.5)
_NAME = b"g"


class BarrierScenario(Scenario):
    """Some close the gate and open it again, the others wait; in the end it is opened by force."""

    name = "barrier"
    bodies: tuple[int, ...] = (0, 1, 2, 1, 0, 1, 2)
    prefix = b"g"
    _openers = 4

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.waits: list[tuple[float, float]] = []

    @override
    async def body(self, process: Process, task: int) -> None:
        if task >= self._openers:
            await self._open_at_last(process)
        elif task <= 1:
            await self._close(process)
        else:
            await self._wait(process)

    async def _close(self, process: Process) -> None:
        for _ in range(2):
            await process.think()
            session = await process.session()
            if session is None:
                return
            barrier = process.client.barrier("g", session=session)
            leased = self.rand.random() < 0.5
            gate = await process.call("hold", barrier.hold(leased=leased, timeout=1.0), limit=1.0)
            if isinstance(gate, coord.Gate):
                await process.think()
                await process.call("release", gate.release())

    async def _wait(self, process: Process) -> None:
        for _ in range(2):
            await process.think()
            began = self.world.loop.now
            timeout = self.rand.choice(_TIMEOUTS)
            waiting = process.client.barrier("g").wait(timeout=timeout)
            outcome = await process.call("wait", waiting, limit=timeout)
            if outcome is None:
                self.waits.append((began, self.world.loop.now))

    async def _open_at_last(self, process: Process) -> None:
        await self.world.until_calm(0.5)
        while not process.is_closed:
            outcome = await process.call("force", process.client.barrier("g").release(force=True))
            if isinstance(outcome, bool):
                return

    @override
    def deletable(self) -> list[bytes]:
        return self.world.store.keys(self.prefix)

    @override
    def judge(self, changes: list[Change]) -> None:
        for began, ended in self.waits:
            is_open, was_open = True, False
            for change in changes:
                if change.key != _NAME or change.at > ended:
                    continue
                if change.at < began:
                    is_open = change.value is None
                else:
                    was_open |= change.value is None
            if not (is_open or was_open):
                raise Violation("passed", f"waited from {began} to {ended}, and it was closed")


class DoubleBarrierScenario(Scenario):
    """Rounds of two out of three, who may fail to come or to leave."""

    name = "double-barrier"
    bodies: tuple[int, ...] = (0, 1, 2)
    prefix = b"d/"
    parties = 2

    @override
    async def body(self, process: Process, task: int) -> None:
        for _ in range(self.rand.choice((1, 2, 3))):
            await process.think(0.2)
            session = await process.session()
            if session is None:
                return
            when_full: Literal["raise", "wait"] = "raise" if self.rand.random() < 0.2 else "wait"
            barrier = process.client.double_barrier(
                "d", self.parties, session=session, when_full=when_full
            )
            timeout = self.rand.choice((0.003, 0.5, 1.5, 3.0))
            entered = await process.call("enter", barrier.enter(timeout=timeout), limit=timeout)
            if not isinstance(entered, int):
                continue
            await process.think()
            limit = self.rand.choice((None, 1.0, 3.0))
            left = await process.call("leave", barrier.leave(timeout=limit), limit=limit)
            if left is None:
                self._check_left(entered)

    def _check_left(self, round_: int) -> None:
        store = self.world.store
        for key in store.keys(b"d/waiters/"):
            if store.created(key) <= round_:
                raise Violation("left", f"round {round_} was left while {key!r} is there")

    @override
    def stays(self, key: bytes) -> bool:
        return key == b"d/ready"  # without entries of its round it means nothing

    @override
    def judge(self, changes: list[Change]) -> None:
        inside: dict[bytes, int] = {}
        round_ = most = 0
        for change in changes:
            if change.key.startswith(b"d/waiters/"):
                if change.value is None:
                    inside.pop(change.key, None)
                elif change.created != change.revision:
                    raise Violation("immutable", f"{change.key!r} was changed")
                else:
                    inside[change.key] = change.created
                    # Sessions, not entries: what one party has left behind is not another one.
                    leases = {key.rpartition(b"/")[2].partition(b"-")[0] for key in inside}
                    most = max(most, len(leases))
            elif change.key == b"d/ready" and change.value is not None:
                if most < self.parties:
                    raise Violation("entered", f"{most} were there at most at {change.revision}")
                if any(created <= round_ for created in inside.values()):
                    raise Violation("rounds", f"{change.revision} began while {round_} went on")
                round_, most = change.revision, 0


class LatchScenario(Scenario):
    """Three arrivals by four names, reported again and again; once it is reset."""

    name = "latch"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1, 0, 1, 2)
    prefix = b"n"
    leaves_keys = True
    count = 3
    _waiters = (3, 4)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.waits: list[tuple[float, float]] = []

    @override
    async def body(self, process: Process, task: int) -> None:
        if task in self._waiters:
            await self._wait(process)
        elif task > max(self._waiters):
            await self._open_at_last(process)
        else:
            await self._arrive(process)

    async def _arrive(self, process: Process) -> None:
        latch = process.client.latch("n", self.count)
        for _ in range(3):
            await process.think(0.3)
            who = self.rand.choice("abcd")
            left = await process.call("count", latch.count_down(who, timeout=1.0), limit=1.0)
            if left == 0 and self.rand.random() < 0.4:
                await process.call("reset", latch.reset(self.count, timeout=1.0), limit=1.0)

    async def _wait(self, process: Process) -> None:
        await process.think()
        began = self.world.loop.now
        timeout = self.rand.choice(_TIMEOUTS)
        waiting = process.client.latch("n", self.count).wait(timeout=timeout)
        outcome = await process.call("wait", waiting, limit=timeout)
        if outcome is None:
            self.waits.append((began, self.world.loop.now))

    async def _open_at_last(self, process: Process) -> None:
        await self.world.until_calm(0.5)
        latch = process.client.latch("n", self.count)
        who = 0
        while not process.is_closed:
            outcome = await process.call("open", latch.count_down("abcd"[who % 4]))
            if outcome == 0:
                return
            who += 1
            if isinstance(outcome, (coord.CoordError, Cancelled)):
                await asyncio.sleep(0.1)

    @override
    def deletable(self) -> list[bytes]:
        return []  # who deletes a latch makes another one

    @override
    def judge(self, changes: list[Change]) -> None:
        opened: list[float] = []
        closed: list[float] = []
        arrived: set[bytes] = set()
        before: tuple[int, int] | None = None
        by_revision: dict[int, list[Change]] = {}
        for change in changes:
            if change.key.startswith(b"n"):
                by_revision.setdefault(change.revision, []).append(change)
        for group in by_revision.values():
            new = {c.key for c in group if c.key.startswith(b"n/") and c.value is not None}
            gone = {c.key for c in group if c.value is None}
            said = [c for c in group if c.key == b"n" and c.value is not None]
            if len(said) != 1 or new & arrived or not gone <= arrived:
                raise Violation("arrivals", f"{group}")
            left, generation = map(int, (said[0].value or b"").split())
            if before is None or generation == before[1]:
                expected = self.count if before is None else before[0]
                if left != expected - len(new) or gone or len(new) > 1:
                    raise Violation("count", f"{left} after {before}: {group}")
            elif before[0] or generation != before[1] + 1 or gone != arrived or new:
                raise Violation("reset", f"{left} {generation} after {before}: {group}")
            arrived = (arrived | new) - gone
            if left == 0:
                opened.append(said[0].at)
            elif before is not None and before[0] == 0:
                closed.append(said[0].at)
            before = left, generation
        for began, ended in self.waits:
            closed_again = [at for at in closed if at < began]
            was_open = any(
                at <= ended and len([c for c in closed_again if c >= at]) == 0 for at in opened
            )
            if not was_open:
                raise Violation("passed", f"waited from {began} to {ended}, open at {opened}")
