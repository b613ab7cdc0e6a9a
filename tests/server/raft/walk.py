"""Long random walks through a cluster's life, then a calm end in which it must get somewhere.

One seed decides everything: how many members, which options, and each step. ``walk(seed, steps)`` raises
what it found; the same seed finds it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from coord_server.raft import (
    AppendRequest,
    ChangeKind,
    ChangeStep,
    ConfigChange,
    ConfigProposed,
    EntryKind,
    Index,
    InstallSnapshot,
    LeaderLost,
    Membership,
    Message,
    NodeId,
    ProposalDropped,
    Proposed,
    RaftConfig,
    Role,
    SnapshotSent,
    Tick,
    TransferRequested,
    Unreachable,
)
from tests.server.raft.world import Broken, World, must

MEMBERS = 5
MAX_MESSAGES = 150
CALM_ROUNDS = 400


class Walk:
    """One walk. ``counts`` says what happened in it, so that a test can see that something did."""

    def __init__(self, seed: int) -> None:
        self.rand = rand = random.Random(seed)
        size = rand.choice((1, 3, 3, 3, 5))
        self.config = RaftConfig(
            node_id=NodeId(1),
            membership=Membership(),
            election_ticks=rand.choice((3, 5, 10)),
            pre_vote=rand.random() < 0.6,
            check_quorum=rand.random() < 0.6,
            max_append_bytes=rand.choice((1, 4, 1000)),
            max_inflight=rand.choice((1, 2, 8)),
            max_uncommitted_bytes=rand.choice((20, 1000)),
            max_committed_bytes=(1, 4, 1000)[seed % 3],
        )
        voters = tuple(range(1, size + 1))
        self.world = World(voters, self.config, others=tuple(range(size + 1, MEMBERS + 1)))
        self.world.eager = rand.random() < 0.5
        self.sync_disk = rand.random() < 0.3
        self.proposed = 0
        self.counts: dict[str, int] = {}
        self.cut: frozenset[int] = frozenset()  # one side of a partition
        self.crashes = rand.choice((0, 0.005, 0.02))
        self.loss = rand.choice((0, 0.05, 0.3))
        rare: list[tuple[Callable[[int], None], float]] = [
            (self._tick, rand.choice((5, 20, 40))),
            (self._propose, 6),
            (self._read, 2),
            (self._change, rand.choice((0, 1, 3))),
            (self._compact, rand.choice((0, 0.5, 2))),
            (self._transfer, rand.choice((0, 0.5))),
            (self._lose_leader, rand.choice((0, 0.5))),
            (self._unreachable, 0.3),
            (self._partition, rand.choice((0, 0.3))),
            (self._forget_messages, 0.05),
        ]
        self.actions = [action for action, _ in rare]
        self.weights = [weight for _, weight in rare]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
        self._calm_down()

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def _step(self) -> None:
        world, rand = self.world, self.rand
        alive = [n for n, node in world.nodes.items() if node.alive]
        busy = [n for n in alive if world.nodes[n].writes]
        lazy = [n for n in alive if world.nodes[n].unapplied or world.nodes[n].more]
        if rand.random() < self.crashes:
            self._crash_or_start(rand.choice(list(world.nodes)))
        elif world.net and rand.random() < 0.6:
            self._deliver()
        elif busy and rand.random() < 0.6:
            world.persist(rand.choice(busy))
        elif lazy and rand.random() < 0.4:
            self._apply(rand.choice(lazy))
        elif alive:
            action = rand.choices(self.actions, self.weights)[0]
            action(rand.choice(alive))
        if self.sync_disk:
            self._settle_disks()

    def _apply(self, number: int) -> None:
        if self.world.nodes[number].unapplied:
            self.world.apply_part(number)
        else:
            self._count("part")
            self.world.go_on(number)

    def _settle_disks(self) -> None:
        for number, node in self.world.nodes.items():
            while node.alive and node.writes:
                self.world.persist(number)

    # Messages.

    def _deliver(self) -> None:
        world, rand = self.world, self.rand
        message = world.net[int(rand.random() ** 2 * len(world.net))]
        lost = rand.random() < self.loss
        if lost or rand.random() < 0.9:
            self._remove(message)
        else:
            self._count("doubled")
        if lost or not self._connected(message) or not world.nodes[message.to].alive:
            self._lose(message)
        else:
            if isinstance(message, InstallSnapshot):
                self._count("snapshot")
            if isinstance(message, AppendRequest) and message.entries and rand.random() < 0.02:
                # A leader may send any part of what it has; ours always sends all that fits.
                self._count("cut")
                message = replace(message, entries=message.entries[:-1])
            world.deliver(message)
        while len(world.net) > MAX_MESSAGES:
            old = rand.choice(world.net)
            self._remove(old)
            self._lose(old)

    def _connected(self, message: Message) -> bool:
        return (message.sender in self.cut) == (message.to in self.cut)

    def _remove(self, message: Message) -> None:
        self.world.net = tuple(other for other in self.world.net if other is not message)

    def _lose(self, message: Message) -> None:
        """A transport says at once, or by and by, that a snapshot did not arrive."""
        world = self.world
        if isinstance(message, InstallSnapshot) and world.nodes[message.sender].alive:
            world.step(message.sender, SnapshotSent(message.to))

    def _forget_messages(self, _: int) -> None:
        old, self.world.net = self.world.net, ()
        for message in old:
            self._lose(message)

    # Members.

    def _crash_or_start(self, number: int) -> None:
        world = self.world
        if world.nodes[number].alive:
            self._count("crash")
            world.crash(number)
        else:
            world.start(number)

    def _tick(self, number: int) -> None:
        core = self.world.nodes[number].core
        was = core.role
        self.world.step(number, Tick(self.rand.randrange(self.config.election_ticks)))
        if core.role is not was and core.role is Role.FOLLOWER:
            self._count("stepped down")

    def _leader(self, number: int) -> int:
        """Return a member that leads, if there is one: most requests go there."""
        leaders = [n for n, node in self.world.nodes.items() if node.core.role is Role.LEADER]
        leaders = [n for n in leaders if self.world.nodes[n].alive]
        return self.rand.choice(leaders) if leaders and self.rand.random() < 0.8 else number

    def _propose(self, number: int) -> None:
        self.proposed += 1
        try:
            self.world.step(self._leader(number), Proposed(b"%d" % self.proposed))
        except ProposalDropped:
            self._count("dropped")
        else:
            self._count("proposed")

    def _read(self, number: int) -> None:
        self.world.read(number if self.rand.random() < 0.5 else self._leader(number))

    def _change(self, number: int) -> None:
        rand = self.rand
        kinds = list(ChangeKind)
        steps = tuple(
            ChangeStep(rand.choice(kinds), NodeId(rand.randint(1, MEMBERS)))
            for _ in range(rand.choice((1, 1, 1, 2, 3)))
        )
        try:
            self.world.step(self._leader(number), ConfigProposed(ConfigChange(steps)))
        except ProposalDropped:
            self._count("change dropped")
        else:
            self._count("joint" if len(steps) > 1 else "change")

    def _compact(self, number: int) -> None:
        world, rand = self.world, self.rand
        world.flush(number)
        disk = world.nodes[number].disk
        if disk.applied > disk.base[0] and rand.random() < 0.5:
            world.compact(number, rand.randint(disk.base[0] + 1, disk.applied))

    def _transfer(self, number: int) -> None:
        try:
            self.world.step(
                self._leader(number), TransferRequested(NodeId(self.rand.randint(1, MEMBERS)))
            )
        except ProposalDropped:
            self._count("transfer dropped")
        else:
            self._count("transfer")

    def _lose_leader(self, number: int) -> None:
        self.world.step(number, LeaderLost(self.world.nodes[number].core.leader))

    def _unreachable(self, number: int) -> None:
        self.world.step(number, Unreachable(NodeId(self.rand.randint(1, MEMBERS))))

    def _partition(self, _: int) -> None:
        size = self.rand.choice((0, 0, 1, 2))
        self.cut = frozenset(self.rand.sample(range(1, MEMBERS + 1), size))

    # The end.

    def _calm_down(self) -> None:
        """Faults end; within some election timeouts there must be a leader that everybody follows."""
        world = self.world
        self.cut = frozenset()
        world.eager = True
        for number, node in world.nodes.items():
            if not node.alive:
                world.start(number)
        goal = b"the end"
        reads = 0
        for _ in range(CALM_ROUNDS):
            for number, node in world.nodes.items():
                world.step(number, Tick(self.rand.randrange(self.config.election_ticks)))
                if node.core.role is Role.LEADER and not self._has_goal(goal):
                    try:
                        world.step(number, Proposed(goal))
                    except ProposalDropped:
                        self._count("dropped")
            self._settle()
            if self._has_goal(goal) and self._agree():
                if reads:
                    must(world.reads_served > reads - 1, "R10", "a calm cluster serves no read")
                    return
                served = world.reads_served
                for number in self._members():
                    world.read(number)
                self._settle()
                must(
                    world.reads_served == served + len(self._members()),
                    "R10",
                    "a calm cluster serves its reads",
                )
                return
        raise Broken("liveness: a calm cluster does not get anywhere")

    def _has_goal(self, goal: bytes) -> bool:
        return any(entry.data == goal for entry in self.world.truth[-5:])

    def _members(self) -> tuple[NodeId, ...]:
        """Return the members as the newest leader knows them."""
        leaders = [n.core for n in self.world.nodes.values() if n.core.role is Role.LEADER]
        return max(leaders, key=lambda core: core.term).membership.members if leaders else ()

    def _agree(self) -> bool:
        world = self.world
        members = self._members()
        return bool(members) and all(
            world.nodes[number].applied == len(world.truth) for number in members
        )

    def _settle(self) -> None:
        """Let everything arrive, in order."""
        world = self.world
        for _ in range(2000):
            self._settle_disks()
            for number in world.nodes:
                world.apply(number)
            if not world.net:
                return
            message, world.net = world.net[0], world.net[1:]
            world.deliver(message)
        raise Broken("liveness: messages without end")


def walk(seed: int, steps: int) -> Walk:
    """Walk; raises what is wrong."""
    result = Walk(seed)
    result.run(steps)
    return result


def committed_changes(result: Walk) -> int:
    return sum(entry.kind is EntryKind.CONFIG for entry in result.world.truth)


__all__ = ["Index", "Walk", "committed_changes", "walk"]
