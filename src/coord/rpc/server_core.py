"""The server's end of a connection, without I/O.

A unary call whose request comes in one DATA frame costs a look-up or two, one call of its method
and one answer; no object is made for it. While only its HEADERS are there it is what they mean, and
when it is answered later it is a number, in a dict. Everything else (requests in pieces, streams,
answers beyond the windows) has objects.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from typing_extensions import override

from coord.rpc import frames
from coord.rpc.answers import AnsweringConnection
from coord.rpc.connection import DRAIN_PING, Budget
from coord.rpc.faults import ConnectionFault, StreamFault
from coord.rpc.frames import ErrorCode, Setting
from coord.rpc.hpack import HeaderListTooLarge, HpackError
from coord.rpc.limits import SERVER_LIMITS, Limits
from coord.rpc.messages import PREFIX_BYTES
from coord.rpc.patience import PingPolicy
from coord.rpc.requests import Headers, MalformedRequest, Opening, Refusal, RequestReader
from coord.rpc.sending import StreamState
from coord.rpc.server_stream import ServerStream, UnaryRequest, missing_request
from coord.rpc.service import Method, PeerInfo, Registry, RequestHead
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Spawn(Protocol):
    """Starts a task that somebody owns, as ``Supervisor.spawn`` does."""

    def __call__(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start the coroutine."""
        ...


_read_header: Final = struct.Struct(">IBI").unpack_from
# A DATA frame's header and the prefix of the message that begins in it.
_read_data: Final = struct.Struct(">IBIBI").unpack_from
_read_prefix: Final = struct.Struct(">BI").unpack_from

# Header blocks whose meaning is kept, per connection, and the longest worth keeping.
_MAX_CACHED: Final = 256
_MAX_CACHED_BYTES: Final = 1024
# How many frames may wait for a transport that does not get rid of them: answers to pings and
# settings, resets, headers. Payload waits elsewhere and is bounded in bytes.
_MAX_WAITING_FRAMES: Final = 20_000
# A drain that is not acknowledged goes on after this.
_DRAIN_ACK_S: Final = 1.0

_MALFORMED: Final = Opening(
    None,
    RequestHead("", "", (), None, {}),
    Method(""),
    Refusal(0, RpcError(StatusCode.INTERNAL, "malformed request")),
)


def _report_nothing(what: str, error: BaseException) -> None:
    """Stand in for an owner who does not want to know."""


