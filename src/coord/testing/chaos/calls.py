"""Calls to one member, each on a connection of its own: what a member says, not what a client makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from coord.rpc.channel import Channel
from coord.runtime import TcpAddress, real_env
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from coord.wire.methods import Rpc

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

_TIMEOUT_S = 2.0
# Longer than a member takes to refuse a change of membership that finds no quorum (7 s).
_CHANGE_TIMEOUT_S = 10.0


async def call(endpoint: str, rpc: Rpc[Q, A], request: Q, *, timeout: float = _TIMEOUT_S) -> A:
    """Call the member at ``host:port``, at most ``timeout`` seconds after connecting. Raises RpcError."""
    host, _, port = endpoint.rpartition(":")
    channel = Channel(TcpAddress(host, int(port)), env=real_env(), authority=endpoint)
    try:
        await channel.connect(timeout=timeout)
        answer = await channel.unary(rpc.path, request.SerializeToString(), timeout=timeout)
    finally:
        await channel.close()
    return rpc.response.FromString(answer)


async def status_of(endpoint: str, *, timeout: float = _TIMEOUT_S) -> rpc_pb2.StatusResponse:
    """Return what a member says about itself. Raises RpcError."""
    request = rpc_pb2.StatusRequest()
    return await call(endpoint, methods.MAINTENANCE_STATUS, request, timeout=timeout)


async def change(endpoint: str, rpc: Rpc[Q, A], request: Q) -> A:
    """Ask a member for a change of membership. Raises RpcError."""
    return await call(endpoint, rpc, request, timeout=_CHANGE_TIMEOUT_S)
