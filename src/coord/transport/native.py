"""The carrier over our own HTTP/2: one connection per endpoint, opened when it is needed.

One healthy connection carries everything; which endpoint comes first is drawn at random, so that many clients spread.
When it is lost, calls wait while the endpoints are tried in turn, each a moment after the one before or as soon as
that has failed, until one answers or the deadline of the call has passed.
An endpoint that failed is left alone for a while that grows with every failure.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import replace
from typing import TYPE_CHECKING

from coord._telemetry import note_connection, observed_stream
from coord.rpc.channel import Channel
from coord.rpc.limits import CLIENT_LIMITS
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import RealNet, Supervisor
from coord.transport.health import ConnectionState, HealthBoard
from coord.transport.limits import CarrierLimits
from coord.transport.reloading import Reloading, context_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.channel import ClientStream
    from coord.rpc.metadata import Metadata
    from coord.runtime import Address, Env
    from coord.target import Endpoint, TlsConfig
    from coord.transport.base import Cancellable, MessageStream

_BACKOFF_FIRST_S = 0.05
_BACKOFF_MAX_S = 2.0
# A connection that ends sooner counts as a failure of its endpoint, so that one which accepts and drops is not called
# in a tight loop; but it did answer, so the pause stays short.
_SHORT_LIFE_S = 1.0
_SHORT_LIFE_BACKOFF_MAX_S = 0.25


class _Peer:
    """One endpoint and what is known of it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.name = endpoint.text
        self.channel: Channel | None = None
        self.dialing = False
        self.retired = False  # it has left the list
        self.failures = 0
        self.retry_at = 0.0
        self.since = 0.0
        self.last_error = ""

    @property
    def ready(self) -> bool:
        return self.channel is not None and self.channel.ready


class _Waiter:
    """A call that waits for a connection; ``give`` gets one, or the reason why there is none."""

    def __init__(
        self, give: Callable[[_Peer | RpcError], None], avoid: str | None, others: int
    ) -> None:
        self.give = give
        self.avoid = avoid
        self._others = others
        self.timer: asyncio.TimerHandle | None = None

    def takes(self, peer: _Peer) -> bool:
        return peer.name != self.avoid

    def note_failure(self, peer: _Peer) -> None:
        """Another endpoint did not answer; when all others have not, the avoided one is better than none."""
        if self.avoid is not None and self.takes(peer):
            self._others -= 1
            if self._others <= 0:
                self.avoid = None


class _PendingUnary:
    """A unary call that begins when there is a connection."""

    __slots__ = ("_begin", "_call", "_done", "waiting")

    def __init__(
        self, begin: Callable[[_Peer], Cancellable], done: Callable[[bytes | RpcError], None]
    ) -> None:
        self._begin = begin
        self._done = done
        self._call: Cancellable | None = None
        self.waiting: Callable[[], None] | None = None

    def give(self, got: _Peer | RpcError) -> None:
        if isinstance(got, RpcError):
            self._done(got)
        else:
            self._call = self._begin(got)

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
        elif self.waiting is not None:
            self.waiting()


