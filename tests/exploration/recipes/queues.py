"""Queues: each item goes to one taker, in order; work is done once, whoever dies."""

from __future__ import annotations

from collections import Counter

from typing_extensions import override

import coord
from coord import op
from coord.recipes.queues.handing import HandOff
from tests.exploration.events import events_of
from tests.exploration.process import Process, Scenario, Violation
from tests.exploration.store import Change
from tests.exploration.world import World
from tests.sdk.queue_models import HandOffModel, WorkModel

_TIMEOUTS = (0.0, 0.003, 0.2, 1.5, None)


class QueueScenario(Scenario):
    """Two who put and two who take; at the end somebody takes what is left."""

    name = "queue"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1, 2)
    prefix = b"q/"
    by_key = False
    in_order = True
    keeps_watching = True
    _drainers = 4

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.put: list[bytes] = []
        self.unsure: list[bytes] = []
        self.taken: list[bytes] = []
        self.lost_at_most = 0
        self.getting = 2

    def queue(self, process: Process) -> HandOff:
        """Return the process's way to the queue."""
        return process.client.queue("q")

    async def put_one(self, process: Process, queue: HandOff, value: bytes) -> object:
        """Put an item."""
        assert isinstance(queue, coord.Queue)
        return await process.call("put", queue.put(value, timeout=2.0), limit=2.0)

    @override
    async def body(self, process: Process, task: int) -> None:
        queue = self.queue(process)
        if task < 2:
            await self._produce(process, queue, task)
        elif task < self._drainers:
            try:
                await self._consume(process, queue)
            finally:
                self.getting -= 1
        else:
            await self._drain(process, queue)
        await process.call("close", queue.close(), cancel_within=10.0)

    async def _produce(self, process: Process, queue: HandOff, task: int) -> None:
        for number in range(3):
            await process.think()
            value = b"%d.%d" % (task, number)
            outcome = await self.put_one(process, queue, value)
            (self.put if isinstance(outcome, int) else self.unsure).append(value)

    async def _consume(self, process: Process, queue: HandOff) -> None:
        for _ in range(3):
            await process.think()
            timeout = self.rand.choice(_TIMEOUTS)
            if timeout is None:
                await self._take(process, queue.try_get(), "try", None)
            else:
                await self._take(process, queue.get(timeout=timeout), "get", timeout)

    async def _take(
        self, process: Process, taking: object, what: str, limit: float | None
    ) -> object:
        got = await process.call(what, taking, limit=limit)  # type: ignore[arg-type] # one of two
        if isinstance(got, coord.QueueItem):
            self.taken.append(got.value)
        elif isinstance(got, coord.AmbiguousResult) or process.is_closed:
            self.lost_at_most += 1
        return got

    async def _drain(self, process: Process, queue: HandOff) -> None:
        await self.world.until_calm(2.0)
        while not process.is_closed:
            await self._take(process, queue.get(timeout=1.0), "drain", 1.0)
            if not self.world.store.keys(self.prefix) and not self.getting:
                return

    @override
    def deletable(self) -> list[bytes]:
        return []

    @override
    def stays(self, key: bytes) -> bool:
        return all(process.is_closed for process in self.world.processes[1:])

    @override
    def judge(self, changes: list[Change]) -> None:
        events = events_of(changes, self.prefix)
        if self.in_order:
            HandOffModel(by_key=self.by_key).play(events)
        there: Counter[bytes] = Counter()
        ever: set[bytes] = set()
        keys: dict[bytes, bytes] = {}
        for change in changes:
            if not change.key.startswith(self.prefix):
                continue
            if change.value is None:
                there[keys.pop(change.key)] -= 1
                continue
            keys[change.key] = change.value
            there[change.value] += 1
            ever.add(change.value)
            if there[change.value] > 1:
                raise Violation("put", f"{change.value!r} is there twice")
        if not set(self.put) <= ever:
            raise Violation("put", f"{set(self.put) - ever} were never there")
        if len(set(self.taken)) != len(self.taken):
            raise Violation("taken", f"somebody got what somebody else has: {self.taken}")
        left = set(self.world.store.values(self.prefix))
        missing = ever - left - set(self.taken)
        if len(missing) > self.lost_at_most:
            raise Violation("lost", f"nobody has got {missing}")


