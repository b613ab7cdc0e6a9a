"""What is special to one backend: LMDB's map and files, the journal's crashes and rewriting."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

from coord_server import failpoints
from coord_server.storage import lmdb_backend
from coord_server.storage.backend import BackendError, Batch, Bucket
from coord_server.storage.lmdb_backend import LmdbBackend
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import CrashMode, MemoryDisk

if TYPE_CHECKING:
    from pathlib import Path


def puts(count: int, size: int, start: int = 0) -> Batch:
    batch = Batch()
    for n in range(start, start + count):
        batch.put(Bucket.KEY, b"%08d" % n, bytes([n % 256]) * size)
    return batch


def test_the_map_grows_ahead_of_the_data(tmp_path: Path) -> None:
    backend = LmdbBackend(str(tmp_path), map_bytes=1 << 20)
    for n in range(20):
        backend.write(puts(50, 10_000, start=50 * n))
        assert backend.size_bytes() <= backend.map_bytes
    assert backend.map_bytes >= 10_000_000
    assert sum(1 for _ in backend.scan(Bucket.KEY)) == 1000
    assert backend.get(Bucket.KEY, b"%08d" % 999) == bytes([999 % 256]) * 10_000
    backend.close()


def test_a_full_map_costs_a_second_try_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_backend, "_PAGES_PER_PUT_BYTES", 0)
    monkeypatch.setattr(lmdb_backend, "_SLACK_BYTES", 0)
    backend = LmdbBackend(str(tmp_path), map_bytes=1 << 17)
    backend.write(puts(200, 2000))
    assert sum(1 for _ in backend.scan(Bucket.KEY)) == 200
    assert backend.map_bytes > 400_000
    backend.close()


def test_a_store_larger_than_the_map_opens(tmp_path: Path) -> None:
    backend = LmdbBackend(str(tmp_path), map_bytes=1 << 20)
    backend.write(puts(400, 10_000))
    backend.close()
    again = LmdbBackend(str(tmp_path), map_bytes=1 << 20)
    assert sum(1 for _ in again.scan(Bucket.KEY)) == 400
    again.write(puts(400, 10_000, start=400))
    assert sum(1 for _ in again.scan(Bucket.KEY)) == 800
    again.close()


def test_space_comes_back_into_use(tmp_path: Path) -> None:
    backend = LmdbBackend(str(tmp_path))
    backend.write(puts(1000, 1000))
    full = backend.in_use_bytes()
    batch = Batch()
    for n in range(1000):
        batch.delete(Bucket.KEY, b"%08d" % n)
    backend.write(batch)
    assert backend.in_use_bytes() < full / 10
    assert backend.size_bytes() >= full
    backend.close()


def test_the_files_are_private(tmp_path: Path) -> None:
    LmdbBackend(str(tmp_path)).close()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_key_too_long_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    backend = LmdbBackend(str(tmp_path))
    batch = puts(1, 1)
    batch.put(Bucket.AUTH, b"k" * 512, b"")
    with pytest.raises(BackendError, match="512 bytes"):
        backend.write(batch)
    assert list(backend.scan(Bucket.KEY)) == []
    backend.close()


def test_what_is_no_database_is_reported_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(BackendError, match=str(tmp_path)):
        LmdbBackend(str(tmp_path))


@pytest.mark.parametrize("mode", CrashMode)
def test_a_batch_in_the_journal_is_there_or_not_at_all(mode: CrashMode) -> None:
    chance = random.Random(mode.value)
    disk = MemoryDisk()
    written = 0
    for _ in range(60):
        backend = MemoryBackend(disk, "/db")
        fail_at = chance.randrange(1, 40)

        def on_step(operation: str, path: str) -> None:
            nonlocal fail_at
            fail_at -= 1
            if fail_at < 0:
                raise OSError(5, f"{operation} {path}")

        disk.on_step = on_step
        try:
            for n in range(written + 1, written + 50):
                batch = puts(20, 200)
                batch.put(Bucket.META, b"last", b"%d" % n)
                batch.put(Bucket.META, b"twin", b"%d" % n)
                backend.write(batch)
                written = n
        except OSError:
            pass
        disk = disk.crash_image(mode, chance)
        survived = MemoryBackend(disk.crash_image(CrashMode.ALL, chance), "/db")
        last = int(survived.get(Bucket.META, b"last") or b"0")
        assert last in {written, written + 1}
        assert survived.get(Bucket.META, b"twin") == (b"%d" % last if last else None)
        written = last
    assert written > 100
    assert len(disk.read_file("/db")) < 400_000  # history is dropped


def test_in_memory_sizes_follow_the_content() -> None:
    backend = MemoryBackend()
    backend.write(puts(10, 100))
    backend.write(puts(10, 50))
    assert backend.in_use_bytes() == 10 * 58 == backend.size_bytes()


@pytest.mark.parametrize("point", ["defragment.before_swap", "defragment.after_swap"])
def test_a_defragmentation_that_fails_leaves_the_store_in_use(tmp_path: Path, point: str) -> None:
    backend = LmdbBackend(str(tmp_path))
    backend.write(puts(100, 100))

    def fail() -> None:
        raise OSError(5, "no such luck")

    failpoints.arm(point, fail)
    try:
        with pytest.raises(OSError, match="no such luck"):
            backend.defragment()
    finally:
        failpoints.disarm()
    backend.write(puts(100, 100, start=100))
    assert sum(1 for _ in backend.scan(Bucket.KEY)) == 200
    backend.defragment()
    backend.close()
    again = LmdbBackend(str(tmp_path))
    assert sum(1 for _ in again.scan(Bucket.KEY)) == 200
    again.close()


def test_what_a_crash_leaves_of_a_defragmentation_is_removed(tmp_path: Path) -> None:
    LmdbBackend(str(tmp_path)).close()
    left = tmp_path / "defragmented.tmp"
    left.write_bytes(b"half a copy")
    backend = LmdbBackend(str(tmp_path))
    assert not left.exists()
    backend.defragment()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    backend.close()
    for act in (backend.defragment, backend.view().__enter__):
        with pytest.raises(BackendError, match="closed"):
            act()


def test_a_view_ends_when_the_backend_closes(tmp_path: Path) -> None:
    backend = LmdbBackend(str(tmp_path))
    backend.write(puts(2000, 10))
    with backend.view() as view:
        scan = view.scan(Bucket.KEY)
        next(scan)
        closer = threading.Thread(target=backend.close)
        closer.start()
        with pytest.raises(BackendError, match="closed"):
            while True:
                next(scan)
                scan = view.scan(Bucket.KEY)
    closer.join()
