"""Who waits for the disk: the loop itself while the disk is fast, a thread when it is not.

Handing a write to a thread and back costs about as much as a fast device needs for it, so a write
that takes a tenth of a millisecond is done in place. A slow one would hold up everything that the
loop does, so above a threshold it goes to the I/O thread, and what arrives meanwhile makes the next
write. The decision follows a moving average: the first slow write is always paid in place.

What a thread measures is more than the disk took, since it then waits for the interpreter, and the
busier the loop the longer. Such figures would keep a fast disk in the thread for ever. So they only
tell that the disk is not too slow to try, and now and then one write in place tells how fast it is.

Messages that promise something about the disk wait here too: they leave when everything is durable
that was queued before them (raft essay, the second outbox).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.runtime import invariant
from coord_server.raft import Persist

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.runtime import Clock, Offload, Supervisor
    from coord_server.peers import Peers
    from coord_server.raft import Message
    from coord_server.storage.wal import Wal

# Of the newest write in the average: about the last sixteen count.
_WEIGHT = 1 / 16
# After so many writes in the thread, one in place, unless the thread's figures average this many times
# the limit: holding the loop up for so long is not worth the knowledge.
_TRY_AFTER = 32
_TRY_WITHIN = 10


class LogWriter:
    """Writes what raft wants persisted, in order, one write at a time.

    ``peers`` take the messages whose time has come. ``written(persist)`` is called on the loop when a
    background write is durable; it names the newest of what was written together.
    """

    def __init__(
        self,
        wal: Wal,
        *,
        clock: Clock,
        offload: Offload,
        supervisor: Supervisor,
        peers: Peers,
        written: Callable[[Persist], None],
        inline_limit_s: float,
    ) -> None:
        self._wal = wal
        self._clock = clock
        self._offload = offload
        self._supervisor = supervisor
        self._peers = peers
        self._written = written
        self._inline_limit_s = inline_limit_s
        self._idle = asyncio.Event()
        self._idle.set()
        self._queued: Persist | None = None
        self._messages: list[Message] = []
        self.average_s: float = 0.0
        """How long a write has taken lately, as far as the loop noticed."""
        self._aside_count = 0
        self._begins_anew = False

    @property
    def busy(self) -> bool:
        """Whether a write is under way, or has failed."""
        return not self._idle.is_set()

    def queue(self, persist: Persist | None, messages: Sequence[Message] = ()) -> None:
        """Add to the next write, and messages that may leave once it is durable."""
        if persist is not None:
            self._queued = persist if self._queued is None else merged(self._queued, persist)
        if messages:
            self._messages.extend(messages)

    def write(self) -> Persist | None:
        """Write what is queued. Return what is durable now; None if nothing is, or ``written`` will tell.

        Raises OSError as the disk does; the log is then unusable, and nothing is written or sent any more.
        """
        if self.busy:
            return None
        persist = self._queued
        if persist is None:
            # All that these messages promise was durable before they were queued.
            if self._messages:
                self._peers.send(self._take_messages())
            return None
        self._queued = None
        if self._is_quick():
            # The others write at the same time (thesis 10.2.1).
            self._peers.flush()
            # Busy for good if this fails: what waits for it must never leave, whoever calls next.
            self._idle.clear()
            self._note(self._append(persist))
            self._idle.set()
            if self._messages:
                self._peers.send(self._take_messages())
            return persist
        self._idle.clear()
        self._supervisor.spawn(self._write_aside(persist, self._take_messages()), name="log write")
        return None

    async def wait_idle(self) -> None:
        """Wait until no write is under way."""
        await self._idle.wait()

    def _take_messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    async def _write_aside(self, persist: Persist, messages: list[Message]) -> None:
        # Not set idle after a failure: nothing may be written after it.
        self._note(await self._offload.run(self._append, persist))
        self._idle.set()
        if messages:
            self._peers.send(messages)
        self._written(persist)

    def _append(self, persist: Persist) -> float:
        start = self._clock.mono()
        snapshot = persist.snapshot
        if snapshot is None:
            self._wal.append(persist.hard_state, persist.entries)
        else:
            behind = (snapshot.index, snapshot.term)
            self._wal.append(persist.hard_state, persist.entries, behind=behind)
        return self._clock.mono() - start

    def _is_quick(self) -> bool:
        """Tell whether to write in place."""
        if self.average_s < self._inline_limit_s:
            return True
        self._aside_count += 1
        if self._aside_count <= _TRY_AFTER or self.average_s > _TRY_WITHIN * self._inline_limit_s:
            return False
        # What was measured so far is of another kind: the average begins anew with this write.
        self._aside_count = 0
        self._begins_anew = True
        return True

    def _note(self, duration_s: float) -> None:
        if self._begins_anew:
            self._begins_anew = False
            self.average_s = duration_s
        else:
            self.average_s += (duration_s - self.average_s) * _WEIGHT


def merged(first: Persist, second: Persist) -> Persist:
    """Return one write with the effect of two.

    What ``second`` replaces of ``first`` is left out; a snapshot leaves out everything before it.
    """
    if second.snapshot is not None:
        hard_state = second.hard_state or first.hard_state
        return Persist(
            hard_state,
            second.entries,
            second.index,
            second.last_term,
            second.term,
            second.snapshot,
        )
    entries = first.entries
    if second.entries:
        start = second.entries[0].index
        kept = entries
        if entries and entries[-1].index >= start:
            kept = tuple(entry for entry in entries if entry.index < start)
        if kept:
            invariant(kept[-1].index == start - 1, "writes of the log leave no hole")
        entries = kept + second.entries
    return Persist(
        second.hard_state or first.hard_state,
        entries,
        second.index,
        second.last_term,
        second.term,
        first.snapshot,
    )
