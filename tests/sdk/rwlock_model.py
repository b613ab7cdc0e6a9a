"""What a read-write lock may do: an executable model, and a foreign client with the rules of Go's recipes.RWMutex."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import Literal

import coord
from coord import compare, op

Mode = Literal["read", "write"]
_numbers = itertools.count(1_700_000_000_000_000_000)  # as Go's UnixNano


@dataclass(slots=True)
class Held:
    """One grant: when it began and ended, by the place in the history; ``downgraded``: from then on it only reads."""

    mode: Mode
    token: int
    granted: int
    downgraded: int | None = None
    ended: int | None = None

    def writes_until(self, end: int) -> int:
        """Return the place at which it stops to exclude readers."""
        over = end if self.ended is None else self.ended
        return over if self.downgraded is None else min(over, self.downgraded)


class History:
    """Records grants in the order in which this process saw them, and judges them."""

    def __init__(self) -> None:
        self._places = itertools.count()
        self.held: list[Held] = []

    def grant(self, mode: Mode, token: int) -> Held:
        self.held.append(Held(mode, token, next(self._places)))
        return self.held[-1]

    def downgrade(self, held: Held) -> None:
        held.downgraded = next(self._places)

    def end(self, held: Held) -> None:
        held.ended = next(self._places)

    def judge(self) -> None:
        """Of two grants that exclude each other, the older entry's must be over before the younger one's begins."""
        end = next(self._places)
        ordered = sorted(self.held, key=lambda held: held.token)
        assert len({held.token for held in ordered}) == len(ordered)
        for older, younger in itertools.combinations(ordered, 2):
            if younger.mode == "write":
                over = end if older.ended is None else older.ended
            elif older.mode == "write":
                over = older.writes_until(end)
            else:
                continue
            assert over < younger.granted, (older, younger)


class ForeignRWMutex:
    """A contender that knows nothing of us: keys named by time, filters by modification revision."""

    def __init__(self, client: coord.Client, name: str, lease_id: int) -> None:
        self._client = client
        self._name = name
        self._lease = lease_id
        self.key = ""

    async def lock(self, mode: Mode) -> int:
        self.key = f"{self._name}/{mode}/{next(_numbers)}"
        absent = compare.version(self.key) == 0
        put = op.put(self.key, "", lease=self._lease)
        done = await self._client.txn().when(absent).then(put).commit()
        assert done.succeeded
        in_way = self._name + ("/write" if mode == "read" else "/")
        while True:
            last = await self._client.get_prefix(
                in_way,
                sort_by=coord.SortBy.MOD_REVISION,
                descending=True,
                limit=1,
                max_mod_revision=done.revision - 1,
            )
            if not last.items:
                return done.revision
            await self._gone(last.items[0].key, done.revision)

    async def _gone(self, key: bytes, revision: int) -> None:
        async with asyncio.timeout(30), self._client.watch(key, start_revision=revision) as watch:
            async for event in watch:
                if event.type is coord.EventType.DELETE:
                    return

    async def unlock(self) -> None:
        await self._client.delete(self.key)
