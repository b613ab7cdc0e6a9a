"""Who tries an item first, among the consumers of one queue (spec recipes 10.1, 11).

All consumers see the same items. Were all of them to try each, all but one would fail.
So for each item the consumers have an order, which all of them work out alike from the item's key: the first tries at
once, the others only if the item is still there a moment later.
This saves requests and decides nothing: who gets an item is decided by the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable

# Longer than a transaction and its event take as a rule; what an item waits whose first consumer is busy.
GRACE_S = 0.025
# Where they take longer (a slow store, a busy machine) it grows with each try that comes too late, so that consumers
# which see everything late do not make it later still; and it shrinks again by half in so many seconds.
_GRACE_MOST_S = 0.4
_HALF_LIFE_S = 2.0
# Nobody's place in the order may cost an item more than this.
_WAIT_MOST_S = 1.0
# Who is farther down the order than this waits no longer.
_FARTHEST = 8
# A consumer that has let an item pass is busy, or has stopped asking: for so long nobody waits for it again.
_ABSENT_S = 1.0
# Sums of times are rounded. A rest of less than this may be no step at all for a clock of floats, and one that moves only
# when somebody waits (of a test) would stand still, and the item wait for ever.
_LEAST_S = 1e-6


class Turns:
    """The order of the consumers for each item, as one of them sees it. Takes no I/O."""

    def __init__(self) -> None:
        self._names: tuple[bytes, ...] = ()
        self._own: bytes | None = None
        self._absent_until: dict[bytes, float] = {}
        self._extra_s = 0.0
        self._lost_at = 0.0

    @property
    def count(self) -> int:
        """How many consumers are known, at least one."""
        return max(1, len(self._names))

    def update(self, names: Iterable[bytes], own: bytes | None) -> None:
        """Take note of the consumers, and of which one we are; None: we are none of them."""
        self._names = tuple(sorted(names))
        self._own = own if own in self._names else None
        self._absent_until = {n: t for n, t in self._absent_until.items() if n in self._names}

    def wait(self, key: bytes, now: float) -> float:
        """Return for how many seconds an item has to be there before we try it; ``now`` is monotonic."""
        present = self._present(now)
        if not present:
            return 0.0
        if self._own is None:
            distance = len(present)
        else:
            distance = (present.index(self._own) - _number(key)) % len(present)
        return min(_WAIT_MOST_S, self._grace(now) * min(distance, _FARTHEST))

    def left(self, key: bytes, now: float, has_been: float) -> float:
        """Return for how many seconds more we leave alone an item that has been there for ``has_been``; 0: not at all."""
        left = self.wait(key, now) - has_been
        return left if left >= _LEAST_S else 0.0

    def lost(self, now: float) -> None:
        """Take note that we have tried an item which somebody else had got meanwhile."""
        self._extra_s = min(_GRACE_MOST_S, 2 * self._grace(now)) - GRACE_S
        self._lost_at = now

    def _grace(self, now: float) -> float:
        return GRACE_S + self._extra_s * float(0.5 ** ((now - self._lost_at) / _HALF_LIFE_S))

    def passed(self, key: bytes, now: float) -> None:
        """Take note that we have got an item which its first consumer had let pass, if that is somebody else."""
        present = self._present(now)
        if present:
            first = present[_number(key) % len(present)]
            if first != self._own:
                self._absent_until[first] = now + _ABSENT_S

    def _present(self, now: float) -> list[bytes]:
        return [n for n in self._names if n == self._own or self._absent_until.get(n, 0.0) <= now]


def _number(key: bytes) -> int:
    # Not the revision: puts and takes that alternate would make all items those of every other consumer.
    return crc32(key)
