"""All calls of a server: how often each method was called, and which streams are open.

The figures bear the names of Go's gRPC middleware and cost one addition per call. A call counts as
handled with OK unless its handler refused it; a refusal that the log decides (an unknown lease, a
compacted revision) is not told apart from an OK here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.rpc.service import Method
from coord.rpc.status import RpcError, StatusCode
from coord.wire import methods as rpcs
from coord_server import errors
from coord_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coord.rpc.server_core import ServerConnection
    from coord.rpc.server_stream import ServerStream
    from coord.rpc.service import RequestHead, StreamHandler, UnaryHandler
    from coord_server.metrics import Labels, Metrics, Sample

_KINDS: Final = {
    rpc.path: ("bidi_stream" if rpc.client_streaming else "server_stream")
    for rpc in rpcs.ALL
    if rpc.server_streaming
}

# Go's names of the codes, as dashboards have them.
_CODES: Final = {
    code: "".join(word.capitalize() for word in code.name.split("_")) for code in StatusCode
} | {StatusCode.OK: "OK", StatusCode.CANCELLED: "Canceled"}

# Ended streams are forgotten once there are this many more than were open at the last look.
_SLACK: Final = 64


class _Count:
    """The figures of one method."""

    __slots__ = ("failed", "labels", "started")

    def __init__(self, method: Method) -> None:
        service, _, name = method.path[1:].partition("/")
        self.labels: Labels = (
            ("grpc_method", name),
            ("grpc_service", service),
            ("grpc_type", _KINDS.get(method.path, "unary")),
        )
        self.started = 0
        self.failed: dict[StatusCode, int] = {}

    def add_failure(self, code: StatusCode) -> None:
        """Count a call that was refused."""
        self.failed[code] = self.failed.get(code, 0) + 1

    def handled(self) -> Iterable[Sample]:
        """Return the calls by the code that they ended with."""
        refused = 0
        for code, count in sorted(self.failed.items()):
            refused += count
            yield (("grpc_code", _CODES[code]), *self.labels), float(count)
        yield (("grpc_code", "OK"), *self.labels), float(self.started - refused)


class Calls:
    """The methods of a server, each counting its calls; and an end for those that would not end.

    Watches, keepalives and waiting locks live until their client goes, so a server that stops must
    end them itself: ``stop`` does, and refuses new calls from then on.
    """

    def __init__(self, methods: Sequence[Method], metrics: Metrics) -> None:
        self._streams: dict[ServerStream, None] = {}
        self._look_at = _SLACK
        self._stopping = False
        counts = [_Count(method) for method in methods]
        metrics.samples(
            "grpc_server_started_total",
            "counter",
            "Total number of RPCs started on the server.",
            lambda: [(count.labels, float(count.started)) for count in counts],
        )
        metrics.samples(
            "grpc_server_handled_total",
            "counter",
            "Total number of RPCs completed on the server, regardless of success or failure.",
            lambda: [sample for count in counts for sample in count.handled()],
        )
        metrics.gauge(
            "coord_server_streams", "Streams that are open.", lambda: float(len(self._open()))
        )
        self.methods = [
            self._counted(method, count) for method, count in zip(methods, counts, strict=True)
        ]

    def stop(self) -> None:
        """End every stream with STOPPED; new calls get the same. Unary calls that run go on."""
        self._stopping = True
        for stream in self._open():
            stream.abort(errors.STOPPED.code, errors.STOPPED.message)
        self._streams.clear()

    def _open(self) -> list[ServerStream]:
        """Return the streams that have not ended; forget the others."""
        self._streams = {stream: None for stream in self._streams if not stream.has_ended}
        return list(self._streams)

    def _counted(self, method: Method, count: _Count) -> Method:
        if method.unary is not None:
            return Method(method.path, unary=self._unary(method.unary, count))
        if method.stream is not None:
            return Method(method.path, stream=self._stream(method.stream, count))
        return method

    def _unary(self, handler: UnaryHandler, count: _Count) -> UnaryHandler:
        def handle(
            connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
        ) -> bytes | None:
            count.started += 1
            try:
                if self._stopping:
                    raise Refused(errors.STOPPED)
                return handler(connection, stream_id, head, message)
            except RpcError as error:
                count.add_failure(error.code)
                raise

        return handle

    def _stream(self, handler: StreamHandler, count: _Count) -> StreamHandler:
        def handle(stream: ServerStream) -> None:
            count.started += 1
            try:
                if self._stopping:
                    raise Refused(errors.STOPPED)
                handler(stream)
            except RpcError as error:
                count.add_failure(error.code)
                raise
            self._streams[stream] = None
            if len(self._streams) >= self._look_at:
                self._look_at = 2 * len(self._open()) + _SLACK

        return handle
