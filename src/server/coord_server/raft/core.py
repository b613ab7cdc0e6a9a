"""One member of the cluster, as a function from events to effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from coord.runtime.invariants import invariant
from coord_server.raft import follower
from coord_server.raft.election import (
    Candidacy,
    Outcome,
    answer_pre_vote,
    answer_vote,
    learn_commit,
)
from coord_server.raft.leader import Leadership
from coord_server.raft.member import Member
from coord_server.raft.messages import (
    AppendRequest,
    AppendResponse,
    CommitNotice,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PreVoteRequest,
    PreVoteResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from coord_server.raft.progress import ProgressState, ProgressView
from coord_server.raft.reads import Asker
from coord_server.raft.types import (
    NOBODY,
    ConfigApplied,
    ConfigProposed,
    Effects,
    Event,
    HardState,
    Index,
    LeaderLost,
    NodeId,
    PartApplied,
    Persisted,
    ProposalDropped,
    Proposed,
    RaftConfig,
    ReadReady,
    ReadRequested,
    Received,
    Role,
    SnapshotSent,
    Term,
    Tick,
    TransferRequested,
    Unreachable,
)

if TYPE_CHECKING:
    from coord_server.raft.log import RaftLog
    from coord_server.raft.membership import Membership
    from coord_server.raft.messages import Message

# Reads that a follower has asked its leader for, or that wait for the first leadership. The oldest
# are forgotten beyond that; whoever asked for them asks again.
_MAX_ASKED: Final = 1024


class RaftCore:
    """The rules of one member. Everything that it needs of the past comes in, nothing is read.

    ``hard_state`` and ``log`` are what the disk holds: every entry of ``log`` is durable. ``applied``
    is how far the state is, by default up to the log's base, and ``config.membership`` is the one in
    force there. The first step hands out the entries from there to ``hard_state.commit``. Entries
    beyond are undecided until a leadership commits or replaces them: after a crash of a single voter
    they may or may not have been answered, and committing them is right for both.
    """

    __slots__ = ("_asked", "_candidacy", "_leadership", "_member")

    def __init__(
        self,
        config: RaftConfig,
        hard_state: HardState,
        log: RaftLog,
        *,
        applied: Index | None = None,
    ) -> None:
        self._member = Member(
            config, hard_state, log, log.base_index if applied is None else applied
        )
        self._leadership: Leadership | None = None
        self._candidacy: Candidacy | None = None
        # Contexts of reads without an answer; a dict, since it keeps their order.
        self._asked: dict[int, None] = {}

    # What others may know.

    @property
    def node_id(self) -> NodeId:
        """The id of this member."""
        return self._member.me

    @property
    def term(self) -> Term:
        """The current term."""
        return self._member.term

    @property
    def role(self) -> Role:
        """What this member does at present."""
        return self._member.role

    @property
    def leader(self) -> NodeId:
        """Who leads the current term; 0 if unknown."""
        return self._member.leader

    @property
    def commit_index(self) -> Index:
        """Up to where the log can no longer change."""
        return self._member.commit

    @property
    def last_index(self) -> Index:
        """The last index of the log, durable or not."""
        return self._member.log.last_index

    @property
    def first_index(self) -> Index:
        """The lowest index whose entry is in memory, or would be; what is before it was compacted."""
        return Index(self._member.log.base_index + 1)

    @property
    def commits_own_term(self) -> bool:
        """Whether an entry of the current term is committed, so that reads may be served (thesis 6.4)."""
        return self._member.commits_own_term

    @property
    def membership(self) -> Membership:
        """The membership in force: as of the last applied change, or the last snapshot."""
        return self._member.membership

    @property
    def pending_config(self) -> bool:
        """Whether the log holds a change of membership that is not applied yet."""
        return bool(self._member.pending_changes)

    @property
    def transfer_target(self) -> NodeId:
        """To whom this leader is handing over, 0 if to nobody. Proposals are dropped meanwhile."""
        return self._leadership.transfer_to if self._leadership is not None else NOBODY

    @property
    def progress(self) -> dict[NodeId, ProgressView]:
        """How far each member is, as this leader knows; empty for anybody else."""
        if self._leadership is None:
            return {}
        member = self._member
        views = {node: p.view() for node, p in self._leadership.replication.progress.items()}
        views[member.me] = ProgressView(
            match=member.durable,
            next=Index(member.log.last_index + 1),
            state=ProgressState.REPLICATE,
            recent_active=True,
        )
        return views

    def term_at(self, index: Index) -> Term | None:
        """Return the term of the entry at ``index``; None if that is compacted, or not there yet."""
        return self._member.log.term_at(index)

    def compact(self, index: Index) -> None:
        """Forget the entries up to ``index`` in memory; only what was handed out as committed may go."""
        invariant(index <= self._member.out.handed_out, "only applied entries leave the log")
        self._member.log.compact(index)

    # Events.

    def step(self, event: Event) -> Effects:
        """Take one event and return what it asks for. Raises ProposalDropped, having changed nothing."""
        match event:
            case Persisted():
                self._persisted(event)
            case Proposed():
                self._lead_or_drop().propose(event.data)
            case Received():
                self._receive(event.message)
            case Tick():
                self._tick(event.jitter)
            case ReadRequested():
                self._read(event.context)
            case ConfigProposed():
                self._lead_or_drop().propose_change(event.change, event.context)
            case ConfigApplied():
                self._config_applied(event)
            case PartApplied():
                self._member.out.is_holding = False
            case TransferRequested():
                self._lead_or_drop().transfer(event.node)
            case LeaderLost():
                self._leader_lost(event.node)
            case Unreachable():
                if self._leadership is not None:
                    self._leadership.unreachable(event.node)
            case SnapshotSent():
                if self._leadership is not None:
                    self._leadership.snapshot_failed(event.node)
            case _:
                assert_never(event)
        return self._member.out.take(self._member)

    def _lead_or_drop(self) -> Leadership:
        if self._leadership is None:
            raise ProposalDropped("this member does not lead")
        return self._leadership

    def _tick(self, jitter: int) -> None:
        member = self._member
        if member.jitter < 0:
            # The first: until now there was nothing to make this member's patience differ.
            member.timeout = member.config.election_ticks + jitter
        member.jitter = jitter
        if self._leadership is not None:
            if not self._leadership.tick():
                self._follow(NOBODY)
            return
        if self._candidacy is not None and not self._candidacy.has_own_vote:
            # Nobody was asked yet. A slow disk would only drive the term up.
            return
        member.elapsed += 1
        if member.elapsed >= member.timeout or member.alone:
            # With nobody else there is no silence to wait for either.
            self._time_out()

    def _leader_lost(self, node: NodeId) -> None:
        """Take the leader for dead: its connection broke, and a live one would keep it.

        If it lives after all, the others still hear it, refuse the pre-vote, and it goes on.
        """
        member = self._member
        if member.role is Role.FOLLOWER and member.leader == node and node != NOBODY:
            self._time_out()

    def _persisted(self, event: Persisted) -> None:
        member = self._member
        if not member.persisted(event):
            return
        if self._leadership is not None:
            # A leader's log only grows.
            invariant(event.index <= member.log.last_index, "what is durable was handed out")
            self._leadership.persisted()
        elif self._candidacy is not None and not self._candidacy.has_own_vote:
            # The term and with it the vote are durable, so the vote counts.
            self._count(self._candidacy, member.me, granted=True)

    def _config_applied(self, event: ConfigApplied) -> None:
        member = self._member
        if event.index <= member.log.base_index:
            return  # a snapshot went beyond it, and brought the membership
        invariant(
            member.pending_changes[:1] == [event.index] and event.index <= member.commit,
            "changes of membership are applied in the log's order",
        )
        del member.pending_changes[0]
        if event.change is not None:
            member.set_membership(member.membership.changed(event.change))
        if self._leadership is None:
            return
        if member.me in member.membership.all_voters:
            self._leadership.config_applied()
        else:
            # It led only to commit its own removal (thesis 4.2.2).
            self._follow(NOBODY)

    def _read(self, context: int) -> None:
        member = self._member
        if self._leadership is not None:
            self._leadership.read(Asker(member.me, context))
            return
        if member.leader == NOBODY and not member.alone:
            return
        while len(self._asked) >= _MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self._asked[context] = None
        # A member that is alone will lead in a moment, and nobody else can: its reads wait for that.
        if member.leader != NOBODY:
            member.out.send.append(
                ReadIndexRequest(
                    sender=member.me, to=member.leader, term=member.term, context=context
                )
            )

    # Roles.

    def _follow(self, leader: NodeId) -> None:
        """Be a follower from here on. Whatever this member did as leader or candidate is over."""
        member = self._member
        self._leadership = self._candidacy = None
        if not member.alone:
            self._asked.clear()
        if member.role is not Role.FOLLOWER or leader != NOBODY:
            # A follower that merely enters a later term has still not heard of a leader: somebody
            # who can't win must not keep those waiting who can.
            member.reset_timer()
        member.role = Role.FOLLOWER
        member.leader = leader

    def _time_out(self) -> None:
        """Nobody leads, as far as this member can tell."""
        member = self._member
        if not member.may_campaign():
            member.leader = NOBODY
        elif member.config.pre_vote and not member.alone:
            self._begin_pre_vote()
        else:
            self._campaign(is_transfer=False)

    def _begin_pre_vote(self) -> None:
        self._follow(NOBODY)
        self._member.reset_timer()
        self._member.role = Role.PRE_CANDIDATE
        self._candidacy = Candidacy(self._member, is_pre_vote=True)
        self._candidacy.ask()
        self._count(self._candidacy, self._member.me, granted=True)

    def _campaign(self, *, is_transfer: bool) -> None:
        member = self._member
        self._follow(NOBODY)
        member.reset_timer()
        member.enter_term(Term(member.term + 1))
        member.vote_for(member.me)
        member.role = Role.CANDIDATE
        # Our own vote is counted when it is durable: see _persisted.
        self._candidacy = Candidacy(member, is_pre_vote=False, is_transfer=is_transfer)
        self._candidacy.ask()

    def _count(self, candidacy: Candidacy, node: NodeId, *, granted: bool) -> None:
        match candidacy.count(node, granted=granted):
            case Outcome.WON if candidacy.is_pre_vote:
                self._campaign(is_transfer=False)
            case Outcome.WON:
                self._lead()
            case Outcome.LOST:
                self._follow(NOBODY)
            case Outcome.OPEN:
                pass

    def _lead(self) -> None:
        member = self._member
        invariant(member.role is Role.CANDIDATE, "only a candidate becomes leader")
        asked = tuple(self._asked)
        self._asked.clear()
        self._follow(member.me)
        member.role = Role.LEADER
        self._leadership = Leadership(member)
        self._leadership.start()
        for context in asked:
            self._leadership.read(Asker(member.me, context))

    # Messages.

    def _receive(self, message: Message) -> None:
        member = self._member
        if message.to != member.me or message.sender in {member.me, NOBODY}:
            return
        if message.term > member.term:
            if not self._admits(message):
                return
        elif message.term < member.term:
            self._answer_earlier_term(message)
            return
        match message:
            case AppendRequest() | Heartbeat() | CommitNotice() | InstallSnapshot():
                if self._heard_leader(message.sender):
                    self._take_from_leader(message)
            case AppendResponse():
                if self._leadership is not None and message.sender in member.members:
                    self._leadership.append_answered(message)
            case HeartbeatResponse():
                if self._leadership is not None and message.sender in member.members:
                    self._leadership.heartbeat_answered(message)
            case PreVoteRequest():
                answer_pre_vote(member, message)
            case VoteRequest():
                answer_vote(member, message)
            case _:
                self._receive_answer(message)

    def _take_from_leader(
        self, message: AppendRequest | Heartbeat | CommitNotice | InstallSnapshot
    ) -> None:
        match message:
            case AppendRequest():
                follower.take_append(self._member, message)
            case Heartbeat():
                follower.take_heartbeat(self._member, message)
            case CommitNotice():
                follower.take_commit(self._member, message)
            case InstallSnapshot():
                follower.take_snapshot(self._member, message)
            case _:
                assert_never(message)

    def _receive_answer(
        self,
        message: PreVoteResponse | VoteResponse | TimeoutNow | ReadIndexRequest | ReadIndexResponse,
    ) -> None:
        member = self._member
        match message:
            case VoteResponse() | PreVoteResponse():
                self._take_vote(message)
            case TimeoutNow():
                self._take_over(message.sender)
            case ReadIndexRequest():
                if self._leadership is not None and message.sender in member.members:
                    self._leadership.read(Asker(message.sender, message.context))
            case ReadIndexResponse():
                if message.context in self._asked and message.sender == member.leader:
                    del self._asked[message.context]
                    member.out.reads.append(ReadReady(message.context, message.index))
            case _:
                assert_never(message)

    def _admits(self, message: Message) -> bool:
        """Enter the later term of a message, if it has the right to move us; return whether to go on."""
        member = self._member
        match message:
            case PreVoteRequest():
                # Only a question; nobody is in that term yet.
                return not member.sticks_to_leader()
            case PreVoteResponse(granted=True):
                return True  # its term is the one that we asked for
            case VoteRequest():
                # A member that does not hear the leader, or was removed and does not know, must not
                # depose a leader that works (thesis 4.2.3). Its leader's wish is another matter.
                if member.sticks_to_leader() and not message.is_transfer:
                    return False
            case AppendRequest() | Heartbeat() | CommitNotice() | InstallSnapshot():
                # From a leader that we may not know as a member: the change that adds it may be
                # what it sends.
                pass
            case _:
                # Answers and requests come from members. A removed one must not disturb.
                if message.sender not in member.members:
                    return False
        member.enter_term(message.term)
        self._follow(NOBODY)
        return True

    def _answer_earlier_term(self, message: Message) -> None:
        member = self._member
        match message:
            case AppendRequest() | Heartbeat() | CommitNotice() | InstallSnapshot():
                if member.config.check_quorum or member.config.pre_vote:
                    follower.accept_later_term(member, message.sender)
            case PreVoteRequest():
                answer_pre_vote(member, message)
            case _:
                pass  # late: it says nothing about this term

    def _heard_leader(self, sender: NodeId) -> bool:
        """Follow the leader of this term; return False if it can't be that."""
        member = self._member
        if self._leadership is not None or member.leader not in {NOBODY, sender}:
            return False  # a term has one leader: the sender is mad
        if member.role is Role.FOLLOWER and member.leader == sender:
            member.reset_timer()
        else:
            self._follow(sender)
        return True

    def _take_vote(self, message: VoteResponse | PreVoteResponse) -> None:
        member, candidacy = self._member, self._candidacy
        if not message.granted and self._leadership is None:
            # A leader finds out by itself, and has to: only an entry of its own term counts.
            learn_commit(member, message)
        if candidacy is None:
            return
        if not member.may_campaign():
            # What was just learned is a change of membership: first that.
            self._follow(NOBODY)
            return
        is_pre_vote = isinstance(message, PreVoteResponse)
        asked = member.term + 1 if is_pre_vote and message.granted else member.term
        if is_pre_vote == candidacy.is_pre_vote and message.term == asked:
            self._count(candidacy, message.sender, granted=message.granted)

    def _take_over(self, leader: NodeId) -> None:
        """Campaign because the leader wishes it: without pre-vote, it would be refused (thesis 3.10)."""
        member = self._member
        if (
            member.role is Role.FOLLOWER
            and leader in member.members
            and member.leader in {leader, NOBODY}
            and member.may_campaign()
        ):
            self._campaign(is_transfer=True)
