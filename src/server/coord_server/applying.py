"""Committed entries become state, in order and in parts, and the backend follows behind.

A member that comes back has a long log to apply. In one go that would hold up the loop: no heartbeat
would be answered, and a follower that does not hear its leader campaigns. So raft hands out a part
(``RaftConfig.max_committed_bytes``), and the next one is asked for in the next round of the loop, after
everything else that waits.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

from coord_server.raft import ConfigApplied, EntryKind, Index, PartApplied
from coord_server.retention import Retention

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from coord_server.apply import Applier
    from coord_server.delivery import Delivery
    from coord_server.flusher import Flusher
    from coord_server.raft import Effects, Entry, RaftCore
    from coord_server.replica_bounds import ReplicaBounds


@final
class Applying:
    """Applies what raft hands out; starts flushes, and lets go of the log behind them.

    ``changed(event)`` tells raft of an applied change of membership and does what it asks for;
    ``asked(event)`` does the same for the next part, and is called from the loop.
    """

    def __init__(
        self,
        core: RaftCore,
        applier: Applier,
        delivery: Delivery,
        flusher: Flusher,
        bounds: ReplicaBounds,
        *,
        changed: Callable[[ConfigApplied], None],
        asked: Callable[[PartApplied], None],
    ) -> None:
        self.has_more = False
        """Whether entries are committed and durable here that raft has yet to hand out."""
        self._core = core
        self._applier = applier
        self._delivery = delivery
        self._flusher = flusher
        self._bounds = bounds
        self._changed = changed
        self._asked = asked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._retention = Retention(entries=bounds.catch_up_entries)
        self._unflushed_bytes = 0
        self._is_applying = False
        self._queue: deque[Entry] = deque()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask for parts on this loop from now on."""
        self._loop = loop

    def take(self, effects: Effects) -> None:
        """Apply the entries of a step, and ask for the next part if there is one."""
        if effects.more:
            self.has_more = True
            if self._loop is not None:
                self._loop.call_soon(self._ask)
        if self._is_applying:
            # An entry that is being applied has changed the membership, and that has committed these:
            # they come behind those that were handed out before them.
            self._queue.extend(effects.committed)
            return
        self._is_applying = True  # after a failure for good: nothing may be applied then
        for entry in effects.committed:
            self._apply(entry)
        while self._queue:
            self._apply(self._queue.popleft())
        self._is_applying = False
        bounds = self._bounds
        if (
            self._applier.pending_ops >= bounds.flush_ops
            or self._unflushed_bytes >= bounds.flush_bytes
        ):
            self.flush()

    def _ask(self) -> None:
        if self.has_more:
            self.has_more = False
            self._asked(PartApplied())

    def _apply(self, entry: Entry) -> None:
        if entry.kind is EntryKind.NORMAL:
            self._delivery.apply(entry)
        else:
            self._changed(ConfigApplied(entry.index, self._delivery.apply_config(entry)))
        size = len(entry.data)
        self._unflushed_bytes += size
        self._retention.applied(entry.index, size)

    def restart(self) -> None:
        """Begin anew behind a snapshot."""
        self.has_more = False
        self._retention.restart()
        self._unflushed_bytes = 0

    # The backend.

    @property
    def is_ahead(self) -> bool:
        """Whether the backend lags so far behind that nothing should be added before a flush ends."""
        bounds = self._bounds
        return self._flusher.busy and (
            self._unflushed_bytes > bounds.max_unflushed_bytes
            or self._applier.pending_ops > bounds.max_unflushed_ops
        )

    def flush(self) -> None:
        """Write what was applied into the backend, in the background, unless that is going on."""
        if not self._flusher.busy:
            self._unflushed_bytes = 0
            self._flusher.start()

    def flushed(self, index: int) -> None:
        """Let go of the log up to ``index``, which the backend has, as far as no follower may need it."""
        has_followers = len(self._core.membership.members) > 1
        upto = self._retention.release(index, has_followers=has_followers)
        if upto:
            self._core.compact(Index(upto))
