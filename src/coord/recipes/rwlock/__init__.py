"""Many readers or one writer, fenced, with an atomic downgrade (spec recipes 4; layout of Go's recipes.RWMutex).

Each attempt has an entry of its own: ``name/read/<id>`` or ``name/write/<id>``, in order of creation.
A reader runs when no older write entry is left, a writer when no older entry is; so a writer that waits holds back the
readers behind it, and nobody starves.
Entries are never changed after their creation: other readers of this layout go by modification revisions.

A *downgradable* writer makes a read entry in the same transaction as its write entry.
Downgrading deletes the write entry; the read entry keeps the place that it has had all along, so no writer comes in
between.
"""

from coord.recipes.rwlock.grants import ReadGrant, WriteGrant
from coord.recipes.rwlock.lock import ReadLock, RWLock, UpgradeRefused, WriteLock
from coord.recipes.rwlock.state import RWEntry, RWState

__all__ = [
    "RWEntry",
    "RWLock",
    "RWState",
    "ReadGrant",
    "ReadLock",
    "UpgradeRefused",
    "WriteGrant",
    "WriteLock",
]
