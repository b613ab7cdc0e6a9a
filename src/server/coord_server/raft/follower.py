"""The rules of a follower that hears its term's leader: entries, commit index, snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord_server.raft.messages import (
    AppendRequest,
    AppendResponse,
    CommitNotice,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
)
from coord_server.raft.types import Index, NodeId, Term

if TYPE_CHECKING:
    from coord_server.raft.member import Member
    from coord_server.raft.types import Entry


def take_append(member: Member, message: AppendRequest) -> None:
    """Take entries that fit, say where it does not fit otherwise (thesis 3.5).

    Never acknowledged before everything so far is durable, even if nothing is new: the entries of a
    doubled message may still be on their way to the disk.
    """
    log = member.log
    if not _is_well_formed(message):
        return
    if message.prev_index < log.base_index:
        # What the base covers is committed, so this leader has it too (thesis 3.6.3).
        _accept(member, message.sender, member.commit)
        return
    if not member.membership.voters or log.term_at(message.prev_index) != message.prev_term:
        # Without voters: a newcomer. Changes of membership in the log would build on a membership that
        # it does not know, so nothing fits, not even the log's beginning, until a snapshot came.
        _reject(member, message)
        return
    _take_entries(member, message.entries)
    # Only this message's last entry is known to be the leader's; what follows it here may be not.
    last = Index(message.prev_index + len(message.entries))
    member.commit_to(min(message.commit, last))
    _accept(member, message.sender, last)


def take_heartbeat(member: Member, message: Heartbeat) -> None:
    """Follow on. The leader knows that it has our log up to this commit index durably."""
    if message.commit <= member.log.last_index:
        member.commit_to(message.commit)
    member.out.send.append(
        HeartbeatResponse(
            sender=member.me,
            to=message.sender,
            term=member.term,
            read_round=message.read_round,
        )
    )


def take_commit(member: Member, message: CommitNotice) -> None:
    """Commit, if the entry is the leader's: of its term there is one for an index (thesis 3.5)."""
    if member.log.term_at(message.commit) == message.term:
        member.commit_to(message.commit)


def take_snapshot(member: Member, message: InstallSnapshot) -> None:
    """Begin again behind a snapshot, unless the log has, or will have, what it covers (thesis 5)."""
    snapshot = message.snapshot
    if snapshot.term > message.term or snapshot.index < 1:
        return  # nonsense
    if snapshot.index > member.commit:
        if member.log.term_at(snapshot.index) == snapshot.term:
            # Equal at this entry, so equal before it: the log goes on, only faster.
            member.commit_to(snapshot.index)
        else:
            member.restore(snapshot)
    _accept(member, message.sender, member.commit)


def accept_later_term(member: Member, node: NodeId) -> None:
    """Tell a leader of an earlier term which term it is: it will step down and then be heard again.

    Without check-quorum and pre-vote, this member's own campaign would do that (thesis 4.2.3, 9.6).
    """
    _accept(member, node, Index(0))


def _take_entries(member: Member, entries: tuple[Entry, ...]) -> None:
    """Add what is missing. Only a conflict removes anything.

    An old message may hold fewer entries than the log has by now: what follows stays (thesis 3.5,
    the last paragraph of the consistency check).
    """
    log = member.log
    for place, entry in enumerate(entries):
        term = log.term_at(entry.index)
        if term == entry.term:
            continue
        if term is not None:
            member.truncate(Index(entry.index - 1))
        for new in entries[place:]:
            member.append(new)
        return


def _is_well_formed(message: AppendRequest) -> bool:
    """Return whether the entries follow one another; a peer that sends others is not listened to."""
    index: int = message.prev_index
    term: Term = message.prev_term
    for entry in message.entries:
        index += 1
        if entry.index != index or entry.term < term:
            return False
        term = entry.term
    return term <= message.term


def _accept(member: Member, leader: NodeId, index: Index) -> None:
    member.out.after_persist.append(
        AppendResponse(
            sender=member.me,
            to=leader,
            term=member.term,
            index=index,
            hint_index=Index(0),
            hint_term=Term(0),
        )
    )


def _reject(member: Member, message: AppendRequest) -> None:
    log = member.log
    hint = log.agreement(min(message.prev_index, log.last_index), message.prev_term)
    member.out.after_persist.append(
        AppendResponse(
            sender=member.me,
            to=message.sender,
            term=member.term,
            index=message.prev_index,
            rejected=True,
            hint_index=hint,
            hint_term=log.term_at(hint) or Term(0),
        )
    )
