"""What a crash leaves on the disk in memory: everything synced, and a fitting part of the rest."""

from __future__ import annotations

import errno
import random

import pytest

from coord_server.storage.disk import OpenMode
from coord_server.storage.memory_disk import CrashMode, MemoryDisk


def images(disk: MemoryDisk, mode: CrashMode, name: str = "/f", count: int = 200) -> set[bytes]:
    found: set[bytes] = set()
    for seed in range(count):
        image = disk.crash_image(mode, random.Random(seed))
        found.add(image.read_file(name) if image.exists(name) else b"<missing>")
    return found


def synced_file(disk: MemoryDisk, data: bytes) -> None:
    file = disk.open("/f", OpenMode.CREATE)
    file.pwrite_sync(data, 0)
    disk.fsync_dir("/")


@pytest.mark.parametrize("mode", CrashMode)
def test_what_was_synced_is_always_there(mode: CrashMode) -> None:
    disk = MemoryDisk()
    synced_file(disk, b"safe")
    assert images(disk, mode) == {b"safe"}
    assert disk.unsynced == 0


def test_the_modes_differ_in_what_else_arrives() -> None:
    disk = MemoryDisk()
    synced_file(disk, b"....")
    file = disk.open("/f", OpenMode.WRITE)
    file.pwrite(b"A", 0)
    file.pwrite(b"B", 1)
    assert disk.unsynced == 2
    assert disk.read_file("/f") == b"AB.."
    assert images(disk, CrashMode.NONE) == {b"...."}
    assert images(disk, CrashMode.ALL) == {b"AB.."}
    assert images(disk, CrashMode.PREFIX) == {b"....", b"A...", b"AB.."}
    assert images(disk, CrashMode.SUBSET) == {b"....", b"A...", b".B..", b"AB.."}


def test_a_write_may_be_torn_anywhere() -> None:
    disk = MemoryDisk()
    synced_file(disk, bytes(1200))
    disk.open("/f", OpenMode.WRITE).pwrite(b"\xff" * 1200, 0)
    found = images(disk, CrashMode.TORN, count=2000)
    cuts = {
        len(image.rstrip(b"\0")) for image in found if image.count(0) == 1200 - image.count(255)
    }
    assert len(cuts) > 200
    middle_only = bytes(512) + b"\xff" * 512 + bytes(176)
    assert middle_only in found  # sectors arrive in any selection
    assert any(image.count(0) + image.count(255) < 1200 for image in found)  # garbage


def test_a_name_needs_its_directory_synced() -> None:
    disk = MemoryDisk()
    file = disk.open("/f", OpenMode.CREATE)
    file.pwrite_sync(b"data", 0)
    assert images(disk, CrashMode.SUBSET) == {b"<missing>", b"data"}
    disk.fsync_dir("/")
    assert images(disk, CrashMode.NONE) == {b"data"}


def test_an_atomic_write_leaves_old_or_new() -> None:
    disk = MemoryDisk()
    disk.write_file_atomic("/f", b"old")
    for stop in range(8):
        copy = disk.crash_image(CrashMode.ALL, random.Random(0))
        left = stop

        def die(operation: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, operation)

        copy.on_step = die
        try:
            copy.write_file_atomic("/f", b"new!")
        except OSError:
            for mode in CrashMode:
                assert images(copy, mode, count=20) <= {b"old", b"new!"}
        else:
            for mode in CrashMode:
                assert images(copy, mode, count=20) == {b"new!"}


def test_a_failed_sync_loses_the_data_and_the_next_one_hides_it() -> None:
    disk = MemoryDisk()
    synced_file(disk, b"old")
    file = disk.open("/f", OpenMode.WRITE)
    file.pwrite(b"new", 0)
    disk.fail_next_sync()
    with pytest.raises(OSError, match="Input/output"):
        file.fsync()
    file.fsync()
    assert disk.read_file("/f") == b"old"


def test_a_full_disk_says_so() -> None:
    disk = MemoryDisk(capacity_bytes=100)
    file = disk.open("/f", OpenMode.CREATE)
    file.allocate(60)
    with pytest.raises(OSError, match="No space"):
        disk.open("/g", OpenMode.CREATE).allocate(41)
    with pytest.raises(OSError, match="No space"):
        file.pwrite(b"x" * 50, 60)
    file.pwrite(b"x" * 40, 60)
    assert disk.free_bytes("/") == 0


def test_files_do_not_move_between_directories() -> None:
    disk = MemoryDisk()
    disk.mkdir("/d")
    synced_file(disk, b"x")
    with pytest.raises(OSError, match="cross-device"):
        disk.rename("/f", "/d/f")
