"""Writers that never rest: puts, deletes, transactions, leases. They tell a ledger what they were told."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

import coord
from coord import compare, op
from coord.testing.check.ledger import Ledger, Write

_SHARED = [b"shared/%d" % n for n in range(6)]
LEASE_TTL = 3600
_numbers = itertools.count(1)


class Answers:
    """Counts the answers of all writers."""

    def __init__(self) -> None:
        self._count = 0
        self._waiting: list[tuple[int, asyncio.Event]] = []

    async def more(self, count: int) -> None:
        """Wait until there are ``count`` more than now."""
        await self.reach(self._count + count)

    def add(self) -> None:
        """One more."""
        self._count += 1
        for target, event in self._waiting:
            if self._count >= target:
                event.set()

    async def reach(self, target: int) -> None:
        """Wait until there are ``target``."""
        event = asyncio.Event()
        if self._count < target:
            self._waiting.append((target, event))
            await event.wait()


class Writer:
    """One client program with one request open at a time."""

    def __init__(self, client: coord.Client, ledger: Ledger, name: int, rng: random.Random) -> None:
        self._client = client
        self._ledger = ledger
        self._rng = rng
        self._own = [b"own/%d/%d" % (name, n) for n in range(12)]
        self._leased: dict[int, bytes] = {}
        self._name = name

    async def run(self, stop: asyncio.Event, answers: Answers) -> None:
        """Write until told to stop; the request under way then is the last one."""
        actions = (
            (8, self._put),
            (3, self._delete),
            (4, self._txn),
            (3, self._swap),
            (2, self._attach),
            (1, self._revoke),
        )
        weights = [weight for weight, _ in actions]
        while not stop.is_set():
            ((_, action),) = self._rng.choices(actions, weights)
            await action()
            answers.add()

    def _value(self) -> bytes:
        size = 20_000 if self._rng.random() < 0.02 else self._rng.randrange(100)
        return b"%d." % next(_numbers) + b"x" * size

    async def _tell(self, write: Write, send: Callable[[], Awaitable[int | None]]) -> bool:
        """Send a write; ``send`` returns its revision, or None if it changed nothing."""
        try:
            revision = await send()
        except coord.AmbiguousResult:
            self._ledger.doubt(write)
            return False
        except (coord.Unavailable, coord.CoordTimeout):
            return False  # certainly not applied: the ledger would notice
        if revision is None:
            return False
        self._ledger.acknowledge(write, revision)
        return True

    async def _put(self) -> None:
        key, value = self._rng.choice([*self._own, *_SHARED]), self._value()

        async def send() -> int:
            return (await self._client.put(key, value)).revision

        await self._tell(Write(puts={key: (value, 0)}), send)

    async def _delete(self) -> None:
        key = self._rng.choice([*self._own, *_SHARED])

        async def send() -> int | None:
            result = await self._client.delete(key)
            self._ledger.saw(result.revision)
            return result.revision if result.deleted else None

        await self._tell(Write(deletes=(key,)), send)

    async def _txn(self) -> None:
        one, two, gone = self._rng.sample(self._own, 3)
        puts = {one: (self._value(), 0), two: (self._value(), 0)}

        async def send() -> int:
            ops = [op.put(key, value) for key, (value, _) in puts.items()]
            result = await self._client.txn().then(*ops, op.delete(gone)).commit()
            return result.revision

        await self._tell(Write(puts=puts, deletes=(gone,)), send)

    async def _swap(self) -> None:
        """Compare and swap on a key that everybody wants."""
        key, value = self._rng.choice(_SHARED), self._value()
        try:
            present = await self._client.get(key)
        except (coord.Unavailable, coord.CoordTimeout):
            return
        known = 0 if present is None else present.mod_revision

        async def send() -> int | None:
            txn = self._client.txn().when(compare.mod_revision(key) == known)
            result = await txn.then(op.put(key, value)).commit()
            return result.revision if result.succeeded else None

        await self._tell(Write(puts={key: (value, 0)}), send)

    async def _attach(self) -> None:
        lease = self._rng.getrandbits(62) + 1
        self._ledger.leases[lease] = False
        try:
            granted = await self._client.lease_grant(LEASE_TTL, lease_id=lease)
        except (coord.CoordError, TimeoutError):
            return
        assert granted.ttl == LEASE_TTL
        self._ledger.leases[lease] = True
        key, value = b"leased/%d/%x" % (self._name, lease), self._value()

        async def send() -> int:
            return (await self._client.put(key, value, lease=lease)).revision

        if await self._tell(Write(puts={key: (value, lease)}), send):
            self._leased[lease] = key

    async def _revoke(self) -> None:
        if len(self._leased) < 2:
            return
        lease = next(iter(self._leased))
        del self._leased[lease]
        write = Write(revokes=lease)
        try:
            revision = await self._client.lease_revoke(lease)
        except coord.LeaseNotFound:
            # The SDK repeats a revocation whose answer is missing: an earlier attempt did it.
            self._ledger.doubt(write)
        except (coord.AmbiguousResult, coord.Unavailable, coord.CoordTimeout):
            self._ledger.doubt(write)
        else:
            self._ledger.acknowledge(write, revision)
