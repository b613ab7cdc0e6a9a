"""Watches, as their readers see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord._telemetry import names
from coord._telemetry.providers import telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def watch_span(key: bytes, end: bytes) -> Span | None:
    """Start the span of one watch; its owner ends it. It is nobody's parent: it outlives what it was opened in."""
    seen = telemetry()
    if seen is None or seen.tracer is None:
        return None
    return seen.tracer.start_span(
        names.WATCH,
        attributes={names.WATCH_KEY: names.bounded(key), names.WATCH_END: names.bounded(end)},
    )
