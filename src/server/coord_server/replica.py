"""The loop of a member: proposals into raft, its effects into the log, the state and the answers.

A turn of the event loop collects every operation that waits into one log entry. The entry is written
(`LogWriter`), raft says what that commits, the `Applier` turns it into answers and events, and all of
them leave together. Nothing is answered, and no watcher hears of anything, before it is durable on a
quorum and applied here. A follower hands its operations to the leader (`Forwarding`) and answers them
when it applies them itself.

The backend lags behind: the `Flusher` writes what was applied every 100 ms or 10,000 operations, and
after a crash the log replays the rest. When anything fails that the rules do not foresee (a sync, a
checksum, an invariant), the replica goes silent and reports once: a wrong answer is worse than none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.runtime import InvariantViolation, Supervisor, invariant
from coord_server import errors
from coord_server.applying import Applying
from coord_server.chores import Chores
from coord_server.config_changes import ConfigChanges
from coord_server.delivery import Delivery
from coord_server.departure import heir_of, removed_by
from coord_server.errors import Refused
from coord_server.flusher import Flusher
from coord_server.forwarding import Forwarding
from coord_server.log_writer import LogWriter
from coord_server.peers import NoPeers
from coord_server.proposals import Awaited, Proposals
from coord_server.raft import (
    NOBODY,
    Effects,
    LeaderLost,
    Persist,
    Persisted,
    ProposalDropped,
    Proposed,
    RaftCore,
    Received,
    Role,
    SoftState,
    Tick,
    TransferRequested,
    Unreachable,
)
from coord_server.reading import Reading
from coord_server.replica_bounds import FRESH_TICKS, READ_RETRY_S, ReplicaBounds, wait_after_reset
from coord_server.replica_view import ReplicaView
from coord_server.state_replacement import StateReplacement
from coord_server.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.rpc.service import Responder
    from coord_server.apply import Applier
    from coord_server.env import ServerEnv
    from coord_server.errors import ErrorSpec
    from coord_server.installation import Installation
    from coord_server.mvcc.hub import WatchHub
    from coord_server.mvcc.prepared import Prepared
    from coord_server.peers import Peers
    from coord_server.raft import (
        ConfigApplied,
        ConfigChange,
        Event,
        InstallSnapshot,
        Message,
        NodeId,
        SnapshotMeta,
    )
    from coord_server.replica_bounds import Settings
    from coord_server.storage.backend import Backend
    from coord_server.storage.wal import Wal


class Replica(ReplicaView):
    """One member's loop. Everything happens on the event loop that ran `start`.

    ``on_fatal(exception)`` is called once, after which nothing is answered. The owner closes log and
    backend after `stop`.
    """

    def __init__(
        self,
        *,
        core: RaftCore,
        wal: Wal,
        applier: Applier,
        hub: WatchHub,
        backend: Backend,
        env: ServerEnv,
        config: Settings,
        on_fatal: Callable[[BaseException], None],
        bounds: ReplicaBounds | None = None,
        peers: Peers | None = None,
        installation: Installation | None = None,
        incarnation: int = 0,
    ) -> None:
        bounds = bounds if bounds is not None else ReplicaBounds()
        self.hub = hub
        self._clock = env.clock
        self._rand = env.rand
        self._config = config
        self._bounds = bounds
        self._on_fatal = on_fatal
        self._peers: Peers = NoPeers() if peers is None else peers
        self._supervisor = Supervisor(lambda _, error: self._die(error))
        writer = LogWriter(
            wal,
            clock=env.clock,
            offload=env.offload,
            supervisor=self._supervisor,
            peers=self._peers,
            written=self._written,
            inline_limit_s=bounds.inline_sync_s,
        )
        super().__init__(core, applier, writer)
        self._flusher = Flusher(
            applier=applier,
            backend=backend,
            wal=wal,
            disk=env.disk,
            offload=env.offload,
            supervisor=self._supervisor,
            flushed=self._flushed,
        )
        self._proposals = Proposals(
            max_ops=bounds.max_queued_ops, max_bytes=bounds.max_queued_bytes
        )
        self._forwarding = Forwarding(
            self._peers, member_id=self.member_id, incarnation=incarnation
        )
        self._changes = ConfigChanges(core, self._carry_or_die)
        self._reads = Reading(core, self.step, incarnation=incarnation)
        self._chores = Chores(
            self.store,
            hub,
            sweep_keys=bounds.compaction_step,
            sweep_pause_s=bounds.compaction_pause_s,
            catch_up_events=bounds.catch_up_events,
            failed=self._die,
        )
        self._delivery = Delivery(applier, hub, forwarding=self._forwarding, changes=self._changes)
        path = (core, applier, self._delivery, self._flusher, bounds)
        self._applying = Applying(*path, changed=self._membership_applied, asked=self.step)
        self._turns = Turns(
            core,
            proposals=self._proposals,
            forwarding=self._forwarding,
            delivery=self._delivery,
            bounds=bounds,
        )
        parts = (applier, hub, self._delivery, self._flusher, env.offload)
        self._replacement = None if installation is None else StateReplacement(installation, *parts)
        self._set_rhythm(config, bounds)
        self._set_idle()

    def _set_rhythm(self, config: Settings, bounds: ReplicaBounds) -> None:
        self._timeout_ticks = max(1, round(config.request_timeout_s / bounds.tick_s))
        self._retry_ticks = max(1, round(READ_RETRY_S / bounds.tick_s))
        self._election_ticks = max(1, round(config.election_timeout_s / bounds.tick_s))
        self._ticks = 0
        # Until then, in monotonic seconds, this loop has not slept through its own demise.
        self.fresh_until: float = 0.0
        self._tickers: list[Callable[[float], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next_tick = 0.0

    def _set_idle(self) -> None:
        # Set while nothing may be proposed; None while all is well.
        self._refusal: ErrorSpec | None = errors.STOPPED
        self._failure: BaseException | None = None
        self._armed = False
        # Leads, has an entry of its own term committed, and has applied all that was committed then.
        self._leads = False
        # The same as the only voter: once all is applied, a read is served without asking anybody.
        self._readable = False
        self._lagging = False
        self._started = asyncio.Event()

    # Life.

    async def start(self) -> None:
        """Replay the log, find or become the leader, and return when reads and writes can be served.

        Raises what stopped the replica if that happened meanwhile. Waits for as long as there is no
        quorum; cancelled, the replica runs on and must be stopped.
        """
        invariant(self._loop is None, "a replica starts once")
        self._loop = asyncio.get_running_loop()
        self._chores.start()
        self._reads.start()
        self._applying.start(self._loop)
        self._refusal = None
        self._next_tick = self._loop.time()
        self._tick()
        self._await_service()
        await self._started.wait()
        if self._failure is not None:
            raise self._failure

    def _await_service(self) -> None:
        """Let `start` return once a linearizable read can be served; ask again until then."""
        if self._refusal is None and not self._started.is_set():
            self.when_readable(self._started.set, lambda _: self._await_service())

    async def stop(self) -> None:
        """Refuse what waits and, unless it failed, write all into the backend. May be called twice."""
        self._refusal = self._refusal or errors.STOPPED
        self._readable = self._leads = False
        if self._timer is not None:
            self._timer.cancel()
        self._chores.stop()
        if self._failure is None and self._loop is not None:
            self._proposals.fail_before(self._ticks, errors.STOPPED)
            self._reads.fail_before(self._ticks, errors.STOPPED)
            await self._finish_writing()
        await self._supervisor.close()
        self._loop = None

    def refuse_all(self) -> None:
        """Refuse what waits and what comes: there is nobody left to agree with."""
        self._refusal = self._refusal or errors.STOPPED
        self._fail_before(self._ticks, errors.STOPPED)

    async def _finish_writing(self) -> None:
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                await self._writer.wait_idle()
                await self._flusher.finish()
        except TimeoutError:
            pass  # a disk that hangs: the log has what was being written, or not; nobody was told
        self._fail_before(self._ticks, errors.STOPPED)

    def _die(self, error: BaseException) -> None:
        """Go silent for good and tell the owner."""
        if self._failure is not None:
            return
        self._failure = error
        self._refusal = errors.STOPPED
        self._readable = self._leads = False
        if self._timer is not None:
            self._timer.cancel()
        self._chores.stop()
        self._proposals.forget()
        self._forwarding.forget()
        self._changes.forget()
        self._reads.forget()
        self._delivery.forget()
        self._started.set()
        self._on_fatal(error)

    # What others ask.

    def add_ticker(self, run: Callable[[float], None]) -> None:
        """Call ``run(clock.mono())`` every tick, in the order of registration."""
        self._tickers.append(run)

    # Proposing.

    def propose(
        self,
        kind: int,
        payload: bytes,
        responder: Responder,
        stream_id: int,
        prepared: Prepared = None,
    ) -> None:
        """Put an operation into the next log entry; ``responder`` hears of the outcome once.

        ``prepared`` is what the caller has read of the payload. Nothing is answered after a failure
        of the node.
        """
        if self._refusal is not None:
            if self._failure is None:
                responder.fail(stream_id, self._refusal.code, self._refusal.message)
            return
        if self._lagging or not self._proposals.add(
            kind, payload, responder, stream_id, self._ticks, prepared
        ):
            spec = errors.TOO_MANY_REQUESTS
            responder.fail(stream_id, spec.code, spec.message)
        elif not self._armed:
            self._arm()

    async def submit(self, kind: int, payload: bytes) -> bytes:
        """Propose an operation and return its whole response. Raises RpcError.

        A cancelled call does not take the operation back.
        """
        waiter = Awaited(asyncio.get_running_loop().create_future())
        self.propose(kind, payload, waiter, 0)
        return await waiter.future

    async def flush(self) -> None:
        """Return when the backend durably holds everything that was applied before the call."""
        await self._flusher.reach(self.applier.applied_index)

    def _arm(self) -> None:
        if self._loop is not None and not self._armed:
            self._armed = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Make one entry of what waits, unless the last one is still on its way to the disk."""
        self._armed = False
        if self._refusal is not None or self._writer.busy or self._applying.is_ahead:
            return
        try:
            if self._core.role is Role.LEADER:
                effects = self._turns.propose()
                if effects is not None:
                    self._carry(effects)
            elif self._core.leader != NOBODY:
                self._turns.hand_over()
                if self._turns.wanted:
                    self._arm()
        except Exception as error:  # noqa: BLE001 - whatever it is, the state is unknown: stop
            self._die(error)

    # Effects.

    def _carry(self, effects: Effects) -> None:
        """Do what raft asks for, and what follows from it, as far as the disk is done with it."""
        self._take(effects)
        self._settle()

    def _settle(self) -> None:
        writer = self._writer
        while (done := writer.write()) is not None:
            self._take(self._core.step(Persisted(done.index, done.last_term, done.term)))
        if not self._leads:
            self._check_leads()
        self._reads.serve(self.applier.applied_index)
        self.hub.flush()
        self.lessor.settle(self._clock.mono())
        if not self._armed and self._turns.wanted:
            self._rearm()

    def _rearm(self) -> None:
        if not self._writer.busy and self._core.leader != NOBODY:
            self._arm()

    def _take(self, effects: Effects) -> None:
        """Do the part of a step that does not wait for the disk; queue the other."""
        if effects.status is not None:
            self._change_role(effects.status)
        if effects.send:
            # Before anything is applied: who is removed by that is no peer any more, and must hear of it.
            self._peers.send(effects.send)
        if effects.install is not None:
            self._replace_state(effects.install)
        if effects.persist is not None or effects.send_after_persist:
            self._writer.queue(effects.persist, effects.send_after_persist)
        if effects.committed:
            self._applying.take(effects)
        for read in effects.reads:
            self._reads.ready(read)
        for node in effects.snapshots:
            self._peers.offer_snapshot(node)

    def _replace_state(self, meta: SnapshotMeta) -> None:
        if self._replacement is None:
            raise InvariantViolation("a snapshot is installed only where one was prepared")
        self._replacement.replace(meta)
        self._applying.restart()

    def _written(self, persist: Persist) -> None:
        if self._failure is None:
            done = Persisted(persist.index, persist.last_term, persist.term)
            # At once: what else waits for the loop must not find a replica that goes on.
            self._carry_or_die(self._core.step(done))

    def _membership_applied(self, event: ConfigApplied) -> None:
        self._take(self._core.step(event))
        self._readable = self._leads and self._is_alone()

    def _change_role(self, status: SoftState) -> None:
        self._readable = self._leads = False
        if status.role is not Role.LEADER:
            if self.lessor.primary:
                self.lessor.demote()
            self._forwarding.step_down()
            self._changes.step_down()
        self._reads.leader_changed()

    def _is_alone(self) -> bool:
        membership = self._core.membership
        return membership.voters == (self.member_id,) and not membership.is_joint

    def _check_leads(self) -> None:
        """Open the doors once this leader's own entry, and with it all before it, is applied."""
        core = self._core
        if (
            self._refusal is None
            and core.role is Role.LEADER
            and core.commits_own_term
            and self.applier.applied_index >= core.commit_index
        ):
            self._leads = True
            self._readable = self._is_alone()
            if self._readable:
                self._started.set()
            # Renewals may have been on their way while nobody led: give them an election timeout.
            self.lessor.promote(self._clock.mono(), self._config.election_timeout_s)
            self._changes.propose()

    # The other members.

    def received(self, messages: Sequence[Message]) -> None:
        """Take messages of other members; what they ask for is written and answered in one go."""
        if self._refusal is not None:
            return
        applied = self.applier.applied_index
        try:
            for message in messages:
                self._take(self._core.step(Received(message)))
            self._settle()
            if self.applier.applied_index == applied or not self._leads:
                # A leader waits for what these are the answers to, or a member for its read index.
                self._peers.flush()
        except Exception as error:  # noqa: BLE001 - see _turn
            self._die(error)

    def forwarded(self, sender: NodeId, incarnation: int, seq: int, term: int, data: bytes) -> None:
        """Take operations of a follower into the next entry."""
        if self._refusal is not None:
            return
        current = self._core.term if self._core.role is Role.LEADER else 0
        if self._forwarding.receive(sender, incarnation, seq, term, data, current=current):
            self._rearm()

    def refused(self, seq: int, spec: ErrorSpec) -> None:
        """Hear that the leader did not take operations that were handed to it."""
        self._forwarding.refused(seq, spec)

    def unreachable(self, node: NodeId) -> None:
        """Hear that messages to a member were lost."""
        self.step(Unreachable(node))

    def connection_lost(self, node: NodeId, *, was_reset: bool) -> None:
        """Hear that a member hung up. If it leads, its process has probably died: campaign soon."""
        self.step(Unreachable(node))
        if was_reset and self._loop is not None and node == self._core.leader:
            voters = self._core.membership.all_voters
            delay = wait_after_reset(self._rand, voters, me=self.member_id, leader=node)
            self._loop.call_later(delay, self.step, LeaderLost(node))

    def transfer(self, node: NodeId) -> bool:
        """Begin to move leadership to a member; return whether that can be."""
        if self._refusal is not None:
            return False
        try:
            effects = self._core.step(TransferRequested(node))
        except ProposalDropped:
            return False
        self._carry_or_die(effects)
        return True

    async def change_membership(self, change: ConfigChange, context: bytes) -> int:
        """Put a change of membership through the log; return the index at which it was applied.

        Raises Refused: not the leader, refused where it was applied, or not known in time. A cancelled
        call does not take the change back. A leader that is to remove itself hands over and raises
        NOT_LEADER. When a removal returns, a quorum of those who stay durably know of it.
        """
        if self._refusal is not None or self._core.role is not Role.LEADER:
            raise Refused(self._refusal or errors.NOT_LEADER)
        heir = heir_of(self._core, change)
        if heir is not None and self.transfer(heir):
            raise Refused(errors.NOT_LEADER)
        index = await self._changes.change(change, context, self._ticks)
        if removed_by(change):
            await self.wait_applied(self._append_nothing())
        return index

    def _append_nothing(self) -> int:
        """Append an entry without effect, and return its index. Raises Refused."""
        try:
            effects = self._core.step(Proposed(b""))
        except ProposalDropped:
            raise Refused(errors.LEADER_CHANGED) from None
        index = self._core.last_index
        self._carry_or_die(effects)
        return index

    async def install(self, message: InstallSnapshot, path: str) -> None:
        """Take the snapshot at ``path`` as raft says; see `StateReplacement.install`."""
        if self._replacement is None or self._refusal is not None:
            return

        def take() -> bool:
            self.received((message,))
            return self._failure is None

        meta = message.snapshot
        is_late = meta.index <= self._core.commit_index
        await self._replacement.install(path, meta, is_late=is_late, take=take)

    def step(self, event: Event) -> None:
        """Let raft take an event that comes from outside."""
        if self._refusal is None:
            try:
                self._carry(self._core.step(event))
                self._peers.flush()
            except Exception as error:  # noqa: BLE001 - see _turn
                self._die(error)

    def _carry_or_die(self, effects: Effects) -> None:
        try:
            self._carry(effects)
        except Exception as error:  # noqa: BLE001 - see _turn
            self._die(error)

    # Reading.

    def read_ready(self) -> bool:
        """Return whether a linearizable read may be served right now.

        Holds for a leader with an entry of its own term committed, while it is the only voter and has
        applied everything: a learner may be ahead of it otherwise, and have answered.
        """
        return self._readable and not self._applying.has_more

    @property
    def lags(self) -> bool:
        """Whether something is committed and not applied here: another member may have told of it."""
        return self._core.commit_index > self.applier.applied_index

    async def wait_applied(self, index: int) -> None:
        """Return once the entry at ``index`` is applied here. Raises Refused, TIMEOUT among others."""
        if self.applier.applied_index >= index:
            return
        if self._refusal is not None:
            raise Refused(self._refusal)
        await self._reads.wait_applied(index)

    def when_readable(self, run: Callable[[], None], fail: Callable[[ErrorSpec], None]) -> None:
        """Call ``run`` when a linearizable read may be served, or ``fail``; one of them, once.

        All reads of a turn share one read index. Nothing is called after a failure of the node.
        """
        if self.read_ready():
            run()
        elif self._refusal is not None:
            if self._failure is None:
                fail(self._refusal)
        elif len(self._reads) >= self._bounds.max_queued_ops:
            fail(errors.TOO_MANY_REQUESTS)
        else:
            self._reads.add(run, fail)

    # Rhythm.

    def _tick(self) -> None:
        loop = self._loop
        if loop is None:
            return
        self._ticks += 1
        # From plan to plan, so that lateness does not add up; a loop that was stalled skips ticks.
        self._next_tick = max(self._next_tick + self._bounds.tick_s, loop.time())
        self._timer = loop.call_at(self._next_tick, self._tick)
        try:
            self._carry(self._core.step(Tick(self._jitter())))
            lag = self._core.commit_index - self.applier.applied_index
            self._lagging = lag > self._bounds.max_apply_lag
            self._fail_before(self._ticks - self._timeout_ticks, errors.TIMEOUT)
            self._reads.tick(self._ticks, retry_ticks=self._retry_ticks)
            self._changes.propose()
            now = self._clock.mono()
            self.fresh_until = now + FRESH_TICKS * self._bounds.tick_s
            for run in self._tickers:
                run(now)
            if self.applier.pending_ops:
                self._applying.flush()
            self._chores.tick()
        except Exception as error:  # noqa: BLE001 - see _turn
            self._die(error)

    def _jitter(self) -> int:
        if self._is_alone():
            return 0
        return min(int(self._rand.uniform(0, self._election_ticks)), self._election_ticks - 1)

    def _fail_before(self, tick: int, spec: ErrorSpec) -> None:
        """Refuse everything that waits since ``tick``. What is in the log may still be applied."""
        self._proposals.fail_before(tick, spec)
        self._forwarding.fail_before(tick, spec)
        self._changes.fail_before(tick, spec)
        self._reads.fail_before(tick, spec)
        self._delivery.fail_before(tick, spec)

    def _flushed(self, index: int) -> None:
        self._applying.flushed(index)
        if self._turns.wanted:
            self._arm()
