"""Partitioner: an owner at a time for each partition, and in the end for every one the owner that the members say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from typing_extensions import override

import coord
from coord.recipes.partitioner.assignment import assign
from tests.exploration.process import TTL_S, Process, Scenario, Violation, awaited
from tests.exploration.store import Change
from tests.exploration.world import World

Callback = Callable[[coord.Ownership], Awaitable[object]]
_PARTITIONS = ("a", "b", "c", "d", "e")
_SETTLE_S = 0.2
_SETTLED_S = 2.5 * TTL_S
"""After the last fault sessions end, members come back over half a TTL, and everything is handed over, in this time."""


class PartitionerScenario(Scenario):
    """Members that come, go and are told of more partitions; some serve, some drain, some fail to serve."""

    name = "partitioner"
    bodies: tuple[int, ...] = (0, 1, 2, 0)
    prefix = b"p/"
    keeps_watching = (
        True  # a partition's owners are watched for as long as a member runs, and shortly after
    )

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.staying = 0
        self.checked = asyncio.Event()

    @override
    def deletable(self) -> list[bytes]:
        return self.world.store.keys(b"p/owners/")

    @override
    async def body(self, process: Process, task: int) -> None:
        for _ in range(self.rand.choice((1, 1, 2))):
            await process.think(1.0)
            stays = self.rand.random() < 0.6
            partitions = _PARTITIONS if self.rand.random() < 0.7 else _PARTITIONS[:3]
            member = process.client.partitioner(
                "p",
                partitions,
                weight=self.rand.choice((1, 1, 2)),
                settle=_SETTLE_S,
                drain_timeout=self.rand.choice((0.1, 1.0)),
                max_moves=self.rand.choice((1, 16)),
                ttl=TTL_S,
            )
            joining = member.run(self._serve(process), self._drain(), timeout=3.0)
            joined = await process.call("join", awaited(joining), limit=3.0)
            if not isinstance(joined, coord.Partitioner):
                continue
            await process.think(1.5)
            if stays:
                await self._stay(process, member)
            stopped = await process.call("stop", member.stop())
            if stopped is None and member.owned():
                raise Violation("left", f"{member.owned()} are owned after the end")

    def _serve(self, process: Process) -> Callback:
        async def serve(own: coord.Ownership) -> None:
            process.hold(own, own.partition)
            if self.world.plan.on and self.rand.random() < 0.1:
                raise LookupError("cannot serve this one")
            await asyncio.sleep(self.rand.choice((0.0, 100.0)))

        return serve

    def _drain(self) -> Callback:
        pauses = self.rand.choice(((0.0,), (0.0, 0.05, 0.3)))

        async def drain(own: coord.Ownership) -> None:
            if not (own.lost.is_set() or own.valid_for() > 0):
                raise Violation("drain", f"{own.partition} is drained after it was given back")
            await asyncio.sleep(self.rand.choice(pauses))

        return drain

    async def _stay(self, process: Process, member: coord.Partitioner) -> None:
        """Stay until all is quiet, and look whether everything is as it should be."""
        self.staying += 1
        with contextlib.suppress(coord.ClientClosed):
            await member.set_partitions(_PARTITIONS)
        await self.world.until_calm(_SETTLED_S)
        if not self.checked.is_set():
            self.checked.set()  # before anybody leaves: all of them wake up at this moment
            self._check()
        if not process.is_closed:
            mine = {p: own.token for p, own in member.owned().items()}
            created = self.world.store.created
            if any(created(f"p/owners/{p}".encode()) != token for p, token in mine.items()):
                raise Violation("owned", f"{mine} are believed to be owned")

    def _check(self) -> None:
        store = self.world.store
        members = {
            key.removeprefix(b"p/members/").decode(): json.loads(store.pair(key).value)["data"][
                "weight"
            ]
            for key in store.keys(b"p/members/")
        }
        owners = {
            key.removeprefix(b"p/owners/").decode(): json.loads(store.pair(key).value)["owner"]
            for key in store.keys(b"p/owners/")
        }
        if owners != assign(_PARTITIONS, members):
            raise Violation("rest", f"{owners} own, of {members}")

    @override
    def is_told(self, context: dict[str, Any]) -> bool:
        error = context.get("exception")
        return isinstance(error, LookupError) or "was not drained" in context["message"]

    @override
    def judge(self, changes: list[Change]) -> None:
        owners: dict[bytes, int] = {}
        for change in changes:
            if not change.key.startswith(b"p/owners/"):
                continue
            if change.value is None:
                continue
            if change.created != change.revision:
                raise Violation("owner", f"{change.key!r} was changed, not created")
            if change.created <= owners.get(change.key, 0):
                raise Violation("owner", f"{change.key!r}: tokens do not rise")
            owners[change.key] = change.created
