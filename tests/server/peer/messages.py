"""Every message that members exchange, as hypothesis strategies."""

from __future__ import annotations

from hypothesis import strategies as st

from coord_server.peer.packet import (
    Forward,
    ForwardRefused,
    PeerMessage,
    SnapshotDone,
    SnapshotOffer,
)
from coord_server.raft import (
    AppendRequest,
    AppendResponse,
    CommitNotice,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Index,
    InstallSnapshot,
    Membership,
    Message,
    NodeId,
    PreVoteRequest,
    PreVoteResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    SnapshotMeta,
    Term,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)

NUMBERS = st.integers(0, (1 << 64) - 1)
NODES = NUMBERS.map(NodeId)
TERMS = NUMBERS.map(Term)
INDICES = NUMBERS.map(Index)


@st.composite
def memberships(draw: st.DrawFn) -> Membership:
    nodes = sorted(draw(st.sets(NODES, max_size=12)))
    parts = [draw(st.integers(0, 4)) for _ in nodes]

    def of(*wanted: int) -> tuple[NodeId, ...]:
        return tuple(node for node, part in zip(nodes, parts, strict=True) if part in wanted)

    # Part 1 votes on both sides of a joint membership, part 4 becomes a learner when that ends.
    return Membership(voters=of(0, 1), outgoing=of(1, 2, 4), learners=of(3), learners_next=of(4))


METAS = st.builds(SnapshotMeta, index=INDICES, term=TERMS, membership=memberships())


@st.composite
def appends(draw: st.DrawFn) -> AppendRequest:
    start = draw(st.integers(0, 1 << 63))
    bodies = draw(st.lists(st.tuples(TERMS, st.sampled_from(EntryKind), st.binary()), max_size=6))
    entries = tuple(
        Entry(term, Index(start + 1 + n), kind, data) for n, (term, kind, data) in enumerate(bodies)
    )
    return AppendRequest(
        sender=draw(NODES),
        to=draw(NODES),
        term=draw(TERMS),
        prev_index=Index(start),
        prev_term=draw(TERMS),
        entries=entries,
        commit=draw(INDICES),
    )


INSTALLS = st.builds(InstallSnapshot, sender=NODES, to=NODES, term=TERMS, snapshot=METAS)
ENDS = {"sender": NODES, "to": NODES, "term": TERMS}
LOG_END = {"last_index": INDICES, "last_term": TERMS}
VERDICT = {"granted": st.booleans(), "commit": INDICES, "commit_term": TERMS}
RAFT_KINDS: dict[type, st.SearchStrategy[Message]] = {
    PreVoteRequest: st.builds(PreVoteRequest, **ENDS, **LOG_END),
    PreVoteResponse: st.builds(PreVoteResponse, **ENDS, **VERDICT),
    VoteRequest: st.builds(VoteRequest, **ENDS, **LOG_END, is_transfer=st.booleans()),
    VoteResponse: st.builds(VoteResponse, **ENDS, **VERDICT),
    AppendRequest: appends(),
    AppendResponse: st.builds(
        AppendResponse,
        **ENDS,
        index=INDICES,
        rejected=st.booleans(),
        hint_index=INDICES,
        hint_term=TERMS,
    ),
    Heartbeat: st.builds(Heartbeat, **ENDS, commit=INDICES, read_round=NUMBERS),
    HeartbeatResponse: st.builds(HeartbeatResponse, **ENDS, read_round=NUMBERS),
    CommitNotice: st.builds(CommitNotice, **ENDS, commit=INDICES),
    InstallSnapshot: INSTALLS,
    TimeoutNow: st.builds(TimeoutNow, **ENDS),
    ReadIndexRequest: st.builds(ReadIndexRequest, **ENDS, context=NUMBERS),
    ReadIndexResponse: st.builds(ReadIndexResponse, **ENDS, context=NUMBERS, index=INDICES),
}
KINDS: dict[type, st.SearchStrategy[PeerMessage]] = {
    **RAFT_KINDS,
    Forward: st.builds(Forward, NUMBERS, st.binary()),
    ForwardRefused: st.builds(ForwardRefused, NUMBERS, st.integers(0, (1 << 32) - 1), st.text()),
    SnapshotOffer: st.builds(
        SnapshotOffer, INSTALLS, NUMBERS, NUMBERS, st.binary(min_size=32, max_size=32)
    ),
    SnapshotDone: st.builds(SnapshotDone, NUMBERS, st.booleans(), st.text()),
}
MESSAGES: st.SearchStrategy[Message] = st.one_of(list(RAFT_KINDS.values()))
EVERYTHING: st.SearchStrategy[PeerMessage] = st.one_of(list(KINDS.values()))
