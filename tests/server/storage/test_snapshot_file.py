"""Snapshot files: everything is in them, and whatever happened to one on the way is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.disk import OpenMode
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk
from coord_server.storage.snapshot_file import BrokenSnapshot, SnapshotFile, write_snapshot

RECORDS = st.dictionaries(
    st.tuples(st.sampled_from(Bucket), st.binary(min_size=1, max_size=20)),
    st.one_of(st.binary(max_size=30), st.builds(bytes, st.integers(0, 3_000_000))),
    max_size=8,
)
Spoil = Callable[[bytes], bytes]
Content = dict[tuple[Bucket, bytes], bytes]


def saved(content: Content) -> tuple[MemoryDisk, bytes]:
    """Write a snapshot and its hash as a client saves them; return the disk and the bytes."""
    backend = MemoryBackend()
    batch = Batch()
    for (bucket, key), value in content.items():
        batch.put(bucket, key, value)
    backend.write(batch)
    disk = MemoryDisk()
    file = disk.open("/s", OpenMode.CREATE_NEW)
    with backend.view() as view:
        size = write_snapshot(file, view, {"revision": 7})
    assert size == file.size()
    assert size % 512 == 0
    data = file.pread(size, 0)
    file.pwrite(hashlib.sha256(data).digest(), size)
    file.close()
    return disk, disk.read_file("/s")


@given(content=RECORDS)
def test_what_was_written_is_read(content: Content) -> None:
    disk, data = saved(content)
    assert len(data) % 512 == 32
    file = SnapshotFile(disk, "/s")
    file.verify()
    assert file.about() == {"revision": 7}
    expected = [(*place, value) for place, value in sorted(content.items())]
    assert list(file.records()) == expected
    assert file.digest == data[-32:]
    file.close()


CONTENT = {(Bucket.KEY, b"k%d" % n): b"v" * n for n in range(200)}


SPOILS: dict[str, tuple[Spoil, str]] = {
    "empty": (lambda data: b"", "is no snapshot"),
    "magic": (lambda data: b"bolt" + data[4:], "is no snapshot"),
    "no hash": (lambda data: data[:-32], "cut off, or its hash is missing"),
    "one byte less": (lambda data: data[:-1], "cut off"),
    "hash only": (lambda data: data[:32], "cut off"),
    "content": (lambda data: data[:600] + b"?" + data[601:], "damaged: expected sha256"),
    "hash": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "damaged: expected sha256"),
    "shorter": (lambda data: data[:-1056] + data[-32:], "damaged: expected sha256"),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_damage_is_noticed(kind: str) -> None:
    spoil, text = SPOILS[kind]
    _, data = saved(CONTENT)
    disk = MemoryDisk()
    disk.write_file_atomic("/s", spoil(data))
    with pytest.raises(BrokenSnapshot, match=text) as caught:
        SnapshotFile(disk, "/s").verify()
    assert "/s " in str(caught.value)


@pytest.mark.parametrize("cut", [20, 40, 100, 700])
def test_a_file_with_a_right_hash_and_wrong_content_ends_in_one_sentence(cut: int) -> None:
    _, data = saved(CONTENT)
    data = data[:cut]
    data += bytes([1]) * (-len(data) % 512)
    disk = MemoryDisk()
    disk.write_file_atomic("/s", data + hashlib.sha256(data).digest())
    file = SnapshotFile(disk, "/s")
    file.verify()
    with pytest.raises(BrokenSnapshot, match="/s is damaged"):
        list(file.records())


def test_nobody_wants_it_any_more() -> None:
    backend = MemoryBackend()
    batch = Batch()
    for n in range(5):
        batch.put(Bucket.KEY, b"%d" % n, bytes(1 << 20))
    backend.write(batch)
    disk = MemoryDisk()
    file = disk.open("/s", OpenMode.CREATE_NEW)
    pieces = iter([True, True, False])
    with backend.view() as view:
        write_snapshot(file, view, {}, is_wanted=lambda: next(pieces))
    assert 2 << 20 <= file.size() < 3 << 20
