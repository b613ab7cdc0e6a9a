"""The sending half of a server's connection: answers, and how long they may wait.

Once the peer's table holds our two header fields, the answer of a unary call is three strings put
into the output. Until then, and when the answer does not fit the windows, it takes the long way.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.rpc import frames
from coord.rpc.connection import Connection
from coord.rpc.frames import ErrorCode, Setting
from coord.rpc.messages import PREFIX_BYTES, frame_message
from coord.rpc.metadata import to_headers
from coord.rpc.patience import StallWatch
from coord.rpc.replies import STEADY_HEADERS, STEADY_TRAILERS, ReplyBlocks
from coord.rpc.requests import Opening
from coord.rpc.sending import StreamState
from coord.rpc.server_stream import ServerStream, UnaryReply, UnaryRequest
from coord.rpc.status import StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coord.rpc.limits import Limits
    from coord.rpc.metadata import Metadata

# HEADERS with the steady block, then the header of a DATA frame and its message's prefix.
_pack_answer: Final = struct.Struct(">IBI2sIBIBI").pack
_pack_end: Final = struct.Struct(">IBIs").pack
_HEADERS_WORD: Final = len(STEADY_HEADERS) << 8 | frames.HEADERS
_TRAILERS_WORD: Final = len(STEADY_TRAILERS) << 8 | frames.HEADERS
_END: Final = frames.FLAG_END_HEADERS | frames.FLAG_END_STREAM


def _own_settings(limits: Limits) -> dict[int, int]:
    settings = {
        Setting.MAX_CONCURRENT_STREAMS: min(limits.max_concurrent_streams, frames.MAX_STREAM_ID),
        Setting.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
        Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
    }
    if limits.header_table_bytes != frames.DEFAULT_HEADER_TABLE_SIZE:
        settings[Setting.HEADER_TABLE_SIZE] = limits.header_table_bytes
    return {int(key): value for key, value in settings.items()}


class AnsweringConnection(Connection):
    """What a server's connection knows of its open calls and of the way back."""

    send_window: int  # of its base, and changed here

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.pings_forgiven: bool = False  # we have sent data or headers since the last ping
        # Calls that have not ended. A number is a unary call whose request is whole, and the
        # send window it was granted beyond the initial one. An opening is a unary call of which
        # nothing but its headers has come.
        self.open: dict[int, int | Opening | StreamState] = {}
        self.replies: ReplyBlocks = ReplyBlocks()
        self.final_id: int | None = None  # GOAWAY is in effect
        self.plain: bool = False  # nothing speaks against handling requests the short way
        self.stall: StallWatch = StallWatch(limits)
        self._direct_bytes = 0  # the longest answer that may go straight out, with its prefix
        super().__init__(limits, clock, _own_settings(limits))

    # Where answers go.

    @property
    def open_streams(self) -> int:
        """How many calls have not ended."""
        return len(self.open)

    def respond(self, stream_id: int, message: bytes) -> None:
        """End a unary call with OK and one message; ignored if the call has gone meanwhile."""
        extra = self.open.pop(stream_id, None)
        size = len(message) + 5
        if extra == 0 and size <= self._direct_bytes and size <= self.send_window:
            self.send_window -= size
            out = self.out
            out.append(
                _pack_answer(
                    _HEADERS_WORD, 4, stream_id, STEADY_HEADERS,
                    size << 8, 0, stream_id, 0, size - 5,
                )
            )  # fmt: skip
            out.append(message)
            out.append(_pack_end(_TRAILERS_WORD, _END, stream_id, STEADY_TRAILERS))
            self.pings_forgiven = True
            if self.feeding:
                self.has_said = True
            elif not self.woken:
                self.woken = True
                self.call_shell()
        elif extra is not None:
            self._respond_slowly(stream_id, extra, message)

    def _respond_slowly(
        self, stream_id: int, extra: int | Opening | StreamState, message: bytes
    ) -> None:
        """Answer with queueing, or while the short header blocks are not in place yet."""
        self.open[stream_id] = extra
        if not isinstance(extra, int):
            return  # not waiting for an answer of this kind
        limit = self.limits.max_send_bytes
        if len(message) > limit:
            text = f"trying to send message larger than max ({len(message)} vs. {limit})"
            self.fail(stream_id, StatusCode.RESOURCE_EXHAUSTED, text)
            return
        self.put_headers(stream_id, self.replies.headers())
        reply = UnaryReply(stream_id, self.peer_window + extra)
        self.open[stream_id] = reply
        self.send_data(reply, frame_message(message))
        self.end_data(reply)

    def fail(self, stream_id: int, code: int, message: str, trailers: Metadata = ()) -> None:
        """End a unary call with a status; ignored if the call has gone meanwhile.

        Raises ValueError for trailers that cannot be sent; the call is still open then.
        """
        state = self.open.get(stream_id)
        if isinstance(state, int | Opening | UnaryRequest):
            block = self.replies.only_trailers(code, message, trailers)
            del self.open[stream_id]
            self.put_headers(stream_id, block, ends_stream=True)
            if isinstance(state, UnaryRequest):
                self.hold(state, 0)
            if not isinstance(state, int):
                self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.NO_ERROR))
            self.touch()

    def put_headers(self, stream_id: int, block: bytes, *, ends_stream: bool = False) -> None:
        """Send a header block."""
        self.out.append(
            frames.split_headers(stream_id, block, self.peer_max_frame, end_stream=ends_stream)
        )
        self.pings_forgiven = True
        self.hinder()

    # What streams ask for.

    def send_headers(self, stream: ServerStream, metadata: Metadata) -> None:
        """Send a stream's initial metadata."""
        block = self.replies.headers(to_headers(metadata))
        stream.has_headers = True
        self.put_headers(stream.stream_id, block)
        self.touch()

    def finish_stream(
        self, stream: ServerStream, code: int, message: str, trailers: Metadata
    ) -> None:
        """Put a stream's end behind what it has queued."""
        to_headers(trailers)  # raises before anything has changed
        stream.status = (code, message, trailers)
        self.end_data(stream)
        stream.ended()

    @override
    def on_sent_all(self, stream: StreamState) -> None:
        stream_id = stream.stream_id
        self.open.pop(stream_id, None)
        if not isinstance(stream, ServerStream):
            self.put_headers(stream_id, self.replies.trailers_ok(), ends_stream=True)
            return
        code, message, trailers = stream.status
        if stream.has_headers:
            block = self.replies.trailers(code, message, trailers)
        else:
            block = self.replies.only_trailers(code, message, trailers)
        self.put_headers(stream_id, block, ends_stream=True)
        if not stream.half_closed:
            # The client may stop sending (RFC 9113 section 8.1).
            self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.NO_ERROR))

    @override
    def on_low_water(self, stream: StreamState) -> None:
        if isinstance(stream, ServerStream) and stream.on_writable is not None:
            stream.on_writable()

    @override
    def on_overfull(self) -> None:
        if self.stall.due_at == math.inf:
            self.stall.start(self.clock(), self.payload_left)
            self.retime()

    @override
    def hinder(self) -> None:
        blocked = self.is_paused or bool(self.ready) or not self.replies.steady
        self._direct_bytes = (
            0
            if blocked
            else min(
                self.peer_window, self.peer_max_frame, self.limits.max_send_bytes + PREFIX_BYTES
            )
        )
        self.plain = (
            self.settled
            and self.final_id is None
            and self.unsent_bytes <= self.limits.max_buffered_bytes
        )

    @override
    def open_states(self) -> Iterable[StreamState]:
        return [state for state in self.open.values() if isinstance(state, StreamState)]

    @property
    @override
    def busy(self) -> bool:
        return bool(self.open)
