"""What must hold while a run goes on: an observer of all members, and the rules that it asks.

The observer sees each member from the inside, through public properties: of ``RaftCore`` (term, role,
commit_index, last_index), ``Applier``, ``Store`` and ``Lessor``, and what goes through ``Wal.append`` and
``Applier.apply``. A rule reports what is wrong, and where; the moment is added by the stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from coord_server.raft import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.testing.sim.machine import Stage
    from coord.testing.sim.mail import Mail
    from coord.testing.sim.nodeloop import NodeLoop
    from coord.testing.sim.server_node import ServerNode
    from coord_server.apply import Applied, Applier
    from coord_server.lease.lessor import Lessor
    from coord_server.members import AppliedChange
    from coord_server.mvcc.prepared import Prepared
    from coord_server.mvcc.store import Store
    from coord_server.peer.mesh import Mesh
    from coord_server.peer.snapshot_source import Snapshot
    from coord_server.raft import Entry, HardState, InstallSnapshot, Message
    from coord_server.raft.core import RaftCore
    from coord_server.read_queue import ReadQueue
    from coord_server.state import State
    from coord_server.storage.wal import Wal

Position: TypeAlias = tuple[int, int]
"""(index, term) of what a snapshot covers."""


class Member:
    """One epoch of one member, as rules see it."""

    __slots__ = (
        "applier", "core", "id", "is_tapped", "lessor", "name", "node", "seen", "state", "store", "wal",
    )  # fmt: skip

    def __init__(self, node: ServerNode, state: State) -> None:
        self.node: ServerNode = node
        self.name: str = node.name
        self.state: State = state
        self.core: RaftCore = state.core
        self.id: int = state.core.node_id
        self.applier: Applier = state.applier
        self.store: Store = state.applier.store
        self.lessor: Lessor = state.applier.lessor
        self.wal: Wal = state.wal
        self.seen: tuple[object, ...] = ()
        self.is_tapped: bool = False


class Rule(Protocol):
    """A check. Methods are called with the member that has just done something."""

    def opened(self, member: Member) -> None:
        """Look at a member whose state was loaded, before it runs."""
        ...

    def stepped(self, member: Member) -> None:
        """Look at a member whose term, role, commit or applied index has changed."""
        ...

    def appending(self, member: Member, entries: Sequence[Entry], behind: Position | None) -> None:
        """Look at what a member is about to write to its log; ``behind`` where it begins anew."""
        ...

    def appended(
        self,
        member: Member,
        hard: HardState | None,
        entries: Sequence[Entry],
        behind: Position | None,
    ) -> None:
        """Look at a write to the log that is said to be durable."""
        ...

    def sending(self, member: Member, messages: Sequence[Message]) -> None:
        """Look at messages that leave for other members."""
        ...

    def receiving(self, member: Member, messages: Sequence[Message]) -> None:
        """Look at messages that raft is about to be given."""
        ...

    def asking(self, member: Member, number: int) -> None:
        """Look at a member that begins to ask for a read index, for reads that have come."""
        ...

    def readable(self, member: Member, number: int, index: int) -> None:
        """Look at the read index that a question got."""
        ...

    def changing(self, member: Member) -> None:
        """Look at a member that is about to apply a change of membership."""
        ...

    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        """Look at an entry that was applied; ``before`` is the revision before it."""
        ...

    def checked(self, members: Sequence[Member]) -> None:
        """Look at all members that are up, now and then."""
        ...


class QuietRule:
    """A rule that looks at nothing; the real ones override what they need."""

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        self.report = report

    def opened(self, member: Member) -> None:
        """See Rule."""

    def stepped(self, member: Member) -> None:
        """See Rule."""

    def appending(self, member: Member, entries: Sequence[Entry], behind: Position | None) -> None:
        """See Rule."""

    def appended(
        self,
        member: Member,
        hard: HardState | None,
        entries: Sequence[Entry],
        behind: Position | None,
    ) -> None:
        """See Rule."""

    def sending(self, member: Member, messages: Sequence[Message]) -> None:
        """See Rule."""

    def receiving(self, member: Member, messages: Sequence[Message]) -> None:
        """See Rule."""

    def asking(self, member: Member, number: int) -> None:
        """See Rule."""

    def readable(self, member: Member, number: int, index: int) -> None:
        """See Rule."""

    def changing(self, member: Member) -> None:
        """See Rule."""

    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        """See Rule."""

    def checked(self, members: Sequence[Member]) -> None:
        """See Rule."""


class Observer:
    """Follows members through their lives and asks the rules."""

    def __init__(self, stage: Stage, mail: Mail) -> None:
        self.rules: list[Rule] = []
        self.log: dict[int, tuple[int, bytes]] = {}
        """The committed entries, (term, data) by index, as they were first applied anywhere.

        A change of membership is there without its data.
        """
        self.evaluated: int = 0
        self.leader_changes: int = 0
        self.mail = mail
        self._stage = stage
        self._members: dict[str, Member] = {}

    @property
    def members(self) -> list[Member]:
        """The members whose state is loaded."""
        return list(self._members.values())

    def member(self, name: str) -> Member | None:
        """Return a member that is up."""
        return self._members.get(name)

    def leader(self) -> Member | None:
        """Return the member that leads the newest term, as far as it knows."""
        leaders = [member for member in self.members if member.core.role is Role.LEADER]
        return max(leaders, key=lambda member: member.core.term, default=None)

    def member_opened(self, node: ServerNode, state: State) -> None:
        """Begin to follow an epoch of a member."""
        member = self._members[node.name] = Member(node, state)
        for rule in self.rules:
            rule.opened(member)
        self._follow_log(member)
        self._follow_state(member)

    def member_serves(self, node: ServerNode) -> None:
        """Look at a member that can serve now."""
        self._look(node.name)

    def member_down(self, node: ServerNode) -> None:
        """Let go of a member that has died."""
        self._members.pop(node.name, None)

    def step(self, loop: NodeLoop) -> None:
        """Look at the member that has just run, if it was one."""
        if loop.name in self._members:
            self._look(loop.name)

    def checkpoint(self) -> None:
        """Look at everybody."""
        for rule in self.rules:
            self.evaluated += 1
            rule.checked(self.members)

    def _look(self, name: str) -> None:
        member = self._members.get(name)
        if member is None:
            return
        if not member.is_tapped:
            self._follow_messages(member)
        core = member.core
        now = (core.term, core.role, core.leader, core.commit_index, member.applier.applied_index)
        if now == member.seen:
            return
        if not member.seen or now[2] != member.seen[2]:
            self.leader_changes += now[2] == core.node_id
        member.seen = now
        for rule in self.rules:
            rule.stepped(member)
        self.evaluated += len(self.rules)

    def _follow_log(self, member: Member) -> None:
        append = member.wal.append
        rules = self.rules

        def followed(
            hard: HardState | None,
            entries: Sequence[Entry],
            *,
            behind: Position | None = None,
        ) -> None:
            for rule in rules:
                rule.appending(member, entries, behind)
            append(hard, entries, behind=behind)
            for rule in rules:
                rule.appended(member, hard, entries, behind)

        _replace(member.wal, "append", followed)

    def _follow_state(self, member: Member) -> None:
        applier = member.applier
        apply = applier.apply
        store, log, rules = member.store, self.log, self.rules

        def followed(
            index: int, term: int, data: bytes, *, answers: bool, prepared: Sequence[Prepared] = ()
        ) -> Applied:
            if index <= applier.applied_index:
                return apply(index, term, data, answers=answers, prepared=prepared)
            before = store.revision
            outcome = apply(index, term, data, answers=answers, prepared=prepared)
            for rule in rules:
                rule.applied(member, index, term, data, before)
            log.setdefault(index, (term, data))
            return outcome

        _replace(applier, "apply", followed)
        apply_config = applier.apply_config

        def followed_config(index: int, term: int, data: bytes) -> AppliedChange:
            if index <= applier.applied_index:
                return apply_config(index, term, data)
            before = store.revision
            for rule in rules:
                rule.changing(member)
            outcome = apply_config(index, term, data)
            for rule in rules:
                rule.applied(member, index, term, b"", before)
            log.setdefault(index, (term, b""))
            return outcome

        _replace(applier, "apply_config", followed_config)

    def _follow_messages(self, member: Member) -> None:
        """Stand between a member and its peers, as soon as it has them."""
        replica: Any = getattr(member.node.server, "_replica", None)
        if replica is None:
            return
        member.is_tapped = True
        rules = self.rules
        send = replica._peers.send  # noqa: SLF001 - the one place where all messages pass

        def followed(messages: Sequence[Message]) -> None:
            for rule in rules:
                rule.sending(member, messages)
            send(messages)

        leaving = self.mail.cut(member, followed)
        _replace(replica._peers, "send", leaving)  # noqa: SLF001
        _replace(replica._writer, "_send", leaving)  # noqa: SLF001
        self._follow_offers(member, replica._peers._mesh)  # noqa: SLF001
        self._follow_reads(member, replica._reads._queue)  # noqa: SLF001
        received = replica.received

        def taken(messages: Sequence[Message]) -> None:
            for rule in rules:
                rule.receiving(member, messages)
            received(messages)

        _replace(replica, "received", self.mail.shuffled(member, taken))

    def _follow_offers(self, member: Member, mesh: Mesh | None) -> None:
        if mesh is None:
            return
        rules, offer = self.rules, mesh.offer_snapshot

        def offering(install: InstallSnapshot, snapshot: Snapshot) -> None:
            for rule in rules:
                rule.sending(member, (install,))
            offer(install, snapshot)

        _replace(mesh, "offer_snapshot", offering)

    def _follow_reads(self, member: Member, queue: ReadQueue) -> None:
        rules, ask, ready = self.rules, queue.ask, queue.ready

        def asking(tick: int = 0) -> int | None:
            number = ask(tick)
            if number is not None:
                for rule in rules:
                    rule.asking(member, number)
            return number

        def answered(context: int, index: int) -> None:
            for rule in rules:
                rule.readable(member, context, index)
            ready(context, index)

        _replace(queue, "ask", asking)
        _replace(queue, "ready", answered)


def _replace(owner: Any, name: str, function: Callable[..., object]) -> None:  # noqa: ANN401 - any object of the product
    """Put a function in front of a method of one object."""
    setattr(owner, name, function)
