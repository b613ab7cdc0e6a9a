"""Spans: none without a provider, one per call and watch with one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import metrics, trace
from typing_extensions import override

import coord
from coord import _telemetry


class RecordedSpan(trace.NonRecordingSpan):
    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.name = name
        self.attributes = dict(attributes)
        self.ended = False

    @override
    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    @override
    def end(self, end_time: int | None = None) -> None:
        self.ended = True


class Recorder(trace.Tracer, trace.TracerProvider):
    """A provider and its tracer in one, which keep every span."""

    def __init__(self) -> None:
        self.spans: list[RecordedSpan] = []

    @override
    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return self

    @override
    def start_span(self, name: str, *args: Any, attributes: Any = None, **kw: Any) -> RecordedSpan:
        self.spans.append(RecordedSpan(name, attributes or {}))
        return self.spans[-1]

    @override
    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **kw: Any) -> Generator[RecordedSpan]:  # type: ignore[override, unused-ignore]
        span = self.start_span(name, attributes=kw.get("attributes"))
        try:
            yield span
        finally:
            span.end()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: recorder)
    return recorder


async def test_calls_and_watches(recorder: Recorder) -> None:
    async with coord.connect("memory:") as client:
        await client.put("k", "v")
        async with client.watch("k", start_revision=1) as watch:
            await anext(watch)
            assert [s.ended for s in recorder.spans if s.name == "coord.watch"] == [False]
        with pytest.raises(coord.LeaseNotFound):
            await client.lease_revoke(1)
    put, watched, revoke = recorder.spans
    assert put.name == "etcdserverpb.KV/Put"
    assert put.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "etcdserverpb.KV",
        "rpc.method": "Put",
    }
    assert watched.attributes == {"coord.watch.key": "k", "coord.watch.end": ""}
    assert revoke.attributes["error.type"] == "LeaseNotFound"
    assert all(span.ended for span in recorder.spans)


def test_without_a_provider_there_is_no_tracer() -> None:
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert _telemetry.tracer() is None
    assert _telemetry.meter() is None


def test_a_later_provider_is_found(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _telemetry.tracer() is recorder
    other = Recorder()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: other)
    assert _telemetry.tracer() is other
    assert _telemetry.tracer() is other


def test_meters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Provider(metrics.MeterProvider):
        @override
        def get_meter(self, *args: Any, **kwargs: Any) -> metrics.Meter:
            return metrics.NoOpMeter("coord")

    provider = Provider()
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    first = _telemetry.meter()
    assert first is not None
    assert _telemetry.meter() is first


def test_nothing_is_loaded_for_programs_without_it() -> None:
    program = (
        "import sys, coord\nfrom coord import _telemetry\n"
        "assert _telemetry.tracer() is None and _telemetry.meter() is None\n"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
