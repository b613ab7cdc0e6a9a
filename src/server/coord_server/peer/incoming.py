"""The streams and calls that peers make to us: who may, and what they bring.

Of each peer there is one stream. A new one takes the place of the old, which then is silent: a peer that
dials again has given up what it had. But not before it has answered our hello, with the number of our life:
what a network has kept back for seconds may come from a process that is dead, and of two lives that we hear
of for the first time nobody could tell by the order of what they say which one is newer (`Lives.begin`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from coord.rpc.service import Method
from coord.rpc.status import RpcError, StatusCode
from coord_server.peer.codec import DecodeError
from coord_server.peer.handshake import (
    Hello,
    Lives,
    Refused,
    check_cluster,
    encode_echo,
    encode_hello,
    hello_of,
)
from coord_server.peer.link import STOPPING, STREAM_PATH
from coord_server.peer.packet import PeerMessage, unpack

if TYPE_CHECKING:
    from coord.rpc.server_stream import ServerStream
    from coord.rpc.service import RequestHead
    from coord_server.peer.local import Local
    from coord_server.raft.types import NodeId


class IncomingOwner(Protocol):
    """Knows the members, and takes what they say."""

    def check_peer(self, hello: Hello) -> None:
        """Raise Refused unless the sender is a member that we know."""
        ...

    def stream_opened(self, hello: Hello) -> None:
        """Hear that a peer has opened its stream."""
        ...

    def stream_lost(self, node: NodeId, *, was_reset: bool) -> None:
        """Hear that a peer's stream has ended and no other has taken its place."""
        ...

    def arrived(self, node: NodeId, incarnation: int, messages: list[PeerMessage]) -> None:
        """Take messages. Raises DecodeError for what this peer must not say."""
        ...


class Incoming:
    """Accepts what comes from peers."""

    def __init__(self, local: Local, owner: IncomingOwner) -> None:
        self._local = local
        self._owner = owner
        self._lives = Lives()
        self._streams: dict[NodeId, ServerStream] = {}
        self._opening: dict[ServerStream, NodeId] = {}
        self._hellos = 0
        self._is_closed = False

    def method(self) -> Method:
        """Return the method that takes streams."""
        return Method(STREAM_PATH, stream=self._on_stream)

    def has_stream(self, node: NodeId) -> bool:
        """Tell whether a peer's stream is open."""
        return node in self._streams

    def admit(self, head: RequestHead) -> Hello:
        """Return who makes a call. Raises RpcError if it must not be answered."""
        if self._is_closed:
            raise RpcError(StatusCode.UNAVAILABLE, STOPPING)
        hello = hello_of(head)
        try:
            check_cluster(hello, self._local.hello)
            self._owner.check_peer(hello)
            self._lives.check(hello.sender, hello.incarnation)
        except Refused as error:
            raise self._refusal(hello, error) from error
        return hello

    def _refusal(self, hello: Hello, error: Refused) -> RpcError:
        self._local.tell_once(hello.sender, "refused a peer", str(error))
        return RpcError(StatusCode.FAILED_PRECONDITION, str(error))

    def _on_stream(self, stream: ServerStream) -> None:
        try:
            hello = self.admit(stream.head)
        except RpcError as error:
            stream.abort(error.code, error.message)
            return
        self._opening[stream] = hello.sender
        self._hellos += 1
        number = self._hellos
        stream.on_message = lambda data: self._on_echo(stream, hello, number, data)
        stream.on_half_close = stream.finish
        stream.on_closed = lambda: self._on_closed(stream, hello.sender)
        stream.send(encode_hello(self._local.hello_to(hello.sender)))

    def _on_echo(self, stream: ServerStream, hello: Hello, number: int, data: bytes) -> None:
        """Take a stream for the peer's: it has our hello, so it lives now."""
        node, incarnation = hello.sender, hello.incarnation
        if data != encode_echo(self._local.hello.incarnation):
            stream.abort(StatusCode.INVALID_ARGUMENT, "the peer does not answer the hello it got")
            return
        try:
            self._owner.check_peer(hello)
            self._lives.begin(node, incarnation, number)
        except Refused as error:
            refusal = self._refusal(hello, error)
            stream.abort(refusal.code, refusal.message)
            return
        self._opening.pop(stream, None)
        old = self._streams.get(node)
        self._streams[node] = stream
        if old is not None:
            old.abort(StatusCode.ABORTED, "a newer stream has taken the place of this one")
        stream.on_message = lambda data: self._on_packet(stream, node, incarnation, data)
        self._owner.stream_opened(hello)

    def _on_packet(self, stream: ServerStream, node: NodeId, incarnation: int, data: bytes) -> None:
        if self._streams.get(node) is not stream or self._lives.present(node) != incarnation:
            stream.abort(StatusCode.ABORTED, "the member has been started again since")
            return
        counters = self._local.counters_of(node)
        counters.received_bytes += len(data)
        try:
            messages = unpack(data)
            counters.received_messages += len(messages)
            self._owner.arrived(node, incarnation, messages)
        except DecodeError as error:
            counters.receive_failures += 1
            self._local.tell_once(node, "a peer's message is no good", str(error))
            stream.abort(StatusCode.INVALID_ARGUMENT, str(error))

    def _on_closed(self, stream: ServerStream, node: NodeId) -> None:
        self._opening.pop(stream, None)
        if self._streams.get(node) is stream:
            del self._streams[node]
            conn = stream.conn
            self._owner.stream_lost(node, was_reset=conn.wants_close and conn.fault is None)

    def drop(self, node: NodeId) -> None:
        """End a peer's stream: it is no peer any more."""
        self._lives.forget(node)
        streams = [stream for stream, sender in self._opening.items() if sender == node]
        if node in self._streams:
            streams.append(self._streams.pop(node))
        for stream in streams:
            stream.abort(StatusCode.FAILED_PRECONDITION, f"member {node:x} is not in the cluster")

    def close(self) -> None:
        """End all streams, and take no more."""
        self._is_closed = True
        streams = [*self._opening, *self._streams.values()]
        self._opening, self._streams = {}, {}
        for stream in streams:
            stream.abort(StatusCode.UNAVAILABLE, STOPPING)
