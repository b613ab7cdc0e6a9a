"""Runs the rows against both servers, prints the table, keeps the figures."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import coord
from benchmarks.rows import Row, command, h2load_rate, missing, rows
from tests.support.servers import (
    ServerProcess,
    coord_server_process,
    etcd_binary,
    real_etcd,
)

RESULTS = Path(__file__).parent / "results"
TICK = os.sysconf("SC_CLK_TCK")
BUSY_NEIGHBOUR = 0.25  # of a core; a round beside more is measured once more


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement of one server."""

    ops_per_s: float
    p50_us: float
    server_cpu_us: float
    """Server CPU per operation."""
    client_cpu_us: float
    neighbours: float
    """Cores that other processes used meanwhile."""


def main() -> int:
    """Run the benchmark; exit 1 if a row is below what it must reach."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", default="", help="comma-separated words; rows whose name has one of them"
    )
    options = parser.parse_args()
    words = [w for w in options.only.split(",") if w]
    chosen = [r for r in rows() if not words or any(w in r.name for w in words)]
    rounds = 1 if options.quick else options.rounds
    scale = 0.1 if options.quick else 1.0
    with tempfile.TemporaryDirectory(prefix="coord-bench-") as directory:
        scratch = Path(directory)
        with (
            coord_server_process(scratch / "coord") as ours,
            real_etcd(scratch / "etcd") as theirs,
        ):
            return run(chosen, ours, theirs, scratch, rounds=rounds, scale=scale)


def run(
    chosen: list[Row],
    ours: ServerProcess,
    theirs: ServerProcess,
    scratch: Path,
    *,
    rounds: int,
    scale: float,
) -> int:
    """Measure all rows and print them as they come."""
    etcdctl = Path(etcd_binary("etcdctl"))
    print(f"{'row':28} {'ours/s':>9} {'etcd/s':>9} {'ratio':>6} {'must':>5}  "
          f"{'srv us':>7} {'etcd us':>8} {'cli us':>7} {'p50 us':>7} {'etcd':>7}")  # fmt: skip
    kept: list[dict[str, object]] = []
    failed: list[str] = []
    for row in chosen:
        lack = missing(row, etcdctl)
        if lack is not None:
            print(f"{row.name:28} {lack}")
            kept.append({"row": row.name, "missing": lack})
            continue
        total = max(row.in_flight, int(row.total * scale), 10 if row.client == "etcdctl" else 100)
        pairs = [_pair(row, ours, theirs, total, scratch, etcdctl) for _ in range(rounds)]
        ratio = statistics.median(a.ops_per_s / b.ops_per_s for a, b in pairs)
        a, b = (_median([p[i] for p in pairs]) for i in (0, 1))
        must = "" if row.must is None else f"{row.must:.1f}"
        print(f"{row.name:28} {a.ops_per_s:9.0f} {b.ops_per_s:9.0f} {ratio:6.2f} {must:>5}  "
              f"{a.server_cpu_us:7.1f} {b.server_cpu_us:8.1f} {a.client_cpu_us:7.1f} "
              f"{a.p50_us:7.0f} {b.p50_us:7.0f}", flush=True)  # fmt: skip
        kept.append(
            {
                "row": row.name,
                "ratio": ratio,
                "must": row.must,
                "ours": asdict(a),
                "etcd": asdict(b),
            }
        )
        if row.must is not None and ratio < row.must:
            failed.append(f"{row.name}: {ratio:.2f} is below {row.must:.1f}")
    _keep(kept)
    for line in failed:
        print(f"below target: {line}", file=sys.stderr)
    return 1 if failed else 0


def _pair(
    row: Row,
    ours: ServerProcess,
    theirs: ServerProcess,
    total: int,
    scratch: Path,
    etcdctl: Path | None,
) -> tuple[Figure, Figure]:
    """Measure both servers, one right after the other; once more when neighbours were busy."""
    for _ in range(3):
        a = _measure(row, ours, total, scratch, etcdctl)
        b = _measure(row, theirs, total, scratch, etcdctl)
        if max(a.neighbours, b.neighbours) < BUSY_NEIGHBOUR:
            break
    return a, b


def _measure(
    row: Row, server: ServerProcess, total: int, scratch: Path, etcdctl: Path | None
) -> Figure:
    before = _revision(server)
    server_before, machine_before = _cpu_of(server.pid), _cpu_of_machine()
    children_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    own_before = time.process_time()
    start = time.perf_counter()
    done = subprocess.run(
        command(row, server.endpoint, total, scratch, etcdctl),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    wall = time.perf_counter() - start
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    server_cpu = _cpu_of(server.pid) - server_before
    client_cpu = (children.ru_utime + children.ru_stime) - (
        children_before.ru_utime + children_before.ru_stime
    )
    machine = _cpu_of_machine() - machine_before
    if done.returncode != 0:
        raise SystemExit(
            f"{row.name}: the client failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    ops, seconds, p50 = _outcome(row, done.stdout, total, wall)
    if row.writes_per_op and row.client != "etcdctl":
        moved = _revision(server) - before
        if moved != total * row.writes_per_op:
            raise SystemExit(f"{row.name}: {total} operations moved the revision by {moved}")
    own = time.process_time() - own_before
    neighbours = max(0.0, machine - server_cpu - client_cpu - own) / wall
    return Figure(
        ops_per_s=ops / seconds,
        p50_us=p50,
        server_cpu_us=server_cpu / ops * 1e6,
        client_cpu_us=client_cpu / ops * 1e6,
        neighbours=neighbours,
    )


def _outcome(row: Row, output: str, total: int, wall: float) -> tuple[float, float, float]:
    """Return operations, seconds and the median latency in microseconds (0 where the client tells none)."""
    if row.client == "h2load":
        return total, total / h2load_rate(row.name, output, total), 0.0
    if row.client == "etcdctl":
        return total, wall, 0.0
    result = json.loads(output.strip().splitlines()[-1])
    return result["ops"], result["seconds"], result["p50_us"]


def _revision(server: ServerProcess) -> int:
    async def ask() -> int:
        async with coord.connect(server.url) as client:
            return (await client.status()).revision

    return asyncio.run(ask())


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _cpu_of_machine() -> float:
    fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / TICK


def _median(figures: list[Figure]) -> Figure:
    return Figure(
        **{k: statistics.median(asdict(f)[k] for f in figures) for k in asdict(figures[0])}
    )


def _keep(kept: list[dict[str, object]]) -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    RESULTS.mkdir(exist_ok=True)
    record = {
        "commit": commit,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "peer": "etcd 3.5.1",
        "rows": kept,
    }
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}-{commit or 'unknown'}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"kept in {path}")


if __name__ == "__main__":
    sys.exit(main())
