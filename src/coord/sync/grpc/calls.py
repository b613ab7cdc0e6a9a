"""Calls of a blocking balanced channel."""

from __future__ import annotations

import concurrent.futures
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from typing_extensions import override

from coord.grpc.faults import may_repeat
from coord.recipes.registry import NoInstance

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from coord.recipes.registry import Instance
    from coord.sync.grpc.balanced import BalancedChannel, Deserializer, Member, Metadata, Serializer

    # These are generic in the stubs only.
    Future = grpc.Future[Any]
    StreamUnaryMultiCallable = grpc.StreamUnaryMultiCallable[Any, Any]
    UnaryUnaryMultiCallable = grpc.UnaryUnaryMultiCallable[Any, Any]
else:
    Future = grpc.Future
    StreamUnaryMultiCallable = grpc.StreamUnaryMultiCallable
    UnaryUnaryMultiCallable = grpc.UnaryUnaryMultiCallable


class Refused(grpc.RpcError, grpc.Call):
    """A call that reached nobody: what gRPC's callers expect, which is an error and a call."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code
        self._details = details

    @override
    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    @override
    def details(self) -> str:
        """Return what is said about it."""
        return self._details

    @override
    def initial_metadata(self) -> tuple[()]:
        """Return nothing: nobody has sent any."""
        return ()

    @override
    def trailing_metadata(self) -> tuple[()]:
        """Return nothing: nobody has sent any."""
        return ()

    @override
    def is_active(self) -> bool:
        """Return False."""
        return False

    @override
    def time_remaining(self) -> Any:
        """Return None."""
        return None

    @override
    def cancel(self) -> bool:
        """Do nothing: it has ended."""
        return False

    @override
    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Return False: it has ended."""
        return False


class _Attempts:
    """What the attempts of one call have in common."""

    def __init__(
        self,
        channel: BalancedChannel,
        method: str,
        metadata: Metadata | None,
        timeout: float | None,
    ) -> None:
        self.channel = channel
        self._method = method
        self._metadata = metadata
        self._deadline = None if timeout is None else channel.now() + timeout
        self._tried: frozenset[bytes] = frozenset()
        self._count = 0

    def left(self) -> float | None:
        """Return the seconds that are left, None without a timeout."""
        return None if self._deadline is None else max(0.0, self._deadline - self.channel.now())

    def pick(self) -> _Attempt:
        """Choose where to send it. Raises :class:`coord.NoInstance`."""
        instance, member = self.channel.pick(self._method, self._metadata, self._tried)
        self._count += 1
        self._tried |= {instance.key}
        return _Attempt(self.channel, instance, member)

    def may_repeat(self, error: grpc.RpcError) -> bool:
        """Say whether it may be sent again after ``error``."""
        return self._count < self.channel.attempts and may_repeat(
            _code(error),
            _details(error),
            left=self.left(),
            idempotent=self.channel.is_idempotent(self._method),
        )


class _Attempt:
    """One sending."""

    def __init__(self, channel: BalancedChannel, instance: Instance, member: Member) -> None:
        self._channel = channel
        self._instance = instance
        self._member = member
        self._began = channel.now()

    @property
    def inner(self) -> grpc.Channel:
        """The channel to send it through."""
        return self._member.channel

    def observe(self, call: Any) -> None:  # noqa: ANN401 - gRPC's
        """Take note of the end of ``call``."""
        self.ended(call.code())

    def ended(self, code: grpc.StatusCode | None) -> None:
        """Take note of its end."""
        latency = self._channel.now() - self._began
        self._channel.ended(self._instance, self._member, code, latency)


def _code(error: object) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN


def _details(error: object) -> str | None:
    return error.details() if isinstance(error, grpc.Call) else None


