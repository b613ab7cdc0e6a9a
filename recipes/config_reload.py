"""What a process is made of changes while it runs: new settings, new connections, no restart, no request lost.

Problem: a pool of connections is made from settings. When these change, all processes must make a new one; a request
that is under way must end with the one it began with; and a mistake in the settings must not take the service down.

Guarantee: within moments every process uses the newest settings that are valid, and that a resource could be made
from. Whatever was borrowed before stays open until it is given back. Settings that are not valid, or from which
nothing can be made, change nothing, and are told.

On loss: a process that is cut off from the store goes on with the settings it has; ``config.stale_for`` says for how
long already. With ``snapshot=`` it also starts without the store, with the last good settings from a file.

Run it: ``python -m recipes.config_reload``.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import coord

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

NAME = "recipes/config-reload/settings"


@dataclass(frozen=True)
class Settings:
    """What a pool is made from."""

    host: str
    size: int = 4


class Pool:
    """A resource, here without its connections. Once it is retired, the last one who uses it closes it."""

    def __init__(self, settings: Settings) -> None:
        if settings.host == "nowhere":
            raise ConnectionRefusedError("nobody is there")
        self.settings = settings
        self.is_open = True
        self._users = 0
        self._is_retired = False

    @asynccontextmanager
    async def borrow(self) -> AsyncGenerator[Pool]:
        """Use it for the length of a block, during which it stays open."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            await self._close_if_unused()

    async def retire(self) -> None:
        """Nobody will borrow it again."""
        self._is_retired = True
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._is_retired and not self._users:
            self.is_open = False  # and here really: await self.connections.close()


class Reloading:
    """The pool of now: ``async with reloading.borrow() as pool``. ``tell`` hears what came of each change."""

    def __init__(self, config: coord.Config[Settings], tell: Callable[[str], object]) -> None:
        # In this order, so that no change falls between the two.
        self._changes = config.changes()
        self._pool = Pool(config.value)
        self._tell = tell

    def borrow(self) -> AbstractAsyncContextManager[Pool]:
        """Use the present pool for the length of a block, whatever comes meanwhile."""
        return self._pool.borrow()

    async def follow(self) -> None:
        """Replace the pool at each change; ends by being cancelled, and retires the last pool then."""
        try:
            async for state in self._changes:
                if state.invalid is not None:
                    self._tell("refused, not valid")
                elif state.value != self._pool.settings:
                    await self._replace(state.value)
        finally:
            await self._pool.retire()

    async def _replace(self, settings: Settings) -> None:
        try:
            fresh = Pool(settings)
        except OSError as error:
            self._tell(f"refused, {error}")
            return
        old, self._pool = self._pool, fresh
        await old.retire()
        self._tell(f"uses {settings.host}, {settings.size} connections")


async def main() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    default = Settings("db-1")
    async with coord.connect() as client:
        await client.delete_prefix(NAME)
        async with (
            await client.config(NAME, Settings, default=default) as config,
            asyncio.TaskGroup() as group,
        ):
            reloading = Reloading(config, told.put_nowait)
            following = group.create_task(reloading.follow())
            async with reloading.borrow() as pool:
                await config.publish(Settings("db-2", size=8))
                print(await told.get())
                print("the request under way has", pool.settings.host, "- open:", pool.is_open)
            await client.put(NAME, '{"host": 7}')
            print(await told.get())
            await config.publish(Settings("nowhere"))
            print(await told.get())
            async with reloading.borrow() as pool:
                print("a new request has", pool.settings.host, "- open:", pool.is_open)
            following.cancel()
        await client.delete_prefix(NAME)


if __name__ == "__main__":
    asyncio.run(main())
