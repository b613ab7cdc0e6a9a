"""Cache, configuration and topic: what is shown was true, comes in order, and ends with what is."""

from __future__ import annotations

import asyncio
import contextlib

from typing_extensions import override

import coord
from coord.recipes.rate_limiter.meter import Meter
from tests.exploration.process import Process, Scenario, Violation
from tests.exploration.store import Change
from tests.exploration.world import World

State = dict[bytes, bytes]


def states_of(changes: list[Change], prefix: bytes) -> list[tuple[int, State]]:
    """Return the keys below a prefix after each revision, beginning with nothing at 0."""
    now: State = {}
    states: list[tuple[int, State]] = [(0, {})]
    for change in changes:
        if change.key.startswith(prefix):
            if change.value is None:
                now.pop(change.key, None)
            else:
                now[change.key] = change.value
        if states[-1][0] == change.revision:
            states.pop()
        states.append((change.revision, dict(now)))
    return states


async def until_cancelled(reading: asyncio.Task[None]) -> None:
    """End a task that reads for ever."""
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError, coord.CoordError):
        await reading


class CacheScenario(Scenario):
    """Writers, and readers who follow every batch; after a sync a cache is what the store is."""

    name = "cache"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1)
    prefix = b"v/"
    leaves_keys = True
    _readers = (1, 2)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.shown: list[tuple[int, State]] = []
        self.writing = 3

    @override
    async def body(self, process: Process, task: int) -> None:
        if task in self._readers:
            await self._read(process)
            return
        try:
            for number in range(6):
                await process.think(0.4)
                key = f"v/{self.rand.choice('abc')}"
                if self.rand.random() < 0.3:
                    await process.call("delete", process.client.delete(key))
                else:
                    await process.call("put", process.client.put(key, f"{task}.{number}"))
        finally:
            self.writing -= 1

    async def _read(self, process: Process) -> None:
        await process.think()
        cache = process.client.cache(prefix="v/")
        opened = await process.call("open", cache.open(timeout=2.0), limit=2.0)
        if opened is not None:
            return
        changes = cache.changes()
        snapshot = cache.snapshot()
        mirror: State = dict(snapshot.items())
        self.shown.append((snapshot.revision, dict(mirror)))

        async def follow() -> None:
            async for batch in changes:
                for change in batch.changes:
                    if change.new is None:
                        mirror.pop(change.key, None)
                    else:
                        mirror[change.key] = change.new.value
                self.shown.append((batch.revision, dict(mirror)))

        reading = asyncio.ensure_future(follow())
        await self.world.until_calm(1.0)
        while self.writing:
            await asyncio.sleep(0.2)
        await asyncio.sleep(4.5)  # what is under way has arrived
        synced = await process.call("sync", cache.sync(timeout=5.0), limit=5.0)
        if isinstance(synced, int):
            await asyncio.sleep(0)
            self._compare(dict(cache.snapshot().items()))
            await asyncio.sleep(0.1)
            self._compare(mirror)
        await until_cancelled(reading)
        cache.close()

    def _compare(self, shown: State) -> None:
        store = self.world.store
        true = {key: store.pair(key).value for key in store.keys(self.prefix)}
        if shown != true:
            raise Violation("mirror", f"{shown} is shown, {true} is true")

    @override
    def deletable(self) -> list[bytes]:
        return self.world.store.keys(self.prefix)

    @override
    def judge(self, changes: list[Change]) -> None:
        states = dict(states_of(changes, self.prefix))
        for revision, shown in self.shown:
            true = max([r for r in states if r <= revision], default=0)
            if states[true] != shown:
                raise Violation("mirror", f"{shown} at {revision}, {states[true]} is true")


