"""What a benchmark leaves behind: a JSON file with the machine, the commit and how busy the machine was."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True)
class Load:
    """The load of the machine, in cores, while something was measured; known at the end."""

    cores: float = 0.0


@contextlib.contextmanager
def neighbours(servers: Sequence[int] = ()) -> Iterator[Load]:
    """Tell how busy others were: not this process, its children that end meanwhile, or the processes ``servers``."""

    def of_others() -> float:
        ours = time.process_time() + cpu_of_children() + sum([cpu_of(pid) for pid in servers])
        return cpu_of_machine() - ours

    load = Load()
    start, before = time.perf_counter(), of_others()
    yield load
    load.cores = round(max(0.0, of_others() - before) / (time.perf_counter() - start), 2)


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_machine() -> float:
    """Return the seconds of CPU that everything has used since the start of the machine."""
    tick = os.sysconf("SC_CLK_TCK")
    fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / tick


def cpu_of_children() -> float:
    """Return the CPU of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commit() -> str:
    """Return the commit that is measured."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()


def keep(kind: str, found: dict[str, object]) -> Path:
    """Write what was found beside earlier results."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "kind": kind,
        "commit": commit(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "peer": "etcd 3.5.1",
        **found,
    }
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}-{commit() or 'unknown'}-{kind}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"kept in {path}")
    return path
