"""What happens to bytes between members: one rule for each direction of each pair."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CLIENTS = "clients"
"""Who is at the other end of a member's port for clients."""

CHUNK_BYTES = 64 * 1024


class Cut(OSError):
    """The link resets its connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one direction does with bytes.

    ``held`` keeps them, as a network without a route does: they arrive once it is healed, unless an end has
    given up. ``reset`` ends connections instead. Bytes leave ``delay_s`` and up to ``jitter_s`` after they came,
    at most ``bytes_per_s``, in pieces of at most ``chunk_bytes``.
    """

    held: bool = False
    reset: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    chunk_bytes: int = CHUNK_BYTES

    def pause_s(self, count: int, draw: Callable[[], float]) -> float:
        """Return how long ``count`` bytes take; ``draw`` gives a number from 0 to 1."""
        pause = self.delay_s + (self.jitter_s * draw() if self.jitter_s else 0.0)
        return pause + (count / self.bytes_per_s if self.bytes_per_s else 0.0)


PASS = Rule()
HELD = Rule(held=True)
RESET = Rule(reset=True)


class Links:
    """The rules of all pairs; those that were never set let everything pass."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], Rule] = {}
        self._names: dict[str, None] = {}
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._random = random.Random()  # noqa: S311 - jitter

    def join(self, name: str) -> None:
        """Make a member known, so that ``partition`` knows who is on the other side."""
        self._names[name] = None

    def listen(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after each change of a rule."""
        self._listeners.append(changed)

    def rule(self, source: str, target: str) -> Rule:
        """Return the rule for bytes from ``source`` to ``target``."""
        return self._rules.get((source, target), PASS)

    def set(self, source: str, target: str, rule: Rule) -> None:
        """Set one direction of one pair."""
        self._rules[source, target] = rule
        self._tell()

    def partition(self, *sides: Iterable[str], rule: Rule = HELD) -> None:
        """Let members reach only those of their own side; those that are named nowhere are one more side.

        Clients reach everybody still. Raises ValueError for a name that is unknown or on two sides.
        """
        groups = [list(side) for side in sides]
        named = [name for group in groups for name in group]
        for name in named:
            if name not in self._names or named.count(name) > 1:
                raise ValueError(f"{name!r} is no member, or on two sides")
        groups.append([name for name in self._names if name not in named])
        for group in groups:
            for other in groups:
                if other is not group:
                    self._rules.update(dict.fromkeys(_pairs(group, other), rule))
        self._tell()

    def isolate_clients(self, name: str, rule: Rule = HELD) -> None:
        """Cut a member off from its clients, both ways."""
        self._rules[CLIENTS, name] = self._rules[name, CLIENTS] = rule
        self._tell()

    def heal(self) -> None:
        """Let everything pass again."""
        self._rules.clear()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        for changed in self._listeners:
            changed()

    async def passage(self, source: str, target: str, count: int) -> None:
        """Return when ``count`` bytes may go on. Raises Cut where connections are reset."""
        rule = self.rule(source, target)
        if rule is PASS:
            return
        pause = rule.pause_s(count, self._random.random)
        if pause:
            await asyncio.sleep(pause)
        while True:
            rule = self.rule(source, target)
            if rule.reset:
                raise Cut(f"{source} to {target} is cut")
            if not rule.held:
                return
            await self._changed.wait()


def _pairs(group: Iterable[str], other: Iterable[str]) -> list[tuple[str, str]]:
    there = list(other)
    return [(source, target) for source in group for target in there]
