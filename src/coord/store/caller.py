"""Unary calls: deadline, repetition by meaning, and errors that say what happened.

The first attempt is made directly, since nearly all succeed; tenacity takes over after a failure.

A call may be made on any loop.
Messages are encoded and decoded there; only bytes cross to the runtime's loop and back, without a task, so that many
callers share the runtime thread cheaply.
"""

from __future__ import annotations

import asyncio
import copy
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from coord._telemetry import note_retry, observed_call, telemetry
from coord.errors import ClientClosed, CoordError, ProtocolError, from_status, is_unknown_outcome
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import tenacity

    from coord._telemetry import Telemetry
    from coord.rpc.metadata import Metadata
    from coord.runtime import Runtime
    from coord.runtime.seams import Env
    from coord.transport import Transport
    from coord.wire.methods import Rpc

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)

# Full jitter between these bounds; the first retry comes almost at once, since most failures are a connection that
# another endpoint can replace.
_BACKOFF_FIRST_S = 0.025
_BACKOFF_MAX_S = 1.0

# The server says that it did nothing, and that a moment later it may.
_TRANSIENT_TEXT = frozenset(
    {"etcdserver: leader changed", "etcdserver: too many requests", "etcdserver: no leader"}
)


class Repeat(Enum):
    """What a request means when its answer is missing."""

    READ = "read"
    """Changes nothing: may be sent again after any transient failure."""
    IDEMPOTENT = "idempotent"
    """Applying it twice equals applying it once, by construction of the request (spec recipes C4)."""
    ONCE = "once"
    """Sent again only if it certainly was not processed; else the outcome is reported as unknown."""


def may_repeat(error: RpcError, repeat: Repeat) -> bool:
    """Decide whether a request that failed with ``error`` may be sent again."""
    if error.code is StatusCode.UNAVAILABLE and not error.sent:
        return True
    if error.message in _TRANSIENT_TEXT:
        return True
    if repeat is Repeat.ONCE:
        return False
    return error.code is StatusCode.UNAVAILABLE or (
        error.code is StatusCode.CANCELLED and is_unknown_outcome(error)
    )


def decode(kind: type[Resp], answer: bytes) -> Resp:
    """Decode an answer. Raises :class:`ProtocolError` when it is no such message."""
    try:
        return kind.FromString(answer)
    except DecodeError as exc:
        raise ProtocolError(f"the server's answer is not a {kind.__name__}") from exc


