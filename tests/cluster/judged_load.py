"""Clients that go on whatever happens to the members, everything recorded, for the judges."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable

import coord
from coord import compare, op
from coord.testing.chaos import wait_until
from coord.testing.check import Append, Read, Step, judge
from coord.testing.history import Recorder
from coord.testing.recording import ListClient, RecordedClient, RecordedWatch

KEYS = [b"kv/%d" % n for n in range(8)]
LOCK = b"lock/one"
# Whose keys the SDK writes by itself: locks and its notes.
STRANGERS = (LOCK, b"_coord/")
_PAUSE_S = 0.015
_TTL_S = 10
_TIMEOUT_S = 5.0


class JudgedLoad:
    """Keys, lists, a lock and watches, on clients that know all ``endpoints``. A seed decides what is asked."""

    def __init__(self, endpoints: list[str], seed: int) -> None:
        self.recorder = Recorder()
        self.answers: Counter[str] = Counter()
        self._endpoints = endpoints
        self._rng = random.Random(seed)
        self._values = itertools.count(1)
        self._stop = asyncio.Event()

    async def more(self, count: int, *, within: float = 40.0) -> None:
        """Return once this many more calls were answered."""
        goal = self.answers["ok"] + count
        await wait_until(lambda: self.answers["ok"] >= goal, what=f"{count} answers", within=within)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Work until the context ends; then everything is seen by a witness, and judged."""
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(coord.connect(self._shuffled())) for _ in range(4)
            ]
            main = RecordedClient(clients[0], self.recorder, "main")
            witness = await stack.enter_async_context(main.witness())
            watches = [
                await stack.enter_async_context(
                    RecordedClient(client, self.recorder, f"look{n}").watch(b"kv/", prefix=True)
                )
                for n, client in enumerate(clients)
            ]
            async with asyncio.TaskGroup() as group:
                for number, client in enumerate(clients):
                    group.create_task(self._forever(client, f"keys{number}", self._key_call))
                for number in range(2):
                    group.create_task(
                        self._forever(clients[number], f"lists{number}", self._list_call)
                    )
                    group.create_task(self._lock(clients[2 + number], number))
                try:
                    yield
                finally:
                    self._stop.set()
            await self._settle(main, [witness, *watches])

    def judge(self) -> None:
        """Raise what any judge finds."""
        verdicts = judge(self.recorder.records, strangers=STRANGERS, budget_s=60)
        for verdict in verdicts.values():
            verdict.raise_if_bad()

    def _shuffled(self) -> str:
        return ",".join(self._rng.sample(self._endpoints, len(self._endpoints)))

    async def _settle(self, main: RecordedClient, watches: list[RecordedWatch]) -> None:
        last = (await main.put(KEYS[0], self._value(), timeout=20)).revision
        for watch in watches:
            await watch.read_to(last, timeout=60)
        await main.get_prefix(b"", timeout=20)

    def _value(self) -> bytes:
        return b"v%d" % next(self._values)

    async def _forever(
        self, client: coord.Client, name: str, do: Callable[[RecordedClient], Awaitable[object]]
    ) -> None:
        """Call again and again; after a write of unknown outcome the program is another one."""
        life = 0
        recorded = RecordedClient(client, self.recorder, name)
        while not self._stop.is_set():
            try:
                await do(recorded)
            except (coord.Unavailable, coord.CoordTimeout, coord.AmbiguousResult) as error:
                self.answers[type(error).__name__] += 1
                life += 1
                recorded = RecordedClient(client, self.recorder, f"{name}.{life}")
            else:
                self.answers["ok"] += 1
            await asyncio.sleep(_PAUSE_S)

    async def _key_call(self, client: RecordedClient) -> object:
        rng = self._rng
        key = rng.choice(KEYS)
        dice = rng.random()
        if dice < 0.35:
            return await client.put(key, self._value(), timeout=_TIMEOUT_S)
        if dice < 0.65:
            return await client.get(key, timeout=_TIMEOUT_S)
        if dice < 0.72:
            return await client.get_prefix(b"kv/", timeout=_TIMEOUT_S)
        if dice < 0.8:
            return await client.delete(key, timeout=_TIMEOUT_S)
        present = await client.get(key, timeout=_TIMEOUT_S)
        known = 0 if present is None else present.mod_revision
        txn = client.txn().when(compare.mod_revision(key) == known)
        txn = txn.then(op.put(key, self._value()), op.delete(rng.choice(KEYS[:4]) + b"/x"))
        return await txn.otherwise(op.get(key)).commit(timeout=_TIMEOUT_S)

    async def _list_call(self, client: RecordedClient) -> object:
        one, two = self._rng.sample("xyz", 2)
        choices: tuple[list[Step], ...] = (
            [Append(one, next(self._values)), Append(two, next(self._values))],
            [Read(one), Append(two, next(self._values)), Read(two)],
            [Read(one), Read(two)],
        )
        lists = ListClient(client, b"list/")
        return await lists.run(self._rng.choice(choices), timeout=_TIMEOUT_S)

    async def _lock(self, client: coord.Client, number: int) -> None:
        """Hold the lock, and write guarded by it, with a new session whenever one is lost."""
        life = 0
        while not self._stop.is_set():
            life += 1
            recorded = RecordedClient(client, self.recorder, f"lock{number}.{life}")
            try:
                async with client.session(ttl=_TTL_S) as session:
                    mutex = recorded.mutex(LOCK, session=session)
                    while not self._stop.is_set():
                        async with mutex.hold(timeout=5) as held:
                            guarded = recorded.txn().when(held.grant.guard())
                            done = await guarded.then(op.put(b"guarded", self._value())).commit(
                                timeout=_TIMEOUT_S
                            )
                            if done.succeeded:
                                held.wrote(done.revision)
                                self.answers["guarded"] += 1
                        await asyncio.sleep(_PAUSE_S)
            except coord.CoordError as error:
                self.answers[type(error).__name__] += 1
                await asyncio.sleep(_PAUSE_S)
