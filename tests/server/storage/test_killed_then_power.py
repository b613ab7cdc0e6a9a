"""A process is killed, the next one goes on with what it finds, and then the power fails.

A killed process takes nothing with it: what it wrote and did not sync is there for the next one, which must
not take it for durable.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from coord_server.bootstrap import open_data_dir
from coord_server.config import Config
from coord_server.raft.types import Entry, EntryKind, HardState, Index, NodeId, Term
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import CrashMode, MemoryDisk
from coord_server.storage.wal import Wal

SEGMENT = 4096


class Killed(BaseException):
    """The process ends here."""


def kill_after(disk: MemoryDisk, steps: int) -> None:
    left = steps

    def on_step(operation: str, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    disk.on_step = on_step


def heirs(work: Callable[[MemoryDisk], object]) -> list[MemoryDisk]:
    """Return the disks that a process leaves that is killed at each step of ``work``."""
    left: list[MemoryDisk] = []
    while True:
        disk = MemoryDisk()
        disk.mkdir("/data")
        kill_after(disk, len(left))
        try:
            work(disk)
        except Killed:
            left.append(disk.successor())
        else:
            return left


def without_power(disk: MemoryDisk) -> MemoryDisk:
    return disk.crash_image(CrashMode.NONE, random.Random(0))


def entry(index: int) -> Entry:
    return Entry(Term(1), Index(index), EntryKind.NORMAL, bytes([index]) * 1500)


def write_log(disk: MemoryDisk) -> None:
    wal = Wal.create(disk, "/data/wal", b"id", segment_bytes=SEGMENT)
    for index in range(1, 7):
        wal.append(HardState(Term(1), NodeId(1), Index(index - 1)), [entry(index)])


def test_what_the_next_process_appends_survives() -> None:
    disks = [disk for disk in heirs(write_log) if Wal.exists(disk, "/data/wal")]
    assert len(disks) > 10
    for disk in disks:
        wal = Wal.open(disk, "/data/wal", segment_bytes=SEGMENT)
        wal.recover()
        index = wal.last_index + 1
        wal.append(None, [entry(index)])
        again = Wal.open(without_power(disk), "/data/wal", segment_bytes=SEGMENT)
        assert again.recover().entries[-1].index == index


def test_what_was_recovered_is_durable() -> None:
    for disk in heirs(write_log):
        if Wal.exists(disk, "/data/wal"):
            recovered = Wal.open(disk, "/data/wal", segment_bytes=SEGMENT).recover()
            again = Wal.open(without_power(disk), "/data/wal", segment_bytes=SEGMENT).recover()
            assert again.entries == recovered.entries


def test_a_backend_that_was_just_made_survives() -> None:
    def work(disk: MemoryDisk) -> None:
        MemoryBackend(disk, "/data/journal")

    batch = Batch()
    batch.put(Bucket.KEY, b"k", b"v")
    for disk in heirs(work):
        MemoryBackend(disk, "/data/journal").write(batch)
        again = MemoryBackend(without_power(disk), "/data/journal")
        assert again.get(Bucket.KEY, b"k") == b"v"


def test_a_data_directory_that_was_just_made_survives() -> None:
    config = Config(data_dir="/data")

    for disk in heirs(lambda disk: open_data_dir(disk, config)):
        open_data_dir(disk, config)
        after = without_power(disk)
        assert after.exists("/data/member/FORMAT")
