# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportPrivateUsage=false
# ruff: noqa: ANN401 - mutants reach into private parts
"""Bugs of clusters: what replica, forwarding, reading, leases, snapshots and state could do wrong."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from coord.wire import rpc_pb2
from coord_server.api.lease import _Renewals
from coord_server.apply import Applier
from coord_server.applying import Applying
from coord_server.delivery import Delivery
from coord_server.expiry import Expirer
from coord_server.flusher import Flusher
from coord_server.forwarding import Forwarding
from coord_server.lease.lessor import Lessor
from coord_server.lease.record import encode_record
from coord_server.log_writer import LogWriter
from coord_server.mvcc.hub import WatchHub
from coord_server.mvcc.store import Store
from coord_server.ops import OpKind, decode_in_term
from coord_server.peer.handshake import Lives, Refused
from coord_server.raft import HardState, Index, NodeId, RaftLog, follower
from coord_server.raft.leader import Leadership
from coord_server.read_queue import ReadQueue
from coord_server.replica import Replica
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.wal import Wal

Plant = Callable[[pytest.MonkeyPatch], None]


def ack_before_quorum(patch: pytest.MonkeyPatch) -> None:
    """The leader commits what it has itself."""

    def advance(self: Any) -> bool:
        member = self._member
        index = member.durable
        if index <= member.commit or member.log.term_at(index) != member.term:
            return False
        member.commit_to(index)
        self.replication.send_all()
        self._commits_own_term = True
        return True

    patch.setattr(Leadership, "_advance_commit", advance)


def vote_not_persisted(patch: pytest.MonkeyPatch) -> None:
    """The term is written, and the vote is not."""
    append = LogWriter._append

    def forgetful(self: Any, persist: Any) -> float:
        hard = persist.hard_state
        if hard is not None:
            hard = HardState(term=hard.term, commit=hard.commit)
        return append(self, replace(persist, hard_state=hard))

    patch.setattr(LogWriter, "_append", forgetful)


def messages_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    """What promises something about the disk leaves before the disk has it."""
    queue = LogWriter.queue

    def hasty(self: Any, persist: Any, messages: Sequence[Any] = ()) -> None:
        queue(self, persist)
        if messages:
            self._send(messages)

    patch.setattr(LogWriter, "queue", hasty)


def old_leader_revokes(patch: pytest.MonkeyPatch) -> None:
    """An operation that is bound to a term has an effect in any."""
    rare = Applier._apply_rare

    def unbound(self: Any, kind: int, payload: bytes) -> bytes:
        if kind == OpKind.IN_TERM:
            _, kind, payload = decode_in_term(payload)
        return rare(self, kind, payload)

    patch.setattr(Applier, "_apply_rare", unbound)


def group_sent_twice(patch: pytest.MonkeyPatch) -> None:
    """A follower hands a group over again, in case the first got lost."""
    send = Forwarding.send

    def twice(self: Any, batch: Any, leader: NodeId, term: int) -> None:
        send(self, batch, leader, term)
        self._seq += 1
        self._line.forward(leader, self._seq, term, batch.data)

    patch.setattr(Forwarding, "send", twice)


def group_proposed_twice(patch: pytest.MonkeyPatch) -> None:
    """The leader keeps a group for one more entry."""

    def proposed(self: Any) -> None:
        kept = [g for g in self._waiting[: self._taken] if g not in vars_of(self)]
        vars_of(self).extend(kept)
        self._waiting[: self._taken] = kept
        self._waiting_bytes = sum(len(data) for _, _, _, data in self._waiting)
        self._taken = 0

    memory: dict[int, list[Any]] = {}

    def vars_of(self: Any) -> list[Any]:
        return memory.setdefault(id(self), [])

    patch.setattr(Forwarding, "proposed", proposed)


def answer_of_another_entry(patch: pytest.MonkeyPatch) -> None:
    """The place in the log decides whose answer it is, whatever term has taken the place."""
    apply = Delivery.apply

    def trusting(self: Any, entry: Any) -> None:
        batch = self._inflight.get(entry.index)
        if batch is not None:
            batch.term = entry.term
        apply(self, entry)

    patch.setattr(Delivery, "apply", trusting)
    patch.setattr(Delivery, "_term_applied", lambda *_: None)


def answers_before_apply(patch: pytest.MonkeyPatch) -> None:
    """A read does not wait until its index is applied."""

    def ready(self: Any, context: int, index: int) -> None:
        asked = self._asked.pop(context, None)
        if asked is not None:
            heapq.heappush(self._indexed, (0, context, asked.reads))

    patch.setattr(ReadQueue, "ready", ready)


def read_numbers_reused(patch: pytest.MonkeyPatch) -> None:
    """Questions are numbered from 1 in every life."""
    init = ReadQueue.__init__

    def same(self: Any, incarnation: int = 0) -> None:
        init(self, 0)

    patch.setattr(ReadQueue, "__init__", same)


def leader_reads_alone(patch: pytest.MonkeyPatch) -> None:
    """Who believes to lead serves reads at once."""
    when = Replica.when_readable

    def trusting(self: Any, run: Callable[[], None], fail: Callable[[Any], None]) -> None:
        if self._leads:
            run()
        else:
            when(self, run, fail)

    patch.setattr(Replica, "when_readable", trusting)


def follower_reads_alone(patch: pytest.MonkeyPatch) -> None:
    """Any member serves reads at once."""
    when = Replica.when_readable

    def trusting(self: Any, run: Callable[[], None], fail: Callable[[Any], None]) -> None:
        if self._started.is_set() and self._refusal is None:
            run()
        else:
            when(self, run, fail)

    patch.setattr(Replica, "when_readable", trusting)


def promotion_forgets_leases(patch: pytest.MonkeyPatch) -> None:
    """A new primary gives leases a tenth of their time."""
    promote = Lessor.promote

    def short(self: Any, now: float, extend: float) -> None:
        promote(self, now, extend)
        for lease in self._leases.values():
            lease.deadline = now + lease.ttl_s / 10
        self._refile()

    patch.setattr(Lessor, "promote", short)


def checkpoint_ignored(patch: pytest.MonkeyPatch) -> None:
    """A new primary gives every lease its full time, whatever was left."""
    promote = Lessor.promote

    def full(self: Any, now: float, extend: float) -> None:
        kept = {lease: lease.checkpoint_s for lease in self._leases.values()}
        for lease in kept:
            lease.checkpoint_s = 0
        promote(self, now, extend)
        for lease, rest in kept.items():
            lease.checkpoint_s = rest

    patch.setattr(Lessor, "promote", full)


def checkpoint_not_written(patch: pytest.MonkeyPatch) -> None:
    """What is left of a lease is known until the member restarts."""
    import coord_server.lease.lessor as room

    patch.setattr(room, "encode_record", lambda lease, ttl, _: encode_record(lease, ttl, 0))


def checkpoint_outlives_renewal(patch: pytest.MonkeyPatch) -> None:
    """A renewal does not take the checkpoint back: the next primary counts from it."""
    renew = Lessor.renew

    def blind(self: Any, lease_id: int, now: float) -> int | None:
        lease = self._leases.get(lease_id)
        if lease is None:
            return None
        kept, lease.checkpoint_s, lease.checkpoint_sent = lease.checkpoint_s, 0, False
        try:
            return renew(self, lease_id, now)
        finally:
            lease.checkpoint_s = kept

    patch.setattr(Lessor, "renew", blind)
    patch.setattr(Lessor, "must_clear", lambda *_: False)


def gone_without_asking(patch: pytest.MonkeyPatch) -> None:
    """Who believes to be the primary says of a lease that it does not know that it is gone."""
    refuse = _Renewals._refuse

    def sure(self: Any, lease_id: int, message: bytes, header: bytes, *, is_sure: bool) -> None:
        refuse(self, lease_id, message, header, is_sure=True)

    patch.setattr(_Renewals, "_refuse", sure)
    patch.setattr(Replica, "lags", False)


def parts_without_bound(patch: pytest.MonkeyPatch) -> None:
    """All that is committed is handed out in one go."""
    batch = RaftLog.batch

    def whole(self: Any, after: Index, max_bytes: int, *, upto: Index | None = None) -> Any:
        return batch(self, after, max_bytes if upto is None else 1 << 30, upto=upto)

    patch.setattr(RaftLog, "batch", whole)


def watchers_left_behind(patch: pytest.MonkeyPatch) -> None:
    """A watcher whose stream is gone goes on to be told."""
    patch.setattr(WatchHub, "remove", lambda *_: None)


def groups_never_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A follower keeps what it has handed to a leader that has changed since."""
    patch.setattr(Forwarding, "term_applied", lambda *_: None)
    patch.setattr(Forwarding, "fail_before", lambda *_: None)


