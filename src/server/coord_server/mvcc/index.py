"""Which keys exist, since when, and at which revisions each one changed.

All of it is in memory, values are not. A key that was written once costs one small object; older
revisions go into one array of machine integers, so that a key that is overwritten a million times
between two compactions costs megabytes and not a hundred of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol, cast, final

from sortedcontainers import SortedList

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FROM_KEY = b"\x00"
"""The range end that means: every key from the start on (etcd API: Range)."""


class SortedKeys(Protocol):
    """The part of a SortedList that is used here; the library has no types of its own."""

    def add(self, value: bytes) -> None:
        """Insert a key that is not there."""
        ...

    def remove(self, value: bytes) -> None:
        """Remove a key that is there."""
        ...

    def update(self, values: Iterable[bytes]) -> None:
        """Insert many keys that are not there."""
        ...

    def bisect_left(self, value: bytes) -> int:
        """Return how many keys are below ``value``."""
        ...

    def irange(
        self,
        minimum: bytes | None = None,
        maximum: bytes | None = None,
        inclusive: tuple[bool, bool] = (True, True),
        reverse: bool = False,  # noqa: FBT001, FBT002 - the library's signature
    ) -> Iterator[bytes]:
        """Yield the keys between two bounds; None is no bound."""
        ...

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[bytes]: ...


def _sorted_keys() -> SortedKeys:
    return cast("SortedKeys", SortedList())


@final
class History:
    """One key: counters of its newest record, and the revisions of the records before that.

    ``version`` 0 says that the newest record is a tombstone. ``field`` is the newest record, or None
    if it is not cached (or a tombstone). ``older`` holds pairs of numbers, oldest first: the main
    revision, and twice the sub revision, plus one for a tombstone.
    """

    __slots__ = ("create", "field", "key", "lease", "mod", "older", "sub", "version")

    def __init__(self, key: bytes, mod: int, sub: int) -> None:
        self.key: bytes = key
        self.create: int = mod
        self.mod: int = mod
        self.sub: int = sub
        self.version: int = 1
        self.lease: int = 0
        self.field: bytes | None = None
        self.older: array[int] | None = None

    def supersede(self, mod: int, sub: int) -> None:
        """Make room for a newer record at ``(mod, sub)``: the newest joins the older ones."""
        older = self.older
        if older is None:
            older = self.older = array("q")
        older.append(self.mod)
        older.append(self.sub * 2 + (self.version == 0))
        self.mod = mod
        self.sub = sub

    def at(self, revision: int) -> tuple[int, int] | None:
        """Return the revision of the record that was current at ``revision``; None if none was."""
        if self.mod <= revision:
            return (self.mod, self.sub) if self.version else None
        older = self.older
        if older is None:
            return None
        place = self._last_at(older, revision)
        if place < 0 or older[place + 1] & 1:
            return None
        return older[place], older[place + 1] >> 1

    def compact(self, revision: int) -> tuple[list[tuple[int, int, bool]], bool]:
        """Forget what nobody can ask for at ``revision`` or later.

        The newest change at or below it stays, unless it is a tombstone below it: a watch from
        exactly ``revision`` still has to see a delete at that revision. Returns the forgotten
        records (main, sub, tombstone) and whether nothing of the key is left.
        """
        older = self.older
        if self.mod <= revision:
            gone = [] if older is None else _unpack(older)
            self.older = None
            if self.version == 0 and self.mod < revision:
                gone.append((self.mod, self.sub, True))
                return gone, True
            return gone, False
        if older is None:
            return [], False
        keep = self._last_at(older, revision)
        if keep < 0:
            return [], False
        if older[keep + 1] & 1 and older[keep] < revision:
            keep += 2
        gone = _unpack(older[:keep])
        self.older = older[keep:] if keep < len(older) else None
        return gone, False

    @staticmethod
    def _last_at(older: array[int], revision: int) -> int:
        """Return where the last pair at or below ``revision`` stands; negative if there is none."""
        return 2 * bisect_right(range(len(older) // 2), revision, key=lambda i: older[2 * i]) - 2


def _unpack(older: array[int]) -> list[tuple[int, int, bool]]:
    return [(older[i], older[i + 1] >> 1, bool(older[i + 1] & 1)) for i in range(0, len(older), 2)]


@final
class Index:
    """All histories by key; the live keys in order; the dead ones that still have a past."""

    def __init__(self) -> None:
        self.histories: dict[bytes, History] = {}
        self.live = _sorted_keys()
        # Keys whose history holds more than one live record: what a sweep has to look at.
        # A dict for its order: it decides the order of removal.
        self.worn: dict[bytes, None] = {}
        # Dead keys matter to reads of the past alone, so sorting them waits for such a read.
        self._graves = _sorted_keys()
        self._fresh_graves: dict[bytes, None] = {}

    def bury(self, key: bytes) -> None:
        """Move a key from the live ones to the dead ones."""
        self.live.remove(key)
        self._fresh_graves[key] = None
        self.worn[key] = None

    def revive(self, key: bytes) -> None:
        """Move a key from the dead ones to the live ones."""
        self.live.add(key)
        if key in self._fresh_graves:
            del self._fresh_graves[key]
        else:
            self._graves.remove(key)

    def drop(self, key: bytes) -> None:
        """Forget a dead key."""
        del self.histories[key]
        if key in self._fresh_graves:
            del self._fresh_graves[key]
        else:
            self._graves.remove(key)

    def load(self, histories: dict[bytes, History]) -> None:
        """Replace everything by these histories."""
        self.histories = histories
        self.live = _sorted_keys()
        self.live.update([key for key, history in histories.items() if history.version])
        self._graves = _sorted_keys()
        self._fresh_graves = {key: None for key, h in histories.items() if not h.version}
        self.worn = {key: None for key, h in histories.items() if h.older or not h.version}

    def span(self, key: bytes, end: bytes, *, reverse: bool = False) -> Iterator[bytes]:
        """Return the live keys of the range, in order. ``end`` as on the wire, but not empty."""
        if end == FROM_KEY:
            return self.live.irange(key, None, (True, False), reverse)
        if end <= key:
            return iter(())
        return self.live.irange(key, end, (True, False), reverse)

    def count(self, key: bytes, end: bytes) -> int:
        """Return how many live keys are in the range. ``end`` as on the wire."""
        if not end:
            history = self.histories.get(key)
            return 1 if history is not None and history.version else 0
        live = self.live
        if end == FROM_KEY:
            return len(live) - live.bisect_left(key)
        return max(0, live.bisect_left(end) - live.bisect_left(key))

    def keys(self, key: bytes, end: bytes) -> list[bytes]:
        """Return the live keys of the range, in order. ``end`` as on the wire."""
        if not end:
            return [key] if self.count(key, end) else []
        return list(self.span(key, end))

    def keys_with_past(self, key: bytes, end: bytes) -> list[bytes]:
        """Return the keys of the range that may have been alive at some revision, in order."""
        if not end:
            return [key] if key in self.histories else []
        if self._fresh_graves:
            self._graves.update(self._fresh_graves)
            self._fresh_graves = {}
        if end == FROM_KEY:
            dead = list(self._graves.irange(key))
        elif end <= key:
            return []
        else:
            dead = list(self._graves.irange(key, end, (True, False)))
        alive = list(self.span(key, end))
        # Two sorted runs: the sort merges them in linear time.
        return sorted(alive + dead) if dead else alive
