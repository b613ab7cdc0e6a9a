"""Raft: how members agree on one log. Rules only.

The problem. Several members hold a copy of a log; any of them may crash and come back, messages may
be late, lost or doubled. Entries that were once reported committed must stay, in their place, for
ever. (Ongaro, "Consensus: Bridging Theory and Practice", 2014; sections are cited as "thesis 3.4".)

The shape. ``RaftCore.step(event)`` takes one event (a tick, a message, a proposal, the news that
something is on disk, a read) and returns ``Effects``: what to write, what to send, what is committed.
It never waits, never looks at a clock and never draws a number. Messages leave in two outboxes:
``send`` may go at once, beside the disk write; ``send_after_persist`` promises something about the
disk, such as a vote, and may go only once that step's ``persist`` is durable.

Vocabulary. *Term*: numbers the leaderships, at most one leader each. *Vote*: whom this member chose
in its term. *Entry*: a place in the log with the term of the leader that made it. *Commit index*:
up to where the log can no longer change. *Hard state*: term, vote and commit index, which survive a
crash. *Read index*: the commit index at which a linearizable read is served (thesis 6.4).

Invariants.

1. Term, commit index and the log up to it never go back, also over restarts.
2. A member counts its own vote and its own copy only after they are durable.
3. A leader commits by counting copies only entries of its own term (thesis 3.6.2); what came before
   is committed with them. Hence the empty entry at the start of each leadership.
4. A read index is handed out only after an entry of the leader's own term is committed.

5. One change of membership at a time, in force when it is applied; nobody campaigns with a committed
   one unapplied. So any two quorums that can exist at the same time have a member in common.
6. An acknowledgement, like a vote, leaves only when what it speaks of is durable.

Rooms within. ``types``, ``messages``, ``membership``: values. ``log``, ``quorum``: what is asked of them.
``member``: the state that all roles share; ``outbox``: what a step asks for. ``election``, ``follower``,
``leader``: the rules by role; ``replication``, ``progress``, ``reads``: a leader's dealings with the others.
``core``: which rule an event meets, and the changes of role.

Left out: what entries mean, where they are stored, how messages travel, when a tick happens.
"""

from coord_server.raft.core import RaftCore
from coord_server.raft.log import RaftLog
from coord_server.raft.membership import (
    BadChange,
    ChangeKind,
    ChangeStep,
    ConfigChange,
    Membership,
    decode_change,
    encode_change,
)
from coord_server.raft.messages import (
    AppendRequest,
    AppendResponse,
    CommitNotice,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVoteRequest,
    PreVoteResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from coord_server.raft.progress import ProgressState, ProgressView
from coord_server.raft.types import (
    NOBODY,
    ConfigApplied,
    ConfigProposed,
    Effects,
    Entry,
    EntryKind,
    Event,
    HardState,
    Index,
    LeaderLost,
    NodeId,
    PartApplied,
    Persist,
    Persisted,
    ProposalDropped,
    Proposed,
    RaftConfig,
    ReadReady,
    ReadRequested,
    Received,
    Role,
    SnapshotMeta,
    SnapshotSent,
    SoftState,
    Term,
    Tick,
    TransferRequested,
    Unreachable,
)

__all__ = [
    "NOBODY",
    "AppendRequest",
    "AppendResponse",
    "BadChange",
    "ChangeKind",
    "ChangeStep",
    "CommitNotice",
    "ConfigApplied",
    "ConfigChange",
    "ConfigProposed",
    "Effects",
    "Entry",
    "EntryKind",
    "Event",
    "HardState",
    "Heartbeat",
    "HeartbeatResponse",
    "Index",
    "InstallSnapshot",
    "LeaderLost",
    "Membership",
    "Message",
    "NodeId",
    "PartApplied",
    "Persist",
    "Persisted",
    "PreVoteRequest",
    "PreVoteResponse",
    "ProgressState",
    "ProgressView",
    "ProposalDropped",
    "Proposed",
    "RaftConfig",
    "RaftCore",
    "RaftLog",
    "ReadIndexRequest",
    "ReadIndexResponse",
    "ReadReady",
    "ReadRequested",
    "Received",
    "Role",
    "SnapshotMeta",
    "SnapshotSent",
    "SoftState",
    "Term",
    "Tick",
    "TimeoutNow",
    "TransferRequested",
    "Unreachable",
    "VoteRequest",
    "VoteResponse",
    "decode_change",
    "encode_change",
]