def overtaken_by_a_smaller_quorum(patch: pytest.MonkeyPatch) -> None:
    """What an applied change of membership commits is applied at once, before what stood before it."""
    take = Applying.take

    def hasty(self: Any, effects: Any) -> None:
        applying, self._is_applying = self._is_applying, False
        take(self, effects)
        self._is_applying = applying

    patch.setattr(Applying, "take", hasty)


def leaves_without_a_word(patch: pytest.MonkeyPatch) -> None:
    """A leader removes itself, and ends a second later, whoever knows of it."""
    import coord_server.removal as room
    import coord_server.replica as loop

    patch.setattr(loop, "heir_of", lambda *_: None)
    patch.setattr(loop, "removed_by", lambda _: set())
    patch.setattr(room, "LINGER_ALONE_S", room.LINGER_S)


def strangers_are_heard(patch: pytest.MonkeyPatch) -> None:
    """Whoever opens a stream is taken for the member that it names."""
    from coord_server.peer import incoming, link

    patch.setattr(incoming, "check_cluster", lambda *_: None)
    patch.setattr(link, "check_cluster", lambda *_: None)


def earlier_lives_are_heard(patch: pytest.MonkeyPatch) -> None:
    """A life that is over may begin again."""
    begin = Lives.begin

    def again(self: Any, node: NodeId, incarnation: int, number: int) -> None:
        try:
            begin(self, node, incarnation, number)
        except Refused:
            self._present[node] = incarnation

    patch.setattr(Lives, "check", lambda *_: None)

    patch.setattr(Lives, "begin", again)


