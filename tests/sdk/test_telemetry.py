"""Who listens: nobody without a provider, every provider from the moment at which it is set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from opentelemetry import metrics, trace
from opentelemetry.metrics import _internal
from opentelemetry.sdk.metrics import MeterProvider
from typing_extensions import override

import coord
from coord._telemetry import names, telemetry
from coord._telemetry.providers import Half
from tests.support.telemetry import listening


def test_without_a_provider_nobody_listens() -> None:
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert telemetry() is None
    assert telemetry() is None  # the second question takes another way


def test_the_api_s_own_dummies_do_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", trace.NoOpTracerProvider())
    monkeypatch.setattr(_internal, "_METER_PROVIDER", metrics.NoOpMeterProvider())
    assert telemetry() is None


def test_a_release_that_keeps_its_providers_elsewhere_is_asked() -> None:
    half = Half("opentelemetry.trace", "_SOMETHING_ELSE", "get_tracer_provider")
    for _ in range(2):
        with listening() as listener:
            assert half.ask() is listener.tracers
        assert isinstance(half.ask(), trace.ProxyTracerProvider)


def test_a_provider_that_the_environment_names_is_loaded() -> None:
    program = """
import opentelemetry.trace
from coord._telemetry import telemetry
found = telemetry()
assert type(found.tracer).__module__ == "opentelemetry.sdk.trace", found
"""
    names_it = os.environ | {"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"}
    subprocess.run([sys.executable, "-c", program], check=True, env=names_it)


def test_a_later_provider_is_found_and_asked_once() -> None:
    with listening():
        first = telemetry()
        assert first is not None
        assert first.tracer is not None
        assert first.instruments is not None
        assert telemetry() is first
    assert telemetry() is None
    with listening():
        second = telemetry()
        assert second is not None
        assert second is not first


def test_either_half_may_be_missing() -> None:
    with listening(measurements=False):
        found = telemetry()
        assert found is not None
        assert found.tracer is not None
        assert found.instruments is None
    with listening(traces=False):
        found = telemetry()
        assert found is not None
        assert found.tracer is None
        assert found.instruments is not None


@pytest.mark.parametrize("traces", [True, False])
async def test_everything_works_with_either_half(traces: bool) -> None:
    with listening(traces=traces, measurements=not traces) as listener:
        async with (
            coord.connect("memory:") as client,
            client.session(ttl=10) as one,
            client.session(ttl=10) as two,
            client.watch("m/", prefix=True) as watch,
        ):
            async with client.mutex("m", session=one).hold():
                assert await client.mutex("m", session=two).try_acquire() is None
            await anext(watch)
            async with client.election("e", session=one).lead("x"):
                pass
        spans = {span.name for span in listener.spans}
        assert ("coord.mutex.hold" in spans) is traces
        assert ("coord.client.hold.duration" in listener.metrics()) is not traces


def test_instruments_are_what_the_table_says() -> None:
    made: dict[str, tuple[str, str, str]] = {}

    class Meter(metrics.NoOpMeter):
        @override
        def create_counter(
            self, name: str, unit: str = "", description: str = ""
        ) -> metrics.Counter:
            made[name] = ("counter", unit, description)
            return super().create_counter(name, unit, description)

        @override
        def create_histogram(
            self, name: str, unit: str = "", description: str = "", **advice: object
        ) -> metrics.Histogram:
            assert name not in made
            made[name] = ("histogram", unit, description)
            return super().create_histogram(name, unit, description)

    class Provider(MeterProvider):
        @override
        def get_meter(self, *args: object, **kwargs: object) -> metrics.Meter:
            return Meter("coord")

    with pytest.MonkeyPatch.context() as patch:
        provider = Provider(shutdown_on_exit=False)
        patch.setattr(_internal, "_METER_PROVIDER", provider)
        telemetry()
    assert made == {m.name: (m.kind.value, m.unit, m.description) for m in names.METRICS}


def test_nothing_is_loaded_for_programs_without_it() -> None:
    program = """
import asyncio, sys
import coord, coord.sync
from coord._telemetry import telemetry

async def main():
    async with coord.connect("memory:") as client, client.mutex("m").hold():
        await client.put("k", "v")

asyncio.run(main())
assert telemetry() is None
assert not [m for m in sys.modules if m.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_real_providers_count_from_when_they_are_set() -> None:
    """With the API's own setters, which a process may use once: hence in one of its own."""
    program = """
import asyncio
import coord

async def main():
    async with coord.connect("memory:") as client:
        await client.put("before", "any provider")
        from opentelemetry import metrics, trace
        await client.put("before", "any provider")
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
        await client.put("after", "it")
        print([span.name for span in exporter.get_finished_spans()])
        data = reader.get_metrics_data()
        print([m.name for m in data.resource_metrics[0].scope_metrics[0].metrics])

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "['etcdserverpb.KV/Put']",
        "['coord.client.call.duration']",
    ]
