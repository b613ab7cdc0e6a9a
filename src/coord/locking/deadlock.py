"""Circles of waits, found by those who wait (spec recipes 3, ``detect_deadlocks``).

Whoever has waited for a second looks: who holds what I wait for, what does that one wait for, and so on.
A way that leads back to itself, the same in two looks, is a deadlock if each wait on it is certain; one of them must
give up, and gets :class:`DeadlockDetected`.
Of waits in the store that is the youngest, which the circle was closed by; so it is found after one or two looks.
Of waits inside a process, which no other process can see, the youngest there gives up.

A circle through entries that do not say which task they belong to may be none at all: a :class:`DeadlockWarning` tells
of it, once, and nobody gives up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from coord.errors import CoordError
from coord.locking.waits import Agent, Waits
from coord.notices import CoordWarning, notice
from coord.signals import OneShot
from coord.waiter import unless

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from coord.coordination import Coordination
    from coord.locking.waits import Waiting

T = TypeVar("T")

_FIRST_LOOK_S = 1.0
_CONFIRM_S = 0.25
_LONGEST_S = 30.0
_SPREAD = 0.1
_DEPTH = 32
_LOOK_WITHIN_S = 5.0


class DeadlockDetected(CoordError):
    """Waiting on would never end: those in the way wait, by way of others, for what this one holds.

    Raised in one waiter of the circle, whose place in line is given up; it should release what it holds, so that the
    others go on. ``cycle`` has the waits, its own first.
    """

    def __init__(self, name: str, cycle: tuple[Waiting, ...]) -> None:
        self.name = name
        self.cycle = cycle
        super().__init__(f"waiting for {name!r} closes a circle: {circle(cycle)}")


class DeadlockWarning(CoordWarning):
    """A wait may be part of a circle; it is not certain, since entries of other clients do not name their owners."""


def circle(cycle: tuple[Waiting, ...]) -> str:
    """Return the waits for people."""
    return ", ".join(
        f"{_agent(w.lease_id, w.owner)} waits for {w.name.decode(errors='backslashreplace')!r}"
        f" held by {_agent(w.holder, w.holder_owner)}"
        for w in cycle
    )


def _agent(lease_id: int, owner: str) -> str:
    return f"{owner or 'session'} of {lease_id:x}" if owner else f"session {lease_id:x}"


class Detector:
    """Looks for circles through one waiter, for as long as it waits. On the runtime's loop."""

    def __init__(self, home: Coordination, text: str, waiter: Agent) -> None:
        self._home = home
        self._text = text
        self._waiter = waiter
        self._found = OneShot(home.runtime, f"a deadlock at {text!r}")
        self.cycle: tuple[Waiting, ...] = ()
        """The circle that was found, empty before."""
        self.suspected: tuple[Waiting, ...] = ()
        """A circle that may be one, of the last look."""

    async def watch_over(self, step: Coroutine[Any, Any, T]) -> T:
        """Return what ``step`` returns, which waits. Raises :class:`DeadlockDetected` in its place."""
        task = self._home.background(self._run(), name="deadlock-detector")
        try:
            return await unless(self._found, step, self._tell)
        finally:
            if task is not None:
                task.cancel()

    def _tell(self) -> None:
        raise DeadlockDetected(self._text, self.cycle)

    async def _run(self) -> None:
        pause = _FIRST_LOOK_S
        while True:
            await self._home.pause(pause * (1 - _SPREAD), pause * (1 + _SPREAD))
            if await self._look():
                return
            pause = min(pause * 2, _LONGEST_S)

    async def _look(self) -> bool:
        """Look twice, and tell what was there both times; say whether the waiter has to give up."""
        seen = await self._circle()
        if not seen:
            self.suspected = ()
            return False
        await asyncio.sleep(_CONFIRM_S)
        again = await self._circle()
        if again != seen:
            return False
        if not all(wait.is_certain for wait in seen):
            if not self.suspected:
                notice(DeadlockWarning(f"a wait may never end: {circle(seen)}"))
            self.suspected = seen
            return False
        if not gives_up(seen):
            return False
        self.cycle = seen
        self._found.set("deadlock")
        return True

    async def _circle(self) -> tuple[Waiting, ...]:
        """Return a circle through the waiter, a certain one if there is one; empty if there is none."""
        waits = Waits(self._home, _LOOK_WITHIN_S)
        try:
            return await find_circle(waits, self._waiter, certain=True) or await find_circle(
                waits, self._waiter, certain=False
            )
        except CoordError:
            return ()  # out of reach or denied: the next look may tell


def gives_up(cycle: tuple[Waiting, ...]) -> bool:
    """Say whether it is the first wait of the circle that must give up."""
    if any(wait.serial for wait in cycle):
        return cycle[0].serial == max(wait.serial for wait in cycle)
    return cycle[0].token == max(wait.token for wait in cycle)


async def find_circle(waits: Waits, start: Agent, *, certain: bool) -> tuple[Waiting, ...]:
    """Return waits that lead from ``start`` back to it, at most 32; ``certain``: only those that are."""
    seen = {start}
    ways: list[tuple[Waiting, ...]] = [(w,) for w in await waits.of(start)]
    while ways:
        way = ways.pop(0)
        last = way[-1]
        if certain and not last.is_certain:
            continue
        if _is_same(last.holding, start):
            return way
        if last.holding in seen or len(way) >= _DEPTH:
            continue
        seen.add(last.holding)
        ways += [(*way, wait) for wait in await waits.of(last.holding)]
    return ()


def _is_same(holder: Agent, start: Agent) -> bool:
    """Whether they may be the same: entries without an owner could be of any task of their session."""
    return holder.lease_id == start.lease_id and holder.owner in (start.owner, "")
