"""Counter, atomic value and software transactions: nothing is lost, nothing is doubled."""

from __future__ import annotations

from typing_extensions import override

import coord
from tests.exploration.process import Process, Scenario, Violation
from tests.exploration.store import Change
from tests.exploration.world import World


class _CellScenario(Scenario):
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1)
    prefix = b"c"
    leaves_keys = True

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.sure: list[int] = []
        self.unsure = 0

    @override
    async def body(self, process: Process, task: int) -> None:
        for number in range(3):
            await process.think(0.3)
            outcome = await self.change(process, f"{task}.{number}")
            if isinstance(outcome, int):
                self.sure.append(outcome)
            elif not isinstance(outcome, (coord.CoordTimeout, coord.Unavailable)) or isinstance(
                outcome, coord.AmbiguousResult
            ):
                self.unsure += 1

    async def change(self, process: Process, mark: str) -> object:
        """Change it once; an int says that it was done."""
        raise NotImplementedError

    @override
    def deletable(self) -> list[bytes]:
        return []

    def check_count(self, done: int) -> None:
        """See that no change was lost or doubled."""
        if not len(self.sure) <= done <= len(self.sure) + self.unsure:
            raise Violation(
                "count", f"{done} changes, {len(self.sure)} sure and {self.unsure} unsure"
            )


class CounterScenario(_CellScenario):
    """Additions of one; each result is unique."""

    name = "counter"

    @override
    async def change(self, process: Process, mark: str) -> object:
        return await process.call("add", process.client.counter("c").add(timeout=2.0), limit=2.0)

    @override
    def judge(self, changes: list[Change]) -> None:
        values = [int(c.value or b"0") for c in changes if c.key == b"c"]
        if values != list(range(1, len(values) + 1)):
            raise Violation("steps", f"{values}")
        if len(set(self.sure)) != len(self.sure) or not set(self.sure) <= set(values):
            raise Violation("results", f"{sorted(self.sure)} of {values}")
        self.check_count(len(values))


class AtomicScenario(_CellScenario):
    """Everybody appends marks of its own."""

    name = "atomic"

    @override
    async def change(self, process: Process, mark: str) -> object:
        cell = process.client.atomic("c")

        def append(old: bytes | None) -> bytes:
            return (old or b"") + mark.encode() + b" "

        outcome = await process.call("update", cell.update(append, timeout=2.0), limit=2.0)
        return outcome.revision if isinstance(outcome, coord.Versioned) else outcome

    @override
    def judge(self, changes: list[Change]) -> None:
        before: list[bytes] = []
        done = 0
        for change in changes:
            if change.key == b"c":
                marks = (change.value or b"").split()
                if marks[:-1] != before or marks[-1] in before:
                    raise Violation("append", f"{before} became {marks}")
                before, done = marks, done + 1
        self.check_count(done)


class StmScenario(_CellScenario):
    """Transfers between three accounts, whose sum stays, each under a number that rises."""

    name = "stm"

    @override
    async def change(self, process: Process, mark: str) -> object:
        one, two = self.rand.sample(("a", "b", "d"), 2)

        async def transfer(tx: coord.StmTxn) -> int:
            count = int(await tx.get("c/count", b"0") or b"0") + 1
            here, there = [int(await tx.get(f"c/{n}", b"0") or b"0") for n in (one, two)]
            tx.put("c/count", str(count))
            tx.put(f"c/{one}", str(here - 1))
            tx.put(f"c/{two}", str(there + 1))
            return count

        outcome = await process.call("stm", process.client.stm(transfer, timeout=2.0), limit=2.0)
        return outcome.value if isinstance(outcome, coord.StmResult) else outcome

    @override
    def judge(self, changes: list[Change]) -> None:
        accounts: dict[bytes, int] = {}
        done = 0
        for place, change in enumerate(changes):
            if not change.key.startswith(b"c/"):
                continue
            if change.key == b"c/count":
                done += 1
                if int(change.value or b"0") != done:
                    raise Violation("count", f"{change.value!r} after {done - 1}")
            else:
                accounts[change.key] = int(change.value or b"0")
            ends = place + 1 == len(changes) or changes[place + 1].revision != change.revision
            if ends and sum(accounts.values()) != 0:
                raise Violation("sum", f"{accounts} at {change.revision}")
        if len(set(self.sure)) != len(self.sure):
            raise Violation("results", f"{sorted(self.sure)}")
        self.check_count(done)
