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
from coord.transport.grpcio_endings import Endings
from coord.transport.health import ConnectionState, HealthBoard
from coord.transport.limits import CarrierLimits
from coord.transport.reloading import Reloading, context_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.metadata import Metadata
    from coord.runtime import Address, Env
    from coord.target import Endpoint, TlsConfig
    from coord.transport.base import Cancellable, MessageStream

# How long another endpoint may take to answer before the one to avoid is taken nevertheless.
_AVOID_PATIENCE_S = 1.0
# How often files are looked at while nothing can be reached.
_FILES_LOOKED_AT_S = 1.0
_RETIRE_GRACE_S = 30.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_permit_without_calls", 0),
    # By default gRPC stops to ping after two pings on a stream that sends nothing, such as a watch.
    ("grpc.http2.max_pings_without_data", 0),
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


_STATES = {
    grpc.ChannelConnectivity.IDLE: ConnectionState.IDLE,
    grpc.ChannelConnectivity.CONNECTING: ConnectionState.CONNECTING,
    grpc.ChannelConnectivity.READY: ConnectionState.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE: ConnectionState.UNAVAILABLE,
}
_FAILED = "gRPC could not connect"  # it does not tell why


class _Peer:
    channel: grpc.aio.Channel
    credentials: grpc.ChannelCredentials | None

    def __init__(self, endpoint: Endpoint, server_name: str | None, limits: CarrierLimits) -> None:
        self.endpoint = endpoint
        self.name: str = endpoint.text
        self.address: Address = endpoint.address
        self._server_name = server_name
        self._limits = limits
        self.retired = False  # it has left the list
        self.watcher: asyncio.Task[None] | None = None
        # Calls and streams that run. Closing a channel of gRPC ends only those that somebody waits for just then.
        self.calls: dict[Cancellable, None] = {}
        self.quiet: asyncio.Event = asyncio.Event()
        self.quiet.set()

    def open(self, credentials: grpc.ChannelCredentials | None) -> None:
        """Make a channel, without TLS if there are no credentials."""
        self.credentials = credentials
        self.channel = _channel(self.endpoint, credentials, self._server_name, self._limits)

    def enter(self, call: Cancellable) -> None:
        """Know a call until it has ended."""
        self.calls[call] = None
        self.quiet.clear()

    def leave(self, call: Cancellable) -> None:
        """Forget it. A callback of gRPC's would keep the call, and with it the connection, in a cycle."""
        self.calls.pop(call, None)
        if not self.calls:
            self.quiet.set()


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

    def __init__(
        self,
        call: Any,  # noqa: ANN401 - grpc's calls are generic in untyped ways
        peer: _Peer,
        supervisor: Supervisor,
        endings: Endings,
    ) -> None:
        self.endpoint: str = peer.name
        self._peer = peer
        self._call = call
        peer.enter(self)
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._sender = supervisor.spawn(
            _send_all(call, self._outbox, endings.finder()), name="grpcio-stream"
        )

    def send(self, message: bytes) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._outbox.put_nowait(message)

    def half_close(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._outbox.put_nowait(None)

    async def receive(self) -> bytes | None:
        """See :class:`coord.transport.MessageStream`."""
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            self._peer.leave(self)
            # Without the frames of gRPC, which keep the call, and with it the connection.
            raise _error(error) from error.with_traceback(None)
        except asyncio.CancelledError:
            # gRPC raises this too when the call was cancelled by ourselves, which is not the reader's cancellation.
            if self._call.cancelled() and not _is_cancelling():
                raise RpcError(StatusCode.CANCELLED, "the stream was cancelled") from None
            raise
        if message is grpc.aio.EOF:
            self._peer.leave(self)
            self._sender.cancel()
            return None
        received: bytes = message
        return received

    def cancel(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._peer.leave(self)
        self._sender.cancel()
        self._call.cancel()

    def distrust(self) -> None:
        """See :class:`coord.transport.MessageStream`: there is nobody here to be trusted."""


async def _send_all(
    call: Any,  # noqa: ANN401 - see above
    outbox: asyncio.Queue[bytes | None],
    begun: Callable[[], None],
) -> None:
    """Write what comes, in its order; ``begun`` is told when the call has made its first step.

    Not a method: a cancelled task keeps its frame, so a stream would keep itself, and its connection, in a circle.
    """
    begun()
    try:
        while (message := await outbox.get()) is not None:
            await call.write(message)
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        return  # the reader is told


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class GrpcioTransport:
    """See :class:`coord.transport.Transport`. Raises :class:`InvalidArgument` for TLS settings gRPC cannot do."""

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        env: Env,
        *,
        tls: TlsConfig | None = None,
        limits: CarrierLimits | None = None,
    ) -> None:
        self._env = env
        self._limits = limits or CarrierLimits()
        self._tls = Reloading(tls, env, _credentials) if tls is not None else None
        self._server_name = tls.server_name if tls is not None else None
        self._peers = [self._peer(e) for e in endpoints]
        self._retired: dict[grpc.aio.Channel, None] = {}
        self.health: HealthBoard = HealthBoard(env.clock, self.endpoints)
        self._waiting = 0
        self._draining: dict[_Peer, None] = {}
        self._first = int(env.rand.uniform(0, len(endpoints))) % len(endpoints)
        self._supervisor = Supervisor(self._broken)
        self._endings = Endings(env.clock)
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

    @property
    def open_calls(self) -> int:
        """See :class:`coord.transport.ClientTransport`."""
        return self._waiting + sum(len(peer.calls) for peer in [*self._peers, *self._draining])

    def _peer(self, endpoint: Endpoint) -> _Peer:
        peer = _Peer(endpoint, self._server_name, self._limits)
        peer.open(self._tls.current if self._tls is not None else None)
        return peer

    def set_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """See :class:`coord.transport.ClientTransport`."""
        if self.closed:
            return
        used = self._peers[self._first]
        known = {peer.endpoint.address: peer for peer in self._peers}
        self._peers = [
            known.pop(e.address) if e.address in known else self._peer(e) for e in endpoints
        ]
        self._first = self._peers.index(used) if used in self._peers else 0
        self.health.replace(self.endpoints)
        for peer in known.values():
            peer.retired = True
            self._draining[peer] = None
            self._supervisor.spawn(self._drain(peer), name=f"drain {peer.name}")

    async def _drain(self, peer: _Peer) -> None:
        if peer.watcher is not None:
            peer.watcher.cancel()
            await asyncio.wait({peer.watcher})
        try:
            async with asyncio.timeout(self._limits.drain):
                await peer.quiet.wait()
        except TimeoutError:
            pass
        finally:  # at once, when the client closes meanwhile
            for call in list(peer.calls):
                call.cancel()
            self._draining.pop(peer, None)
            await peer.channel.close()

    async def _watch(self, peer: _Peer) -> None:
        """Tell what gRPC does about an endpoint, from its first use on."""
        state = peer.channel.get_state()
        failed = False
        while state in _STATES:
            known = _STATES[state]
            if known is ConnectionState.UNAVAILABLE:
                failed = True
                self.health.note(peer.name, known, _FAILED)
            elif known is ConnectionState.READY or not failed:  # it rests between attempts, too
                failed = False
                self.health.note(peer.name, known)
            if known is ConnectionState.READY and self.health.read().endpoint is None:
                self.health.use(self._peers[self._first].name)
            await peer.channel.wait_for_state_change(state)
            state = peer.channel.get_state()

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
            deadline = self._env.clock.mono() + timeout
            try:
                peer = await self._ready(timeout, None)
                sent = True
                answer = await self._unary_on(peer, path, request, deadline, metadata)
            except RpcError as error:
                # Not kept in a variable, which would keep the error's frames, and in them the call, in a circle.
                done(error)
            except asyncio.CancelledError:
                if started.given_up or not self.closed:
                    raise
                done(RpcError(StatusCode.CANCELLED, "the client is closed", sent=sent))
            else:
                done(answer)

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
            opener: Any = peer.channel.unary_unary(path)  # pyright: ignore[reportUnknownVariableType]
            call = opener(request, timeout=left, metadata=metadata)
            peer.enter(call)
            try:
                answer: bytes = await call
            finally:
                peer.leave(call)
        except grpc.RpcError as error:
            call = opener = None  # as long as its error is kept, the connection would be, too
            raise _error(error) from error.with_traceback(None)
        except grpc.aio.UsageError as error:
            raise _closed() if self.closed else _left(sent=False) from error
        except asyncio.CancelledError:
            self._endings.note_cancelled()
            # gRPC raises it here, too, when the channel is closed, which is not the caller's cancellation.
            if not _is_cancelling():
                if self.closed:
                    raise RpcError(StatusCode.CANCELLED, "the client is closed") from None
                if peer.retired:
                    raise _left(sent=True) from None
            raise
        return answer

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        """See :class:`coord.transport.Transport`."""
        peer = await self._ready(timeout, avoid)

        def begin(sent: Metadata) -> GrpcioStream:
            try:
                opener: Any = peer.channel.stream_stream(path)  # pyright: ignore[reportUnknownVariableType]
                call = opener(metadata=sent)
            except grpc.aio.UsageError as error:
                raise _closed() if self.closed else _left(sent=False) from error
            return GrpcioStream(call, peer, self._supervisor, self._endings)

        return observed_stream(path, metadata, peer.address, begin)

    def suspect(self, endpoint: str | None = None) -> None:
        """See :class:`coord.transport.Transport`."""
        now = self._env.clock.mono()
        if len(self._peers) == 1 or now < self._suspect_until:
            return
        suspect = self._peers[self._first].name if endpoint is None else endpoint
        if suspect not in self.endpoints:
            return
        self._suspect = suspect
        self._suspect_until = now + self._limits.suspicion
        self._first = (self.endpoints.index(suspect) + 1) % len(self._peers)
        self.health.use(None)
        self.health.suspect(suspect, self._suspect_until)

    async def close(self) -> None:
        """See :class:`coord.transport.Transport`."""
        if self.closed:
            return
        self.closed = True
        watchers = [peer.watcher for peer in self._peers if peer.watcher is not None]
        for watcher in watchers:
            watcher.cancel()
        if watchers:
            await asyncio.wait(watchers)
        for peer in self._peers:
            for call in list(peer.calls):
                call.cancel()
        for channel in [*self._retired, *[peer.channel for peer in self._peers]]:
            await channel.close()
        await self._supervisor.close()
        self._endings.note_cancelled()  # the watchers' calls
        await self._endings.all_over()

    async def _ready(self, timeout: float, avoid: str | None) -> _Peer:
        """Return a connected peer, another one than ``avoid`` if one of them answers."""
        if self.closed:
            raise _closed()
        patience = min(timeout / 2, _AVOID_PATIENCE_S)
        if avoid is None and self._env.clock.mono() < self._suspect_until:
            avoid, patience = self._suspect, self._limits.stagger
        turn = self._peers[self._first :] + self._peers[: self._first]
        others = [peer for peer in turn if peer.name != avoid]
        for peer in others:
            if peer.channel.get_state() is grpc.ChannelConnectivity.READY:
                if avoid is None:
                    self._use(peer)
                return peer
        self._waiting += 1
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
        finally:
            self._waiting -= 1
        self._use(winner)
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
                if peer.watcher is not None:
                    peer.watcher.cancel()
                    peer.watcher = None  # of the old channel

    async def _retire(self, channel: grpc.aio.Channel) -> None:
        """Close a channel when those who wait for it have turned to another, and its last calls have had their time."""
        await asyncio.sleep(2 * _FILES_LOOKED_AT_S)
        await channel.close(_RETIRE_GRACE_S)
        del self._retired[channel]

    def _use(self, peer: _Peer) -> None:
        """Note that calls go here now."""
        if not peer.retired and (
            peer is not self._peers[self._first] or self.health.read().endpoint != peer.name
        ):
            self._first = self._peers.index(peer)
            self.health.use(peer.name)

    async def _race(self, peers: list[_Peer]) -> _Peer:
        """Return the first of ``peers`` that gets a connection; each starts a moment after the one before."""
        attempts: dict[asyncio.Task[None], _Peer] = {}
        try:
            for number, peer in enumerate(peers):
                if peer.watcher is None:
                    peer.watcher = self._supervisor.spawn(
                        self._watch(peer), name=f"watch {peer.name}"
                    )
                dial = self._supervisor.spawn(self._dial(peer), name=f"dial {peer.name}")
                attempts[dial] = peer
                pause = None if number + 1 == len(peers) else self._limits.stagger
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

    @staticmethod
    async def _dial(peer: _Peer) -> None:
        try:
            await peer.channel.channel_ready()
        except grpc.aio.UsageError:
            if not peer.retired:  # else the call that comes here is told
                raise

    def _broken(self, name: str, error: BaseException) -> None:
        """Report our own mistakes; a dial that ends because of the close is none."""
        if not self.closed:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"coord: transport task {name!r} failed", "exception": error}
            )


def _left(*, sent: bool) -> RpcError:
    return RpcError(StatusCode.UNAVAILABLE, "the endpoint has left the list", sent=sent)


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
    endpoint: Endpoint,
    credentials: grpc.ChannelCredentials | None,
    server_name: str | None,
    limits: CarrierLimits,
) -> grpc.aio.Channel:
    address = endpoint.address
    name = f"unix:{address.path}" if isinstance(address, UnixAddress) else f"dns:///{address}"
    options: list[tuple[str, Any]] = [
        *_OPTIONS,
        ("grpc.keepalive_time_ms", round(limits.keepalive_time * 1000)),
        ("grpc.keepalive_timeout_ms", round(limits.keepalive_timeout * 1000)),
        # By default gRPC gives every ping a minute, those of keepalive too, whatever their own limit says.
        ("grpc.http2.ping_timeout_ms", round(limits.keepalive_timeout * 1000)),
        ("grpc.default_authority", endpoint.authority),
    ]
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
