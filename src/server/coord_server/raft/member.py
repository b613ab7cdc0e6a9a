"""What a member is, knows and remembers, whatever its role; and what a step has collected so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.runtime.invariants import invariant
from coord_server.raft.outbox import Outbox
from coord_server.raft.types import (
    NOBODY,
    Entry,
    EntryKind,
    HardState,
    Index,
    NodeId,
    RaftConfig,
    Role,
    SnapshotMeta,
    Term,
)

if TYPE_CHECKING:
    from coord_server.raft.log import RaftLog
    from coord_server.raft.membership import Membership
    from coord_server.raft.types import Persisted


class Member:
    """The state that all roles share. Roles change it; nobody outside the room sees it."""

    __slots__ = (
        "alone",
        "commit",
        "config",
        "durable",
        "elapsed",
        "jitter",
        "leader",
        "log",
        "me",
        "members",
        "membership",
        "out",
        "pending_changes",
        "role",
        "term",
        "timeout",
        "vote",
    )

    def __init__(
        self, config: RaftConfig, hard_state: HardState, log: RaftLog, applied: Index
    ) -> None:
        me = config.node_id
        invariant(me != NOBODY, "a member's id is not 0")
        invariant(log.last_index >= hard_state.commit, "committed entries are in the log")
        invariant(log.last_term <= hard_state.term, "no entry is of a later term than the member's")
        invariant(log.base_index <= applied <= log.last_index, "applied entries are in the log")
        self.config = config
        self.me = me
        self.log = log
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = NOBODY
        # What is applied is committed, even if the hard state on disk lags behind.
        self.commit = Index(max(hard_state.commit, applied))
        # The last entry that is durable here and still in the log: see `persisted`.
        self.durable = log.last_index
        self.set_membership(config.membership)
        # Where changes of membership stand that are not applied yet, committed or not; ascending.
        self.pending_changes = log.changes_after(applied)
        # Ticks since the timer was reset, and how many of them are too many.
        self.elapsed = 0
        self.jitter = -1  # until the first tick
        self.timeout = config.election_ticks
        self.out = Outbox(hard_state, handed_out=applied)

    def set_membership(self, membership: Membership) -> None:
        """Put a membership in force."""
        self.membership = membership
        self.members = membership.members
        # Whether this member is a quorum by itself: it then needs nobody's consent, for nothing.
        self.alone = membership.won_by((self.me,))

    @property
    def commits_own_term(self) -> bool:
        """Whether an entry of the current term is committed (thesis 3.6.2, 6.4)."""
        return self.log.term_at(self.commit) == self.term

    def may_campaign(self) -> bool:
        """Return whether this member may ask for votes.

        Learners and removed members never do. A committed change that is not applied yet may remove
        this member, or make the quorum that it would ask too small: it is applied first. Otherwise a
        member could fall behind by two changes, and two quorums need not overlap then (thesis 4.1).
        """
        if self.pending_changes and self.pending_changes[0] <= self.commit:
            return False
        return self.me in self.membership.voters or self.me in self.membership.outgoing

    def is_up_to_date(self, last_term: Term, last_index: Index) -> bool:
        """Return whether a log that ends so is at least as complete as ours (thesis 3.6.1)."""
        log = self.log
        return (last_term, last_index) >= (log.last_term, log.last_index)

    def reset_timer(self) -> None:
        """Begin to wait anew, for a time that differs from member to member (thesis 3.4)."""
        self.elapsed = 0
        self.timeout = self.config.election_ticks + max(self.jitter, 0)

    def sticks_to_leader(self) -> bool:
        """Return whether this member has a leader that works, and refuses others (thesis 4.2.3).

        Only where leaders check their quorum: one that lost it would otherwise be stuck to for ever.
        """
        config = self.config
        return (
            config.check_quorum and self.leader != NOBODY and self.elapsed < config.election_ticks
        )

    def enter_term(self, term: Term) -> None:
        """Enter a later term, in which nobody has this member's vote yet."""
        invariant(term > self.term, "the term never falls")
        self.term = term
        self.vote = NOBODY

    def vote_for(self, node: NodeId) -> None:
        """Give this term's vote; it may be spoken of when it is durable."""
        invariant(self.vote in {NOBODY, node}, "one vote per term")
        self.vote = node

    def append(self, entry: Entry) -> None:
        """Add an entry to the log, and to what this step writes."""
        self.log.append(entry)
        self.out.entries.append(entry)
        if entry.kind is EntryKind.CONFIG:
            self.pending_changes.append(entry.index)

    def truncate(self, after: Index) -> None:
        """Forget entries that an earlier leader failed to commit. What replaces them comes next."""
        invariant(after >= self.commit, "committed entries are never replaced")
        self.log.truncate(after)
        self.durable = min(self.durable, after)
        while self.pending_changes and self.pending_changes[-1] > after:
            self.pending_changes.pop()

    def commit_to(self, index: Index) -> None:
        """Move the commit index forward; nothing happens if it is there already."""
        if index > self.commit:
            invariant(index <= self.log.last_index, "only what is in the log can be committed")
            self.commit = index

    def restore(self, snapshot: SnapshotMeta) -> None:
        """Begin again behind a snapshot, which is applied and committed by its nature."""
        invariant(snapshot.index > self.commit, "a snapshot never takes back a commit")
        self.log.restart(snapshot.index, snapshot.term)
        self.commit = self.durable = snapshot.index
        self.pending_changes.clear()
        self.set_membership(snapshot.membership)
        self.out.restart(snapshot)

    def persisted(self, event: Persisted) -> bool:
        """Note a durable write; return False if an earlier term asked for it, and it says nothing now.

        If the log still ends the same way at its last entry, then all of its entries are still in
        the log (log matching, thesis 3.5), and durable. That is asked only of writes of this term: an
        entry that was replaced and came back, from the leader of a later term, is on its way to the
        disk once more. Each new term is written itself, so nothing is missed.
        """
        if event.term != self.term:
            return False
        if event.index > self.durable and self.log.term_at(event.index) == event.last_term:
            self.durable = event.index
        return True
