"""Membership and registry: whoever is in, is shown; whoever has left, is not; views agree with the store at last."""

from __future__ import annotations

import asyncio
import contextlib

from typing_extensions import override

import coord
from coord.recipes.membership import GroupSeat
from coord.recipes.registry.registration import Registration
from tests.exploration.process import TTL_S, Process, Scenario, Violation, awaited
from tests.exploration.world import World

_HEALED_S = TTL_S + 4.0
"""After the last fault an old lease ends, and a new one is got, within this time."""


class MembershipScenario(Scenario):
    """Members that come and go, two of them under one id; everybody looks at the group at the end."""

    name = "membership"
    bodies: tuple[int, ...] = (0, 1, 2, 0)
    prefix = b"g/"
    keeps_watching = True  # a group that was looked at is followed

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.arrived = 0
        self.seats: dict[int, str] = {}

    @override
    async def body(self, process: Process, task: int) -> None:
        group = process.client.membership("g", ttl=TTL_S)
        ident = self.rand.choice((f"m{task}", "shared"))
        for _ in range(self.rand.choice((1, 2))):
            await process.think()
            stays = self.rand.random() < 0.5
            takeover = self.rand.random() < 0.3
            joining = group.join(ident, data=task, takeover=takeover, timeout=2.0)
            seat = await process.call("join", awaited(joining), limit=2.0)
            if not isinstance(seat, GroupSeat):
                continue
            await process.think()
            if self.rand.random() < 0.5:
                await process.call("update", seat.update(f"new {task}", timeout=1.0), limit=1.0)
            if stays:
                await self.world.until_calm(_HEALED_S)
                self._check_present(process, seat)
                await self._check_view(process, group)
            left = await process.call("leave", seat.leave())
            if isinstance(left, bool) and not process.is_closed and seat.is_present:
                raise Violation("left", f"{seat!r} has left")

    def _check_present(self, process: Process, seat: GroupSeat) -> None:
        if process.is_closed or seat.lost.is_set():
            return
        if self.world.store.created(seat.key) != seat.token:
            raise Violation("present", f"{seat!r} is not in the store, or not with its token")

    async def _check_view(self, process: Process, group: coord.Membership) -> None:
        there = {key[2:].decode() for key in self.world.store.keys(self.prefix)}
        await asyncio.sleep(0.05)
        members = await process.call("members", group.members(timeout=2.0), limit=2.0)
        if not isinstance(members, tuple):
            return
        # Others leave at this time, so only those are compared that did not.
        shown = {m.id for m in members}
        there &= {key[2:].decode() for key in self.world.store.keys(self.prefix)}
        if not there <= shown:
            raise Violation("view", f"{sorted(there)} are there, {sorted(shown)} are shown")


class RegistryScenario(Scenario):
    """Instances that come and go, and views of them."""

    name = "registry"
    bodies: tuple[int, ...] = (0, 1, 2, 2)
    prefix = b"svc/"
    _viewer = 3

    @override
    async def body(self, process: Process, task: int) -> None:
        registry = process.client.registry("svc", ttl=TTL_S)
        if task == self._viewer:
            await self._view(process, registry)
            return
        for _ in range(self.rand.choice((1, 2))):
            await process.think()
            stays = self.rand.random() < 0.5
            opening = registry.register(
                f"host:{task}",
                id=self.rand.choice((f"i{task}", "shared")),
                takeover=self.rand.random() < 0.3,
                timeout=2.0,
            )
            made = await process.call("register", awaited(opening), limit=2.0)
            if not isinstance(made, Registration):
                continue
            await process.think()
            if self.rand.random() < 0.5:
                await process.call("update", made.update(weight=3))
            if stays:
                await self.world.until_calm(_HEALED_S)
                if not (process.is_closed or made.lost.is_set()) and (
                    self.world.store.created(made.key) != made.token
                ):
                    raise Violation(
                        "present", f"{made!r} is not in the store, or not with its token"
                    )
                await asyncio.sleep(1.0)
            await process.call("deregister", made.deregister())

    async def _view(self, process: Process, registry: coord.Registry) -> None:
        await process.think()
        opening = registry.discover(brake_ratio=1.0, brake_grace=0.1)
        view = await process.call("discover", awaited(opening))
        if not isinstance(view, coord.ServiceView):
            return
        await self.world.until_calm(_HEALED_S + 0.5)
        if not process.is_closed:
            with contextlib.suppress(coord.ClientClosed):
                shown = {instance.id for instance in view.instances()}
                there = {key[4:].decode() for key in self.world.store.keys(self.prefix)}
                if shown != there:
                    raise Violation("view", f"{sorted(there)} are there, {sorted(shown)} are shown")
        view.close()
