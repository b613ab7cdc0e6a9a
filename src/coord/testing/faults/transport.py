"""A carrier that does to requests what :class:`Faults` says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

from coord.rpc.status import RpcError, StatusCode
from coord.runtime import start_task
from coord.testing.faults.rules import Action, Call, late
from coord.testing.faults.stream import FaultyStream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from coord.rpc.metadata import Metadata
    from coord.testing.faults.faults import Faults
    from coord.testing.faults.rules import FaultRule
    from coord.transport import Cancellable, MessageStream, Transport


class FaultyTransport:
    """Wraps a carrier. What it does not know of is the carrier's own business."""

    def __init__(self, inner: Transport, faults: Faults, client: str) -> None:
        self.inner = inner
        self._faults = faults
        self._client = client
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._streams: dict[FaultyStream, None] = {}

    def as_transport(self) -> Transport:
        """Return itself: type checkers do not see what ``__getattr__`` hands on."""
        return cast("Transport", self)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the carrier has
        return getattr(self.inner, name)

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        """See :meth:`coord.transport.Transport.unary`."""

        async def ask(left: float) -> bytes:
            return await self.inner.unary(
                path, request, timeout=left, metadata=metadata, avoid=avoid
            )

        rule = self._match(path, request)
        if rule is None and not self._faults.is_isolated(self._client):
            answer = await ask(timeout)
            # A partition that came meanwhile holds the answer.
            return await self._through(answer, timeout)
        return await self._faulty(rule, ask, timeout)

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float,
        metadata: Metadata = (),
    ) -> Cancellable:
        """See :meth:`coord.transport.Transport.start_unary`."""

        def settle(task: asyncio.Task[bytes]) -> None:
            if task.cancelled():
                return
            error = task.exception()
            if error is None:
                done(task.result())
            elif isinstance(error, RpcError):
                done(error)
            else:
                done(RpcError(StatusCode.INTERNAL, f"in a fault: {error!r}", sent=True))

        task = self._spawn(self.unary(path, request, timeout=timeout, metadata=metadata))
        task.add_done_callback(settle)
        return task

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        """See :meth:`coord.transport.Transport.open_stream`."""
        await self._passage(timeout)
        inner = await self.inner.open_stream(path, timeout=timeout, metadata=metadata, avoid=avoid)
        stream = FaultyStream(inner, self._faults, self._client, path, self._streams.pop)
        self._streams[stream] = None
        return stream

    async def close(self) -> None:
        """See :meth:`coord.transport.Transport.close`."""
        for stream in tuple(self._streams):
            stream.cancel()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.inner.close()

    def _match(self, path: str, request: bytes) -> FaultRule | None:
        call = Call(client=self._client, path=path, request=request)
        return self._faults.match(call, is_stream=False)

    async def _faulty(
        self,
        rule: FaultRule | None,
        ask: Callable[[float], Coroutine[Any, Any, bytes]],
        timeout: float,
    ) -> bytes:
        now = asyncio.get_running_loop().time
        deadline = now() + timeout

        def left() -> float:
            return max(deadline - now(), 0.0)

        await self._passage(timeout)
        match None if rule is None else rule.action:
            case Action.DROP_REQUEST:
                raise await _lost(rule, left(), timeout)
            case Action.DROP_REPLY:
                await ask(left())
                raise await _lost(rule, left(), timeout)
            case Action.LATE if rule is not None:
                self._arrive_later(rule, ask, timeout)
                raise rule.lost()
            case Action.FAIL if rule is not None:
                raise rule.error()
            case Action.DELAY if rule is not None:
                too_late = rule.seconds >= left()
                await asyncio.sleep(min(rule.seconds, left()))
                if too_late:
                    raise late(timeout)
            case Action.DUPLICATE if rule is not None:
                answer = await ask(left())
                self._arrive_later(rule, ask, timeout)
                if rule.gate.is_open:
                    await rule.arrive()
                return await self._through(answer, left())
            case Action.HOLD if rule is not None:
                await self._held(rule, ask, timeout)
            case _:
                pass
        return await self._through(await ask(left()), left())

    async def _held(
        self,
        rule: FaultRule,
        ask: Callable[[float], Coroutine[Any, Any, bytes]],
        timeout: float,
    ) -> None:
        """Return once the request may go; if the caller goes first, it arrives behind its back."""
        try:
            async with asyncio.timeout(timeout):
                await rule.gate.passed()
        except (TimeoutError, asyncio.CancelledError) as gone:
            self._arrive_later(rule, ask, timeout)
            if isinstance(gone, TimeoutError):
                raise late(timeout) from None
            raise

    def _arrive_later(
        self,
        rule: FaultRule,
        ask: Callable[[float], Coroutine[Any, Any, bytes]],
        timeout: float,
    ) -> None:
        """Send a request that nobody waits for as soon as its rule lets it go."""
        kept = contextlib.ExitStack()
        kept.enter_context(rule.keeping())

        async def arrive() -> None:
            await rule.gate.passed()
            if not rule.removed:  # else it would arrive in somebody else's test
                # A late request may well be refused; that is an answer, too.
                with contextlib.suppress(RpcError):
                    await ask(timeout)

        # Also when it is cancelled before it has begun.
        self._spawn(arrive()).add_done_callback(lambda _: kept.close())

    async def _passage(self, timeout: float) -> None:
        if not self._faults.is_isolated(self._client):
            return
        try:
            async with asyncio.timeout(timeout):
                await self._faults.passage(self._client)
        except TimeoutError:
            raise late(timeout) from None

    async def _through(self, answer: bytes, timeout: float) -> bytes:
        await self._passage(timeout)
        return answer

    def _spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = start_task(coro)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task


async def _lost(rule: FaultRule | None, left: float, timeout: float) -> RpcError:
    """Return what the caller of a lost request sees, when it sees it."""
    if rule is not None and not rule.silent:
        return rule.lost()
    await asyncio.sleep(left)
    return late(timeout)
