"""The outgoing stream to one peer: dialled again and again, and a bounded queue in front of it.

A link is *up* from the peer's welcome to the end of the stream. While it is not, messages are dropped at
once: raft sends again what still matters, and what waited for a peer that was away would be stale.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from coord.rpc.status import RpcError, StatusCode
from coord_server.peer.codec import DecodeError
from coord_server.peer.handshake import (
    REMOVED,
    Hello,
    Refused,
    check_cluster,
    decode_hello,
    encode_echo,
)
from coord_server.peer.local import unavailable
from coord_server.peer.packet import PACKET_OVERHEAD, PeerMessage, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord.rpc.channel import Channel, ClientStream
    from coord_server.peer.local import Local
    from coord_server.raft.types import NodeId

SERVICE: Final = "/coord.peer.Peer/"
STREAM_PATH: Final = SERVICE + "Stream"
STOPPING: Final = "the member is stopping"


class LinkOwner(Protocol):
    """Hears what becomes of a link; called from the loop, never from within ``send``."""

    def link_up(self, node: NodeId, incarnation: int) -> None:
        """Hear that the peer has welcomed us."""
        ...

    def link_lost(self, node: NodeId, *, was_reset: bool) -> None:
        """Hear that the stream has ended."""
        ...

    def messages_lost(self, node: NodeId) -> None:
        """Hear that messages to the peer were dropped or may have been lost."""
        ...

    def told_removed(self) -> None:
        """Hear from the peer that this member was removed from the cluster."""
        ...


class Link:
    """Keeps a stream to one peer. ``run`` is its task, which its owner starts and cancels."""

    def __init__(self, node: NodeId, urls: Sequence[str], local: Local, owner: LinkOwner) -> None:
        self.node = node
        self.urls = tuple(urls)
        self.since: float | None = None  # monotonic; None while the link is down
        self.url = ""  # the one in use
        self._local = local
        self._owner = owner
        self._counters = local.counters_of(node)
        self._channel: Channel | None = None
        self._stream: ClientStream | None = None
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._waiting_messages = 0
        self._is_pouring = False
        self._has_lost = False
        self._hurry = asyncio.Event()

    # Sending.

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent."""
        return self._stream is not None

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for the peer's connection, at most the limit and one packet."""
        return self._waiting_bytes

    def check_room(self, size: int) -> None:
        """Raise RpcError unless a message of ``size`` bytes would be sent rather than dropped."""
        # The stream may have ended already, and its task not have run since.
        if self._stream is None or not self._stream.is_open:
            raise unavailable(self.node)
        limits = self._local.limits
        if self._waiting and (
            self._waiting_bytes + size + PACKET_OVERHEAD > limits.waiting_bytes
            or self._waiting_messages >= limits.waiting_messages
        ):
            text = f"no room for more messages to member {self.node:x}"
            raise RpcError(StatusCode.UNAVAILABLE, text, sent=False)

    def send(self, messages: Sequence[PeerMessage]) -> None:
        """Send messages in order, or drop those for which there is no room."""
        stream = self._stream
        if stream is None or not stream.is_open:
            self._drop(len(messages))
            return
        for data, count in pack(messages):
            self._push(stream, data, count)

    def flush(self) -> None:
        """Hand what was sent to the operating system now."""
        if self._channel is not None:
            self._channel.flush()

    def _push(self, stream: ClientStream, data: bytes, count: int) -> None:
        limits = self._local.limits
        if not self._waiting and self._has_room(stream):
            self._write(stream, data, count)
        elif self._waiting and (
            self._waiting_bytes + len(data) > limits.waiting_bytes
            or self._waiting_messages + count > limits.waiting_messages
        ):
            self._drop(count)
        else:
            self._waiting.append((data, count))
            self._waiting_bytes += len(data)
            self._waiting_messages += count

    def _has_room(self, stream: ClientStream) -> bool:
        conn = stream.conn
        return conn is not None and stream.unsent_bytes < conn.limits.low_water_bytes

    def _write(self, stream: ClientStream, data: bytes, count: int) -> None:
        self._counters.sent_bytes += len(data)
        self._counters.sent_messages += count
        stream.send(data)

    def _pour(self) -> None:
        """Move what waits into the connection, as far as it gets rid of it."""
        # Sending may call back here before it returns.
        if self._is_pouring:
            return
        self._is_pouring = True
        try:
            while self._waiting and self._stream is not None and self._has_room(self._stream):
                data, count = self._waiting.popleft()
                self._waiting_bytes -= len(data)
                self._waiting_messages -= count
                self._write(self._stream, data, count)
        finally:
            self._is_pouring = False

    def _drop(self, count: int) -> None:
        self._counters.send_failures += count
        if not self._has_lost:
            self._has_lost = True
            asyncio.get_running_loop().call_soon(self._tell_lost)

    def _tell_lost(self) -> None:
        if self._has_lost:
            self._has_lost = False
            self._owner.messages_lost(self.node)

    async def ask(self, path: str, request: bytes, *, timeout: float) -> bytes:
        """Make a unary call on the link's connection. Raises RpcError, at once while the link is down."""
        if self._stream is None or self._channel is None:
            raise unavailable(self.node)
        metadata = self._local.metadata(self.node)
        return await self._channel.unary(path, request, timeout=timeout, metadata=metadata)

    # Connecting.

    def hurry(self) -> None:
        """Dial now: the peer is known to be there."""
        self._hurry.set()

    async def run(self) -> None:
        """Keep the stream until cancelled."""
        limits = self._local.limits
        delay = limits.retry_min_s
        while True:
            for url in self.urls:
                if await self._session(url):
                    delay = limits.retry_min_s
            self._hurry.clear()
            # Peers that lost each other at the same moment must not dial in step for ever.
            pause = self._local.env.rand.uniform(delay / 2, delay)
            delay = min(2 * delay, limits.retry_max_s)
            try:
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    async def _session(self, url: str) -> bool:
        """Hold a stream to ``url`` until it ends. Return whether that went well for a while."""
        try:
            channel = await self._local.dial(url)
        except RpcError as error:
            self._local.tell_once(self.node, "failed to dial peer", error.message)
            return False
        try:
            return await self._hold(channel, url)
        finally:
            await channel.close()

    async def _hold(self, channel: Channel, url: str) -> bool:
        loop = asyncio.get_running_loop()
        welcome: asyncio.Future[bytes] = loop.create_future()
        ended: asyncio.Future[RpcError | None] = loop.create_future()

        def on_message(message: bytes) -> None:
            if not welcome.done():
                welcome.set_result(message)

        def on_closed(error: RpcError | None) -> None:
            if not ended.done():
                ended.set_result(error)

        stream = channel.open_stream(STREAM_PATH, metadata=self._local.metadata(self.node))
        stream.on_message, stream.on_closed = on_message, on_closed
        stream.on_writable = self._pour
        if not stream.is_open:
            on_closed(stream.end)
        waited: list[asyncio.Future[Any]] = [welcome, ended]
        await asyncio.wait(
            waited,
            timeout=self._local.limits.dial_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        try:
            hello = self._check(welcome, ended)
        except Refused as refusal:
            self._local.tell_once(self.node, "peer refused", str(refusal))
            if str(refusal) == REMOVED.format(node=self._local.member_id):
                self._owner.told_removed()
            return False
        stream.send(encode_echo(hello.incarnation))
        self._up(channel, stream, url, hello.incarnation)
        try:
            error = await ended
        finally:
            has_lasted = self._down()
        self._counters.disconnects += 1
        self._owner.link_lost(self.node, was_reset=_was_reset(stream, error))
        return has_lasted

    def _check(
        self, welcome: asyncio.Future[bytes], ended: asyncio.Future[RpcError | None]
    ) -> Hello:
        """Return the peer's hello. Raises Refused, also for what the peer has against us."""
        if not welcome.done():
            if not ended.done():
                raise Refused("the peer did not answer in time")
            error = ended.result()
            raise Refused("the peer ended the stream" if error is None else error.message)
        try:
            hello = decode_hello(welcome.result())
        except DecodeError as error:
            raise Refused(str(error)) from error
        check_cluster(hello, self._local.hello)
        if hello.sender != self.node:
            raise Refused(f"member {hello.sender:x} answers for member {self.node:x}")
        return hello

    def _up(self, channel: Channel, stream: ClientStream, url: str, incarnation: int) -> None:
        self._channel, self._stream = channel, stream
        self.since, self.url = self._local.env.clock.mono(), url
        self._counters.connects += 1
        self._owner.link_up(self.node, incarnation)

    def _down(self) -> bool:
        """Forget the stream; return whether it has lasted longer than a peer that throws us out would let it."""
        begun = self.since
        has_lasted = (
            begun is not None
            and self._local.env.clock.mono() - begun > self._local.limits.retry_max_s
        )
        if has_lasted:
            self._local.forget_told(self.node)
        # Nobody knows what of the last messages has arrived.
        self._drop(self._waiting_messages)
        self._channel = self._stream = self.since = None
        self.url = ""
        self._waiting.clear()
        self._waiting_bytes = self._waiting_messages = 0
        return has_lasted


def _was_reset(stream: ClientStream, error: RpcError | None) -> bool:
    """Tell whether the other end is certainly gone, rather than silent, or weary of us."""
    conn = stream.conn
    if conn is not None and conn.wants_close:
        return conn.fault is None
    return error is not None and error.code == StatusCode.UNAVAILABLE
