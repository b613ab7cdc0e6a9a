"""How members are written: notes beside the changes in the log, and records in the MEMBERS bucket.

The bucket holds::

    ID               Member; the key is 8 bytes, big endian
    "removed/" ID    the Member as it was last
    "membership"     voters, outgoing voters, learners, learners to be

Without the last one, as in a directory that was made by the first version, each member is a voter or
a learner by its own flag.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from coord.wire import rpc_pb2
from coord_server.raft.membership import Membership
from coord_server.raft.types import NodeId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# etcd's constant before 3.6, and the default of its flag since.
DEFAULT_MAX_LEARNERS: Final = 1

REMOVED_PREFIX: Final = b"removed/"
MEMBERSHIP_KEY: Final = b"membership"
_ID_BYTES: Final = 8
_HEAD: Final = struct.Struct(">BHHHH")
_FORMAT: Final = 1
_NOTE: Final = struct.Struct(">BHI")
_PROMOTE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberNote:
    """What the table must know of one step of a change, beyond its kind and id.

    ``member`` has the peer URLs of an addition or update. ``max_learners`` is the limit of whoever
    proposed the step: it travels with the change, so members whose flags differ still decide alike.
    """

    member: rpc_pb2.Member = field(default_factory=rpc_pb2.Member)
    is_promote: bool = False
    max_learners: int = DEFAULT_MAX_LEARNERS


def encode_notes(*notes: MemberNote) -> bytes:
    """Return the context of a change: one note for each of its steps, in their order."""
    parts: list[bytes] = []
    for note in notes:
        raw = encode_member(note.member)
        parts += (
            _NOTE.pack(_PROMOTE if note.is_promote else 0, note.max_learners, len(raw)),
            raw,
        )
    return b"".join(parts)


def decode_notes(context: bytes) -> list[MemberNote]:
    """Return what `encode_notes` was given. Raises ValueError for anything else."""
    notes: list[MemberNote] = []
    at = 0
    while at < len(context):
        if at + _NOTE.size > len(context):
            raise ValueError("a note about a member is cut off")
        flags, max_learners, size = _NOTE.unpack_from(context, at)
        at += _NOTE.size
        raw = context[at : at + size]
        if len(raw) != size or flags not in {0, _PROMOTE}:
            raise ValueError("a note about a member is cut off or of an unknown kind")
        at += size
        try:
            member = rpc_pb2.Member.FromString(raw)
        except DecodeError as error:
            raise ValueError("a note about a member holds no member") from error
        notes.append(MemberNote(member=member, is_promote=bool(flags), max_learners=max_learners))
    return notes


def member_key(member_id: int) -> bytes:
    """Return the key of a member's record."""
    return member_id.to_bytes(_ID_BYTES, "big")


def member_records(members: Sequence[rpc_pb2.Member]) -> list[tuple[bytes, bytes]]:
    """Return the records of a table that begins with these members."""
    records = [(member_key(member.ID), encode_member(member)) for member in members]
    return [*records, (MEMBERSHIP_KEY, encode_membership(membership_of(members)))]


def membership_of(members: Iterable[rpc_pb2.Member]) -> Membership:
    """Return the membership that the members' own flags make."""
    voters: list[NodeId] = []
    learners: list[NodeId] = []
    for member in members:
        (learners if member.isLearner else voters).append(NodeId(member.ID))
    return Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))


def encode_membership(membership: Membership) -> bytes:
    """Return a membership as bytes."""
    parts = (
        membership.voters,
        membership.outgoing,
        membership.learners,
        membership.learners_next,
    )
    head = _HEAD.pack(_FORMAT, *(len(part) for part in parts))
    return head + b"".join(member_key(node) for part in parts for node in part)


def decode_membership(raw: bytes) -> Membership:
    """Return what `encode_membership` was given. Raises ValueError for anything else."""
    if len(raw) < _HEAD.size:
        raise ValueError("a membership is cut off")
    version, *counts = _HEAD.unpack_from(raw)
    if version != _FORMAT or len(raw) != _HEAD.size + _ID_BYTES * sum(counts):
        raise ValueError("a membership is cut off or of an unknown format")
    parts: list[tuple[NodeId, ...]] = []
    at = _HEAD.size
    for count in counts:
        end = at + _ID_BYTES * count
        parts.append(
            tuple(
                NodeId(member_id_of(raw[start : start + _ID_BYTES]))
                for start in range(at, end, _ID_BYTES)
            )
        )
        at = end
    voters, outgoing, learners, learners_next = parts
    return Membership(
        voters=voters, outgoing=outgoing, learners=learners, learners_next=learners_next
    )


def member_id_of(key: bytes) -> int:
    """Return the id that `member_key` was given. Raises ValueError for another key."""
    if len(key) != _ID_BYTES:
        raise ValueError(f"{key!r} is no key of a member")
    return int.from_bytes(key, "big")


def encode_member(member: rpc_pb2.Member) -> bytes:
    """Return a member as bytes, the same on every machine."""
    return member.SerializeToString(deterministic=True)
