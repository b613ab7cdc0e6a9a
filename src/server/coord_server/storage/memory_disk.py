"""A disk in memory that knows what a crash would leave.

It keeps, beside what a reader sees, what is durable, and the operations between the two in order.
``crash_image`` returns a second disk as the machine might find it after power loss. Used by the
tests, and by ``memory:`` servers with ``record_unsynced=False``, where nothing outlives the process.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import Enum, unique
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from coord_server.storage.disk import (
    SECTOR_BYTES,
    AlreadyLocked,
    Disk,
    OpenMode,
    parent_of,
    write_file_atomic,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@unique
class CrashMode(Enum):
    """Which of the operations that were not synced reached the device before the power failed."""

    NONE = "none"
    ALL = "all"
    PREFIX = "prefix"  # the first few, in order
    SUBSET = "subset"  # any of them
    TORN = "torn"  # the first few, then a part of one write


class Chance(Protocol):
    """The draws that a crash needs; ``random.Random`` has them."""

    def randrange(self, stop: int, /) -> int:
        """Return a number in ``[0, stop)``."""
        ...

    def randbytes(self, n: int, /) -> bytes:
        """Return ``n`` random bytes."""
        ...


class _Content:
    """A file's bytes: as written, and as durable. One object when nothing is recorded."""

    __slots__ = ("current", "durable")

    def __init__(self, durable: bytearray, *, record: bool) -> None:
        self.durable: bytearray = durable
        self.current: bytearray = bytearray(durable) if record else durable


@dataclass(slots=True)
class _Write:
    content: _Content
    offset: int
    data: bytes

    def apply(self, target: bytearray) -> None:
        end = self.offset + len(self.data)
        if len(target) < self.offset:
            target.extend(bytes(self.offset - len(target)))
        target[self.offset : end] = self.data


@dataclass(slots=True)
class _Resize:
    content: _Content
    size: int

    def apply(self, target: bytearray) -> None:
        if self.size < len(target):
            del target[self.size :]
        else:
            target.extend(bytes(self.size - len(target)))


@dataclass(slots=True)
class _Link:
    """A name set to a file, or removed (None); ``source`` is the old name of a rename."""

    directory: str
    path: str
    content: _Content | None
    source: str | None = None

    def apply(self, names: dict[str, _Content]) -> None:
        if self.source is not None:
            names.pop(self.source, None)
        if self.content is None:
            names.pop(self.path, None)
        else:
            names[self.path] = self.content


_Pending = _Write | _Resize | _Link


class MemoryFile:
    """A file of a MemoryDisk; see DiskFile."""

    __slots__ = ("_content", "_disk", "_path", "_writable")

    def __init__(self, disk: MemoryDisk, path: str, content: _Content, *, writable: bool) -> None:
        self._disk = disk
        self._path = path
        self._content: _Content | None = content
        self._writable = writable

    def _open(self, *, write: bool) -> _Content:
        if self._content is None or (write and not self._writable):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._path)
        return self._content

    def pread(self, size: int, offset: int) -> bytes:
        """See DiskFile."""
        return bytes(memoryview(self._open(write=False).current)[offset : offset + size])

    def pwrite(self, data: bytes, offset: int) -> None:
        """See DiskFile."""
        content = self._open(write=True)
        self._disk.step("write", self._path)
        self._disk.claim(offset + len(data) - len(content.current))
        self._disk.do(_Write(content, offset, bytes(data)))

    def pwrite_sync(self, data: bytes, offset: int) -> None:
        """See DiskFile."""
        self.pwrite(data, offset)
        self.fsync()

    def truncate(self, size: int) -> None:
        """See DiskFile."""
        content = self._open(write=True)
        self._disk.step("truncate", self._path)
        self._disk.do(_Resize(content, size))

    def fsync(self) -> None:
        """See DiskFile."""
        content = self._open(write=False)
        self._disk.step("fsync", self._path)
        self._disk.settle(content)

    def allocate(self, size: int) -> None:
        """See DiskFile."""
        content = self._open(write=True)
        self._disk.step("allocate", self._path)
        if size > len(content.current):
            self._disk.claim(size - len(content.current))
            self._disk.do(_Resize(content, size))

    def size(self) -> int:
        """See DiskFile."""
        return len(self._open(write=False).current)

    def close(self) -> None:
        """See DiskFile."""
        self._content = None


class MemoryLock:
    """A lock of a MemoryDisk; see DiskLock."""

    __slots__ = ("_held", "_path")

    def __init__(self, held: dict[str, None], path: str) -> None:
        self._held = held
        self._path: str | None = path

    def release(self) -> None:
        """See DiskLock."""
        if self._path is not None:
            self._held.pop(self._path, None)
            self._path = None


