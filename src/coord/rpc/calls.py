"""Calls on the client's side, as their callers hold them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from coord.rpc.messages import MessageReader, frame_message
from coord.rpc.sending import StreamState
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.metadata import Metadata
    from coord.rpc.requesting import CallingConnection
    from coord.rpc.responses import ResponseBlock


class UnaryCall:
    """One unary call. ``cancel`` is for the caller; the rest is the connection's."""

    # ``stream_id`` is below zero while the call waits for its turn.
    __slots__ = (
        "conn", "done", "has_head", "messages", "path", "reader", "request", "slot", "stream_id",
        "wire",
    )  # fmt: skip

    def __init__(
        self, conn: CallingConnection | None, done: Callable[[bytes | RpcError], None]
    ) -> None:
        self.conn: CallingConnection | None = conn
        self.done: Callable[[bytes | RpcError], None] | None = done  # None: nobody waits any more
        self.stream_id: int = 0
        self.slot: int | None = None  # of its deadline
        self.has_head: bool = False
        # Only for what does not go the short way: a request beyond the windows, an answer in pieces.
        self.wire: StreamState | None = None
        self.reader: MessageReader | None = None
        self.messages: list[bytes]  # set with the reader
        # Only while it waits for the peer's limit of concurrent streams.
        self.path: str = ""
        self.request: bytes = b""

    def cancel(self) -> None:
        """Give the call up: the server is told, ``done`` will not be called."""
        if self.done is not None:
            self.done = None
            if self.conn is not None:
                self.conn.abandon(self)


class CallStream(StreamState):
    """One call with streams, without any waiting: callbacks, run inside the parser.

    ``on_message`` gets each message; while it is None, messages stay here, and so does the
    window they took. ``on_closed`` is called once, after the last message: with None for OK.
    ``on_writable`` is called when what is unsent has fallen below ``low_water_bytes``.
    """

    __slots__ = (
        "conn", "end", "half_closed", "has_head", "inbox", "initial_metadata", "is_delivering",
        "is_open", "is_reading", "on_closed", "on_message", "on_writable", "path", "reader", "slot",
        "told_end", "trailing_metadata",
    )  # fmt: skip

    def __init__(self, conn: CallingConnection | None) -> None:
        super().__init__(0, 0)
        self.conn: CallingConnection | None = conn
        self.on_message: Callable[[bytes], None] | None = None
        self.on_closed: Callable[[RpcError | None], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.initial_metadata: Metadata = ()
        self.trailing_metadata: Metadata = ()
        limit = conn.limits.max_receive_bytes if conn is not None else 0
        self.reader: MessageReader = MessageReader(limit)
        self.inbox: deque[bytes] = deque()
        self.is_open: bool = True  # messages may come
        self.is_reading: bool = True
        self.is_delivering: bool = False
        self.half_closed: bool = False  # our side has ended
        self.has_head: bool = False
        self.end: RpcError | None = None
        self.told_end: bool = False
        self.slot: int | None = None
        self.path: str = ""

    def send(self, message: bytes) -> None:
        """Send a message, or queue it. Ignored after the end. Nothing bounds the queue but you."""
        conn = self.conn
        if conn is None or not self.is_open or self.half_closed:
            return
        limit = conn.limits.max_send_bytes
        if len(message) > limit:
            text = f"trying to send message larger than max ({len(message)} vs. {limit})"
            conn.end_stream(self, RpcError(StatusCode.RESOURCE_EXHAUSTED, text), reset=True)
            return
        conn.send_data(self, frame_message(message))

    def half_close(self) -> None:
        """Say that no more messages follow; answers still come."""
        if self.conn is not None and self.is_open and not self.half_closed:
            self.half_closed = True
            if self.stream_id > 0:
                self.conn.end_data(self)
            else:
                self.ending = True

    def cancel(self) -> None:
        """Give the call up: the server is told, and the call ends with CANCELLED."""
        if self.conn is not None and self.is_open:
            error = RpcError(StatusCode.CANCELLED, "cancelled by the caller")
            self.conn.end_stream(self, error, reset=True)

    def pause_reading(self) -> None:
        """Keep messages here, and their window from the server, until ``resume_reading``."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """Deliver what was kept, and go on."""
        self.is_reading = True
        if not self.is_delivering:
            self.deliver()

    # For the connection.

    def on_head(self, block: ResponseBlock) -> None:
        """Take the initial metadata."""
        self.has_head = True
        self.initial_metadata = block.metadata

    def arrived(self) -> None:
        """React to a message or the end that is kept here. For those who wait."""

    def deliver(self) -> None:
        """Hand over messages until told to pause, then give their window back."""
        inbox = self.inbox
        on_message = self.on_message
        if on_message is not None:
            self.is_delivering = True
            try:
                while inbox and self.is_reading:
                    on_message(inbox.popleft())
            finally:
                self.is_delivering = False
        if not inbox and self.is_reading:
            self.give_window()
        if not self.is_open and not inbox and not self.told_end:
            self.told_end = True
            if self.on_closed is not None:
                self.on_closed(self.end)
        self.arrived()

    def give_window(self) -> None:
        """Return the window of what was taken."""
        if self.is_open and self.conn is not None:
            self.conn.give_back(self)

    def ended(self, end: RpcError | None, trailers: Metadata) -> None:
        """Note the end; what is kept is still delivered before it is told."""
        if self.is_open:
            self.is_open = False
            self.end = end
            self.trailing_metadata = trailers
            if not self.is_delivering:
                self.deliver()