class PriorityQueueScenario(QueueScenario):
    """With priorities, the most urgent one is taken."""

    name = "priority-queue"
    by_key = True

    @override
    def queue(self, process: Process) -> HandOff:
        return process.client.priority_queue("q")

    @override
    async def put_one(self, process: Process, queue: HandOff, value: bytes) -> object:
        assert isinstance(queue, coord.PriorityQueue)
        priority = self.rand.choice((1, 2))
        putting = queue.put(value, priority=priority, timeout=2.0)
        return await process.call("put", putting, limit=2.0)


class DelayQueueScenario(QueueScenario):
    """Items that are due later, the first due first."""

    name = "delay-queue"
    by_key = True
    in_order = False  # by the clocks of the takers

    @override
    def queue(self, process: Process) -> HandOff:
        return process.client.delay_queue("q")

    @override
    async def put_one(self, process: Process, queue: HandOff, value: bytes) -> object:
        assert isinstance(queue, coord.DelayQueue)
        delay = self.rand.choice((0.0, 0.1, 1.0))
        putting = queue.put(value, delay=delay, timeout=2.0)
        return await process.call("put", putting, limit=2.0)


class WorkQueueScenario(Scenario):
    """Jobs whose effects are written with the acknowledgement, done until none is left."""

    name = "work-queue"
    bodies: tuple[int, ...] = (0, 1, 2, 1, 2)
    prefix = b"w/"
    leaves_keys = True
    keeps_watching = True
    attempts = 50
    _putters = 1

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.put: list[str] = []
        self.acked: list[tuple[str, int]] = []

    def queue(self, process: Process) -> coord.WorkQueue:
        """Return the process's way to the queue."""
        return process.client.work_queue("w", max_attempts=self.attempts, dedup_window=60)

    @override
    async def body(self, process: Process, task: int) -> None:
        queue = self.queue(process)
        if task < self._putters:
            for number in range(4):
                await process.think()
                putting = queue.put("job", dedup_id=f"j{number % 3}", timeout=2.0)
                outcome = await process.call("put", putting, limit=2.0)
                if isinstance(outcome, coord.WorkReceipt):
                    self.put.append(outcome.id)
        else:
            await self._work(process, queue)
        await process.call("close", queue.close(), cancel_within=10.0)

    async def _work(self, process: Process, queue: coord.WorkQueue) -> None:
        while not process.is_closed:
            await process.think(0.3)
            timeout = self.rand.choice((0.003, 0.5, 2.0))
            got = await process.call(
                "receive", queue.receive(max=2, timeout=timeout), limit=timeout
            )
            if isinstance(got, list):
                for item in got:
                    await self._do(process, item)
            elif (
                self.world.calm.is_set()
                and self.world.loop.now > self.world.calm_at + 2.0
                and not self.world.store.keys(b"w/items/")
            ):
                return

    async def _do(self, process: Process, item: coord.WorkItem) -> None:
        await process.think(0.3)
        if self.rand.random() < 0.2 and not self.world.calm.is_set():
            await process.call("nack", item.nack(delay=0.1))
            return
        effect = op.put(f"effect/{item.id}", str(item.token))
        acked = await process.call("ack", item.ack(also=[effect], timeout=2.0), limit=2.0)
        if isinstance(acked, int):
            self.acked.append((item.id, item.token))

    @override
    def deletable(self) -> list[bytes]:
        return self.world.store.keys(b"w/claims/")

    @override
    def judge(self, changes: list[Change]) -> None:
        model = WorkModel("w", self.attempts)
        model.play(events_of(changes, self.prefix))
        effects = [c.key for c in changes if c.key.startswith(b"effect/")]
        if len(effects) != len(set(effects)):
            raise Violation("effect", f"something was done twice: {effects}")
        done = {item.decode() for item in model.done}
        if {key[len(b"effect/") :].decode() for key in effects} != done:
            raise Violation("effect", f"{effects} were written, {done} were acknowledged")
        for ident, token in self.acked:
            if ident not in done:
                raise Violation(
                    "acked", f"{ident} (token {token}) was acknowledged and is not done"
                )
        workers = any(not self.world.processes[n].is_closed for n in (1, 2))
        if workers and not set(self.put) <= done:
            raise Violation("left", f"{set(self.put) - done} were put and not done")
