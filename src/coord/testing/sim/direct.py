"""A carrier without HTTP/2: whole encoded messages over a simulated connection.

It has what a run needs of a connection (order, loss of all at once, back-pressure, the question whether a
request was sent) and nothing of the frames, so that most seeds spend their time on the store. Requests
meet the server's own handlers, with the same bytes that the real carrier would have found.

A frame is its size, a kind, the number of the call, and a body.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Final, cast

from typing_extensions import override

from coord.rpc.status import RpcError, StatusCode
from coord.testing.sim.frames import Frame, FrameReader, Kind, pack, pack_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.rpc.metadata import Metadata
    from coord.runtime import Env, TcpAddress

_CONNECT_S: Final = 2.0
_BACKOFF_S: Final = 0.1
_STATUS: Final = struct.Struct(">B")


class _Call:
    """A call that is open; ``done`` gets its outcome, ``messages`` what comes before it."""

    __slots__ = ("arrival", "done", "ended", "endpoint", "messages", "number", "wire")

    def __init__(self, number: int, wire: _Wire, endpoint: str) -> None:
        self.number: int = number
        self.wire: _Wire = wire
        self.endpoint: str = endpoint
        self.messages: list[bytes] = []
        self.done: Callable[[bytes | RpcError], None] | None = None
        self.ended: RpcError | None = None
        self.arrival: asyncio.Event | None = None

    def take(self, frame: Frame) -> None:
        if frame.kind is Kind.MESSAGE:
            self.messages.append(frame.body)
        elif frame.kind is Kind.ANSWER:
            self.end(None, frame.body)
            return
        else:
            code = StatusCode(frame.body[0])
            error = RpcError(code, frame.body[1:].decode())
            self.end(error, self.messages[-1] if self.messages and not code else b"")
            return
        if self.arrival is not None:
            self.arrival.set()

    def end(self, error: RpcError | None, body: bytes = b"") -> None:
        self.wire.calls.pop(self.number, None)
        self.ended = error or RpcError(StatusCode.OK)
        done, self.done = self.done, None
        if done is not None:
            done(body if error is None or error.code is StatusCode.OK else error)
        if self.arrival is not None:
            self.arrival.set()

    def cancel(self) -> None:
        """Give the call up."""
        if self.ended is None:
            self.done = None
            self.wire.send(Kind.CANCEL, self.number)
            self.end(RpcError(StatusCode.CANCELLED, "cancelled by its caller"))


class _Wire(asyncio.Protocol):
    """The client's end of a connection."""

    def __init__(self) -> None:
        self.calls: dict[int, _Call] = {}
        self._next = 0
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            call = self.calls.get(frame.call)
            if call is not None:
                call.take(frame)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for call in list(self.calls.values()):
            call.end(RpcError(StatusCode.UNAVAILABLE, "connection lost"))

    def open(self, endpoint: str) -> _Call:
        self._next += 1
        call = self.calls[self._next] = _Call(self._next, self, endpoint)
        return call

    def send(self, kind: Kind, call: int, body: bytes = b"") -> None:
        if self._transport is not None:
            self._transport.write(pack(kind, call, body))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class DirectStream:
    """See :class:`coord.transport.base.MessageStream`."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self.endpoint: str = call.endpoint

    def send(self, message: bytes) -> None:
        """See MessageStream."""
        self._call.wire.send(Kind.MESSAGE, self._call.number, message)

    def half_close(self) -> None:
        """See MessageStream."""
        self._call.wire.send(Kind.END, self._call.number)

    async def receive(self) -> bytes | None:
        """See MessageStream."""
        call = self._call
        while not call.messages:
            if call.ended is not None:
                if call.ended.code is StatusCode.OK:
                    return None
                raise call.ended
            call.arrival = asyncio.Event()
            await call.arrival.wait()
        return call.messages.pop(0)

    def cancel(self) -> None:
        """See MessageStream."""
        self._call.cancel()

    def distrust(self) -> None:
        """See MessageStream."""


class _Started:
    """A unary call that may still wait for its connection."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()


