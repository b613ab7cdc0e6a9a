"""Writers that note what was acknowledged, for tests that look afterwards whether all of it is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field

import coord
from coord.testing.chaos import MemberProcess, wait_until

_TIMEOUT_S = 10.0


@dataclass
class Load:
    """What writers were told: values by key that were acknowledged, and keys whose outcome nobody knows."""

    acked: dict[str, str] = field(default_factory=dict[str, str])
    unknown: set[str] = field(default_factory=set[str])
    refused: int = 0

    async def more(self, count: int, *, within: float = 30.0) -> None:
        """Return once ``count`` more writes are acknowledged."""
        goal = len(self.acked) + count
        await wait_until(
            lambda: len(self.acked) >= goal, what=f"{count} more writes", within=within
        )

    async def check(self, members: Iterable[MemberProcess]) -> None:
        """Every acknowledged write is read on every member, and nothing that nobody wrote."""
        for member in members:
            async with coord.connect(member.endpoint) as client:
                found = await client.get_prefix("load/", timeout=_TIMEOUT_S)
                there = {kv.key.decode(): kv.value.decode() for kv in found.items}
                missing = {key for key, value in self.acked.items() if there.get(key) != value}
                assert not missing, f"{member.name} lacks {sorted(missing)}"
                strange = there.keys() - self.acked.keys() - self.unknown
                assert not strange, f"{member.name} has {sorted(strange)}"


@contextlib.asynccontextmanager
async def writing(
    endpoints: str, *, writers: int = 4, pause_s: float = 0.01
) -> AsyncGenerator[Load]:
    """Write a key after the other, each once, with several writers over one client until the context ends."""
    load = Load()
    stop = asyncio.Event()

    async def write(client: coord.Client, writer: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = f"load/{writer}/{number}"
            try:
                await client.put(key, f"{number}", timeout=_TIMEOUT_S)
            except coord.AmbiguousResult:
                load.unknown.add(key)
            except (coord.Unavailable, coord.CoordTimeout):
                load.refused += 1
                load.unknown.add(key)
            else:
                load.acked[key] = f"{number}"
            await asyncio.sleep(pause_s)

    async with coord.connect(endpoints) as client, asyncio.TaskGroup() as group:
        for writer in range(writers):
            group.create_task(write(client, writer))
        try:
            yield load
        finally:
            stop.set()
