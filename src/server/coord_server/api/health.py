"""``grpc.health.v1.Health``: the standard probe of gRPC load balancers.

One service name is known, the empty one: the server as a whole, which serves for as long as it answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.rpc.service import Method
from coord.rpc.status import RpcError, StatusCode
from coord.wire import health_pb2
from coord.wire import methods as rpcs
from coord_server.api.context import parse, parse_streamed

if TYPE_CHECKING:
    from coord.rpc.server_core import ServerConnection
    from coord.rpc.server_stream import ServerStream
    from coord.rpc.service import RequestHead
    from coord_server.api.context import ApiContext

_STATUS = health_pb2.HealthCheckResponse.ServingStatus
_SERVING = health_pb2.HealthCheckResponse(status=_STATUS.SERVING).SerializeToString()
_STRANGER = health_pb2.HealthCheckResponse(status=_STATUS.SERVICE_UNKNOWN).SerializeToString()


def _check(
    _connection: ServerConnection, _stream_id: int, _head: RequestHead, message: bytes
) -> bytes:
    if parse(health_pb2.HealthCheckRequest, message).service:
        raise RpcError(StatusCode.NOT_FOUND, "unknown service")
    return _SERVING


def _watch(stream: ServerStream) -> None:
    def on_message(message: bytes) -> None:
        try:
            request = parse_streamed(health_pb2.HealthCheckRequest, message)
        except RpcError as error:
            stream.finish(error.code, error.message)
            return
        # Stays open: the status of a live server does not change, its end ends the stream.
        stream.send(_STRANGER if request.service else _SERVING)

    stream.on_message = on_message
    stream.on_half_close = _nothing
    stream.on_closed = _nothing


def _nothing() -> None:
    return


def methods(_context: ApiContext) -> list[Method]:
    """Return the methods of the service."""
    return [
        Method(rpcs.HEALTH_CHECK.path, unary=_check),
        Method(rpcs.HEALTH_WATCH.path, stream=_watch),
    ]
