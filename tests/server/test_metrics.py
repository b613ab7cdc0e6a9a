"""Metrics and their Prometheus text."""

from __future__ import annotations

import os

import pytest

from coord_server.metrics import Histogram, Metrics, doubling, process_samples


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_text_of_each_kind() -> None:
    metrics = Metrics()
    metrics.counter("b_total", "Bees.", kind='q"\\\n').value += 2
    assert metrics.counter("b_total", "Bees.", kind='q"\\\n').value == 2
    metrics.gauge("a_level", "Height\nof a.", lambda: 1.5)
    metrics.samples("c_total", "counter", "Cs.", lambda: [((("code", "OK"),), 3)])
    histogram = metrics.histogram("h_seconds", "Time.", (0.5, 1.0), op="x")
    for value in (0.5, 0.7, 9.0):
        histogram.observe(value)
    assert metrics.text() == (
        "# HELP a_level Height\\nof a.\n# TYPE a_level gauge\na_level 1.5\n"
        "# HELP b_total Bees.\n# TYPE b_total counter\n"
        'b_total{kind="q\\"\\\\\\n"} 2\n'
        '# HELP c_total Cs.\n# TYPE c_total counter\nc_total{code="OK"} 3\n'
        "# HELP h_seconds Time.\n# TYPE h_seconds histogram\n"
        'h_seconds_bucket{op="x",le="0.5"} 1\n'
        'h_seconds_bucket{op="x",le="1"} 2\n'
        'h_seconds_bucket{op="x",le="+Inf"} 3\n'
        'h_seconds_sum{op="x"} 10.2\n'
        'h_seconds_count{op="x"} 3\n'
    )


def test_bounds_double() -> None:
    assert doubling(0.001, 4) == (0.001, 0.002, 0.004, 0.008)
    histogram = Histogram(doubling(1, 2))
    histogram.observe(2)
    assert histogram.counts == [0, 1, 0]


def test_process_figures_are_those_of_this_process() -> None:
    metrics = Metrics()
    process_samples(metrics, read, lambda path: sorted(os.listdir(path)))
    figures = {
        line.split()[0]: float(line.split()[1])
        for line in metrics.text().splitlines()
        if not line.startswith("#")
    }
    assert figures["process_resident_memory_bytes"] > 5_000_000
    assert figures["process_open_fds"] >= 3
    assert figures["process_cpu_seconds_total"] > 0
    assert figures["process_start_time_seconds"] > 1_600_000_000


@pytest.mark.parametrize("failure", [FileNotFoundError, PermissionError])
def test_without_proc_there_are_no_process_figures(failure: type[OSError]) -> None:
    def broken(path: str) -> bytes:
        raise failure(2, "no", path)

    metrics = Metrics()
    process_samples(metrics, broken, lambda _path: [])
    assert all(line.startswith("#") for line in metrics.text().splitlines())
