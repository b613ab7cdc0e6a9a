"""The calling half of a client's connection: starting calls, letting them wait, ending them."""

from __future__ import annotations

import struct
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.rpc import frames
from coord.rpc.calls import CallStream, UnaryCall
from coord.rpc.connection import Connection
from coord.rpc.frames import ErrorCode, Setting
from coord.rpc.messages import PREFIX_BYTES, frame_message
from coord.rpc.sending import StreamState
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coord.rpc.limits import Limits
    from coord.rpc.metadata import Metadata
    from coord.rpc.targets import RequestBlocks

_pack_header: Final = struct.Struct(">IBI").pack
_pack_data: Final = struct.Struct(">IBIBI").pack
# What ids leave for calls: beyond, the connection must be replaced.
_LAST_ID: Final = frames.MAX_STREAM_ID - 1
# What of a burst leaves at once, in parts of the output, of which a call has four: an eighth of the calls that are open,
# and at least four calls. Were all of it kept for the end of the loop's turn, many callers who wait for their answers
# would keep step: all requests go out together, all answers come back together, and of client and server one is idle
# while the other one works. In pieces, both work: 16 callers do half as much again and more.
# Smaller pieces cost more than they bring, since each of them is a write here, a wake-up there, and an fsync.
_BURST_PARTS: Final = 4 * 4
_BURST_SHARE: Final = 2  # parts for a call that is open: four parts, of an eighth of the calls


def _own_settings(limits: Limits) -> dict[int, int]:
    settings = {
        Setting.ENABLE_PUSH: 0,
        Setting.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
        Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
    }
    if limits.header_table_bytes != frames.DEFAULT_HEADER_TABLE_SIZE:
        settings[Setting.HEADER_TABLE_SIZE] = limits.header_table_bytes
    return {int(key): value for key, value in settings.items()}


