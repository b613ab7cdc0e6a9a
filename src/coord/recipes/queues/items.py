"""An item, as its taker gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coord.codec.values import Entry

RETURNED = b"-returned"
"""How the key of an item ends that was taken, and put back because its taker had gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """What was put, and the revision at which it was.

    ``key`` was its place in the store. ``returned``: it was taken before, by a call that was cancelled meanwhile, and
    is further back in the queue than it was.
    """

    value: bytes
    revision: int
    key: bytes
    returned: bool = False


def item_of(entry: Entry[bytes]) -> QueueItem:
    """Return the item that an entry of the store stands for."""
    return QueueItem(
        value=entry.value,
        revision=entry.mod_revision,
        key=entry.key,
        returned=entry.key.endswith(RETURNED),
    )
