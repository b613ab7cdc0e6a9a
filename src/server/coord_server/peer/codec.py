"""Raft's messages and memberships as bytes, and back.

A message is a kind, the sender, the receiver and the term, then what its kind adds; big endian, nothing
padded. Entries of an append are a table (term, kind, size) and then their data, one after the other, so
that the encoder joins the data once and the decoder cuts it once. The index of an entry is not written:
entries follow ``prev_index`` without a gap.

The decoder believes nothing: whatever the bytes are, it returns a message or raises ``DecodeError``, and
what it builds is bounded by the size of its input.
"""

from __future__ import annotations

import itertools
import struct
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from coord_server.raft.membership import Membership
from coord_server.raft.messages import (
    AppendRequest,
    AppendResponse,
    CommitNotice,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PreVoteRequest,
    PreVoteResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from coord_server.raft.types import Entry, EntryKind, Index, NodeId, SnapshotMeta, Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.raft.messages import Message


class DecodeError(ValueError):
    """The bytes are not what we write; the text says what is wrong with them."""


_HEAD: Final = struct.Struct(">BQQQ")  # kind, sender, to, term
_APPEND: Final = struct.Struct(">BQQQQQQI")  # ... prev_index, prev_term, commit, number of entries
_ENTRY: Final = struct.Struct(">QBI")  # term, kind, size of the data
_META: Final = struct.Struct(
    ">BQQHHHH"
)  # format, index, term, sizes of the membership's four parts
_META_FORMAT: Final = 1
_NODE_BYTES: Final = 8

_KIND_APPEND: Final = 5
_KIND_INSTALL: Final = 9
# The kinds of this module end here; see packet.py for the others.
LAST_RAFT_KIND: Final = 31

# Messages of one size: kind, what is behind the head, and in which fields.
_FIXED: Final[tuple[tuple[int, Callable[..., Message], str, tuple[str, ...]], ...]] = (
    (1, PreVoteRequest, "QQ", ("last_index", "last_term")),
    (2, PreVoteResponse, "?QQ", ("granted", "commit", "commit_term")),
    (3, VoteRequest, "QQ?", ("last_index", "last_term", "is_transfer")),
    (4, VoteResponse, "?QQ", ("granted", "commit", "commit_term")),
    (6, AppendResponse, "Q?QQ", ("index", "rejected", "hint_index", "hint_term")),
    (7, Heartbeat, "QQ", ("commit", "read_round")),
    (8, HeartbeatResponse, "Q", ("read_round",)),
    (10, TimeoutNow, "", ()),
    (11, ReadIndexRequest, "Q", ("context",)),
    (12, ReadIndexResponse, "QQ", ("context", "index")),
    (13, CommitNotice, "Q", ("commit",)),
)
_HEAD_FIELDS: Final = ("sender", "to", "term")

_PACK: Final[dict[object, tuple[int, struct.Struct, Callable[[Any], tuple[int, ...]]]]] = {
    make: (kind, struct.Struct(">BQQQ" + layout), attrgetter(*_HEAD_FIELDS, *fields))
    for kind, make, layout, fields in _FIXED
}
_UNPACK: Final = {
    kind: (make, struct.Struct(">BQQQ" + layout), (*_HEAD_FIELDS, *fields))
    for kind, make, layout, fields in _FIXED
}
_KINDS: Final = {int(kind): kind for kind in EntryKind}


def message_parts(message: Message) -> list[bytes]:
    """Return the bytes of a message in pieces; the data of entries is among them, not copied."""
    if isinstance(message, AppendRequest):
        entries = message.entries
        head = _APPEND.pack(
            _KIND_APPEND,
            message.sender,
            message.to,
            message.term,
            message.prev_index,
            message.prev_term,
            message.commit,
            len(entries),
        )
        pack = _ENTRY.pack
        table = [pack(entry.term, entry.kind, len(entry.data)) for entry in entries]
        return [head, *table, *[entry.data for entry in entries]]
    if isinstance(message, InstallSnapshot):
        head = _HEAD.pack(_KIND_INSTALL, message.sender, message.to, message.term)
        return [head, encode_snapshot_meta(message.snapshot)]
    kind, layout, fields = _PACK[type(message)]
    return [layout.pack(kind, *fields(message))]


def encode_message(message: Message) -> bytes:
    """Return a message's bytes."""
    return b"".join(message_parts(message))


def decode_message(data: bytes) -> Message:
    """Return what `encode_message` was given. Raises DecodeError for anything else."""
    kind = data[0] if data else 0
    if kind == _KIND_APPEND:
        return _decode_append(data)
    if kind == _KIND_INSTALL:
        return _decode_install(data)
    known = _UNPACK.get(kind)
    if known is None:
        raise DecodeError(f"no message is of kind {kind}")
    make, layout, fields = known
    if len(data) != layout.size:
        raise DecodeError(f"a message of kind {kind} has {len(data)} bytes, not {layout.size}")
    return make(**dict(zip(fields, layout.unpack(data)[1:], strict=True)))


def _decode_append(data: bytes) -> AppendRequest:
    if len(data) < _APPEND.size:
        raise DecodeError("an append is cut off")
    _, sender, to, term, prev_index, prev_term, commit, count = _APPEND.unpack_from(data)
    at = _APPEND.size + count * _ENTRY.size
    if at > len(data):
        raise DecodeError("the table of an append is cut off")
    entries: list[Entry] = []
    index = prev_index
    size = len(data)
    for entry_term, number, length in _ENTRY.iter_unpack(data[_APPEND.size : at]):
        kind = _KINDS.get(number)
        end = at + length
        if kind is None:
            raise DecodeError(f"no entry is of kind {number}")
        if end > size:
            raise DecodeError("the data of an append is cut off")
        index += 1
        entries.append(Entry(Term(entry_term), Index(index), kind, data[at:end]))
        at = end
    if at != size:
        raise DecodeError("bytes follow an append")
    return AppendRequest(
        sender=sender,
        to=to,
        term=term,
        prev_index=prev_index,
        prev_term=prev_term,
        entries=tuple(entries),
        commit=commit,
    )


def _decode_install(data: bytes) -> InstallSnapshot:
    if len(data) < _HEAD.size:
        raise DecodeError("an installation is cut off")
    _, sender, to, term = _HEAD.unpack_from(data)
    meta = decode_snapshot_meta(data[_HEAD.size :])
    return InstallSnapshot(sender=sender, to=to, term=term, snapshot=meta)


def encode_snapshot_meta(meta: SnapshotMeta) -> bytes:
    """Return what a snapshot covers as bytes; also fit to be kept on disk."""
    membership = meta.membership
    parts = (
        membership.voters,
        membership.outgoing,
        membership.learners,
        membership.learners_next,
    )
    head = _META.pack(_META_FORMAT, meta.index, meta.term, *[len(part) for part in parts])
    nodes = [node for part in parts for node in part]
    return head + struct.pack(f">{len(nodes)}Q", *nodes)


def decode_snapshot_meta(data: bytes) -> SnapshotMeta:
    """Return what `encode_snapshot_meta` was given. Raises DecodeError for anything else."""
    if len(data) < _META.size:
        raise DecodeError("what a snapshot covers is cut off")
    version, index, term, *sizes = _META.unpack_from(data)
    if version != _META_FORMAT:
        raise DecodeError(f"what a snapshot covers is in format {version}, not {_META_FORMAT}")
    if len(data) != _META.size + sum(sizes) * _NODE_BYTES:
        raise DecodeError("the members of a snapshot do not fill their place")
    parts: list[tuple[NodeId, ...]] = []
    at = _META.size
    for size in sizes:
        nodes = struct.unpack_from(f">{size}Q", data, at)
        if any(low >= high for low, high in itertools.pairwise(nodes)):
            raise DecodeError("the members of a snapshot are not in order")
        parts.append(nodes)
        at += size * _NODE_BYTES
    voters, outgoing, learners, learners_next = parts
    if not set(learners).isdisjoint((*voters, *outgoing, *learners_next)):
        raise DecodeError("a learner of a snapshot is something else too")
    if not set(learners_next).isdisjoint(voters):
        raise DecodeError("a voter of a snapshot is to become a learner")
    membership = Membership(
        voters=voters, outgoing=outgoing, learners=learners, learners_next=learners_next
    )
    return SnapshotMeta(index=Index(index), term=Term(term), membership=membership)
