# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Copies and keys of a core, for tests that look at many states of it.

A core is a tree of slotted objects. Most of what they hold are values, which copies share; the slots
that hold something that changes are named here. `check_parts` notices one that is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from operator import attrgetter
from typing import Any

from coord_server.raft import Entry, RaftCore, RaftLog
from coord_server.raft.election import Candidacy
from coord_server.raft.leader import Leadership
from coord_server.raft.member import Member
from coord_server.raft.outbox import Outbox
from coord_server.raft.progress import Progress
from coord_server.raft.reads import ReadRounds
from coord_server.raft.replication import Replication

# What changes within each part.
CHANGING: dict[type, tuple[str, ...]] = {
    RaftCore: ("_asked", "_candidacy", "_leadership", "_member"),
    Member: ("log", "out", "pending_changes"),
    RaftLog: ("_entries",),
    # Its lists are empty between two steps, so copies may share them.
    Outbox: (),
    Candidacy: ("_grants", "_member", "_refusals"),
    Leadership: ("_member", "_reads", "replication"),
    Replication: ("_member", "progress"),
    Progress: ("inflight",),
    ReadRounds: ("_acked", "_member", "_parked", "_waiting"),
}
NOT_IN_KEY = {"config", "members", "alone"}  # these follow from the rest
VALUES = {
    kind: tuple(name for name in kind.__slots__ if name not in changing)  # type: ignore[attr-defined]
    for kind, changing in CHANGING.items()
}
KEYS = {
    kind: attrgetter(*(name for name in names if name not in NOT_IN_KEY))
    for kind, names in VALUES.items()
    if kind is not Outbox and names
}
KEYS[Outbox] = attrgetter("_saved", "_reported", "handed_out", "is_holding")
CONTAINERS = (list, set, deque, dict)


def copied(core: RaftCore) -> RaftCore:
    """Return a core that goes its own way from here."""
    copy = _copied(core, {})
    assert isinstance(copy, RaftCore)
    return copy


def _copied(value: Any, known: dict[int, Any]) -> Any:  # noqa: ANN401 - a tree of anything
    kind = type(value)
    if kind is list or kind is set or kind is deque:
        return kind(value)
    if kind is dict:
        return {key: _copied(item, known) for key, item in value.items()}
    changing = CHANGING.get(kind)
    if changing is None:
        return value
    copy = known.get(id(value))
    if copy is None:
        copy = known[id(value)] = object.__new__(kind)
        for name in VALUES[kind]:
            setattr(copy, name, getattr(value, name))
        for name in changing:
            setattr(copy, name, _copied(getattr(value, name), known))
    return copy


def key_of(core: RaftCore) -> Hashable:
    """Return what tells two cores apart, as far as their future is concerned."""
    return _key(core, set())


def _key(value: Any, known: set[int]) -> Hashable:  # noqa: ANN401 - see _copied
    kind = type(value)
    if kind is list or kind is deque:
        if value and type(value[0]) is Entry:
            return tuple((entry.term, entry.data) for entry in value)
        return tuple(value)
    if kind is set:
        members: Hashable = frozenset(value)
        return members
    if kind is dict:
        return tuple((key, _key(item, known)) for key, item in value.items())
    changing = CHANGING.get(kind)
    if changing is None or id(value) in known:
        return None  # nothing, or the member, which every part refers to
    known.add(id(value))
    values = KEYS[kind](value) if kind in KEYS else None
    return (values, *(_key(getattr(value, name), known) for name in changing))


def check_parts(core: RaftCore) -> None:
    """Assert that everything in a core that can change is named as such."""
    parts: list[Any] = [core]
    seen: set[int] = set()
    while parts:
        part = parts.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        for name in type(part).__slots__:
            value = getattr(part, name)
            is_part = type(value) in CHANGING
            if name in CHANGING[type(part)]:
                parts += [value] if is_part else []
                if isinstance(value, dict):
                    parts += [item for item in value.values() if type(item) in CHANGING]
            elif isinstance(value, CONTAINERS):
                assert type(part) is Outbox, f"{type(part).__name__}.{name} changes"
                assert not value, f"{name} is empty between two steps"
            else:
                assert not is_part, f"{type(part).__name__}.{name} changes"
