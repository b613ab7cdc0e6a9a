"""One stream under faults: in order like a real one, or broken, or silent."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from coord.rpc.status import RpcError, StatusCode
from coord.runtime import start_task
from coord.testing.faults.rules import Action, Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.faults.faults import Faults
    from coord.testing.faults.rules import FaultRule
    from coord.transport import MessageStream


class FaultyStream:
    """Wraps a stream; ``over(stream)`` is called when it was cancelled."""

    def __init__(
        self,
        inner: MessageStream,
        faults: Faults,
        client: str,
        path: str,
        over: Callable[[FaultyStream, None], object],
    ) -> None:
        self._inner = inner
        self._faults = faults
        self._client = client
        self._path = path
        self._over = over
        self._outbox: deque[bytes | None] = deque()  # None: no more follow
        self._carrier: asyncio.Task[None] | None = None
        self._obstacle: FaultRule | None = None  # before the first of the outbox
        self._receiver: asyncio.Task[bytes | RpcError | None] | None = None
        self._ended = asyncio.Event()
        self._error: RpcError | None = None
        self._silent = False
        self._drops_reply: FaultRule | None = None

    @property
    def endpoint(self) -> str:
        """See :class:`coord.transport.MessageStream`."""
        return self._inner.endpoint

    def send(self, message: bytes) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._enqueue(message)

    def half_close(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._enqueue(None)

    async def receive(self) -> bytes | None:
        """See :class:`coord.transport.MessageStream`."""
        while True:
            message = await self._next()
            if self._drops_reply is None:
                return message
            rule, self._drops_reply = self._drops_reply, None
            self._lose(rule)

    async def _next(self) -> bytes | None:
        """Return what comes next and may pass; raises what ended the stream."""
        if self._error is not None:
            raise self._error
        if self._receiver is None:
            self._receiver = start_task(self._arrival())
        ended = start_task(self._ended.wait())
        receiver = self._receiver
        try:
            await asyncio.wait({receiver, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if self._error is not None:
            raise self._error
        self._receiver = None
        arrived = receiver.result()
        if isinstance(arrived, RpcError):
            self._over(self, None)
            raise arrived
        return arrived

    async def _arrival(self) -> bytes | RpcError | None:
        """Take one message in, or the end; neither comes through a partition or out of silence."""
        arrived: bytes | RpcError | None
        try:
            arrived = await self._inner.receive()
        except RpcError as error:
            arrived = error
        await self._faults.passage(self._client)
        if self._silent:
            await self._ended.wait()
        return arrived

    def cancel(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._end(RpcError(StatusCode.CANCELLED, "the stream was cancelled"))

    def distrust(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        self._inner.distrust()

    def _end(self, error: RpcError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._ended.set()
        for task in (self._carrier, self._receiver):
            if task is not None:
                task.cancel()
        self._inner.cancel()
        self._over(self, None)

    def _lose(self, rule: FaultRule) -> None:
        """End the stream, or let nothing through any more."""
        if rule.silent:
            self._silent = True
        else:
            self._end(rule.lost())

    def _enqueue(self, message: bytes | None) -> None:
        if self._error is not None:
            return
        self._outbox.append(message)
        if self._carrier is None:
            # What meets no obstacle leaves at once, as on a real stream.
            self._carry_what_may()
            if self._outbox and self._error is None:
                self._carrier = start_task(self._carry())

    def _carry_what_may(self) -> None:
        while self._outbox and not self._faults.is_isolated(self._client):
            rule = self._rule_for(self._outbox[0])
            if rule is not None and rule.action in {Action.DELAY, Action.HOLD}:
                self._obstacle = rule
                return
            self._put_through(self._outbox.popleft(), rule)

    async def _carry(self) -> None:
        """Wait for what stands before the first message, then go on; until nothing is left."""
        while self._outbox:
            await self._faults.passage(self._client)
            rule, self._obstacle = self._obstacle, None
            if rule is not None:
                await asyncio.sleep(rule.seconds)
                await rule.gate.passed()
                self._put_through(self._outbox.popleft(), None)
            self._carry_what_may()
        self._carrier = None

    def _rule_for(self, message: bytes | None) -> FaultRule | None:
        if message is None:
            return None
        call = Call(client=self._client, path=self._path, request=message)
        return self._faults.match(call, is_stream=True)

    def _put_through(self, message: bytes | None, rule: FaultRule | None) -> None:
        if self._silent or self._error is not None:
            return
        if rule is not None:
            match rule.action:
                case Action.FAIL:
                    self._end(rule.error())
                    return
                case Action.DROP_REQUEST | Action.LATE:
                    self._lose(rule)
                    return
                case Action.DROP_REPLY:
                    self._drops_reply = rule
                case _:
                    pass
        if message is None:
            self._inner.half_close()
        else:
            self._inner.send(message)
