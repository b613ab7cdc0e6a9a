"""What server and client share of one connection: frames in, control frames, windows, timers.

No I/O and no clock of its own: bytes come in by ``feed`` in any splits, leave by
``take_output``, and the shell calls ``on_timer`` at ``timer_at``.
"""

from __future__ import annotations

import math
import struct
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.rpc import frames
from coord.rpc.deadlines import DeadlineWheel
from coord.rpc.faults import ConnectionFault, StreamFault
from coord.rpc.frames import ErrorCode, Setting
from coord.rpc.hpack import Decoder
from coord.rpc.sending import Sender, StreamState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coord.rpc.limits import Limits

_read_uint32: Final = struct.Struct(">I").unpack_from
_read_two: Final = struct.Struct(">II").unpack_from

_KEEPALIVE_PING: Final = b"coordka\0"
DRAIN_PING: Final = b"coorddr\0"
# Values in one SETTINGS frame: each may change the windows of all streams.
_MAX_SETTINGS: Final = 100
# How often silence is looked at, in parts of keepalive_time_s: how late a ping may be.
_KEEPALIVE_POLLS: Final = 4


class Budget:
    """Counts what a peer may do at most ``limit`` times per window."""

    __slots__ = ("_count", "_limit", "_since", "_window_s")

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._count = 0
        self._since = -math.inf

    def spend(self, clock: Callable[[], float], what: str) -> None:
        """Count one. Raises ConnectionFault(ENHANCE_YOUR_CALM) beyond the limit."""
        if not self._count:
            self._since = clock()
        self._count += 1
        if self._count > self._limit:
            now = clock()
            if now - self._since < self._window_s:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, what)
            self._since = now
            self._count = 1


