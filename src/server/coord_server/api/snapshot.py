"""``Maintenance.Snapshot``: the whole store at one moment, as a stream.

A client may take hours, and a view of the backend that stays open for so long would keep it from using
freed space again. So the snapshot is first written to a file of its own at the speed of the disk, and
the stream is fed from that. The file goes with the call; what a crash leaves is removed at the start.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Final

from coord.rpc.async_calls import async_stream
from coord.rpc.status import RpcError, StatusCode
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from coord_server import __version__
from coord_server.api.context import parse_streamed
from coord_server.bootstrap import SNAPSHOT_PREFIX, SNAPSHOT_SUFFIX
from coord_server.storage.backend import BackendError
from coord_server.storage.disk import OpenMode
from coord_server.storage.snapshot_file import check_room, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Generator

    from coord.rpc.async_calls import AsyncCall
    from coord.rpc.service import Method
    from coord_server.api.context import ApiContext
    from coord_server.storage.backend import Backend
    from coord_server.storage.disk import Disk, DiskFile

# As etcd's: the bytes of one message, and what one look at the file brings.
_MESSAGE_BYTES: Final = 32 << 10
_READ_BYTES: Final = 8 * _MESSAGE_BYTES


class _Spool:
    """A snapshot in a file that nobody else sees.

    Its worker may be at it when the call ends. Then whoever comes last removes the file: the flags
    are set and read in such an order that one of the two always does, and doing it twice is fine.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._file: DiskFile | None = None
        self._busy = False
        self._wanted = True
        self.size = 0

    # In a worker thread.

    def fill(self, backend: Backend, about: dict[str, str | int]) -> None:
        """Write the snapshot."""
        with self._at_work():
            if not self._wanted:
                return
            check_room(self._disk, self._path, backend)
            file = self._file = self._disk.open(self._path, OpenMode.CREATE_NEW)
            with backend.view() as view:
                self.size = write_snapshot(file, view, about, is_wanted=lambda: self._wanted)

    def read(self, offset: int) -> bytes:
        """Return what is at ``offset``, several messages long."""
        with self._at_work():
            file = self._file
            if not self._wanted or file is None:
                return b""
            return file.pread(min(_READ_BYTES, self.size - offset), offset)

    @contextlib.contextmanager
    def _at_work(self) -> Generator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if not self._wanted:
                self._remove()

    # On the loop.

    def discard(self) -> None:
        """Remove the file, now or as soon as the worker is done with it."""
        self._wanted = False
        if not self._busy:
            self._remove()

    def _remove(self) -> None:
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(OSError):
                self._disk.unlink(self._path)


class Snapshots:
    """Serves the method; numbers the files."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._count = 0

    def method(self) -> Method:
        """Return the method of the service."""
        return async_stream(rpcs.MAINTENANCE_SNAPSHOT.path, self._serve)

    async def _serve(self, call: AsyncCall) -> None:
        """Send the file in chunks and its SHA-256 behind it (etcd ops: "Snapshot stream")."""
        context = self._context
        context.check_stream_metadata(call.head)
        parse_streamed(rpc_pb2.SnapshotRequest, await call.receive() or b"")
        self._count += 1
        spool = _Spool(
            context.env.disk, f"{context.scratch}/{SNAPSHOT_PREFIX}{self._count}{SNAPSHOT_SUFFIX}"
        )
        try:
            await context.replica.flush()
            begun = context.env.clock.mono()
            await context.env.offload.run(spool.fill, context.backend, self._about())
            context.log.info(
                "sending database snapshot to client",
                total_bytes=spool.size,
                took_s=round(context.env.clock.mono() - begun, 3),
            )
            await self._send(call, spool)
        except (BackendError, OSError) as error:
            context.log.warning("snapshot failed", error=str(error))
            raise RpcError(StatusCode.UNKNOWN, f"snapshot failed: {error}") from error
        finally:
            spool.discard()

    def _about(self) -> dict[str, str | int]:
        context = self._context
        return {
            "program": f"coord-server {__version__}",
            "cluster_id": f"{context.stamp.cluster_id:x}",
            "member_id": f"{context.stamp.member_id:x}",
            "revision": context.store.revision,
        }

    async def _send(self, call: AsyncCall, spool: _Spool) -> None:
        digest = hashlib.sha256()
        offset = 0
        while offset < spool.size:
            data = await self._context.env.offload.run(spool.read, offset)
            if not data:
                raise OSError("the file of the snapshot is cut off")
            for start in range(0, len(data), _MESSAGE_BYTES):
                blob = data[start : start + _MESSAGE_BYTES]
                digest.update(blob)
                offset += len(blob)
                answer = rpc_pb2.SnapshotResponse(remaining_bytes=spool.size - offset, blob=blob)
                await call.send(answer.SerializeToString())
        await call.send(rpc_pb2.SnapshotResponse(blob=digest.digest()).SerializeToString())
