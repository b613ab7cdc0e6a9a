"""Elections: who asks for votes, who gives them, and who only asks whether it would get them.

A pre-vote (thesis 9.6) asks "would you vote for me in the next term?" and changes nothing on either
side, so that a member which was cut off does not push the others' terms up when it comes back.
"""

from __future__ import annotations

from enum import Enum, auto, unique
from typing import TYPE_CHECKING

from coord_server.raft.messages import (
    PreVoteRequest,
    PreVoteResponse,
    VoteRequest,
    VoteResponse,
)
from coord_server.raft.types import NOBODY, Index, NodeId, Term

if TYPE_CHECKING:
    from coord_server.raft.member import Member


@unique
class Outcome(Enum):
    """How an election stands."""

    OPEN = auto()
    WON = auto()
    LOST = auto()


class Candidacy:
    """One member's election, or its pre-vote."""

    # The sets are asked for membership only, never iterated.
    __slots__ = ("_grants", "_member", "_refusals", "is_pre_vote", "is_transfer")

    def __init__(self, member: Member, *, is_pre_vote: bool, is_transfer: bool = False) -> None:
        self._member = member
        self.is_pre_vote = is_pre_vote
        self.is_transfer = is_transfer
        self._grants: set[NodeId] = set()
        self._refusals: set[NodeId] = set()

    @property
    def has_own_vote(self) -> bool:
        """Whether this member's vote for itself counts already: for a real vote, whether it is durable."""
        return self._member.me in self._grants

    def ask(self) -> None:
        """Ask the other voters.

        A request says that this member has voted for itself, in a term that it will not forget: it
        waits for the disk. A pre-vote says nothing of that kind.
        """
        member = self._member
        log = member.log
        for node in member.membership.all_voters:
            if node == member.me:
                continue
            if self.is_pre_vote:
                member.out.send.append(
                    PreVoteRequest(
                        sender=member.me,
                        to=node,
                        term=Term(member.term + 1),
                        last_index=log.last_index,
                        last_term=log.last_term,
                    )
                )
            else:
                member.out.after_persist.append(
                    VoteRequest(
                        sender=member.me,
                        to=node,
                        term=member.term,
                        last_index=log.last_index,
                        last_term=log.last_term,
                        is_transfer=self.is_transfer,
                    )
                )

    def count(self, node: NodeId, *, granted: bool) -> Outcome:
        """Count a voter's answer. Who does not vote may answer too; the membership knows who does."""
        if granted:
            self._grants.add(node)
        else:
            self._refusals.add(node)
        membership = self._member.membership
        if membership.won_by(self._grants):
            return Outcome.WON
        return Outcome.LOST if membership.lost_by(self._refusals) else Outcome.OPEN


def answer_vote(member: Member, message: VoteRequest) -> None:
    """Vote, or refuse to. The request's term is this member's by now (thesis 3.4, 3.6.1).

    A vote is given again to who has it: the first answer may be lost.
    """
    granted = _is_free_for(member, message.sender) and member.is_up_to_date(
        message.last_term, message.last_index
    )
    if granted:
        member.vote_for(message.sender)
        # Whoever gets a vote gets the time to win, too.
        member.reset_timer()
    # Beside the vote, this may be the first that others hear of our term: it waits for the disk.
    member.out.after_persist.append(
        VoteResponse(
            sender=member.me,
            to=message.sender,
            term=member.term,
            granted=granted,
            commit=Index(0) if granted else member.commit,
            commit_term=Term(0) if granted else _term_of_commit(member),
        )
    )


def answer_pre_vote(member: Member, message: PreVoteRequest) -> None:
    """Say whether this member would vote so. Nothing is promised, and nothing changes here.

    A refusal carries this member's term: an asker whose term is old learns the present one.
    """
    granted = (
        message.term > member.term
        or (message.term == member.term and _is_free_for(member, message.sender))
    ) and member.is_up_to_date(message.last_term, message.last_index)
    member.out.send.append(
        PreVoteResponse(
            sender=member.me,
            to=message.sender,
            term=message.term if granted else member.term,
            granted=granted,
            commit=Index(0) if granted else member.commit,
            commit_term=Term(0) if granted else _term_of_commit(member),
        )
    )


def learn_commit(member: Member, message: PreVoteResponse | VoteResponse) -> None:
    """Learn from a refusal what is committed, if our log has it: an entry is known by index and term."""
    if message.commit and member.log.term_at(message.commit) == message.commit_term:
        member.commit_to(message.commit)


def _term_of_commit(member: Member) -> Term:
    return member.log.term_at(member.commit) or Term(0)


def _is_free_for(member: Member, node: NodeId) -> bool:
    # Who knows this term's leader need not vote any more, even if it did not vote yet.
    return member.vote == node or (member.vote == NOBODY and member.leader == NOBODY)
