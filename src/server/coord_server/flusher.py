"""Brings applied changes into the backend, in the background, and lets go of the log behind them.

The order is what makes a crash harmless: the batch holds changes and applied index together, the
log is released only up to what the backend durably has, and segments are unlinked only after the log
itself says that they are not needed.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from coord_server.failpoints import failpoint
from coord_server.storage.disk import is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.runtime import Offload, Supervisor
    from coord_server.apply import Applier
    from coord_server.storage.backend import Backend, Batch
    from coord_server.storage.disk import Disk
    from coord_server.storage.wal import Wal

_BEFORE_WRITE = failpoint("flush.before_write")
_AFTER_WRITE = failpoint("flush.after_write")


class Flusher:
    """Writes one batch at a time. ``flushed(index)`` is called when entries up to it are in the backend."""

    def __init__(
        self,
        *,
        applier: Applier,
        backend: Backend,
        wal: Wal,
        disk: Disk,
        offload: Offload,
        supervisor: Supervisor,
        flushed: Callable[[int], None],
    ) -> None:
        self._applier = applier
        self._backend = backend
        self._wal = wal
        self._disk = disk
        self._offload = offload
        self._supervisor = supervisor
        self._flushed = flushed
        self._idle = asyncio.Event()
        self._idle.set()

        # Not what the backend has from an earlier run: asking costs one empty flush.
        self._reached = 0

    @property
    def busy(self) -> bool:
        """Whether a batch is being written."""
        return not self._idle.is_set()

    def start(self) -> None:
        """Write what waits, in the background, unless that is going on already."""
        if not self.busy:
            self._idle.clear()
            self._supervisor.spawn(self._run(), name="backend flush")

    async def reach(self, index: int) -> None:
        """Return when the backend durably holds the entries up to ``index``, which are applied.

        A cancelled call changes nothing. After a failure of the node this never returns.
        """
        while self._reached < index:
            self.start()
            await self._idle.wait()

    async def pause(self) -> None:
        """Wait until nothing is being written, and let nothing begin before `resume`."""
        while self.busy:
            await self._idle.wait()
        self._idle.clear()

    def resume(self) -> None:
        """Allow writing again."""
        self._idle.set()

    async def finish(self) -> None:
        """Write everything that waits, and return when it is durable."""
        await self.pause()
        await self._run()

    async def _run(self) -> None:
        # Stays busy after a failure: nothing may be written after it.
        applier = self._applier
        index, term = applier.applied_index, applier.term
        batch = applier.take_batch()
        if batch is not None:
            await self._offload.run(self._write, batch)
            applier.flushed()
            self._wal.release(index, term)
            self._flushed(index)
        paths = self._wal.droppable()
        if paths:
            await self._offload.run(self._unlink, paths)
        if self._wal.wants_zeros():
            await self._offload.run(self._wal.write_zeros)
        if self._wal.wants_next_segment():
            await self._offload.run(self._prepare)
        self._reached = index
        self._idle.set()

    def _write(self, batch: Batch) -> None:
        _BEFORE_WRITE()
        self._backend.write(batch)
        _AFTER_WRITE()

    def _unlink(self, paths: Sequence[str]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(path)

    def _prepare(self) -> None:
        try:
            self._wal.prepare_next_segment()
        except OSError as error:
            # Only a head start: rolling reserves the room itself. A disk that fails is no matter of room.
            if not is_full(error):
                raise
