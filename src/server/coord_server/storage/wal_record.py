"""The log's format: frames that prove themselves, and the records inside.

One write is one *frame*, little endian throughout:

    header   magic 4, payload length u32, sequence u64, chain before u32, chain after u32,
             version u32, CRC-32C of the 28 bytes before u32                            (32 bytes)
    payload  records, padded with zeros to a multiple of 8
    trailer  the sequence number xor a constant                                          (8 bytes)

The chain is the CRC-32C of every payload since the log was created, so a frame also vouches for all
frames before it. Header, payload and trailer are told apart when one is damaged: a write that was
cut off loses its trailer, or leaves a sector of zeros (segments are preallocated), while a bit that
rotted does neither. ``wal_recovery.py`` draws the conclusions.

A record is a head (type, entry kind, data length, two numbers) followed by its data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import TYPE_CHECKING

from coord_server.raft.types import Entry, EntryKind, HardState, Index, NodeId, Term
from coord_server.storage import crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"cWAL"
FORMAT_VERSION = 1

HEADER = struct.Struct("<4sIQIIII")
TRAILER = struct.Struct("<Q")
OVERHEAD_BYTES = HEADER.size + TRAILER.size
ALIGN_BYTES = 8

# The trailer's last byte comes from here and is never zero, so a cut frame cannot keep its trailer.
_TRAILER_MASK = 0xA5C3_9669_3CC3_5AA5
_HEADER_CRC_AT = HEADER.size - 4
_RECORD = struct.Struct("<BBHIQQ")
RECORD_HEAD_BYTES = _RECORD.size
_VOTE = struct.Struct("<Q")
_PADDING = tuple(bytes(n) for n in range(ALIGN_BYTES))


@unique
class RecordType(IntEnum):
    """What a record says; its two numbers in parentheses."""

    SEGMENT = 1  # opens a segment (sequence of the segment, first index it may hold)
    METADATA = 2  # who this log belongs to (-, -)
    HARD_STATE = 3  # (term, commit); data is the vote
    ENTRY = 4  # (index, term)
    RELEASE = 5  # the backend holds everything up to (index, term)
    SNAPSHOT = 6  # the log begins anew behind (index, term): the backend was replaced by a snapshot


class BrokenRecord(ValueError):
    """A payload whose checksum is right makes no sense: it is from a newer program, or a mistake."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a valid header says; ``total`` is the size of the whole frame."""

    length: int
    sequence: int
    chain_before: int
    chain_after: int
    version: int
    total: int


def encode_frame(payload: bytes, sequence: int, chain: int) -> tuple[bytes, int]:
    """Return a frame and the chain after it."""
    after = crc32c.extend(chain, payload)
    length = len(payload)
    header = HEADER.pack(MAGIC, length, sequence, chain, after, FORMAT_VERSION, 0)[:_HEADER_CRC_AT]
    checksum = crc32c.value(header).to_bytes(4, "little")
    pad = _PADDING[-length % ALIGN_BYTES]
    return b"".join((header, checksum, payload, pad, trailer_of(sequence))), after


def trailer_of(sequence: int) -> bytes:
    """Return the last bytes of the frame with this sequence number."""
    return TRAILER.pack(sequence ^ _TRAILER_MASK)


def read_header(data: bytes, offset: int) -> FrameHeader | None:
    """Return the header at ``offset`` if its own checksum holds."""
    if offset + HEADER.size > len(data):
        return None
    magic, length, sequence, before, after, version, checksum = HEADER.unpack_from(data, offset)
    if magic != MAGIC or crc32c.value(data[offset : offset + _HEADER_CRC_AT]) != checksum:
        return None
    total = OVERHEAD_BYTES + length + -length % ALIGN_BYTES
    return FrameHeader(length, sequence, before, after, version, total)


def payload_of(data: bytes, offset: int, header: FrameHeader) -> bytes | None:
    """Return the payload of the frame at ``offset`` if it is all there and its checksum holds."""
    start = offset + HEADER.size
    payload = data[start : start + header.length]
    if len(payload) < header.length:
        return None
    return payload if crc32c.extend(header.chain_before, payload) == header.chain_after else None


def segment_record(segment: int, first_index: int) -> bytes:
    """Return the record that opens a segment."""
    return _RECORD.pack(RecordType.SEGMENT, 0, 0, 0, segment, first_index)


def metadata_record(metadata: bytes) -> bytes:
    """Return the record that says whose log this is."""
    return _RECORD.pack(RecordType.METADATA, 0, 0, len(metadata), 0, 0) + metadata


def hard_state_record(state: HardState) -> bytes:
    """Return the record of a hard state."""
    head = _RECORD.pack(RecordType.HARD_STATE, 0, 0, _VOTE.size, state.term, state.commit)
    return head + _VOTE.pack(state.vote)


def release_record(index: int, term: int) -> bytes:
    """Return the record that says what the backend holds."""
    return _RECORD.pack(RecordType.RELEASE, 0, 0, 0, index, term)


def snapshot_record(index: int, term: int) -> bytes:
    """Return the record behind which the log begins anew."""
    return _RECORD.pack(RecordType.SNAPSHOT, 0, 0, 0, index, term)


def entry_head(entry: Entry) -> bytes:
    """Return the head of an entry's record; its data follows."""
    return _RECORD.pack(RecordType.ENTRY, entry.kind, 0, len(entry.data), entry.index, entry.term)


def records(payload: bytes) -> Iterator[tuple[RecordType, int, int, int, bytes]]:
    """Yield ``(type, kind, first number, second number, data)``. Raises BrokenRecord."""
    offset = 0
    end = len(payload)
    while offset < end:
        if offset + RECORD_HEAD_BYTES > end:
            raise BrokenRecord("a record's head is cut off")
        number, kind, _, length, first, second = _RECORD.unpack_from(payload, offset)
        offset += RECORD_HEAD_BYTES
        data = payload[offset : offset + length]
        offset += length
        if len(data) < length:
            raise BrokenRecord("a record's data is cut off")
        try:
            kind_of = RecordType(number)
        except ValueError:
            raise BrokenRecord(f"record type {number} is unknown") from None
        yield kind_of, kind, first, second, data


def decode_hard_state(first: int, second: int, data: bytes) -> HardState:
    """Return the hard state of a record. Raises BrokenRecord."""
    if len(data) != _VOTE.size:
        raise BrokenRecord("a hard state of odd size")
    return HardState(Term(first), NodeId(_VOTE.unpack(data)[0]), Index(second))


def decode_entry(kind: int, first: int, second: int, data: bytes) -> Entry:
    """Return the entry of a record. Raises BrokenRecord."""
    try:
        return Entry(Term(second), Index(first), EntryKind(kind), data)
    except ValueError:
        raise BrokenRecord(f"entry kind {kind} is unknown") from None
