"""The members of the cluster: a replicated table, changed by applied entries only.

Beside the records that clients see, it keeps the raft membership in force, joint state included, and
every id that was ever removed: such an id never returns (etcd ops: "Cluster"). A change was checked
before it was proposed, against a table that may be old by the time it is applied, so it is checked again
here; a refused change has changed nothing, on any member alike.

How notes and records look is in ``member_records.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

from coord.runtime import invariant
from coord.wire import rpc_pb2
from coord_server import errors
from coord_server.member_records import (
    MEMBERSHIP_KEY,
    REMOVED_PREFIX,
    MemberNote,
    decode_membership,
    decode_notes,
    encode_member,
    encode_membership,
    member_id_of,
    member_key,
    membership_of,
)
from coord_server.raft.membership import BadChange, ChangeKind, Membership
from coord_server.storage.backend import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from coord_server.errors import ErrorSpec
    from coord_server.raft.membership import ChangeStep, ConfigChange
    from coord_server.storage.backend import Batch


class AppliedChange(NamedTuple):
    """What became of a CONFIG entry.

    ``change`` is what raft is told with ConfigApplied: None if it was refused, or applied before.
    """

    change: ConfigChange | None
    refusal: ErrorSpec | None


class _Plan(NamedTuple):
    members: dict[int, rpc_pb2.Member]
    removed: dict[int, rpc_pb2.Member]
    membership: Membership


@final
class Members:
    """The table of one member. Records that it hands out are not to be changed."""

    def __init__(self, records: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._members: dict[int, rpc_pb2.Member] = {}
        self._removed: dict[int, rpc_pb2.Member] = {}
        self._membership = Membership()
        self._stale: dict[int, None] = {}
        self._membership_stale = False
        self._listeners: list[Callable[[], None]] = []
        self.load(records)

    def load(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Replace everything by the records of a backend, as after a snapshot; listeners stay."""
        self._members, self._removed, self._stale = {}, {}, {}
        self._membership_stale = False
        membership: Membership | None = None
        for key, value in records:
            if key == MEMBERSHIP_KEY:
                membership = decode_membership(value)
            elif key.startswith(REMOVED_PREFIX):
                removed_id = member_id_of(key[len(REMOVED_PREFIX) :])
                self._removed[removed_id] = rpc_pb2.Member.FromString(value)
            else:
                self._members[member_id_of(key)] = rpc_pb2.Member.FromString(value)
        self._membership = (
            membership_of(self._members.values()) if membership is None else membership
        )
        self._check_whole()
        self._tell()

    # Reading.

    @property
    def membership(self) -> Membership:
        """Who votes and who learns, as raft sees it after the last applied change."""
        return self._membership

    def members(self) -> list[rpc_pb2.Member]:
        """Return all members by ascending id."""
        return [self._members[member_id] for member_id in sorted(self._members)]

    def get(self, member_id: int) -> rpc_pb2.Member | None:
        """Return a member, None if there is none of this id."""
        return self._members.get(member_id)

    def is_removed(self, member_id: int) -> bool:
        """Tell whether a member of this id was removed; it can never return."""
        return member_id in self._removed

    def is_learner(self, member_id: int) -> bool:
        """Tell whether this is a member without a vote."""
        member = self._members.get(member_id)
        return member is not None and member.isLearner

    def peer_urls(self) -> dict[int, tuple[str, ...]]:
        """Return where each member that gets the log is reached, by ascending id.

        A voter that leaves through a joint phase is among them until the phase ends.
        """
        known = self._removed | self._members
        return {
            node: tuple(known[node].peerURLs) for node in self._membership.members if node in known
        }

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` after each applied change of the table; return what ends that."""
        self._listeners.append(changed)

        def stop() -> None:
            if changed in self._listeners:
                self._listeners.remove(changed)

        return stop

    # Changing.

    def refusal(self, change: ConfigChange, context: bytes) -> ErrorSpec | None:
        """Return why ``change`` would be refused if it were applied now; None if it would not."""
        plan = self._plan(change, context)
        return None if isinstance(plan, _Plan) else plan

    def apply_change(self, change: ConfigChange, context: bytes) -> ErrorSpec | None:
        """Carry out a committed change, or return why not; nothing has changed then.

        ``context`` holds a `MemberNote` for each step. Raises ValueError if it holds something else.
        """
        # A member that joined without the founders' table would believe itself the whole cluster.
        invariant(bool(self._members), "a table begins with its founders")
        plan = self._plan(change, context)
        if not isinstance(plan, _Plan):
            return plan
        self._members, self._removed, self._membership = plan
        for step in change.steps:
            self._stale[step.node] = None
        self._membership_stale = True
        self._check_whole()
        self._tell()
        return None

    def apply_attributes(self, payload: bytes) -> None:
        """Set name and client URLs of the Member in ``payload``, as it published them itself.

        Raises Refused for an id that is not a member's. That of a removed member changes nothing: it
        was still under way when the removal was applied.
        """
        told = rpc_pb2.Member.FromString(payload)
        known = self._members.get(told.ID)
        if known is None:
            if told.ID in self._removed:
                return
            raise errors.Refused(errors.MEMBER_NOT_FOUND)
        member = rpc_pb2.Member()
        member.CopyFrom(known)
        member.name = told.name
        del member.clientURLs[:]
        member.clientURLs.extend(told.clientURLs)
        self._members[told.ID] = member
        self._stale[told.ID] = None
        self._tell()

    def keep_only(self, member_id: int) -> list[int]:
        """Remove all members but one, which becomes a voter; return the ids that went.

        Not a change of the cluster but its end: for ``--force-new-cluster``, after all of the log.
        """
        kept = rpc_pb2.Member()
        kept.CopyFrom(self._members[member_id])
        kept.isLearner = False
        gone = sorted(self._members.keys() - {member_id})
        for other in gone:
            self._removed[other] = self._members.pop(other)
        self._members[member_id] = kept
        self._membership = membership_of([kept])
        for touched in (member_id, *gone):
            self._stale[touched] = None
        self._membership_stale = True
        self._check_whole()
        self._tell()
        return gone

    def _plan(self, change: ConfigChange, context: bytes) -> _Plan | ErrorSpec:
        """Return the tables after ``change``, or its refusal."""
        notes = decode_notes(context)
        invariant(len(notes) <= len(change.steps), "no more notes than steps")
        notes += [MemberNote()] * (len(change.steps) - len(notes))
        members, removed = dict(self._members), dict(self._removed)
        for step, note in zip(change.steps, notes, strict=True):
            spec = _refusal(step, note, members, removed)
            if spec is not None:
                return spec
            _take_step(step, note, members, removed)
        try:
            membership = self._membership.changed(change)
        except BadChange:
            # Raft lets only one change under way, so a joint phase is over when the next begins.
            if self._membership.is_joint or change.leave:
                return errors.UNHEALTHY
            return errors.MEMBER_NOT_ENOUGH_STARTED
        return _Plan(members, removed, membership)

    def _check_whole(self) -> None:
        membership = self._membership
        stay = {*membership.voters, *membership.learners, *membership.learners_next}
        invariant(stay == self._members.keys(), "raft and the table know the same members")
        invariant(not stay & self._removed.keys(), "a removed member does not return")

    def _tell(self) -> None:
        for changed in tuple(self._listeners):
            changed()

    # Saving.

    def take(self, batch: Batch) -> None:
        """Move what the backend lacks into ``batch``."""
        for member_id in self._stale:
            key = member_key(member_id)
            if member_id in self._members:
                batch.put(Bucket.MEMBERS, key, encode_member(self._members[member_id]))
            else:
                batch.delete(Bucket.MEMBERS, key)
                batch.put(
                    Bucket.MEMBERS, REMOVED_PREFIX + key, encode_member(self._removed[member_id])
                )
        if self._membership_stale:
            batch.put(Bucket.MEMBERS, MEMBERSHIP_KEY, encode_membership(self._membership))
        self._stale = {}
        self._membership_stale = False


def _refusal(
    step: ChangeStep,
    note: MemberNote,
    members: Mapping[int, rpc_pb2.Member],
    removed: Mapping[int, rpc_pb2.Member],
) -> ErrorSpec | None:
    """Return why a step does not fit the table (etcd ops: "Cluster"), in etcd's order of checks."""
    node = step.node
    known, others = members.get(node), [members[other] for other in members if other != node]
    if node in removed:
        return errors.MEMBER_NOT_FOUND
    if step.kind in {ChangeKind.REMOVE, ChangeKind.UPDATE} or note.is_promote:
        if known is None:
            return errors.MEMBER_NOT_FOUND
        if note.is_promote:
            return None if known.isLearner else errors.MEMBER_NOT_LEARNER
        if step.kind is ChangeKind.REMOVE:
            return None
    elif known is not None:
        return errors.MEMBER_EXIST
    taken = {url for other in others for url in other.peerURLs}
    if not taken.isdisjoint(note.member.peerURLs):
        return errors.PEER_URL_EXIST
    if step.kind is ChangeKind.ADD_LEARNER:
        learners = sum(member.isLearner for member in members.values())
        if learners >= note.max_learners:
            return errors.TOO_MANY_LEARNERS
    return None


def _take_step(
    step: ChangeStep,
    note: MemberNote,
    members: dict[int, rpc_pb2.Member],
    removed: dict[int, rpc_pb2.Member],
) -> None:
    if step.kind is ChangeKind.REMOVE:
        removed[step.node] = members.pop(step.node)
        return
    member = rpc_pb2.Member()
    if step.kind is ChangeKind.UPDATE or note.is_promote:
        member.CopyFrom(members[step.node])
    if note.is_promote:
        member.isLearner = False
    elif step.kind is ChangeKind.UPDATE:
        # Nothing but the URLs: name, client URLs and the learner flag are not the caller's to change.
        del member.peerURLs[:]
        member.peerURLs.extend(note.member.peerURLs)
    else:
        member.CopyFrom(note.member)
        member.ID = step.node
        member.isLearner = step.kind is ChangeKind.ADD_LEARNER
    members[step.node] = member