class DirectTransport:
    """See :class:`coord.transport.base.Transport`. One connection at a time; the next endpoint when it fails."""

    def __init__(self, endpoints: Sequence[TcpAddress], env: Env) -> None:
        self._addresses = list(endpoints)
        self._env = env
        self._place = int(env.rand.uniform(0, len(endpoints))) % len(endpoints)
        self._wire: _Wire | None = None
        self._connecting: asyncio.Lock = asyncio.Lock()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.closed: bool = False

    @property
    def endpoints(self) -> tuple[str, ...]:
        """See Transport."""
        return tuple(str(address) for address in self._addresses)

    @property
    def current(self) -> TcpAddress:
        """See Transport."""
        return self._addresses[self._place]

    @property
    def endpoint(self) -> str:
        """The endpoint in use, or tried next."""
        return str(self._addresses[self._place])

    async def _connected(self, deadline: float, avoid: str | None) -> _Wire:
        """Return an open connection. Raises RpcError(UNAVAILABLE, sent=False) at the deadline."""
        clock = self._env.clock
        async with self._connecting:
            if avoid is not None and self.endpoint == avoid:
                self._leave()
            reason = "no answer"
            while self._wire is None or not self._wire.is_open:
                left = deadline - clock.mono()
                if left <= 0 or self.closed:
                    text = f"no connection ({reason})"
                    raise RpcError(StatusCode.UNAVAILABLE, text, sent=False)
                try:
                    async with asyncio.timeout(min(left, _CONNECT_S)):
                        _, wire = await self._env.net.connect(_Wire, self._addresses[self._place])
                except (OSError, TimeoutError) as error:
                    reason = str(error) or type(error).__name__
                    self._leave()
                    await asyncio.sleep(min(left, self._env.rand.uniform(0.5, 1.0) * _BACKOFF_S))
                else:
                    self._wire = cast("_Wire", wire)
            return self._wire

    def _leave(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._place = (self._place + 1) % len(self._addresses)

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        """See Transport."""
        deadline = self._env.clock.mono() + timeout
        wire = await self._connected(deadline, avoid)
        call = wire.open(self.endpoint)
        future: asyncio.Future[bytes | RpcError] = asyncio.get_running_loop().create_future()
        call.done = lambda outcome: None if future.done() else future.set_result(outcome)
        left = deadline - self._env.clock.mono()
        wire.send(Kind.CALL, call.number, pack_head(path, left, metadata) + request)
        try:
            async with asyncio.timeout(max(0.0, left)):
                outcome = await future
        except TimeoutError:
            call.cancel()
            # It may be that the connection is dead, and nobody says so.
            if wire is self._wire:
                self._leave()
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None
        except asyncio.CancelledError:
            call.cancel()
            raise
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float,
        metadata: Metadata = (),
    ) -> _Started:
        """See Transport."""
        from coord.runtime import start_task

        async def run() -> None:
            try:
                outcome: bytes | RpcError = await self.unary(
                    path, request, timeout=timeout, metadata=metadata
                )
            except RpcError as error:
                outcome = error
            done(outcome)

        task = start_task(run())
        self._tasks[task] = None
        task.add_done_callback(lambda ended: self._tasks.pop(ended, None))
        return _Started(task)

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> DirectStream:
        """See Transport."""
        wire = await self._connected(self._env.clock.mono() + timeout, avoid)
        call = wire.open(self.endpoint)
        wire.send(Kind.OPEN, call.number, pack_head(path, 0.0, metadata))
        return DirectStream(call)

    def suspect(self, endpoint: str | None = None) -> None:
        """See Transport."""
        if len(self._addresses) > 1 and endpoint in (None, self.endpoint):
            self._leave()

    async def close(self) -> None:
        """See Transport."""
        self.closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._wire is not None:
            self._wire.close()
            self._wire = None
