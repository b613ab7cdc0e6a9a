"""What all spans share: being current, carrying their context on, ending with an error."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from coord._telemetry import names
from coord.rpc.metadata import to_headers
from coord.runtime import UnixAddress

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span

    from coord.rpc.metadata import Metadata
    from coord.runtime import Address


def api() -> Any:  # noqa: ANN401 - loaded by those who asked for spans, not by us
    """Return ``opentelemetry.trace``. Only for those who have a tracer."""
    return sys.modules["opentelemetry.trace"]


def entered(span: Span | None) -> AbstractContextManager[object]:
    """Make ``span`` the current one for a block; whoever started it ends it."""
    if span is None:
        return contextlib.nullcontext()
    manager: AbstractContextManager[object] = api().use_span(
        span, record_exception=False, set_status_on_exception=False
    )
    return manager


def carried(span: Span) -> Metadata:
    """Return the metadata that carries the context of ``span``, and the baggage, by the global propagator.

    What cannot be sent as metadata is left out: telemetry must not make a call fail.
    """
    from opentelemetry import propagate  # loaded with the first span, not with the API

    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=api().set_span_in_context(span))
    return tuple([item for key, value in carrier.items() if _fits(item := (key.lower(), value))])


def _fits(item: tuple[str, str]) -> bool:
    try:
        to_headers((item,))
    except ValueError:
        return False
    return True


def fail(span: Span, error: BaseException) -> None:
    """Mark ``span`` with ``error``."""
    trace = api()
    span.set_attribute(names.ERROR_TYPE, type(error).__name__)
    span.set_status(trace.Status(trace.StatusCode.ERROR, names.bounded(str(error))))


def place(address: Address | None) -> dict[str, str | int]:
    """Return the attributes of an endpoint."""
    if address is None:
        return {}
    if isinstance(address, UnixAddress):
        return {names.SERVER_ADDRESS: address.path}
    return {names.SERVER_ADDRESS: address.host, names.SERVER_PORT: address.port}
