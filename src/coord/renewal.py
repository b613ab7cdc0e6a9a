"""Keeping leases alive: many on one stream, answers matched to requests in order (etcd API: LeaseKeepAlive).

A :class:`RenewalPool` lives on the runtime's loop and spreads leases over streams of at most ``_LEASES_PER_STREAM``;
a critical lease gets a stream of its own.
It only carries messages: when to renew, and what an answer is worth, is decided by :class:`coord.session.Session`.

On one stream answers come in the order of the requests, so each is matched with the time at which its request was
*sent*: the time from which the server's promise surely holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Protocol

from coord.rpc.status import RpcError
from coord.runtime import Backoff
from coord.wire import fast, methods

if TYPE_CHECKING:
    from coord.runtime import Env, Supervisor
    from coord.transport import MessageStream, Transport

_LEASES_PER_STREAM = 64
_RETRY_MIN_S = 0.05
_RETRY_MAX_S = 0.5
METADATA = (("hasleader", "true"),)
"""A member that has lost its leader must say so instead of keeping us waiting (spec core 6)."""


class Renewable(Protocol):
    """A lease as the pool sees it."""

    @property
    def lease_id(self) -> int:
        """The lease's id."""
        ...

    @property
    def attempt_limit(self) -> float:
        """Seconds that one attempt to get a stream may take."""
        ...

    def on_renewed(self, sent_at: float, ttl: int) -> None:
        """Take an answer to a request sent at ``sent_at`` (monotonic seconds); ``ttl`` <= 0: no such lease."""
        ...


