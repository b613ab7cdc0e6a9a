"""The sending half of a connection: windows, frames, and streams that wait for their turn.

What fits goes straight into the output. What does not waits at its stream, and streams that may
send take turns of one frame each whenever the connection's window, the transport and the turn's
share allow (RFC 9113 sections 5.2 and 6.9).
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

from coord.rpc import frames
from coord.rpc.faults import ConnectionFault, StreamFault
from coord.rpc.frames import ErrorCode
from coord.rpc.messages import PREFIX_BYTES, frame_message

if TYPE_CHECKING:
    from coord.rpc.limits import Limits

_pack_header: Final = struct.Struct(">IBI").pack
# The header of a DATA frame and the prefix of the one message in it.
_pack_message_head: Final = struct.Struct(">IBIBI").pack


class StreamState:
    """What both ends keep for a stream: its windows, what waits to be sent, what was not yet taken."""

    __slots__ = (
        "ending", "held_bytes", "is_high", "is_listed", "offset", "queue", "received", "stream_id",
        "ungiven", "unsent_bytes", "window",
    )  # fmt: skip

    def __init__(self, stream_id: int, window: int) -> None:
        self.stream_id: int = stream_id
        self.window: int = window  # bytes the peer lets us send; negative after it shrank them
        self.queue: deque[bytes] = deque()
        self.offset: int = 0  # bytes of queue[0] that have left
        self.unsent_bytes: int = 0
        self.is_listed: bool = False  # in the connection's round of streams that may send
        self.is_high: bool = False  # its owner waits for the low-water mark
        self.ending: bool = False  # nothing follows the queue
        # Receive window: bytes that came and were not given back, and those of them that are
        # free to be given back.
        self.received: int = 0
        self.ungiven: int = 0
        self.held_bytes: int = 0  # of messages that are not whole, or not taken


class Sender(ABC):
    """Output, windows and the round of waiting streams. The two cores extend it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.out: list[bytes] = []
        self.send_window: int = frames.DEFAULT_WINDOW
        self.peer_window = frames.DEFAULT_WINDOW
        self.peer_max_frame = frames.DEFAULT_MAX_FRAME_SIZE
        self.is_paused: bool = False  # the transport's buffer is full
        self.ready: deque[StreamState] = deque()
        self.unsent_bytes: int = 0  # over all streams
        self.payload_left: int = 0  # queued bytes that have left since the start
        self._turn_left = limits.turn_bytes
        self._pumping = False

    # What the cores add.

    @abstractmethod
    def touch(self) -> None:
        """Note that there is output."""

    @abstractmethod
    def on_sent_all(self, stream: StreamState) -> None:
        """React to an ending stream whose queue has left."""

    @abstractmethod
    def on_low_water(self, stream: StreamState) -> None:
        """React to a stream that was above the low-water mark and has come below."""

    @abstractmethod
    def on_overfull(self) -> None:
        """React to more than max_buffered_bytes being unsent."""

    @abstractmethod
    def hinder(self) -> None:
        """Note that something waits now, or no longer does."""

    # Output.

    @property
    def has_backlog(self) -> bool:
        """Whether more could leave right now, if it were taken: the turn's share was used up."""
        return bool(self.ready) and self.send_window > 0 and not self.is_paused

    def take_output(self) -> bytes:
        """Return the bytes to write, each once."""
        if self.ready:
            self.pump()
        self._turn_left = self.limits.turn_bytes
        out = self.out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def pause_sending(self) -> None:
        """Keep payload back: the transport does not get rid of what it has."""
        self.is_paused = True
        self.hinder()

    def resume_sending(self) -> None:
        """Let payload go again."""
        self.is_paused = False
        self.hinder()
        if self.ready:
            self.touch()

    def send_message(self, stream: StreamState, message: bytes) -> None:
        """Send a message of a stream, or queue it."""
        length = len(message)
        size = length + PREFIX_BYTES
        if (
            size <= stream.window
            and size <= self.send_window
            and size <= self.peer_max_frame
            and not stream.unsent_bytes
            and not self.ready
            and not self.is_paused
        ):
            stream.window -= size
            self.send_window -= size
            out = self.out
            out.append(_pack_message_head(size << 8, 0, stream.stream_id, 0, length))
            out.append(message)
            self.touch()
        else:
            self.send_data(stream, frame_message(message))

    def send_data(self, stream: StreamState, payload: bytes) -> None:
        """Send payload of a stream, or queue it."""
        size = len(payload)
        if (
            size <= stream.window
            and size <= self.send_window
            and size <= self.peer_max_frame
            and not stream.unsent_bytes
            and not self.ready
            and not self.is_paused
        ):
            stream.window -= size
            self.send_window -= size
            self.out.append(_pack_header(size << 8, 0, stream.stream_id))
            self.out.append(payload)
        else:
            stream.queue.append(payload)
            stream.unsent_bytes += size
            self.unsent_bytes += size
            if stream.unsent_bytes >= self.limits.low_water_bytes:
                stream.is_high = True
            self.list_stream(stream)
            self.pump()
            if self.unsent_bytes > self.limits.max_buffered_bytes:
                self.on_overfull()
        self.touch()

    def end_data(self, stream: StreamState) -> None:
        """Say that nothing follows what is queued."""
        stream.ending = True
        if not stream.unsent_bytes:
            self.on_sent_all(stream)
        self.touch()

    def drop_unsent(self, stream: StreamState) -> None:
        """Forget what a stream has queued; it leaves the round when its turn comes."""
        self.unsent_bytes -= stream.unsent_bytes
        stream.queue.clear()
        stream.offset = 0
        stream.unsent_bytes = 0
        stream.is_high = False
        stream.ending = False

    def list_stream(self, stream: StreamState) -> None:
        """Put a stream into the round if it has something to send and a window for it."""
        if not stream.is_listed and stream.unsent_bytes and stream.window > 0:
            stream.is_listed = True
            self.ready.append(stream)
            self.hinder()

    def pump(self) -> None:
        """Send what windows, transport and turn allow, one frame per stream and round."""
        if self._pumping:
            return
        self._pumping = True
        low: list[StreamState] = []
        ready = self.ready
        low_water = self.limits.low_water_bytes
        while ready and self.send_window > 0 and self._turn_left > 0 and not self.is_paused:
            stream = ready.popleft()
            if stream.unsent_bytes and stream.window > 0:
                self._send_frame(stream)
                if stream.is_high and stream.unsent_bytes < low_water:
                    stream.is_high = False
                    low.append(stream)
                if not stream.unsent_bytes and stream.ending:
                    self.on_sent_all(stream)
            if stream.unsent_bytes and stream.window > 0:
                ready.append(stream)
            else:
                stream.is_listed = False
        self._pumping = False
        self.hinder()
        for stream in low:
            self.on_low_water(stream)

    def _send_frame(self, stream: StreamState) -> None:
        size = min(stream.window, self.send_window, self.peer_max_frame, stream.unsent_bytes)
        stream.window -= size
        stream.unsent_bytes -= size
        self.unsent_bytes -= size
        self.payload_left += size
        self.send_window -= size
        self._turn_left -= size
        self.out.append(_pack_header(size << 8, 0, stream.stream_id))
        queue = stream.queue
        while size:
            chunk = queue[0]
            offset = stream.offset
            end = offset + size
            if end < len(chunk):
                self.out.append(chunk[offset:end])
                stream.offset = end
                return
            self.out.append(chunk[offset:] if offset else chunk)
            size -= len(chunk) - offset
            queue.popleft()
            stream.offset = 0

    # The peer's windows.

    def widen_connection(self, increment: int) -> None:
        """Obey a WINDOW_UPDATE of the connection."""
        self.send_window += increment
        if not increment or self.send_window > frames.MAX_WINDOW:
            code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            raise ConnectionFault(code, "bad window update")
        if self.ready:
            self.pump()

    def widen_stream(self, stream: StreamState, increment: int) -> None:
        """Obey a WINDOW_UPDATE of a stream."""
        stream.window += increment
        if not increment or stream.window > frames.MAX_WINDOW:
            code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            raise StreamFault(stream.stream_id, code)
        if stream.unsent_bytes:
            self.list_stream(stream)
            self.pump()
