"""The rules of a leader. Its state begins with its leadership and ends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.runtime.invariants import invariant
from coord_server.raft.membership import BadChange, ConfigChange, encode_change
from coord_server.raft.messages import ReadIndexResponse, TimeoutNow
from coord_server.raft.reads import Asker, ReadRounds
from coord_server.raft.replication import Replication
from coord_server.raft.types import (
    NOBODY,
    Entry,
    EntryKind,
    Index,
    NodeId,
    ProposalDropped,
    ReadReady,
    Role,
)

if TYPE_CHECKING:
    from coord_server.raft.member import Member
    from coord_server.raft.messages import AppendResponse, HeartbeatResponse


class Leadership:
    """What one member does as leader of one term."""

    __slots__ = (
        "_commits_own_term",
        "_member",
        "_reads",
        "_since_check",
        "_since_heartbeat",
        "_transfer_elapsed",
        "_uncommitted_bytes",
        "replication",
        "transfer_to",
    )

    def __init__(self, member: Member) -> None:
        self._member = member
        self._reads = ReadRounds(member)
        self._since_heartbeat = 0
        self._since_check = 0
        self._commits_own_term = False
        # To whom leadership is on its way; no proposals meanwhile.
        self.transfer_to = NOBODY
        self._transfer_elapsed = 0
        self._uncommitted_bytes = member.log.data_bytes(member.commit, member.log.last_index)
        self.replication = Replication(member)

    def start(self) -> None:
        """Open the leadership.

        Entries of earlier terms are committed only by way of one of this term (thesis 3.6.2), and
        reads wait for it; so it is made at once instead of with the first proposal.
        """
        self._append(EntryKind.NORMAL, b"")

    # Time.

    def tick(self) -> bool:
        """Take a tick; return False if this member must not lead any longer."""
        config = self._member.config
        if self.transfer_to != NOBODY:
            self._transfer_elapsed += 1
            if self._transfer_elapsed >= config.election_ticks:
                # The target did not take it. Its later success would just be an election (thesis 3.10).
                self.transfer_to = NOBODY
        self._since_check += 1
        if self._since_check >= config.election_ticks:
            self._since_check = 0
            # Whoever can't reach a quorum commits nothing; its clients should ask elsewhere, and its
            # followers are free to elect (thesis 6.2).
            active = self.replication.take_active()
            if config.check_quorum and not self._member.membership.won_by(active):
                return False
        self._since_heartbeat += 1
        if self._since_heartbeat >= config.heartbeat_ticks:
            self._since_heartbeat = 0
            self._reads.ask_all()
            for node in self.replication.progress:
                self.replication.heartbeat(node, self._reads.round)
        return True

    # Proposals.

    def propose(self, data: bytes) -> None:
        """Append an entry. Raises ProposalDropped."""
        self._check_open()
        limit = self._member.config.max_uncommitted_bytes
        if self._uncommitted_bytes and self._uncommitted_bytes + len(data) > limit:
            raise ProposalDropped(
                f"{self._uncommitted_bytes} bytes wait to be committed; the limit is {limit}"
            )
        self._append(EntryKind.NORMAL, data)

    def propose_change(self, change: ConfigChange, context: bytes) -> None:
        """Append a change of membership. Raises ProposalDropped.

        One at a time: two changes that are both on their way could leave two quorums without a
        common member (thesis 4.1). And only after an entry of this term is committed, or the change of
        an earlier leader could come back to life beside this one (Ongaro, raft-dev, 2015).
        """
        self._check_open()
        member = self._member
        if member.pending_changes:
            raise ProposalDropped("another change of membership is not applied yet")
        if not self._commits_own_term:
            raise ProposalDropped("this leader has not committed an entry of its term yet")
        try:
            member.membership.changed(change)
        except BadChange as error:
            raise ProposalDropped(str(error)) from error
        self._append(EntryKind.CONFIG, encode_change(change, context))

    def _check_open(self) -> None:
        if self.transfer_to != NOBODY:
            raise ProposalDropped("leadership is being transferred")

    def _append(self, kind: EntryKind, data: bytes) -> None:
        member = self._member
        member.append(Entry(member.term, Index(member.log.last_index + 1), kind, data))
        self._uncommitted_bytes += len(data)
        # At once, beside our own disk write (thesis 10.2.1).
        self.replication.send_all()

    # Answers, and what they commit.

    def persisted(self) -> None:
        """Our own disk has more of the log."""
        self._advance_commit()

    def append_answered(self, message: AppendResponse) -> None:
        """Learn that a follower has more of the log, or less than we thought."""
        rose = self.replication.append_answered(message)
        if not (rose and message.index > self._member.commit and self._advance_commit()):
            self.replication.send(message.sender, self.replication.progress[message.sender])
        if rose and message.sender == self.transfer_to:
            self._hand_over()

    def heartbeat_answered(self, message: HeartbeatResponse) -> None:
        """Learn that a follower still follows."""
        self.replication.heartbeat_answered(message.sender)
        self._reads.acknowledged(message.sender, message.read_round)
        self._answer_confirmed()

    def _advance_commit(self) -> bool:
        """Commit what a quorum has durably, if it ends in this term; return whether that is more.

        An entry of an earlier term can be on a quorum and yet be replaced by a later leader; only with
        an entry of this term above it is that impossible (thesis 3.6.2, figure 3.7).
        """
        member = self._member
        before = member.commit
        index = (
            member.durable
            if member.alone
            else member.membership.committed(self.replication.matches())
        )
        if index <= before or member.log.term_at(index) != member.term:
            return False
        member.commit_to(index)
        self._uncommitted_bytes -= member.log.data_bytes(before, index)
        self.replication.send_all()
        if not self._commits_own_term:
            self._commits_own_term = True
            self._begin_reads(self._reads.unpark())
            self._leave_joint()
        return True

    # Membership.

    def config_applied(self) -> None:
        """Another membership is in force."""
        member = self._member
        known = self.replication.progress
        self.replication.follow_membership(recent_active=True)
        self._reads.ask_all()
        if self.transfer_to != NOBODY and self.transfer_to not in member.membership.all_voters:
            self.transfer_to = NOBODY
        # A smaller quorum may have more in common.
        self._advance_commit()
        self._answer_confirmed()
        for node, progress in self.replication.progress.items():
            if node not in known:
                self.replication.send(node, progress, even_empty=True)
        self._leave_joint()

    def _leave_joint(self) -> None:
        """End a joint phase as soon as it may be: while it lasts, two majorities are needed (thesis 4.3)."""
        member = self._member
        if member.membership.is_joint and not member.pending_changes and self._commits_own_term:
            self._append(EntryKind.CONFIG, encode_change(ConfigChange(leave=True), b""))

    # Transfer.

    def transfer(self, node: NodeId) -> None:
        """Hand leadership to ``node`` once it has the whole log (thesis 3.10). Raises ProposalDropped."""
        member = self._member
        if node == member.me:
            raise ProposalDropped("this member leads already")
        if node not in member.membership.voters:
            raise ProposalDropped("only a voter can lead")
        if node == self.transfer_to:
            return
        self.transfer_to = node
        self._transfer_elapsed = 0
        progress = self.replication.progress[node]
        if progress.match == member.log.last_index:
            self._hand_over()
        else:
            self.replication.send(node, progress)

    def _hand_over(self) -> None:
        member, node = self._member, self.transfer_to
        if self.replication.progress[node].match == member.log.last_index:
            member.out.send.append(TimeoutNow(sender=member.me, to=node, term=member.term))

    # Reads.

    def read(self, asker: Asker) -> None:
        """Find a read index for ``asker``."""
        if self._commits_own_term:
            self._begin_reads((asker,))
        else:
            self._reads.park(asker)

    def _begin_reads(self, askers: tuple[Asker, ...]) -> None:
        member = self._member
        invariant(member.role is Role.LEADER, "only a leader knows a read index")
        if not askers:
            return
        if member.alone:
            # Nobody else can lead without this member's vote.
            self._answer(member.commit, askers)
            return
        vouching = tuple(asker for asker in askers if self._vouches(asker))
        self._answer(member.commit, vouching)
        others = tuple(asker for asker in askers if asker not in vouching)
        if others and self._reads.begin(others):
            self._ask_for_confirmation()

    def _vouches(self, asker: Asker) -> bool:
        """Tell whether a question proves by itself what a round of heartbeats proves for others.

        It was sent after its reads came, by a member that was in this term then, as we are now. If the two
        are a quorum, nobody was elected in a later term before the reads came.
        """
        member = self._member
        return asker.node != member.me and member.membership.won_by((member.me, asker.node))

    def _ask_for_confirmation(self) -> None:
        for node in self._reads.audience():
            self.replication.heartbeat(node, self._reads.round)

    def _answer_confirmed(self) -> None:
        for index, askers in self._reads.confirmed():
            self._answer(index, askers)

    def _answer(self, index: Index, askers: tuple[Asker, ...]) -> None:
        member = self._member
        for node, context in askers:
            if node == member.me:
                member.out.reads.append(ReadReady(context, index))
            else:
                member.out.send.append(
                    ReadIndexResponse(
                        sender=member.me,
                        to=node,
                        term=member.term,
                        context=context,
                        index=index,
                    )
                )

    # Troubles of the transport.

    def unreachable(self, node: NodeId) -> None:
        """Messages to ``node`` were lost."""
        progress = self.replication.progress.get(node)
        if progress is not None:
            progress.lost()
        if self._reads.lost(node):
            self._ask_for_confirmation()

    def snapshot_failed(self, node: NodeId) -> None:
        """``node`` did not get its snapshot."""
        progress = self.replication.progress.get(node)
        if progress is not None:
            progress.snapshot_failed()
