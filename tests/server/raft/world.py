"""A cluster as a value: cores, disks, writes on their way, messages on their way; and what must hold.

Every step checks the invariants R1 to R10 of the test design as far as the rules show them. What they
speak of that no member knows (who led which term, what was committed anywhere) is kept beside.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from coord_server.raft import (
    AppendRequest,
    AppendResponse,
    BadChange,
    ConfigApplied,
    Effects,
    Entry,
    EntryKind,
    Event,
    HardState,
    Index,
    InstallSnapshot,
    Membership,
    Message,
    NodeId,
    PartApplied,
    Persist,
    Persisted,
    RaftConfig,
    RaftCore,
    RaftLog,
    ReadRequested,
    Received,
    Role,
    SnapshotMeta,
    Term,
    VoteRequest,
    VoteResponse,
    decode_change,
)
from tests.server.raft.copying import copied, key_of


class Broken(AssertionError):
    """An invariant of the test design does not hold."""


def must(condition: object, rule: str, text: str) -> None:
    if not condition:
        raise Broken(f"{rule}: {text}")


@dataclass(frozen=True, slots=True)
class Disk:
    """What survives a crash: the log with its base, the hard state, and the state machine's place."""

    hard_state: HardState
    base: tuple[int, int]
    entries: tuple[Entry, ...]
    applied: int
    membership: Membership

    def written(self, persist: Persist) -> Disk:
        disk = self
        if persist.snapshot is not None:
            snapshot = persist.snapshot
            disk = replace(
                disk,
                base=(snapshot.index, snapshot.term),
                entries=(),
                applied=snapshot.index,
                membership=snapshot.membership,
            )
        if persist.entries:
            keep = persist.entries[0].index - disk.base[0] - 1
            disk = replace(disk, entries=disk.entries[:keep] + persist.entries)
        return replace(disk, hard_state=persist.hard_state or disk.hard_state)

    @property
    def last_index(self) -> int:
        return self.base[0] + len(self.entries)

    def holds(self, index: int, term: int) -> bool:
        """Return whether the entry is here; what the base covers was committed, see R5."""
        if index <= self.base[0]:
            return index < self.base[0] or term == self.base[1]
        return index <= self.last_index and self.entries[index - self.base[0] - 1].term == term


class Node:
    """One member: its core, its disk, and what is between them."""

    __slots__ = (
        "_key",
        "alive",
        "applied",
        "core",
        "disk",
        "given",
        "handed",
        "held",
        "more",
        "unapplied",
        "writes",
    )

    def __init__(self, core: RaftCore, disk: Disk) -> None:
        self.disk = disk
        self.alive = True
        self.restart(core)

    def restart(self, core: RaftCore) -> None:
        self.core = core
        self.writes: tuple[Persist, ...] = ()
        self.given = 0  # writes that were given to the disk and are done
        self.held: tuple[tuple[int, Message], ...] = ()
        self.applied = self.disk.applied
        self.handed = self.disk.applied
        self.unapplied: tuple[Entry, ...] = ()
        self.more = False  # there is more to apply when that is done
        self._key: int | None = None

    def copy(self) -> Node:
        node = object.__new__(Node)
        for name in Node.__slots__:
            setattr(node, name, getattr(self, name))
        node.core = copied(self.core)
        node._key = None
        return node

    def key(self) -> int:
        """Return what tells this member from others, as a hash: many states share it."""
        if self._key is None:
            disk = self.disk
            self._key = hash(
                (
                    key_of(self.core),
                    (disk.hard_state, disk.base, disk.applied, disk.membership),
                    tuple((entry.term, entry.data) for entry in disk.entries),
                    self.alive,
                    self.writes,
                    tuple((until - self.given, message) for until, message in self.held),
                    self.unapplied,
                    self.more,
                )
            )
        return self._key

    @property
    def log(self) -> RaftLog:
        return self.core._member.log


def _matches(core: RaftCore) -> dict[NodeId, Index]:
    leadership = core._leadership
    if leadership is None:
        return {}
    return {node: progress.match for node, progress in leadership.replication.progress.items()}


# Hashes of the messages that a search has seen, by identity; the message is kept, or its id would not be.
_HASHES: dict[int, tuple[Message, int]] = {}


def _hash_of(message: Message) -> int:
    known = _HASHES.get(id(message))
    if known is None:
        known = _HASHES[id(message)] = (message, hash(message))
    return known[1]


def forget_hashes() -> None:
    _HASHES.clear()


