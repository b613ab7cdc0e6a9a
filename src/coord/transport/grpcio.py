"""The carrier over the gRPC library, for those who need its proxies and credentials.

One channel per endpoint; gRPC connects, reconnects and pings, we choose the endpoint.
gRPC reads certificates when a channel is made, so an endpoint without a connection gets another channel when their
files have changed; what it reconnects by itself before, it does with the old ones.
gRPC does not tell whether a request that failed had left, so ``sent`` is True unless its words say that there was no
connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from coord._telemetry import observed_stream
from coord.errors import InvalidArgument
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import Supervisor, UnixAddress, read_bytes
from coord.transport.reloading import Reloading, context_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.metadata import Metadata
    from coord.runtime import Address, Env
    from coord.target import Endpoint, TlsConfig
    from coord.transport.base import Cancellable, MessageStream

_STAGGER_S = 0.25
# How long another endpoint may take to answer before the one to avoid is taken nevertheless.
_AVOID_PATIENCE_S = 1.0
_SUSPICION_S = 5.0  # as in the native transport
# How often files are looked at while nothing can be reached.
_FILES_LOOKED_AT_S = 1.0
_RETIRE_GRACE_S = 30.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    # Channels with equal arguments would share a connection over clients, and one client's close would cut both.
    ("grpc.use_local_subchannel_pool", 1),
)
# What gRPC says when a call never had a connection.
_NEVER_SENT = ("failed to connect", "connection refused", "dns resolution failed", "no such file")

# What it makes up for a stream whose connection was gone at a write, instead of what became of the stream.
_LOST_AT_A_WRITE = "Internal error from Core"


class _Peer:
    channel: grpc.aio.Channel
    credentials: grpc.ChannelCredentials | None

    def __init__(self, endpoint: Endpoint, server_name: str | None) -> None:
        self.name = endpoint.text
        self.address = endpoint.address
        self._endpoint = endpoint
        self._server_name = server_name

    def open(self, credentials: grpc.ChannelCredentials | None) -> None:
        """Make a channel, without TLS if there are no credentials."""
        self.credentials = credentials
        self.channel = _channel(self._endpoint, credentials, self._server_name)


class _Started:
    """A unary call in a task, which its caller may give up."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.given_up = False

    def cancel(self) -> None:
        self.given_up = True
        self.task.cancel()


