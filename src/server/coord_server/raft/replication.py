"""How a leader supplies its followers: appends, probes, heartbeats, and who needs a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord_server.raft.messages import AppendRequest, AppendResponse, CommitNotice, Heartbeat
from coord_server.raft.progress import Progress, ProgressState
from coord_server.raft.types import Index, NodeId

if TYPE_CHECKING:
    from coord_server.raft.member import Member


class Replication:
    """Every other member's progress, and the messages that move it on."""

    __slots__ = ("_member", "progress")

    def __init__(self, member: Member) -> None:
        self._member = member
        # Ascending by member, so that a run can be repeated.
        self.progress: dict[NodeId, Progress] = {}
        # Not heard from yet in this leadership: the first check of the quorum counts who was.
        self.follow_membership(recent_active=False)

    def follow_membership(self, *, recent_active: bool) -> None:
        """Begin with members that came, forget those that went."""
        member = self._member
        known, self.progress = self.progress, {}
        for node in member.members:
            if node in known:
                self.progress[node] = known[node]
            elif node != member.me:
                # Most likely it has all or nothing; the first rejection tells.
                following = Index(member.log.last_index + 1)
                self.progress[node] = Progress(following, recent_active=recent_active)

    def matches(self) -> dict[NodeId, Index]:
        """Return what every member has durably. Our own copy counts when our disk has it."""
        matches = {node: progress.match for node, progress in self.progress.items()}
        matches[self._member.me] = self._member.durable
        return matches

    def take_active(self) -> list[NodeId]:
        """Return who was heard from since the last call, this member included."""
        active = [self._member.me]
        for node, progress in self.progress.items():
            if progress.recent_active:
                active.append(node)
                progress.recent_active = False
        return active

    def send_all(self) -> None:
        """Send every follower what it lacks, as far as its window allows, and the commit index."""
        for node, progress in self.progress.items():
            self.send(node, progress)

    def send(self, node: NodeId, progress: Progress, *, even_empty: bool = False) -> None:
        """As `send_all`, for one follower; ``even_empty``: a message goes also with no news in it."""
        member = self._member
        log, config = member.log, member.config
        while progress.may_send(config.max_inflight):
            previous = Index(progress.next - 1)
            previous_term = log.term_at(previous)
            if previous_term is None:
                self._ask_for_snapshot(node, progress)
                return
            entries = log.batch(previous, config.max_append_bytes)
            if not (entries or even_empty):
                if progress.state is ProgressState.REPLICATE:
                    self._tell_commit(node, progress)
                    return
                if progress.commit_sent >= member.commit:
                    return
            member.out.send.append(
                AppendRequest(
                    sender=member.me,
                    to=node,
                    term=member.term,
                    prev_index=previous,
                    prev_term=previous_term,
                    entries=entries,
                    commit=member.commit,
                )
            )
            progress.sent(Index(previous + len(entries)), member.commit)
            even_empty = False

    def _tell_commit(self, node: NodeId, progress: Progress) -> None:
        """Tell a follower that was sent all entries what is committed."""
        member = self._member
        if progress.commit_sent < member.commit:
            member.out.send.append(
                CommitNotice(sender=member.me, to=node, term=member.term, commit=member.commit)
            )
            progress.commit_sent = member.commit

    def heartbeat(self, node: NodeId, read_round: int) -> None:
        """Tell ``node`` that this member leads.

        The commit index is cut to what the follower is known to have: beyond that, its log may be
        another one, of which nothing is committed.
        """
        member, progress = self._member, self.progress[node]
        member.out.send.append(
            Heartbeat(
                sender=member.me,
                to=node,
                term=member.term,
                commit=min(progress.match, member.commit),
                read_round=read_round,
            )
        )

    def append_answered(self, message: AppendResponse) -> bool:
        """Take an answer to an append or a snapshot; return whether the follower's match rose.

        What else the follower may be sent now goes with the next `send`: it may have to carry a new
        commit index.
        """
        member, progress = self._member, self.progress[message.sender]
        progress.recent_active = True
        if message.rejected:
            if message.index == 0:
                # The beginning fits everybody but a newcomer, which needs a snapshot in any case.
                self._ask_for_snapshot(message.sender, progress)
                return False
            agreement = member.log.agreement(message.hint_index, message.hint_term)
            if progress.rejected(message.index, agreement):
                self.send(message.sender, progress)
            return False
        if message.index > member.log.last_index:
            return False  # nobody can have what this leader does not
        return progress.accepted(message.index)

    def heartbeat_answered(self, node: NodeId) -> None:
        """Note that the follower is there; if it lacks something, find out whether that is on its way.

        In state REPLICATE everything may be sent already; an append without entries at the end of the
        pipeline is rejected then if a part of it was lost.
        """
        progress = self.progress[node]
        progress.recent_active = True
        progress.probe_sent = False
        if progress.state is ProgressState.SNAPSHOT:
            self._look_for_snapshot(node)
            return
        if len(progress.inflight) >= self._member.config.max_inflight:
            # The full window would keep that append back.
            progress.inflight.popleft()
        if progress.match < self._member.log.last_index:
            self.send(node, progress, even_empty=True)

    def _ask_for_snapshot(self, node: NodeId, progress: Progress) -> None:
        # A member that is down would make the replica prepare a snapshot that nobody takes.
        if progress.recent_active and progress.state is not ProgressState.SNAPSHOT:
            progress.await_snapshot(Index(max(self._member.log.base_index, 1)))
            self._member.out.snapshots.append(node)

    def _look_for_snapshot(self, node: NodeId) -> None:
        """Ask whether the snapshot is installed: the answer that said so may be lost."""
        member = self._member
        member.out.send.append(
            AppendRequest(
                sender=member.me,
                to=node,
                term=member.term,
                prev_index=member.log.base_index,
                prev_term=member.log.base_term,
                entries=(),
                commit=member.commit,
            )
        )
