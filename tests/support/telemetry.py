"""OpenTelemetry's own SDK as a listener that keeps everything in memory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from opentelemetry import trace
from opentelemetry.metrics import _internal as metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from coord._telemetry import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of a metric: its attributes, and its sum and count (of a counter: the count twice)."""

    attributes: dict[str, object]
    total: float
    count: int


def context_of(span: ReadableSpan) -> SpanContext:
    """What identifies a span."""
    context = span.get_span_context()
    assert context is not None
    return context


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    """Its attributes, also if it has none."""
    return dict(span.attributes or {})


class Listener:
    """A tracer provider and a meter provider, with all that they were told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("application")

    @property
    def spans(self) -> list[ReadableSpan]:
        """Spans that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Those with this name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only one with this name."""
        (span,) = self.named(name)
        return span

    def clear(self) -> None:
        """Forget the spans."""
        self._exporter.clear()

    def metrics(self) -> dict[str, Metric]:
        """Everything that was measured, by name."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def series(self, name: str, **attributes: object) -> list[Series]:
        """The series of one metric that have these attributes, dots written as underscores."""
        metric = self.metrics().get(name)
        if metric is None:
            return []
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [
            series
            for point in metric.data.data_points
            if wanted.items() <= (series := _series(point)).attributes.items()
        ]

    def total(self, name: str, **attributes: object) -> float:
        """The sum over those series."""
        return sum(series.total for series in self.series(name, **attributes))

    def count(self, name: str, **attributes: object) -> int:
        """How many measurements those series have."""
        return sum(series.count for series in self.series(name, **attributes))

    def check_names(self) -> None:
        """Fail if something was told that is not in the tables."""
        for span in self.spans:
            if span.instrumentation_scope is None or span.instrumentation_scope.name != names.SCOPE:
                continue
            known = names.SPANS[names.RPC if "/" in span.name else span.name]
            assert attributes_of(span).keys() <= set(known), span.name
        known_metrics = {metric.name: metric for metric in names.METRICS}
        for name in self.metrics():
            if name.startswith("otel."):  # the SDK's own
                continue
            for series in self.series(name):
                assert series.attributes.keys() <= set(known_metrics[name].attributes), name


def _series(point: object) -> Series:
    if isinstance(point, HistogramDataPoint):
        return Series(attributes=dict(point.attributes or {}), total=point.sum, count=point.count)
    assert isinstance(point, NumberDataPoint)
    return Series(
        attributes=dict(point.attributes or {}), total=point.value, count=int(point.value)
    )


@contextmanager
def listening(*, traces: bool = True, measurements: bool = True) -> Generator[Listener]:
    """Be the process's providers for a block. The API's setters take one pair for the whole process.

    At its end everything that was told must be in the tables of :mod:`coord._telemetry.names`.
    """
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        if traces:
            patch.setattr(trace, "_TRACER_PROVIDER", listener.tracers)
        if measurements:
            patch.setattr(metrics, "_METER_PROVIDER", listener.meters)
        try:
            yield listener
            listener.check_names()
        finally:
            listener.tracers.shutdown()
            listener.meters.shutdown()
