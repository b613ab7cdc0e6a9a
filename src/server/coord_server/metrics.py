"""Counters, gauges and histograms, and their Prometheus text.

Counting must cost next to nothing: a counter is an object with one number that its owner adds to, a
gauge is asked for only when somebody reads the metrics, and a histogram bisects a short tuple.
Names are etcd's where the meaning is etcd's, ``coord_*`` otherwise.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Labels: TypeAlias = "tuple[tuple[str, str], ...]"
Sample: TypeAlias = "tuple[Labels, float]"


@final
class Counter:
    """A number that only grows; its owner adds to ``value`` directly."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


@final
class Histogram:
    """Observations by upper bound, and their sum. Bounds ascend."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total: float = 0.0

    def observe(self, value: float) -> None:
        """Count ``value`` in the bucket of the smallest bound that is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def doubling(start: float, count: int) -> tuple[float, ...]:
    """Return ``count`` bounds from ``start`` on, each twice the one before."""
    return tuple(start * 2**step for step in range(count))


@dataclass(slots=True)
class _Family:
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    counters: dict[Labels, Counter] = field(default_factory=dict[Labels, Counter])
    histograms: dict[Labels, Histogram] = field(default_factory=dict[Labels, Histogram])
    readers: list[Callable[[], Iterable[Sample]]] = field(
        default_factory=list["Callable[[], Iterable[Sample]]"]
    )


class Metrics:
    """All metrics of one server; a name has one kind, and a child per set of labels."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def counter(self, name: str, text: str, /, **labels: str) -> Counter:
        """Return the counter of these labels, made on first use."""
        family = self._family(name, "counter", text)
        return family.counters.setdefault(tuple(labels.items()), Counter())

    def histogram(
        self, name: str, text: str, bounds: tuple[float, ...], /, **labels: str
    ) -> Histogram:
        """Return the histogram of these labels, made on first use."""
        family = self._family(name, "histogram", text)
        return family.histograms.setdefault(tuple(labels.items()), Histogram(bounds))

    def gauge(self, name: str, text: str, read: Callable[[], float], /, **labels: str) -> None:
        """Add a gauge whose value ``read`` tells when the metrics are read."""
        key = tuple(labels.items())
        self._family(name, "gauge", text).readers.append(lambda: ((key, read()),))

    def samples(
        self,
        name: str,
        kind: Literal["counter", "gauge"],
        text: str,
        read: Callable[[], Iterable[Sample]],
    ) -> None:
        """Add children of which ``read`` tells labels and values when the metrics are read."""
        self._family(name, kind, text).readers.append(read)

    def text(self) -> str:
        """Return everything in the Prometheus text format, version 0.0.4, by name."""
        lines: list[str] = []
        for name in sorted(self._families):
            family = self._families[name]
            lines.extend(
                (f"# HELP {name} {_escape_help(family.help)}", f"# TYPE {name} {family.kind}")
            )
            lines.extend(_lines_of(name, family))
        return "\n".join(lines) + "\n"

    def _family(
        self, name: str, kind: Literal["counter", "gauge", "histogram"], text: str
    ) -> _Family:
        return self._families.setdefault(name, _Family(kind, text))


def _lines_of(name: str, family: _Family) -> Iterator[str]:
    for labels, counter in family.counters.items():
        yield f"{name}{_label_text(labels)} {_number(counter.value)}"
    for reader in family.readers:
        for labels, value in reader():
            yield f"{name}{_label_text(labels)} {_number(value)}"
    for labels, histogram in family.histograms.items():
        below = 0
        for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
            below += count
            yield f"{name}_bucket{_label_text((*labels, ('le', _number(bound))))} {below}"
        below += histogram.counts[-1]
        yield f"{name}_bucket{_label_text((*labels, ('le', '+Inf')))} {below}"
        yield f"{name}_sum{_label_text(labels)} {_number(histogram.total)}"
        yield f"{name}_count{_label_text(labels)} {below}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _label_text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape_label(value)}"' for name, value in labels) + "}"


def _escape_label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def process_samples(
    metrics: Metrics, read_file: Callable[[str], bytes], list_dir: Callable[[str], list[str]]
) -> None:
    """Add the standard ``process_*`` figures, as Linux tells them; nothing where it does not."""
    figures = {
        "process_resident_memory_bytes": ("gauge", "Resident memory size in bytes."),
        "process_virtual_memory_bytes": ("gauge", "Virtual memory size in bytes."),
        "process_cpu_seconds_total": ("counter", "Total user and system CPU time in seconds."),
        "process_start_time_seconds": ("gauge", "Start time since the Unix epoch in seconds."),
        "process_open_fds": ("gauge", "Number of open file descriptors."),
        "process_max_fds": ("gauge", "Maximum number of open file descriptors."),
        "os_fd_used": ("gauge", "The number of used file descriptors."),
        "os_fd_limit": ("gauge", "The file descriptor limit."),
    }

    def reader(name: str) -> Callable[[], Iterable[Sample]]:
        def read() -> Iterable[Sample]:
            try:
                figure = _proc(read_file, list_dir)[name]
            except (OSError, ValueError, IndexError, KeyError):
                return ()
            return (((), figure),)

        return read

    for name, (kind, text) in figures.items():
        metrics.samples(name, "counter" if kind == "counter" else "gauge", text, reader(name))


# Linux on every platform CPython runs on reports times in hundredths of a second, memory in 4 KiB pages
# unless /proc/self/smaps says otherwise; VmRSS and VmSize of /proc/self/status are in KiB always.
_TICKS_PER_SECOND = 100.0


def _proc(
    read_file: Callable[[str], bytes], list_dir: Callable[[str], list[str]]
) -> Mapping[str, float]:
    status = dict(
        line.split(":", 1)
        for line in read_file("/proc/self/status").decode().splitlines()
        if ":" in line
    )
    # The name in parentheses may hold blanks; fields count from behind it, the state is number 3.
    fields = read_file("/proc/self/stat").decode().rpartition(")")[2].split()
    boot = next(
        float(line.split()[1])
        for line in read_file("/proc/stat").decode().splitlines()
        if line.startswith("btime")
    )
    limit = next(
        float(line.split()[3])
        for line in read_file("/proc/self/limits").decode().splitlines()
        if line.startswith("Max open files")
    )
    used = float(len(list_dir("/proc/self/fd")))
    return {
        "process_resident_memory_bytes": float(status["VmRSS"].split()[0]) * 1024,
        "process_virtual_memory_bytes": float(status["VmSize"].split()[0]) * 1024,
        "process_cpu_seconds_total": (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
        "process_start_time_seconds": boot + int(fields[19]) / _TICKS_PER_SECOND,
        "process_open_fds": used,
        "process_max_fds": limit,
        "os_fd_used": used,
        "os_fd_limit": limit,
    }
