"""The brake: when too many instances vanish at once, it is more likely that something is wrong with the store.

Rules only: times come in, in seconds of one clock, and what to show comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.recipes.registry.instance import Instance

BRAKE_RATIO = 0.5
"""Share of the instances that may vanish within the window."""
AT_LEAST = 4
"""With fewer instances, half of them is no crowd."""


@dataclass(slots=True)
class _Gone:
    instance: Instance
    at: float
    held: bool = False


class Brake:
    """Keeps instances that have vanished with too many others.

    When more than ``ratio`` of at least four instances vanish within ``window`` seconds, all that did are shown for
    ``grace`` seconds more, unless a probe finds them dead (:meth:`drop`) or they come back.
    One that was draining has left on purpose, and does not count.
    """

    def __init__(self, *, ratio: float, window: float, grace: float) -> None:
        self._ratio = ratio
        self._window = window
        self._grace = grace
        self._gone: dict[bytes, _Gone] = {}

    def came(self, keys: Iterable[bytes]) -> None:
        """Take note that these are in the store."""
        for key in keys:
            self._gone.pop(key, None)

    def vanished(self, instances: Iterable[Instance], present: int, now: float) -> bool:
        """Take note of what has vanished while ``present`` are left; say whether the brake has caught any."""
        for each in instances:
            if each.health != "draining":
                self._gone[each.key] = _Gone(each, now)
        recent = [gone for gone in self._gone.values() if gone.at > now - self._window]
        before = present + len(self._gone)
        if before < AT_LEAST or len(recent) <= self._ratio * before:
            return False
        fresh = [gone for gone in recent if not gone.held]
        for gone in fresh:
            gone.held = True
        return bool(fresh)

    def drop(self, key: bytes) -> None:
        """Let go of one, which a probe has found dead."""
        self._gone.pop(key, None)

    def held(self, now: float) -> tuple[Instance, ...]:
        """Return those to show although they are gone, and forget what is too old."""
        for key, gone in list(self._gone.items()):
            limit = self._grace if gone.held else self._window
            if now >= gone.at + limit:
                del self._gone[key]
        return tuple([gone.instance for gone in self._gone.values() if gone.held])

    def next_end(self) -> float | None:
        """Return when the next of them is to be let go; None when there is none."""
        return min([g.at + self._grace for g in self._gone.values() if g.held], default=None)
