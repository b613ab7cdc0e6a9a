"""Mistakes that the search or the walks must find: each replaces a rule by a plausible wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from coord_server.raft import (
    AppendRequest,
    AppendResponse,
    CommitNotice,
    ConfigChange,
    Heartbeat,
    Index,
    InstallSnapshot,
    Membership,
    Message,
    NodeId,
    Persisted,
    VoteRequest,
    VoteResponse,
    encode_change,
    follower,
)
from coord_server.raft import core as core_module
from coord_server.raft.core import RaftCore
from coord_server.raft.election import answer_vote
from coord_server.raft.leader import Leadership
from coord_server.raft.member import Member
from coord_server.raft.progress import Progress
from coord_server.raft.quorum import quorum_index
from coord_server.raft.reads import Asker
from coord_server.raft.replication import Replication
from coord_server.raft.types import EntryKind, SnapshotMeta

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    root: str  # where the search is most likely to meet it
    plant: Patch


def _old_term(patch: pytest.MonkeyPatch) -> None:
    def advance(self: Leadership) -> bool:
        member = self._member
        index = member.membership.committed(self.replication.matches())
        if index <= member.commit:
            return False
        member.commit_to(index)
        self._commits_own_term = True
        self.replication.send_all()
        return True

    patch.setattr(Leadership, "_advance_commit", advance)


def _vote_before_disk(patch: pytest.MonkeyPatch) -> None:
    def answer(member: Member, message: VoteRequest) -> None:
        answer_vote(member, message)
        member.out.send.append(member.out.after_persist.pop())

    patch.setattr(core_module, "answer_vote", answer)


def _commit_without_max(patch: pytest.MonkeyPatch) -> None:
    def commit_to(self: Member, index: Index) -> None:
        self.commit = index

    patch.setattr(Member, "commit_to", commit_to)


def _commit_beyond_the_message(patch: pytest.MonkeyPatch) -> None:
    def take(member: Member, message: AppendRequest) -> None:
        take_append(member, message)
        if member.log.term_at(message.prev_index) == message.prev_term:
            member.commit_to(Index(min(message.commit, member.log.last_index)))

    take_append = follower.take_append
    patch.setattr(follower, "take_append", take)


def _match_of_a_late_answer(patch: pytest.MonkeyPatch) -> None:
    def accepted(self: Progress, index: Index) -> bool:
        self.match = index
        self.replicate()
        return True

    patch.setattr(Progress, "accepted", accepted)


def _answers_of_old_terms(kind: type[AppendResponse | VoteResponse]) -> Patch:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def answer(self: RaftCore, message: Message) -> None:
            if not isinstance(message, kind):
                earlier(self, message)
            elif isinstance(message, VoteResponse):
                if self._candidacy is not None:
                    self._count(self._candidacy, message.sender, granted=message.granted)
            elif self._leadership is not None and isinstance(message, AppendResponse):
                self._leadership.append_answered(message)

        earlier = RaftCore._answer_earlier_term
        patch.setattr(RaftCore, "_answer_earlier_term", answer)

    return plant


def _truncates_what_matches(patch: pytest.MonkeyPatch) -> None:
    def take(member: Member, entries: tuple[object, ...]) -> None:
        if entries:
            first = entries[0]
            after = Index(max(first.index - 1, member.commit))  # type: ignore[attr-defined]
            member.truncate(Index(min(after, member.log.last_index)))
        take_entries(member, entries)  # type: ignore[arg-type]

    take_entries = follower._take_entries
    patch.setattr(follower, "_take_entries", take)


def _learners_count(patch: pytest.MonkeyPatch) -> None:
    def committed(self: Membership, match: dict[NodeId, Index]) -> Index:
        known = tuple(node for node in self.members if node in match)
        return quorum_index(known, match)

    patch.setattr(Membership, "committed", committed)


def _two_changes(patch: pytest.MonkeyPatch) -> None:
    def propose(self: Leadership, change: ConfigChange, context: bytes) -> None:
        self._append(EntryKind.CONFIG, encode_change(change, context))

    patch.setattr(Leadership, "propose_change", propose)


def _reads_before_own_commit(patch: pytest.MonkeyPatch) -> None:
    def read(self: Leadership, asker: Asker) -> None:
        self._begin_reads((asker,))

    patch.setattr(Leadership, "read", read)


def _reads_without_a_round(patch: pytest.MonkeyPatch) -> None:
    def begin(self: Leadership, askers: tuple[Asker, ...]) -> None:
        self._answer(self._member.commit, askers)

    patch.setattr(Leadership, "_begin_reads", begin)


def _any_question_vouches(patch: pytest.MonkeyPatch) -> None:
    def vouches(self: Leadership, asker: Asker) -> bool:
        return asker.node != self._member.me

    patch.setattr(Leadership, "_vouches", vouches)


def _snapshot_takes_back(patch: pytest.MonkeyPatch) -> None:
    def restore(self: Member, snapshot: SnapshotMeta) -> None:
        self.log.restart(snapshot.index, snapshot.term)
        self.commit = self.durable = snapshot.index
        self.pending_changes.clear()
        self.set_membership(snapshot.membership)
        self.out.restart(snapshot)

    def take(member: Member, message: InstallSnapshot) -> None:
        member.restore(message.snapshot)
        follower._accept(member, message.sender, member.commit)

    patch.setattr(Member, "restore", restore)
    patch.setattr(follower, "take_snapshot", take)


def _acknowledges_before_disk(patch: pytest.MonkeyPatch) -> None:
    def accept(member: Member, leader: NodeId, index: Index) -> None:
        earlier(member, leader, index)
        member.out.send.append(member.out.after_persist.pop())

    earlier = follower._accept
    patch.setattr(follower, "_accept", accept)


def _own_copy_before_disk(patch: pytest.MonkeyPatch) -> None:
    def matches(self: Replication) -> dict[NodeId, Index]:
        result = earlier(self)
        result[self._member.me] = self._member.log.last_index
        return result

    earlier = Replication.matches
    patch.setattr(Replication, "matches", matches)


def _campaigns_too_early(patch: pytest.MonkeyPatch) -> None:
    def may(self: Member) -> bool:
        return self.me in self.membership.all_voters

    patch.setattr(Member, "may_campaign", may)


def _votes_for_any_log(patch: pytest.MonkeyPatch) -> None:
    def any_log(*_: object) -> bool:
        return True

    patch.setattr(Member, "is_up_to_date", any_log)


def _votes_twice(patch: pytest.MonkeyPatch) -> None:
    def vote_for(self: Member, node: NodeId) -> None:
        self.vote = node

    def free(*_: object) -> bool:
        return True

    patch.setattr("coord_server.raft.election._is_free_for", free)
    patch.setattr(Member, "vote_for", vote_for)


def _heartbeat_commits_too_much(patch: pytest.MonkeyPatch) -> None:
    def heartbeat(self: Replication, node: NodeId, read_round: int) -> None:
        earlier(self, node, read_round)
        sent = self._member.out.send.pop()
        assert isinstance(sent, Heartbeat)
        self._member.out.send.append(
            Heartbeat(
                sender=sent.sender,
                to=sent.to,
                term=sent.term,
                commit=self._member.commit,
                read_round=read_round,
            )
        )

    earlier = Replication.heartbeat
    patch.setattr(Replication, "heartbeat", heartbeat)


def _notice_commits_any_entry(patch: pytest.MonkeyPatch) -> None:
    def take_commit(member: Member, message: CommitNotice) -> None:
        if message.commit <= member.log.last_index:
            member.commit_to(message.commit)

    patch.setattr(follower, "take_commit", take_commit)


def _durable_whatever_was_written(patch: pytest.MonkeyPatch) -> None:
    def persisted(self: Member, event: Persisted) -> bool:
        self.durable = max(self.durable, min(event.index, self.log.last_index))
        return event.term == self.term

    patch.setattr(Member, "persisted", persisted)


MUTANTS = (
    Mutant("commit of an old-term entry", "old entry", _old_term),
    Mutant("vote not persisted before the reply", "empty", _vote_before_disk),
    Mutant("commit index without max", "late messages", _commit_without_max),
    Mutant("empty append moves the commit too far", "conflict", _commit_beyond_the_message),
    Mutant("match from a late reply", "late messages", _match_of_a_late_answer),
    Mutant(
        "append reply of an old term counted", "late answers", _answers_of_old_terms(AppendResponse)
    ),
    Mutant(
        "vote reply of an old term counted", "late answers", _answers_of_old_terms(VoteResponse)
    ),
    Mutant("follower truncates matching entries", "late messages", _truncates_what_matches),
    Mutant("learner counted in the quorum", "learner", _learners_count),
    Mutant("two changes of membership in flight", "removal", _two_changes),
    Mutant("read before the own-term commit", "new leader", _reads_before_own_commit),
    Mutant("read without a round", "deposed", _reads_without_a_round),
    Mutant("any question vouches", "deposed with another", _any_question_vouches),
    Mutant("snapshot lowers the commit", "late messages", _snapshot_takes_back),
    Mutant("acknowledged before the disk", "elected", _acknowledges_before_disk),
    Mutant("own copy counted before the disk", "elected", _own_copy_before_disk),
    Mutant("campaign with an unapplied change", "unapplied", _campaigns_too_early),
    Mutant("vote for a log that is behind", "left behind", _votes_for_any_log),
    Mutant("two votes in a term", "empty", _votes_twice),
    Mutant("heartbeat commits beyond the match", "conflict", _heartbeat_commits_too_much),
    Mutant("notice commits any entry", "told ahead", _notice_commits_any_entry),
    Mutant("durable whatever was written", "write under way", _durable_whatever_was_written),
)
