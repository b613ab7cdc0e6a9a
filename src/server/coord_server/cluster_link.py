"""Between a replica and the mesh: what raft wants sent, and what peers bring.

The mesh knows nothing of raft's meaning, the replica nothing of connections. Snapshots are made and
installed here, one at a time each, since both take long.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Final, final

from typing_extensions import override

from coord.rpc.status import RpcError, StatusCode
from coord.runtime import Supervisor
from coord_server.errors import ErrorSpec
from coord_server.peer.snapshot_source import SnapshotFailed
from coord_server.peers import Peers
from coord_server.raft import InstallSnapshot, SnapshotSent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord_server.log import Log
    from coord_server.peer import Mesh, SnapshotSource
    from coord_server.raft import Message, NodeId
    from coord_server.replica import Replica
    from coord_server.storage.backend import Backend

_TERM: Final = struct.Struct(">Q")
# How long after a snapshot could not be installed another one is asked for: the disk may be full.
_AGAIN_S: Final = 1.0


@final
class ClusterLink(Peers):
    """The peers of a replica, and the handler of their mesh. ``attach`` both before use."""

    def __init__(self, backend: Backend, source: SnapshotSource, log: Log) -> None:
        self._backend = backend
        self._source = source
        self._log = log
        self._supervisor = Supervisor(self._report)
        self._installing = asyncio.Lock()
        self._mesh: Mesh | None = None
        self._replica: Replica | None = None
        self._fatal: Callable[[BaseException], None] = lambda _: None
        # Who has got a snapshot since its connection was last lost.
        self._delivered: set[NodeId] = set()

    def attach(self, mesh: Mesh, replica: Replica) -> None:
        """Connect the two; messages flow from now on."""
        self._mesh = mesh
        self._replica = replica

    async def close(self) -> None:
        """Stop making and installing snapshots."""
        self._mesh = None
        await self._supervisor.close()

    # What the replica wants.

    @override
    def send(self, messages: Sequence[Message]) -> None:
        if self._mesh is not None:
            self._mesh.send(messages)

    @override
    def flush(self) -> None:
        if self._mesh is not None:
            self._mesh.flush()

    @override
    def forward(self, to: NodeId, seq: int, term: int, data: bytes) -> bool:
        if self._mesh is None:
            return False
        try:
            self._mesh.forward(to, seq, _TERM.pack(term) + data)
        except RpcError:
            return False
        return True

    @override
    def refuse(self, to: NodeId, seq: int, spec: ErrorSpec) -> None:
        if self._mesh is not None:
            self._mesh.refuse(to, seq, int(spec.code), spec.message)

    @override
    def offer_snapshot(self, to: NodeId) -> None:
        if self._replica is not None:
            self._supervisor.spawn(self._offer(to, self._replica), name="offer snapshot")

    @override
    def active_since(self, node: NodeId) -> float | None:
        return None if self._mesh is None else self._mesh.active_since(node)

    async def _offer(self, to: NodeId, replica: Replica) -> None:
        term = replica.raft_term
        try:
            # What the log still has need not be in it, and the backend lags behind the log.
            await replica.flush()
            snapshot = await self._source.take(self._backend, at_least=replica.first_index)
        except SnapshotFailed as error:
            self._log.warning("no snapshot for a follower", to=f"{to:x}", error=str(error))
            self.snapshot_done(to, ok=False)
            return
        message = InstallSnapshot(sender=replica.node_id, to=to, term=term, snapshot=snapshot.meta)
        mesh = self._mesh
        if mesh is None or not replica.is_leader or replica.raft_term != term:
            # Who installs a snapshot follows its sender: only the leader of the term may offer one, and
            # making it has taken time.
            snapshot.release()
            return
        try:
            mesh.offer_snapshot(message, snapshot)
        except RpcError as error:
            snapshot.release()
            self._log.warning("no snapshot for a follower", to=f"{to:x}", error=error.message)
            self.snapshot_done(to, ok=False)

    # What the mesh brings.

    def received(self, messages: Sequence[Message]) -> None:
        """See MeshHandler."""
        if self._replica is not None:
            self._replica.received(messages)

    def connection_lost(self, node: NodeId, *, was_reset: bool) -> None:
        """See MeshHandler."""
        if self._replica is not None:
            self._replica.connection_lost(node, was_reset=was_reset)
            if node in self._delivered:
                # It may not have installed what it got: it died, or could not. If it has, nothing happens.
                self._delivered.discard(node)
                self._replica.step(SnapshotSent(node))

    def unreachable(self, node: NodeId) -> None:
        """See MeshHandler."""
        if self._replica is not None:
            self._replica.unreachable(node)

    def forwarded(self, node: NodeId, incarnation: int, seq: int, data: bytes) -> None:
        """See MeshHandler."""
        if self._replica is not None and len(data) >= _TERM.size:
            (term,) = _TERM.unpack_from(data)
            self._replica.forwarded(node, incarnation, seq, term, data[_TERM.size :])

    def refused(self, seq: int, code: int, text: str) -> None:
        """See MeshHandler."""
        if self._replica is not None:
            try:
                status = StatusCode(code)
            except ValueError:
                status = StatusCode.UNKNOWN
            self._replica.refused(seq, ErrorSpec(status, text))

    def snapshot_received(self, message: InstallSnapshot, path: str) -> None:
        """See MeshHandler."""
        self._supervisor.spawn(self._install(message, path), name="install snapshot")

    async def _install(self, message: InstallSnapshot, path: str) -> None:
        replica = self._replica
        if replica is None:
            return
        try:
            async with self._installing:
                await replica.install(message, path)
        except Exception as error:  # noqa: BLE001 - whatever it is, this member stays as it was
            self._report("install snapshot", error)
            # The leader takes it for delivered, until it loses the connection.
            await asyncio.sleep(_AGAIN_S)
            if self._mesh is not None:
                self._mesh.reconnect(message.sender)

    def snapshot_done(self, node: NodeId, *, ok: bool) -> None:
        """See MeshHandler."""
        if self._replica is None:
            return
        if ok:
            # Raft hears from the follower itself that it is installed.
            self._delivered.add(node)
        else:
            self._replica.step(SnapshotSent(node))

    def _report(self, name: str, error: BaseException) -> None:
        """Note it: a snapshot that fails leaves this member as it was, and the leader tries again."""
        self._log.error("snapshot failed", where=name, kind=type(error).__name__, error=str(error))