def keepalive_after_revoke(patch: pytest.MonkeyPatch) -> None:
    """A lease that is gone is renewed all the same."""
    renew = Lessor.renew

    def generous(self: Any, lease_id: int, now: float) -> int | None:
        ttl = renew(self, lease_id, now)
        return 5 if ttl is None and lease_id not in self._leases else ttl

    patch.setattr(Lessor, "renew", generous)


def renewed_by_a_follower(patch: pytest.MonkeyPatch) -> None:
    """A deposed leader goes on to renew."""

    def demote(self: Any) -> None:
        self._gone.extend(self._waiting)

    patch.setattr(Lessor, "demote", demote)


def lease_on_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """Leases end by the time of day."""
    tick = Expirer.tick

    def by_wall(self: Any, now: float) -> None:
        tick(self, now + self._clock.wall_offset)

    patch.setattr(Expirer, "tick", by_wall)


def snapshot_without_leases(patch: pytest.MonkeyPatch) -> None:
    """An installed snapshot lacks a bucket."""
    import coord_server.installation as room

    fill = room._fill

    class _Partial:
        def __init__(self, backend: Any) -> None:
            self._backend = backend

        def write(self, batch: Batch) -> None:
            kept = Batch()
            for bucket, key, value in batch.puts:
                if bucket is not Bucket.LEASE:
                    kept.put(bucket, key, value)
            self._backend.write(kept)

    def partly(backend: Any, file: Any, meta: Any) -> None:
        partial: Any = _Partial(backend)
        fill(partial, file, meta)

    patch.setattr(room, "_fill", partly)


def log_does_not_begin_anew(patch: pytest.MonkeyPatch) -> None:
    """A snapshot is installed, and the log goes on as if it was not."""
    append = Wal.append

    def flat(self: Any, hard: Any, entries: Any, *, behind: Any = None) -> None:
        append(self, hard, entries)

    patch.setattr(Wal, "append", flat)


def log_released_too_early(patch: pytest.MonkeyPatch) -> None:
    """The log is let go of before the backend has what it holds."""
    run = Flusher._run

    async def early(self: Any) -> None:
        applier = self._applier
        self._wal.release(applier.applied_index, applier.term)
        for path in self._wal.droppable():
            self._disk.unlink(path)
        await run(self)

    patch.setattr(Flusher, "_run", early)


