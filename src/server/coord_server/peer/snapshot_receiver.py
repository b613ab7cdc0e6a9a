"""The follower's side of a snapshot's way: fetch it, piece by piece and again from where it broke off.

There is one transfer at a time; a newer offer takes the place of an older one, but not that of a leader
of an earlier term, whose snapshot nobody would install. The file is handed over
when it is whole, on disk, read back and found right. Everything else removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from coord.rpc.status import RpcError, StatusCode
from coord.runtime import finish
from coord_server.peer.packet import SnapshotDone, SnapshotOffer
from coord_server.peer.snapshot_sender import FETCH, FETCH_PATH
from coord_server.peer.snapshot_source import PREFIX, SUFFIX
from coord_server.storage.disk import OpenMode
from coord_server.storage.snapshot_file import BrokenSnapshot, SnapshotFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.channel import ClientStream
    from coord.runtime import Supervisor
    from coord_server.peer.local import Local
    from coord_server.raft.messages import InstallSnapshot
    from coord_server.raft.types import NodeId
    from coord_server.storage.disk import Disk, DiskFile

T = TypeVar("T")

# What is written at once.
_WRITE_BYTES: Final = 1 << 20
# A disk that takes longer for one call is broken.
_DISK_S: Final = 120.0
# After these the leader will say the same again.
_FINAL: Final = frozenset(
    (
        StatusCode.NOT_FOUND,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.DATA_LOSS,
        StatusCode.UNIMPLEMENTED,
    )
)


class _Failed(Exception):
    """The transfer cannot succeed; the text says why."""


class ReceiverOwner(Protocol):
    """Knows where peers are, tells them of the outcome, and takes what has come."""

    def urls_of(self, node: NodeId) -> tuple[str, ...]:
        """Return where a member is reached; empty for one that is no peer any more."""
        ...

    def send_done(self, node: NodeId, done: SnapshotDone) -> None:
        """Tell the sender how its transfer ended; may be lost."""
        ...

    def snapshot_arrived(self, install: InstallSnapshot, path: str) -> None:
        """Take a whole snapshot; the file is the owner's now."""
        ...


class SnapshotReceiver:
    """Fetches what is offered into ``directory``."""

    def __init__(
        self, local: Local, owner: ReceiverOwner, supervisor: Supervisor, directory: str
    ) -> None:
        self._local = local
        self._owner = owner
        self._supervisor = supervisor
        self._directory = directory
        self._fetch: _Fetch | None = None
        self._task: asyncio.Task[None] | None = None
        self._last: tuple[NodeId, SnapshotDone] | None = None
        self._count = 0

    def on_offer(self, node: NodeId, offer: SnapshotOffer) -> None:
        """Begin to fetch, unless that is what we do; leave what we did before."""
        if self._last is not None:
            told, done = self._last
            if told == node and done.transfer_id == offer.transfer_id:
                # The offer came again because our answer was lost.
                self._owner.send_done(node, done)
                return
        fetch = self._fetch
        if fetch is not None and fetch.offer.install.term > offer.install.term:
            text = f"member {fetch.node:x}, which leads since, sends one"
            self._owner.send_done(node, SnapshotDone(offer.transfer_id, is_here=False, text=text))
            return
        if fetch is not None and fetch.node == node and fetch.offer.digest == offer.digest:
            # The same file under a new number: what is here stays.
            fetch.offer = offer
            return
        before = self._task
        if before is not None:
            before.cancel()
        self._count += 1
        path = f"{self._directory}/{PREFIX}in-{self._count}{SUFFIX}"
        fetch = self._fetch = _Fetch(self._local, node, offer, path, self._owner.urls_of)
        self._task = self._supervisor.spawn(
            self._run(fetch, before), name=f"snapshot from {node:x}"
        )

    def drop(self, node: NodeId) -> None:
        """Leave what a member sends that is no peer any more."""
        if self._fetch is not None and self._fetch.node == node and self._task is not None:
            self._task.cancel()

    async def _run(self, fetch: _Fetch, before: asyncio.Task[None] | None) -> None:
        log, node, path = self._local.log, fetch.node, fetch.path
        text = ""
        try:
            if before is not None:
                await asyncio.wait({before})
            log.info(
                "receiving a snapshot",
                remote_peer_id=f"{node:x}",
                index=fetch.offer.install.snapshot.index,
                total_bytes=fetch.offer.size_bytes,
            )
            await fetch.run()
        except (_Failed, RpcError, OSError, BrokenSnapshot) as error:
            text = str(error) or type(error).__name__
            log.warning("cannot receive a snapshot", remote_peer_id=f"{node:x}", error=text)
        finally:
            if self._fetch is fetch:
                self._fetch = self._task = None
        done = SnapshotDone(fetch.offer.transfer_id, is_here=not text, text=text)
        if done.is_here:
            log.info("received a snapshot", remote_peer_id=f"{node:x}", path=path)
            self._last = (node, done)
            self._owner.snapshot_arrived(fetch.offer.install, path)
        self._owner.send_done(node, done)