class GrpcioStream:
    """A stream of gRPC. Its one sender task keeps the order of messages."""

    def __init__(self, call: Any, endpoint: str, supervisor: Supervisor) -> None:  # noqa: ANN401 - grpc's calls are generic in untyped ways
        self.endpoint = endpoint
        self._call = call
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._sender = supervisor.spawn(self._send_all(), name="grpcio-stream")

    def send(self, message: bytes) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._outbox.put_nowait(message)

    def half_close(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._outbox.put_nowait(None)

    async def _send_all(self) -> None:
        try:
            while (message := await self._outbox.get()) is not None:
                await self._call.write(message)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader is told

    async def receive(self) -> bytes | None:
        """See :class:`coord.transport.MessageStream`."""
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            raise _error(error) from error
        except asyncio.CancelledError:
            # gRPC raises this too when the call was cancelled by ourselves, which is not the reader's cancellation.
            if self._call.cancelled() and not _is_cancelling():
                raise RpcError(StatusCode.CANCELLED, "the stream was cancelled") from None
            raise
        if message is grpc.aio.EOF:
            self._sender.cancel()
            return None
        received: bytes = message
        return received

    def cancel(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._sender.cancel()
        self._call.cancel()

    def distrust(self) -> None:
        """See :class:`coord.transport.MessageStream`: there is nobody here to be trusted."""


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class GrpcioTransport:
    """See :class:`coord.transport.Transport`. Raises :class:`InvalidArgument` for TLS settings gRPC cannot do."""

    def __init__(
        self, endpoints: tuple[Endpoint, ...], env: Env, *, tls: TlsConfig | None = None
    ) -> None:
        self._env = env
        self._tls = Reloading(tls, env, _credentials) if tls is not None else None
        self._peers = [_Peer(e, tls.server_name if tls else None) for e in endpoints]
        for peer in self._peers:
            peer.open(self._tls.current if self._tls is not None else None)
        self._retired: dict[grpc.aio.Channel, None] = {}
        self._first = int(env.rand.uniform(0, len(endpoints))) % len(endpoints)
        self._supervisor = Supervisor(self._broken)
        self._suspect: str | None = None
        self._suspect_until = 0.0
        self.closed: bool = False

    @property
    def endpoints(self) -> tuple[str, ...]:
        """See :class:`coord.transport.Transport`."""
        return tuple([peer.name for peer in self._peers])

    @property
    def current(self) -> Address | None:
        """See :class:`coord.transport.Transport`; the one that comes first, since gRPC connects as it likes."""
        return self._peers[self._first].address

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float,
        metadata: Metadata = (),
    ) -> Cancellable:
        """See :class:`coord.transport.Transport`."""

        async def run() -> None:
            sent = False
            outcome: bytes | RpcError
            deadline = self._env.clock.mono() + timeout
            try:
                peer = await self._ready(timeout, None)
                sent = True
                outcome = await self._unary_on(peer, path, request, deadline, metadata)
            except RpcError as error:
                outcome = error
            except asyncio.CancelledError:
                if started.given_up or not self.closed:
                    raise
                outcome = RpcError(StatusCode.CANCELLED, "the client is closed", sent=sent)
            done(outcome)

        started = _Started()
        started.task = self._supervisor.spawn(run(), name=path)
        return started

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        """See :class:`coord.transport.Transport`."""
        deadline = self._env.clock.mono() + timeout
        peer = await self._ready(timeout, avoid)
        return await self._unary_on(peer, path, request, deadline, metadata)

    async def _unary_on(
        self, peer: _Peer, path: str, request: bytes, deadline: float, metadata: Metadata
    ) -> bytes:
        left = max(0.001, deadline - self._env.clock.mono())
        try:
            call: Any = peer.channel.unary_unary(path)  # pyright: ignore[reportUnknownVariableType]
            answer: bytes = await call(request, timeout=left, metadata=metadata)
        except grpc.RpcError as error:
            raise _error(error) from error
        except grpc.aio.UsageError as error:
            raise _closed() from error
        except asyncio.CancelledError:
            # gRPC raises it here, too, when the channel is closed, which is not the caller's cancellation.
            if self.closed and not _is_cancelling():
                raise RpcError(StatusCode.CANCELLED, "the client is closed") from None
            raise
        return answer

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        """See :class:`coord.transport.Transport`."""
        peer = await self._ready(timeout, avoid)
        opener: Any = peer.channel.stream_stream(path)  # pyright: ignore[reportUnknownVariableType]
        return observed_stream(
            path,
            metadata,
            peer.address,
            lambda sent: GrpcioStream(opener(metadata=sent), peer.name, self._supervisor),
        )

    def suspect(self) -> None:
        """See :class:`coord.transport.Transport`."""
        now = self._env.clock.mono()
        if len(self._peers) > 1 and now >= self._suspect_until:
            self._suspect = self._peers[self._first].name
            self._suspect_until = now + _SUSPICION_S
            self._first = (self._first + 1) % len(self._peers)

    async def close(self) -> None:
        """See :class:`coord.transport.Transport`."""
        if self.closed:
            return
        self.closed = True
        for channel in [*self._retired, *[peer.channel for peer in self._peers]]:
            await channel.close()
        await self._supervisor.close()

    async def _ready(self, timeout: float, avoid: str | None) -> _Peer:
        """Return a connected peer, another one than ``avoid`` if one of them answers."""
        if self.closed:
            raise _closed()
        patience = min(timeout / 2, _AVOID_PATIENCE_S)
        if avoid is None and self._env.clock.mono() < self._suspect_until:
            avoid, patience = self._suspect, _STAGGER_S
        turn = self._peers[self._first :] + self._peers[: self._first]
        others = [peer for peer in turn if peer.name != avoid]
        for peer in others:
            if peer.channel.get_state() is grpc.ChannelConnectivity.READY:
                return peer
        try:
            async with asyncio.timeout(timeout):
                if others and len(others) < len(turn):
                    try:
                        async with asyncio.timeout(patience):
                            return await self._connected(others)
                    except TimeoutError:
                        pass  # the avoided one is better than none
                winner = await self._connected(turn)
        except TimeoutError:
            text = f"no connection within {timeout:g} s ({', '.join(self.endpoints)})"
            raise RpcError(StatusCode.UNAVAILABLE, text, sent=False) from None
        self._first = self._peers.index(winner)
        return winner

    async def _connected(self, peers: list[_Peer]) -> _Peer:
        """Return one of ``peers`` with a connection, made with the TLS files as they are meanwhile."""
        if self._tls is None:
            return await self._race(peers)
        while not self.closed:
            self._reopen(await self._tls.fresh())
            try:
                async with asyncio.timeout(_FILES_LOOKED_AT_S):
                    return await self._race(peers)
            except TimeoutError:
                pass  # the reason may be one that new files remedy
        raise _closed()

    def _reopen(self, credentials: grpc.ChannelCredentials) -> None:
        for peer in self._peers:
            ready = peer.channel.get_state() is grpc.ChannelConnectivity.READY
            if peer.credentials is not credentials and not ready:
                self._retired[peer.channel] = None
                self._supervisor.spawn(self._retire(peer.channel), name=f"retire {peer.name}")
                peer.open(credentials)

    async def _retire(self, channel: grpc.aio.Channel) -> None:
        """Close a channel when those who wait for it have turned to another, and its last calls have had their time."""
        await asyncio.sleep(2 * _FILES_LOOKED_AT_S)
        await channel.close(_RETIRE_GRACE_S)
        del self._retired[channel]

    async def _race(self, peers: list[_Peer]) -> _Peer:
        """Return the first of ``peers`` that gets a connection; each starts a moment after the one before."""
        attempts: dict[asyncio.Task[None], _Peer] = {}
        try:
            for number, peer in enumerate(peers):
                attempts[
                    self._supervisor.spawn(peer.channel.channel_ready(), name=f"dial {peer.name}")
                ] = peer
                pause = None if number + 1 == len(peers) else _STAGGER_S
                done, _ = await asyncio.wait(
                    attempts, timeout=pause, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    if not attempt.cancelled() and attempt.exception() is None:
                        return attempts[attempt]
        finally:
            for attempt in attempts:
                attempt.cancel()
        raise _closed()

    def _broken(self, name: str, error: BaseException) -> None:
        """Report our own mistakes; a dial that ends because of the close is none."""
        if not self.closed:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"coord: transport task {name!r} failed", "exception": error}
            )


