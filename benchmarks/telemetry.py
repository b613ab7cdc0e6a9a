"""What telemetry costs: ``python -m benchmarks.telemetry``.

Gets and puts on ``memory:``, in the process of the server and on its loop, so that little else is measured.
Each mode has a process of its own, in which slices with telemetry and slices without its code take turns, A B B A:
what the machine does meanwhile meets both.
Calls are counted per second of processor time, which busy neighbours disturb least; everything runs on one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import coord
from benchmarks.clients.load import closed_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.rpc.metadata import Metadata
    from coord.store import Caller, Repeat

Mode = Literal["control", "absent", "idle", "sdk"]
MEANING: dict[Mode, str] = {
    "control": "without on both sides: what the spread of the others is worth",
    "absent": "OpenTelemetry is not imported",
    "idle": "its API is imported, no provider is set",
    "sdk": "its SDK records everything in memory",
}
CALLERS = 16
VALUE = b"x" * 64


def main() -> None:
    """Measure every mode, and print calls per second beside those without the code, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.telemetry")
    parser.add_argument("--pairs", type=int, default=40, help="of slices, for each mode and row")
    parser.add_argument("--calls", type=int, default=1500, help="in a slice")
    parser.add_argument("--mode", choices=get_args(Mode), help="measure this one, here")
    options = parser.parse_args()
    if options.mode is not None:
        print(json.dumps(asyncio.run(measure(options.mode, options.pairs, options.calls))))
        return
    print(f"{'mode':8} {'row':5} {'with/s':>8} {'without/s':>10} {'ratio':>7}  quartiles")
    for mode, meaning in MEANING.items():
        command = [sys.executable, "-m", __spec__.name, "--mode", mode]
        command += [f"--pairs={options.pairs}", f"--calls={options.calls}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        for row, pairs in json.loads(done.stdout).items():
            _print(mode, row, pairs)
        print(f"{'':8} {meaning}", flush=True)


def _print(mode: str, row: str, pairs: list[tuple[float, float]]) -> None:
    low, middle, high = statistics.quantiles([on / off for on, off in pairs], n=4)
    on, off = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{mode:8} {row:5} {on:8.0f} {off:10.0f} {middle:7.3f}  {low:.3f} to {high:.3f}")


async def measure(mode: Mode, pairs: int, calls: int) -> dict[str, list[tuple[float, float]]]:
    """Return for each row the pairs of calls per second of processor time, with and without."""
    forget = _set_up(mode)
    result: dict[str, list[tuple[float, float]]] = {}
    async with coord.connect("memory:", runtime="inline") as client:
        # The line to be measured is in it.
        caller: Any = client._core.caller  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        rows: dict[str, Callable[[int, int], Awaitable[object]]] = {
            "get": lambda _, number: client.get(b"/bench/%04d" % (number % 1000)),
            "put": lambda _, number: client.put(b"/bench/%04d" % (number % 1000), VALUE),
        }
        for row, call in rows.items():
            await closed_loop(call, callers=CALLERS, total=calls)
            result[row] = []
            for number in range(pairs):
                rates: dict[bool, float] = {}
                for on in (True, False) if number % 2 else (False, True):
                    has_it = on and mode != "control"
                    caller.call_raw = _with(caller) if has_it else _without(caller)
                    gc.collect()
                    before = time.process_time()
                    await closed_loop(call, callers=CALLERS, total=calls)
                    rates[on] = calls / (time.process_time() - before)
                    forget()
                result[row].append((rates[True], rates[False]))
    return result


def _with(caller: Caller) -> Callable[..., Awaitable[bytes]]:
    call_raw: Callable[..., Awaitable[bytes]] = type(caller).call_raw.__get__(caller)
    return call_raw


def _without(caller: Caller) -> Callable[..., Awaitable[bytes]]:
    """Return ``call_raw`` as it would be if there were no telemetry."""

    def call_raw(
        path: str,
        request: bytes,
        *,
        repeat: Repeat,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Awaitable[bytes]:
        return caller._call(path, request, repeat, timeout, metadata)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    return call_raw


def _set_up(mode: Mode) -> Callable[[], None]:
    """Set providers as ``mode`` says; return what forgets the spans."""
    if mode in ("control", "absent"):
        return lambda: None
    from opentelemetry import metrics, trace

    if mode == "idle":
        return lambda: None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider(metric_readers=[InMemoryMetricReader()]))
    return exporter.clear


if __name__ == "__main__":
    main()
