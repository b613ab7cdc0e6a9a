"""A bounded mixed load on a live store, everything recorded: keys, transactions, lists, leases, a lock, an election."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Coroutine

import coord
from coord import compare, op
from coord.testing.check import Append, Read, Step
from coord.testing.history import Record, Recorder
from coord.testing.recording import ListClient, RecordedClient, RecordedWatch

KEYS = [b"kv/%d" % n for n in range(6)]
LOCK, ELECTION = b"lock/one", b"elect/one"
# Whose keys the SDK writes by itself: locks, candidates, and its notes.
STRANGERS = (LOCK, ELECTION, b"_coord/")
CLIENTS = 5
CALLS = 60
LIST_TXNS = 30
TTL = 2


class MixedLoad:
    """One run. A seed decides what is asked for; when, is for the machine."""

    def __init__(self, client: coord.Client, seed: int) -> None:
        self.recorder = Recorder()
        self._client = client
        self._rng = random.Random(seed)
        self._values = itertools.count(1)
        self._has_seen_enough = asyncio.Event()
        self._under_way: set[str] = set()

    async def run(self) -> list[Record]:
        """Do everything, see to it that a witness has seen everything, and return the history."""
        try:
            async with asyncio.timeout(90):
                await self._run()
        except TimeoutError:
            raise AssertionError(f"not done after 90 s: {sorted(self._under_way)}") from None
        return self.recorder.records

    async def _run(self) -> None:
        main = self._recorded("main")
        async with main.witness() as witness, main.watch(b"kv/", prefix=True) as narrow:
            async with asyncio.TaskGroup() as group:

                def begin(name: str, work: Coroutine[object, object, None]) -> None:
                    group.create_task(self._noted(name, work))

                for number in range(CLIENTS):
                    begin(f"keys {number}", self._keys(number))
                for number in range(3):
                    begin(f"lists {number}", self._lists(number))
                    begin(f"lock {number}", self._lock(number))
                begin("leases", self._leases())
                begin("expiry", self._expiry())
                begin("onlooker", self._look_on())
                for number in range(2):
                    begin(f"candidate {number}", self._lead(number))
            await self._settle(main, witness, narrow)

    async def _noted(self, name: str, work: Coroutine[object, object, None]) -> None:
        self._under_way.add(name)
        await work
        self._under_way.discard(name)

    def _recorded(self, name: str) -> RecordedClient:
        return RecordedClient(self._client, self.recorder, name)

    def _value(self) -> bytes:
        size = 200 if self._rng.random() < 0.1 else 0
        return b"v%d" % next(self._values) + b"x" * size

    async def _settle(
        self, main: RecordedClient, witness: RecordedWatch, narrow: RecordedWatch
    ) -> None:
        last = (await main.put(KEYS[0], self._value())).revision
        await witness.read_to(last, timeout=10)
        await narrow.read_to(last, timeout=10)
        await main.get_prefix(b"")

    async def _keys(self, number: int) -> None:
        client = self._recorded(f"keys{number}")
        rng = self._rng
        for _ in range(CALLS):
            key = rng.choice(KEYS)
            dice = rng.random()
            if dice < 0.3:
                await client.put(key, self._value(), prev_kv=rng.random() < 0.5)
            elif dice < 0.55:
                await client.get(key)
            elif dice < 0.6:
                await client.get(key, serializable=True)
            elif dice < 0.65:
                await client.get_prefix(b"kv/", limit=rng.choice((0, 2)))
            elif dice < 0.75:
                await client.delete(key, prev_kv=True)
            elif dice < 0.78:
                await client.delete_range(KEYS[1], KEYS[3])
            else:
                await self._swap(client, key)

    async def _swap(self, client: RecordedClient, key: bytes) -> None:
        present = await client.get(key)
        known = 0 if present is None else present.mod_revision
        other = self._rng.choice([each for each in KEYS if each != key])
        txn = client.txn().when(compare.mod_revision(key) == known)
        txn = txn.then(op.put(key, self._value()), op.get(other), op.delete(other))
        await txn.otherwise(op.get(key)).commit()

    async def _lists(self, number: int) -> None:
        recorded = self._recorded(f"lists{number}")
        lists = ListClient(recorded, b"list/")
        for _ in range(LIST_TXNS):
            one, two = self._rng.sample("xyz", 2)
            choices: tuple[list[Step], ...] = (
                [Append(one, next(self._values)), Append(two, next(self._values))],
                [Read(one), Append(two, next(self._values)), Read(two)],
                [Read(one), Read(two)],
            )
            await lists.run(self._rng.choice(choices))

    async def _leases(self) -> None:
        """Grant, attach, renew, revoke."""
        client = self._recorded("leases")
        for number in range(4):
            granted = await client.lease_grant(60)
            for key in (b"leased/%d/a" % number, b"leased/%d/b" % number):
                await client.put(key, self._value(), lease=granted.id)
            await client.lease_keep_alive_once(granted.id)
            await client.lease_time_to_live(granted.id, keys=True)
            await client.lease_revoke(granted.id)
            await client.get_prefix(b"leased/")

    async def _expiry(self) -> None:
        """Let a lease end by itself, and see it go."""
        client = self._recorded("expiry")
        granted = await client.lease_grant(TTL)
        await client.put(b"short/a", self._value(), lease=granted.id)
        await client.put(b"short/b", self._value(), lease=granted.id)
        await client.lease_keep_alive_once(granted.id)
        while await client.get(b"short/a") is not None:
            await asyncio.sleep(0.1)
        assert (await client.lease_time_to_live(granted.id)).remaining is None

    async def _lock(self, number: int) -> None:
        """Hold the lock, and write guarded by it."""
        client = self._recorded(f"lock{number}")
        async with self._client.session(ttl=10) as session:
            mutex = client.mutex(LOCK, session=session)
            for _ in range(5):
                async with mutex.hold(timeout=30) as held:
                    guarded = client.txn().when(held.grant.guard())
                    done = await guarded.then(op.put(b"guarded", self._value())).commit()
                    assert done.succeeded
                    held.wrote(done.revision)

    async def _lead(self, number: int) -> None:
        """Lead a few times, and on until the onlooker, who may miss states, has seen enough of them."""
        client = self._recorded(f"candidate{number}")
        async with self._client.session(ttl=10) as session:
            election = client.election(ELECTION, session=session)
            for term_number in itertools.count(1):
                term = await election.campaign(self._value(), timeout=30)
                await election.proclaim(term, self._value())
                await term.release()
                if term_number >= 3 and self._has_seen_enough.is_set():
                    return

    async def _look_on(self) -> None:
        seen = 0
        async for leader in self._recorded("onlooker").election(ELECTION).observe():
            seen += leader is not None
            if seen >= 4:
                self._has_seen_enough.set()
                return