class Caller:
    """Makes unary calls for the typed rooms, from any loop."""

    def __init__(self, transport: Transport, runtime: Runtime, *, request_timeout: float) -> None:
        self.transport = transport
        self.runtime = runtime
        self.env: Env = runtime.env
        self.request_timeout = request_timeout

    def over(self, transport: Transport) -> Caller:
        """Return a caller that does the same over another transport."""
        other = copy.copy(self)
        other.transport = transport
        return other

    async def call(
        self,
        rpc: Rpc[Req, Resp],
        request: Req,
        *,
        repeat: Repeat,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Resp:
        """Call ``rpc`` and return its decoded answer.

        ``timeout`` in seconds covers all attempts; None means the client's ``request_timeout``.
        Raises the errors of :func:`coord.errors.from_status`.
        """
        answer = await self.call_raw(
            rpc.path, request.SerializeToString(), repeat=repeat, timeout=timeout, metadata=metadata
        )
        return decode(rpc.response, answer)

    def call_raw(
        self,
        path: str,
        request: bytes,
        *,
        repeat: Repeat,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Awaitable[bytes]:
        """As :meth:`call`, with encoded messages. To be awaited at once."""
        seen = telemetry()
        if seen is None:
            return self._call(path, request, repeat, timeout, metadata)
        return self._observed(seen, path, request, repeat, timeout, metadata)

    def _observed(  # apart, since a function whose variables a lambda takes is slower for everybody
        self,
        seen: Telemetry,
        path: str,
        request: bytes,
        repeat: Repeat,
        timeout: float | None,
        metadata: Metadata,
    ) -> Awaitable[bytes]:
        return observed_call(
            seen,
            path,
            metadata,
            lambda sent: self._call(path, request, repeat, timeout, sent),
            where=lambda: self.transport.current,
            clock=self.env.clock,
        )

    async def _call(
        self,
        path: str,
        request: bytes,
        repeat: Repeat,
        timeout: float | None,
        metadata: Metadata,
    ) -> bytes:
        limit = self.request_timeout if timeout is None else timeout
        deadline = self.env.clock.mono() + limit
        try:
            return await self._attempt(path, request, limit, metadata)
        except RpcError as error:
            first = error
        self._consider(first)
        try:
            if self.transport.closed or not may_repeat(first, repeat):
                raise first
            return await self._again(path, request, first, repeat, deadline, metadata)
        except RpcError as error:
            raise self.failure(path, error, repeat, limit) from error

    def _consider(self, error: RpcError) -> None:
        """Turn away from an endpoint that is there but of no use: partitioned, stuck, or silent."""
        if error.sent and error.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
            self.runtime.post(self.transport.suspect)

    def _attempt(
        self, path: str, request: bytes, limit: float, metadata: Metadata
    ) -> Awaitable[bytes]:
        """Make one attempt, here if this is the runtime's loop, else over there."""
        loop = asyncio.get_running_loop()
        transport = self.transport
        if loop is self.runtime.loop:
            self.runtime.check_process()
            return transport.unary(path, request, timeout=limit, metadata=metadata)
        begin = partial(transport.start_unary, path, request, timeout=limit, metadata=metadata)
        return self.runtime.exchange(begin, loop)

    def failure(self, path: str, error: RpcError, repeat: Repeat, limit: float) -> CoordError:
        """Return what to raise for a call that failed with ``error`` for good."""
        operation, writes = path.rpartition("/")[2], repeat is not Repeat.READ
        if self.transport.closed and not (writes and is_unknown_outcome(error)):
            return ClientClosed()
        return from_status(error, operation=operation, writes=writes, timeout=limit)

    async def _again(
        self,
        path: str,
        request: bytes,
        first: RpcError,
        repeat: Repeat,
        deadline: float,
        metadata: Metadata,
    ) -> bytes:
        """Repeat until success, a final failure, or the deadline; then the most telling error is raised."""
        import tenacity  # 38 ms that only a failure costs

        clock, rand = self.env.clock, self.env.rand
        # Once one attempt may have been applied, a later "not sent" must not make the outcome look certain.
        doubt: RpcError | None = first if is_unknown_outcome(first) else None
        before = first

        def wait(state: tenacity.RetryCallState) -> float:
            ceiling = min(
                _BACKOFF_MAX_S, _BACKOFF_FIRST_S * float(2 ** min(state.attempt_number, 10))
            )
            return min(rand.uniform(0, ceiling), max(0.0, deadline - clock.mono()))

        def stop(_: tenacity.RetryCallState) -> bool:
            return clock.mono() >= deadline

        await _pause(rand.uniform(0, _BACKOFF_FIRST_S))
        retrying = tenacity.AsyncRetrying(
            wait=wait,
            stop=stop,
            retry=tenacity.retry_if_exception(
                lambda e: (
                    isinstance(e, RpcError) and may_repeat(e, repeat) and not self.transport.closed
                )
            ),
            sleep=_pause,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    left = deadline - clock.mono()
                    if left <= 0:
                        raise first
                    note_retry(path, attempt.retry_state.attempt_number, before)
                    try:
                        return await self._attempt(path, request, left, metadata)
                    except RpcError as error:
                        before = error
                        self._consider(error)
                        if is_unknown_outcome(error):
                            doubt = error
                        raise
        except RpcError as last:
            if doubt is not None and not last.sent:
                raise doubt from last
            raise
        raise first


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)
