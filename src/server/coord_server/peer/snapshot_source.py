"""Snapshots of the leader's own state, as files that any number of followers fetch.

A follower may take long, and a view of the backend that stays open would keep it from using freed space
again. So the view is written to a file at the speed of the disk, in a worker; followers read from that. A
snapshot that is recent enough is handed out again, and goes some time after its last holder.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coord.runtime import Supervisor, invariant
from coord_server.raft.types import Index, Term
from coord_server.storage.backend import APPLIED_INDEX_KEY, APPLIED_TERM_KEY, BackendError, Bucket
from coord_server.storage.disk import OpenMode
from coord_server.storage.snapshot_file import HASH_BYTES, check_room, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coord_server.env import ServerEnv
    from coord_server.log import Log
    from coord_server.raft.types import SnapshotMeta
    from coord_server.storage.backend import Backend, View
    from coord_server.storage.disk import Disk, DiskFile

# The start of the server removes what is called so: see bootstrap.py.
PREFIX: Final = "snapshot-"
SUFFIX: Final = ".tmp"
# How long a file is kept for the next follower: those that were cut off together come back together.
_LINGER_S: Final = 60.0


class SnapshotFailed(Exception):
    """There is no snapshot; the text says why. Nothing is left behind."""


def applied_position(view: View) -> tuple[Index, Term]:
    """Return up to where in the log a view has applied; (0, 0) for a new backend."""
    wanted = {APPLIED_INDEX_KEY: 0, APPLIED_TERM_KEY: 0}
    for key, value in view.scan(Bucket.META):
        if key in wanted:
            wanted[key] = int.from_bytes(value)
    return Index(wanted[APPLIED_INDEX_KEY]), Term(wanted[APPLIED_TERM_KEY])


class _Hashing:
    """Hashes what goes into a file; the pieces come in order."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write a piece."""
        self._hash.update(data)
        self._file.pwrite(data, offset)

    def digest(self) -> bytes:
        """Return the hash of everything so far."""
        return self._hash.digest()


@dataclass(slots=True)
class _Written:
    file: DiskFile
    meta: SnapshotMeta
    size_bytes: int
    digest: bytes


class Snapshot:
    """A file that holds the state up to ``meta``. Whoever holds it may read; each hold is released once."""

    def __init__(self, source: SnapshotSource, snapshot_id: int, path: str, what: _Written) -> None:
        self.snapshot_id = snapshot_id
        self.path = path
        self.meta = what.meta
        self.size_bytes = what.size_bytes
        self.digest = what.digest
        self.file = what.file
        self.holders = 0
        self.timer: asyncio.TimerHandle | None = None
        self._source = source

    def hold(self) -> None:
        """Keep the file."""
        self.holders += 1
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def release(self) -> None:
        """Keep it no longer; the last one to say so starts its time to go."""
        invariant(self.holders > 0, "a snapshot is released more often than held")
        self.holders -= 1
        if not self.holders:
            self._source.unused(self)

    def read(self, size: int, offset: int) -> bytes:
        """Return a piece of the file. For the offload thread; raises OSError."""
        return self.file.pread(size, offset)