def _closed() -> RpcError:
    return RpcError(StatusCode.CANCELLED, "the client is closed", sent=False)


def _error(error: grpc.RpcError) -> RpcError:
    """Convert gRPC's error."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return RpcError(StatusCode.UNKNOWN, str(error))
    code = StatusCode(error.code().value[0])
    text = error.details() or ""
    if code is StatusCode.INTERNAL and text == _LOST_AT_A_WRITE:
        code, text = StatusCode.UNAVAILABLE, "the connection was lost"
    sent = not (code is StatusCode.UNAVAILABLE and any(w in text.lower() for w in _NEVER_SENT))
    trailers = tuple([(str(k), v) for k, v in error.trailing_metadata() or ()])
    return RpcError(code, text, trailers=trailers, sent=sent)


def _channel(
    endpoint: Endpoint, credentials: grpc.ChannelCredentials | None, server_name: str | None
) -> grpc.aio.Channel:
    address = endpoint.address
    name = f"unix:{address.path}" if isinstance(address, UnixAddress) else f"dns:///{address}"
    options: list[tuple[str, Any]] = [*_OPTIONS, ("grpc.default_authority", endpoint.authority)]
    if credentials is None:
        return grpc.aio.insecure_channel(name, options=options)
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(name, credentials, options=options)


def _credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    if not tls.verify:
        raise InvalidArgument("verify=False needs the native transport: gRPC always verifies")
    context_of(tls)  # gRPC itself would take anything, and fail without a reason later
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=read_bytes(tls.ca) if tls.ca else None,
            private_key=read_bytes(tls.key) if tls.key else None,
            certificate_chain=read_bytes(tls.cert) if tls.cert else None,
        )
    except OSError as error:
        raise ValueError(str(error)) from error
