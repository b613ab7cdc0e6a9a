"""Values of the raft rules: entries, states, configurations, events in, effects out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, unique
from typing import TYPE_CHECKING, NewType, TypeAlias

if TYPE_CHECKING:
    from coord_server.raft.membership import ConfigChange, Membership
    from coord_server.raft.messages import Message

Term = NewType("Term", int)
Index = NewType("Index", int)
NodeId = NewType("NodeId", int)

# No vote, no leader. Member ids are never 0.
NOBODY = NodeId(0)


class ProposalDropped(Exception):
    """The proposal was not taken; nothing happened. The text says why."""


@unique
class EntryKind(IntEnum):
    """What an entry's data is; the numbers are part of the log's format on disk."""

    NORMAL = 0  # operations for apply; empty data is the entry that opens a leadership
    CONFIG = 1  # a change of the voters: ``membership.encode_change``


@dataclass(frozen=True, slots=True)
class Entry:
    """A place in the log. Index counts from 1; two logs that agree on (index, term) agree up to it."""

    term: Term
    index: Index
    kind: EntryKind
    data: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What a member must not forget. ``commit`` on disk is a lower bound: it is not synced for itself."""

    term: Term = Term(0)
    vote: NodeId = NOBODY
    commit: Index = Index(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMeta:
    """What a snapshot covers: everything up to (index, term), and the membership in force there."""

    index: Index
    term: Term
    membership: Membership


@unique
class Role(Enum):
    """What a member does in its term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftState:
    """Who leads, as far as this member knows; lost in a crash."""

    role: Role
    leader: NodeId
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Who takes part, how patient they are, and what they may keep under way.

    ``membership`` is the one in force where the log's applied part ends. It is empty for a newcomer,
    whose state begins with a snapshot from the leader that was told to add it.
    """

    node_id: NodeId
    membership: Membership
    election_ticks: int = 10
    """Silence, in ticks, after which a follower may campaign; at least twice ``heartbeat_ticks``."""
    heartbeat_ticks: int = 1
    pre_vote: bool = True
    check_quorum: bool = True
    max_append_bytes: int = 1 << 20
    """Entries of one append message, unless a single entry is larger (etcd: 1 MiB)."""
    max_inflight: int = 512
    """Append messages that a follower may have unanswered (etcd: 512)."""
    max_uncommitted_bytes: int = 256 << 20
    """Proposals beyond this much uncommitted data are dropped; an empty log always takes one."""
    max_committed_bytes: int = 256 << 10
    """Committed entries that a step hands out, unless a single entry is larger.

    A quarter of etcd's: a mebibyte of tiny operations takes 0.2 s, and that is two heartbeats.
    """


# Events.


@dataclass(frozen=True, slots=True)
class Tick:
    """The clock moved on by one tick.

    ``jitter`` is a fresh draw of ``[0, election_ticks)``: an election timer that is reset before the
    next tick runs for ``election_ticks + jitter`` (thesis 3.4).
    """

    jitter: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """A message arrived. An InstallSnapshot arrives when its content is here, whole and verified."""

    message: Message


@dataclass(frozen=True, slots=True)
class Proposed:
    """Data to be appended as one entry. Only for a leader; others raise ProposalDropped."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ConfigProposed:
    """A change of membership to be appended, with what the appliers need to know of it.

    Raises ProposalDropped where the rules forbid it now (thesis 4.1, 4.3).
    """

    change: ConfigChange
    context: bytes = b""


@dataclass(frozen=True, slots=True)
class ConfigApplied:
    """The committed CONFIG entry at ``index`` was applied; ``change`` is None if it was refused there."""

    index: Index
    change: ConfigChange | None


@dataclass(frozen=True, slots=True)
class PartApplied:
    """The committed entries are applied that came with ``Effects.more``: the next ones may come."""


@dataclass(frozen=True, slots=True)
class Persisted:
    """A ``Persist`` is durable, and all before it. Echoes its three numbers."""

    index: Index
    last_term: Term
    term: Term


@dataclass(frozen=True, slots=True)
class ReadRequested:
    """Somebody wants to read linearizably; ``context`` returns in a ReadReady and is never reused.

    Nothing returns if the leader is unknown or is lost meanwhile: ask again with a new context.
    """

    context: int


@dataclass(frozen=True, slots=True)
class LeaderLost:
    """The connection to ``node`` was reset. If it leads, the follower campaigns at once, with pre-vote."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Messages to ``node`` were lost: probe before sending more."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class SnapshotSent:
    """The transfer of a snapshot to ``node`` ended without success; try again later."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class TransferRequested:
    """Leadership is to move to ``node`` (thesis 3.10). Raises ProposalDropped if that cannot be."""

    node: NodeId


Event: TypeAlias = (
    Tick
    | Received
    | Proposed
    | ConfigProposed
    | ConfigApplied
    | PartApplied
    | Persisted
    | ReadRequested
    | LeaderLost
    | Unreachable
    | SnapshotSent
    | TransferRequested
)


# Effects.


@dataclass(frozen=True, slots=True)
class Persist:
    """What must reach the disk, in one piece, before Persisted(index, last_term, term) comes back.

    ``hard_state`` is None if unchanged. ``snapshot``, if any, comes before the entries: the log restarts
    behind it. Entries replace what the disk has from their first index on. ``index`` and ``last_term``
    are of the last entry of the log, ``term`` is the member's term, with this written.
    """

    hard_state: HardState | None
    entries: tuple[Entry, ...]
    index: Index
    last_term: Term
    term: Term
    snapshot: SnapshotMeta | None = None


@dataclass(frozen=True, slots=True)
class ReadReady:
    """The read ``context`` may be served as soon as ``index`` is applied."""

    context: int
    index: Index


@dataclass(frozen=True, slots=True)
class Effects:
    """What a step asks of the world. See the room's essay for the two outboxes.

    ``send_after_persist`` may go when everything is durable that this step and all earlier ones gave to
    persist, also if this step gives nothing.
    ``install`` is a snapshot that replaces the state, before anything else of this step is done; the
    log behind it is in ``persist``.
    ``committed`` entries come in order, each exactly once per life of the core, and are durable here.
    ``more`` says that others are left for the sake of whoever applies them: they come after PartApplied,
    and until then no step has any.
    ``snapshots`` are the members that need the state itself, since the log no longer has what they lack.
    ``status`` is set when role, leader or term changed.
    """

    persist: Persist | None = None
    send: tuple[Message, ...] = ()
    send_after_persist: tuple[Message, ...] = ()
    install: SnapshotMeta | None = None
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadReady, ...] = ()
    snapshots: tuple[NodeId, ...] = ()
    status: SoftState | None = None
    more: bool = False


NOTHING = Effects()