class SnapshotSource:
    """Writes snapshots into ``directory``, one at a time, and removes them.

    ``describe(view)`` returns what a view covers, in the worker (see `applied_position`); ``about`` goes
    into the files, for people and tools.
    """

    def __init__(
        self,
        *,
        env: ServerEnv,
        directory: str,
        describe: Callable[[View], SnapshotMeta],
        about: Mapping[str, str | int],
        log: Log,
        linger_s: float = _LINGER_S,
    ) -> None:
        self._env = env
        self._directory = directory
        self._describe = describe
        self._about = dict(about)
        self._log = log
        self._linger_s = linger_s
        self._supervisor = Supervisor(self._report)
        self._kept: dict[int, Snapshot] = {}
        self._filling: asyncio.Task[Snapshot] | None = None
        self._takers = 0
        self._is_closed = False

    async def take(self, backend: Backend, *, at_least: Index) -> Snapshot:
        """Return a held snapshot that covers ``at_least``; the caller releases it.

        What the backend has not written yet is not in it: flush first if it must be. Raises
        SnapshotFailed, also if the backend's content does not reach so far. A cancelled call holds nothing.
        """
        is_ours = False
        while True:
            for snapshot in reversed(self._kept.values()):
                if snapshot.meta.index >= at_least:
                    snapshot.hold()
                    return snapshot
            self._check_wanted()
            if is_ours:
                raise SnapshotFailed(f"the backend does not reach index {at_least} yet")
            # One that is being written already may have begun too early for us.
            if self._filling is None:
                is_ours = True
                self._filling = self._supervisor.spawn(self._fill(backend), name="snapshot")
            await self._wait_for(self._filling)

    async def _wait_for(self, filling: asyncio.Task[Snapshot]) -> None:
        # Not awaited itself: it goes on if this call is cancelled, for those who wait beside it.
        self._takers += 1
        try:
            await asyncio.wait({filling})
        finally:
            self._takers -= 1
        if filling.cancelled():
            raise SnapshotFailed("the member is stopping")
        error = filling.exception()
        if isinstance(error, BackendError | OSError | SnapshotFailed):
            raise SnapshotFailed(str(error)) from error
        if error is not None:
            raise error

    async def _fill(self, backend: Backend) -> Snapshot:
        begun = self._env.clock.mono()
        # Random, so that a follower can resume only what it has begun, also after a restart of ours.
        snapshot_id = self._env.rand.bits(63)
        path = f"{self._directory}/{PREFIX}out-{snapshot_id:016x}{SUFFIX}"
        try:
            what = await self._env.offload.run(self._write, path, backend)
        finally:
            self._filling = None
        snapshot = self._kept[snapshot_id] = Snapshot(self, snapshot_id, path, what)
        self._log.info(
            "wrote a snapshot for followers",
            index=what.meta.index,
            total_bytes=what.size_bytes,
            took_s=round(self._env.clock.mono() - begun, 3),
        )
        self.unused(snapshot)
        return snapshot

    # In a worker thread.

    def _write(self, path: str, backend: Backend) -> _Written:
        disk = self._env.disk
        check_room(disk, path, backend)
        file = disk.open(path, OpenMode.CREATE_NEW)
        try:
            hashing = _Hashing(file)
            with backend.view() as view:
                meta = self._describe(view)
                about = {**self._about, "index": meta.index, "term": meta.term}
                size = write_snapshot(hashing, view, about, is_wanted=lambda: not self._is_closed)
            self._check_wanted()
            digest = hashing.digest()
            file.pwrite(digest, size)
            return _Written(file, meta, size + HASH_BYTES, digest)
        except BaseException:
            file.close()
            disk.unlink(path)
            raise

    def _check_wanted(self) -> None:
        if self._is_closed:
            raise SnapshotFailed("the member is stopping")

    # On the loop.

    def unused(self, snapshot: Snapshot) -> None:
        """Remove a snapshot that nobody holds, if nobody wants it for some time."""
        if not self._is_closed and snapshot.snapshot_id in self._kept:
            loop = asyncio.get_running_loop()
            snapshot.timer = loop.call_later(self._linger_s, self._expire, snapshot)

    def _expire(self, snapshot: Snapshot) -> None:
        snapshot.timer = None
        if self._takers:
            self.unused(snapshot)
        elif not snapshot.holders and not self._is_closed:
            del self._kept[snapshot.snapshot_id]
            self._supervisor.spawn(self._remove(snapshot), name="remove snapshot")

    async def _remove(self, snapshot: Snapshot) -> None:
        await self._env.offload.run(_discard, self._env.disk, snapshot)

    async def close(self) -> None:
        """Remove all files; those who still read get errors."""
        self._is_closed = True
        if self._filling is not None:
            # It stops at its next piece.
            await asyncio.wait({self._filling})
        await self._supervisor.close()
        kept, self._kept = self._kept, {}
        for snapshot in kept.values():
            if snapshot.timer is not None:
                snapshot.timer.cancel()
            _discard(self._env.disk, snapshot)

    def _report(self, name: str, error: BaseException) -> None:
        self._log.warning("snapshot failed", where=name, error=str(error))


def _discard(disk: Disk, snapshot: Snapshot) -> None:
    snapshot.file.close()
    try:
        disk.unlink(snapshot.path)
    except FileNotFoundError:
        return
