"""OpenTelemetry, as far as an application has set it up, and nothing at all otherwise.

The API package is never imported from here: a program that wants spans has imported it before it makes calls.
So without it a question costs one look into ``sys.modules``, and a provider that is set later is still found.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from coord._version import __version__

if TYPE_CHECKING:
    from collections.abc import Generator

    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Span, Tracer

_NAME = "coord"

# Attribute names are ours to keep stable; those of RPCs are the semantic conventions'.
RPC_SYSTEM = "rpc.system"
RPC_SERVICE = "rpc.service"
RPC_METHOD = "rpc.method"
ERROR_TYPE = "error.type"
WATCH_KEY = "coord.watch.key"
WATCH_END = "coord.watch.end"


class _Cache:
    """The tracer or meter of the provider that was seen last."""

    def __init__(self) -> None:
        self.provider: object = None
        self.made: Any = None


_tracers = _Cache()
_meters = _Cache()


def tracer() -> Tracer | None:
    """Return the tracer of the provider that is set now, None without a real one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if provider is not _tracers.provider:
        idle = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        _tracers.made = None if idle else provider.get_tracer(_NAME, __version__)
        _tracers.provider = provider
    made: Tracer | None = _tracers.made
    return made


def meter() -> Meter | None:
    """Return the meter of the provider that is set now, None without a real one."""
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return None
    provider = metrics.get_meter_provider()
    if provider is not _meters.provider:
        # The API's stand-in before a provider is set has no public name.
        idle = type(provider).__module__.startswith("opentelemetry.metrics")
        _meters.made = None if idle else provider.get_meter(_NAME, __version__)
        _meters.provider = provider
    made: Meter | None = _meters.made
    return made


@contextmanager
def call_span(active: Tracer, path: str) -> Generator[Span]:
    """Span one call of ``/package.Service/Method``; an error marks it and goes on."""
    service, _, method = path[1:].partition("/")
    kind = sys.modules["opentelemetry.trace"].SpanKind.CLIENT
    attributes = {RPC_SYSTEM: "grpc", RPC_SERVICE: service, RPC_METHOD: method}
    with active.start_as_current_span(path[1:], kind=kind, attributes=attributes) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute(ERROR_TYPE, type(error).__qualname__)
            raise


def watch_span(active: Tracer, key: bytes, end: bytes) -> Span:
    """Start the span of one watch; its owner ends it. It is nobody's parent, since it outlives what it was opened in."""
    return active.start_span(
        "coord.watch",
        attributes={
            WATCH_KEY: key.decode(errors="backslashreplace"),
            WATCH_END: end.decode(errors="backslashreplace"),
        },
    )
