"""Schedulers on one store in virtual time, each with a wall clock of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

import coord
from coord.client.connecting import open_client
from coord.core import Options
from coord.embed.memory import open_memory
from coord.target import Target, TargetKind
from coord.testing import Faults
from coord.transport import taps
from tests.support.virtual import VirtualClock, VirtualLoop, run_virtual, virtual_env

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


class WallClock(VirtualClock):
    """Begins at :data:`BEGIN`, and is ``ahead`` of the others by so many seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ahead: float) -> None:
        super().__init__(loop)
        self.ahead = ahead
        self._begun = loop.time()
        self._frozen: float | None = None

    def freeze_at(self, seconds: float) -> None:
        """Show this time from now on."""
        self._frozen = seconds

    @override
    def wall(self) -> float:
        if self._frozen is not None:
            return BEGIN.timestamp() + self._frozen
        return BEGIN.timestamp() + self.mono() - self._begun + self.ahead


class World:
    """One store, and as many clients as are asked for."""

    def __init__(self, loop: VirtualLoop, stack: contextlib.AsyncExitStack) -> None:
        self.loop = loop
        self.clocks: list[WallClock] = []
        self._stack = stack
        self._env = virtual_env(loop)
        self._begun = loop.time()
        self._options: Options | None = None
        self._net: Any = None

    async def start(self) -> None:
        opened = await open_memory(self._env)
        self._stack.push_async_callback(opened.close)
        target = Target(kind=TargetKind.ENDPOINTS, endpoints=opened.endpoints)
        self._options = Options(target=target, placement="inline")
        self._net = opened.net
        self._begun = self.loop.time()

    async def client(self, ahead: float = 0.0, faults: Faults | None = None) -> coord.Client:
        """Return one more client, with all its requests and streams under ``faults``."""
        assert self._options is not None
        clock = WallClock(self.loop, ahead)
        clock._begun = self._begun
        self.clocks.append(clock)
        env = replace(self._env, net=self._net, clock=clock)
        take_away = taps.insert(faults.under) if faults is not None else None
        try:
            made = await open_client(self._options, env)
        finally:
            if take_away is not None:
                take_away()
        return await self._stack.enter_async_context(made)

    @property
    def now(self) -> float:
        """Seconds since :data:`BEGIN`."""
        return self.loop.time() - self._begun


def in_world(main: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run ``main(world)`` in a fresh world."""

    async def run(loop: VirtualLoop) -> None:
        async with contextlib.AsyncExitStack() as stack:
            world = World(loop, stack)
            await world.start()
            await main(world)

    run_virtual(run)


@contextlib.asynccontextmanager
async def running(
    *crons: coord.Cron, grace: float = 0.0
) -> AsyncGenerator[list[asyncio.Task[None]]]:
    """Run schedulers for the time of the block."""
    tasks = [asyncio.ensure_future(cron.run(grace=grace)) for cron in crons]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
