"""The keys of a semaphore and what stands in them, and its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from coord.errors import CoordError, CoordTimeout, LostError
from coord.locking.entries import LineEntry
from coord.metadata import parse

if TYPE_CHECKING:
    from coord.store.values import KeyValue, RangeResult

# Of the oldest entries a look reads as many as can be granted, but not more than fit an answer of some 300 kB; where
# more hold permits than that, the rest is read in pages of the same revision.
MOST_READ = 1000
MAX_PERMITS = 2**31 - 1
"""The most permits of a limit or a request."""
ADVICE = "each grant reads all who hold permits; divide the work over several names"


class PermitLost(LostError):
    """A permit of a semaphore was lost."""

    noun = "permit of"


class SemaphoreTimeout(CoordTimeout):
    """The permits were not granted in time; no place in line is kept."""


class LimitMismatch(CoordError):
    """The semaphore's limit in the store is not the one that was asked for. ``found`` None: the store has none.

    Give ``limit=None`` to take whatever the limit is, ``initial_limit=`` to make it if there is none, and change it
    with ``set_limit()`` alone, so that two versions of a program do not fight over it.
    """

    def __init__(self, name: str, *, expected: int | None, found: int | None) -> None:
        self.name = name
        self.expected = expected
        self.found = found
        super().__init__(
            f"semaphore {name!r} has no limit yet: give limit= or initial_limit="
            if found is None
            else f"semaphore {name!r} has a limit of {found}, not {expected}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitEntry(LineEntry):
    """One who holds permits, or waits for them."""

    permits: int
    state: Literal["granted", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SemaphoreState:
    """A semaphore as of one revision: its limit, who holds permits, and who waits, first in line first.

    ``available`` permits are not in use; negative after the limit was lowered below what is held. They are free to
    take only if nobody waits.
    """

    limit: int
    holders: tuple[PermitEntry, ...]
    waiting: tuple[PermitEntry, ...]

    @property
    def available(self) -> int:
        """The limit, less the permits in use."""
        return self.limit - sum([entry.permits for entry in self.holders])


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit, and the revision that set it."""

    value: int
    revision: int


def entry_of(kv: KeyValue) -> PermitEntry:
    """Return what an entry says; one that cannot be read waits, for 0 permits."""
    said = parse(kv.value)
    permits, state, meta = said.get("permits"), said.get("state"), said.get("meta")
    readable = isinstance(permits, int) and permits > 0
    return PermitEntry(
        key=kv.key,
        token=kv.create_revision,
        lease_id=kv.lease,
        metadata=cast("dict[str, object]", meta) if isinstance(meta, dict) else {},
        permits=permits if isinstance(permits, int) and readable else 0,
        state="granted" if readable and state == "granted" else "waiting",
    )


def limit_of(found: RangeResult) -> Limit | None:
    """Return the limit as it was read, None if there is none. One that is no number lets nobody in."""
    if not found.items:
        return None
    text = found.items[0].value
    is_count = text.isdigit() and len(text) <= len(str(MAX_PERMITS))
    return Limit(int(text) if is_count else 0, found.items[0].mod_revision)


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one semaphore."""

    name: bytes

    @property
    def limit(self) -> bytes:
        """The key of the limit."""
        return self.name + b"/limit"

    @property
    def holders(self) -> bytes:
        """What the keys of all entries begin with."""
        return self.name + b"/holders/"
