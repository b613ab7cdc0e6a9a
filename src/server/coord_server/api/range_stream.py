"""RangeStream: a range of any size in messages of a few, all at one revision.

The chunk size adapts: it doubles while messages stay small and halves when one grows beyond twice the
request limit. The next chunk is read only when the last has left for the most part, so a slow client
costs one chunk of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.rpc.status import RpcError
from coord.wire import rpc_pb2
from coord_server.api import validate
from coord_server.api.context import parse_streamed
from coord_server.errors import Refused

if TYPE_CHECKING:
    from coord.rpc.server_stream import ServerStream
    from coord_server.api.context import ApiContext
    from coord_server.errors import ErrorSpec

_FIRST_CHUNK: Final = 10
# What may wait in the connection before the next chunk is read.
_UNSENT_BOUND: Final = 256 * 1024


class RangeStream:
    """One call of the method."""

    def __init__(self, context: ApiContext, stream: ServerStream) -> None:
        self._context = context
        self._stream = stream
        self._request = rpc_pb2.RangeRequest()
        self._started = False
        self._done = False
        self._pumping = False
        # Set by the first chunk.
        self._header = b""
        self._count = 0
        self._sent = 0
        self._chunk = _FIRST_CHUNK

    def start(self) -> None:
        """Take the stream's callbacks; the request is its only message."""
        stream = self._stream
        stream.on_message = self._on_message
        stream.on_half_close = _nothing
        stream.on_closed = self._on_closed
        stream.on_writable = self._pump
        try:
            self._context.check_stream_head(stream.head)
        except RpcError as error:
            self._fail(error)

    def _on_message(self, message: bytes) -> None:
        if self._started or self._done:
            return
        self._started = True
        try:
            self._request = parse_streamed(rpc_pb2.RangeRequest, message)
            problem = validate.validate_range_stream(self._request)
            if problem is not None:
                raise Refused(problem)
        except RpcError as error:
            self._fail(error)
            return
        replica = self._context.replica
        if self._request.serializable or replica.read_ready():
            self._pump()
        else:
            replica.when_readable(self._pump, self._refuse)

    def _on_closed(self) -> None:
        self._done = True

    def _refuse(self, spec: ErrorSpec) -> None:
        self._fail(Refused(spec))

    def _fail(self, error: RpcError) -> None:
        if not self._done:
            self._done = True
            self._stream.finish(error.code, error.message)

    def _pump(self) -> None:
        """Send chunks until the range ends or the client does not keep up."""
        if self._pumping or not self._started:
            return
        self._pumping = True
        try:
            while not self._done and self._stream.unsent_bytes <= _UNSENT_BOUND:
                self._send_chunk()
        except RpcError as error:
            self._fail(error)
        finally:
            self._pumping = False

    def _send_chunk(self) -> None:
        request = self._request
        first = not self._header
        if first:
            if request.count_only:
                self._send_last(rpc_pb2.RangeResponse(), self._context.header(), request)
                return
            if request.revision <= 0:
                # The first chunk pins the revision: later writes are not seen.
                request.revision = self._context.store.revision
        left = request.limit - self._sent if request.limit > 0 else self._chunk
        part = rpc_pb2.RangeRequest()
        part.CopyFrom(request)
        part.limit = min(self._chunk, left)
        answer = rpc_pb2.RangeResponse.FromString(self._context.store.range_body(part))
        if first:
            self._header = self._context.header()
            self._count = answer.count
        self._sent += len(answer.kvs)
        at_limit = request.limit > 0 and self._sent >= request.limit
        if at_limit or not answer.more:
            last = rpc_pb2.RangeResponse(kvs=answer.kvs, more=answer.more, count=self._count)
            self._finish(last)
            return
        message = rpc_pb2.RangeStreamResponse(
            range_response=rpc_pb2.RangeResponse(kvs=answer.kvs)
        ).SerializeToString()
        self._stream.send(message)
        request.key = answer.kvs[-1].key + b"\0"
        self._adapt(len(message))

    def _send_last(
        self, answer: rpc_pb2.RangeResponse, header: bytes, request: rpc_pb2.RangeRequest
    ) -> None:
        answer.MergeFromString(self._context.store.range_body(request))
        self._header = header
        self._finish(answer)

    def _finish(self, answer: rpc_pb2.RangeResponse) -> None:
        answer.MergeFromString(self._header)
        message = rpc_pb2.RangeStreamResponse(range_response=answer).SerializeToString()
        self._done = True
        self._stream.send(message)
        self._stream.finish()

    def _adapt(self, size: int) -> None:
        limit = self._context.config.max_request_bytes
        if size < limit // 2:
            self._chunk *= 2
        elif size > 2 * limit:
            self._chunk = max(1, self._chunk // 2)


def _nothing() -> None:
    return
