# ruff: noqa: ANN401 - grpcio is untyped, and options are those of the messages
"""A whole server in this process, and a client of another make (grpcio) to talk to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from coord.runtime import TcpAddress, real_env
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from coord.wire.methods import Rpc
from coord_server.config import Config
from coord_server.embed import start_embedded
from coord_server.flag_values import Url

if TYPE_CHECKING:
    from coord.runtime import Clock

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


def _encode(message: Message) -> bytes:
    return message.SerializeToString()


LOOPBACK = (Url(scheme="http", host="127.0.0.1", port=0),)


class JumpingClock:
    """The real clock, and a way to let any time pass at once."""

    def __init__(self, real: Clock) -> None:
        self._real = real
        self.jumped = 0.0

    def mono(self) -> float:
        return self._real.mono() + self.jumped

    def wall(self) -> float:
        return self._real.wall() + self.jumped


class Call:
    """One streaming call of grpcio, with messages as objects."""

    def __init__(self, call: Any) -> None:
        self.grpc = call

    async def send(self, message: Message) -> None:
        await self.grpc.write(message)

    async def receive(self) -> Any:
        """Return the next message, or grpcio's mark of the end."""
        return await self.grpc.read()

    async def ended(self) -> bool:
        """Tell whether the server has ended the call with OK; a message would be lost."""
        return not isinstance(await self.grpc.read(), Message)

    async def half_close(self) -> None:
        await self.grpc.done_writing()

    def cancel(self) -> None:
        self.grpc.cancel()


class WatchCall(Call):
    """A Watch call, with its requests as methods."""

    async def create(self, key: bytes, end: bytes = b"", **options: Any) -> None:
        request = rpc_pb2.WatchCreateRequest(key=key, range_end=end, **options)
        await self.send(rpc_pb2.WatchRequest(create_request=request))

    async def created(self, key: bytes, end: bytes = b"", **options: Any) -> int:
        """Create a watcher and return its id."""
        await self.create(key, end, **options)
        answer = await self.response()
        assert answer.created
        assert not answer.canceled
        assert not answer.events
        return answer.watch_id

    async def cancel_watcher(self, watch_id: int) -> None:
        request = rpc_pb2.WatchCancelRequest(watch_id=watch_id)
        await self.send(rpc_pb2.WatchRequest(cancel_request=request))

    async def ask_progress(self) -> None:
        request = rpc_pb2.WatchProgressRequest()
        await self.send(rpc_pb2.WatchRequest(progress_request=request))

    async def response(self) -> rpc_pb2.WatchResponse:
        return cast("rpc_pb2.WatchResponse", await self.receive())


@dataclass
class Endpoint:
    """A server and one channel to it."""

    server: Any
    channel: Any  # of grpcio, which is untyped
    clock: JumpingClock

    async def call(self, rpc: Rpc[Q, R], request: Q, **options: Any) -> R:
        return cast("R", await self.start(rpc, request, **options))

    def start(self, rpc: Rpc[Q, R], request: Q, **options: Any) -> Any:
        """Return the call itself, which can be awaited and cancelled."""
        multi = self.channel.unary_unary(
            rpc.path,
            request_serializer=_encode,
            response_deserializer=rpc.response.FromString,
        )
        return multi(request, **options)

    def stream(self, rpc: Rpc[Any, Any], **options: Any) -> Call:
        return Call(self._stream(rpc, **options))

    def watch(self, **options: Any) -> WatchCall:
        return WatchCall(self._stream(rpcs.WATCH_WATCH, **options))

    def _stream(self, rpc: Rpc[Any, Any], **options: Any) -> Any:
        multi = self.channel.stream_stream(
            rpc.path,
            request_serializer=_encode,
            response_deserializer=rpc.response.FromString,
        )
        return multi(**options)

    async def put(self, key: bytes, value: bytes = b"v", **options: Any) -> int:
        """Put a key; return the revision."""
        answer = await self.call(rpcs.KV_PUT, rpc_pb2.PutRequest(key=key, value=value, **options))
        return answer.header.revision

    async def delete(self, key: bytes, end: bytes = b"") -> int:
        """Delete a range; return the revision."""
        answer = await self.call(
            rpcs.KV_DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=key, range_end=end)
        )
        return answer.header.revision

    async def keys(self, prefix: bytes) -> list[bytes]:
        """Return the keys under a prefix."""
        end = prefix[:-1] + bytes((prefix[-1] + 1,))
        answer = await self.call(
            rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=prefix, range_end=end, keys_only=True)
        )
        return [pair.key for pair in answer.kvs]

    async def grant(self, ttl: int, lease_id: int = 0) -> int:
        """Grant a lease; return its id."""
        answer = await self.call(rpcs.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease_id))
        return answer.ID

    async def revoke(self, lease_id: int) -> int:
        """Revoke a lease; return the revision."""
        answer = await self.call(rpcs.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease_id))
        return answer.header.revision

    async def compact(self, revision: int) -> None:
        await self.call(rpcs.KV_COMPACT, rpc_pb2.CompactionRequest(revision=revision))


@asynccontextmanager
async def serving(**settings: Any) -> AsyncGenerator[Endpoint, None]:
    """Run a server in memory, on a free loopback port, with a client connected to it."""
    real = real_env()
    clock = JumpingClock(real.clock)
    config = replace(Config(name="test", listen_client_urls=LOOPBACK), **settings)
    server = await start_embedded(net=real.net, env=replace(real, clock=clock), config=config)
    try:
        address = server.client_addresses[0]
        assert isinstance(address, TcpAddress)
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{address.port}", options) as channel:
            yield Endpoint(server, channel, clock)
    finally:
        await server.stop()


def error_of(error: grpc.aio.AioRpcError) -> tuple[str, str | None]:
    """Return the code's name and the text."""
    return error.code().name, error.details()
