"""The changes of a span of revisions, from memory where possible, else from records.

This is how a watcher that starts in the past, or that fell behind, catches up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from coord.wire import fast
from coord_server.mvcc.events import DELETE, PUT, Event
from coord_server.mvcc.fields import key_of, make_field
from coord_server.mvcc.index import FROM_KEY
from coord_server.mvcc.revision import decode_revision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coord_server.mvcc.events import RecentEvents
    from coord_server.mvcc.records import Records

# One call looks at about this much, so that a watcher of a rare key cannot hold up the loop with a walk
# through the whole history.
EXAMINED_PER_CALL: Final = 2_500
EXAMINED_BYTES_PER_CALL: Final = 4 << 20


class Reading(NamedTuple):
    """What a walk found: changes, the first revision that it did not look at, what it looked at."""

    events: list[Event]
    following: int
    examined: int


def events_between(
    records: Records,
    recent: RecentEvents,
    *,
    key: bytes,
    end: bytes,
    start: int,
    stop: int,
    limit_revisions: int,
    limit_bytes: int,
) -> Reading:
    """Return the changes of a key range with ``start <= revision <= stop``, and where to go on.

    At most ``limit_revisions`` revisions have matching changes in the answer, and the last of them is
    the one that reaches ``limit_bytes``; none is cut. It goes on at ``stop + 1`` when all was seen.
    """
    found: list[Event] = []
    matched = last = size = walked = examined = 0

    def wanted(name: bytes) -> bool:
        return name == key if not end else name >= key and (end == FROM_KEY or name < end)

    for revision, room, event in _walk(records, recent, start, stop, wanted):
        if revision != last:
            if (
                matched >= limit_revisions
                or size >= limit_bytes
                or examined >= EXAMINED_PER_CALL
                or walked >= EXAMINED_BYTES_PER_CALL
            ):
                return Reading(found, revision, examined)
            last = revision
        examined += 1
        walked += room
        if event is not None:
            if not found or found[-1].mod_revision != revision:
                matched += 1
            size += room
            found.append(event)
    return Reading(found, stop + 1, examined)


def _walk(
    records: Records, recent: RecentEvents, start: int, stop: int, wanted: Callable[[bytes], bool]
) -> Iterator[tuple[int, int, Event | None]]:
    """Yield revision and size of each change, and the change itself if its key is wanted."""
    if start < recent.oldest:
        for key, body in records.between(start, min(stop, recent.oldest - 1)):
            main, _sub, tombstone = decode_revision(key)
            event = _event_of(main, body, tombstone=tombstone) if wanted(key_of(body)) else None
            yield main, len(body), event
    if stop >= recent.oldest:
        for event in recent.between(max(start, recent.oldest), stop):
            yield event.mod_revision, len(event.field), event if wanted(event.key) else None


def _event_of(main: int, body: bytes, *, tombstone: bool) -> Event:
    if tombstone:
        key = key_of(body)
        return Event(DELETE, key, main, 0, delete_field(key, main), None)
    key, create, mod, _version, _value, _lease = fast.decode_key_value(body)
    return Event(PUT, key, mod, create, make_field(body), None)


def delete_field(key: bytes, main: int) -> bytes:
    """Return the pair of a DELETE event: the key and the revision of the delete."""
    return make_field(fast.encode_key_value(key, 0, main, 0, b"", 0))