class MemoryDisk(Disk):
    """Files in memory. ``capacity_bytes`` bounds what may be allocated (ENOSPC beyond it).

    ``on_step(operation, path)``, if set, runs before each change or sync takes effect and may raise:
    an OSError plays a failing device, anything else a process that dies there.
    """

    def __init__(self, *, record_unsynced: bool = True, capacity_bytes: int | None = None) -> None:
        self.on_step: Callable[[str, str], None] | None = None
        self._record = record_unsynced
        self._capacity = capacity_bytes
        self._names: dict[str, _Content] = {}
        self._durable_names: dict[str, _Content] = {}
        self._directories: dict[str, None] = {"/": None, ".": None}
        self._pending: list[_Pending] = []
        self._locks: dict[str, None] = {}
        self._sync_failures = 0
        self.syncs_lie = False
        """Whether syncs report success and save nothing. Only to prove that the judges notice."""

    # What the files of this disk call.

    def step(self, operation: str, path: str) -> None:
        """Let ``on_step`` see, or break, what is about to happen."""
        if self.on_step is not None:
            self.on_step(operation, path)

    def claim(self, growth: int) -> None:
        """Raise OSError(ENOSPC) if the disk cannot grow by ``growth`` bytes."""
        if self._capacity is not None and growth > 0 and self.free_bytes("/") < growth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def do(self, change: _Write | _Resize) -> None:
        """Make a change visible, and remember it until it is durable."""
        change.apply(change.content.current)
        if self._record:
            self._pending.append(change)

    def settle(self, content: _Content) -> None:
        """Make the changes of one file durable; or lose them, if a sync was told to fail."""
        if self.syncs_lie:
            return
        rest: list[_Pending] = []
        for change in self._pending:
            if isinstance(change, _Link) or change.content is not content:
                rest.append(change)
            elif not self._sync_failures:
                change.apply(content.durable)
        self._pending = rest
        if self._sync_failures:
            # As Linux does: the pages are dropped but look clean, so the next sync would "succeed".
            self._sync_failures -= 1
            if self._record:
                content.current[:] = content.durable
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    # Faults.

    def fail_next_sync(self) -> None:
        """Let the next fsync lose what it should have saved, with EIO."""
        self._sync_failures += 1

    def limit(self, capacity_bytes: int | None) -> None:
        """Change how much may be stored; None means without a bound."""
        self._capacity = capacity_bytes

    def used_bytes(self) -> int:
        """Return how much is stored."""
        return sum(len(content.current) for content in self._names.values())

    def rot(self, path: str, offset: int, mask: int) -> None:
        """Flip the bits of ``mask`` in one byte of a file, as written and as durable."""
        content = self._named(path)
        for copy in (content.current, content.durable):
            if offset < len(copy):
                copy[offset] ^= mask
            if content.durable is content.current:
                break

    def is_synced(self, directory: str, suffix: str = "") -> bool:
        """Tell whether every file in a directory, and its name, is as durable as it is visible.

        Of files whose name ends with ``suffix``. Names that were removed do not count: that they come
        back must be harmless.
        """

        def is_meant(path: str) -> bool:
            return parent_of(path) == directory and path.endswith(suffix)

        for change in self._pending:
            if isinstance(change, _Link):
                if change.content is not None and is_meant(change.path):
                    return False
            elif any(
                content is change.content and is_meant(path)
                for path, content in self._names.items()
            ):
                return False
        return True

    @property
    def unsynced(self) -> int:
        """How many operations a crash could undo."""
        return len(self._pending)

    def successor(self) -> MemoryDisk:
        """Return this disk for the next process: all that was written is there, durable or not. Locks are free.

        The files that the last process had open still belong to this object, and to its ``on_step``.
        """
        heir = MemoryDisk(record_unsynced=self._record, capacity_bytes=self._capacity)
        heir._names, heir._durable_names = self._names, self._durable_names
        heir._directories, heir._pending = self._directories, self._pending
        heir.syncs_lie = self.syncs_lie
        return heir

    def crash_image(self, mode: CrashMode, chance: Chance) -> MemoryDisk:
        """Return the disk as a crash now might leave it; this one stays as it is. Locks are free."""
        chosen = _survivors(self._pending, mode, chance)
        image = MemoryDisk(capacity_bytes=self._capacity)
        image._directories = dict(self._directories)
        copies: dict[int, _Content] = {}

        def copy(content: _Content) -> _Content:
            if id(content) not in copies:
                copies[id(content)] = _Content(bytearray(content.durable), record=True)
            return copies[id(content)]

        image._durable_names = {
            path: copy(content) for path, content in self._durable_names.items()
        }
        for change in chosen:
            if isinstance(change, _Link):
                content = None if change.content is None else copy(change.content)
                _Link(change.directory, change.path, content, change.source).apply(
                    image._durable_names
                )
            else:
                change.apply(copy(change.content).durable)
        for content in copies.values():
            content.current[:] = content.durable
        image._names = dict(image._durable_names)
        return image

    # Disk.

    @override
    def open(self, path: str, mode: OpenMode) -> MemoryFile:
        content = self._names.get(path)
        if content is not None and mode is OpenMode.CREATE_NEW:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if content is None:
            if mode in {OpenMode.READ, OpenMode.WRITE} or parent_of(path) not in self._directories:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self.step("create", path)
            content = _Content(bytearray(), record=self._record)
            self._link(_Link(parent_of(path), path, content))
        return MemoryFile(self, path, content, writable=mode is not OpenMode.READ)

    def _link(self, change: _Link) -> None:
        change.apply(self._names)
        if self._record:
            self._pending.append(change)
        else:
            change.apply(self._durable_names)

    def _named(self, path: str) -> _Content:
        content = self._names.get(path)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return content

    @override
    def rename(self, old: str, new: str) -> None:
        content = self._named(old)
        if parent_of(old) != parent_of(new):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), new)
        self.step("rename", old)
        self._link(_Link(parent_of(new), new, content, source=old))

    @override
    def unlink(self, path: str) -> None:
        self._named(path)
        self.step("unlink", path)
        self._link(_Link(parent_of(path), path, None))

    @override
    def listdir(self, path: str) -> list[str]:
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return sorted(
            known.rpartition("/")[2]
            for known in [*self._names, *self._directories]
            if parent_of(known) == path and known not in {path, "."}
        )

    @override
    def mkdir(self, path: str, mode: int = 0o700) -> None:
        while path not in self._directories:
            self._directories[path] = None
            path = parent_of(path)

    @override
    def fsync_dir(self, path: str) -> None:
        self.step("fsync_dir", path)
        if self.syncs_lie:
            return
        rest: list[_Pending] = []
        for change in self._pending:
            if isinstance(change, _Link) and change.directory == path:
                change.apply(self._durable_names)
            else:
                rest.append(change)
        self._pending = rest

    @override
    def exists(self, path: str) -> bool:
        return path in self._names or path in self._directories

    @override
    def lock(self, path: str) -> MemoryLock:
        if path in self._locks:
            raise AlreadyLocked(path, "")
        self._locks[path] = None
        if path not in self._names:
            self.open(path, OpenMode.CREATE).close()
        return MemoryLock(self._locks, path)

    @override
    def free_bytes(self, path: str) -> int:
        if self._capacity is None:
            return 1 << 62
        return self._capacity - sum(len(content.current) for content in self._names.values())

    @override
    def read_file(self, path: str) -> bytes:
        return bytes(self._named(path).current)

    @override
    def write_file_atomic(self, path: str, data: bytes) -> None:
        write_file_atomic(self, path, data)


