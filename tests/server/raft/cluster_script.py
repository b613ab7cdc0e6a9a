"""Runs a scenario of several members: commands, and what each of them changed.

The invariants of `world` are checked on the way. Commands (N, M: members)::

    cluster V [others=N,..] [OPTION=VALUE ..]   members 1 to V vote; others know nobody yet. Options:
        disk=slow (writes wait for `persist`; else they are instant), apply=slow (waits for `apply`),
        pre_vote=off, check_quorum=off, election=TICKS, inflight=MESSAGES, append_bytes=B, uncommitted=B,
        committed=B
    disk N [term=T] [vote=M] [commit=C] [log=T,T,..]   what N finds when it starts, now
    tick N [COUNT] [jitter=J] | campaign N      campaign: ticks until N's patience ends
    elect N | settle                            without the details: until all is delivered and written
    deliver [COUNT] [from=N,..] [to=N,..] [drop=N,..] [last]   in order, and what that causes, until silence;
        drop: what is to or from those is lost; last: the youngest first
    again                                       the message that was delivered last, once more
    lose [from=N,..] [to=N,..]                  messages that never arrive
    persist N | apply N | crash N | start N | compact N INDEX
    apply-part N | go-on N                      only what was handed out; tell the core that it is applied
    propose N DATA | read N | transfer N M | leave N
    change N add M [learner] | remove M | update M, ..   several at once, with commas
    leader-lost N M | unreachable N M | snapshot-failed N M
    forge TYPE FROM TO FIELD=VALUE ..           a message that nobody sent
    state [N ..] | progress N | net
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator

from typing_extensions import override

from coord.runtime import InvariantViolation
from coord_server.raft import (
    AppendRequest,
    AppendResponse,
    ChangeKind,
    ChangeStep,
    CommitNotice,
    ConfigApplied,
    ConfigChange,
    ConfigProposed,
    Effects,
    Entry,
    EntryKind,
    Event,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    Index,
    InstallSnapshot,
    LeaderLost,
    Membership,
    Message,
    NodeId,
    Persist,
    PreVoteRequest,
    PreVoteResponse,
    ProposalDropped,
    Proposed,
    RaftConfig,
    ReadIndexRequest,
    ReadIndexResponse,
    Role,
    SnapshotMeta,
    SnapshotSent,
    SoftState,
    Term,
    Tick,
    TimeoutNow,
    TransferRequested,
    Unreachable,
    VoteRequest,
    VoteResponse,
    decode_change,
)
from tests.server.raft.world import Broken, Node, World

MAX_DELIVERIES = 2000
MESSAGES = {
    kind.__name__: kind
    for kind in (
        AppendRequest,
        AppendResponse,
        Heartbeat,
        HeartbeatResponse,
        CommitNotice,
        InstallSnapshot,
        PreVoteRequest,
        PreVoteResponse,
        ReadIndexRequest,
        ReadIndexResponse,
        TimeoutNow,
        VoteRequest,
        VoteResponse,
    )
}


class ToldWorld(World):
    """A world that says what happens."""

    def __init__(self, voters: int, config: RaftConfig, others: tuple[int, ...]) -> None:
        self.lines: list[str] = []
        self.slow_disk = False
        self.last: Message | None = None
        super().__init__(tuple(range(1, voters + 1)), config, others=others)
        self._told = {
            n: SoftState(role=Role.FOLLOWER, leader=NodeId(0), term=Term(0)) for n in self.nodes
        }

    @override
    def start(self, number: int) -> None:
        super().start(number)
        core = self.nodes[number].core
        self._told[number] = SoftState(role=core.role, leader=core.leader, term=core.term)

    @override
    def step(self, number: int, event: Event) -> None:
        node = self.nodes[number]
        before = node.core.membership
        super().step(number, event)
        if isinstance(event, ConfigApplied) and node.core.membership != before:
            self.lines.append(f"n{number} membership {shown_membership(node.core.membership)}")
        while node.writes and not self.slow_disk:
            self.persist(number)

    @override
    def deliver(self, message: Message) -> None:
        self.last = message
        if self.nodes[message.to].alive:
            super().deliver(message)

    @override
    def _put(self, message: Message) -> None:
        self.lines.append(shown_message(message))
        super()._put(message)

    @override
    def _carry(self, node: Node, effects: Effects) -> None:
        number = int(node.core.node_id)
        say = self.lines.append
        if effects.status is not None:
            was, now = self._told[number], effects.status
            self._told[number] = now
            leader = f", leader n{now.leader}" if now.leader else ""
            if (was.role, was.term) == (now.role, now.term):
                say(f"n{number} {now.role.value}@{now.term}{leader or ', no leader'}")
            else:
                say(f"n{number} {was.role.value}@{was.term} -> {now.role.value}@{now.term}{leader}")
        if effects.install is not None:
            say(f"n{number} installs {shown_snapshot(effects.install)}")
        if effects.persist is not None and self.slow_disk:
            say(f"n{number} writes {shown_persist(effects.persist)}")
        for to in effects.snapshots:
            say(f"n{number} prepares a snapshot for n{to}")
        for read in effects.reads:
            say(f"n{number} reads {read.context} at {read.index}")
        if effects.committed:
            more = ", and there is more" if effects.more else ""
            say(f"n{number} commits {shown_entries(effects.committed)}{more}")
        super()._carry(node, effects)


class ClusterScript:
    """The commands of a scenario with several members."""

    def __init__(self) -> None:
        self._world = ToldWorld(0, RaftConfig(node_id=NodeId(1), membership=Membership()), ())
        self._commands: dict[str, Callable[[list[str]], None]] = {
            name.removeprefix("_do_").replace("_", "-"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }

    def run(self, commands: str) -> str:
        """Run the commands of a block and return what they print."""
        lines: list[str] = []
        for command in commands.splitlines():
            name, *words = command.split()
            try:
                self._commands[name](words)
                error = None
            except (InvariantViolation, ProposalDropped, Broken) as raised:
                error = f"{type(raised).__name__}: {raised}"
            lines.extend(self._world.lines)
            self._world.lines.clear()
            if error is not None:
                lines.append(error)
        return "\n".join(lines or ["(nothing)"])

    # Setting up.

    def _do_cluster(self, words: list[str]) -> None:
        options = _options(words[1:])
        config = RaftConfig(
            node_id=NodeId(1),
            membership=Membership(),
            election_ticks=int(options.get("election", 10)),
            pre_vote=options.get("pre_vote") != "off",
            check_quorum=options.get("check_quorum") != "off",
            max_append_bytes=int(options.get("append_bytes", 1 << 20)),
            max_inflight=int(options.get("inflight", 512)),
            max_uncommitted_bytes=int(options.get("uncommitted", 1 << 20)),
            max_committed_bytes=int(options.get("committed", 1 << 20)),
        )
        self._world = ToldWorld(int(words[0]), config, _numbers(options.get("others", "")))
        self._world.slow_disk = options.get("disk") == "slow"
        self._world.eager = options.get("apply") != "slow"

    def _do_disk(self, words: list[str]) -> None:
        number, options = int(words[0]), _options(words[1:])
        terms = _numbers(options.get("log", ""))
        entries = tuple(
            Entry(Term(term), Index(index), EntryKind.NORMAL, b"old%d" % index)
            for index, term in enumerate(terms, 1)
        )
        world = self._world
        state = HardState(
            Term(int(options.get("term", terms[-1] if terms else 0))),
            NodeId(int(options.get("vote", 0))),
            Index(int(options.get("commit", 0))),
        )
        node = world.nodes[number]
        node.disk = dataclasses.replace(node.disk, hard_state=state, entries=entries)
        if state.commit > len(world.truth):
            world.truth = entries[: state.commit]
            world.committed_in = tuple(entry.term for entry in world.truth)
        for entry in entries:
            previous = entries[entry.index - 2].term if entry.index > 1 else 0
            world.matching[entry.index, entry.term] = (previous, entry.kind, entry.data)
        world.start(number)

    # Time, messages, disks.

    def _do_tick(self, words: list[str]) -> None:
        options = _options(word for word in words if "=" in word)
        counts = [word for word in words[1:] if "=" not in word]
        for _ in range(int(counts[0]) if counts else 1):
            self._world.step(int(words[0]), Tick(int(options.get("jitter", 0))))
        times = Counter(self._world.lines)
        self._world.lines[:] = [
            line if count == 1 else f"{line} ({count} times)" for line, count in times.items()
        ]

    def _do_campaign(self, words: list[str]) -> None:
        number = int(words[0])
        core = self._world.nodes[number].core
        before = (core.role, core.term)
        for _ in range(2 * self._world.config.election_ticks):
            self._world.step(number, Tick(0))
            if (core.role, core.term) != before:
                break

    def _do_elect(self, words: list[str]) -> None:
        self._do_campaign(words)
        self._do_settle([])
        core = self._world.nodes[int(words[0])].core
        self._world.lines[:] = [f"n{words[0]} {core.role.value}@{core.term}"]

    def _do_settle(self, _: list[str]) -> None:
        world = self._world
        for _count in range(MAX_DELIVERIES):
            busy = [number for number, node in world.nodes.items() if node.alive and node.writes]
            if busy:
                world.persist(busy[0])
            elif world.net:
                self._deliver_one(world.net[0])
            else:
                break
        world.lines.clear()

    def _do_deliver(self, words: list[str]) -> None:
        options = _options(word for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        lost = _numbers(options.get("drop", ""))
        youngest = "last" in plain
        counts = [int(word) for word in plain if word.isdigit()]
        world = self._world
        for _ in range(counts[0] if counts else MAX_DELIVERIES):
            chosen = [message for message in world.net if _matches(message, options)]
            if not chosen:
                return
            message = chosen[-1 if youngest else 0]
            if message.to in lost or message.sender in lost:
                self._remove(message)
            else:
                self._deliver_one(message)

    def _deliver_one(self, message: Message) -> None:
        self._remove(message)
        self._world.deliver(message)

    def _remove(self, message: Message) -> None:
        self._world.net = tuple(other for other in self._world.net if other is not message)

    def _do_again(self, _: list[str]) -> None:
        if self._world.last is not None:
            self._world.deliver(self._world.last)

    def _do_lose(self, words: list[str]) -> None:
        options = _options(words)
        self._world.net = tuple(m for m in self._world.net if not _matches(m, options))

    def _do_forge(self, words: list[str]) -> None:
        kind = MESSAGES[words[0]]
        values: dict[str, object] = {"sender": NodeId(int(words[1])), "to": NodeId(int(words[2]))}
        for name, text in _options(words[3:]).items():
            if name == "entries":
                values[name] = _entries(text)
            elif name != "snapshot":
                values[name] = int(text)
            else:
                index, _, term = text.partition("@")
                members = tuple(NodeId(n) for n in self._world.nodes)
                values[name] = SnapshotMeta(
                    index=Index(int(index)),
                    term=Term(int(term)),
                    membership=Membership(voters=members),
                )
        self._world.deliver(kind(**values))  # type: ignore[arg-type]

    def _do_persist(self, words: list[str]) -> None:
        self._world.persist(int(words[0]))

    def _do_apply(self, words: list[str]) -> None:
        self._world.apply(int(words[0]))

    def _do_apply_part(self, words: list[str]) -> None:
        self._world.apply_part(int(words[0]))

    def _do_go_on(self, words: list[str]) -> None:
        self._world.go_on(int(words[0]))

    def _do_crash(self, words: list[str]) -> None:
        self._world.crash(int(words[0]))

    def _do_start(self, words: list[str]) -> None:
        self._world.start(int(words[0]))
        self._do_state(words[:1])

    def _do_compact(self, words: list[str]) -> None:
        self._world.flush(int(words[0]))
        self._world.compact(int(words[0]), int(words[1]))

    # Requests.

    def _do_propose(self, words: list[str]) -> None:
        self._world.step(int(words[0]), Proposed(words[1].encode()))

    def _do_read(self, words: list[str]) -> None:
        self._world.read(int(words[0]))

    def _do_transfer(self, words: list[str]) -> None:
        self._world.step(int(words[0]), TransferRequested(NodeId(int(words[1]))))

    def _do_change(self, words: list[str]) -> None:
        steps: list[ChangeStep] = []
        for part in " ".join(words[1:]).split(","):
            verb, node, *more = part.split()
            kind = {"remove": ChangeKind.REMOVE, "update": ChangeKind.UPDATE}.get(verb)
            if kind is None:
                kind = ChangeKind.ADD_LEARNER if more else ChangeKind.ADD_VOTER
            steps.append(ChangeStep(kind, NodeId(int(node))))
        self._world.step(int(words[0]), ConfigProposed(ConfigChange(tuple(steps))))

    def _do_leave(self, words: list[str]) -> None:
        self._world.step(int(words[0]), ConfigProposed(ConfigChange(leave=True)))

    def _do_leader_lost(self, words: list[str]) -> None:
        self._world.step(int(words[0]), LeaderLost(NodeId(int(words[1]))))

    def _do_unreachable(self, words: list[str]) -> None:
        self._world.step(int(words[0]), Unreachable(NodeId(int(words[1]))))

    def _do_snapshot_failed(self, words: list[str]) -> None:
        self._world.step(int(words[0]), SnapshotSent(NodeId(int(words[1]))))

    # Looking.

    def _do_state(self, words: list[str]) -> None:
        for number in [int(word) for word in words] or sorted(self._world.nodes):
            node = self._world.nodes[number]
            if not node.alive:
                self._world.lines.append(f"n{number} is down")
                continue
            core = node.core
            terms = " ".join(f"{e.index}@{e.term}" for e in node.log._entries)
            self._world.lines.append(
                f"n{number} {core.role.value}@{core.term} leader={core.leader} "
                f"commit={core.commit_index} log={terms or '(empty)'}"
            )

    def _do_progress(self, words: list[str]) -> None:
        for number, view in sorted(self._world.nodes[int(words[0])].core.progress.items()):
            active = "active" if view.recent_active else "silent"
            self._world.lines.append(
                f"n{number} {view.state.value} match={view.match} next={view.next} {active}"
            )

    def _do_net(self, _: list[str]) -> None:
        self._world.lines.extend(shown_message(message) for message in self._world.net)


def _options(words: list[str] | Iterator[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.strip("()").split(",") if word)


def _matches(message: Message, options: dict[str, str]) -> bool:
    senders, receivers = _numbers(options.get("from", "")), _numbers(options.get("to", ""))
    return (not senders or message.sender in senders) and (not receivers or message.to in receivers)


def _entries(text: str) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for part in text.split(",") if text else ():
        place, _, data = part.partition(":")
        index, _, term = place.partition("@")
        entries.append(Entry(Term(int(term)), Index(int(index)), EntryKind.NORMAL, data.encode()))
    return tuple(entries)


def shown_change(change: ConfigChange) -> str:
    if change.leave:
        return "leave"
    return "+".join(f"{step.kind.name.lower()}({step.node})" for step in change.steps)


def shown_entries(entries: tuple[Entry, ...]) -> str:
    parts: list[str] = []
    for entry in entries:
        if entry.kind is EntryKind.CONFIG:
            text = shown_change(decode_change(entry.data)[0])
        else:
            text = entry.data.decode() or "(empty)"
        parts.append(f"{entry.index}@{entry.term}:{text}")
    return " ".join(parts)


def shown_membership(membership: Membership) -> str:
    parts = [",".join(map(str, membership.voters))]
    for name in ("outgoing", "learners", "learners_next"):
        members: tuple[NodeId, ...] = getattr(membership, name)
        if members:
            parts.append(f"{name} {','.join(map(str, members))}")
    return "; ".join(parts)


def shown_snapshot(snapshot: SnapshotMeta) -> str:
    return f"{snapshot.index}@{snapshot.term} [{shown_membership(snapshot.membership)}]"


def shown_persist(persist: Persist) -> str:
    parts: list[str] = []
    if persist.snapshot is not None:
        parts.append(f"snapshot {shown_snapshot(persist.snapshot)}")
    state = persist.hard_state
    if state is not None:
        parts.append(f"term={state.term} vote={state.vote} commit={state.commit}")
    if persist.entries:
        parts.append(shown_entries(persist.entries))
    return " ".join(parts)


def shown_append(message: AppendRequest | AppendResponse) -> str:
    if isinstance(message, AppendRequest):
        shown = f"prev={message.prev_index}@{message.prev_term} commit={message.commit}"
        return f"{shown} entries={shown_entries(message.entries)}" if message.entries else shown
    if message.rejected:
        return f"rejected={message.index} hint={message.hint_index}@{message.hint_term}"
    return f"index={message.index}"


def shown_message(message: Message) -> str:
    rest = ""
    head = f"n{message.sender} -> n{message.to} {type(message).__name__} term={message.term}"
    match message:
        case PreVoteRequest() | VoteRequest():
            rest = f"last={message.last_index}@{message.last_term}"
            if isinstance(message, VoteRequest) and message.is_transfer:
                rest += " transfer"
        case PreVoteResponse() | VoteResponse():
            rest = "granted" if message.granted else "refused"
            if message.commit:
                rest += f" commit={message.commit}@{message.commit_term}"
        case AppendRequest() | AppendResponse():
            rest = shown_append(message)
        case CommitNotice():
            rest = f"commit={message.commit}"
        case Heartbeat():
            rest = f"commit={message.commit} round={message.read_round}"
        case HeartbeatResponse():
            rest = f"round={message.read_round}"
        case InstallSnapshot():
            rest = shown_snapshot(message.snapshot)
        case TimeoutNow():
            pass
        case ReadIndexRequest():
            rest = f"context={message.context}"
        case ReadIndexResponse():
            rest = f"context={message.context} index={message.index}"
    return f"{head} {rest}".rstrip()