class ServerConnection(AnsweringConnection):
    """One accepted connection; where the answers of its unary calls go.

    ``clock`` returns monotonic seconds. ``wake(self)`` is called when output has appeared outside
    of ``feed`` and was not taken since. ``spawn`` starts the tasks of async methods.
    ``on_error(what, error)`` hears of handlers that raise anything but RpcError; their calls end
    with UNKNOWN.
    """

    # Of its bases, and changed here.
    ungiven: int
    final_id: int | None

    def __init__(
        self,
        registry: Registry,
        *,
        limits: Limits = SERVER_LIMITS,
        clock: Callable[[], float],
        wake: Callable[[ServerConnection], None],
        peer: PeerInfo,
        spawn: Spawn,
        on_error: Callable[[str, BaseException], None] = _report_nothing,
    ) -> None:
        self.peer = peer
        self.spawn = spawn
        self._wake = wake
        self._on_error = on_error
        self._pings = PingPolicy(limits)
        self._requests = RequestReader(registry)
        self._cache: dict[bytes, Opening] = {}
        self._last_id = 0
        self._greeted = 0  # bytes of the preface that have come
        self._payload_at_ping: int = 0
        self._drain_at = math.inf  # GOAWAY was announced and takes effect by then
        self._resets = Budget(limits.max_resets, limits.budget_window_s)
        super().__init__(limits, clock)
        self._max_direct_request = min(
            limits.max_receive_bytes, self.stream_window - PREFIX_BYTES, self.window_step
        )

    # Input.

    @override
    def parse(self, data: bytes) -> int:
        size = len(data)
        pos = 0 if self._greeted == 24 else self._greet(data)
        open_ = self.open
        max_message = self._max_direct_request
        while size - pos >= 9:
            word, flags, stream_id = _read_header(data, pos)
            start = pos + 9
            end = start + (word >> 8)
            if word > 0x4000FF:  # longer than the 16,384 bytes that we allow
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame too large")
            if end > size:
                break
            if (
                word & 0xFF == 1
                and flags == 4
                and self.plain
                and self._last_id < stream_id <= 0x7FFFFFFF
                and stream_id & 1
                and not self.block_stream
            ):
                block = data[start:end]
                opening = self._cache.get(block) or self._decode(block)
                pos = end
                if opening.unary is None or len(open_) >= self.limits.max_concurrent_streams:
                    self._open_stream(stream_id, opening, ends_stream=False)
                    if self.wants_close:
                        return size
                    continue
                self._last_id = stream_id
                open_[stream_id] = opening
                if size - end < 14:
                    continue
                word, flags, next_id, flag, length = _read_data(data, end)
                stop = end + 14 + length
                if (
                    word == length + 5 << 8  # all of one DATA frame, and nothing else
                    and flags == 1
                    and next_id == stream_id
                    and not flag
                    and length <= max_message
                    and stop <= size
                ):
                    pos = stop
                    self._call(stream_id, opening, data[end + 14 : stop])
                continue
            pos = end
            if (
                word & 0xFF == 0
                and flags == 1
                and type(state := open_.get(stream_id)) is Opening
                and 5 <= end - start <= max_message + 5
                and not self.block_stream
                and _read_prefix(data, start) == (0, end - start - 5)
            ):  # the same, with other frames in between
                self._call(stream_id, state, data[start + 5 : end])
                continue
            self.on_frame(word & 0xFF, flags, stream_id & 0x7FFFFFFF, data[start:end])
            if self.wants_close:
                return size
        if self.is_paused and len(self.out) > _MAX_WAITING_FRAMES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")
        return pos

    def _call(self, stream_id: int, opening: Opening, message: bytes) -> None:
        """Run a unary method on a request that came in one DATA frame, which ended it."""
        unary, head, _, _ = opening
        self.ungiven += len(message) + PREFIX_BYTES
        if self.ungiven >= self.window_step:
            self.take_in(0)
        self.open[stream_id] = 0
        if unary is None:
            return
        try:
            answer = unary(self, stream_id, head, message)
        except Exception as error:  # noqa: BLE001 - one call must not end the others
            self._raised(stream_id, head, error)
        else:
            if answer is not None:
                self.respond(stream_id, answer)

    def _greet(self, data: bytes) -> int:
        """Look for the preface at the start of all data; return where frames begin."""
        seen = self._greeted
        part = data[: 24 - seen]
        if part != frames.PREFACE[seen : seen + len(part)]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "bad preface")
        self._greeted += len(part)
        return len(part)

    def _decode_headers(self, block: bytes) -> Headers | None:
        """Decode a block; None if the list is too large. The cache dies with the table it knew."""
        decoder = self.decoder
        generation = decoder.generation
        try:
            return decoder.decode(block)
        except HeaderListTooLarge:
            return None
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        finally:
            if decoder.generation != generation and self._cache:
                self._cache.clear()

    def _decode(self, block: bytes) -> Opening:
        """Return what a request's header block means, and keep it if the table stands still."""
        generation = self.decoder.generation
        headers = self._decode_headers(block)
        if headers is None:
            limit = self.limits.max_header_list_bytes
            text = f"received metadata size exceeds limit of {limit} bytes"
            refusal = Refusal(431, RpcError(StatusCode.RESOURCE_EXHAUSTED, text))
            return _MALFORMED._replace(refusal=refusal)
        try:
            opening = self._requests.read(headers)
        except MalformedRequest:
            opening = _MALFORMED
        if self.decoder.generation == generation and len(block) <= _MAX_CACHED_BYTES:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[block] = opening
        return opening

    @override
    def whole(self, data: bytes, pos: int) -> int:
        return super().whole(data, pos) if self._greeted else len(frames.PREFACE)

    @override
    def on_block(self, stream_id: int, block: bytes, *, ends_stream: bool) -> None:
        state = self.open.get(stream_id)
        if state is None and stream_id > self._last_id:
            if not stream_id & 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "even stream id")
            opening = self._cache.get(block) or self._decode(block)
            self._open_stream(stream_id, opening, ends_stream=ends_stream)
            return
        headers = self._decode_headers(block) or []
        if any(name[:1] == b":" for name, _ in headers):
            code = ErrorCode.PROTOCOL_ERROR if state is None else ErrorCode.STREAM_CLOSED
            raise ConnectionFault(code, "request on a stream that was used before")
        if state is None:
            return  # trailers that were on their way when we ended the stream
        if not ends_stream:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
        # A gRPC client sends no trailers; as HTTP they end the request like an empty frame.
        self.on_data(stream_id, b"", 0, ends_stream=True)

    def _open_stream(self, stream_id: int, opening: Opening, *, ends_stream: bool) -> None:
        """Begin a call whose request is not there in one piece, or not answered by a method."""
        self._last_id = stream_id
        overfull = self.unsent_bytes > self.limits.max_buffered_bytes
        if (
            overfull
            or self.final_id is not None
            or len(self.open) >= self.limits.max_concurrent_streams
        ):
            self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            return
        _, head, method, refusal = opening
        if refusal is not None:
            self._refuse(stream_id, refusal, ends_stream=ends_stream)
            return
        if method.stream is None:
            self.open[stream_id] = opening
            if ends_stream:
                error = missing_request()
                self.fail(stream_id, error.code, error.message)
            return
        stream = ServerStream(self, stream_id, head)
        self.open[stream_id] = stream
        if head.timeout_s is not None:
            when = self.clock() + head.timeout_s
            stream.deadline_slot = self.add_deadline(when, stream_id)
        try:
            method.stream(stream)
            if ends_stream:
                stream.on_payload(b"", 0, ends_stream=True)
        except Exception as error:  # noqa: BLE001 - one call must not end the others
            self._raised(stream_id, head, error)

    def _refuse(self, stream_id: int, refusal: Refusal, *, ends_stream: bool) -> None:
        if not refusal.http_status:
            self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR))
            return
        error = refusal.error
        block = self.replies.only_trailers(
            error.code, error.message, error.trailers,
            http=refusal.http_status, extra=refusal.extra,
        )  # fmt: skip
        self.put_headers(stream_id, block, ends_stream=True)
        if not ends_stream:
            self.out.append(frames.pack_rst_stream(stream_id, ErrorCode.NO_ERROR))

    def _raised(self, stream_id: int, head: RequestHead, error: Exception) -> None:
        """End the call of a handler that raised: RpcError is an answer, anything else a bug."""
        state = self.open.get(stream_id)
        if isinstance(error, RpcError):
            try:
                if isinstance(state, ServerStream):
                    state.abort(error.code, error.message, error.trailers)
                else:
                    self.fail(stream_id, error.code, error.message, error.trailers)
            except ValueError as problem:  # its trailers cannot be sent
                error = problem
            else:
                return
        self._on_error(head.path, error)
        text = f"unexpected error in {head.path}"
        if isinstance(state, ServerStream):
            state.abort(StatusCode.UNKNOWN, text)
        else:
            self.fail(stream_id, StatusCode.UNKNOWN, text)

    @override
    def on_data(self, stream_id: int, payload: bytes, size: int, *, ends_stream: bool) -> None:
        state = self.open.get(stream_id)
        if state is None:
            return  # it was on its way when the stream ended
        if isinstance(state, Opening):
            state = self.open[stream_id] = UnaryRequest(self, stream_id, state)
        if isinstance(state, UnaryRequest):
            self._on_request_data(state, payload, size, ends_stream=ends_stream)
        elif isinstance(state, ServerStream) and not state.half_closed:
            if state.has_ended:  # what is unsent still has to leave, nobody reads any more
                state.half_closed = ends_stream
                return
            try:
                state.on_payload(payload, size, ends_stream=ends_stream)
            except (StreamFault, ConnectionFault):
                raise
            except Exception as error:  # noqa: BLE001 - one call must not end the others
                self._raised(stream_id, state.head, error)
        else:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED)

    def _on_request_data(
        self, request: UnaryRequest, payload: bytes, size: int, *, ends_stream: bool
    ) -> None:
        stream_id = request.stream_id
        try:
            request.on_payload(self, payload, size, ends_stream=ends_stream)
        except RpcError as error:
            self._fail_request(request, error, half_closed=ends_stream)
            return
        if not ends_stream:
            return
        self.hold(request, 0)
        unary, head, _, _ = request.opening
        self.open[stream_id] = request.window - self.peer_window
        if unary is None:
            return
        try:
            answer = unary(self, stream_id, head, request.messages[0])
        except Exception as error:  # noqa: BLE001 - one call must not end the others
            self._raised(stream_id, head, error)
        else:
            if answer is not None:
                self.respond(stream_id, answer)

    def _fail_request(self, request: UnaryRequest, error: RpcError, *, half_closed: bool) -> None:
        if half_closed:  # then there is nothing to tell the client to stop
            self.hold(request, 0)
            self.open[request.stream_id] = 0
        self.fail(request.stream_id, error.code, error.message)

    @override
    def on_window_update(self, stream_id: int, increment: int) -> None:
        state = self.open.get(stream_id)
        if isinstance(state, Opening):
            state = self.open[stream_id] = UnaryRequest(self, stream_id, state)
        if isinstance(state, StreamState):
            self.widen_stream(state, increment)
        elif state is not None:
            if not increment:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
            if self.peer_window + state + increment > frames.MAX_WINDOW:
                raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
            self.open[stream_id] = state + increment

    @override
    def on_reset(self, stream_id: int, code: int) -> None:
        state = self.open.pop(stream_id, None)
        if state is None:
            return
        self._forget(state)
        self._resets.spend(self.clock, "too many streams were reset")

    def _forget(self, state: int | Opening | StreamState) -> None:
        """Release a call that will get no answer any more."""
        if isinstance(state, StreamState):
            self.drop_unsent(state)
            self.hold(state, 0)
            if isinstance(state, ServerStream):
                state.ended()
        self.hinder()

    @override
    def reset_stream(self, stream_id: int, code: int) -> None:
        self.out.append(frames.pack_rst_stream(stream_id, code))
        state = self.open.pop(stream_id, None)
        if state is not None:
            self._forget(state)
            # A peer that makes us reset its calls costs as much as one that resets them itself.
            self._resets.spend(self.clock, "too many streams were reset")
        self.touch()

    @override
    def on_deadline(self, stream_id: int) -> None:
        state = self.open.get(stream_id)
        if isinstance(state, ServerStream):
            state.deadline_slot = None
            state.abort(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded")

    # The connection's own affairs.

    @override
    def on_setting(self, key: int, value: int) -> None:
        if key == Setting.HEADER_TABLE_SIZE:
            self.replies.set_limit(value)
        elif key == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "bad ENABLE_PUSH")

    @override
    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Take note of nothing: the client closes when its calls have ended."""

    @override
    def on_ping_asked(self) -> None:
        # Queued payload that a window let go counts like any other: grpc-go measures its bandwidth with
        # pings while a long answer arrives.
        forgiven = self.pings_forgiven or self.payload_left != self._payload_at_ping
        self.pings_forgiven = False
        self._payload_at_ping = self.payload_left
        if not forgiven:
            self.ping_budget.spend(self.clock, "too_many_pings")
        self._pings.judge(self.clock(), forgiven=forgiven, busy=self.busy)

    def shutdown(self) -> None:
        """Drain: tell the client to go elsewhere, end what runs, then want to be closed."""
        if self._drain_at < math.inf or self.final_id is not None or self.wants_close:
            return
        # Two steps (RFC 9113 section 6.8): calls that are on their way now are still taken.
        self.out.append(frames.pack_goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))
        self.out.append(frames.pack_ping(False, DRAIN_PING))  # noqa: FBT003 - the wire's flag
        self._drain_at = self.clock() + _DRAIN_ACK_S
        self.retime()
        if not self.settled:
            self._drain()
        self.touch()

    def _drain(self) -> None:
        self._drain_at = math.inf
        self.final_id = self._last_id
        self.out.append(frames.pack_goaway(self._last_id, ErrorCode.NO_ERROR))
        self.hinder()
        self.touch()

    @override
    def on_pong(self, data: bytes) -> None:
        if data == DRAIN_PING and self._drain_at < math.inf:
            self._drain()

    @property
    def is_drained(self) -> bool:
        """Whether a drain has come to its end: nothing runs, nothing new is taken."""
        return self.final_id is not None and not self.open

    @override
    def next_own_timer(self) -> float:
        return min(self._drain_at, self.stall.due_at)

    @override
    def on_own_timer(self, now: float) -> None:
        if now >= self._drain_at:
            self._drain()
        self.stall.judge(now, self.unsent_bytes, self.payload_left)

    @override
    def on_end(self, fault: ConnectionFault | None) -> None:
        states = list(self.open.values())
        self.open.clear()
        for state in states:
            if isinstance(state, ServerStream):
                state.ended()

    @property
    @override
    def last_peer_stream(self) -> int:
        return self._last_id

    @override
    def is_idle_stream(self, stream_id: int) -> bool:
        return stream_id > self._last_id or not stream_id & 1

    @override
    def call_shell(self) -> None:
        self._wake(self)