class Connection(Sender):
    """The protocol of one connection, apart from what its streams mean."""

    def __init__(
        self, limits: Limits, clock: Callable[[], float], own_settings: dict[int, int]
    ) -> None:
        super().__init__(limits)
        self.clock = clock
        self.wants_close: bool = False  # everything is said: write the output, then close
        # Why we ended it ourselves; None while it lives, and if the other end or the network did.
        self.fault: ConnectionFault | None = None
        self.feeding: bool = False
        # Since `feed` began: something was put out besides acknowledgements.
        self.has_said: bool = False
        self.woken: bool = False
        self.decoder: Decoder = Decoder(limits.header_table_bytes, limits.max_header_list_bytes)
        self.unread_bytes: int = 0
        self.settled: bool = False  # the peer's SETTINGS have come
        self.wheel: DeadlineWheel = DeadlineWheel()
        self.timer_at: float = math.inf
        self._partial = bytearray()
        self._need = 0
        # A header block that goes on in CONTINUATION frames: its stream, 0 for none.
        self.block_stream: int = 0
        self._block = bytearray()
        self._block_frames = 0
        self._block_ends_stream = False
        self._set_up_windows(own_settings)
        window = limits.budget_window_s
        self._settings_budget = Budget(limits.max_settings, window)
        self._empty_budget = Budget(limits.max_empty_data, window)
        self._ignored_budget = Budget(limits.max_ignored, window)
        self.ping_budget: Budget = Budget(limits.max_pings, window)
        now = clock()
        self._handshake_at = now + limits.handshake_timeout_s
        self._heard = False
        self._heard_at = now
        self._pinged = False
        self._keepalive_at = math.inf
        self._start_keepalive(now)
        self.retime()

    def _set_up_windows(self, own_settings: dict[int, int]) -> None:
        limits = self.limits
        connection_window = max(limits.connection_window_bytes, frames.DEFAULT_WINDOW)
        self.window_bytes = connection_window
        self.window_step: int = connection_window // 2
        self.ungiven: int = 0
        # Until the peer has seen our settings, it may use the protocol's window.
        self.stream_window: int = max(limits.stream_window_bytes, frames.DEFAULT_WINDOW)
        self._stream_step = max(1, limits.stream_window_bytes // 2)
        hello = frames.pack_settings(own_settings)
        if connection_window > frames.DEFAULT_WINDOW:
            hello += frames.pack_window_update(0, connection_window - frames.DEFAULT_WINDOW)
        self.out.append(hello)

    # What the cores add.

    @abstractmethod
    def parse(self, data: bytes) -> int:
        """Handle the whole frames in ``data``; return where the rest begins."""

    @abstractmethod
    def on_block(self, stream_id: int, block: bytes, *, ends_stream: bool) -> None:
        """Handle a whole header block."""

    @abstractmethod
    def on_data(self, stream_id: int, payload: bytes, size: int, *, ends_stream: bool) -> None:
        """Handle DATA; ``size`` is what it counts in the windows."""

    @abstractmethod
    def on_reset(self, stream_id: int, code: int) -> None:
        """Handle a RST_STREAM of a stream that is not idle."""

    @abstractmethod
    def on_window_update(self, stream_id: int, increment: int) -> None:
        """Handle a WINDOW_UPDATE of a stream."""

    @abstractmethod
    def on_setting(self, key: int, value: int) -> None:
        """Handle a setting that only one of the ends cares for."""

    @abstractmethod
    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Handle a GOAWAY."""

    @abstractmethod
    def on_ping_asked(self) -> None:
        """Judge a PING of the peer, which has been answered."""

    @abstractmethod
    def on_pong(self, data: bytes) -> None:
        """Handle the answer to a PING of ours."""

    @abstractmethod
    def on_deadline(self, stream_id: int) -> None:
        """End a stream whose deadline has passed."""

    @abstractmethod
    def on_end(self, fault: ConnectionFault | None) -> None:
        """Tell all streams that the connection has ended."""

    @abstractmethod
    def reset_stream(self, stream_id: int, code: int) -> None:
        """End a stream with RST_STREAM, because of the peer's fault."""

    @abstractmethod
    def open_states(self) -> Iterable[StreamState]:
        """Return the streams that have windows."""

    @property
    @abstractmethod
    def last_peer_stream(self) -> int:
        """The highest stream id of the peer's that was or may be processed."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any call is running."""

    @abstractmethod
    def is_idle_stream(self, stream_id: int) -> bool:
        """Tell whether nobody has opened the stream yet."""

    # Input.

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer, in any splits."""
        if self.wants_close:
            return
        self._heard = True
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._need:
                return
            data = bytes(partial)
            partial.clear()
        self.feeding = True
        self.has_said = False
        try:
            pos = self.parse(data)
        except ConnectionFault as fault:
            self.fail_connection(fault)
            return
        finally:
            self.feeding = False
        rest = len(data) - pos
        if rest and not self.wants_close:
            partial += data[pos:] if pos else data
            self._need = self.whole(data, pos)

    def whole(self, data: bytes, pos: int) -> int:
        """Return how many bytes from ``pos`` on make up the next frame, as far as is known."""
        if len(data) - pos < frames.FRAME_HEADER_BYTES:
            return frames.FRAME_HEADER_BYTES
        word: int = _read_uint32(data, pos)[0]
        return frames.FRAME_HEADER_BYTES + (word >> 8)

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Handle one frame, with all checks."""
        if not self.settled and kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "first frame is not SETTINGS")
        try:
            if self.block_stream:
                if kind != frames.CONTINUATION or stream_id != self.block_stream:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "header block interrupted")
                self._on_continuation(flags, payload)
            elif kind == frames.DATA:
                self._on_data_frame(flags, stream_id, payload)
            elif kind == frames.HEADERS:
                self._on_headers_frame(flags, stream_id, payload)
            elif kind == frames.WINDOW_UPDATE:
                self._on_window_frame(stream_id, payload)
            elif kind == frames.RST_STREAM:
                self._on_reset_frame(stream_id, payload)
            else:
                self._on_control_frame(kind, flags, stream_id, payload)
        except StreamFault as fault:
            self.reset_stream(fault.stream_id, fault.code)

    def _on_control_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.SETTINGS:
            self._on_settings_frame(flags, stream_id, payload)
        elif kind == frames.PING:
            self._on_ping_frame(flags, stream_id, payload)
        elif kind == frames.GOAWAY:
            if stream_id or len(payload) < 8:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "bad GOAWAY")
            last, code = _read_two(payload)
            self.on_goaway(last & frames.MAX_STREAM_ID, code, payload[8:])
        elif kind in {frames.PUSH_PROMISE, frames.CONTINUATION}:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "unexpected frame")
        else:
            if kind == frames.PRIORITY:
                if not stream_id:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY without stream")
                if len(payload) != 5:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "bad PRIORITY")
            self._ignored_budget.spend(self.clock, "too many frames without meaning")

    def _on_headers_frame(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS without stream")
        if flags & (frames.FLAG_PADDED | frames.FLAG_PRIORITY):
            if flags & frames.FLAG_PADDED:
                payload = _unpad(payload)
            if flags & frames.FLAG_PRIORITY:
                if len(payload) < 5:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "bad HEADERS")
                payload = payload[5:]
        ends_stream = bool(flags & frames.FLAG_END_STREAM)
        if flags & frames.FLAG_END_HEADERS:
            self.on_block(stream_id, payload, ends_stream=ends_stream)
            return
        self.block_stream = stream_id
        self._block += payload
        self._block_frames = 0
        self._block_ends_stream = ends_stream

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        self._block += payload
        self._block_frames += 1
        limits = self.limits
        if (
            len(self._block) > limits.max_header_block_bytes
            or self._block_frames > limits.max_continuations
        ):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & frames.FLAG_END_HEADERS:
            block = bytes(self._block)
            stream_id = self.block_stream
            self.block_stream = 0
            self._block.clear()
            self.on_block(stream_id, block, ends_stream=self._block_ends_stream)

    def _on_data_frame(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if flags & frames.FLAG_PADDED:
            payload = _unpad(payload)
        if self.is_idle_stream(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on an idle stream")
        self.take_in(size)
        ends_stream = bool(flags & frames.FLAG_END_STREAM)
        if not payload and not ends_stream:
            self._empty_budget.spend(self.clock, "too many empty DATA frames")
        self.on_data(stream_id, payload, size, ends_stream=ends_stream)

    def _on_window_frame(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "bad WINDOW_UPDATE")
        increment = _read_uint32(payload)[0] & frames.MAX_WINDOW
        if not stream_id:
            self.widen_connection(increment)
        elif self.is_idle_stream(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        else:
            self.on_window_update(stream_id, increment)

    def _on_reset_frame(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "bad RST_STREAM")
        if self.is_idle_stream(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        self.on_reset(stream_id, _read_uint32(payload)[0])

    def _on_ping_frame(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "bad PING")
        if flags & frames.FLAG_ACK:
            self.on_pong(payload)
            return
        self.out.append(frames.pack_ping(True, payload))  # noqa: FBT003 - the wire's flag
        self.on_ping_asked()

    def _on_settings_frame(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.FLAG_ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "bad SETTINGS")
            return
        try:
            settings = frames.unpack_settings(payload)
        except ValueError as error:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "bad SETTINGS") from error
        if len(settings) > _MAX_SETTINGS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many values in SETTINGS")
        if self.settled:
            self._settings_budget.spend(self.clock, "too many SETTINGS")
        for key, value in settings:
            self._on_one_setting(key, value)
        self.out.append(frames.SETTINGS_ACK)
        self.settled = True
        self._handshake_at = math.inf
        self.hinder()
        if self.ready:
            self.pump()

    def _on_one_setting(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "initial window too large")
            change = value - self.peer_window
            self.peer_window = value
            for stream in self.open_states():
                stream.window += change
                if stream.window > frames.MAX_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window overflow")
                self.list_stream(stream)
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME_SIZE <= value <= frames.LARGEST_MAX_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "bad MAX_FRAME_SIZE")
            self.peer_max_frame = value
        else:
            self.on_setting(key, value)

    # Receive windows.

    def take_in(self, size: int) -> None:
        """Count DATA against the connection's window, which is given back in big steps."""
        self.ungiven += size
        if self.ungiven > self.window_bytes:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window exceeded")
        if self.ungiven >= self.window_step:
            self.out.append(frames.pack_window_update(0, self.ungiven))
            self.ungiven = 0

    def receive(self, stream: StreamState, size: int) -> None:
        """Count DATA against a stream's window."""
        stream.received += size
        stream.ungiven += size
        if stream.received > self.stream_window:
            raise StreamFault(stream.stream_id, ErrorCode.FLOW_CONTROL_ERROR)

    def give_back(self, stream: StreamState) -> None:
        """Return a stream's window for what it has received and its owner has taken."""
        if stream.ungiven >= self._stream_step:
            self.out.append(frames.pack_window_update(stream.stream_id, stream.ungiven))
            stream.received -= stream.ungiven
            stream.ungiven = 0
            self.touch()

    def hold(self, stream: StreamState, held_bytes: int) -> bool:
        """Note how much of a stream lies in memory; False if that is too much for the connection."""
        self.unread_bytes += held_bytes - stream.held_bytes
        stream.held_bytes = held_bytes
        return self.unread_bytes <= self.limits.max_unread_bytes

    # The end.

    def fail_connection(self, fault: ConnectionFault) -> None:
        """Say why and stop: the shell writes what is left, and closes."""
        if self.wants_close:
            return
        debug = fault.text.encode()
        self.out.append(frames.pack_goaway(self.last_peer_stream, fault.code, debug))
        self._stop(fault)

    def _stop(self, fault: ConnectionFault | None) -> None:
        self.wants_close = True
        self.fault = fault
        self.timer_at = math.inf
        self.ready.clear()
        self.on_end(fault)
        self.touch()

    def connection_lost(self) -> None:
        """Tell all streams that the transport has gone."""
        self.wants_close = True
        self.timer_at = math.inf
        self.ready.clear()
        self.on_end(None)
        self.out.clear()

    # Timers.

    def add_deadline(self, when: float, stream_id: int) -> int:
        """Arrange for ``on_deadline``; returns the slot for ``wheel.remove``."""
        slot = self.wheel.add(when, stream_id)
        if self.wheel.next_at < self.timer_at:  # noqa: PLR1730 - min() would cost more than all the rest of it
            self.timer_at = self.wheel.next_at
        return slot

    def retime(self) -> None:
        """Recompute ``timer_at``."""
        self.timer_at = min(
            self._handshake_at, self._keepalive_at, self.wheel.next_at, self.next_own_timer()
        )

    @abstractmethod
    def next_own_timer(self) -> float:
        """Return when ``on_own_timer`` is wanted."""

    @abstractmethod
    def on_own_timer(self, now: float) -> None:
        """Do what one of the ends has timed."""

    def on_timer(self) -> None:
        """Do what is due. Called at ``timer_at`` or later; early calls do no harm."""
        if self.wants_close:
            return
        now = self.clock()
        if now >= self._handshake_at:
            self.fail_connection(ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no SETTINGS in time"))
            return
        if now >= self._keepalive_at:
            self._keepalive(now)
        try:
            self.on_own_timer(now)
        except ConnectionFault as fault:
            self.fail_connection(fault)
            return
        for stream_id in self.wheel.pop_due(now):
            self.on_deadline(stream_id)
        if not self.wants_close:
            self.retime()

    def _start_keepalive(self, now: float) -> None:
        time_s = self.limits.keepalive_time_s
        if time_s is not None:
            self._keepalive_at = now + time_s / _KEEPALIVE_POLLS

    def _keepalive(self, now: float) -> None:
        """Look whether the peer has been heard since the last look, and ask if it has long not."""
        limits = self.limits
        time_s = limits.keepalive_time_s
        if time_s is None:
            return
        poll_s = time_s / _KEEPALIVE_POLLS
        if self._heard or not (self.busy or limits.keepalive_without_calls):
            self._heard = False
            self._heard_at = now
            self._pinged = False
            self._keepalive_at = now + poll_s
        elif self._pinged:
            text = "keepalive ping failed to receive ACK within timeout"
            self.fail_connection(ConnectionFault(ErrorCode.NO_ERROR, text))
        elif now >= self._heard_at + time_s - poll_s / 2:
            self._pinged = True
            self.out.append(frames.pack_ping(False, _KEEPALIVE_PING))  # noqa: FBT003 - the wire's flag
            self._keepalive_at = now + limits.keepalive_timeout_s
            self.touch()
        else:
            self._keepalive_at = now + poll_s

    @override
    def touch(self) -> None:
        """Ask the shell to take the output, once, unless it is about to do so after ``feed``."""
        if self.feeding:
            self.has_said = True
        elif not self.woken:
            self.woken = True
            self.call_shell()

    @abstractmethod
    def call_shell(self) -> None:
        """Tell the shell that there is output."""

    @override
    def take_output(self) -> bytes:
        self.woken = False
        return super().take_output()


def _unpad(payload: bytes) -> bytes:
    """Return a payload without its padding (RFC 9113 section 6.1)."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "bad padding")
    return payload[1 : len(payload) - payload[0]]
