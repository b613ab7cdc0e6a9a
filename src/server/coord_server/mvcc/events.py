"""Changes as watchers see them, and the recent ones kept in memory.

A watcher that starts a little in the past is the rule, not the exception: a waiter in line for a lock
reads the line and then watches from the revision of that read. So the last changes stay in memory,
and such a watch costs no look at the backend.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING, Final, final

from coord_server.mvcc.fields import strip

if TYPE_CHECKING:
    from collections.abc import Iterable

PUT: Final = 0
DELETE: Final = 1

# Tag bytes inside an Event: 0x12 is its pair, 0x1A its previous pair; 08 01 is the type DELETE.
_DELETE_TYPE: Final = b"\x08\x01"
_PREV_TAG: Final = b"\x1a"

_EVENT_OVERHEAD_BYTES: Final = 200
# Trimming shifts a list; that is done for so many events at once.
_TRIM_SLACK: Final = 1024


@final
class Event:
    """One change of one key (etcd API: mvccpb.Event). Immutable; shared by all its watchers.

    ``field`` is the pair with its tag inside an Event: for a PUT the whole new pair, for a DELETE the
    key and the revision of the delete.
    """

    __slots__ = ("_prev", "create_revision", "field", "key", "kind", "mod_revision")

    def __init__(
        self,
        kind: int,
        key: bytes,
        mod_revision: int,
        create_revision: int,
        field: bytes,
        prev: bytes | None,
    ) -> None:
        self.kind = kind
        self.key = key
        self.mod_revision = mod_revision
        self.create_revision = create_revision
        self.field = field
        self._prev = prev

    @property
    def is_create(self) -> bool:
        """Whether the key did not exist before. Such an event never carries a previous pair."""
        return self.kind == PUT and self.create_revision == self.mod_revision

    @property
    def body(self) -> bytes:
        """The encoded Event without previous pair. For a PUT these are the very bytes of ``field``."""
        return self.field if self.kind == PUT else _DELETE_TYPE + self.field

    @property
    def store_prev(self) -> bytes | None:
        """The encoded previous pair if it was at hand when the change was applied.

        None says nothing for an event that is no create: ask the store's ``value_at`` for
        ``mod_revision - 1``.
        """
        return None if self._prev is None else strip(self._prev)

    @property
    def body_with_prev(self) -> bytes | None:
        """The encoded Event with its previous pair; None if that is to be looked up."""
        if self._prev is not None:
            return self.body + _PREV_TAG + self._prev[1:]
        return self.body if self.is_create else None

    @property
    def size_bytes(self) -> int:
        """About what the event keeps alive."""
        return _EVENT_OVERHEAD_BYTES + 2 * len(self.field)


@final
class RecentEvents:
    """The last changes, in order; at most ``max_events`` and ``max_bytes``, whole revisions only."""

    __slots__ = ("_bytes", "_events", "_head", "_max_bytes", "_max_events", "oldest")

    def __init__(self, oldest: int, *, max_events: int, max_bytes: int) -> None:
        self.oldest = oldest
        """Every change at this revision and later is here."""
        self._events: list[Event] = []
        self._head = 0
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes

    def extend(self, events: Iterable[Event]) -> None:
        """Add the changes of finished revisions, and let go of the oldest above the bounds."""
        held = self._events
        size = self._bytes
        for event in events:
            held.append(event)
            size += _EVENT_OVERHEAD_BYTES + 2 * len(event.field)
        self._bytes = size
        if size > self._max_bytes or len(held) - self._head > self._max_events:
            self._trim()

    def _trim(self) -> None:
        held = self._events
        head = self._head
        end = len(held)
        while head < end and (self._bytes > self._max_bytes or end - head > self._max_events):
            # A revision goes as a whole, so that `oldest` tells the truth.
            gone = held[head].mod_revision
            while head < end and held[head].mod_revision == gone:
                self._bytes -= held[head].size_bytes
                head += 1
            self.oldest = gone + 1
        self._head = head
        if head > _TRIM_SLACK or head == end:
            del held[:head]
            self._head = 0

    def between(self, start: int, stop: int) -> list[Event]:
        """Return the changes with ``start <= revision <= stop``; ``start`` is at least ``oldest``."""
        revision = attrgetter("mod_revision")
        low = bisect_left(self._events, start, lo=self._head, key=revision)
        high = bisect_left(self._events, stop + 1, lo=low, key=revision)
        return self._events[low:high]