class ConfigScenario(Scenario):
    """Numbers are published, some of them not valid; every reader sees them in order and ends with the last."""

    name = "config"
    bodies: tuple[int, ...] = (0, 1, 2, 0)
    prefix = b"cfg"
    leaves_keys = True
    _readers = (1, 2)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.published: list[int] = []
        self.unsure = 0
        self.writing = 2

    @override
    async def body(self, process: Process, task: int) -> None:
        opening = process.client.config("cfg", int, default=0, timeout=3.0)
        config = await process.call("open", opening, limit=3.0)
        if not isinstance(config, coord.Config):
            if task not in self._readers:
                self.writing -= 1
            return
        if task in self._readers:
            await self._read(process, config)
        else:
            try:
                await self._write(process, config, task)
            finally:
                self.writing -= 1
        await process.call("close", config.close())

    async def _write(self, process: Process, config: coord.Config[int], task: int) -> None:
        for number in range(3):
            await process.think()
            value = 100 * task + number + 1
            expected = config.revision if self.rand.random() < 0.3 else None
            publishing = config.publish(value, expected_revision=expected, timeout=2.0)
            outcome = await process.call("publish", publishing, limit=2.0)
            if isinstance(outcome, int):
                self.published.append(outcome)
            elif not isinstance(
                outcome, (coord.CoordTimeout, coord.Unavailable, coord.Conflict)
            ) or isinstance(outcome, coord.AmbiguousResult):
                self.unsure += 1

    async def _read(self, process: Process, config: coord.Config[int]) -> None:
        seen = [(config.revision, config.value)]
        changes = config.changes()

        async def follow() -> None:
            async for state in changes:
                seen.append((state.revision, state.value))  # noqa: PERF401 - for ever

        reading = asyncio.ensure_future(follow())
        await self.world.until_calm(1.0)
        while self.writing:
            await asyncio.sleep(0.2)
        await asyncio.sleep(6.0)
        await until_cancelled(reading)
        await changes.aclose()
        if process.is_closed:
            return
        written = [c for c in self.world.store.changes if c.key == b"cfg" and c.value is not None]
        true = int(written[-1].value or b"0") if written else 0
        if seen[-1][1] != true:
            raise Violation("config", f"{seen[-1]} is shown, {true} is true")
        values = [int(c.value or b"0") for c in written]
        if [r for r, _ in seen] != sorted({r for r, _ in seen}):
            raise Violation("config", f"went back, or was told twice: {seen}")
        if not {value for _, value in seen} <= {0, *values}:
            raise Violation("config", f"{seen} of {values}")

    @override
    def deletable(self) -> list[bytes]:
        return []

    @override
    def judge(self, changes: list[Change]) -> None:
        written = [c.revision for c in changes if c.key == b"cfg"]
        if not set(self.published) <= set(written) or (
            len(written) > len(self.published) + self.unsure
        ):
            raise Violation("published", f"{self.published} and {self.unsure} unsure, {written}")


