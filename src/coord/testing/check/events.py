"""Changes of a model as the events that a watch would show, values as texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.testing.lines import key_text
from coord.testing.records import Pair, SeenEvent

if TYPE_CHECKING:
    from coord.testing.model import Change, Version


def pair_of_version(key: bytes, version: Version) -> Pair:
    """Return a version whose value is a text already."""
    return Pair(
        key=key_text(key),
        value=version.value.decode(),
        create_revision=version.create,
        mod_revision=version.mod,
        version=version.version,
        lease=version.lease,
    )


def event_of(change: Change) -> SeenEvent:
    """Return a change as it is delivered to who did not ask for the previous pair."""
    if change.now is not None:
        return SeenEvent(is_delete=False, pair=pair_of_version(change.key, change.now))
    gone = Pair(
        key=key_text(change.key),
        value="",
        create_revision=0,
        mod_revision=change.revision,
        version=0,
        lease=0,
    )
    return SeenEvent(is_delete=True, pair=gone)
