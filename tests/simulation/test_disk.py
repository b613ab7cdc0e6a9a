# ruff: noqa: ANN401 - options of any kind
"""The simulated disk: what fails, what it costs, and what a crash leaves."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from coord.testing.sim.disk import DiskOptions, SimDisk
from coord.testing.sim.nodeloop import NodeDead, NodeLoop
from coord.testing.sim.scheduler import Scheduler
from coord_server.storage.disk import OpenMode
from coord_server.storage.memory_disk import CrashMode, MemoryDisk


class Place:
    def __init__(self, **options: Any) -> None:
        self.scheduler = Scheduler(1)
        self.disk = SimDisk(self.scheduler, 1, "n1", options=DiskOptions(**options))
        self.loop, self.platter = self.start()

    def start(self) -> tuple[NodeLoop, MemoryDisk]:
        loop = NodeLoop("n1", on_problem=lambda context: None)
        self.scheduler.add(loop)
        platter = self.disk.start(loop)
        platter.mkdir("/d")
        return loop, platter

    def file(self, name: str = "/d/a") -> Any:
        return self.platter.open(name, OpenMode.CREATE)


def test_a_sync_takes_time_and_a_slow_disk_more() -> None:
    place = Place(sync_min_s=0.01)
    seen: list[float] = []

    def write() -> None:
        file = place.file()
        file.pwrite_sync(b"x", 0)
        seen.append(place.scheduler.moment())
        place.disk.slow_s = 3.0
        file.fsync()
        seen.append(place.scheduler.moment())

    place.loop.call_soon(write)
    place.scheduler.run(10.0)
    assert 0.01 < seen[0] < 0.1
    assert seen[1] > 3.0


def test_a_failed_sync_drops_the_pages_once() -> None:
    place = Place()
    file = place.file()
    file.pwrite_sync(b"old", 0)
    place.disk.fail_next_sync()
    with pytest.raises(OSError, match=r"."):
        file.pwrite_sync(b"new", 0)
    assert file.pread(3, 0) == b"old"
    file.fsync()
    assert place.disk.failed_syncs == 1


def test_a_full_disk_refuses_in_the_middle_and_recovers() -> None:
    place = Place()
    file = place.file()
    place.disk.fill(10)
    file.pwrite(bytes(8), 0)
    with pytest.raises(OSError, match=r".") as raised:
        file.pwrite(bytes(8), 8)
    assert raised.value.errno == errno.ENOSPC
    place.disk.fill(None)
    file.pwrite(bytes(8), 8)


def test_a_machine_dies_at_the_operation_that_was_chosen() -> None:
    place = Place()
    file = place.file()

    def die() -> None:
        place.scheduler.remove(place.loop)
        raise NodeDead("n1")

    place.disk.on_death = die
    place.disk.die_in(2)
    file.pwrite(b"a", 0)
    with pytest.raises(NodeDead):
        file.fsync()
    with pytest.raises(NodeDead):
        file.pwrite(b"b", 0)


def test_a_killed_process_leaves_its_pages_and_a_power_failure_takes_them() -> None:
    place = Place()
    place.file().pwrite(b"unsynced", 0)
    place.scheduler.remove(place.loop)
    place.disk.crash(None)
    _, heir = place.start()
    assert heir.read_file("/d/a") == b"unsynced"
    assert heir.unsynced
    place.disk.crash(CrashMode.NONE)
    assert not place.disk.platter.exists("/d/a")


def test_a_dead_process_cannot_write_to_the_next_ones_disk() -> None:
    place = Place()
    file = place.file()
    place.scheduler.remove(place.loop)
    place.disk.crash(None)
    _, heir = place.start()
    with pytest.raises(NodeDead):
        file.pwrite(b"ghost", 0)
    assert heir.read_file("/d/a") == b""


def test_lying_syncs_save_nothing() -> None:
    place = Place(lies=True)
    place.file().pwrite_sync(b"gone", 0)
    place.platter.fsync_dir("/d")
    place.disk.crash(CrashMode.NONE)
    assert not place.disk.platter.exists("/d/a")


def test_rot_flips_one_bit_of_the_durable_image() -> None:
    place = Place()
    file = place.file()
    file.pwrite_sync(b"good bytes", 0)
    place.platter.fsync_dir("/d")
    assert place.disk.rot("/d") == "/d/a"
    place.disk.crash(CrashMode.NONE)
    rotten = place.disk.platter.read_file("/d/a")
    flipped = [(a ^ b).bit_count() for a, b in zip(rotten, b"good bytes", strict=True)]
    assert sum(flipped) == 1


def test_is_synced_tells_what_a_power_failure_would_take() -> None:
    disk = MemoryDisk()
    disk.mkdir("/d")
    file = disk.open("/d/a.wal", OpenMode.CREATE)
    assert not disk.is_synced("/d", ".wal")
    disk.fsync_dir("/d")
    assert disk.is_synced("/d", ".wal")
    file.pwrite(b"x", 0)
    assert not disk.is_synced("/d", ".wal")
    assert disk.is_synced("/d", ".tmp")
    file.fsync()
    assert disk.is_synced("/d")