class World:
    """All members, what is between them, and what only an onlooker knows."""

    def __init__(
        self, voters: tuple[int, ...], config: RaftConfig, *, others: tuple[int, ...] = ()
    ) -> None:
        """Members as in ``config``; ``others`` know nobody yet. ``eager``: applied when handed out."""
        self.eager = True
        self.config = config
        self.net: tuple[Message, ...] = ()
        self.nodes: dict[int, Node] = {}
        for node in (*voters, *others):
            members = tuple(NodeId(voter) for voter in voters) if node in voters else ()
            disk = Disk(HardState(), (0, 0), (), 0, Membership(voters=members))
            self.nodes[node] = Node(self._core(node, disk), disk)
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.matching: dict[tuple[int, int], tuple[int, EntryKind, bytes]] = {}
        self.truth: tuple[Entry, ...] = ()
        # In which term each of them was committed.
        self.committed_in: tuple[int, ...] = ()
        # Up to where each member acknowledged the log in each term.
        self.acked: dict[tuple[int, int], int] = {}
        self.floors: dict[tuple[int, int], int] = {}
        self.contexts = 0
        self.reads_served = 0

    def copy(self) -> World:
        world = object.__new__(World)
        world.__dict__.update(self.__dict__)
        for name in ("nodes", "leaders", "votes", "matching", "floors", "acked"):
            setattr(world, name, dict(getattr(self, name)))
        return world

    def own(self, node: int) -> Node:
        """Make the node this world's own, so that a step leaves other worlds alone; return it."""
        self.nodes[node] = self.nodes[node].copy()
        return self.nodes[node]

    def key(self) -> Hashable:
        return (
            tuple([node.key() for node in self.nodes.values()]),
            frozenset([_hash_of(message) for message in self.net]),
            tuple(self.leaders.items()),
            frozenset(self.votes.items()),
            self.truth,
            self.committed_in,
            frozenset(self.acked.items()),
            tuple(self.floors.items()),
        )

    def _core(self, node: int, disk: Disk) -> RaftCore:
        log = RaftLog(
            base_index=Index(disk.base[0]), base_term=Term(disk.base[1]), entries=disk.entries
        )
        config = replace(self.config, node_id=NodeId(node), membership=disk.membership)
        return RaftCore(config, disk.hard_state, log, applied=Index(disk.applied))

    # What happens to a member.

    def crash(self, number: int) -> None:
        """Lose what is not on the disk."""
        self.nodes[number].alive = False

    def start(self, number: int) -> None:
        """Start again from the disk."""
        node = self.nodes[number]
        node.alive = True
        node.restart(self._core(number, node.disk))

    def persist(self, number: int) -> None:
        """The oldest write reaches the disk; what waited for it goes, and the core hears of it."""
        node = self.nodes[number]
        done, node.writes = node.writes[0], node.writes[1:]
        node.disk = node.disk.written(done)
        node.given += 1
        acked = self.acked.get((number, node.disk.hard_state.term), 0)
        must(node.disk.last_index >= acked, "R7", "what was acknowledged in this term is gone")
        held = node.held
        node.held = tuple(item for item in held if item[0] > node.given)
        for until, message in held:
            if until <= node.given:
                self._release(node, message)
        self.step(number, Persisted(done.index, done.last_term, done.term))

    def apply(self, number: int) -> None:
        """Apply what was handed out, and all that comes for it."""
        node = self.nodes[number]
        self.apply_part(number)
        while node.more:
            self.go_on(number)
            self.apply_part(number)

    def go_on(self, number: int) -> None:
        """Tell the core that its last part is applied."""
        self.nodes[number].more = False
        self.step(number, PartApplied())

    def apply_part(self, number: int) -> None:
        """Apply what was handed out, and not more."""
        node = self.nodes[number]
        while node.unapplied:
            entry, node.unapplied = node.unapplied[0], node.unapplied[1:]
            node.applied = entry.index
            if entry.kind is EntryKind.CONFIG:
                change, _ = decode_change(entry.data)
                try:
                    node.core.membership.changed(change)
                except BadChange:
                    self.step(number, ConfigApplied(entry.index, None))
                else:
                    self.step(number, ConfigApplied(entry.index, change))

    def flush(self, number: int) -> None:
        """The state machine's place becomes durable; the log on disk may follow later."""
        node = self.nodes[number]
        if node.applied <= node.disk.last_index and node.disk.holds(
            node.applied, node.core.term_at(Index(node.applied)) or 0
        ):
            node.disk = replace(node.disk, applied=node.applied, membership=node.core.membership)
            node._key = None

    def compact(self, number: int, index: int) -> None:
        """Forget the log up to ``index``, in memory and on disk."""
        node = self.nodes[number]
        disk = node.disk
        term = node.core.term_at(Index(index))
        if disk.base[0] < index <= disk.applied and term is not None:
            node.core.compact(Index(index))
            kept = disk.entries[index - disk.base[0] :]
            node.disk = replace(disk, base=(index, int(term)), entries=kept)
            node._key = None

    def read(self, number: int) -> None:
        """Ask for a read index. What is committed now must be covered by the answer."""
        self.contexts += 1
        self.floors[number, self.contexts] = len(self.truth)
        self.step(number, ReadRequested(self.contexts))

    def deliver(self, message: Message) -> None:
        self.step(message.to, Received(message))

    def step(self, number: int, event: Event) -> None:
        """Give a member an event, and do what it asks for."""
        node = self.nodes[number]
        core = node.core
        role, term, commit = core.role, core.term, core.commit_index
        last, last_term = core.last_index, node.log.last_term
        before = tuple(node.log._entries) if role is Role.LEADER else ()
        matches = _matches(core)
        base = node.log.base_index
        effects = core.step(event)
        node._key = None
        must(core.term >= term, "R6", "the term falls")
        must(core.commit_index >= commit, "R6", "the commit index falls")
        if core.role is not role or core.term != term:
            self._check_role(node)
        elif role is Role.LEADER:
            must(
                base == node.log.base_index and tuple(node.log._entries[: len(before)]) == before,
                "R2",
                "a leader changes its own log",
            )
            after = _matches(core)
            for follower, match in matches.items():
                must(after.get(follower, match) >= match, "R6", "a follower's match falls")
        if core.last_index != last or node.log.last_term != last_term:
            self._check_log(node, after=core.term_at(last) is not None)
        if core.commit_index > commit:
            self._check_commit(node, commit)
        self._carry(node, effects)

    # What it asks for.

    def _carry(self, node: Node, effects: Effects) -> None:
        if effects.persist is not None:
            node.writes = (*node.writes, effects.persist)
        if effects.install is not None:
            node.applied = node.handed = effects.install.index
            node.unapplied = ()
            node.more = False
        for message in effects.send:
            self._sent(node, message)
        due = node.given + len(node.writes)
        for message in effects.send_after_persist:
            if node.writes:
                node.held = (*node.held, (due, message))
            else:
                self._release(node, message)
        for entry in effects.committed:
            must(entry.index == node.handed + 1, "R5", "an entry is handed out twice or left out")
            must(node.disk.holds(entry.index, entry.term), "R5", "handed out before it is durable")
            must(self.truth[entry.index - 1] == entry, "R5", "another entry is committed here")
            node.handed = entry.index
        must(
            len(effects.committed) <= 1
            or sum(len(e.data) for e in effects.committed) <= self.config.max_committed_bytes,
            "B1",
            "more is handed out in one step than was asked for",
        )
        must(not (node.more and effects.committed), "B1", "the next part comes unasked")
        node.unapplied += effects.committed
        node.more = node.more or effects.more
        number = int(node.core.node_id)
        for read in effects.reads:
            floor = self.floors.pop((number, read.context), None)
            must(floor is not None, "R10", "a read is answered twice, or was never asked")
            must(read.index >= (floor or 0), "R10", "a read misses what was committed before it")
            self.reads_served += 1
        for to in effects.snapshots:
            self._send_snapshot(node, to)
        if self.eager and node.unapplied:
            self.apply(number)

    def _send_snapshot(self, node: Node, to: NodeId) -> None:
        core, index = node.core, Index(node.applied)
        term = core.term_at(index)
        must(term is not None, "R5", "the applied entry's term is known")
        meta = SnapshotMeta(index=index, term=term or Term(0), membership=core.membership)
        self._put(InstallSnapshot(sender=core.node_id, to=to, term=core.term, snapshot=meta))

    def _sent(self, node: Node, message: Message) -> None:
        """Check what leaves at once."""
        if isinstance(message, AppendRequest):
            must(
                self.leaders.get(message.term) == message.sender == node.core.node_id,
                "R1",
                "entries come from somebody who does not lead",
            )
        must(
            not isinstance(message, VoteRequest | VoteResponse | AppendResponse),
            "R7",
            "a promise does not wait for the disk",
        )
        self._put(message)

    def _put(self, message: Message) -> None:
        # Messages are values: two equal ones need no second place, as each may be delivered twice.
        if message not in self.net:
            self.net = (*self.net, message)

    def _release(self, node: Node, message: Message) -> None:
        """Check what leaves now that the disk has everything before it."""
        state = node.disk.hard_state
        match message:
            case VoteResponse(granted=True):
                must(
                    (state.term, state.vote) == (message.term, message.to),
                    "R7",
                    "a vote is spoken of before it is durable",
                )
                self._check_vote(message.sender, message.term, message.to)
            case VoteRequest():
                must(
                    (state.term, state.vote) == (message.term, message.sender),
                    "R7",
                    "a candidate asks before its own vote is durable",
                )
                self._check_vote(message.sender, message.term, message.sender)
            case AppendResponse(rejected=False):
                must(node.disk.last_index >= message.index, "R7", "not durable, but acknowledged")
                place = (int(message.sender), int(message.term))
                self.acked[place] = max(self.acked.get(place, 0), message.index)
            case _:
                pass
        self._put(message)

    # What must hold.

    def _check_vote(self, voter: int, term: int, candidate: int) -> None:
        given = self.votes.setdefault((voter, term), candidate)
        must(given == candidate, "R6", "two votes in one term")

    def _check_role(self, node: Node) -> None:
        core = node.core
        if core.role is Role.LEADER:
            number = int(core.node_id)
            state = node.disk.hard_state
            granted = [
                v for (v, t), chosen in self.votes.items() if (t, chosen) == (core.term, number)
            ]
            if (state.term, state.vote) == (core.term, number):
                granted.append(number)
            must(
                core.membership.won_by([NodeId(voter) for voter in granted]),
                "R1",
                "a leader without durable votes of a quorum",
            )
            must(
                self.leaders.setdefault(core.term, number) == number,
                "R1",
                "two leaders in one term",
            )
            # A late vote may still make a leader of a term that is past already.
            for entry, term in zip(self.truth, self.committed_in, strict=True):
                must(
                    term >= core.term
                    or entry.index <= node.log.base_index
                    or core.term_at(entry.index) == entry.term,
                    "R4",
                    "a leader lacks an entry that was committed in an earlier term",
                )
        if core.role in {Role.CANDIDATE, Role.PRE_CANDIDATE}:
            membership = core.membership
            must(
                core.node_id in (*membership.voters, *membership.outgoing),
                "R9",
                "who has no vote campaigns",
            )
            unapplied = self.truth[node.applied : core.commit_index]
            must(
                all(entry.kind is not EntryKind.CONFIG for entry in unapplied),
                "R9",
                "a campaign with a committed change that is not applied",
            )

    def _check_log(self, node: Node, *, after: bool) -> None:
        log = node.log
        previous = log.base_term
        entries = log._entries
        start = 0
        if after and len(entries) > 8:
            # The walk's logs are long, and their older part was checked when it came.
            start = len(entries) - 8
            previous = entries[start - 1].term
        for entry in entries[start:]:
            place = (previous, entry.kind, entry.data)
            known = self.matching.setdefault((entry.index, entry.term), place)
            must(known == place, "R3", "equal places in two logs, but different entries or pasts")
            previous = entry.term
        if node.core.role is Role.LEADER:
            open_changes = [
                entry
                for entry in entries[node.core.commit_index - log.base_index :]
                if entry.kind is EntryKind.CONFIG
            ]
            must(len(open_changes) <= 1, "R9", "two changes of membership on their way")
            if entries and entries[-1].kind is EntryKind.CONFIG:
                must(
                    entries[-1].term < node.core.term or node.core.commits_own_term,
                    "R9",
                    "a change of membership before an own entry is committed",
                )

    def _check_commit(self, node: Node, before: int) -> None:
        core, log = node.core, node.log
        index = core.commit_index
        if core.role is Role.LEADER:
            must(core.term_at(index) == core.term, "R8", "a commit that ends in an earlier term")
            holders = [
                number for number, other in self.nodes.items() if other.disk.holds(index, core.term)
            ]
            for voters in (core.membership.voters, core.membership.outgoing):
                must(
                    not voters or 2 * sum(v in holders for v in voters) > len(voters),
                    "R8",
                    "a commit without a quorum that has it durably",
                )
        for place in range(max(before, log.base_index) + 1, index + 1):
            entry = log._entries[place - log.base_index - 1]
            if place <= len(self.truth):
                must(self.truth[place - 1] == entry, "R5", "two entries committed at one place")
            else:
                must(core.role is Role.LEADER, "R8", "a follower commits before its leader")
                self.truth = (*self.truth, entry)
                self.committed_in = (*self.committed_in, core.term)
        if log.base_index > before:
            must(index <= len(self.truth), "R8", "a snapshot of what is not committed")
            must(
                self.truth[log.base_index - 1].term == log.base_term,
                "R5",
                "a snapshot that ends in another entry",
            )
