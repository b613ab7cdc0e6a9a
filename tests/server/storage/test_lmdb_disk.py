"""What LMDB leaves to others when a disk is full. Full disks themselves: ``tests/chaos/test_full_disk.py``."""

from __future__ import annotations

import errno
from pathlib import Path

import lmdb
import pytest

from coord_server.storage.backend import BackendError, Batch, Bucket
from coord_server.storage.disk import RealDisk
from coord_server.storage.lmdb_backend import LmdbBackend
from coord_server.storage.lmdb_disk import created_whole, disk_failure, reserve_lock_file
from coord_server.storage.memory_disk import MemoryDisk


def test_the_lock_file_gets_its_blocks_and_keeps_its_content() -> None:
    disk = MemoryDisk()
    disk.mkdir("/store")
    disk.write_file_atomic("/store/lock.mdb", b"held")
    reserve_lock_file(disk, "/store")
    assert disk.read_file("/store/lock.mdb") == b"held" + bytes(8188)
    reserve_lock_file(disk, "/store")
    assert disk.read_file("/store/lock.mdb") == b"held" + bytes(8188)


def test_a_lock_file_without_room_is_not_left_short() -> None:
    disk = MemoryDisk(capacity_bytes=5000)
    disk.mkdir("/store")
    with pytest.raises(OSError, match="No space left"):
        reserve_lock_file(disk, "/store")
    assert disk.read_file("/store/lock.mdb") == b""


def test_the_reserved_lock_file_is_as_large_as_lmdb_makes_it(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path), max_dbs=1).close()
    size = (tmp_path / "lock.mdb").stat().st_size
    disk = MemoryDisk()
    disk.mkdir("/store")
    reserve_lock_file(disk, "/store")
    assert len(disk.read_file("/store/lock.mdb")) >= size


@pytest.mark.parametrize(("before", "after"), [(None, None), (b"", None), (b"old", b"old")])
def test_only_a_file_that_was_new_goes_with_a_failure(
    before: bytes | None, after: bytes | None
) -> None:
    disk = MemoryDisk()
    if before is not None:
        disk.write_file_atomic("/f", before)
    with pytest.raises(BackendError), created_whole(disk, "/f"):
        if not before:
            disk.write_file_atomic("/f", b"half")
        raise BackendError("no room")
    assert (disk.read_file("/f") if disk.exists("/f") else None) == after


def test_errors_of_the_device_are_told_from_those_of_lmdb() -> None:
    roomy, full = MemoryDisk(), MemoryDisk(capacity_bytes=1000)
    no_map_left = -30792
    assert disk_failure(roomy, "/store", no_map_left) is None
    # A write that ended early is an I/O error to LMDB.
    found = [disk_failure(disk, "/store", errno.EIO) for disk in (roomy, full)]
    assert [error and error.errno for error in found] == [errno.EIO, errno.ENOSPC]
    found = [disk_failure(disk, "/store", errno.ENOSPC) for disk in (roomy, full)]
    assert [str(error) for error in found] == ["[Errno 28] No space left on device: '/store'"] * 2


def test_what_is_no_matter_of_the_disk_keeps_the_words_of_lmdb(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(BackendError, match="MDB_INVALID"):
        LmdbBackend(str(tmp_path))
    assert (tmp_path / "data.mdb").exists()


def test_a_backend_that_could_not_be_opened_can_be_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_disk: RealDisk, _path: str) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "fsync_dir", fail)
        with pytest.raises(OSError, match="broken"):
            LmdbBackend(str(tmp_path))
    backend = LmdbBackend(str(tmp_path))
    batch = Batch()
    batch.put(Bucket.META, b"k", b"v")
    backend.write(batch)
    assert backend.get(Bucket.META, b"k") == b"v"
    backend.close()
