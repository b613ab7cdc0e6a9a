"""The sweep: removing, in small steps, the records that a compaction has given up.

What a read may ask for changes at once, when the compaction is applied; what lies in the index and in
the backend follows. A step finishes each key it touches, so the records of one key leave in one
batch: a tombstone never goes before the put that it hides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from coord_server.mvcc.index import Index
    from coord_server.mvcc.records import Records


@final
class Sweep:
    """One pass over the keys that had more than one live record when it began."""

    def __init__(self, index: Index, revision: int) -> None:
        self.revision = revision
        self._index = index
        # Keys that wear out later have nothing at or below `revision` to lose.
        self._todo = list(index.worn)
        self._todo.reverse()

    def step(self, records: Records, budget: int) -> bool:
        """Look at keys and remove records, about ``budget`` of both; return whether there is more."""
        index = self._index
        todo = self._todo
        while todo and budget > 0:
            key = todo.pop()
            budget -= 1
            history = index.histories.get(key)
            if history is None:
                continue
            gone, vanished = history.compact(self.revision)
            for main, sub, tombstone in gone:
                records.discard(main, sub, tombstone=tombstone)
            budget -= len(gone)
            if vanished:
                index.drop(key)
            if vanished or (history.older is None and history.version):
                index.worn.pop(key, None)
        return bool(todo)