class CallingConnection(Connection):
    """What a client's connection knows of its calls and how they leave."""

    send_window: int  # of its base, and changed here

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        blocks: RequestBlocks,
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self.blocks = blocks
        self.on_error = on_error
        self.open: dict[int, UnaryCall | CallStream] = {}
        # Calls that wait for the peer's limit, by tickets, which are below zero.
        self.queued: dict[int, tuple[UnaryCall | CallStream, float | None, Metadata]] = {}
        self._next_ticket = -1
        self.next_id: int = 1
        self._flushed_id = 0  # the last stream whose headers the shell has taken
        self.max_streams = frames.MAX_STREAM_ID
        self.done: list[tuple[UnaryCall, bytes | RpcError]] = []
        self._direct_bytes = 0
        self.going_away: RpcError | None = None  # no new calls, and why
        super().__init__(limits, clock, _own_settings(limits))

    @property
    def open_calls(self) -> int:
        """How many calls have not ended, queued ones included."""
        return len(self.open) + len(self.queued)

    @property
    def is_ready(self) -> bool:
        """Whether calls may be made: the server has introduced itself and is not going away."""
        return self.settled and self.going_away is None and not self.wants_close

    # Starting calls.

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> UnaryCall:
        """Start a call; ``done`` is called once, never before this returns, not after ``cancel``.

        ``timeout`` is in seconds. Raises ValueError for metadata that cannot be sent.
        """
        call = UnaryCall(self, done)
        if (
            not self.settled
            or self.going_away is not None
            or len(self.open) >= self.max_streams
            or (timeout is not None and timeout <= 0)
        ):
            call.path = path
            call.request = request
            self._queue(call, timeout, metadata)
            return call
        block = self.blocks.get(path, metadata, timeout)
        self._launch_unary(call, request, block, timeout)
        return call

    def _launch_unary(
        self, call: UnaryCall, request: bytes, block: bytes, timeout: float | None
    ) -> None:
        stream_id = self._take_id()
        call.stream_id = stream_id
        self.open[stream_id] = call
        if timeout is not None:
            call.slot = self.add_deadline(self.clock() + timeout, stream_id)
        size = len(request) + PREFIX_BYTES
        if (
            size <= self._direct_bytes
            and size <= self.send_window
            and len(block) <= self.peer_max_frame
        ):
            self.send_window -= size
            out = self.out
            out.append(_pack_header(len(block) << 8 | 1, 4, stream_id))
            out.append(block)
            out.append(_pack_data(size << 8, 1, stream_id, 0, size - PREFIX_BYTES))
            out.append(request)
        elif len(request) > self.limits.max_send_bytes:
            limit = self.limits.max_send_bytes
            text = f"trying to send message larger than max ({len(request)} vs. {limit})"
            self._put_headers(stream_id, block)
            self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.CANCEL))
            self.finish(call, RpcError(StatusCode.RESOURCE_EXHAUSTED, text, sent=False))
        else:
            self._put_headers(stream_id, block)
            wire = call.wire = StreamState(stream_id, self.peer_window)
            self.send_data(wire, frame_message(request))
            self.end_data(wire)
        if not self.feeding:
            if not self.woken:
                self.touch()
            elif (
                len(self.out) >= _BURST_PARTS
                and len(self.out) * _BURST_SHARE >= len(self.open)
                and not self.done  # no caller may hear of an end in here
            ):
                self.hurry()

    @abstractmethod
    def hurry(self) -> None:
        """Have the output taken now, in the middle of a burst of calls."""

    def start_stream(
        self,
        stream: CallStream,
        path: str,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> None:
        """Open a call with streams. Raises ValueError for metadata that cannot be sent."""
        stream.path = path
        if (
            not self.settled
            or self.going_away is not None
            or len(self.open) >= self.max_streams
            or (timeout is not None and timeout <= 0)
        ):
            self._queue(stream, timeout, metadata)
            return
        self._launch_stream(stream, self.blocks.get(path, metadata, timeout), timeout)

    def _launch_stream(self, stream: CallStream, block: bytes, timeout: float | None) -> None:
        stream_id = self._take_id()
        stream.stream_id = stream_id
        stream.window = self.peer_window
        self.open[stream_id] = stream
        if timeout is not None:
            stream.slot = self.add_deadline(self.clock() + timeout, stream_id)
        self._put_headers(stream_id, block)
        if stream.unsent_bytes:
            self.list_stream(stream)
            self.pump()
        elif stream.ending:
            self.on_sent_all(stream)
        self.touch()

    def _take_id(self) -> int:
        stream_id = self.next_id
        self.next_id = stream_id + 2
        if stream_id >= _LAST_ID and self.going_away is None:
            self.going_away = RpcError(StatusCode.UNAVAILABLE, "stream ids are used up", sent=False)
        return stream_id

    def _put_headers(self, stream_id: int, block: bytes) -> None:
        self.out.append(
            frames.split_headers(stream_id, block, self.peer_max_frame, end_stream=False)
        )

    def _queue(
        self, call: UnaryCall | CallStream, timeout: float | None, metadata: Metadata
    ) -> None:
        """Let a call wait for its turn, or tell it at once that there will be none."""
        self.blocks.check(metadata)
        if timeout is not None and timeout <= 0:
            text = "context deadline exceeded"
            self.finish(call, RpcError(StatusCode.DEADLINE_EXCEEDED, text, sent=False))
            return
        if self.going_away is not None or self.wants_close:
            error = self.going_away or RpcError(
                StatusCode.UNAVAILABLE, "connection is closed", sent=False
            )
            self.finish(call, error)
            return
        ticket = self._next_ticket
        self._next_ticket -= 1
        call.stream_id = ticket
        deadline: float | None = None
        if timeout is not None:
            deadline = self.clock() + timeout
            call.slot = self.add_deadline(deadline, ticket)
        self.queued[ticket] = (call, deadline, metadata)

    def start_queued(self) -> None:
        """Start what waits, as far as the peer's limit allows."""
        while self.queued and self.is_ready and len(self.open) < self.max_streams:
            ticket = next(iter(self.queued))
            call, deadline, metadata = self.queued.pop(ticket)
            timeout: float | None = None
            if deadline is not None:
                timeout = max(0.0, deadline - self.clock())
            if call.slot is not None:
                self.wheel.remove(call.slot, ticket)
                call.slot = None
            block = self.blocks.get(call.path, metadata, timeout)
            if isinstance(call, UnaryCall):
                self._launch_unary(call, call.request, block, timeout)
                call.request = b""
            else:
                self._launch_stream(call, block, timeout)

    # Ending calls.

    def abandon(self, call: UnaryCall) -> None:
        """Give up a unary call whose caller does not want to hear of it any more."""
        if self.forget(call) and call.stream_id > 0:
            self.out.append(frames.pack_rst_stream(call.stream_id, ErrorCode.CANCEL))
        self.start_queued()
        self.touch()

    def end_stream(self, stream: CallStream, error: RpcError, *, reset: bool) -> None:
        """End a call with streams from our side."""
        if self.forget(stream) and stream.stream_id > 0 and reset:
            self.out.append(frames.pack_rst_stream(stream.stream_id, ErrorCode.CANCEL))
        self.tell_stream(stream, error, error.trailers)
        self.start_queued()
        self.touch()

    def forget(self, call: UnaryCall | CallStream) -> bool:
        """Take a call off the books; False if it was not on them."""
        key = call.stream_id
        if key > 0:
            known = self.open.pop(key, None) is not None
        else:
            known = self.queued.pop(key, None) is not None
        if call.slot is not None:
            self.wheel.remove(call.slot, key)
            call.slot = None
        wire = call.wire if isinstance(call, UnaryCall) else call
        if wire is not None and wire.unsent_bytes:
            self.drop_unsent(wire)
        return known

    def finish(self, call: UnaryCall | CallStream, result: bytes | RpcError) -> None:
        """End a call from the server's side, or for want of one."""
        self.forget(call)
        if isinstance(call, UnaryCall):
            if call.done is not None:
                self.done.append((call, result))
        else:
            error = result if isinstance(result, RpcError) else None
            self.tell_stream(call, error, error.trailers if error is not None else ())
        self.touch()

    def tell_stream(self, stream: CallStream, error: RpcError | None, trailers: Metadata) -> None:
        """Tell a stream how it ended."""
        try:
            stream.ended(error, trailers)
        except Exception as problem:  # noqa: BLE001 - one call's bug must not end the others
            self.on_error(stream.path, problem)

    def was_sent(self, call: UnaryCall | CallStream) -> bool:
        """Whether the server may have begun to process a call that it has not answered."""
        if not 0 < call.stream_id <= self._flushed_id:
            return False
        # A unary method runs once its request is whole, and this one has not all left.
        return not (
            isinstance(call, UnaryCall) and call.wire is not None and call.wire.unsent_bytes
        )

    def sweep(self) -> None:
        """Tell callers how their calls ended."""
        done, self.done = self.done, []
        for call, result in done:
            tell = call.done
            if tell is not None:
                call.done = None
                try:
                    tell(result)
                except Exception as problem:  # noqa: BLE001 - one call's bug must not end the others
                    self.on_error("completion of a call", problem)

    @override
    def take_output(self) -> bytes:
        if self.done:
            self.feeding: bool = True
            self.sweep()
            self.feeding = False
        data = super().take_output()
        self._flushed_id = self.next_id - 2
        return data

    # Sending.

    @override
    def on_sent_all(self, stream: StreamState) -> None:
        stream.ending = False
        self.out.append(_pack_header(0, frames.FLAG_END_STREAM, stream.stream_id))

    @override
    def on_low_water(self, stream: StreamState) -> None:
        if isinstance(stream, CallStream) and stream.on_writable is not None:
            stream.on_writable()

    @override
    def on_overfull(self) -> None:
        """Leave it to the callers, who look at ``unsent_bytes``."""

    @override
    def hinder(self) -> None:
        blocked = self.is_paused or bool(self.ready)
        self._direct_bytes = (
            0
            if blocked
            else min(
                self.peer_window, self.peer_max_frame, self.limits.max_send_bytes + PREFIX_BYTES
            )
        )

    @override
    def open_states(self) -> Iterable[StreamState]:
        wires = [c.wire if isinstance(c, UnaryCall) else c for c in self.open.values()]
        return [wire for wire in wires if wire is not None]

    @property
    @override
    def busy(self) -> bool:
        return bool(self.open)

    def leave(self, error: RpcError) -> None:
        """Take no new calls, for the reason given; those that wait end with it."""
        if self.going_away is None:
            self.going_away = error
        queued = list(self.queued.items())
        self.queued.clear()
        for ticket, (call, _, _) in queued:
            if call.slot is not None:
                self.wheel.remove(call.slot, ticket)
                call.slot = None
            self.finish(call, error)
        self.touch()
