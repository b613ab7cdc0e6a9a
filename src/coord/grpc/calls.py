"""Calls of a balanced channel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from typing_extensions import override

from coord.grpc.faults import is_its_fault, may_repeat
from coord.recipes.registry import NoInstance
from coord.runtime import start_task

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from coord.grpc.balanced import BalancedChannel
    from coord.recipes.registry import Instance


class Observed:
    """A callback of gRPC's that reports how a call has ended."""

    def __init__(self, channel: BalancedChannel, instance: Instance) -> None:
        self._channel = channel
        self._instance = instance
        self._began = asyncio.get_running_loop().time()

    def __call__(self, call: Any) -> None:  # noqa: ANN401 - of four kinds
        """Report it. The status of a call that is done is there without waiting."""
        code: grpc.StatusCode | None = None
        asking = call.code().__await__()
        try:
            next(asking)
        except StopIteration as told:
            code = told.value
        except BaseException:  # noqa: BLE001 - a call that was cancelled before it began
            code = grpc.StatusCode.CANCELLED
        finally:
            asking.close()
        self.ended(code)

    def ended(self, code: grpc.StatusCode | None) -> None:
        """Report a status."""
        latency = asyncio.get_running_loop().time() - self._began
        self._channel.report(self._instance, ok=not is_its_fault(code), latency=latency)


class BalancedCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A unary call, sent again where that is safe."""

    def __init__(
        self,
        channel: BalancedChannel,
        method: str,
        send: Callable[[grpc.aio.Channel, float | None], Any],
        options: dict[str, Any],
    ) -> None:
        self._channel = channel
        self._method = method
        self._send = send
        self._metadata = options.get("metadata")
        self._waits = bool(options.get("wait_for_ready"))
        timeout: float | None = options.get("timeout")
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._deadline = None if timeout is None else loop.time() + timeout
        self._call: Any = None
        self._begun = asyncio.Event()
        self._task: asyncio.Task[Any] = start_task(self._run(), name=f"call of {method}")
        self._task.add_done_callback(lambda _: self._begun.set())

    # -- sending ---------------------------------------------------------------------------------------------------

    async def _run(self) -> Any:  # noqa: ANN401 - the response
        tried: set[bytes] = set()
        attempt = 0
        while True:
            attempt += 1
            instance, channel = await self._pick(frozenset(tried))
            tried.add(instance.key)
            observed = Observed(self._channel, instance)
            self._call = self._send(channel, self.time_remaining())
            self._begun.set()
            code: grpc.StatusCode | None = grpc.StatusCode.CANCELLED
            try:
                response = await self._call
                code = grpc.StatusCode.OK
                return response
            except grpc.aio.AioRpcError as error:
                code = error.code()
                if attempt >= self._channel.attempts or not self._may_repeat(error):
                    raise
            finally:
                observed.ended(code)

    async def _pick(self, tried: frozenset[bytes]) -> tuple[Instance, grpc.aio.Channel]:
        while True:
            try:
                return self._channel.pick(self._method, self._metadata, tried)
            except NoInstance as error:
                if not self._waits:
                    raise unavailable(error) from error
            try:
                async with asyncio.timeout(self.time_remaining()):
                    await self._channel.wait_for_instance()
            except TimeoutError as error:
                raise grpc.aio.AioRpcError(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.aio.Metadata(),
                    grpc.aio.Metadata(),
                    details="there is no instance",
                ) from error

    def _may_repeat(self, error: grpc.aio.AioRpcError) -> bool:
        return may_repeat(
            error.code(),
            error.details(),
            left=self.time_remaining(),
            idempotent=self._channel.is_idempotent(self._method),
        )

    # -- the interface of a call -----------------------------------------------------------------------------------

    @override
    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the response. Raises ``grpc.aio.AioRpcError``; a cancelled wait cancels the call."""
        return self._task.__await__()

    @override
    def cancel(self) -> bool:
        """Cancel the call; False if it was done."""
        return self._task.cancel()

    @override
    def cancelled(self) -> bool:
        """Say whether it was cancelled."""
        return self._task.cancelled()

    @override
    def done(self) -> bool:
        """Say whether it has ended."""
        return self._task.done()

    @override
    def time_remaining(self) -> float | None:
        """Return the seconds that are left, None without a timeout."""
        return None if self._deadline is None else max(0.0, self._deadline - self._time())

    @override
    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback(call)`` when it has ended."""
        self._task.add_done_callback(lambda _: callback(self))

    async def _ended(self) -> grpc.aio.AioRpcError | None:
        """Wait for the end, and return the error if it was one of gRPC's."""
        await asyncio.wait({self._task})
        if self._task.cancelled():
            return None
        error = self._task.exception()
        return error if isinstance(error, grpc.aio.AioRpcError) else None

    @override
    async def initial_metadata(self) -> Any:
        """Return what the server sent first, in the attempt that counts."""
        error = await self._ended()
        return await self._call.initial_metadata() if error is None else error.initial_metadata()

    @override
    async def trailing_metadata(self) -> Any:
        """Return what the server sent last."""
        error = await self._ended()
        return await self._call.trailing_metadata() if error is None else error.trailing_metadata()

    @override
    async def code(self) -> grpc.StatusCode:
        """Return the status."""
        error = await self._ended()
        if error is not None:
            return error.code()
        return grpc.StatusCode.CANCELLED if self._task.cancelled() else grpc.StatusCode.OK

    @override
    async def details(self) -> str:
        """Return what is said about the status."""
        error = await self._ended()
        return "" if error is None else error.details() or ""

    @override
    async def wait_for_connection(self) -> None:
        """Wait until there is a connection for it."""
        await self._begun.wait()
        if self._call is not None:
            await self._call.wait_for_connection()


def unavailable(error: Exception) -> grpc.aio.AioRpcError:
    """Return what gRPC's callers expect where there is nobody to call."""
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=str(error)
    )
