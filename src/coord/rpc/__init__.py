"""gRPC over HTTP/2, both ends, without a foreign core.

The problem: a coordination service is made of very many very small calls, and what a general
gRPC stack spends on each of them is thirty times what the call itself costs. So the protocol is
ours, and short where calls are short.

The vocabulary. A *core* (``ServerConnection``, ``ClientConnection``) is the protocol of one
connection as a plain object: bytes in by ``feed``, bytes out by ``take_output``, time by
``on_timer``; it knows no socket, loop or clock. A *shell* (``RpcServer``, ``Channel``) puts cores
on asyncio and writes once per loop turn and connection. A *method* is what a path stands for: a
plain function called from the parser (``unary``), callbacks on a ``ServerStream``, or a coroutine
(``async_unary``, ``async_stream``). A *head* is what came with a request besides its message.

The invariants. Input may be split anywhere without a difference. Everything a peer can make us
hold or do is bounded, by ``Limits``. A unary call is answered once or its stream is gone. On the
client, ``done`` of a call is called exactly once unless the call was cancelled, and
``RpcError.sent`` is False only if the server has provably not processed the request.

Left out: message compression, push, priorities, reconnecting and retries (the transport above
decides those), and requests over HTTP/2 that are not gRPC.
"""

from coord.rpc.async_calls import AsyncCall, async_stream, async_unary
from coord.rpc.calls import UnaryCall
from coord.rpc.channel import Channel, ClientStream
from coord.rpc.client_core import ClientConnection
from coord.rpc.http1_messages import Http1Limits, Http1Request, Http1Response
from coord.rpc.limits import CLIENT_LIMITS, SERVER_LIMITS, Limits
from coord.rpc.memory import MemoryNet
from coord.rpc.metadata import Metadata
from coord.rpc.server import RpcServer
from coord.rpc.server_core import ServerConnection
from coord.rpc.server_stream import ServerStream
from coord.rpc.service import (
    Method,
    PeerInfo,
    Registry,
    RequestHead,
    Responder,
    StreamHandler,
    UnaryHandler,
)
from coord.rpc.status import RpcError, StatusCode

__all__ = [
    "CLIENT_LIMITS",
    "SERVER_LIMITS",
    "AsyncCall",
    "Channel",
    "ClientConnection",
    "ClientStream",
    "Http1Limits",
    "Http1Request",
    "Http1Response",
    "Limits",
    "MemoryNet",
    "Metadata",
    "Method",
    "PeerInfo",
    "Registry",
    "RequestHead",
    "Responder",
    "RpcError",
    "RpcServer",
    "ServerConnection",
    "ServerStream",
    "StatusCode",
    "StreamHandler",
    "UnaryCall",
    "UnaryHandler",
    "async_stream",
    "async_unary",
]