class TopicScenario(Scenario):
    """Messages reach every subscriber in one order; a durable one goes on where it was, and loses none."""

    name = "topic"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1)
    prefix = b"t/"
    leaves_keys = True
    _readers = (1, 2, 4)
    _durable = 4

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.published: list[tuple[int, bytes]] = []
        self.unsure = 0
        self.received: list[list[tuple[int, bytes]]] = []
        self.publishing = 2

    @override
    async def body(self, process: Process, task: int) -> None:
        topic = process.client.topic("t", retention=60)
        if task == self._durable:
            await self._read_durable(process, topic)
        elif task in self._readers:
            await self._read(process, topic)
        else:
            try:
                await self._publish(process, topic, task)
            finally:
                self.publishing -= 1

    async def _publish(self, process: Process, topic: coord.Topic, task: int) -> None:
        for number in range(4):
            await process.think(0.4)
            value = f"{task}.{number}".encode()
            outcome = await process.call("publish", topic.publish(value, timeout=2.0), limit=2.0)
            if isinstance(outcome, int):
                self.published.append((outcome, value))
            elif not isinstance(outcome, (coord.CoordTimeout, coord.Unavailable)) or isinstance(
                outcome, coord.AmbiguousResult
            ):
                self.unsure += 1

    async def _quiet(self) -> None:
        await self.world.until_calm(1.0)
        while self.publishing:
            await asyncio.sleep(0.2)
        await asyncio.sleep(6.0)

    async def _read(self, process: Process, topic: coord.Topic) -> None:
        got: list[tuple[int, bytes]] = []

        async def follow() -> None:
            async with topic.subscribe(from_="earliest") as messages:
                async for message in messages:
                    if isinstance(message, coord.Gap):
                        continue  # a compaction: nothing has expired, so nothing may be missing
                    got.append((message.revision, message.value))

        reading = asyncio.ensure_future(follow())
        await self._quiet()
        if not reading.done() and not process.is_closed:
            self.received.append(list(got))
        elif not isinstance(reading.exception(), coord.CoordError):
            reading.result()
        await until_cancelled(reading)

    async def _read_durable(self, process: Process, topic: coord.Topic) -> None:
        got: list[tuple[int, bytes]] = []

        async def follow(most: int) -> None:
            subscription = topic.subscribe(from_="earliest", durable="d", save_every=2)
            async with subscription as messages:
                async for message in messages:
                    if isinstance(message, coord.Gap):
                        continue
                    if not got or message.revision > got[-1][0]:
                        got.append((message.revision, message.value))
                    most -= 1
                    if not most:
                        return

        quiet = asyncio.ensure_future(self._quiet())
        while not quiet.done() and not process.is_closed:
            reading = asyncio.ensure_future(follow(self.rand.choice((1, 2, 5, 100))))
            await asyncio.wait({quiet, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await until_cancelled(reading)
            elif not reading.cancelled() and isinstance(reading.exception(), Violation):
                reading.result()
            await asyncio.sleep(0.05)
        await quiet
        if not process.is_closed:
            self.received.append(got)

    @override
    def deletable(self) -> list[bytes]:
        return []

    @override
    def judge(self, changes: list[Change]) -> None:
        log = [
            (c.revision, c.value.partition(b"\n")[2])
            for c in changes
            if c.key.startswith(b"t/log/") and c.value is not None
        ]
        if not set(self.published) <= set(log) or (len(log) > len(self.published) + self.unsure):
            raise Violation("published", f"{self.published} and {self.unsure} unsure, {log}")
        for got in self.received:
            if got != log:
                raise Violation("order", f"{got} was received, {log} was published")


class RateLimiterScenario(Scenario):
    """Permits of a strict limiter, by clocks that are off; the key says how many were given and until when."""

    name = "rate-limiter"
    bodies: tuple[int, ...] = (0, 1, 2, 0, 1)
    prefix = b"r"
    leaves_keys = True
    rate, burst = 4.0, 3.0

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.given = 0

    @override
    async def body(self, process: Process, task: int) -> None:
        limiter = process.client.rate_limiter("r", self.rate, burst=self.burst)
        for _ in range(3):
            await process.think(0.3)
            n = self.rand.choice((1, 1, 2))
            if self.rand.random() < 0.3:
                got = await process.call("try", limiter.try_acquire(n, timeout=1.0), limit=1.0)
                self.given += n if got is True else 0
            else:
                acquiring = limiter.acquire(n, timeout=2.0)
                outcome = await process.call("acquire", acquiring, limit=2.0)
                self.given += n if outcome is None else 0

    @override
    def deletable(self) -> list[bytes]:
        return []

    @override
    def judge(self, changes: list[Change]) -> None:
        lead = max(0.0, *[process.skew for process in self.world.processes])
        before, taken = 0.0, 0.0
        for change in changes:
            if change.key != b"r" or change.value is None:
                continue
            meter = Meter.decode(b"r", change.value)
            tat = meter.tat_us / 1e6
            # From here on it is an idle limiter again at the time ``tat``: that is how far it may be ahead.
            if tat > change.at + lead + self.burst / self.rate + 0.001:
                raise Violation("rate", f"{tat - change.at:.3f} s ahead at {change.revision}")
            # What a cancelled call had taken is given back: then it is no more than was taken and not used.
            taken += (
                tat - (before if tat < before else max(before, meter.now_us / 1e6))
            ) * self.rate
            before = tat
        if self.given > taken + 0.01:
            raise Violation("given", f"{self.given} permits, {taken:.2f} were taken and kept")
