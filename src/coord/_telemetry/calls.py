"""Unary calls: one span and one measurement each, all attempts included; retries are events of the span."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord._telemetry import names
from coord._telemetry.providers import telemetry
from coord._telemetry.spans import api, carried, entered, fail, place
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opentelemetry.trace import Span, Tracer

    from coord._telemetry.providers import Telemetry
    from coord.rpc.metadata import Metadata
    from coord.runtime import Address, Clock


def call_attributes(path: str) -> dict[str, str | int]:
    """Return service and method of ``/package.Service/Method``."""
    service, _, method = path[1:].partition("/")
    return {names.RPC_SERVICE: service, names.RPC_METHOD: method}


def rpc_span(tracer: Tracer, path: str, **how: object) -> Span:
    """Start the span of a call or stream."""
    span: Span = tracer.start_span(
        path[1:],
        kind=api().SpanKind.CLIENT,
        attributes={names.RPC_SYSTEM: "grpc", **call_attributes(path)},
        **how,  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - context= and links=
    )
    return span


async def observed_call(
    seen: Telemetry,
    path: str,
    metadata: Metadata,
    make: Callable[[Metadata], Awaitable[bytes]],
    *,
    where: Callable[[], Address | None],
    clock: Clock,
) -> bytes:
    """Make one call of ``path`` by ``make``, which gets the metadata to send; ``where`` tells the endpoint in use."""
    begun = clock.mono()
    span = None if seen.tracer is None else rpc_span(seen.tracer, path)
    failed: BaseException | None = None
    try:
        with entered(span):
            return await make(metadata if span is None else (*metadata, *carried(span)))
    except BaseException as error:
        failed = error
        raise
    finally:
        code = int(_status_of(failed))
        if span is not None:
            span.set_attributes({names.RPC_STATUS: code, **place(where())})
            if failed is not None:
                fail(span, failed)
            span.end()
        if seen.instruments is not None:
            attributes = {**call_attributes(path), names.RPC_STATUS: code}
            if failed is not None:
                attributes[names.ERROR_TYPE] = type(failed).__name__
            seen.instruments.calls.record(clock.mono() - begun, attributes)


def _status_of(error: BaseException | None) -> StatusCode:
    if error is None:
        return StatusCode.OK
    if isinstance(error, asyncio.CancelledError):
        return StatusCode.CANCELLED
    cause = error.__cause__
    return cause.code if isinstance(cause, RpcError) else StatusCode.UNKNOWN


def note_retry(path: str, number: int, error: RpcError) -> None:
    """Tell that the request of the current call is about to be sent again, the ``number``-th time, after ``error``."""
    seen = telemetry()
    if seen is None:
        return
    code = int(error.code)
    if seen.tracer is not None:
        span: Span = api().get_current_span()
        span.set_attribute(names.RETRIES, number)
        span.add_event("retry", {names.RPC_STATUS: code})
    if seen.instruments is not None:
        seen.instruments.retries.add(1, {**call_attributes(path), names.RPC_STATUS: code})
