"""All connections of one member to the others: streams both ways, questions, snapshots."""

from __future__ import annotations

from enum import Enum, unique
from typing import TYPE_CHECKING, Protocol

from coord.runtime import Supervisor
from coord_server.peer.calls import Answers, ask_path
from coord_server.peer.codec import DecodeError
from coord_server.peer.handshake import REMOVED, Hello, Refused
from coord_server.peer.incoming import Incoming
from coord_server.peer.limits import MeshLimits
from coord_server.peer.link import Link
from coord_server.peer.local import Local, PeerCounters, own_hello, unavailable
from coord_server.peer.packet import (
    Forward,
    ForwardRefused,
    PeerMessage,
    SnapshotDone,
    SnapshotOffer,
)
from coord_server.peer.snapshot_receiver import SnapshotReceiver
from coord_server.peer.snapshot_sender import SnapshotSender
from coord_server.raft.messages import InstallSnapshot, Message

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from coord.rpc.service import Method
    from coord_server.env import ServerEnv
    from coord_server.log import Log
    from coord_server.peer.calls import AnyoneHandler, AskHandler
    from coord_server.peer.snapshot_source import Snapshot
    from coord_server.raft.types import NodeId


class MeshHandler(Protocol):
    """Takes what peers bring. Called from the loop, never from within a method of the mesh."""

    def received(self, messages: Sequence[Message]) -> None:
        """Take raft's messages, in the order they were sent; no InstallSnapshot is among them."""
        ...

    def connection_lost(self, node: NodeId, *, was_reset: bool) -> None:
        """Hear that a stream from or to a peer has ended.

        ``was_reset``: its other end is gone, as when the process was killed or stops; else it only
        fell silent, or ended the stream for a reason.
        """
        ...

    def unreachable(self, node: NodeId) -> None:
        """Hear that messages to a peer were dropped, or may be lost; at most once per turn of the loop."""
        ...

    def forwarded(self, node: NodeId, incarnation: int, seq: int, data: bytes) -> None:
        """Take operations that a follower wants proposed."""
        ...

    def refused(self, seq: int, code: int, text: str) -> None:
        """Hear that the operations forwarded as ``seq`` will certainly not be proposed."""
        ...

    def snapshot_received(self, message: InstallSnapshot, path: str) -> None:
        """Take a snapshot that is whole, verified and on disk at ``path``; the file is the handler's now.

        It is as `storage.snapshot_file` writes it. Its name is not synced, and goes at the next start.
        """
        ...

    def snapshot_done(self, node: NodeId, *, ok: bool) -> None:
        """Hear that the snapshot offered to a follower has arrived there, or will not."""
        ...


def take_no_notice() -> None:
    """Leave it to whoever watches the members that this one was removed."""


@unique
class Standing(Enum):
    """What somebody of this cluster is to a member, who is none of its peers at present."""

    UNKNOWN = "unknown"
    """Nobody who may speak to it."""
    NEW = "new"
    """A member, as far as it can tell, that it has not heard of yet: it may lag behind (thesis 4.1)."""
    REMOVED = "removed"
    """No member any more, for good. It is told so, and takes it as final."""


def refuse_unknown(_node: NodeId) -> Standing:
    """Let nobody speak to us whom we do not know of."""
    return Standing.UNKNOWN