def _survivors(pending: list[_Pending], mode: CrashMode, chance: Chance) -> list[_Pending]:
    """Return what of the pending operations took effect."""
    if mode is CrashMode.NONE:
        return []
    if mode is CrashMode.ALL:
        return list(pending)
    if mode is CrashMode.SUBSET:
        return [change for change in pending if chance.randrange(2)]
    cut = chance.randrange(len(pending) + 1)
    chosen = pending[:cut]
    if mode is CrashMode.TORN and cut < len(pending):
        torn = pending[cut]
        if isinstance(torn, _Write):
            chosen.extend(_tear(torn, chance))
    return chosen


def _tear(write: _Write, chance: Chance) -> list[_Pending]:
    """Return the part of a write that arrived: up to a byte, a byte and garbage, or some sectors."""
    if chance.randrange(2):
        cut = chance.randrange(len(write.data) + 1)
        data = write.data[:cut]
        if chance.randrange(2):
            left = min(-(write.offset + cut) % SECTOR_BYTES, len(write.data) - cut)
            data += chance.randbytes(left)
        return [_Write(write.content, write.offset, data)]
    pieces: list[_Pending] = []
    start = write.offset
    end = write.offset + len(write.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if chance.randrange(2):
            data = write.data[start - write.offset : stop - write.offset]
            pieces.append(_Write(write.content, start, data))
        start = stop
    return pieces
