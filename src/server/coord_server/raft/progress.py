"""What a leader knows of one follower, and how much it may send to it (thesis 10.2.1).

A *probe* finds out where the logs agree: one message, then silence until an answer or the answer to a
heartbeat. *Replicate* sends ahead without waiting, up to a window of unanswered messages. *Snapshot*
sends no entries: the follower lacks what the log no longer has.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, unique

from coord.runtime.invariants import invariant
from coord_server.raft.types import Index


@unique
class ProgressState(Enum):
    """How a follower is supplied."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressView:
    """A member as its leader sees it: what it has durably, what it gets next, and how.

    ``recent_active``: it was heard from since the leader last checked its quorum.
    """

    match: Index
    next: Index
    state: ProgressState
    recent_active: bool


class Progress:
    """One follower's place. Invariant: ``match < next``; ``match`` never falls within a leadership."""

    __slots__ = (
        "commit_sent",
        "inflight",
        "match",
        "next",
        "probe_sent",
        "recent_active",
        "snapshot_index",
        "state",
    )

    def __init__(self, following: Index, *, recent_active: bool) -> None:
        # Known to be there durably and equal to the leader's log.
        self.match = Index(0)
        # The next entry to send.
        self.next = following
        self.state = ProgressState.PROBE
        self.probe_sent = False
        self.recent_active = recent_active
        # The last index of each unanswered append with entries, ascending.
        self.inflight: deque[Index] = deque()
        # In state SNAPSHOT: what the awaited snapshot covers at least.
        self.snapshot_index = Index(0)
        # The commit index that the newest append carried; it may be lost, heartbeats tell it again.
        self.commit_sent = Index(0)

    def view(self) -> ProgressView:
        """Return a copy for others to look at."""
        return ProgressView(
            match=self.match, next=self.next, state=self.state, recent_active=self.recent_active
        )

    def may_send(self, max_inflight: int) -> bool:
        """Return whether an append may go now."""
        if self.state is ProgressState.REPLICATE:
            return len(self.inflight) < max_inflight
        return self.state is ProgressState.PROBE and not self.probe_sent

    def sent(self, last: Index, commit: Index) -> None:
        """Take note of an append that ends at ``last``."""
        self.commit_sent = commit
        if self.state is ProgressState.PROBE:
            # Nothing is assumed to have arrived: `next` stays.
            self.probe_sent = True
        elif last >= self.next:
            # Assumed to arrive; a rejection brings the probe back.
            self.next = Index(last + 1)
            self.inflight.append(last)

    def probe(self, following: Index) -> None:
        """Find out where the logs agree, beginning at ``following``."""
        self.state = ProgressState.PROBE
        self.next = Index(max(following, self.match + 1))
        self.probe_sent = False
        self.inflight.clear()
        self._check()

    def replicate(self) -> None:
        """Send ahead from what is known to match."""
        self.probe(Index(self.match + 1))
        self.state = ProgressState.REPLICATE

    def await_snapshot(self, index: Index) -> None:
        """Send nothing until a snapshot that covers ``index`` is installed, or given up."""
        self.probe(self.next)
        self.state = ProgressState.SNAPSHOT
        self.snapshot_index = index

    def accepted(self, index: Index) -> bool:
        """Note that the follower has everything up to ``index``; return whether its match rose.

        Late and doubled answers say less than is known and change nothing.
        """
        rose = index > self.match
        if rose:
            self.match = index
            if self.next <= index:
                self.next = Index(index + 1)
        inflight = self.inflight
        while inflight and inflight[0] <= index:
            inflight.popleft()
        if self.state is ProgressState.PROBE:
            if index == self.match:
                self.replicate()
        elif self.state is ProgressState.SNAPSHOT and self.match >= self.snapshot_index:
            self.replicate()
        self._check()
        return rose

    def rejected(self, index: Index, agreement: Index) -> bool:
        """Note that the logs agree up to ``agreement`` at most, not at ``index``; return if that is news."""
        if self.state is ProgressState.SNAPSHOT:
            # Its log reaches beyond the snapshot although nobody said that this was installed.
            if agreement < self.snapshot_index:
                return False
            self.probe(Index(agreement + 1))
        elif self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False  # late: meanwhile it was accepted
            self.lost()
        else:
            if index != self.next - 1:
                return False  # late: an answer to an earlier probe
            before = self.next
            self.probe(Index(min(index, agreement + 1)))
            if self.next == before:
                # It refuses what it once had. Don't argue at the network's speed.
                self.probe_sent = True
                return False
        return True

    def lost(self) -> None:
        """Go back in the pipeline, of which a part was lost, to what is known to match."""
        if self.state is ProgressState.REPLICATE:
            self.commit_sent = Index(0)
            self.probe(Index(self.match + 1))

    def snapshot_failed(self) -> None:
        """Give up the awaited snapshot. The answer to the next heartbeat begins another attempt."""
        if self.state is ProgressState.SNAPSHOT:
            self.probe(Index(self.match + 1))
            self.probe_sent = True

    def _check(self) -> None:
        invariant(self.next > self.match, "what is known to match is not sent again")
