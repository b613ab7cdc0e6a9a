"""What every Disk promises, held against the real one and the one in memory."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from coord_server.storage.disk import AlreadyLocked, Disk, OpenMode, RealDisk, RealFile
from coord_server.storage.memory_disk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(params=["memory", "memory, nothing recorded", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, str]:
    if request.param == "real":
        return RealDisk(), str(tmp_path)
    disk = MemoryDisk(record_unsynced=request.param == "memory")
    disk.mkdir("/data")
    return disk, "/data"


def test_bytes_go_where_they_are_told(place: tuple[Disk, str]) -> None:
    disk, root = place
    file = disk.open(f"{root}/a", OpenMode.CREATE_NEW)
    assert file.size() == 0
    file.pwrite(b"hello", 3)
    file.pwrite_sync(b"J", 3)
    assert file.pread(100, 0) == b"\0\0\0Jello"
    assert file.pread(2, 4) == b"el"
    assert file.pread(2, 50) == b""
    file.truncate(5)
    file.fsync()
    assert file.size() == 5
    file.allocate(9)
    assert file.pread(20, 0) == b"\0\0\0Je\0\0\0\0"
    file.allocate(2)  # never shrinks
    assert file.size() == 9
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file"):
        file.pread(1, 0)
    assert disk.read_file(f"{root}/a") == b"\0\0\0Je\0\0\0\0"


def test_modes_say_what_must_be_there(place: tuple[Disk, str]) -> None:
    disk, root = place
    for mode in (OpenMode.READ, OpenMode.WRITE):
        with pytest.raises(FileNotFoundError):
            disk.open(f"{root}/a", mode)
    with pytest.raises(FileNotFoundError):
        disk.open(f"{root}/no/a", OpenMode.CREATE)
    disk.open(f"{root}/a", OpenMode.CREATE).close()
    disk.open(f"{root}/a", OpenMode.CREATE).close()
    with pytest.raises(FileExistsError):
        disk.open(f"{root}/a", OpenMode.CREATE_NEW)
    reader = disk.open(f"{root}/a", OpenMode.READ)
    with pytest.raises(OSError, match="Bad file"):
        reader.pwrite(b"x", 0)
    reader.close()
    writer = disk.open(f"{root}/a", OpenMode.WRITE)
    writer.pwrite(b"x", 0)
    writer.close()


def test_names(place: tuple[Disk, str]) -> None:
    disk, root = place
    disk.write_file_atomic(f"{root}/b", b"first")
    disk.write_file_atomic(f"{root}/b", b"second")
    disk.write_file_atomic(f"{root}/a", b"other")
    assert disk.listdir(root) == ["a", "b"]
    disk.rename(f"{root}/a", f"{root}/b")
    disk.fsync_dir(root)
    assert disk.read_file(f"{root}/b") == b"other"
    assert not disk.exists(f"{root}/a")
    disk.unlink(f"{root}/b")
    assert disk.listdir(root) == []
    for act in (disk.unlink, disk.read_file):
        with pytest.raises(FileNotFoundError):
            act(f"{root}/b")
    with pytest.raises(FileNotFoundError):
        disk.rename(f"{root}/b", f"{root}/c")
    with pytest.raises(FileNotFoundError):
        disk.listdir(f"{root}/missing")


def test_directories_come_with_their_parents(place: tuple[Disk, str]) -> None:
    disk, root = place
    disk.mkdir(f"{root}/x/y/z")
    disk.mkdir(f"{root}/x/y/z")
    disk.open(f"{root}/x/y/z/file", OpenMode.CREATE).close()
    assert disk.exists(f"{root}/x/y")
    assert disk.listdir(f"{root}/x") == ["y"]
    assert disk.free_bytes(root) > 0


def test_a_lock_excludes_until_it_is_released(place: tuple[Disk, str]) -> None:
    disk, root = place
    lock = disk.lock(f"{root}/LOCK")
    with pytest.raises(AlreadyLocked, match="stop it, or give this member"):
        disk.lock(f"{root}/LOCK")
    lock.release()
    lock.release()
    disk.lock(f"{root}/LOCK").release()


def test_the_real_lock_names_its_holder(tmp_path: Path) -> None:
    disk = RealDisk()
    lock = disk.lock(f"{tmp_path}/LOCK")
    with pytest.raises(AlreadyLocked, match=f"process {os.getpid()}"):
        disk.lock(f"{tmp_path}/LOCK")
    lock.release()


def test_what_the_real_disk_makes_is_private(tmp_path: Path) -> None:
    disk = RealDisk()
    disk.mkdir(f"{tmp_path}/d")
    disk.open(f"{tmp_path}/d/f", OpenMode.CREATE).close()
    assert (tmp_path / "d").stat().st_mode & 0o077 == 0
    assert (tmp_path / "d/f").stat().st_mode & 0o077 == 0


def test_without_the_one_call_form_a_write_is_followed_by_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no such flag")

    monkeypatch.setattr("coord_server.storage.disk.os.pwritev", refuse)
    monkeypatch.setattr("coord_server.storage.disk._datasync", synced.append)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    file = RealFile(fd, str(tmp_path))
    file.pwrite_sync(b"abc", 0)
    file.pwrite_sync(b"d", 3)
    assert synced == [fd, fd]
    assert file.pread(9, 0) == b"abcd"
    file.close()


def test_a_failing_device_is_not_mistaken_for_a_missing_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def fail(*_: object) -> int:
        nonlocal calls
        calls += 1
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("coord_server.storage.disk.os.pwritev", fail)
    file = RealFile(os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT), str(tmp_path))
    with pytest.raises(OSError, match="broken"):
        file.pwrite_sync(b"abc", 0)
    assert calls == 1
    file.close()


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev

    def short(fd: int, buffers: tuple[bytes], offset: int, flags: int) -> int:
        return real(fd, (buffers[0][:2],), offset, flags)

    monkeypatch.setattr("coord_server.storage.disk.os.pwritev", short)
    file = RealFile(os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT), str(tmp_path))
    file.pwrite_sync(b"abcdefg", 0)
    assert file.pread(9, 0) == b"abcdefg"
    file.close()


def test_errors_of_the_real_disk_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk()
    file = disk.open(f"{tmp_path}/old", OpenMode.CREATE)
    disk.rename(f"{tmp_path}/old", f"{tmp_path}/new")

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("pwrite", "pwritev", "fsync", "ftruncate", "posix_fallocate"):
        monkeypatch.setattr(f"coord_server.storage.disk.os.{name}", fail)
    acts: list[Callable[[], object]] = [
        lambda: file.pwrite(b"a", 0),
        lambda: file.pwrite_sync(b"a", 0),
        lambda: file.truncate(0),
        file.fsync,
        lambda: file.allocate(10),
        lambda: disk.fsync_dir(str(tmp_path)),
    ]
    for act in acts:
        with pytest.raises(OSError, match="Input/output error") as caught:
            act()
        assert caught.value.filename == str(tmp_path)
    file.close()


def test_a_lock_that_cannot_be_written_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, path = RealDisk(), f"{tmp_path}/LOCK"

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("coord_server.storage.disk.os.pwrite", fail)
        with pytest.raises(OSError, match="No space left"):
            disk.lock(path)
    disk.lock(path).release()
