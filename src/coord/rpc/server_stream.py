"""One streaming call on the server's side, as the code behind it sees it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from coord.rpc.messages import MessageReader, frame_message
from coord.rpc.sending import StreamState
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.rpc.metadata import Metadata
    from coord.rpc.requests import Opening
    from coord.rpc.server_core import ServerConnection
    from coord.rpc.service import RequestHead


def _ignore() -> None:
    """Stand in for a callback nobody set."""


def _ignore_message(message: bytes) -> None:
    """Stand in for a callback nobody set."""


class ServerStream(StreamState):
    """A call whose messages come and go one by one.

    The handler sets callbacks, which run inside the parser: ``on_message`` for each message in
    order, ``on_half_close`` when the client will send no more, ``on_closed`` once when the call
    has ended, whoever ended it (``finish`` calls it too), and ``on_writable`` when what is unsent
    has fallen below ``low_water_bytes`` after having been above. Nothing bounds what is sent but
    the caller, who looks at ``unsent_bytes``.
    """

    __slots__ = (
        "conn", "deadline_slot", "half_closed", "has_ended", "has_headers", "head", "inbox",
        "inbox_bytes", "is_delivering", "is_reading", "on_closed", "on_half_close", "on_message",
        "on_writable", "reader", "status", "told_half_close",
    )  # fmt: skip

    def __init__(self, conn: ServerConnection, stream_id: int, head: RequestHead) -> None:
        super().__init__(stream_id, conn.peer_window)
        self.conn: ServerConnection = conn
        self.head: RequestHead = head
        self.on_message: Callable[[bytes], None] = _ignore_message
        self.on_half_close: Callable[[], None] = _ignore
        self.on_closed: Callable[[], None] = _ignore
        self.on_writable: Callable[[], None] | None = None
        self.reader: MessageReader = MessageReader(conn.limits.max_receive_bytes)
        self.inbox: deque[bytes] = deque()
        self.inbox_bytes: int = 0
        self.is_reading: bool = True
        self.is_delivering: bool = False
        self.half_closed: bool = False  # the client has ended its side
        self.told_half_close: bool = False
        self.has_headers: bool = False  # initial metadata has left
        self.has_ended: bool = False  # no callback will come any more
        self.deadline_slot: int | None = None
        # What follows the queue: status, message, trailers.
        self.status: tuple[int, str, Metadata] = (0, "", ())

    def send_headers(self, metadata: Metadata = ()) -> None:
        """Send initial metadata now; without this it leaves, empty, with the first message.

        Raises ValueError for metadata that cannot be sent. Later calls do nothing.
        """
        if not self.has_headers and not self.has_ended:
            self.conn.send_headers(self, metadata)

    def send(self, message: bytes) -> None:
        """Send a message, or queue it behind those that wait. Ignored after the end."""
        if self.has_ended:
            return
        conn = self.conn
        if len(message) > conn.limits.max_send_bytes:
            self._send_too_large(len(message))
            return
        if not self.has_headers:
            conn.send_headers(self, ())
        conn.send_message(self, message)
        conn.pings_forgiven = True

    def send_many(self, messages: Sequence[bytes]) -> None:
        """Send messages in order; they share frames where they fit."""
        if self.has_ended or not messages:
            return
        conn = self.conn
        if not self.has_headers:
            conn.send_headers(self, ())
        conn.pings_forgiven = True
        room = conn.peer_max_frame
        parts: list[bytes] = []
        size = 0
        for message in messages:
            framed = frame_message(message)
            if len(message) > conn.limits.max_send_bytes:
                self._send_too_large(len(message))
                return
            if parts and size + len(framed) > room:
                conn.send_data(self, b"".join(parts))
                parts.clear()
                size = 0
            parts.append(framed)
            size += len(framed)
        conn.send_data(self, b"".join(parts))

    def finish(self, code: int = 0, message: str = "", trailers: Metadata = ()) -> None:
        """End the call with a status, after what is queued. Ignored after the end.

        Raises ValueError for trailers that cannot be sent; the call is still open then.
        """
        if not self.has_ended:
            self.conn.finish_stream(self, code, message, trailers)

    def abort(self, code: int, message: str, trailers: Metadata = ()) -> None:
        """End the call with a status at once; what is queued is dropped.

        Raises ValueError for trailers that cannot be sent; the call is still open then.
        """
        if not self.has_ended:
            self.conn.drop_unsent(self)
            self.conn.finish_stream(self, code, message, trailers)

    def pause_reading(self) -> None:
        """Keep messages here, and their window from the client, until ``resume_reading``."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """Deliver what was kept, and go on."""
        self.is_reading = True
        if not self.is_delivering:
            self.deliver()

    def _send_too_large(self, size: int) -> None:
        limit = self.conn.limits.max_send_bytes
        text = f"trying to send message larger than max ({size} vs. {limit})"
        self.abort(StatusCode.RESOURCE_EXHAUSTED, text)

    # Called by the connection.

    def on_payload(self, payload: bytes, size: int, *, ends_stream: bool) -> None:
        """Take DATA."""
        conn = self.conn
        conn.receive(self, size)
        try:
            messages = self.reader.feed(payload)
        except RpcError as error:
            self.abort(error.code, error.message)
            return
        if ends_stream:
            self.half_closed = True
            if self.reader.pending_bytes:
                self.abort(StatusCode.INTERNAL, "unexpected EOF")
                return
        for message in messages:
            self.inbox.append(message)
            self.inbox_bytes += len(message)
        if not self.is_delivering:
            self.deliver()

    def deliver(self) -> None:
        """Hand over messages until told to pause, then give their window back."""
        conn = self.conn
        inbox = self.inbox
        self.is_delivering = True
        try:
            while inbox and self.is_reading and not self.has_ended:
                message = inbox.popleft()
                self.inbox_bytes -= len(message)
                self.on_message(message)
            if self.half_closed and not inbox and self.is_reading:
                self._tell_half_close()
        finally:
            self.is_delivering = False
        if self.has_ended:
            return
        if self.is_reading and not self.half_closed:
            conn.give_back(self)
        if not conn.hold(self, self.reader.pending_bytes + self.inbox_bytes):
            self.abort(StatusCode.RESOURCE_EXHAUSTED, "too many unread bytes on this connection")

    def _tell_half_close(self) -> None:
        if not self.told_half_close and not self.has_ended:
            self.told_half_close = True
            self.on_half_close()

    def ended(self) -> None:
        """Release what the call held, and tell its owner, once."""
        if self.has_ended:
            return
        self.has_ended = True
        conn = self.conn
        conn.hold(self, 0)
        self.inbox.clear()
        if self.deadline_slot is not None:
            conn.wheel.remove(self.deadline_slot, self.stream_id)
            self.deadline_slot = None
        on_closed = self.on_closed
        # Callbacks usually refer to their owner, which refers to the stream.
        self.on_message = _ignore_message
        self.on_half_close = self.on_closed = _ignore
        self.on_writable = None
        on_closed()


class UnaryRequest(StreamState):
    """A unary request that did not come in one piece; ``messages`` holds it when it is whole."""

    __slots__ = ("messages", "opening", "reader")

    def __init__(self, conn: ServerConnection, stream_id: int, opening: Opening) -> None:
        super().__init__(stream_id, conn.peer_window)
        self.opening: Opening = opening
        self.reader: MessageReader = MessageReader(conn.limits.max_receive_bytes)
        self.messages: list[bytes] = []

    def on_payload(
        self, conn: ServerConnection, payload: bytes, size: int, *, ends_stream: bool
    ) -> None:
        """Take DATA. Raises RpcError if the request is not acceptable."""
        conn.receive(self, size)
        self.messages.extend(self.reader.feed(payload))
        pending = self.reader.pending_bytes
        if len(self.messages) + bool(pending) > 1:
            raise RpcError(
                StatusCode.INTERNAL,
                "cardinality violation: received multiple request messages for non-client-streaming RPC",
            )
        if ends_stream:
            if pending:
                raise RpcError(StatusCode.INTERNAL, "unexpected EOF")
            if not self.messages:
                raise missing_request()
            return
        conn.give_back(self)
        held = pending + sum(len(message) for message in self.messages)
        if not conn.hold(self, held):
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED, "too many unread bytes on this connection"
            )


class UnaryReply(StreamState):
    """An answer that does not fit the windows; OK follows it."""

    __slots__ = ()


def missing_request() -> RpcError:
    """Return the error for a unary call that ended without its message."""
    return RpcError(
        StatusCode.INTERNAL,
        "cardinality violation: received no request message from non-client-streaming RPC",
    )