class UnaryUnary(UnaryUnaryMultiCallable):
    """Makes the calls of one method; they are sent again where that is safe."""

    def __init__(
        self,
        channel: BalancedChannel,
        method: str,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
    ) -> None:
        self._channel = channel
        self._method = method
        self._made = (method, serializer, deserializer)

    @override
    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Return the response. Raises ``grpc.RpcError``."""
        response, _ = self.with_call(
            request, timeout, metadata, credentials, wait_for_ready, compression
        )
        return response

    @override
    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Return the response and the call of the attempt that counts. Raises ``grpc.RpcError``."""
        attempts = _Attempts(self._channel, self._method, metadata, timeout)
        while True:
            attempt = self._pick(attempts, waits=bool(wait_for_ready))
            code: grpc.StatusCode | None = grpc.StatusCode.CANCELLED
            try:
                made: Any = attempt.inner.unary_unary(*self._made)
                answer = made.with_call(
                    request,
                    timeout=attempts.left(),
                    metadata=metadata,
                    credentials=credentials,
                    wait_for_ready=wait_for_ready,
                    compression=compression,
                )
                code = grpc.StatusCode.OK
                return answer
            except grpc.RpcError as error:
                code = _code(error)
                if not attempts.may_repeat(error):
                    raise
            finally:
                attempt.ended(code)

    def _pick(self, attempts: _Attempts, *, waits: bool) -> _Attempt:
        while True:
            try:
                return attempts.pick()
            except NoInstance as error:
                if not waits:
                    raise Refused(grpc.StatusCode.UNAVAILABLE, str(error)) from error
            self._channel.wait_for_instance(attempts.left())

    @override
    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Return the call, which is a ``grpc.Future`` of the response."""

        def send(channel: grpc.Channel, left: float | None) -> Any:  # noqa: ANN401 - gRPC's
            made: Any = channel.unary_unary(*self._made)
            return made.future(
                request,
                timeout=left,
                metadata=metadata,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )

        attempts = _Attempts(self._channel, self._method, metadata, timeout)
        return BalancedFuture(attempts, send, waits=bool(wait_for_ready))


class BalancedFuture(grpc.Call, Future):
    """A call under way, sent again where that is safe."""

    def __init__(
        self,
        attempts: _Attempts,
        send: Callable[[grpc.Channel, float | None], Any],
        *,
        waits: bool,
    ) -> None:
        self._attempts = attempts
        self._send = send
        self._waits = waits
        self._call: Any = None
        self._cancelled = False
        # Of the response; its lock is all that is needed between gRPC's threads and the callers'.
        self._outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._begin()

    def _begin(self) -> None:
        try:
            attempt = self._attempts.pick()
        except NoInstance as error:
            if self._waits:
                self._attempts.channel.when_instance(self._attempts.left(), self._go_on)
            else:
                self._fail(Refused(grpc.StatusCode.UNAVAILABLE, str(error)))
            return
        call = self._call = self._send(attempt.inner, self._attempts.left())
        call.add_done_callback(partial(self._ended, attempt))
        if self._cancelled:
            call.cancel()

    def _go_on(self, found: bool) -> None:  # noqa: FBT001 - as it is called
        if self._cancelled:
            return
        if found:
            self._begin()
        else:
            self._fail(Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "there is no instance"))

    def _ended(self, attempt: _Attempt, call: Any) -> None:  # noqa: ANN401 - gRPC's
        attempt.ended(call.code())
        if call.cancelled():
            self._outcome.cancel()
            return
        error = call.exception()
        if error is None:
            if not self._outcome.cancelled():
                self._outcome.set_result(call.result())
        elif not self._cancelled and self._attempts.may_repeat(error):
            self._begin()
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._outcome.cancelled():
            self._outcome.set_exception(error)

    # -- the interface of a future ---------------------------------------------------------------------------------

    @override
    def cancel(self) -> bool:
        """Cancel it; False if it was done."""
        if self._outcome.done():
            return False
        self._cancelled = True
        if self._call is None:
            return self._outcome.cancel()
        return bool(self._call.cancel())

    @override
    def cancelled(self) -> bool:
        """Say whether it was cancelled."""
        return self._outcome.cancelled()

    @override
    def running(self) -> bool:
        """Say whether it has not ended."""
        return not self._outcome.done()

    @override
    def done(self) -> bool:
        """Say whether it has ended."""
        return self._outcome.done()

    @override
    def result(self, timeout: float | None = None) -> Any:
        """Wait for the response. Raises ``grpc.RpcError``, ``grpc.FutureTimeoutError``, ``FutureCancelledError``."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._outcome.result()

    @override
    def exception(self, timeout: float | None = None) -> Any:
        """Wait for the end, and return the error, None if there was none."""
        try:
            return self._outcome.exception(timeout)
        except concurrent.futures.CancelledError:
            raise grpc.FutureCancelledError from None
        except TimeoutError:
            raise grpc.FutureTimeoutError from None

    @override
    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Wait for the end, and return where the error came from."""
        error: BaseException | None = self.exception(timeout)
        return None if error is None else error.__traceback__

    @override
    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call ``fn(call)`` when it has ended."""
        self._outcome.add_done_callback(lambda _: fn(self))

    # -- the interface of a call -----------------------------------------------------------------------------------

    def _last(self) -> Any:  # noqa: ANN401 - gRPC's
        """Wait for the end, and return the call that tells of it."""
        try:
            error = self._outcome.exception()
        except concurrent.futures.CancelledError:
            error = None
        if isinstance(error, Refused):
            return error
        if self._call is None:
            return Refused(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        return self._call

    @override
    def initial_metadata(self) -> Any:
        """Return what the server sent first, in the attempt that counts."""
        return self._last().initial_metadata()

    @override
    def trailing_metadata(self) -> Any:
        """Return what the server sent last."""
        return self._last().trailing_metadata()

    @override
    def code(self) -> grpc.StatusCode:
        """Return the status, once it has ended."""
        code: grpc.StatusCode = self._last().code()
        return code

    @override
    def details(self) -> str:
        """Return what is said about the status."""
        return self._last().details() or ""

    @override
    def is_active(self) -> bool:
        """Say whether it has not ended."""
        return not self._outcome.done()

    @override
    def time_remaining(self) -> Any:
        """Return the seconds that are left, None without a timeout."""
        return self._attempts.left()

    @override
    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call ``callback()`` when it has ended; False if it has already, and it is not called then."""
        if self._outcome.done():
            return False
        self._outcome.add_done_callback(lambda _: callback())
        return True


class Once(StreamUnaryMultiCallable):
    """Makes calls that are sent once, to the instance that is picked when they begin."""

    def __init__(
        self,
        channel: BalancedChannel,
        kind: str,
        method: str,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._made = (method, serializer, deserializer)

    def _pick(self, options: dict[str, Any]) -> tuple[_Attempt, Any]:
        attempts = _Attempts(self._channel, self._made[0], options.get("metadata"), None)
        try:
            attempt = attempts.pick()
        except NoInstance as error:
            raise Refused(grpc.StatusCode.UNAVAILABLE, str(error)) from error
        return attempt, getattr(attempt.inner, self._kind)(*self._made)

    def _blocking(self, what: str, requests: Any, options: dict[str, Any]) -> Any:  # noqa: ANN401 - gRPC's
        attempt, made = self._pick(options)
        code: grpc.StatusCode | None = grpc.StatusCode.CANCELLED
        try:
            answer = getattr(made, what)(requests, **options)
            code = grpc.StatusCode.OK
            return answer
        except grpc.RpcError as error:
            code = _code(error)
            raise
        finally:
            attempt.ended(code)

    def _going(self, what: str, requests: Any, options: dict[str, Any]) -> Any:  # noqa: ANN401 - gRPC's
        attempt, made = self._pick(options)
        call = getattr(made, what)(requests, **options)
        call.add_done_callback(attempt.observe)
        return call

    @override
    def __call__(self, request_iterator: Any, *args: Any, **options: Any) -> Any:
        """Begin the call; of ``stream_unary`` return its response."""
        options |= dict(zip(_OPTIONS, args, strict=False))
        if self._kind == "stream_unary":
            return self._blocking("__call__", request_iterator, options)
        return self._going("__call__", request_iterator, options)

    @override
    def with_call(self, request_iterator: Any, *args: Any, **options: Any) -> Any:
        """Return the response and the call."""
        options |= dict(zip(_OPTIONS, args, strict=False))
        return self._blocking("with_call", request_iterator, options)

    @override
    def future(self, request_iterator: Any, *args: Any, **options: Any) -> Any:
        """Return the call, which is a ``grpc.Future`` of the response."""
        options |= dict(zip(_OPTIONS, args, strict=False))
        return self._going("future", request_iterator, options)


_OPTIONS = ("timeout", "metadata", "credentials", "wait_for_ready", "compression")
