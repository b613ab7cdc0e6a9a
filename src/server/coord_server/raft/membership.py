"""Who votes: memberships, changes of them, and the quorums that a membership asks for.

A membership is *joint* while it has ``outgoing`` voters: then every decision needs a majority of both
sets (thesis 4.3). A change of one voter needs no joint phase (thesis 4.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import TYPE_CHECKING, Final

from coord_server.raft.quorum import has_majority, quorum_index
from coord_server.raft.types import Index, NodeId

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_HEAD: Final = struct.Struct(">BBH")
_STEP: Final = struct.Struct(">BQ")
_FORMAT: Final = 1
_LEAVE: Final = 1


class BadChange(Exception):
    """The change does not fit the membership; the text says why. Nothing was changed."""


@unique
class ChangeKind(IntEnum):
    """What a step does to one member; the numbers are part of the log's format."""

    ADD_VOTER = 1  # also makes a learner a voter
    ADD_LEARNER = 2  # also makes a voter a learner
    REMOVE = 3
    UPDATE = 4  # changes no quorum; what it changes is in the context


@dataclass(frozen=True, slots=True)
class ChangeStep:
    """One member's part of a change."""

    kind: ChangeKind
    node: NodeId


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A change of membership. ``leave`` ends a joint phase and has no steps.

    Steps that touch more than one voter go through a joint phase, which the leader ends by itself.
    """

    steps: tuple[ChangeStep, ...] = ()
    leave: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The members by their part; every tuple ascends, and no member is in two of them.

    ``outgoing`` may overlap ``voters`` and is empty unless the membership is joint. ``learners_next``
    are voters that become learners when the joint phase ends.
    """

    voters: tuple[NodeId, ...] = ()
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()

    @property
    def is_joint(self) -> bool:
        """Whether two sets of voters decide together."""
        return bool(self.outgoing)

    @property
    def all_voters(self) -> tuple[NodeId, ...]:
        """Every member whose vote counts somewhere, ascending."""
        return tuple(sorted({*self.voters, *self.outgoing}))

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Every member that gets the log, ascending."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners, *self.learners_next}))

    def won_by(self, granted: Collection[NodeId]) -> bool:
        """Return whether ``granted`` is a quorum."""
        return has_majority(self.voters, granted) and (
            not self.outgoing or has_majority(self.outgoing, granted)
        )

    def lost_by(self, refused: Collection[NodeId]) -> bool:
        """Return whether no quorum is possible without those who refused."""
        left = [node for node in self.all_voters if node not in refused]
        return not self.won_by(left)

    def committed(self, match: Mapping[NodeId, Index]) -> Index:
        """Return the highest index that a quorum holds durably; 0 without voters."""
        if not self.voters:
            return Index(0)
        index = quorum_index(self.voters, match)
        if self.outgoing:
            index = min(index, quorum_index(self.outgoing, match))
        return index

    def changed(self, change: ConfigChange) -> Membership:
        """Return the membership after ``change``. Raises BadChange."""
        if change.leave:
            if not self.is_joint:
                raise BadChange("the membership is not joint")
            learners = {*self.learners, *self.learners_next}
            return Membership(voters=self.voters, learners=tuple(sorted(learners)))
        if self.is_joint:
            raise BadChange("the membership is joint already")
        voters, learners = set(self.voters), set(self.learners)
        for step in change.steps:
            if step.kind is ChangeKind.UPDATE:
                continue
            voters.discard(step.node)
            learners.discard(step.node)
            if step.kind is ChangeKind.ADD_VOTER:
                voters.add(step.node)
            elif step.kind is ChangeKind.ADD_LEARNER:
                learners.add(step.node)
        if not voters:
            raise BadChange("a membership needs a voter")
        if len(voters.symmetric_difference(self.voters)) <= 1:
            return Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))
        waiting = {node for node in learners if node in self.voters}
        return Membership(
            voters=tuple(sorted(voters)),
            outgoing=self.voters,
            learners=tuple(sorted(learners - waiting)),
            learners_next=tuple(sorted(waiting)),
        )


def encode_change(change: ConfigChange, context: bytes) -> bytes:
    """Return the data of a CONFIG entry."""
    head = _HEAD.pack(_FORMAT, _LEAVE if change.leave else 0, len(change.steps))
    return head + b"".join(_STEP.pack(step.kind, step.node) for step in change.steps) + context


def decode_change(data: bytes) -> tuple[ConfigChange, bytes]:
    """Return what `encode_change` was given. Raises ValueError for anything else."""
    try:
        version, flags, count = _HEAD.unpack_from(data)
        at = _HEAD.size
        steps: list[ChangeStep] = []
        for _ in range(count):
            kind, node = _STEP.unpack_from(data, at)
            steps.append(ChangeStep(ChangeKind(kind), NodeId(node)))
            at += _STEP.size
    except struct.error as error:
        raise ValueError("a change of membership is cut off") from error
    if version != _FORMAT or flags not in {0, _LEAVE} or (flags and count):
        raise ValueError("a change of membership is of an unknown kind")
    return ConfigChange(tuple(steps), leave=bool(flags)), data[at:]
