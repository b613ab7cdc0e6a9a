"""The leader's side of a snapshot's way: offers, and the calls that fetch what was offered.

One transfer per follower. It ends when the follower says so, or when it has not read for too long, which
it may do although it lives: it might have been told to fetch from somebody else by now.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from coord.rpc.async_calls import async_stream
from coord.rpc.status import RpcError, StatusCode
from coord_server.peer.link import SERVICE
from coord_server.peer.packet import SnapshotDone, SnapshotOffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.async_calls import AsyncCall
    from coord.rpc.service import Method, RequestHead
    from coord_server.peer.handshake import Hello
    from coord_server.peer.local import Local
    from coord_server.peer.snapshot_source import Snapshot
    from coord_server.raft.messages import InstallSnapshot
    from coord_server.raft.types import NodeId

FETCH_PATH: Final = SERVICE + "Fetch"
FETCH: Final = struct.Struct(">QQ")  # transfer, offset


class SenderOwner(Protocol):
    """Sends offers, and hears how transfers ended."""

    def send_offer(self, node: NodeId, offer: SnapshotOffer) -> None:
        """Send an offer. Raises RpcError if it was not sent."""
        ...

    def transfer_ended(self, node: NodeId, *, ok: bool) -> None:
        """Hear how a transfer ended; not from within a call of the owner's."""
        ...


@dataclass(slots=True)
class _Transfer:
    offer: SnapshotOffer
    snapshot: Snapshot
    used_at: float
    timer: asyncio.TimerHandle | None = None


class SnapshotSender:
    """Transfers to followers. ``admit`` returns who makes a call, or raises RpcError."""

    def __init__(
        self, local: Local, owner: SenderOwner, admit: Callable[[RequestHead], Hello]
    ) -> None:
        self._local = local
        self._owner = owner
        self._admit = admit
        self._transfers: dict[NodeId, _Transfer] = {}

    def method(self) -> Method:
        """Return the method that serves what was offered."""
        return async_stream(FETCH_PATH, self._serve)

    def offer(self, install: InstallSnapshot, snapshot: Snapshot) -> None:
        """Offer a held snapshot to ``install.to``, in place of what was offered before.

        The hold passes to the transfer. Raises RpcError, and then the caller still has it.
        """
        node = install.to
        limit = self._local.limits.snapshots_in_flight
        if node not in self._transfers and len(self._transfers) >= limit:
            text = f"{limit} snapshots are on their way already"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text, sent=False)
        transfer_id = self._local.env.rand.bits(63)
        offer = SnapshotOffer(install, transfer_id, snapshot.size_bytes, snapshot.digest)
        self._owner.send_offer(node, offer)
        self.drop(node)
        self._transfers[node] = _Transfer(offer, snapshot, self._local.env.clock.mono())
        self._arm(node, self._transfers[node])
        self._local.log.info(
            "sending a snapshot to a follower",
            remote_peer_id=f"{node:x}",
            index=install.snapshot.index,
            total_bytes=snapshot.size_bytes,
        )

    def link_up(self, node: NodeId) -> None:
        """Offer again what runs: the first offer may have been lost with the connection."""
        transfer = self._transfers.get(node)
        if transfer is not None:
            self._owner.send_offer(node, transfer.offer)

    def on_done(self, node: NodeId, done: SnapshotDone) -> None:
        """Take the follower's word for the end of its transfer."""
        transfer = self._transfers.get(node)
        if transfer is None or transfer.offer.transfer_id != done.transfer_id:
            return
        if not done.is_here:
            self._local.log.warning(
                "a follower did not take a snapshot", remote_peer_id=f"{node:x}", error=done.text
            )
        self._end(node, ok=done.is_here)

    def drop(self, node: NodeId) -> None:
        """Forget the transfer to a member, without a word to anybody."""
        transfer = self._transfers.pop(node, None)
        if transfer is not None:
            if transfer.timer is not None:
                transfer.timer.cancel()
            transfer.snapshot.release()

    def close(self) -> None:
        """Forget all transfers."""
        for node in list(self._transfers):
            self.drop(node)

    def _end(self, node: NodeId, *, ok: bool) -> None:
        self.drop(node)
        self._owner.transfer_ended(node, ok=ok)

    def _arm(self, node: NodeId, transfer: _Transfer) -> None:
        due = transfer.used_at + self._local.limits.snapshot_stall_s
        delay = max(0.0, due - self._local.env.clock.mono())
        loop = asyncio.get_running_loop()
        transfer.timer = loop.call_later(delay, self._look, node, transfer)

    def _look(self, node: NodeId, transfer: _Transfer) -> None:
        transfer.timer = None
        idle_s = self._local.env.clock.mono() - transfer.used_at
        if idle_s < self._local.limits.snapshot_stall_s:
            self._arm(node, transfer)
            return
        self._local.log.warning(
            "a follower does not fetch its snapshot", remote_peer_id=f"{node:x}"
        )
        self._end(node, ok=False)

    async def _serve(self, call: AsyncCall) -> None:
        node = self._admit(call.head).sender
        request = await call.receive() or b""
        if len(request) != FETCH.size:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "the request names no snapshot")
        transfer_id, offset = FETCH.unpack(request)
        transfer = self._transfers.get(node)
        if transfer is None or transfer.offer.transfer_id != transfer_id:
            text = f"transfer {transfer_id:x} is not offered to member {node:x}"
            raise RpcError(StatusCode.NOT_FOUND, text)
        snapshot = transfer.snapshot
        snapshot.hold()
        try:
            await self._send(call, node, snapshot, offset)
        except OSError as error:
            text = f"cannot read the snapshot: {error.strerror or error}"
            raise RpcError(StatusCode.DATA_LOSS, text) from error
        finally:
            snapshot.release()

    async def _send(self, call: AsyncCall, node: NodeId, snapshot: Snapshot, offset: int) -> None:
        env = self._local.env
        counters = self._local.counters_of(node)
        size = self._local.limits.chunk_bytes
        while offset < snapshot.size_bytes:
            data = await env.offload.run(snapshot.read, size, offset)
            if not data:
                raise RpcError(StatusCode.DATA_LOSS, "the file of the snapshot is cut off")
            offset += len(data)
            await call.send(data)
            counters.sent_snapshot_bytes += len(data)
            # By now this may be another transfer, of the same file.
            transfer = self._transfers.get(node)
            if transfer is not None and transfer.snapshot is snapshot:
                transfer.used_at = env.clock.mono()
