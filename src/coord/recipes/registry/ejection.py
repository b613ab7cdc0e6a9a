"""Which instances this process leaves alone for a while, because calls to them have failed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.recipes.registry.instance import Instance
    from coord.runtime import Clock

ERRORS_IN_A_ROW = 5
"""Failed calls in a row after which an instance is left alone."""
BASE_S, MOST_S = 5.0, 300.0
"""For how long: the first time, and at most; twice as long each time in between."""


class _Standing:
    """What is known of one instance."""

    __slots__ = ("errors", "out_until", "times")

    def __init__(self) -> None:
        self.errors: deque[None] = deque(maxlen=ERRORS_IN_A_ROW)  # its steps are atomic
        self.out_until = 0.0
        self.times = 0


class Ejection:
    """The judgement over the instances of one view; called by any thread.

    At most half of them are out at a time: if more fail, the fault is hardly theirs.
    ``version`` changes when somebody is put out.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[bytes, _Standing] = {}
        self.version: int = 0

    def report(self, instance: Instance, all_of_them: tuple[Instance, ...], *, ok: bool) -> None:
        """Take note of how a call has ended."""
        standing = self._known.get(instance.key)
        if ok:
            if standing is not None:
                self._praise(standing)
            return
        if standing is None:
            standing = self._known.setdefault(instance.key, _Standing())
        standing.errors.append(None)
        if len(standing.errors) == ERRORS_IN_A_ROW:
            self._eject(standing, all_of_them)

    def _praise(self, standing: _Standing) -> None:
        standing.errors.clear()
        # In favour again when it has done well for as long as it was out.
        if standing.times and self._clock.mono() > standing.out_until + _penalty(standing.times):
            standing.times = 0

    def _eject(self, standing: _Standing, all_of_them: tuple[Instance, ...]) -> None:
        now = self._clock.mono()
        out = sum([self._is_out(each, now) for each in all_of_them])
        if standing.out_until <= now and (out + 1) * 2 <= len(all_of_them):
            standing.times += 1
            standing.out_until = now + _penalty(standing.times)
            standing.errors.clear()
            self.version += 1

    def _is_out(self, instance: Instance, now: float) -> bool:
        standing = self._known.get(instance.key)
        return standing is not None and standing.out_until > now

    def admitted(self, instances: Iterable[Instance]) -> tuple[tuple[Instance, ...], float]:
        """Return those who are not out, and until when that is so (seconds of the clock)."""
        now = self._clock.mono()
        kept: list[Instance] = []
        until = float("inf")
        for each in instances:
            if self._is_out(each, now):
                until = min(until, self._known[each.key].out_until)
            else:
                kept.append(each)
        return tuple(kept), until

    def forget_all_but(self, keys: frozenset[bytes]) -> None:
        """Forget those who are no longer there."""
        for key in [known for known in self._known.copy() if known not in keys]:
            self._known.pop(key, None)


def _penalty(times: int) -> float:
    return min(MOST_S, BASE_S * float(2 ** min(times - 1, 16)))
