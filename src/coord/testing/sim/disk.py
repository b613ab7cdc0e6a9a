"""The disk of a simulated machine: what a crash leaves, what fails, and how long things take.

The bytes and the operations between them and the durable image are kept by a ``MemoryDisk``, the platter.
This room decides: which image a power failure leaves, when a sync fails (and drops what it should have
saved), when the disk is full, how long a sync takes, at which operation a machine dies half-way.

The seam is synchronous, so the time of an operation is charged to whoever runs it: to the node, or to the
offload thread while one is simulated.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coord.testing.sim.chance import Chance
from coord_server.storage.memory_disk import CrashMode, MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.sim.nodeloop import NodeLoop
    from coord.testing.sim.scheduler import Scheduler

_SYNCS: Final = frozenset(("fsync", "fsync_dir"))
_WRITE_S: Final = 5e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOptions:
    """How a disk behaves in a run. Seconds; a sync takes ``sync_min_s`` and an exponential rest."""

    sync_min_s: float = 0.0001
    sync_mean_s: float = 0.0003
    lies: bool = False
    """Syncs save nothing. Only to prove that the judges notice."""


class SimDisk:
    """One machine's disk. ``platter`` is what a process that starts now is given."""

    def __init__(
        self, scheduler: Scheduler, seed: int, name: str, *, options: DiskOptions | None = None
    ) -> None:
        self.name = name
        self.options: DiskOptions = options if options is not None else DiskOptions()
        self.platter: MemoryDisk = MemoryDisk()
        self.slow_s: float = 0.0
        """The least that each sync takes at present."""
        self.on_death: Callable[[], object] | None = None
        """Called when the machine dies at an operation; does not return normally."""
        self.spent: float | None = None
        """While the offload thread is simulated: the seconds that it has spent."""
        self.failed_syncs: int = 0
        self.was_full: bool = False
        """Whether the room was ever made too small."""
        self._scheduler = scheduler
        self._chance = Chance(seed, "disk", name)
        self._crashes = Chance(seed, "crash image", name)
        self._dies_in = 0
        self._pending_failures = 0

    def start(self, loop: NodeLoop) -> MemoryDisk:
        """Give the disk to a new process."""
        self._dies_in = 0
        platter = self.platter
        platter.syncs_lie = self.options.lies

        def on_step(operation: str, path: str) -> None:
            self._step(loop, operation, path)

        platter.on_step = on_step
        return platter

    def crash(self, mode: CrashMode | None) -> None:
        """Leave what a power failure leaves; None for a killed process, which takes nothing with it."""
        self._dies_in = 0
        if mode is None:
            self.platter = self.platter.successor()
            return
        self.platter = self.platter.crash_image(mode, self._crashes)
        self._scheduler.trace.note(self._scheduler.now, self.name, f"image {mode.value}")

    def wipe(self) -> None:
        """Put an empty disk in."""
        self.platter = MemoryDisk()

    # Faults.

    def die_in(self, operations: int) -> None:
        """Let the machine die when it begins its n-th next operation."""
        self._dies_in = operations

    def fail_next_sync(self) -> None:
        """Let the next sync of a file fail with EIO and drop what it should have saved."""
        self._pending_failures += 1

    def calm(self) -> None:
        """End every fault that is still to come."""
        self._dies_in = 0
        self._pending_failures = 0
        self.slow_s = 0.0
        self.fill(None)

    def fill(self, left_bytes: int | None) -> None:
        """Leave so much room; None makes the disk as large as it was."""
        self.was_full = self.was_full or left_bytes is not None
        limit = None if left_bytes is None else self.platter.used_bytes() + left_bytes
        self.platter.limit(limit)

    def rot(self, prefix: str) -> str | None:
        """Flip a bit somewhere in a file whose path begins with ``prefix``; return the path."""
        paths = sorted(
            f"{directory}/{name}"
            for directory in _directories(self.platter, prefix)
            for name in self.platter.listdir(directory)
        )
        files = [path for path in paths if self.platter.exists(path) and _size(self.platter, path)]
        if not files:
            return None
        path = self._chance.choice(files)
        used = self.platter.read_file(path).rstrip(b"\0")
        offset = self._chance.randrange(max(1, len(used)))
        self.platter.rot(path, offset, 1 << self._chance.randrange(8))
        return path

    def _step(self, loop: NodeLoop, operation: str, path: str) -> None:
        loop.check_alive()
        scheduler = self._scheduler
        scheduler.trace.note(
            scheduler.now, self.name, operation, zlib.crc32(path.encode()) if path else 0
        )
        if self._dies_in:
            self._dies_in -= 1
            if not self._dies_in and self.on_death is not None:
                self.on_death()
        if operation in _SYNCS:
            options = self.options
            took = options.sync_min_s + self._chance.exponential(options.sync_mean_s)
            self._spend(max(took, self.slow_s))
            if operation == "fsync" and self._pending_failures:
                self._pending_failures -= 1
                self.failed_syncs += 1
                self.platter.fail_next_sync()
        else:
            self._spend(_WRITE_S)

    def _spend(self, seconds: float) -> None:
        if self.spent is not None:
            self.spent += seconds
        else:
            self._scheduler.charge(seconds)


def _directories(disk: MemoryDisk, prefix: str) -> list[str]:
    """Return the directories at or under a path."""
    found = [prefix] if disk.exists(prefix) else []
    for directory in found:
        for name in disk.listdir(directory):
            path = f"{directory}/{name}"
            if path not in found and _is_directory(disk, path):
                found.append(path)
    return found


def _is_directory(disk: MemoryDisk, path: str) -> bool:
    try:
        disk.listdir(path)
    except FileNotFoundError:
        return False
    return True


def _size(disk: MemoryDisk, path: str) -> int:
    try:
        return len(disk.read_file(path))
    except FileNotFoundError:
        return 0
