"""Small-scope search: every order of a few events, breadth first, with the invariants in each state.

Three members, two more terms, two entries, a change of membership, a crash and a doubled message: most
mistakes in such rules show in a scope of this size. Each root is a situation from which the search
begins, since from an empty cluster the interesting ones are too far away. A message that is never
delivered is lost, so losses need no step of their own. States are told apart by a hash of everything
that can influence their future.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from coord_server.raft import (
    AppendRequest,
    AppendResponse,
    ChangeKind,
    ChangeStep,
    CommitNotice,
    ConfigChange,
    ConfigProposed,
    Entry,
    EntryKind,
    HardState,
    Index,
    InstallSnapshot,
    Membership,
    Message,
    NodeId,
    ProposalDropped,
    Proposed,
    RaftConfig,
    Role,
    SnapshotMeta,
    Term,
    Tick,
    VoteResponse,
)
from tests.server.raft.world import Broken, World, forget_hashes

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Budget:
    """What may still happen."""

    max_term: int
    proposals: int = 2
    changes: tuple[ConfigChange, ...] = ()
    heartbeats: int = 1
    reads: int = 1
    crashes: int = 1
    doubles: int = 1


@dataclass(frozen=True, slots=True)
class Root:
    name: str
    make: Callable[[], World]
    budget: Budget


@dataclass(frozen=True, slots=True)
class State:
    world: World
    budget: Budget


class Found(AssertionError):
    """A path to a state in which an invariant does not hold."""


def config_of(*, pre_vote: bool = False) -> RaftConfig:
    # One tick is a whole election timeout: patience is not what is searched here.
    return RaftConfig(
        node_id=NodeId(1),
        membership=Membership(),
        election_ticks=1,
        max_append_bytes=1,
        pre_vote=pre_vote,
        check_quorum=pre_vote,
    )


def search(root: Root, limit: int) -> int:
    """Look at up to ``limit`` states; return how many there were. Raises Found."""
    forget_hashes()
    try:
        first = State(root.make(), root.budget)
    except Exception as error:
        raise Found(f"{root.name}: {error}\n  on the way to the root") from error
    key = _hash(first)
    came: dict[int, tuple[int, str]] = {key: (0, "")}
    queue = deque([(key, first)])
    while queue and len(came) < limit:
        key, state = queue.popleft()
        for label, change in _steps(state):
            budget = state.budget
            world = state.world.copy()
            try:
                budget = change(world, budget) or budget
            except ProposalDropped:
                continue
            except Exception as error:
                path = [*_path(came, key), label]
                raise Found(f"{root.name}: {error}\n  " + "\n  ".join(path)) from error
            following = State(world, budget)
            new = _hash(following)
            if new not in came:
                came[new] = (key, label)
                queue.append((new, following))
    return len(came)


def _hash(state: State) -> int:
    return hash((state.world.key(), state.budget))


def _path(came: dict[int, tuple[int, str]], key: int) -> list[str]:
    labels: list[str] = []
    while came[key][1]:
        key, label = came[key][0], came[key][1]
        labels.append(label)
    return labels[::-1]


Step = Callable[[World, Budget], Budget | None]


def _steps(state: State) -> Iterator[tuple[str, Step]]:
    world, budget = state.world, state.budget
    for message in world.net:
        if world.nodes[message.to].alive:
            yield f"deliver {message}", _delivery(message)
            if budget.doubles:
                yield f"deliver, and keep, {message}", _double(message)
                if isinstance(message, AppendRequest) and message.entries:
                    # A leader may send any part of what it has; ours always sends all that fits.
                    part = replace(message, entries=message.entries[:-1])
                    yield f"deliver a part: {part}", _double(part)
    for number, node in world.nodes.items():
        if node.writes:
            yield f"persist {number}", _persist(number)
        if node.unapplied:
            yield f"apply {number}", _apply(number)
        if budget.crashes:
            yield f"crash {number}", _crash(number)
        if budget.reads:
            yield f"read {number}", _read(number)
        if node.core.role is not Role.LEADER:
            if node.core.term < budget.max_term:
                yield f"campaign {number}", _tick(number)
            continue
        if budget.heartbeats:
            yield f"heartbeat {number}", _heartbeat(number)
        if budget.proposals:
            yield f"propose {number}", _proposal(number)
        for change in budget.changes:
            yield f"change {number} {change}", _change(number, change)


def _delivery(message: Message) -> Step:
    def step(world: World, _: Budget) -> None:
        world.net = tuple(other for other in world.net if other is not message)
        world.own(message.to)
        world.deliver(message)

    return step


def _double(message: Message) -> Step:
    def step(world: World, budget: Budget) -> Budget:
        world.own(message.to)
        world.deliver(message)
        return replace(budget, doubles=budget.doubles - 1)

    return step


def _persist(number: int) -> Step:
    def step(world: World, _: Budget) -> None:
        world.own(number)
        world.persist(number)

    return step


def _apply(number: int) -> Step:
    def step(world: World, _: Budget) -> None:
        world.own(number)
        world.apply(number)

    return step


def _crash(number: int) -> Step:
    def step(world: World, budget: Budget) -> Budget:
        world.own(number)
        world.start(number)
        return replace(budget, crashes=budget.crashes - 1)

    return step


def _tick(number: int) -> Step:
    def step(world: World, _: Budget) -> None:
        world.own(number)
        world.step(number, Tick())

    return step


def _heartbeat(number: int) -> Step:
    def step(world: World, budget: Budget) -> Budget:
        world.own(number)
        world.step(number, Tick())
        return replace(budget, heartbeats=budget.heartbeats - 1)

    return step


def _proposal(number: int) -> Step:
    def step(world: World, budget: Budget) -> Budget:
        world.own(number)
        world.step(number, Proposed(b"%d" % budget.proposals))
        return replace(budget, proposals=budget.proposals - 1)

    return step


def _read(number: int) -> Step:
    def step(world: World, budget: Budget) -> Budget:
        world.own(number)
        world.read(number)
        return replace(budget, reads=budget.reads - 1)

    return step


def _change(number: int, change: ConfigChange) -> Step:
    def step(world: World, budget: Budget) -> Budget:
        world.own(number)
        world.step(number, ConfigProposed(change))
        left = tuple(other for other in budget.changes if other is not change)
        return replace(budget, changes=left)

    return step


# Roots.


def settled(
    world: World, *, but: tuple[int, ...] = (), until: Callable[[World], bool] | None = None
) -> World:
    """Deliver, write and apply everything, in order, perhaps only until something holds.

    What is from or to ``but`` is lost.
    """
    for _ in range(300):
        if until is not None and until(world):
            return world
        nodes = [(n, node) for n, node in world.nodes.items() if n not in but]
        busy = [number for number, node in nodes if node.writes]
        lazy = [number for number, node in nodes if node.unapplied]
        if busy:
            world.persist(busy[0])
        elif lazy:
            world.apply(lazy[0])
        elif world.net:
            message, world.net = world.net[0], world.net[1:]
            if message.to not in but and message.sender not in but:
                world.deliver(message)
        else:
            return world
    raise Broken("liveness: messages without end")


def leads(number: int, term: int) -> Callable[[World], bool]:
    def holds(world: World) -> bool:
        core = world.nodes[number].core
        return core.role is Role.LEADER and core.term == term

    return holds


def _elected(
    voters: tuple[int, ...] = (1, 2, 3), *, others: tuple[int, ...] = (), pre_vote: bool = False
) -> World:
    world = World(voters, config_of(pre_vote=pre_vote), others=others)
    world.step(1, Tick())
    return settled(world)


def _with_logs(*logs: tuple[int, ...]) -> World:
    """Return members with these terms in their logs; nothing is known to be committed."""
    world = World(tuple(range(1, len(logs) + 1)), config_of())
    term = max(max(log) for log in logs)
    for number, terms in enumerate(logs, 1):
        entries = tuple(
            Entry(Term(t), Index(index), EntryKind.NORMAL, b"x") for index, t in enumerate(terms, 1)
        )
        for entry, previous in zip(entries, (0, *terms), strict=False):
            world.matching[entry.index, entry.term] = (previous, entry.kind, entry.data)
        node = world.nodes[number]
        node.disk = replace(node.disk, hard_state=HardState(Term(term)), entries=entries)
        world.start(number)
    return world


def _left_behind() -> World:
    """n3 lacks an entry that n1 and n2 have, and that n1 knows to be committed."""
    world = _elected()
    world.step(1, Proposed(b"a"))
    return settled(world, but=(3,))


def _old_entry() -> World:
    """Figure 3.7: n1 leads again, with an entry of term 2 that n2 is about to get, and n3 one of term 3."""
    world = _with_logs((1, 2), (1,), (1, 3))
    world.step(1, Tick())
    settled(world, but=(3,), until=leads(1, 4))
    world.net = tuple(message for message in world.net if message.to == 2)
    return world


def _conflict() -> World:
    """n1 leads and has committed with n2; n3 has another entry at that place."""
    world = _with_logs((1, 1), (1, 1), (1, 1, 2))
    world.step(1, Tick())
    settled(world, but=(3,))
    world.step(1, Tick())
    return world


def _told_ahead() -> World:
    """n1 has committed with n2; n3 hears of it before it has the entries, and has others in their place."""
    world = _with_logs((1, 1), (1, 1), (1, 1, 2, 2))
    world.step(1, Tick())
    settled(world, but=(3,))
    world.step(1, Tick())
    settled(world, but=(2,), until=lambda w: bool(_to_third(w, AppendRequest)))
    (append,) = _to_third(world, AppendRequest)
    world.net = ()
    # Of what it may be sent it gets nothing at first, so that n1 knows where their logs agree.
    world.deliver(replace(append, entries=()))
    settled(world, but=(2,), until=lambda w: bool(_to_third(w, AppendRequest)))
    held = world.net
    world.step(1, Proposed(b"a"))
    settled(world, but=(3,), until=lambda w: bool(_to_third(w, CommitNotice)))
    world.net = (*held, *_to_third(world, CommitNotice))
    return world


def _to_third(world: World, kind: type[M]) -> list[M]:
    return [m for m in world.net if isinstance(m, kind) and m.to == 3]


def _new_leader() -> World:
    """n2 leads and does not know that what n1 told to be committed is."""
    world = _elected()
    world.step(1, Proposed(b"a"))
    settled(world, until=lambda w: len(w.truth) == 2)
    world.net = ()
    world.step(2, Tick())
    settled(world, but=(1,), until=leads(2, 2))
    return world


def _deposed() -> World:
    """n1 leads term 1 and nobody listens: n2 leads term 2, and has committed more."""
    world = _elected()
    world.step(2, Tick())
    settled(world, but=(1,))
    world.step(2, Proposed(b"a"))
    return settled(world, but=(1,))


def _deposed_with_another() -> World:
    """The same of five: n1 and n2 have not heard of n3, which the others have elected."""
    world = _elected((1, 2, 3, 4, 5))
    world.step(3, Tick())
    settled(world, but=(1, 2))
    world.step(3, Proposed(b"a"))
    return settled(world, but=(1, 2))


def _late_messages() -> World:
    """All is settled; then old messages of this term come: an append, an answer, a snapshot."""
    world = _elected()
    world.step(1, Proposed(b"a"))
    append = world.net[0]
    world.step(1, Proposed(b"b"))
    settled(world)
    one, two = NodeId(1), NodeId(2)
    meta = SnapshotMeta(index=Index(1), term=Term(1), membership=world.nodes[1].core.membership)
    world.net = (
        append,
        _ack(2, term=1, index=1),
        InstallSnapshot(sender=one, to=two, term=Term(1), snapshot=meta),
    )
    return world


def _late_answers() -> World:
    """n1 is about to lead term 3; answers of terms that are past are still under way to it.

    In term 1 n2 acknowledged an entry 3, which the leader of term 2 has replaced.
    """
    world = _with_logs((1, 2), (1, 2), (1, 2))
    world.step(1, Tick())
    settled(world, but=(3,), until=leads(1, 3))
    late = VoteResponse(sender=NodeId(2), to=NodeId(1), term=Term(3), granted=True)
    world.net = (*(m for m in world.net if m.to == 3), _ack(2, term=1, index=3), late)
    return world


def _ack(sender: int, *, term: int, index: int) -> AppendResponse:
    return AppendResponse(
        sender=NodeId(sender),
        to=NodeId(1),
        term=Term(term),
        index=Index(index),
        hint_index=Index(0),
        hint_term=Term(0),
    )


def _write_under_way() -> World:
    """n3 led term 2 and its entry is still being written; n1 has committed another one in term 3."""
    world = _elected()
    world.step(3, Tick())
    settled(world, but=(1,), until=leads(3, 2))
    world.net = ()
    world.step(1, Tick())
    world.step(1, Tick())  # it leads term 1: that was a heartbeat
    world.net = ()
    world.start(1)
    world.step(1, Tick())
    settled(world, but=(3,))
    world.step(1, Tick())
    settled(world, but=(3,))
    return world


def _compacted() -> World:
    """n3 lacks what n1 has compacted."""
    world = _left_behind()
    world.flush(1)
    world.compact(1, 2)
    world.step(1, Tick())
    return world


def _removal() -> World:
    """Changes are applied later than they are committed."""
    world = _elected()
    world.eager = False
    return world


def _unapplied() -> World:
    """All know that the removal of n3 is committed; nobody has applied it."""
    world = _removal()
    world.step(1, ConfigProposed(change(ChangeKind.REMOVE, 3)))
    for _ in range(100):
        busy = [number for number, node in world.nodes.items() if node.writes]
        if busy:
            world.persist(busy[0])
        elif world.net:
            message, world.net = world.net[0], world.net[1:]
            world.deliver(message)
    return world


def _with_learner() -> World:
    world = _elected((1, 2), others=(3,))
    world.step(1, ConfigProposed(change(ChangeKind.ADD_LEARNER, 3)))
    settled(world)
    world.step(1, Proposed(b"a"))
    return world


def change(kind: ChangeKind, node: int) -> ConfigChange:
    return ConfigChange((ChangeStep(kind, NodeId(node)),))


_REMOVALS = (change(ChangeKind.REMOVE, 3), change(ChangeKind.REMOVE, 1))
_ADDITIONS = (change(ChangeKind.ADD_LEARNER, 3), change(ChangeKind.ADD_VOTER, 3))

ROOTS = (
    Root("empty", lambda: World((1, 2, 3), config_of()), Budget(max_term=2)),
    Root("elected", _elected, Budget(max_term=3)),
    Root(
        "pre-vote",
        lambda: _elected(pre_vote=True),
        Budget(max_term=3, proposals=1, heartbeats=2),
    ),
    Root("left behind", _left_behind, Budget(max_term=3, proposals=1)),
    Root("old entry", _old_entry, Budget(max_term=6, proposals=1)),
    Root("conflict", _conflict, Budget(max_term=4, proposals=1)),
    Root("told ahead", _told_ahead, Budget(max_term=4, proposals=1)),
    Root("new leader", _new_leader, Budget(max_term=3, proposals=1)),
    Root("deposed", _deposed, Budget(max_term=3, proposals=1)),
    Root("deposed with another", _deposed_with_another, Budget(max_term=3, proposals=0)),
    Root("late messages", _late_messages, Budget(max_term=2, proposals=1)),
    Root("late answers", _late_answers, Budget(max_term=4, proposals=1)),
    Root("write under way", _write_under_way, Budget(max_term=4, proposals=1, reads=0)),
    Root("compacted", _compacted, Budget(max_term=2, proposals=1)),
    Root("removal", _removal, Budget(max_term=3, proposals=1, reads=0, changes=_REMOVALS)),
    Root("unapplied", _unapplied, Budget(max_term=3, proposals=1, reads=0)),
    Root(
        "addition",
        lambda: _elected((1, 2), others=(3,)),
        Budget(max_term=2, proposals=1, changes=_ADDITIONS),
    ),
    Root("learner", _with_learner, Budget(max_term=2, proposals=0, reads=0, heartbeats=0)),
)