class Mesh:
    """One member's connections to its peers, on the running loop.

    ``urls`` are this member's own, for peers that do not know it yet. ``tls`` is for dialling https.
    ``on_removed`` is called when a peer says that this member was removed. ``standing(node)`` says what a
    member of this cluster is to us that is not among the peers; what we know of them may be old.
    ``scratch`` is a directory for snapshots that come in; without it they are declined. The listener is
    the caller's: put ``methods()`` on an RpcServer with ``server_limits``.
    """

    def __init__(
        self,
        *,
        cluster_id: int,
        member_id: NodeId,
        incarnation: int,
        env: ServerEnv,
        handler: MeshHandler,
        log: Log,
        urls: tuple[str, ...] = (),
        scratch: str | None = None,
        tls: ssl.SSLContext | None = None,
        limits: MeshLimits | None = None,
        standing: Callable[[NodeId], Standing] = refuse_unknown,
        on_removed: Callable[[], None] = take_no_notice,
    ) -> None:
        hello = own_hello(
            cluster_id=cluster_id, member_id=member_id, incarnation=incarnation, urls=urls
        )
        self.limits = limits or MeshLimits()
        self._local = Local(hello=hello, env=env, tls=tls, log=log, limits=self.limits)
        self._handler = handler
        self._standing = standing
        self._on_removed = on_removed
        self._supervisor = Supervisor(self._report)
        self._links: dict[NodeId, Link] = {}
        self._tasks: dict[NodeId, asyncio.Task[None]] = {}
        self._guests: dict[NodeId, None] = {}
        self._incoming = Incoming(self._local, self)
        self._answers = Answers(self._incoming.admit)
        self._sender = SnapshotSender(self._local, self, self._incoming.admit)
        self._receiver = (
            None
            if scratch is None
            else SnapshotReceiver(self._local, self, self._supervisor, scratch)
        )
        self._is_closed = False

    # The members.

    @property
    def peers(self) -> dict[NodeId, tuple[str, ...]]:
        """The other members and their URLs, ascending."""
        known = sorted(node for node in self._links if node not in self._guests)
        return {node: self._links[node].urls for node in known}

    def set_peers(self, peers: Mapping[NodeId, Iterable[str]]) -> None:
        """Say who the members are and where; this member among them is passed over.

        A member that is not in ``peers`` any more loses its connections and is refused from now on.
        """
        if self._is_closed:
            return
        wanted = {node: tuple(urls) for node, urls in peers.items()}
        wanted.pop(self._local.member_id, None)
        for node in [node for node in self._links if node not in wanted]:
            if node not in self._guests:
                self._remove(node)
        for node, urls in wanted.items():
            self._guests.pop(node, None)
            link = self._links.get(node)
            if link is None:
                self._dial(node, urls)
            elif link.urls != urls:
                link.urls = urls
                # One that is in use and still among them stays.
                if link.url not in urls:
                    self._redial(node, urls)

    def _dial(self, node: NodeId, urls: tuple[str, ...]) -> None:
        link = self._links[node] = Link(node, urls, self._local, self)
        self._tasks[node] = self._supervisor.spawn(link.run(), name=f"peer {node:x}")

    def _hang_up(self, node: NodeId) -> None:
        del self._links[node]
        self._tasks.pop(node).cancel()

    def _redial(self, node: NodeId, urls: tuple[str, ...]) -> None:
        self._hang_up(node)
        self._dial(node, urls)

    def reconnect(self, node: NodeId) -> None:
        """Hang up on a peer and dial again: it takes what it knows of this member for old."""
        link = self._links.get(node)
        if link is not None and not self._is_closed:
            self._redial(node, link.urls)

    def _remove(self, node: NodeId) -> None:
        self._hang_up(node)
        self._incoming.drop(node)
        self._sender.drop(node)
        if self._receiver is not None:
            self._receiver.drop(node)
        self._local.counters.pop(node, None)

    def active_since(self, node: NodeId) -> float | None:
        """Return since when, in monotonic seconds, messages reach a peer; None while they do not."""
        link = self._links.get(node)
        return None if link is None else link.since

    def has_stream_from(self, node: NodeId) -> bool:
        """Tell whether a peer's own stream to us is open."""
        return self._incoming.has_stream(node)

    def waiting_bytes(self, node: NodeId) -> int:
        """Return how much waits for a peer's connection."""
        link = self._links.get(node)
        return 0 if link is None else link.waiting_bytes

    def counters(self, node: NodeId) -> PeerCounters:
        """Return what has passed between this member and a peer."""
        return self._local.counters.get(node, PeerCounters())

    # Sending.

    def send(self, messages: Iterable[Message]) -> None:
        """Send raft's messages to whom they say. Nothing waits for the outcome, and nothing fails.

        What is sent to one peer in one turn of the loop leaves in one write. Messages to those who are
        no members are dropped.
        """
        by_node: dict[NodeId, list[PeerMessage]] = {}
        for message in messages:
            by_node.setdefault(message.to, []).append(message)
        for node, group in by_node.items():
            link = self._links.get(node)
            if link is not None:
                link.send(group)

    def flush(self) -> None:
        """Hand what was sent to the operating system now, as far as it takes it."""
        for link in self._links.values():
            link.flush()

    def forward(self, to: NodeId, seq: int, data: bytes) -> None:
        """Ask ``to`` to propose operations. Raises RpcError if they have certainly not been sent.

        Without a refusal they may have arrived or not; the log tells.
        """
        link = self._links.get(to)
        if link is None:
            raise unavailable(to)
        link.check_room(len(data))
        link.send((Forward(seq, data),))

    def refuse(self, to: NodeId, seq: int, code: int, text: str) -> None:
        """Tell a follower that its operations will certainly not be proposed."""
        link = self._links.get(to)
        if link is not None:
            link.send((ForwardRefused(seq, code, text),))

    def offer_snapshot(self, install: InstallSnapshot, snapshot: Snapshot) -> None:
        """Offer a held snapshot to ``install.to``; ``snapshot_done`` tells how that ended.

        It comes once, unless another offer takes this one's place, the follower is removed or the mesh
        closed. The hold passes to the mesh. Raises RpcError if the follower is not connected or too many
        are on their way; the caller has the hold then.
        """
        self._sender.offer(install, snapshot)

    # Questions.

    def serve(self, kind: str, handler: AskHandler) -> None:
        """Answer the question ``kind`` of members by ``await handler(node, request)``.

        The handler may raise RpcError. Only before ``methods`` is called.
        """
        self._answers.add(kind, handler)

    def serve_anyone(self, kind: str, handler: AnyoneHandler) -> None:
        """Answer the question ``kind`` by ``await handler(request)``, also to those who are no members yet."""
        self._answers.add_for_anyone(kind, handler)

    async def ask(self, to: NodeId, kind: str, request: bytes, *, timeout: float) -> bytes:
        """Return a member's answer within ``timeout`` seconds.

        Raises RpcError: what the other side says, or UNAVAILABLE or DEADLINE_EXCEEDED.
        """
        path = ask_path(kind)
        link = self._links.get(to)
        if link is None:
            raise unavailable(to)
        return await link.ask(path, request, timeout=timeout)

    def methods(self) -> list[Method]:
        """Return the methods for the registry of the listener of peers."""
        return [self._incoming.method(), self._sender.method(), *self._answers.methods()]

    async def close(self) -> None:
        """End all connections; nothing is taken or told any more. Before the listener is drained."""
        self._is_closed = True
        self._incoming.close()
        self._sender.close()
        await self._supervisor.close()

    # For the links.

    def link_up(self, node: NodeId, incarnation: int) -> None:
        """See LinkOwner."""
        self._local.log.info(
            "established connection with peer",
            remote_peer_id=f"{node:x}",
            incarnation=f"{incarnation:x}",
        )
        self._sender.link_up(node)

    def link_lost(self, node: NodeId, *, was_reset: bool) -> None:
        """See LinkOwner."""
        self._lost(node, "lost connection to peer", was_reset=was_reset)

    def messages_lost(self, node: NodeId) -> None:
        """See LinkOwner."""
        if not self._is_closed and node in self._links:
            self._handler.unreachable(node)

    def told_removed(self) -> None:
        """See LinkOwner."""
        if not self._is_closed:
            self._on_removed()

    # For what comes in.

    def check_peer(self, hello: Hello) -> None:
        """See IncomingOwner."""
        node = hello.sender
        if node in self._links and node not in self._guests:
            return
        standing = self._standing(node)
        if standing is Standing.REMOVED:
            raise Refused(REMOVED.format(node=node))
        if node in self._guests:
            return
        if standing is Standing.UNKNOWN or len(self._guests) >= self.limits.guests:
            raise Refused(f"member {node:x} is not known to member {self._local.member_id:x}")

    def stream_opened(self, hello: Hello) -> None:
        """See IncomingOwner."""
        node = hello.sender
        self._local.log.info(
            "peer has connected",
            remote_peer_id=f"{node:x}",
            incarnation=f"{hello.incarnation:x}",
        )
        link = self._links.get(node)
        if link is not None:
            link.hurry()
        else:
            self._guests[node] = None
            self._dial(node, hello.urls)

    def stream_lost(self, node: NodeId, *, was_reset: bool) -> None:
        """See IncomingOwner."""
        if node in self._guests and not self._is_closed:
            del self._guests[node]
            self._hang_up(node)
            self._local.counters.pop(node, None)
        self._lost(node, "lost connection from peer", was_reset=was_reset)

    def _lost(self, node: NodeId, msg: str, *, was_reset: bool) -> None:
        if self._is_closed:
            return
        self._local.log.warning(msg, remote_peer_id=f"{node:x}", was_reset=was_reset)
        self._handler.connection_lost(node, was_reset=was_reset)

    def arrived(self, node: NodeId, incarnation: int, messages: list[PeerMessage]) -> None:
        """See IncomingOwner."""
        for_raft: list[Message] = []
        for message in messages:
            if isinstance(message, Forward | ForwardRefused | SnapshotOffer | SnapshotDone):
                if for_raft:
                    self._handler.received(for_raft)
                    for_raft = []
                self._on_other(node, incarnation, message)
            else:
                self._check_ends(node, message)
                if isinstance(message, InstallSnapshot):
                    raise DecodeError("a snapshot is to be installed that was not offered")
                for_raft.append(message)
        if for_raft:
            self._handler.received(for_raft)

    def _check_ends(self, node: NodeId, message: Message) -> None:
        if message.sender != node or message.to != self._local.member_id:
            raise DecodeError(
                f"member {node:x} sent a message from {message.sender:x} to {message.to:x}"
            )

    def _on_other(
        self,
        node: NodeId,
        incarnation: int,
        message: Forward | ForwardRefused | SnapshotOffer | SnapshotDone,
    ) -> None:
        if isinstance(message, Forward):
            self._handler.forwarded(node, incarnation, message.seq, message.data)
        elif isinstance(message, ForwardRefused):
            self._handler.refused(message.seq, message.code, message.text)
        elif isinstance(message, SnapshotDone):
            self._sender.on_done(node, message)
        else:
            self._check_ends(node, message.install)
            if self._receiver is not None:
                self._receiver.on_offer(node, message)
            else:
                text = "this member takes no snapshots"
                self.send_done(node, SnapshotDone(message.transfer_id, is_here=False, text=text))

    # For snapshots.

    def send_offer(self, node: NodeId, offer: SnapshotOffer) -> None:
        """See SenderOwner."""
        link = self._links.get(node)
        if link is None:
            raise unavailable(node)
        link.check_room(0)
        link.send((offer,))

    def transfer_ended(self, node: NodeId, *, ok: bool) -> None:
        """See SenderOwner."""
        if not self._is_closed:
            self._handler.snapshot_done(node, ok=ok)

    def urls_of(self, node: NodeId) -> tuple[str, ...]:
        """See ReceiverOwner."""
        link = self._links.get(node)
        return () if link is None else link.urls

    def send_done(self, node: NodeId, done: SnapshotDone) -> None:
        """See ReceiverOwner."""
        link = self._links.get(node)
        if link is not None:
            link.send((done,))

    def snapshot_arrived(self, install: InstallSnapshot, path: str) -> None:
        """See ReceiverOwner."""
        self._handler.snapshot_received(install, path)

    def _report(self, name: str, error: BaseException) -> None:
        self._local.log.error(
            "internal error", where=name, kind=type(error).__name__, error=str(error)
        )