class NativeStream:
    """A stream, and the endpoint that it runs on."""

    def __init__(self, stream: ClientStream, endpoint: str) -> None:
        self._stream = stream
        self.endpoint = endpoint

    def send(self, message: bytes) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._stream.send(message)

    def half_close(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._stream.half_close()

    async def receive(self) -> bytes | None:
        """See :class:`coord.transport.MessageStream`."""
        return await self._stream.receive()

    def cancel(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._stream.cancel()

    def distrust(self) -> None:
        """See :class:`coord.transport.MessageStream`: there is nobody here to be trusted."""


class NativeTransport:
    """See :class:`coord.transport.Transport`. Raises :class:`InvalidArgument` for TLS files that do not fit."""

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        env: Env,
        *,
        tls: TlsConfig | None = None,
        limits: CarrierLimits | None = None,
    ) -> None:
        self._env = env
        # So that the pieces of a burst leave one by one. What is no socket would seem to be full at every write.
        self._writes_at_once = isinstance(env.net, RealNet)
        self._tls = Reloading(tls, env, context_of) if tls is not None else None
        self._limits = limits or CarrierLimits()
        self._channel_limits = replace(
            CLIENT_LIMITS,
            keepalive_time_s=self._limits.keepalive_time,
            keepalive_timeout_s=self._limits.keepalive_timeout,
            keepalive_without_calls=False,
        )
        self._server_name = tls.server_name if tls else None
        self._peers = [_Peer(endpoint) for endpoint in endpoints]
        self._first = int(env.rand.uniform(0, len(endpoints))) % len(endpoints)
        self.health: HealthBoard = HealthBoard(env.clock, self.endpoints)
        self._hot: Channel | None = None
        self._suspect: str | None = None
        self._suspect_until = 0.0
        self._draining: dict[Channel, None] = {}
        self._waiters: dict[_Waiter, None] = {}
        self._supervisor = Supervisor(self._broken)
        self._connecting = False
        self._progress = asyncio.Event()
        self.closed: bool = False

    @property
    def endpoints(self) -> tuple[str, ...]:
        """See :class:`coord.transport.Transport`."""
        return tuple([peer.name for peer in self._peers])

    @property
    def current(self) -> Address | None:
        """See :class:`coord.transport.Transport`."""
        hot = self._hot
        return None if hot is None else hot.address

    @property
    def open_calls(self) -> int:
        """See :class:`coord.transport.ClientTransport`."""
        channels = [peer.channel for peer in self._peers if peer.channel is not None]
        return len(self._waiters) + sum(c.open_calls for c in [*channels, *self._draining])

    def set_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """See :class:`coord.transport.ClientTransport`."""
        if self.closed:
            return
        known = {peer.endpoint.address: peer for peer in self._peers}
        self._peers = [known.pop(e.address) if e.address in known else _Peer(e) for e in endpoints]
        self._first = 0
        for peer in known.values():
            peer.retired = True
            self._retire(peer)
        for number, peer in enumerate(self._peers):
            if peer.channel is not None and peer.channel is self._hot:
                self._first = number
        self.health.replace(self.endpoints)
        for waiter in self._waiters:
            waiter.avoid = None  # how many others there are was counted in the old list
        self._progress.set()

    def _retire(self, peer: _Peer) -> None:
        """Give no more calls to this connection; those that run may go on for a while."""
        channel, peer.channel = peer.channel, None
        if channel is None:
            return
        if self._hot is channel:
            self._hot = None
        self._draining[channel] = None
        self._supervisor.spawn(self._drain(channel), name=f"drain {peer.name}")

    async def _drain(self, channel: Channel) -> None:
        await channel.close(within=self._limits.drain)
        self._draining.pop(channel, None)

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> Cancellable:
        """See :class:`coord.transport.Transport`."""
        hot = self._hot
        if hot is not None and avoid is None:
            core = hot.core
            if core is not None and core.is_ready:
                return core.start_unary(path, request, done, timeout=timeout, metadata=metadata)
        deadline = self._env.clock.mono() + timeout

        def begin(peer: _Peer) -> Cancellable:
            # The deadline may pass between the hand-over and here only by rounding; 1 ms is sent then.
            left = max(0.001, deadline - self._env.clock.mono())
            return _open(peer).start_unary(path, request, done, timeout=left, metadata=metadata)

        pending = _PendingUnary(begin, done)
        pending.waiting = self._obtain(pending.give, timeout, avoid)
        return pending

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
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(outcome: bytes | RpcError) -> None:
            if future.done():
                return
            if isinstance(outcome, RpcError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        call = self.start_unary(
            path, request, done, timeout=timeout, metadata=metadata, avoid=avoid
        )
        try:
            return await future
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        """See :class:`coord.transport.Transport`."""
        found: asyncio.Future[_Peer] = asyncio.get_running_loop().create_future()

        def give(got: _Peer | RpcError) -> None:
            if found.done():
                return
            if isinstance(got, RpcError):
                found.set_exception(got)
            else:
                found.set_result(got)

        while True:
            forget = self._obtain(give, timeout, avoid)
            try:
                peer = await found
            except asyncio.CancelledError:
                forget()
                raise
            if peer.ready:  # it may have gone while this task waited for its turn
                return _stream_on(peer, path, metadata)
            found = asyncio.get_running_loop().create_future()

    def suspect(self, endpoint: str | None = None) -> None:
        """See :class:`coord.transport.Transport`."""
        now = self._env.clock.mono()
        # Many calls fail together; the first one speaks for all.
        if now < self._suspect_until:
            return
        if len(self._peers) == 1:
            self._leave_the_only_one(endpoint, now)
            return
        for number, peer in enumerate(self._peers):
            if peer.channel is None or (
                peer.channel is not self._hot if endpoint is None else peer.name != endpoint
            ):
                continue
            self._suspect = peer.name
            self._suspect_until = now + self._limits.suspicion
            self._first = (number + 1) % len(self._peers)
            self.health.suspect(peer.name, self._suspect_until)
            if peer.channel is self._hot:
                self._hot = None
                self.health.use(None)
            if endpoint is None:
                self._leave(peer, peer.channel)
            return

    def _leave_the_only_one(self, endpoint: str | None, now: float) -> None:
        """There is nowhere else to go, but the silence may be the connection's: calls go on over a new one."""
        (peer,) = self._peers
        channel = peer.channel
        if channel is not None and endpoint is None:
            self._suspect_until = now + self._limits.suspicion
            self._hot = None
            self.health.use(None)
            self._leave(peer, channel)

    def _leave(self, peer: _Peer, channel: Channel) -> None:
        """Make new calls to a silent endpoint prove first that it still answers: by a connection of their own.

        Streams that run on the old one stay until they end, or until pings find it dead.
        """
        peer.channel = None
        self._draining[channel] = None
        self.health.note(peer.name, ConnectionState.IDLE, "a call got no answer")
        channel.go_away()

    async def close(self) -> None:
        """See :class:`coord.transport.Transport`."""
        if self.closed:
            return
        self.closed = True
        self._hot = None
        waiters, self._waiters = list(self._waiters), {}
        for waiter in waiters:
            self._answer(waiter, _closed())
        await self._supervisor.close()
        channels = [peer.channel for peer in self._peers if peer.channel is not None]
        for channel in [*channels, *self._draining]:
            await channel.close()
        for peer in self._peers:
            peer.channel = None
        self._draining.clear()

    def _obtain(
        self, give: Callable[[_Peer | RpcError], None], timeout: float, avoid: str | None
    ) -> Callable[[], None]:
        """Hand ``give`` a ready peer, now or when there is one, or the reason why not after ``timeout`` seconds.

        Returns a function that takes the request back.
        """
        if self.closed:
            give(_closed())
            return _nothing
        if avoid is None and self._suspect is not None:
            if self._env.clock.mono() < self._suspect_until:
                avoid = self._suspect
            else:
                self._suspect = None
        others = sum(peer.name != avoid and not self._is_down(peer) for peer in self._peers)
        waiter = _Waiter(give, avoid if others else None, others)
        for peer in self._in_turn():
            if peer.ready and waiter.takes(peer):
                if self._hot is None:
                    self._hot = peer.channel
                    self.health.use(peer.name)
                give(peer)
                return _nothing
        self._waiters[waiter] = None
        loop = asyncio.get_running_loop()
        waiter.timer = loop.call_later(timeout, self._give_up, waiter, timeout)
        if self._connecting:
            self._progress.set()
        else:
            self._connecting = True
            self._supervisor.spawn(self._connect(), name="connect", context=Context())
        return lambda: self._forget(waiter)

    def _is_down(self, peer: _Peer) -> bool:
        """Say whether the last attempt failed and the next one is not due yet."""
        return not peer.ready and peer.retry_at > self._env.clock.mono()

    def _forget(self, waiter: _Waiter) -> None:
        self._waiters.pop(waiter, None)
        if waiter.timer is not None:
            waiter.timer.cancel()
        if not self._waiters:
            self._progress.set()

    def _in_turn(self) -> list[_Peer]:
        return self._peers[self._first :] + self._peers[: self._first]

    def _answer(self, waiter: _Waiter, got: _Peer | RpcError) -> None:
        self._forget(waiter)
        waiter.give(got)

    def _give_up(self, waiter: _Waiter, timeout: float) -> None:
        reasons = "; ".join([f"{p.name}: {p.last_error or 'no answer'}" for p in self._peers])
        text = f"no connection within {timeout:g} s ({reasons})"
        self._answer(waiter, RpcError(StatusCode.UNAVAILABLE, text, sent=False))

    async def _connect(self) -> None:
        """Dial until nobody waits any more."""
        try:
            while self._waiters and not self.closed:
                self._progress.clear()
                pause = self._dial_next()
                try:
                    async with asyncio.timeout(pause):
                        await self._progress.wait()
                except TimeoutError:
                    pass
        finally:
            self._connecting = False

    def _dial_next(self) -> float | None:
        """Start one attempt if one is due; return how long to wait for the next (None: until something happens)."""
        now = self._env.clock.mono()
        wanted = [
            peer
            for peer in self._in_turn()
            if not peer.ready and not peer.dialing and any(w.takes(peer) for w in self._waiters)
        ]
        if not wanted:
            return None
        due = [peer for peer in wanted if peer.retry_at <= now]
        if not due:
            return min(peer.retry_at for peer in wanted) - now
        due[0].dialing = True
        self._supervisor.spawn(self._dial(due[0]), name=f"dial {due[0].name}")
        return self._limits.stagger

    async def _dial(self, peer: _Peer) -> None:
        endpoint = peer.endpoint
        try:
            tls = await self._tls.fresh() if self._tls is not None else None
        except BaseException:
            peer.dialing = False
            raise
        channel: Channel = Channel(
            endpoint.address,
            env=self._env,
            authority=endpoint.authority,
            tls=tls,
            server_name=self._server_name,
            limits=self._channel_limits,
            on_closed=lambda error: self._lost(peer, channel, error),
            writes_at_once=self._writes_at_once,
        )
        self.health.note(peer.name, ConnectionState.CONNECTING)
        try:
            await channel.connect(timeout=self._limits.connect)
        except RpcError as error:
            await channel.close()
            self._failed(peer, error)
            return
        except BaseException:
            await channel.close()
            raise
        finally:
            peer.dialing = False
            self._progress.set()
        if peer.retired:  # it left the list meanwhile
            await channel.close()
            return
        if peer.channel is not None:  # told to go away, but still at work
            self._draining[peer.channel] = None
        peer.channel = channel
        note_connection("opened", peer.endpoint.address)
        peer.since = self._env.clock.mono()
        peer.last_error = ""
        self.health.note(peer.name, ConnectionState.READY)
        if self._hot is None or not self._hot.ready:
            self._hot = channel
            self._first = self._peers.index(peer)
            self.health.use(peer.name)
        for waiter in list(self._waiters):
            if waiter.takes(peer) and peer.ready:
                self._answer(waiter, peer)

    def _failed(self, peer: _Peer, error: RpcError) -> None:
        peer.last_error = error.message
        note_connection("failed", peer.endpoint.address)
        self.health.note(peer.name, ConnectionState.UNAVAILABLE, error.message)
        self._back_off(peer, _BACKOFF_MAX_S)
        for waiter in self._waiters:
            waiter.note_failure(peer)

    def _back_off(self, peer: _Peer, longest: float) -> None:
        ceiling = min(longest, _BACKOFF_FIRST_S * float(2 ** min(peer.failures, 10)))
        peer.failures += 1
        peer.retry_at = self._env.clock.mono() + self._env.rand.uniform(ceiling / 2, ceiling)

    def _lost(self, peer: _Peer, channel: Channel, error: RpcError) -> None:
        """Take note of the end of a connection."""
        note_connection("lost", peer.endpoint.address)
        self._draining.pop(channel, None)
        if peer.channel is not channel:  # it was told to go away, and another has taken its place
            return
        peer.channel = None
        peer.last_error = error.message
        self.health.note(peer.name, ConnectionState.IDLE, error.message)
        if self._hot is channel:
            self._hot = None
            # The next one in turn gets its chance first; this one may be down.
            self._first = (self._peers.index(peer) + 1) % len(self._peers)
        if self._env.clock.mono() - peer.since < _SHORT_LIFE_S:
            self._back_off(peer, _SHORT_LIFE_BACKOFF_MAX_S)
        else:
            peer.failures = 0
            peer.retry_at = 0.0
        self._progress.set()

    def _broken(self, name: str, error: BaseException) -> None:
        """Report our own mistakes where applications listen; callers still have their deadlines."""
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"coord: transport task {name!r} failed", "exception": error}
        )


def _open(peer: _Peer) -> Channel:
    channel = peer.channel
    if channel is None:
        raise RpcError(StatusCode.UNAVAILABLE, "the connection was lost", sent=False)
    return channel


def _stream_on(peer: _Peer, path: str, metadata: Metadata) -> MessageStream:
    channel = _open(peer)
    return observed_stream(
        path,
        metadata,
        channel.address,
        lambda sent: NativeStream(channel.open_stream(path, metadata=sent), peer.name),
    )


def _nothing() -> None:
    """Take back what has been answered already."""


def _closed() -> RpcError:
    return RpcError(StatusCode.CANCELLED, "the client is closed", sent=False)
