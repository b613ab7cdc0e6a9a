"""Reading a log after a crash: what is in it, and what to make of damage.

A frame was synced before the next one was begun, and a segment is finished before the next appears.
So damage can be an interrupted write only in the last segment, at its end, with nothing valid after.
Even there it must look like one. A write that was cut off has lost its trailer, or has left a sector
of the preallocated zeros somewhere inside. A frame with both ends in place and no such hole was
written whole and has rotted since: it may hold what somebody was told is safe, and cutting it would
be a silent loss. Everything that is not provably an interrupted write is CorruptLog, and the member
must be replaced or restored from a backup. (etcd keeps the zero sector rule; the trailer is ours.)

One case stays undecidable: rot in the very last frame, if its content has a sector of zeros of its
own. The caller compares the log with the backend's applied index and with its peers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coord_server.raft.types import Entry, HardState
from coord_server.storage.disk import SECTOR_BYTES, Disk, OpenMode
from coord_server.storage.wal_record import (
    ALIGN_BYTES,
    FORMAT_VERSION,
    HEADER,
    MAGIC,
    BrokenRecord,
    FrameHeader,
    RecordType,
    decode_entry,
    decode_hard_state,
    payload_of,
    read_header,
    records,
    trailer_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# Entries behind the backend that a start keeps at hand for followers (etcd: 5,000).
MAX_HISTORY_ENTRIES = 5_000
MAX_HISTORY_BYTES = 64 << 20

_SUFFIX = ".wal"
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal")
_PIECE_BYTES = 1 << 20
_ZEROS = bytes(_PIECE_BYTES)


class CorruptLog(Exception):
    """The log is damaged in a way that no crash explains; the member must not start."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        self.path = path
        self.offset = offset
        self.reason = reason
        super().__init__(
            f"{path}: {reason} at byte {offset}; entries that were acknowledged may be damaged, so "
            "nothing was changed: replace this member, or restore its data directory from a backup"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TornTail:
    """An interrupted write that was cut off; its bytes are kept in ``copy``."""

    path: str
    offset: int
    size_bytes: int
    copy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a log says. ``entries`` are those after ``released_index``, without holes.

    ``released_index`` and ``released_term`` name the last entry that the backend is known to hold.
    ``history`` are the entries that end there, as far as they are still at hand: nobody needs them but
    followers that are a little behind.
    """

    metadata: bytes
    hard_state: HardState
    entries: list[Entry]
    released_index: int
    released_term: int
    torn: TornTail | None
    history: list[Entry] = field(default_factory=list[Entry])


@dataclass(slots=True)
class Segment:
    """One file of the log. ``last_index`` is the highest index that it holds, 0 if none."""

    path: str
    sequence: int
    first_index: int
    last_index: int = 0


@dataclass(slots=True)
class Position:
    """Where the next frame goes, and what it must carry."""

    offset: int
    sequence: int
    chain: int


def segment_name(sequence: int, first_index: int) -> str:
    """Return a segment's file name."""
    return f"{sequence:016x}-{first_index:016x}{_SUFFIX}"


def list_segments(disk: Disk, directory: str) -> tuple[list[Segment], list[str]]:
    """Return the segments of the log, and the paths of older ones that may be removed.

    Old segments are unlinked without waiting for the directory, so a crash may bring some of them
    back and others not. What counts is the unbroken run that ends in the newest; whether it begins
    early enough shows in the release records.
    """
    found: list[Segment] = []
    for name in disk.listdir(directory):
        match = _NAME.fullmatch(name)
        if match is not None:
            found.append(Segment(f"{directory}/{name}", int(match[1], 16), int(match[2], 16)))
    found.sort(key=lambda segment: segment.sequence)
    start = len(found) - 1
    while start > 0 and found[start - 1].sequence == found[start].sequence - 1:
        start -= 1
    start = max(start, 0)
    return found[start:], [segment.path for segment in found[:start]]


class LogReader:
    """Reads segments in order and gathers what they say."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._metadata: bytes | None = None
        self._hard_state = HardState()
        self._entries: list[Entry] = []
        self._released = (0, 0)
        self._position: Position | None = None

    def read(self, segments: Sequence[Segment]) -> tuple[Recovered, Position]:
        """Return the content and the end of the log. Cuts a torn tail. Raises CorruptLog."""
        torn: TornTail | None = None
        position = Position(0, 0, 0)
        for segment in segments:
            is_last = segment is segments[-1]
            data = _used_bytes(self._disk, segment.path)
            position = self._read_segment(segment, data)
            if position.offset < len(data):
                reason = judge_damage(data, position) if is_last else "a damaged frame"
                if reason is not None or position.offset == 0:
                    raise CorruptLog(
                        segment.path, position.offset, reason or "the first frame is damaged"
                    )
                torn = self._cut(segment.path, data, position.offset)
            elif position.offset == 0:
                raise CorruptLog(segment.path, 0, "an empty segment")
        first, last = segments[0], segments[-1]
        if first.first_index > self._released[0] + 1:
            raise CorruptLog(first.path, 0, "older segments of the log are missing")
        if self._metadata is None:
            raise CorruptLog(first.path, 0, "the log does not say whose it is")
        return self._recovered(last, self._metadata, torn), position

    def _recovered(self, last: Segment, metadata: bytes, torn: TornTail | None) -> Recovered:
        released, term = self._released
        entries = [entry for entry in self._entries if entry.index > released]
        if entries and entries[0].index != released + 1:
            raise CorruptLog(last.path, 0, f"entry {released + 1} is missing")
        history = self._entries[: len(self._entries) - len(entries)]
        if history and (history[-1].index, history[-1].term) != self._released:
            history = []
        return Recovered(
            metadata=metadata,
            hard_state=self._hard_state,
            entries=entries,
            released_index=released,
            released_term=term,
            torn=torn,
            history=_newest(history),
        )

    def _read_segment(self, segment: Segment, data: bytes) -> Position:
        """Take every valid frame from the start; return where that ends."""
        position = self._position
        offset = 0
        while True:
            header = read_header(data, offset)
            payload = None if header is None else payload_of(data, offset, header)
            if header is None or payload is None:
                break
            if header.version > FORMAT_VERSION:
                raise CorruptLog(segment.path, offset, "a frame of a newer version of this program")
            if position is not None and not _continues(header, position):
                raise CorruptLog(
                    segment.path, offset, "a frame that does not follow the one before"
                )
            try:
                self._take(segment, payload)
            except BrokenRecord as exc:
                raise CorruptLog(segment.path, offset, str(exc)) from exc
            offset += header.total
            position = Position(offset, header.sequence + 1, header.chain_after)
        if position is None:
            position = Position(0, 0, 0)
        position = Position(offset, position.sequence, position.chain)
        self._position = position
        return position

    def _take(self, segment: Segment, payload: bytes) -> None:
        for kind, entry_kind, first, second, data in records(payload):
            match kind:
                case RecordType.SEGMENT:
                    if (first, second) != (segment.sequence, segment.first_index):
                        raise BrokenRecord("a segment under a wrong name")
                case RecordType.METADATA:
                    if self._metadata not in {None, data}:
                        raise BrokenRecord("a record of another member's log")
                    self._metadata = data
                case RecordType.HARD_STATE:
                    self._hard_state = decode_hard_state(first, second, data)
                case RecordType.RELEASE:
                    self._released = (first, second)
                case RecordType.SNAPSHOT:
                    self._released = (first, second)
                    self._entries = []
                case RecordType.ENTRY:
                    entry = decode_entry(entry_kind, first, second, data)
                    segment.last_index = max(segment.last_index, entry.index)
                    self._add(entry)

    def _add(self, entry: Entry) -> None:
        entries = self._entries
        if entries and entry.index != entries[-1].index + 1:
            # A new leader replaced the end of the log, or a snapshot moved its start.
            keep = entry.index - entries[0].index
            if entry.index > entries[-1].index:
                if entry.index != self._released[0] + 1:
                    raise BrokenRecord(f"entry {entries[-1].index + 1} is missing")
                keep = 0
            del entries[max(keep, 0) :]
        entries.append(entry)

    def _cut(self, path: str, data: bytes, offset: int) -> TornTail:
        """Remove the interrupted write, keeping a copy for whoever wants to know."""
        copy = path + ".broken"
        self._disk.write_file_atomic(copy, data[offset:])
        file = self._disk.open(path, OpenMode.WRITE)
        try:
            size = file.size()
            file.truncate(offset)
            file.allocate(size)
            file.fsync()
        finally:
            file.close()
        return TornTail(path=path, offset=offset, size_bytes=len(data) - offset, copy=copy)


def _newest(history: list[Entry]) -> list[Entry]:
    """Return the end of the history that is worth keeping."""
    size = 0
    for count, entry in enumerate(reversed(history)):
        size += len(entry.data)
        if count >= MAX_HISTORY_ENTRIES or size > MAX_HISTORY_BYTES:
            return history[len(history) - count :]
    return history


def _continues(header: FrameHeader, position: Position) -> bool:
    return header.sequence == position.sequence and header.chain_before == position.chain


def _used_bytes(disk: Disk, path: str) -> bytes:
    """Return the file without the zeros at its end."""
    file = disk.open(path, OpenMode.READ)
    try:
        end = file.size()
        while end > 0:
            start = max(0, end - _PIECE_BYTES)
            piece = file.pread(end - start, start)
            # Comparing whole pieces first is what makes 64 MiB of zeros cheap.
            if piece == _ZEROS[: len(piece)]:
                end = start
                continue
            return file.pread(start, 0) + piece.rstrip(b"\0")
        return b""
    finally:
        file.close()


def judge_damage(data: bytes, position: Position) -> str | None:
    """Say why the bytes at ``position`` are no interrupted write; None if they provably are one.

    ``data`` is a last segment without the zeros at its end.
    """
    offset = position.offset
    if _later_frame(data, position) is not None:
        return "a damaged frame in the middle of the log"
    trailer = trailer_of(position.sequence)
    header = read_header(data, offset)
    if header is None:
        # Both ends of a write can't differ from what was written unless a whole sector is missing.
        arrived = data.endswith(trailer) and (len(data) - offset) % ALIGN_BYTES == 0
        if arrived and not _has_hole(data, offset, offset + HEADER.size):
            return "a damaged frame header"
        return None
    if not _continues(header, position):
        return "a frame that does not follow the one before"
    end = offset + header.total
    if len(data) > end:
        return "unknown bytes after the last frame"
    arrived = data[end - len(trailer) :] == trailer
    if arrived and not _has_hole(data, offset, end):
        return "a checksum that does not match"
    return None


def _later_frame(data: bytes, position: Position) -> int | None:
    """Return where a frame begins that was written after the one at ``position``, if there is any."""
    at = data.find(MAGIC, position.offset + 1)
    while at >= 0:
        # Offsets of frames are multiples of 8, and a copy of an older frame inside some value has an
        # older number.
        header = read_header(data, at) if at % ALIGN_BYTES == 0 else None
        if header is not None and header.sequence > position.sequence:
            return at
        at = data.find(MAGIC, at + 1)
    return None


def _has_hole(data: bytes, start: int, end: int) -> bool:
    """Return whether a disk sector, or the part of one inside ``[start, end)``, is entirely zero."""
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if not data[start:stop].strip(b"\0"):
            return True
        start = stop
    return False
