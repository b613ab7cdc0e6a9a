"""Methods written as coroutines: a task per call, cancelled when the call ends from outside.

For calls that wait or take long. Hot ones are better off as plain unary or stream handlers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from coord.rpc.server_stream import missing_request
from coord.rpc.service import Method, PeerInfo, RequestHead
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.rpc.metadata import Metadata
    from coord.rpc.server_stream import ServerStream

AsyncUnaryHandler: TypeAlias = "Callable[[AsyncCall, bytes], Awaitable[bytes]]"
AsyncStreamHandler: TypeAlias = "Callable[[AsyncCall], Awaitable[None]]"

__all__ = ["AsyncCall", "async_stream", "async_unary"]


class AsyncCall:
    """A running call. Only its own task may use it.

    Returning ends the call with OK, raising RpcError with that status. The task is cancelled when
    the client cancels, the deadline passes or the connection dies.
    """

    def __init__(self, stream: ServerStream) -> None:
        self._stream = stream
        self._inbox: deque[bytes] = deque()
        self._half_closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._trailers: Metadata = ()
        self._task: asyncio.Task[None] | None = None
        timeout = stream.head.timeout_s
        self._deadline = None if timeout is None else stream.conn.clock() + timeout
        stream.on_message = self._on_message
        stream.on_half_close = self._on_half_close
        stream.on_writable = self._wake
        stream.on_closed = self._on_closed

    @property
    def head(self) -> RequestHead:
        """The request's path, authority and metadata."""
        return self._stream.head

    @property
    def peer(self) -> PeerInfo:
        """The client."""
        return self._stream.conn.peer

    def time_left(self) -> float | None:
        """Return the seconds to the call's deadline, at least 0; None without a deadline."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self._stream.conn.clock())

    def send_headers(self, metadata: Metadata) -> None:
        """Send initial metadata, which otherwise leaves, empty, with the first message."""
        self._stream.send_headers(metadata)

    def set_trailers(self, metadata: Metadata) -> None:
        """Set what goes with the status at the end."""
        self._trailers = metadata

    async def receive(self) -> bytes | None:
        """Return the next message, None after the last. The client's window follows what is taken."""
        while not self._inbox:
            if self._half_closed:
                return None
            self._stream.resume_reading()
            if not self._inbox and not self._half_closed:
                await self._wait()
        return self._inbox.popleft()

    async def send(self, message: bytes) -> None:
        """Send a message, and wait while too much is unsent."""
        stream = self._stream
        stream.send(message)
        low_water = stream.conn.limits.low_water_bytes
        while stream.unsent_bytes >= low_water and not stream.has_ended:
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _on_message(self, message: bytes) -> None:
        self._inbox.append(message)
        self._stream.pause_reading()
        self._wake()

    def _on_half_close(self) -> None:
        self._half_closed = True
        self._wake()

    def _on_closed(self) -> None:
        task = self._task
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def start(self, handler: AsyncStreamHandler) -> None:
        """Run the handler as the call's task."""
        stream = self._stream
        self._task = stream.conn.spawn(self._run(handler), name=stream.head.path)
        if stream.has_ended:
            self._task.cancel()

    async def _run(self, handler: AsyncStreamHandler) -> None:
        stream = self._stream
        try:
            try:
                await handler(self)
            except RpcError as error:
                stream.finish(error.code, error.message, error.trailers or self._trailers)
            else:
                stream.finish(0, "", self._trailers)
        except asyncio.CancelledError:
            # Ended from outside, unless it is the server that ends.
            stream.abort(StatusCode.UNAVAILABLE, "server is shutting down")
            raise
        except Exception:
            stream.abort(StatusCode.UNKNOWN, f"unexpected error in {stream.head.path}")
            raise  # the task's owner reports it


def async_stream(path: str, handler: AsyncStreamHandler) -> Method:
    """Return a method whose calls run ``handler(call)`` in a task."""

    def on_stream(stream: ServerStream) -> None:
        AsyncCall(stream).start(handler)

    return Method(path, stream=on_stream)


def async_unary(path: str, handler: AsyncUnaryHandler) -> Method:
    """Return a method whose calls run ``handler(call, request)`` in a task and answer its result."""

    async def serve(call: AsyncCall, request: bytes) -> None:
        await call.send(await handler(call, request))

    def on_stream(stream: ServerStream) -> None:
        requests: list[bytes] = []

        def on_half_close() -> None:
            if len(requests) != 1:
                error = missing_request()
                stream.abort(error.code, error.message)
                return
            request = requests[0]
            AsyncCall(stream).start(lambda call: serve(call, request))

        def on_message(message: bytes) -> None:
            requests.append(message)
            if len(requests) > 1:
                text = (
                    "cardinality violation: received multiple request messages"
                    " for non-client-streaming RPC"
                )
                stream.abort(StatusCode.INTERNAL, text)

        stream.on_message = on_message
        stream.on_half_close = on_half_close

    return Method(path, stream=on_stream)
