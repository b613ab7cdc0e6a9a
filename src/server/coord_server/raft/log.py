"""The part of the log that is in memory, and the questions that the rules ask of it."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from coord.runtime.invariants import invariant
from coord_server.raft.types import Entry, EntryKind, Index, Term

if TYPE_CHECKING:
    from collections.abc import Iterable

_START = Index(0)
_NO_TERM = Term(0)


class RaftLog:
    """Entries after a base. What the base covers is applied and stored elsewhere.

    Invariant: indexes rise by one from ``base_index + 1``, and terms never fall.
    """

    __slots__ = ("_entries", "base_index", "base_term")

    def __init__(
        self,
        *,
        base_index: Index = _START,
        base_term: Term = _NO_TERM,
        entries: Iterable[Entry] = (),
    ) -> None:
        self.base_index: Index = base_index
        self.base_term: Term = base_term
        self._entries: list[Entry] = []
        for entry in entries:
            self.append(entry)

    @property
    def last_index(self) -> Index:
        """The index of the newest entry, or the base's."""
        return Index(self.base_index + len(self._entries))

    @property
    def last_term(self) -> Term:
        """The term of the newest entry, or the base's."""
        return self._entries[-1].term if self._entries else self.base_term

    def append(self, entry: Entry) -> None:
        """Add the next entry."""
        invariant(entry.index == self.last_index + 1, "the log has no holes")
        invariant(entry.term >= self.last_term, "terms in the log never fall")
        self._entries.append(entry)

    def term_at(self, index: Index) -> Term | None:
        """Return the term of the entry at ``index``; None if it is older than the base or not there."""
        place = index - self.base_index
        if place == 0:
            return self.base_term
        if 0 < place <= len(self._entries):
            return self._entries[place - 1].term
        return None

    def batch(
        self, after: Index, max_bytes: int, *, upto: Index | None = None
    ) -> tuple[Entry, ...]:
        """Return entries behind ``after`` with up to ``max_bytes`` of data, or one that is larger.

        None of them is behind ``upto``, by default the end of the log.
        """
        upto = self.last_index if upto is None else upto
        invariant(self.base_index <= after and upto <= self.last_index, "entries are in memory")
        start = end = after - self.base_index
        stop = upto - self.base_index
        entries = self._entries
        left = max_bytes
        while end < stop and (end == start or left >= len(entries[end].data)):
            left -= len(entries[end].data)
            end += 1
        return tuple(entries[start:end])

    def data_bytes(self, after: Index, upto: Index) -> int:
        """Return how much data the entries of ``(after, upto]`` have."""
        start, end = after - self.base_index, upto - self.base_index
        return sum(len(entry.data) for entry in self._entries[start:end])

    def changes_after(self, index: Index) -> list[Index]:
        """Return where changes of membership stand behind ``index``."""
        start = index - self.base_index
        return [e.index for e in self._entries[start:] if e.kind is EntryKind.CONFIG]

    def agreement(self, index: Index, term: Term) -> Index:
        """Return where this log can agree at most with one that has ``term`` at ``index``.

        Terms never fall, so nothing at or before ``index`` of the other log has a later term: the last
        entry here with a term up to ``term`` is the first candidate. This skips whole terms in one
        exchange instead of one entry each (thesis 3.5, the end). If even the base's term is later,
        the answer is a place before the base.
        """
        older = bisect_right(self._entries, term, key=lambda entry: entry.term)
        if older == 0 and self.base_term > term:
            return Index(min(index, max(self.base_index - 1, 0)))
        return Index(min(index, self.base_index + older))

    def truncate(self, after: Index) -> None:
        """Forget the entries behind ``after``."""
        invariant(self.base_index <= after, "what the base covers is committed and stays")
        del self._entries[after - self.base_index :]

    def restart(self, index: Index, term: Term) -> None:
        """Forget everything: a snapshot covers the log up to (index, term)."""
        self._entries.clear()
        self.base_index, self.base_term = index, term

    def compact(self, index: Index) -> None:
        """Forget the entries up to ``index``, which becomes the base. Older than the base: nothing."""
        if index <= self.base_index:
            return
        term = self.term_at(index)
        invariant(term is not None, "the log is compacted only up to an entry that it has")
        if term is not None:
            del self._entries[: index - self.base_index]
            self.base_index, self.base_term = index, term
