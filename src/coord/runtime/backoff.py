"""Pauses between attempts, longer each time and never in step with those of others.

For loops that go on until they succeed or are told to stop, and reconnect or ask again in between.
A call with a deadline and a verdict is tenacity's business (:mod:`coord.store.caller`); its wait strategies draw from
Python's own random numbers, which a simulator cannot replay, and loading it takes longer than most pauses.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coord.runtime.seams import Rand


class Backoff:
    """The pauses of one series of attempts, in seconds: from ``first`` on twice as long each time, none above ``most``.

    Each is drawn anew, from ``spread`` of what it may last less to all of it.
    A half, the default, is for those who wait for something to come back: nobody asks too soon, and not all at once.
    ``spread=1`` draws from nothing on: for those who are in each other's way, and should end up far apart.
    """

    __slots__ = ("_first", "_low", "_most", "_next", "_rand")

    def __init__(self, rand: Rand, first: float, most: float, *, spread: float = 0.5) -> None:
        self._rand = rand
        # It may be measured, and what was measured in an outage is much longer than a pause should be.
        self._first = min(first, most)
        self._most = most
        self._low = 1 - spread
        self._next = self._first

    def draw(self) -> float:
        """Return how long to pause after one more failure."""
        ceiling, self._next = self._next, min(self._most, self._next * 2)
        return self._rand.uniform(ceiling * self._low, ceiling)

    async def pause(self, limit: float | None = None) -> None:
        """Pause after one more failure, at most ``limit`` seconds."""
        drawn = self.draw()
        await asyncio.sleep(drawn if limit is None else min(drawn, limit))

    def reset(self) -> None:
        """Begin again with short pauses: an attempt has got somewhere."""
        self._next = self._first