class _RenewalStream:
    """One stream and the leases on it; reopened, on another endpoint, while there are leases."""

    def __init__(self, transport: Transport, env: Env, supervisor: Supervisor) -> None:
        self._transport = transport
        self._env = env
        self._supervisor = supervisor
        self.leases: dict[int, Renewable] = {}
        self._waiting: deque[tuple[int, float]] = deque()
        self._stream: MessageStream | None = None
        self._due: dict[int, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._endpoint: str | None = None

    @property
    def endpoint(self) -> str | None:
        """Where the stream runs now, or ran last."""
        return self._endpoint

    def renew(self, lease: Renewable) -> None:
        """Send a renewal now, or as soon as there is a stream."""
        if self._stream is not None:
            self._send(lease.lease_id)
            return
        self._due[lease.lease_id] = None
        if self._task is None or self._task.done():
            self._start(failed=False)

    def remove(self, lease_id: int) -> None:
        self.leases.pop(lease_id, None)
        self._due.pop(lease_id, None)
        if not self.leases and self._stream is not None:
            self._stream.cancel()

    def _start(self, *, failed: bool) -> None:
        nobody_s = Context()  # it serves many
        self._task = self._supervisor.spawn(
            self._run(failed=failed), name="lease-renewals", context=nobody_s
        )
        self._task.add_done_callback(self._ended, context=nobody_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Start again if there is still something to renew: whatever ended the task, silence is not an answer."""
        if self._task is not task:
            return
        # An ended task keeps, through its exception, the stream and with it the connection.
        self._task = None
        if self.leases:
            with contextlib.suppress(RuntimeError):  # the client has closed
                self._start(failed=True)

    def _send(self, lease_id: int) -> None:
        if self._stream is not None:
            self._waiting.append((lease_id, self._env.clock.mono()))
            self._stream.send(fast.encode_keep_alive(lease_id))

    async def _run(self, *, failed: bool) -> None:
        backoff = Backoff(self._env.rand, _RETRY_MIN_S, _RETRY_MAX_S)
        if failed:
            await Backoff(self._env.rand, _RETRY_MAX_S, _RETRY_MAX_S).pause()
        while self.leases:
            try:
                if await self._one_stream():
                    backoff.reset()
            except RpcError:
                pass  # the session notices by itself that no confirmation comes; here we only try again
            if self.leases:
                await backoff.pause()

    async def _one_stream(self) -> bool:
        limit = min(lease.attempt_limit for lease in self.leases.values())
        stream = await self._transport.open_stream(
            methods.LEASE_KEEP_ALIVE.path, timeout=limit, metadata=METADATA, avoid=self._endpoint
        )
        self._stream = stream
        self._endpoint = stream.endpoint
        self._waiting.clear()
        answered = False
        try:
            due, self._due = self._due, {}
            for lease_id in due:
                self._send(lease_id)
            while self.leases:
                message = await stream.receive()
                if message is None:
                    break
                answered = True
                self._take(message)
            return answered
        finally:
            self._stream = None
            stream.cancel()
            # What was sent and not answered is asked again on the next stream.
            for lease_id, _ in self._waiting:
                if lease_id in self.leases:
                    self._due[lease_id] = None

    def _take(self, message: bytes) -> None:
        decoded = fast.decode_keep_alive_response(message)
        if decoded is None or not self._waiting:
            return
        answered_id, ttl, _ = decoded
        lease_id, sent_at = self._waiting.popleft()
        lease = self.leases.get(lease_id)
        if lease is not None and answered_id == lease_id:
            lease.on_renewed(sent_at, ttl)


class RenewalPool:
    """All renewals of one client."""

    def __init__(self, transport: Transport, env: Env, supervisor: Supervisor) -> None:
        self._transport = transport
        self._env = env
        self._supervisor = supervisor
        self._shared: list[_RenewalStream] = []
        self._of: dict[int, _RenewalStream] = {}

    @property
    def stream_count(self) -> int:
        """How many streams carry renewals."""
        return len({id(s) for s in self._of.values()})

    def add(self, lease: Renewable, *, critical: bool) -> None:
        """Take a lease in; ``critical`` gives it a stream of its own."""
        stream = None
        if not critical:
            stream = next((s for s in self._shared if len(s.leases) < _LEASES_PER_STREAM), None)
        if stream is None:
            stream = _RenewalStream(self._transport, self._env, self._supervisor)
            if not critical:
                self._shared.append(stream)
        stream.leases[lease.lease_id] = lease
        self._of[lease.lease_id] = stream

    def remove(self, lease: Renewable) -> None:
        """Stop renewing. Unknown leases are ignored."""
        stream = self._of.pop(lease.lease_id, None)
        if stream is not None:
            stream.remove(lease.lease_id)
            if not stream.leases and stream in self._shared:
                self._shared.remove(stream)

    def renew(self, lease: Renewable) -> None:
        """Ask for a renewal; the answer goes to ``lease.on_renewed``."""
        stream = self._of.get(lease.lease_id)
        if stream is not None:
            stream.renew(lease)

    def _endpoint_of(self, lease: Renewable) -> str | None:
        stream = self._of.get(lease.lease_id)
        return None if stream is None else stream.endpoint

    async def renew_elsewhere(self, lease: Renewable, *, timeout: float) -> None:
        """Renew once on a stream of its own, if possible through another endpoint. Failures are silent.

        Where there is no other one, over a new connection: what is silent may be the one that we have.
        """
        if len(self._transport.endpoints) == 1:
            self._transport.suspect()
        try:
            async with asyncio.timeout(timeout):
                stream = await self._transport.open_stream(
                    methods.LEASE_KEEP_ALIVE.path,
                    timeout=timeout,
                    metadata=METADATA,
                    avoid=self._endpoint_of(lease),
                )
                try:
                    sent_at = self._env.clock.mono()
                    stream.send(fast.encode_keep_alive(lease.lease_id))
                    message = await stream.receive()
                finally:
                    stream.cancel()
        except (RpcError, TimeoutError):
            return
        decoded = None if message is None else fast.decode_keep_alive_response(message)
        if decoded is not None and decoded[0] == lease.lease_id:
            lease.on_renewed(sent_at, decoded[1])