class _Fetch:
    """One snapshot on its way into one file."""

    def __init__(
        self,
        local: Local,
        node: NodeId,
        offer: SnapshotOffer,
        path: str,
        urls_of: Callable[[NodeId], tuple[str, ...]],
    ) -> None:
        self._local = local
        self._disk = local.env.disk
        self.node = node
        self.offer = offer
        self.path = path
        self._urls_of = urls_of
        self._offset = 0  # everything before is in the file

    async def run(self) -> None:
        """Fetch, sync and verify. Raises what went wrong, and then no file is left."""
        file = await self._in_worker(self._create)
        try:
            try:
                await self._fetch(file)
                await self._in_worker(file.fsync)
            finally:
                file.close()
            await self._in_worker(self._verify)
        except BaseException:
            # Also when cancelled; removing is quick, and the file is no use to anybody.
            with contextlib.suppress(OSError):
                self._disk.unlink(self.path)
            raise

    async def _in_worker(self, fn: Callable[..., T], *args: object) -> T:
        # To its end, although we are cancelled: else the file would be closed under the worker's hands,
        # and its number might be another file's by then.
        return await finish(self._local.env.offload.run(fn, *args), within=_DISK_S)

    def _create(self) -> DiskFile:
        directory = self.path.rpartition("/")[0]
        free, size = self._disk.free_bytes(directory), self.offer.size_bytes
        if free < size:
            raise _Failed(f"no space left for a snapshot of {size} bytes: {free} bytes are free")
        return self._disk.open(self.path, OpenMode.CREATE_NEW)

    def _verify(self) -> None:
        verify(self._disk, self.path, self.offer.digest)

    async def _fetch(self, file: DiskFile) -> None:
        limits, env = self._local.limits, self._local.env
        attempts, turn, delay = 0, 0, limits.retry_min_s
        while self._offset < self.offer.size_bytes:
            before = self._offset
            urls = self._urls_of(self.node)
            if not urls:
                raise _Failed(f"member {self.node:x} is not in the cluster any more")
            reason = await self._attempt(urls[turn % len(urls)], file)
            if reason is None:
                return
            if self._offset > before:
                attempts, delay = 0, limits.retry_min_s
            else:
                turn += 1
            attempts += 1
            if attempts >= limits.snapshot_attempts:
                raise _Failed(f"gave up after {attempts} attempts without progress: {reason}")
            self._local.log.info(
                "resuming a snapshot",
                remote_peer_id=f"{self.node:x}",
                offset=self._offset,
                total_bytes=self.offer.size_bytes,
                reason=reason,
            )
            await asyncio.sleep(env.rand.uniform(delay / 2, delay))
            delay = min(2 * delay, limits.retry_max_s)

    async def _attempt(self, url: str, file: DiskFile) -> str | None:
        """Fetch from where we are. Return why that ended early, None if it did not. Raises what is final."""
        try:
            channel = await self._local.dial(url)
        except RpcError as error:
            return error.message
        try:
            stream = channel.open_stream(FETCH_PATH, metadata=self._local.metadata(self.node))
            stream.send(FETCH.pack(self.offer.transfer_id, self._offset))
            stream.half_close()
            return await self._receive(stream, file)
        finally:
            await channel.close()

    async def _receive(self, stream: ClientStream, file: DiskFile) -> str | None:
        pieces: list[bytes] = []
        held = 0
        while True:
            data, reason = await self._next(stream)
            pieces.append(data)
            held += len(data)
            if self._offset + held > self.offer.size_bytes:
                raise _Failed("the snapshot is longer than it was said to be")
            # What has come before the connection broke is kept.
            if held >= _WRITE_BYTES or reason is not None:
                await self._write(file, pieces)
                held = 0
            if reason is not None:
                return None if self._offset == self.offer.size_bytes else reason

    async def _next(self, stream: ClientStream) -> tuple[bytes, str | None]:
        """Return the next piece, or why there is none. Raises what is final."""
        try:
            async with asyncio.timeout(self._local.limits.snapshot_stall_s):
                data = await stream.receive()
        except TimeoutError:
            return b"", "nothing comes"
        except RpcError as error:
            if error.code in _FINAL:
                raise
            return b"", error.message
        return (b"", "the snapshot ended early") if data is None else (data, None)

    async def _write(self, file: DiskFile, pieces: list[bytes]) -> None:
        data = b"".join(pieces)
        pieces.clear()
        if data:
            await self._in_worker(file.pwrite, data, self._offset)
            self._offset += len(data)
            counters = self._local.counters_of(self.node)
            counters.received_snapshot_bytes += len(data)


def verify(disk: Disk, path: str, digest: bytes) -> None:
    """Raise BrokenSnapshot unless the file at ``path`` is whole and the one that was offered."""
    with contextlib.closing(SnapshotFile(disk, path)) as file:
        if file.digest != digest:
            raise BrokenSnapshot(
                f"{path} carries sha256 {file.digest.hex()}, {digest.hex()} was offered"
            )
        file.verify()
