"""The rules of the log: who leads, what is written, what is applied (R1 to R6, R9)."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.testing.sim.invariants import Member, Position, QuietRule
from coord_server.raft import (
    AppendRequest,
    CommitNotice,
    EntryKind,
    Heartbeat,
    Index,
    InstallSnapshot,
    ReadIndexRequest,
    ReadIndexResponse,
    Role,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord_server.raft import Entry, HardState, Message

_pack: Final = struct.Struct("<QQI").pack


class OneLeader(QuietRule):
    """R1: a term has one leader. R2: a leader's log never shrinks. R6: nothing goes back while a member runs.

    Nor does what a leader knows of the others, as long as it leads.
    """

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(report)
        self._leaders: dict[int, str] = {}
        self._last: dict[int, tuple[int, int, int, int]] = {}
        self._persisted: dict[int, tuple[int, int]] = {}
        self._votes: dict[tuple[int, int], int] = {}
        # By leader: its term, and what it knew that each member has.
        self._known: dict[int, tuple[int, dict[int, int]]] = {}

    @override
    def opened(self, member: Member) -> None:
        core = member.core
        term, commit = self._persisted.get(member.id, (0, 0))
        if core.term < term or core.commit_index < commit:
            text = f"restarts at term {core.term}, commit {core.commit_index}; had saved {term}, {commit}"
            self.report("R6", member.name, text)
        self._last.pop(member.id, None)

    @override
    def stepped(self, member: Member) -> None:
        core = member.core
        leads = core.role is Role.LEADER
        now = (core.term, core.commit_index, member.applier.applied_index, core.last_index)
        before = self._last.get(member.id)
        if before is not None:
            if now[0] < before[0] or now[1] < before[1] or now[2] < before[2]:
                self.report("R6", member.name, f"goes back from {before} to {now}")
            if leads and now[0] == before[0] and now[3] < before[3]:
                self.report("R2", member.name, f"leads and shortens its log to {now[3]}")
        self._last[member.id] = now
        if leads:
            self._claims(member, core.term)
            self._knows(member)

    def _knows(self, member: Member) -> None:
        core = member.core
        term, known = self._known.get(member.id, (0, {}))
        now: dict[int, int] = {node: view.match for node, view in core.progress.items()}
        for node in now.keys() & known.keys() if term == core.term else ():
            if now[node] < known[node]:
                text = f"knew that {node:x} has entry {known[node]}, and now {now[node]} only"
                self.report("R6", member.name, text)
        self._known[member.id] = (core.term, now)

    def _claims(self, member: Member, term: int) -> None:
        other = self._leaders.setdefault(term, member.name)
        if other != member.name:
            self.report("R1", member.name, f"leads term {term} beside {other}")

    @override
    def sending(self, member: Member, messages: Sequence[Message]) -> None:
        for message in messages:
            if isinstance(message, AppendRequest | Heartbeat | CommitNotice | InstallSnapshot):
                self._claims(member, message.term)

    @override
    def appended(
        self,
        member: Member,
        hard: HardState | None,
        entries: Sequence[Entry],
        behind: Position | None,
    ) -> None:
        if hard is None:
            return
        self._persisted[member.id] = (hard.term, hard.commit)
        if hard.vote:
            vote = self._votes.setdefault((member.id, hard.term), hard.vote)
            if vote != hard.vote:
                text = f"votes for {hard.vote:x} and {vote:x} in term {hard.term}"
                self.report("R6", member.name, text)


class OneLog(QuietRule):
    """R3: an index and a term name one prefix. R5: an index is applied as the same entry everywhere."""

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(report)
        self._prefixes: dict[tuple[int, int], int] = {}
        self._terms: dict[int, dict[int, int]] = {}
        self._applied: dict[int, tuple[int, int, str]] = {}

    @override
    def opened(self, member: Member) -> None:
        # A start may complete what a crash has interrupted: a log that begins anew behind a snapshot.
        core = member.core
        terms = self._terms.setdefault(member.id, {})
        for index in range(core.first_index - 1, core.last_index + 1):
            term = core.term_at(Index(index))
            if term is not None:
                terms[index] = term

    @override
    def appending(self, member: Member, entries: Sequence[Entry], behind: Position | None) -> None:
        terms = self._terms.setdefault(member.id, {})
        if behind is not None:
            terms[behind[0]] = behind[1]
        for entry in entries:
            index, term = entry.index, entry.term
            # What precedes the first entry we have seen of a log is taken as it is.
            before = self._prefixes.get((index - 1, terms.get(index - 1, 0)), 0)
            chain = zlib.crc32(entry.data, zlib.crc32(_pack(index, term, before)))
            if self._prefixes.setdefault((index, term), chain) != chain:
                text = f"entry {index} of term {term} ends another log here than elsewhere"
                self.report("R3", member.name, text)
            terms[index] = term

    @override
    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        known = self._applied.get(index)
        now = zlib.crc32(data)
        if known is None:
            self._applied[index] = (term, now, member.name)
        elif known[:2] != (term, now):
            text = (
                f"applies entry {index} of term {term}; {known[2]} had another of term {known[0]}"
            )
            self.report("R5", member.name, text)


class WholeLeader(QuietRule):
    """R4: a leader has all that was committed before its term. R9: it has one change of membership on its way.

    R9 as well: it has committed an entry of its term before, and nobody campaigns who has a committed change
    to apply.
    """

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(report)
        # (index, its term, the term in which it was committed at the latest), as first applied anywhere.
        self._committed: list[tuple[int, int, int]] = []
        self._leads: dict[int, int] = {}
        self._changes: dict[int, list[tuple[int, int]]] = {}

    @override
    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        if not self._committed or index > self._committed[-1][0]:
            self._committed.append((index, term, member.core.term))

    @override
    def stepped(self, member: Member) -> None:
        core = member.core
        if core.role in {Role.PRE_CANDIDATE, Role.CANDIDATE}:
            self._campaigns(member)
        if core.role is not Role.LEADER or self._leads.get(member.id) == core.term:
            return
        self._leads[member.id] = core.term
        # Logs that agree on an entry agree on all before it: the newest is enough.
        for index, term, committed_in in reversed(self._committed):
            if committed_in >= core.term:
                continue  # it was elected earlier, and has not heard of its successor
            here = core.term_at(Index(index)) if index >= core.first_index else term
            if here != term:
                text = (
                    f"leads term {core.term} with entry {index} of term {here}; {term} is committed"
                )
                self.report("R4", member.name, text)
            return

    def _campaigns(self, member: Member) -> None:
        applied, commit = member.applier.applied_index, member.core.commit_index
        # What its disk has may have been replaced since in its log.
        due = [
            index
            for index, term in self._changes.get(member.id, ())
            if applied < index <= commit and member.core.term_at(Index(index)) == term
        ]
        if due:
            text = f"campaigns before it has applied the change of membership at {due[0]}"
            self.report("R9", member.name, text)

    @override
    def appending(self, member: Member, entries: Sequence[Entry], behind: Position | None) -> None:
        changes = self._changes.setdefault(member.id, [])
        if behind is not None:
            changes.clear()
        if entries:
            first = entries[0].index
            changes[:] = [change for change in changes if change[0] < first]
            changes += [(e.index, e.term) for e in entries if e.kind is EntryKind.CONFIG]
        core = member.core
        if core.role is not Role.LEADER:
            return
        own = [e.index for e in entries if e.kind is EntryKind.CONFIG and e.term == core.term]
        if own and not core.commits_own_term:
            text = f"proposes a change of membership at {own[0]} before it has committed anything"
            self.report("R9", member.name, text)
        if sum(index > core.commit_index for index, _ in changes) > 1:
            text = f"has changes of membership at {[index for index, _ in changes]}, and {core.commit_index} is committed"
            self.report("R9", member.name, text)


class ReadNumbers(QuietRule):
    """R10: a question for a read index has a number that its asker never used before.

    The answer is not older than anything that was committed when the question left, or, where the leader
    asks itself, when it began to ask.
    """

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(report)
        # By asker and number: what had been applied somewhere by then.
        self._asked: dict[tuple[int, int], int] = {}
        # The same of every question, also of a leader's to itself; by member, its life, and number.
        self._began: dict[tuple[str, int, int], int] = {}
        self._newest = 0

    @override
    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        self._newest = max(self._newest, index)

    @override
    def sending(self, member: Member, messages: Sequence[Message]) -> None:
        for message in messages:
            if isinstance(message, ReadIndexRequest):
                question = (member.id, message.context)
                if question in self._asked:
                    text = f"asks for a read index under the number {message.context} again"
                    self.report("R10", member.name, text)
                self._asked[question] = self._newest
            elif isinstance(message, ReadIndexResponse):
                least = self._asked.get((message.to, message.context), 0)
                if message.index < least:
                    text = f"answers with read index {message.index}; {least} had been applied when asked"
                    self.report("R10", member.name, text)

    @override
    def asking(self, member: Member, number: int) -> None:
        self._began[member.name, member.node.epoch, number] = self._newest

    @override
    def readable(self, member: Member, number: int, index: int) -> None:
        least = self._began.get((member.name, member.node.epoch, number), 0)
        if index < least:
            text = f"may read at {index}; {least} had been applied somewhere when it asked"
            self.report("R10", member.name, text)
