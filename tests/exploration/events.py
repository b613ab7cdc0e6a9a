"""A schedule's changes as the events that the recipes' models take."""

from __future__ import annotations

from collections.abc import Iterable

import coord
from tests.exploration.store import Change


def events_of(changes: Iterable[Change], prefix: bytes) -> list[coord.WatchEvent]:
    """Return the changes below a prefix."""
    return [event_of(change) for change in changes if change.key.startswith(prefix)]


def event_of(change: Change) -> coord.WatchEvent:
    """Return one change as an event."""
    pair = coord.KeyValue(
        key=change.key,
        value=change.value or b"",
        create_revision=change.created,
        mod_revision=change.revision,
        version=0 if change.value is None else 1,
    )
    kind = coord.EventType.DELETE if change.value is None else coord.EventType.PUT
    return coord.WatchEvent(type=kind, kv=pair)
