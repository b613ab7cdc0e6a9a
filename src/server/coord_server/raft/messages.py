"""What members tell each other. ``term`` is the sender's, unless the message says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from coord_server.raft.types import Index, Term

if TYPE_CHECKING:
    from coord_server.raft.types import Entry, NodeId, SnapshotMeta

_NO_INDEX = Index(0)
_NO_TERM = Term(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreVoteRequest:
    """Asks for a promise of a vote in ``term``, which the sender has not entered yet (thesis 9.6)."""

    sender: NodeId
    to: NodeId
    term: Term
    last_index: Index
    last_term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class PreVoteResponse:
    """``term`` is the asked one if granted, else the responder's own.

    ``commit`` and the term of the entry there: a refused asker may not know what is committed, and be
    refused because of that for ever. It asks in a membership that is no more, where the responder,
    which a committed change removed, will not campaign itself. Both are 0 if granted.
    """

    sender: NodeId
    to: NodeId
    term: Term
    granted: bool
    commit: Index = _NO_INDEX
    commit_term: Term = _NO_TERM


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRequest:
    """Thesis 3.4. ``is_transfer``: the leader asked for this election, so its followers need not wait."""

    sender: NodeId
    to: NodeId
    term: Term
    last_index: Index
    last_term: Term
    is_transfer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteResponse:
    """Leaves only when the vote is on disk. ``commit``, ``commit_term``: see `PreVoteResponse`."""

    sender: NodeId
    to: NodeId
    term: Term
    granted: bool
    commit: Index = _NO_INDEX
    commit_term: Term = _NO_TERM


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendRequest:
    """Entries that follow (``prev_index``, ``prev_term``), and how far the log is committed (thesis 3.5)."""

    sender: NodeId
    to: NodeId
    term: Term
    prev_index: Index
    prev_term: Term
    entries: tuple[Entry, ...]
    commit: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendResponse:
    """Accepted: everything up to ``index`` is durable here and equal to the leader's.

    Rejected: nothing fits at ``index``; the logs can agree at ``hint_index``, whose term here is
    ``hint_term``, at most.
    """

    sender: NodeId
    to: NodeId
    term: Term
    index: Index
    rejected: bool = False
    hint_index: Index
    hint_term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The sender leads. ``commit`` is never beyond what the follower is known to have.

    ``read_round`` counts the confirmations of leadership that reads wait for; it rises within a term.
    """

    sender: NodeId
    to: NodeId
    term: Term
    commit: Index
    read_round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatResponse:
    """The sender follows; echoes the round."""

    sender: NodeId
    to: NodeId
    term: Term
    read_round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitNotice:
    """Everything up to ``commit`` is committed; goes to a follower that was sent all of it.

    There is no answer: it could only repeat what another says, and heartbeats make good a loss.
    """

    sender: NodeId
    to: NodeId
    term: Term
    commit: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSnapshot:
    """Replace your state and log by this; answered with an AppendResponse (thesis 5)."""

    sender: NodeId
    to: NodeId
    term: Term
    snapshot: SnapshotMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNow:
    """Campaign at once: leadership is yours to take (thesis 3.10)."""

    sender: NodeId
    to: NodeId
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadIndexRequest:
    """A follower's read (thesis 6.4); ``context`` is the follower's and comes back to it."""

    sender: NodeId
    to: NodeId
    term: Term
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadIndexResponse:
    """The read may be served once ``index`` is applied."""

    sender: NodeId
    to: NodeId
    term: Term
    context: int
    index: Index


Message: TypeAlias = (
    PreVoteRequest
    | PreVoteResponse
    | VoteRequest
    | VoteResponse
    | AppendRequest
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | CommitNotice
    | InstallSnapshot
    | TimeoutNow
    | ReadIndexRequest
    | ReadIndexResponse
)
