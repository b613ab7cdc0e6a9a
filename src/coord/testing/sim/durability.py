"""The rules of what is durable: nothing is promised, counted or applied before it is (R1, R7, R8, S4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord.testing.sim.invariants import Member, Position, QuietRule
from coord_server.raft import AppendResponse, Index, Role, VoteRequest, VoteResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord_server.raft import Entry, HardState, Membership, Message


class _Image:
    """What one member's log would hold after a power failure."""

    __slots__ = ("floor", "term", "terms", "votes")

    def __init__(self) -> None:
        self.floor = 0
        """Everything up to here is in the backend."""
        self.terms: dict[int, int] = {}
        self.term = 0
        self.votes: dict[int, int] = {}

    def has(self, index: int, term: int) -> bool:
        return index <= self.floor or self.terms.get(index) == term

    def reaches(self, index: int) -> bool:
        return index <= self.floor or index in self.terms

    def has_voted(self, term: int, node: int) -> bool:
        # In a term that is over nobody will vote again, whatever was merged into one write.
        return self.term > term or self.votes.get(term) == node

    def cut(self, first: int) -> None:
        for index in [index for index in self.terms if index >= first]:
            del self.terms[index]


class Durable(QuietRule):
    """R7: votes and acknowledgements tell of what is durable. S4, R8: what is applied is so, here and on a quorum.

    R1: a leader has a quorum's durable votes. R8: what it counts on is there, and its commit index comes to
    stand on entries of its own term.
    """

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(report)
        self._images: dict[int, _Image] = {}
        self._applied = 0
        # By member: the membership before the last change. Entries behind a change can have been
        # committed together with it.
        self._earlier: dict[int, Membership] = {}
        # By member that leads: its term and commit index.
        self._leads: dict[int, tuple[int, int]] = {}

    def _is_synced(self, member: Member) -> bool:
        directory = f"{member.node.config.data_path}/member/wal"
        return member.node.disk.platter.is_synced(directory, ".wal")

    @override
    def opened(self, member: Member) -> None:
        """Take what was read from the log as durable, if the start has seen to that."""
        core = member.core
        image = self._images.setdefault(member.id, _Image())
        here: dict[int, int] = {
            index: term
            for index in range(core.first_index, core.last_index + 1)
            if (term := core.term_at(Index(index))) is not None
        }
        if not self._is_synced(member):
            text = "takes what it has read from its log for durable, and it is not"
            self.report("R7", member.name, text)
            here = {index: term for index, term in here.items() if image.terms.get(index) == term}
        image.terms = here
        image.floor = core.first_index - 1

    @override
    def appended(
        self,
        member: Member,
        hard: HardState | None,
        entries: Sequence[Entry],
        behind: Position | None,
    ) -> None:
        if not self._is_synced(member):
            self.report("R7", member.name, "a write to the log returned and is not durable")
            return
        image = self._images[member.id]
        if behind is not None:
            image.floor = behind[0]
            image.terms.clear()
        if entries:
            image.cut(entries[0].index)
            for entry in entries:
                image.terms[entry.index] = entry.term
        if hard is not None:
            image.term = hard.term
            if hard.vote:
                image.votes[hard.term] = hard.vote

    @override
    def sending(self, member: Member, messages: Sequence[Message]) -> None:
        image = self._images[member.id]
        for message in messages:
            if isinstance(message, VoteResponse):
                if message.granted and not image.has_voted(message.term, message.to):
                    text = f"votes in term {message.term} before the vote is durable"
                    self.report("R7", member.name, text)
            elif isinstance(message, VoteRequest):
                if not image.has_voted(message.term, member.id):
                    text = f"asks for votes in term {message.term} before its own is durable"
                    self.report("R7", member.name, text)
            elif isinstance(message, AppendResponse):
                # One of an earlier term may tell of what was replaced since: nobody counts it.
                is_current = message.term == member.core.term and not message.rejected
                if is_current and not image.reaches(message.index):
                    text = f"acknowledges entry {message.index} before it is durable"
                    self.report("R7", member.name, text)

    @override
    def stepped(self, member: Member) -> None:
        core = member.core
        before = self._leads.pop(member.id, None)
        if core.role is not Role.LEADER:
            return
        term, commit = core.term, core.commit_index
        self._leads[member.id] = (term, commit)
        if before is None or before[0] != term:
            voted = [n for n, image in self._images.items() if image.has_voted(term, member.id)]
            if not self._is_quorum(member, voted):
                text = f"leads term {term} with the durable votes of {len(voted)} members"
                self.report("R1", member.name, text)
        elif commit > before[1] and core.term_at(Index(commit)) not in {None, term}:
            text = f"commits entry {commit} of term {core.term_at(Index(commit))} in term {term}"
            self.report("R8", member.name, text)
        self._counted(member)

    def _counted(self, member: Member) -> None:
        """Compare what a leader believes that the others have with what they have."""
        core = member.core
        for node, view in core.progress.items():
            image = self._images.get(node)
            # Whoever is in a later term has perhaps got another log since.
            if image is None or image.term > core.term or not view.match:
                continue
            term = core.term_at(view.match)
            if not (image.reaches(view.match) if term is None else image.has(view.match, term)):
                text = f"counts on entry {view.match} at {node:x}, where it is not durable"
                self.report("R8", member.name, text)

    def _is_quorum(self, member: Member, have: Sequence[int]) -> bool:
        """Tell whether members are a quorum, now or before the last change of membership."""
        now = member.core.membership
        return any(_is_quorum(each, have) for each in (now, self._earlier.get(member.id, now)))

    @override
    def changing(self, member: Member) -> None:
        self._earlier[member.id] = member.core.membership

    @override
    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        if not self._images[member.id].has(index, term):
            text = f"applies entry {index} of term {term}, and its own log does not have it durably"
            self.report("S4", member.name, text)
        if index <= self._applied:
            return  # the quorum of then may have changed since
        self._applied = index
        now = member.core.membership
        have = [
            node
            for node in sorted({*now.all_voters, *self._earlier.get(member.id, now).all_voters})
            if node in self._images and self._images[node].has(index, term)
        ]
        if not self._is_quorum(member, have):
            text = f"entry {index} of term {term} is applied and durable on {len(have)} voters only"
            self.report("S4", member.name, text)


def _is_quorum(membership: Membership, have: Sequence[int]) -> bool:
    """Tell whether members are a quorum; not by the rules that are judged."""
    sets = [voters for voters in (membership.voters, membership.outgoing) if voters]
    return all(2 * sum(node in have for node in voters) > len(voters) for voters in sets)
