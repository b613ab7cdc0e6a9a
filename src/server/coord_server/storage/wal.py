"""The write-ahead log: one synced write per group of entries, in preallocated segments.

Format: ``wal_record.py``. What happens after a crash: ``wal_recovery.py``. A segment is called
``<sequence>-<first index>.wal`` (16 hex digits each) and begins with a frame that repeats everything
a reader needs who has only this and later segments: whose log it is, the hard state, what is released.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from coord.runtime import invariant
from coord_server.failpoints import failpoint
from coord_server.raft.types import Entry, HardState
from coord_server.storage.disk import Disk, DiskFile, OpenMode, exclusive, no_space
from coord_server.storage.wal_record import (
    ALIGN_BYTES,
    OVERHEAD_BYTES,
    encode_frame,
    entry_head,
    hard_state_record,
    metadata_record,
    release_record,
    segment_record,
    snapshot_record,
)
from coord_server.storage.wal_recovery import (
    LogReader,
    Position,
    Recovered,
    Segment,
    list_segments,
    segment_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# As etcd's: large enough that rolling is rare, small enough that releasing gives space back soon.
SEGMENT_BYTES = 64 << 20

# A first write to reserved blocks makes the file system note that they are in use, which takes as long
# as the sync itself; blocks that were written before, if only with zeros, are spared that. So zeros run
# ahead of the log: this far when a segment begins, then in pieces, staying clear of what is appended.
_FIRST_ZEROS_BYTES = 1 << 20
_ZEROS_BYTES = 8 << 20
_CLEAR_BYTES = 2 << 20
_PIECE = bytes(1 << 20)

# Segments on their way; what a crash leaves of them is removed when the log is read.
_NEXT = "next.tmp"  # reserved ahead of time
_ROLLING = "rolling.tmp"  # made when nothing was reserved

_BEFORE_APPEND = failpoint("wal.before_append")
_AFTER_APPEND = failpoint("wal.after_append")
_BEFORE_ROLL = failpoint("wal.before_roll")
_AFTER_ROLL = failpoint("wal.after_roll")


class Wal:
    """The log of one member in ``directory``. One caller at a time, from any thread.

    Make one with `create` or `open`; an opened log must be read with `recover` before it grows.
    OSError from any method leaves the log unusable: stop, and never try again.
    """

    def __init__(self, disk: Disk, directory: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._metadata = b""
        self._hard_state = HardState()
        self._last_index = 0
        # What the backend holds, as the caller said, and as the log on disk says.
        self._released = (0, 0)
        self._written_release = (0, 0)
        self._segments: list[Segment] = []
        self._droppable: list[str] = []
        self._next_wanted = False
        self._next_ready = False
        self._file: DiskFile | None = None
        self._position = Position(0, 1, 0)
        # Up to where the segment's blocks were written, and from where on that goes on right now.
        self._zeroed = 0
        self._zeroing_from: int | None = None
        self._zeroing = exclusive()

    @staticmethod
    def exists(disk: Disk, directory: str) -> bool:
        """Return whether there is a log in ``directory``."""
        return disk.exists(directory) and bool(list_segments(disk, directory)[0])

    @classmethod
    def create(
        cls,
        disk: Disk,
        directory: str,
        metadata: bytes,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        start: tuple[int, int] = (0, 0),
    ) -> Wal:
        """Make an empty log that remembers ``metadata``; durable on return.

        ``start`` is the (index, term) that precedes its first entry, for a member that begins with a
        restored backend.
        """
        invariant(not cls.exists(disk, directory), "a log is created only once")
        disk.mkdir(directory)
        wal = cls(disk, directory, segment_bytes=segment_bytes)
        wal._metadata = metadata
        wal._released = start
        wal._last_index = start[0]
        wal._roll(start[0] + 1)
        return wal

    @classmethod
    def open(cls, disk: Disk, directory: str, *, segment_bytes: int = SEGMENT_BYTES) -> Wal:
        """Return the log in ``directory``, to be read with `recover`. Raises FileNotFoundError."""
        if not cls.exists(disk, directory):
            raise FileNotFoundError(f"{directory} holds no write-ahead log")
        return cls(disk, directory, segment_bytes=segment_bytes)

    def recover(self) -> Recovered:
        """Read the whole log and make it ready to grow. Cuts a torn tail; raises CorruptLog."""
        invariant(self._file is None, "a log is recovered once, before it grows")
        segments, leftovers = list_segments(self._disk, self._directory)
        recovered, self._position = LogReader(self._disk).read(segments)
        self._segments = segments
        self._droppable = leftovers
        for name in self._disk.listdir(self._directory):
            if name.endswith(".tmp"):
                self._disk.unlink(f"{self._directory}/{name}")
        self._metadata = recovered.metadata
        self._hard_state = recovered.hard_state
        self._released = self._written_release = (
            recovered.released_index,
            recovered.released_term,
        )
        last = recovered.entries[-1].index if recovered.entries else recovered.released_index
        self._last_index = last
        self._file = self._disk.open(segments[-1].path, OpenMode.WRITE)
        if self._file.size() < self._segment_bytes:
            self._file.allocate(self._segment_bytes)
        # A process that was killed may have written what we have read, and given the segment its name,
        # without living to sync either: the next power failure would take it all.
        self._file.fsync()
        self._disk.fsync_dir(self._directory)
        self._zeroed = self._position.offset
        self._forget_released()
        return recovered

    @property
    def last_index(self) -> int:
        """The index of the newest entry."""
        return self._last_index

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        *,
        behind: tuple[int, int] | None = None,
    ) -> None:
        """Write a hard state and entries in one piece; durable on return.

        Entries follow the newest one, or replace the log from their first index on. With ``behind``,
        the (index, term) of a snapshot that the backend durably holds, all earlier entries are gone.
        """
        last_index = self._last_index if behind is None else behind[0]
        if entries:
            invariant(entries[0].index <= last_index + 1, "entries leave no hole in the log")
            if self._position.offset >= self._segment_bytes:
                self._roll(entries[0].index)
        parts: list[bytes] = []
        if behind is not None:
            # First in the frame: a reader that sees any of it has forgotten the old log.
            parts.append(snapshot_record(*behind))
            self._released = behind
        if hard_state is not None:
            parts.append(hard_state_record(hard_state))
            self._hard_state = hard_state
        for entry in entries:
            parts += (entry_head(entry), entry.data)
        released = self._released
        if released != self._written_release:
            parts.append(release_record(*released))
        _BEFORE_APPEND()
        self._write(b"".join(parts))
        _AFTER_APPEND()
        self._last_index = entries[-1].index if entries else last_index
        if entries:
            current = self._segments[-1]
            current.last_index = max(current.last_index, self._last_index)
        if released != self._written_release:
            self._written_release = released
            self._forget_released()

    def release(self, index: int, term: int) -> None:
        """Remember that the backend durably holds everything up to ``index``, an entry of ``term``.

        The next append writes it down; after that, whole segments before it are `droppable`.
        """
        if index > self._released[0]:
            self._released = (index, term)

    def droppable(self) -> list[str]:
        """Hand over the paths of segments that nothing needs any more; the caller unlinks them."""
        paths, self._droppable = self._droppable, []
        return paths

    def wants_next_segment(self) -> bool:
        """Say once per segment that `prepare_next_segment` should run, so that rolling is quick."""
        if self._next_wanted or self._position.offset <= self._segment_bytes // 2:
            return False
        self._next_wanted = True
        return True

    def prepare_next_segment(self) -> None:
        """Reserve the room of the next segment. May run beside `append`.

        It is only a head start: without room for it (`is_full`) nothing is left behind and the log can
        still be used. A failure of any other kind is as bad as everywhere.
        """
        path = f"{self._directory}/{_NEXT}"
        # Asked first: an attempt takes what is left from everybody else, if only for a moment.
        if self._disk.free_bytes(self._directory) < self._segment_bytes:
            raise no_space(self._directory)
        file = self._disk.open(path, OpenMode.CREATE)
        try:
            file.truncate(0)
            file.allocate(self._segment_bytes)
            _write_zeros(file, 0, min(_ZEROS_BYTES, self._segment_bytes))
            file.fsync()
        except OSError:
            # Some file systems keep what they could reserve.
            self._disk.unlink(path)
            raise
        finally:
            file.close()
        # Last, and never undone here: until it is set, rolling does not touch the file.
        self._next_ready = True

    def wants_zeros(self) -> bool:
        """Return whether `write_zeros` should run, so that appending stays quick."""
        ahead = self._position.offset + _ZEROS_BYTES
        return self._zeroed < min(ahead, self._segment_bytes)

    def write_zeros(self) -> None:
        """Write zeros ahead of the log; durable on return. May run beside `append`, which stays clear."""
        with self._zeroing:
            file = self._file
            if file is None:
                return
            start = max(self._zeroed, self._position.offset + _CLEAR_BYTES)
            end = min(start + _ZEROS_BYTES, self._segment_bytes)
            self._zeroing_from = start
            if start < end:
                _write_zeros(file, start, end)
                file.fsync()
            self._zeroed = max(start, end)
            self._zeroing_from = None

    def close(self) -> None:
        """Close the file; what was appended is durable already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, payload: bytes) -> None:
        end = self._position.offset + len(payload) + OVERHEAD_BYTES + ALIGN_BYTES
        zeroing_from = self._zeroing_from
        # Zeros that begin now keep the distance from a frame that is under way, unless it is too large.
        if len(payload) >= _CLEAR_BYTES // 2 or (zeroing_from is not None and end > zeroing_from):
            with self._zeroing:
                self._write_frame(payload)
        else:
            self._write_frame(payload)

    def _write_frame(self, payload: bytes) -> None:
        file = self._file
        if file is None:
            raise OSError("the write-ahead log is closed")
        position = self._position
        frame, chain = encode_frame(payload, position.sequence, position.chain)
        file.pwrite_sync(frame, position.offset)
        self._position = Position(position.offset + len(frame), position.sequence + 1, chain)

    def _roll(self, first_index: int) -> None:
        """Begin a new segment; it gets its name only when its first frame is on disk."""
        _BEFORE_ROLL()
        with self._zeroing:
            self._begin_segment(first_index)
        self._written_release = self._released
        self._forget_released()
        _AFTER_ROLL()

    def _begin_segment(self, first_index: int) -> None:
        sequence = self._segments[-1].sequence + 1 if self._segments else 1
        path = f"{self._directory}/{segment_name(sequence, first_index)}"
        ready = self._next_ready
        beside = f"{self._directory}/{_NEXT if ready else _ROLLING}"
        file = self._disk.open(beside, OpenMode.WRITE if ready else OpenMode.CREATE)
        try:
            zeroed = min(_ZEROS_BYTES if ready else _FIRST_ZEROS_BYTES, self._segment_bytes)
            if not ready:
                file.truncate(0)
                file.allocate(self._segment_bytes)
                _write_zeros(file, 0, zeroed)
            self.close()
            self._file = file
            self._zeroed = zeroed
            self._position = Position(0, self._position.sequence, self._position.chain)
            self._write_frame(
                b"".join(
                    (
                        segment_record(sequence, first_index),
                        metadata_record(self._metadata),
                        hard_state_record(self._hard_state),
                        release_record(*self._released),
                    )
                )
            )
            file.fsync()
            self._disk.rename(beside, path)
            self._disk.fsync_dir(self._directory)
            if ready:
                self._next_ready = self._next_wanted = False
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            self._file = None
            raise
        self._segments.append(Segment(path, sequence, first_index))

    def _forget_released(self) -> None:
        segments = self._segments
        while len(segments) > 1 and segments[0].last_index <= self._written_release[0]:
            self._droppable.append(segments.pop(0).path)


def _write_zeros(file: DiskFile, start: int, end: int) -> None:
    for at in range(start, end, len(_PIECE)):
        file.pwrite(_PIECE[: end - at], at)
