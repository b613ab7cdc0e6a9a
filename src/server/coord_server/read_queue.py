"""Linearizable reads that can't be served at once: they share one read index per turn.

Raft thesis 6.4: a read is served at the commit index that the leader knew when the read came, once
the leader has proven that it still leads and the reader has applied that far. A question to which no
answer comes, because the leader changed or a message was lost, is asked again under a new number.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.errors import ErrorSpec

# Room to count up in 64 bits, whatever was drawn.
_CONTEXT_MASK = (1 << 62) - 1


class _Read(NamedTuple):
    run: Callable[[], None]
    fail: Callable[[ErrorSpec], None]
    tick: int


class _Asked(NamedTuple):
    tick: int
    reads: list[_Read]


class ReadQueue:
    """Reads in three stages: of this turn, with a read index asked for, with an index to wait for.

    ``incarnation`` is a random number, from which the numbers of questions count up: an answer to an
    earlier life of the member must not be taken for one to this.
    """

    def __init__(self, incarnation: int = 0) -> None:
        self._fresh: list[_Read] = []
        self._asked: dict[int, _Asked] = {}
        self._indexed: list[tuple[int, int, list[_Read]]] = []
        self._context = incarnation & _CONTEXT_MASK
        self._question = 0
        self._count = 0

    def __len__(self) -> int:
        """Return how many reads wait."""
        return self._count

    def add(self, run: Callable[[], None], fail: Callable[[ErrorSpec], None], tick: int) -> bool:
        """Queue a read; return whether it is the first of its turn, so that `ask` must be called."""
        self._fresh.append(_Read(run, fail, tick))
        self._count += 1
        return len(self._fresh) == 1

    def add_at(
        self, index: int, run: Callable[[], None], fail: Callable[[ErrorSpec], None], tick: int
    ) -> None:
        """Let a read wait for ``index`` to be applied, without asking the leader."""
        self._context += 1  # keeps the heap from comparing reads
        heapq.heappush(self._indexed, (index, self._context, [_Read(run, fail, tick)]))
        self._count += 1

    def ask(self, tick: int = 0) -> int | None:
        """Put the reads of this turn under one context, which is never used again, and return it."""
        if not self._fresh:
            return None
        self._context += 1
        self._question = self._context
        self._asked[self._question] = _Asked(tick, self._fresh)
        self._fresh = []
        return self._question

    def is_asking(self, since: int) -> bool:
        """Tell whether the last question was asked at tick ``since`` or later, and is not answered."""
        asked = self._asked.get(self._question)
        return asked is not None and asked.tick >= since

    @property
    def has_fresh(self) -> bool:
        """Whether reads wait that were not asked for yet."""
        return bool(self._fresh)

    def ask_again(self, before: int) -> bool:
        """Take back the questions asked before tick ``before``; return whether there is any to ask."""
        late = [context for context, asked in self._asked.items() if asked.tick < before]
        for context in late:
            self._fresh.extend(self._asked.pop(context).reads)
        return bool(self._fresh)

    def ready(self, context: int, index: int) -> None:
        """Let the reads of ``context`` wait for ``index`` to be applied; a late answer does nothing."""
        asked = self._asked.pop(context, None)
        if asked is not None:
            heapq.heappush(self._indexed, (index, context, asked.reads))

    def serve(self, applied_index: int) -> None:
        """Run every read whose index is applied."""
        while self._indexed and self._indexed[0][0] <= applied_index:
            _, _, reads = heapq.heappop(self._indexed)
            self._count -= len(reads)
            for read in reads:
                read.run()

    def fail_before(self, tick: int, spec: ErrorSpec) -> None:
        """Refuse the reads that came at or before ``tick``."""
        groups = [
            self._fresh,
            *(asked.reads for asked in self._asked.values()),
            *(reads for _, _, reads in self._indexed),
        ]
        late: list[_Read] = []
        for group in groups:
            late += [read for read in group if read.tick <= tick]
            group[:] = [read for read in group if read.tick > tick]
        for context in [c for c, asked in self._asked.items() if not asked.reads]:
            del self._asked[context]
        self._count -= len(late)
        for read in late:
            read.fail(spec)

    def forget(self) -> None:
        """Drop everything without an answer."""
        self._fresh = []
        self._asked = {}
        self._indexed = []
        self._count = 0