def revision_of_surviving_keys(patch: pytest.MonkeyPatch) -> None:
    """After a start the revision is the newest that a key still has."""
    load = Store.load

    def loaded(self: Any) -> None:
        load(self)
        body = self.range_body(rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0"))
        pairs = rpc_pb2.RangeResponse.FromString(body).kvs
        self.revision = max([1, *(pair.mod_revision for pair in pairs)])

    patch.setattr(Store, "load", loaded)
    init = Store.__init__

    def made(self: Any, *given: Any, **named: Any) -> None:
        init(self, *given, **named)
        loaded(self)

    patch.setattr(Store, "__init__", made)


def half_a_transaction(patch: pytest.MonkeyPatch) -> None:
    """Now and then only the first operation of a transaction is done."""
    put = Store.put
    last: dict[int, int] = {}

    def lazy(self: Any, key: bytes, value: bytes, lease: int) -> Any:
        if last.get(id(self)) == self.revision and self.revision % 7 == 0 and key == b"k-both":
            return None
        last[id(self)] = self.revision
        return put(self, key, value, lease)

    patch.setattr(Store, "put", lazy)


def answers_lost_origin(patch: pytest.MonkeyPatch) -> None:
    """Answers go to whoever has used the same number, in whichever life or member."""

    def applied(
        self: Any, member_id: int, incarnation: int, seq: int, results: Sequence[Any]
    ) -> None:
        batch = self._sent.pop(seq, None)
        if batch is not None:
            batch.answer(results)

    patch.setattr(Forwarding, "applied", applied)


def applied_twice(patch: pytest.MonkeyPatch) -> None:
    """After a start the last entry is applied once more."""
    reload = Applier._load_rest

    def behind(self: Any) -> None:
        reload(self)
        if self.applied_index > 3:
            self.applied_index -= 1

    patch.setattr(Applier, "_load_rest", behind)


def sweeps_what_is_needed(patch: pytest.MonkeyPatch) -> None:
    """A compaction drops one revision too many."""
    compact = Store.compact

    def greedy(self: Any, revision: int) -> Any:
        return compact(self, min(revision + 1, self.revision))

    patch.setattr(Store, "compact", greedy)


def quorum_of_half(patch: pytest.MonkeyPatch) -> None:
    """Half of the voters are a majority."""
    import coord_server.raft.membership as room

    def half(voters: Sequence[NodeId], granted: Any) -> bool:
        return sum(v in granted for v in voters) * 2 >= len(voters) - 1 > 0 or all(
            v in granted for v in voters
        )

    patch.setattr(room, "has_majority", half)


def commit_not_bounded(patch: pytest.MonkeyPatch) -> None:
    """A follower takes the commit index of a heartbeat as far as its own log goes."""
    take = follower.take_heartbeat

    def trusting(member: Any, message: Any) -> None:
        member.commit_to(Index(member.log.last_index))
        take(member, message)

    patch.setattr(follower, "take_heartbeat", trusting)


CLUSTER_MUTANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        ack_before_quorum,
        vote_not_persisted,
        messages_do_not_wait,
        old_leader_revokes,
        group_sent_twice,
        group_proposed_twice,
        answer_of_another_entry,
        answers_before_apply,
        read_numbers_reused,
        leader_reads_alone,
        follower_reads_alone,
        promotion_forgets_leases,
        checkpoint_ignored,
        checkpoint_not_written,
        checkpoint_outlives_renewal,
        gone_without_asking,
        parts_without_bound,
        watchers_left_behind,
        groups_never_forgotten,
        overtaken_by_a_smaller_quorum,
        leaves_without_a_word,
        strangers_are_heard,
        earlier_lives_are_heard,
        keepalive_after_revoke,
        renewed_by_a_follower,
        lease_on_the_wall_clock,
        snapshot_without_leases,
        log_does_not_begin_anew,
        log_released_too_early,
        revision_of_surviving_keys,
        half_a_transaction,
        answers_lost_origin,
        applied_twice,
        sweeps_what_is_needed,
        quorum_of_half,
        commit_not_bounded,
    )
}
