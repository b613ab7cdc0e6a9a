"""The client's end of a connection, without I/O.

A unary call is two frames into the output and an entry in a dict; its answer, if its three frames
arrive together and look as usual, costs three comparisons. Answers of one ``feed`` are told to
their callers in one sweep at its end.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.rpc import frames
from coord.rpc.calls import CallStream, UnaryCall
from coord.rpc.faults import ConnectionFault, StreamFault
from coord.rpc.frames import ErrorCode, Setting
from coord.rpc.hpack import HeaderListTooLarge, HpackError
from coord.rpc.limits import CLIENT_LIMITS, Limits
from coord.rpc.messages import PREFIX_BYTES, MessageReader
from coord.rpc.requesting import CallingConnection
from coord.rpc.responses import OK_TRAILERS, PLAIN_HEAD, ResponseBlock, final_status, read_block
from coord.rpc.sending import StreamState
from coord.rpc.status import RpcError, StatusCode, reset_to_grpc
from coord.rpc.targets import RequestBlocks

if TYPE_CHECKING:
    from collections.abc import Callable


_read_header: Final = struct.Struct(">IBI").unpack_from
_read_data: Final = struct.Struct(">IBIBI").unpack_from
_pack_header: Final = struct.Struct(">IBI").pack
_pack_data: Final = struct.Struct(">IBIBI").pack
_END: Final = frames.FLAG_END_HEADERS | frames.FLAG_END_STREAM

# Header blocks of answers whose meaning is kept, and the longest worth keeping.
_MAX_CACHED: Final = 256
_MAX_CACHED_BYTES: Final = 1024
# What ids leave for calls: beyond, the connection must be replaced.
_LAST_ID: Final = frames.MAX_STREAM_ID - 1

_TOO_LARGE: Final = ResponseBlock(
    None, None, "", (), RpcError(StatusCode.RESOURCE_EXHAUSTED, "received header list too large")
)


class ClientConnection(CallingConnection):
    """One connection to a server.

    ``clock`` returns monotonic seconds. ``wake(self)`` is called when output or ends of calls
    have appeared outside of ``feed`` and were not taken since; ``push()``, if there is one, when so
    much has piled up since then that it had better be taken before the call returns.
    ``on_error(what, error)`` hears of callbacks that raise.
    """

    # Of its bases, and changed here.
    ungiven: int
    going_away: RpcError | None

    def __init__(
        self,
        *,
        authority: str,
        scheme: str = "http",
        user_agent: str = "coord",
        limits: Limits = CLIENT_LIMITS,
        clock: Callable[[], float],
        wake: Callable[[ClientConnection], None],
        push: Callable[[], object] | None = None,
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self._wake = wake
        self._push = push
        self._cache: dict[bytes, ResponseBlock] = {}
        super().__init__(limits, clock, RequestBlocks(authority, scheme, user_agent), on_error)
        self.out.insert(0, frames.PREFACE)
        self.hinder()

    @override
    def feed(self, data: bytes) -> None:
        super().feed(data)
        if self.queued:
            self.start_queued()
        if self.done:
            self.feeding: bool = True  # what callers start now leaves with what this feed put out
            self.sweep()
            self.feeding = False

    # Input.

    @override
    def parse(self, data: bytes) -> int:
        size = len(data)
        pos = 0
        cache = self._cache
        open_ = self.open
        done = self.done
        max_message = min(self.limits.max_receive_bytes, self.stream_window - PREFIX_BYTES)
        window_step = self.window_step
        while size - pos >= 9:
            word, flags, stream_id = _read_header(data, pos)
            start = pos + 9
            end = start + (word >> 8)
            if word > 0x4000FF:  # longer than the 16,384 bytes that we allow
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame too large")
            if end > size:
                break
            if word & 0xFF == 1 and flags == 4 and size - end >= 23 and not self.block_stream:
                word, flags, next_id, flag, length = _read_data(data, end)
                stop = end + 14 + length
                if (
                    word == length + 5 << 8  # all of one DATA frame, and nothing else
                    and not flags
                    and not flag
                    and next_id == stream_id
                    and size - stop >= 9
                    and length <= max_message
                ):
                    word, flags, next_id = _read_header(data, stop)
                    tail = stop + 9 + (word >> 8)
                    if (
                        word & 0xFF == 1
                        and flags == _END
                        and next_id == stream_id
                        and tail <= size
                        and cache.get(data[start:end]) is PLAIN_HEAD
                        and cache.get(data[stop + 9 : tail]) is OK_TRAILERS
                    ):
                        call = open_.get(stream_id)
                        if isinstance(call, UnaryCall) and call.wire is None and not call.has_head:
                            pos = tail
                            del open_[stream_id]
                            self.ungiven += length + 5
                            if self.ungiven >= window_step:
                                self.take_in(0)
                            if call.slot is not None:
                                self.wheel.remove(call.slot, stream_id)
                            done.append((call, data[end + 14 : stop]))
                            continue
                word, flags, stream_id = _read_header(data, pos)
            pos = end
            self.on_frame(word & 0xFF, flags, stream_id & 0x7FFFFFFF, data[start:end])
            if self.wants_close:
                return size
        return pos

    def _read(self, block: bytes) -> ResponseBlock:
        """Return what a header block means, and keep it while the table stands still."""
        known = self._cache.get(block)
        if known is not None:
            return known
        decoder = self.decoder
        generation = decoder.generation
        try:
            meaning = read_block(decoder.decode(block))
        except HeaderListTooLarge:
            meaning = _TOO_LARGE
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        if decoder.generation != generation:
            self._cache.clear()
        elif len(block) <= _MAX_CACHED_BYTES:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[block] = meaning
        return meaning

    @override
    def on_block(self, stream_id: int, block: bytes, *, ends_stream: bool) -> None:
        if self.is_idle_stream(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on an idle stream")
        meaning = self._read(block)
        call = self.open.get(stream_id)
        if call is None:
            return  # it was on its way when we gave the call up
        if ends_stream:
            self._on_final_block(call, meaning)
        elif meaning.is_informational and not call.has_head:
            return
        elif call.has_head:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif meaning.error is not None or meaning.http_status is None:
            error = meaning.error or RpcError(
                StatusCode.INTERNAL, "answer begins without an HTTP status"
            )
            self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.CANCEL))
            self.finish(call, error)
        elif isinstance(call, UnaryCall):
            call.has_head = True
        else:
            call.on_head(meaning)

    def _on_final_block(self, call: UnaryCall | CallStream, meaning: ResponseBlock) -> None:
        error = final_status(meaning)
        self._stop_sending(call)
        if isinstance(call, CallStream):
            if call.reader.pending_bytes and error is None:
                error = RpcError(StatusCode.INTERNAL, "answer ends within a message")
            self.forget(call)
            self.tell_stream(call, error, meaning.metadata)
        elif error is not None:
            self.finish(call, error)
        elif call.reader is not None and len(call.messages) == 1 and not call.reader.pending_bytes:
            self.finish(call, call.messages[0])
        else:
            text = "cardinality violation: answer of a unary call is not one message"
            self.finish(call, RpcError(StatusCode.INTERNAL, text))

    def _stop_sending(self, call: UnaryCall | CallStream) -> None:
        """Reset a stream that has its answer before its request is whole (RFC 9113 section 8.1)."""
        wire = call.wire if isinstance(call, UnaryCall) else call
        if wire is None:
            return
        is_open = isinstance(call, CallStream) and not call.half_closed
        if wire.unsent_bytes or is_open:
            self.out.append(frames.pack_rst_stream(call.stream_id, ErrorCode.NO_ERROR))

    @override
    def on_data(self, stream_id: int, payload: bytes, size: int, *, ends_stream: bool) -> None:
        call = self.open.get(stream_id)
        if call is None:
            return
        if not call.has_head:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
        try:
            if isinstance(call, UnaryCall):
                self._on_answer_data(call, payload, size)
            else:
                self.receive(call, size)
                call.inbox.extend(call.reader.feed(payload))
                if not call.is_delivering:
                    call.deliver()
        except RpcError as error:
            self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.CANCEL))
            self.finish(call, error)
            return
        except StreamFault:
            raise
        except Exception as problem:  # noqa: BLE001 - one call's bug must not end the others
            self.on_error("message of a call", problem)
        if ends_stream and stream_id in self.open:
            text = "server closed the stream without sending trailers"
            self._stop_sending(call)
            self.finish(call, RpcError(StatusCode.INTERNAL, text))

    def _on_answer_data(self, call: UnaryCall, payload: bytes, size: int) -> None:
        wire = call.wire
        if wire is None:
            wire = call.wire = StreamState(call.stream_id, 0)
        if call.reader is None:
            call.reader = MessageReader(self.limits.max_receive_bytes)
            call.messages = []
        self.receive(wire, size)
        call.messages.extend(call.reader.feed(payload))
        if len(call.messages) > 1:
            text = "cardinality violation: answer of a unary call is not one message"
            raise RpcError(StatusCode.INTERNAL, text)
        self.give_back(wire)

    @override
    def on_reset(self, stream_id: int, code: int) -> None:
        call = self.open.get(stream_id)
        if call is None:
            return
        try:
            name = ErrorCode(code).name
        except ValueError:
            name = str(code)
        text = f"stream terminated by RST_STREAM with error code: {name}"
        refused = code == ErrorCode.REFUSED_STREAM
        self.finish(call, RpcError(reset_to_grpc(code), text, sent=not refused))

    @override
    def reset_stream(self, stream_id: int, code: int) -> None:
        self.out.append(frames.pack_rst_stream(stream_id, code))
        call = self.open.get(stream_id)
        if call is not None:
            text = f"the server broke the protocol: {ErrorCode(code).name}"
            self.finish(call, RpcError(StatusCode.INTERNAL, text))
        self.touch()

    @override
    def on_deadline(self, stream_id: int) -> None:
        queued = self.queued.get(stream_id)
        call = queued[0] if queued is not None else self.open.get(stream_id)
        if call is None:
            return
        call.slot = None
        sent = self.was_sent(call)
        if stream_id > 0:
            self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.CANCEL))
        text = "context deadline exceeded"
        self.finish(call, RpcError(StatusCode.DEADLINE_EXCEEDED, text, sent=sent))

    @override
    def on_timer(self) -> None:
        super().on_timer()
        self.start_queued()
        self.sweep()

    @override
    def on_window_update(self, stream_id: int, increment: int) -> None:
        call = self.open.get(stream_id)
        wire = call.wire if isinstance(call, UnaryCall) else call
        if wire is not None:
            self.widen_stream(wire, increment)
        elif not increment and call is not None:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)

    # The connection's own affairs.

    @override
    def on_setting(self, key: int, value: int) -> None:
        if key == Setting.HEADER_TABLE_SIZE:
            self.blocks.set_limit(value)
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif key == Setting.ENABLE_PUSH and value:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "bad ENABLE_PUSH")

    @override
    def on_ping_asked(self) -> None:
        # Servers measure the bandwidth with pings while they receive, so only idle ones count.
        if not self.busy:
            self.ping_budget.spend(self.clock, "too many pings")

    @override
    def on_pong(self, data: bytes) -> None:
        """Have been heard: that is all a ping of ours wants."""

    def go_away(self, reason: str = "channel is closing") -> None:
        """Take no new calls; want to be closed when those that run have ended."""
        self.leave(RpcError(StatusCode.UNAVAILABLE, reason, sent=False))

    @override
    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        text = debug.decode("utf-8", "replace")
        reason = "server is going away" + (f": {text}" if text else "")
        error = RpcError(StatusCode.UNAVAILABLE, reason, sent=False)
        self.leave(error)
        for stream_id in [key for key in self.open if key > last_stream_id]:
            self.finish(self.open[stream_id], error)

    @property
    def is_drained(self) -> bool:
        """Whether nothing runs and nothing new is taken."""
        return self.going_away is not None and not self.open

    @override
    def on_end(self, fault: ConnectionFault | None) -> None:
        text = "connection lost" if fault is None else f"connection error: {fault.text}"
        self.end_calls(text)

    def end_calls(self, text: str) -> None:
        """End all calls with UNAVAILABLE, because the connection has ended."""
        self.wants_close = True
        if self.going_away is None:
            self.going_away = RpcError(StatusCode.UNAVAILABLE, text, sent=False)
        calls = [*self.open.values(), *(entry[0] for entry in self.queued.values())]
        for call in calls:
            error = RpcError(StatusCode.UNAVAILABLE, text, sent=self.was_sent(call))
            self.finish(call, error)

    @override
    def next_own_timer(self) -> float:
        return math.inf

    @override
    def on_own_timer(self, now: float) -> None:
        """Time nothing of its own."""

    @property
    @override
    def last_peer_stream(self) -> int:
        return 0  # servers open none

    @override
    def is_idle_stream(self, stream_id: int) -> bool:
        return stream_id >= self.next_id or not stream_id & 1

    @override
    def call_shell(self) -> None:
        self._wake(self)

    @override
    def hurry(self) -> None:
        if self._push is not None:
            self._push()
