"""What a process owns, as its readers see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coord.recipes.partitioner.ownership import Ownership


class Board:
    """The owned partitions. Written on the runtime's loop; :meth:`read` from any thread."""

    def __init__(self) -> None:
        self.owned: dict[str, Ownership] = {}
        self._version = 0
        self._news = asyncio.Event()

    def put(self, own: Ownership) -> None:
        """Show one more."""
        self.owned[own.partition] = own
        self._wake()

    def take(self, own: Ownership) -> bool:
        """Show it no more; say whether it was shown."""
        if self.owned.get(own.partition) is not own:
            return False
        del self.owned[own.partition]
        self._wake()
        return True

    def _wake(self) -> None:
        self._version += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    def read(self) -> dict[str, Ownership]:
        """Return what is owned right now, by the clock."""
        return {p: own for p, own in self.owned.copy().items() if own.valid_for() > 0}

    async def after(self, version: int) -> int:
        """Wait until there is something newer than ``version``, and return what that is called."""
        while self._version == version:
            await self._news.wait()
        return self._version
