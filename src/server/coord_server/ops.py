"""Operations in the replicated log: one entry holds every operation that waited for it.

An entry's data is a run of operations, each a kind byte, the length of its payload as a varint, and
the payload: the client's request message as it came (etcd API: Put, DeleteRange, Txn, Compact,
LeaseGrant, LeaseRevoke, LeaseCheckpoint, Alarm). Nothing is re-encoded between the socket and the disk.

An entry may hold operations that another member forwarded. A marker (``ORIGIN``) stands before them and
says whose they are, so that the member finds its answers when it applies the entry itself.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_VARINT_BITS = 7
_VARINT_MORE = 0x80
_VARINT_LOW = 0x7F
_ORIGIN: Final = struct.Struct(">QQQ")
_IN_TERM: Final = struct.Struct(">QB")


class OpKind(IntEnum):
    """What an operation does. Numbers are in every log ever written: they never change meaning."""

    PUT = 1
    DELETE_RANGE = 2
    TXN = 3
    COMPACT = 4
    LEASE_GRANT = 5
    """A LeaseGrantRequest whose ID the proposer has already chosen."""
    LEASE_REVOKE = 6
    LEASE_EXPIRE = 7
    """A LeaseRevokeRequest proposed by the leader because the lease's time is over."""
    LEASE_CHECKPOINT = 8
    ALARM = 9
    ORIGIN = 10
    """No operation: the ones that follow, to the next of these or the end, were forwarded by a member."""
    MEMBER_ATTRIBUTES = 11
    """A Member of which ID, name and clientURLs count: what a member publishes about itself."""

    IN_TERM = 12
    """Another operation, of the leader's own accord, that has an effect only in the leader's term."""


class BrokenBatch(ValueError):
    """An entry's data is no run of operations: the log is damaged or from a newer program."""


def encode_origin(member: int, incarnation: int, seq: int) -> bytes:
    """Return the payload of an ORIGIN: who forwarded, in which of its lives, and as which batch."""
    return _ORIGIN.pack(member, incarnation, seq)


def decode_origin(payload: bytes) -> tuple[int, int, int]:
    """Return what `encode_origin` was given. Raises `BrokenBatch` for anything else."""
    if len(payload) != _ORIGIN.size:
        raise BrokenBatch("the marker before forwarded operations is cut off or odd")
    member, incarnation, seq = _ORIGIN.unpack(payload)
    return member, incarnation, seq


def encode_in_term(term: int, kind: int, payload: bytes) -> bytes:
    """Return the payload of an IN_TERM: ``term`` is the proposer's, the rest is the operation inside."""
    return _IN_TERM.pack(term, kind) + payload


def decode_in_term(payload: bytes) -> tuple[int, int, bytes]:
    """Return what `encode_in_term` was given. Raises `BrokenBatch` for anything else."""
    if len(payload) < _IN_TERM.size:
        raise BrokenBatch("an operation that is bound to a term is cut off")
    term, kind = _IN_TERM.unpack_from(payload)
    return term, kind, payload[_IN_TERM.size :]


def encode_batch(ops: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the data of one log entry for these ``(kind, payload)`` operations, in order."""
    parts: list[bytes] = []
    for kind, payload in ops:
        size = len(payload)
        if size < _VARINT_MORE:
            parts.append(bytes((kind, size)))
        else:
            head = bytearray((kind,))
            while size >= _VARINT_MORE:
                head.append(size & _VARINT_LOW | _VARINT_MORE)
                size >>= _VARINT_BITS
            head.append(size)
            parts.append(bytes(head))
        parts.append(payload)
    return b"".join(parts)


def decode_batch(data: bytes) -> list[tuple[int, bytes]]:
    """Return the operations of an entry's data. Raises `BrokenBatch` if the data is cut or odd."""
    ops: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while at < end:
        kind = data[at]
        at += 1
        size = shift = 0
        while True:
            if at >= end:
                raise BrokenBatch("the length of an operation is cut off")
            byte = data[at]
            at += 1
            size |= (byte & _VARINT_LOW) << shift
            if byte < _VARINT_MORE:
                break
            shift += _VARINT_BITS
        stop = at + size
        if stop > end:
            raise BrokenBatch("the payload of an operation is cut off")
        ops.append((kind, data[at:stop]))
        at = stop
    return ops
