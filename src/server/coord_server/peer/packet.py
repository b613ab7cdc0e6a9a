"""What one write to a peer holds: raft's messages, and what members tell each other besides.

A packet is a version and then messages, each behind its size. Its bounds are the transport's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from coord_server.peer.codec import (
    LAST_RAFT_KIND,
    DecodeError,
    decode_message,
    encode_message,
    message_parts,
)
from coord_server.raft.messages import InstallSnapshot, Message

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKET_FORMAT: Final = 1
# Messages share a packet up to this size; a larger one has a packet of its own.
PACKET_BYTES: Final = 1 << 20
# More than a packet and a message of ours add to the bytes that they carry.
PACKET_OVERHEAD: Final = 64
DIGEST_BYTES: Final = 32

_SIZE: Final = struct.Struct(">I")
_FORWARD: Final = struct.Struct(">BQ")  # kind, number
_REFUSED: Final = struct.Struct(">BQI")  # kind, number, code
_OFFER: Final = struct.Struct(f">BQQ{DIGEST_BYTES}s")  # kind, transfer, size, digest
_DONE: Final = struct.Struct(">BQ?")  # kind, transfer, whether it is here

_KIND_FORWARD: Final = 32
_KIND_REFUSED: Final = 33
_KIND_OFFER: Final = 34
_KIND_DONE: Final = 35


@dataclass(frozen=True, slots=True)
class Forward:
    """Operations that a follower wants proposed. Success needs no answer: the log brings it."""

    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ForwardRefused:
    """The operations of ``seq`` are certainly not in the log and will not be; ``code`` is a gRPC status."""

    seq: int
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """The state that ``install`` speaks of waits at the sender; fetch it by the transfer's number.

    ``size_bytes`` and ``digest`` are of the whole file as `storage.snapshot_file` keeps it.
    """

    install: InstallSnapshot
    transfer_id: int
    size_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SnapshotDone:
    """The transfer has ended: the snapshot is here, whole and verified, or it will not be."""

    transfer_id: int
    is_here: bool
    text: str = ""


PeerMessage: TypeAlias = Message | Forward | ForwardRefused | SnapshotOffer | SnapshotDone


def _parts(message: PeerMessage) -> list[bytes]:
    if isinstance(message, Forward):
        return [_FORWARD.pack(_KIND_FORWARD, message.seq), message.data]
    if isinstance(message, ForwardRefused):
        head = _REFUSED.pack(_KIND_REFUSED, message.seq, message.code)
        return [head, message.text.encode("utf-8", "replace")]
    if isinstance(message, SnapshotOffer):
        head = _OFFER.pack(_KIND_OFFER, message.transfer_id, message.size_bytes, message.digest)
        return [head, encode_message(message.install)]
    if isinstance(message, SnapshotDone):
        head = _DONE.pack(_KIND_DONE, message.transfer_id, message.is_here)
        return [head, message.text.encode("utf-8", "replace")]
    return message_parts(message)


def pack(messages: Iterable[PeerMessage]) -> list[tuple[bytes, int]]:
    """Return packets that hold the messages in order, each with the number of messages in it."""
    packets: list[tuple[bytes, int]] = []
    head = bytes((PACKET_FORMAT,))
    pieces, size, count = [head], 0, 0
    for message in messages:
        parts = _parts(message)
        length = sum(map(len, parts))
        if count and size + length > PACKET_BYTES:
            packets.append((b"".join(pieces), count))
            pieces, size, count = [head], 0, 0
        pieces.append(_SIZE.pack(length))
        pieces += parts
        size += length
        count += 1
    if count:
        packets.append((b"".join(pieces), count))
    return packets


def unpack(data: bytes) -> list[PeerMessage]:
    """Return the messages of a packet. Raises DecodeError for anything that `pack` does not make."""
    if not data or data[0] != PACKET_FORMAT:
        raise DecodeError("a packet is of an unknown format")
    messages: list[PeerMessage] = []
    at, size = 1, len(data)
    while at < size:
        if at + _SIZE.size > size:
            raise DecodeError("a packet is cut off")
        (length,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        end = at + length
        if end > size:
            raise DecodeError("a message is cut off")
        messages.append(_decode(data[at:end]))
        at = end
    return messages


def _decode(data: bytes) -> PeerMessage:
    kind = data[0] if data else 0
    if kind <= LAST_RAFT_KIND:
        return decode_message(data)
    try:
        if kind == _KIND_FORWARD:
            return Forward(_FORWARD.unpack_from(data)[1], data[_FORWARD.size :])
        if kind == _KIND_REFUSED:
            _, seq, code = _REFUSED.unpack_from(data)
            return ForwardRefused(seq, code, data[_REFUSED.size :].decode("utf-8", "replace"))
        if kind == _KIND_DONE:
            _, transfer_id, is_here = _DONE.unpack_from(data)
            text = data[_DONE.size :].decode("utf-8", "replace")
            return SnapshotDone(transfer_id, is_here, text)
        if kind == _KIND_OFFER:
            _, transfer_id, size_bytes, digest = _OFFER.unpack_from(data)
            install = decode_message(data[_OFFER.size :])
            if isinstance(install, InstallSnapshot):
                return SnapshotOffer(install, transfer_id, size_bytes, digest)
    except struct.error as error:
        raise DecodeError(f"a message of kind {kind} is cut off") from error
    raise DecodeError(f"no message is of kind {kind}")
