"""What LMDB leaves to others when a disk is full: room for its lock file, half a new file, a misleading error."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from coord_server.storage.disk import OpenMode, no_space, system_error

if TYPE_CHECKING:
    from collections.abc import Generator

    from coord_server.storage.disk import Disk

# What LMDB makes the file at least as large as, for the 126 readers that it has room for by default.
_LOCK_BYTES = 8192
_ZEROS = bytes(_LOCK_BYTES)

# Less than this is no room: a batch writes whole pages, and a file system keeps something for itself.
_NO_ROOM_BYTES = 1 << 20

# Of the device, not of LMDB, whose own codes are negative.
_DEVICE = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def reserve_lock_file(disk: Disk, directory: str) -> None:
    """Give the lock file its blocks before LMDB maps it. Raises OSError.

    A mapped page that finds no room on the disk ends the process by SIGBUS, without a word.
    """
    file = disk.open(f"{directory}/lock.mdb", OpenMode.CREATE)
    try:
        size = file.size()
        if size < _LOCK_BYTES:
            file.pwrite(_ZEROS[size:], size)
    except OSError:
        # Nobody has it open: LMDB would take a short file as it is, with room for fewer readers.
        file.truncate(0)
        raise
    finally:
        file.close()


@contextlib.contextmanager
def created_whole(disk: Disk, path: str) -> Generator[None]:
    """Remove the file at ``path`` if it was made inside and that failed: half of one can't be opened again."""
    is_new = not disk.exists(path) or not _size(disk, path)
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                disk.unlink(path)
        raise


def _size(disk: Disk, path: str) -> int:
    file = disk.open(path, OpenMode.READ)
    try:
        return file.size()
    finally:
        file.close()


def disk_failure(disk: Disk, directory: str, code: int) -> OSError | None:
    """Return the system's error behind an error of LMDB with ``code``; None if the disk is not at fault."""
    # A write that ended early is "Input/output error" to LMDB, and that is how a disk becomes full.
    if code == errno.EIO and disk.free_bytes(directory) < _NO_ROOM_BYTES:
        return no_space(directory)
    return system_error(code, directory) if code in _DEVICE else None
