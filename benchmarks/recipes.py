"""Our recipes beside those of others: ``python -m benchmarks.recipes``.

    --rounds N      how often everything is measured (3)
    --scale X       how much is done in each measurement, times this (1)
    --only a,b      rows whose name contains one of the words
    --clients a,b   contestants whose name contains one of the words

Ours (one client of the "thread" kind in one process) on coord-server and on real etcd 3.5.1; etcd's own Go packages
and aetcd's lock on etcd; kazoo on ZooKeeper 3.8, redis-py's lock on Redis 7 with an fsync for each write.
What cannot be had is told with the reason.
In each round all contestants take a row in turn, so that a noisy neighbour hits all; each row says how busy those were.
Generators of Python check the effects while they run: who is inside of a lock, which items have come, who was at the
barrier. In etcd and coord-server the revision must have moved by at least what the operations write.
A ratio is ours on coord-server divided by the other's in the same round: its median, smallest and largest. Above 1 we
are faster. ``cpu`` is the client's for an operation, ``server`` the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import coord
from benchmarks.clients import environments, golang
from benchmarks.clients.environments import SIDES, Client
from benchmarks.kept import cpu_of, cpu_of_children, keep, neighbours
from benchmarks.python_clients import chosen_by, spread
from benchmarks.side_servers import Side, redis, zookeeper
from tests.support.servers import coord_server_process, real_etcd

OURS, ON_ETCD, GO, AETCD, KAZOO, REDIS = (
    "coord on coord-server",
    "coord on etcd",
    "Go on etcd",
    "aetcd on etcd",
    "kazoo on ZooKeeper",
    "redis-py on Redis",
)
LIMIT_S = 300.0
(_AETCD,) = [client for client in environments.CLIENTS if client.package == "aetcd"]
_KAZOO, _REDIS = SIDES


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question."""

    name: str
    operation: str
    callers: int
    total: int
    writes_per_op: int
    """By how much an operation moves the revision, at least; 0: not by operations."""
    others: tuple[str, ...] = ()
    """Who has such a recipe, beside us."""


_LOCKERS = (GO, AETCD, KAZOO, REDIS)
ROWS = (
    Row(name="lock, free", operation="lock-own", callers=1, total=300, writes_per_op=2, others=_LOCKERS),
    Row(name="lock, 16 names", operation="lock-own", callers=16, total=1600, writes_per_op=2, others=_LOCKERS),
    Row(name="lock, 16 on one", operation="lock-one", callers=16, total=320, writes_per_op=2, others=_LOCKERS),
    Row(name="lock, 64 on one", operation="lock-one", callers=64, total=320, writes_per_op=2, others=_LOCKERS),
    Row(name="election, 4 candidates", operation="campaign", callers=4, total=160, writes_per_op=2, others=(GO, KAZOO)),
    Row(name="semaphore, 16 on 4", operation="semaphore", callers=16, total=320, writes_per_op=2, others=(KAZOO,)),
    Row(name="queue, 16 put and take", operation="queue", callers=16, total=800, writes_per_op=1, others=(GO, KAZOO)),
    Row(name="work queue, 16", operation="work-queue", callers=16, total=480, writes_per_op=1),
    Row(name="registry, 10 viewers", operation="fan-out", callers=10, total=200, writes_per_op=0),
    Row(name="barrier, 100 parties", operation="barrier", callers=100, total=3, writes_per_op=1, others=(KAZOO,)),
)  # fmt: skip

# Rows of the performance targets: row, beside whom, at least.
TARGETS = (
    ("lock, 16 on one", GO, 4.0),
    ("election, 4 candidates", GO, 10.0),
    ("queue, 16 put and take", GO, 2.5),
    ("lock, 16 names", AETCD, 4.0),
    *(
        (row, other, 1.0)
        for row in ("lock, free", "lock, 16 names", "lock, 16 on one")
        for other in (KAZOO, REDIS)
    ),
)

Figure = dict[str, float]
Figures = dict[str, list[Figure]]


class Failed(Exception):
    """A contestant did not do what was asked of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A client and its server."""

    label: str
    server: Side
    client: Client | None = None
    """None: ours, or Go's."""
    is_etcd: bool = True

    def command(self, row: Row, total: int) -> list[str]:
        """Return how it is run."""
        words = [row.operation, str(row.callers), str(total)]
        if self.label == GO:
            return [str(golang.program()), self.server.url.partition("://")[2], *words]
        if self.client is None:
            module = "benchmarks.clients.recipe_sdk"
            return [sys.executable, "-W", "ignore", "-m", module, self.server.url, *words]
        host, _, port = self.server.url.partition("://")[2].partition(":")
        program = [environments.python(environments.folder(self.client)), "-W", "ignore", "-m"]
        return [*program, f"benchmarks.clients.{self.client.module}", host, port, *words]


async def _revision(url: str) -> int:
    async with coord.connect(url, runtime="inline") as client:
        return (await client.status()).revision


def measure(contestant: Contestant, row: Row, scale: float, pids: list[int]) -> Figure:
    """Run one contestant once, and look at what it did."""
    total = max(1, round(row.total * scale))
    before = asyncio.run(_revision(contestant.server.url)) if contestant.is_etcd else 0
    own, served = cpu_of_children(), cpu_of(contestant.server.pid)
    with neighbours(pids) as others:
        try:
            done = subprocess.run(
                contestant.command(row, total),
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=True,
                env=environments.environment(contestant.client),
                cwd=environments.ROOT,
            )
            found: Figure = json.loads(done.stdout.splitlines()[-1])
        except subprocess.CalledProcessError as error:
            raise Failed(str(error.stderr)[-2000:]) from error
        except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
            raise Failed(str(error)) from error
    found.setdefault("cpu_s", cpu_of_children() - own)  # of Go: all of its process
    found["server_cpu_s"] = cpu_of(contestant.server.pid) - served
    if contestant.is_etcd:
        moved = asyncio.run(_revision(contestant.server.url)) - before
        if moved < found["ops"] * row.writes_per_op:
            raise Failed(f"{found['ops']} operations moved the revision by {moved} only")
    return found | {"neighbours": others.cores}


def rate(figure: Figure) -> float:
    """Return operations per second."""
    return figure["ops"] / figure["seconds"]


def ratios(found: Figures, other: str) -> list[float]:
    """Return how many times faster ours is than another, round by round."""
    return [rate(a) / rate(b) for a, b in zip(found[OURS], found[other], strict=True)]


def table(row: Row, found: Figures) -> None:
    """Print one row of all contestants."""
    print(f"\n{row.name}")
    for label, figures in found.items():

        def median(key: str, figures: list[Figure] = figures) -> float:
            return statistics.median(f[key] / f["ops"] * 1e6 for f in figures)

        rates = statistics.median(rate(f) for f in figures)
        busy = statistics.median(f["neighbours"] for f in figures)
        line = f"  {label:24} {rates:9.1f} /s  cpu {median('cpu_s'):8.0f} us  server {median('server_cpu_s'):8.0f} us  others {busy:4.2f}"
        if OURS in found and label != OURS:
            line += f"  ours/it {spread(ratios(found, label))}"
        print(line, flush=True)


def measure_all(
    chosen: list[Row], contestants: list[Contestant], rounds: int, scale: float
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Measure row by row, in each round all contestants in turn."""
    found: dict[str, Figures] = {}
    failures: dict[str, str] = {}
    pids = sorted({contestant.server.pid for contestant in contestants})
    for row in chosen:
        asked = [c for c in contestants if c.label in {OURS, ON_ETCD, *row.others}]
        figures: Figures = {contestant.label: [] for contestant in asked}
        for _ in range(rounds):
            for contestant in [c for c in asked if c.label in figures]:
                try:
                    figures[contestant.label].append(measure(contestant, row, scale, pids))
                except Failed as failure:
                    del figures[contestant.label]
                    failures[f"{row.name}: {contestant.label}"] = str(failure)
                    print(f"failed: {row.name}: {contestant.label}: {failure}", flush=True)
        table(row, figures)
        found[row.name] = figures
    return found, failures


def judge(found: dict[str, Figures]) -> list[dict[str, object]]:
    """Compare with the targets, print what was reached, return it."""
    kept: list[dict[str, object]] = []
    print("\ntargets")
    for name, other, must in TARGETS:
        figures = found.get(name, {})
        if OURS in figures and other in figures:
            reached = ratios(figures, other)
            mark = "" if statistics.median(reached) >= must else "  BELOW"
            print(f"  {name:24} {other:20} {spread(reached)}  must {must:.1f}{mark}")
            kept.append(
                {"row": name, "other": other, "ratio": statistics.median(reached), "must": must}
            )
    return kept


def present(
    stack: contextlib.ExitStack, scratch: Path, wanted: set[str]
) -> tuple[list[Contestant], dict[str, str]]:
    """Start the servers and prepare the clients; return who is there, and why others are not."""
    lacks: dict[str, str] = {}
    made: list[Contestant] = []
    if wanted & {ON_ETCD, GO, AETCD}:
        etcd = stack.enter_context(real_etcd(scratch / "etcd"))
        there = Side(etcd.url, etcd.pid)
        made += [Contestant(label=label, server=there) for label in (ON_ETCD, GO)]
        made.append(Contestant(label=AETCD, server=there, client=_AETCD))
    ours = stack.enter_context(coord_server_process(scratch / "coord"))
    made.insert(0, Contestant(label=OURS, server=Side(ours.url, ours.pid)))
    for label, start, client in ((KAZOO, zookeeper, _KAZOO), (REDIS, redis, _REDIS)):
        if label in wanted:
            try:
                side = stack.enter_context(start(scratch / client.package))
            except (OSError, RuntimeError) as error:
                lacks[label] = str(error)
            else:
                made.append(Contestant(label=label, server=side, client=client, is_etcd=False))
    made = [contestant for contestant in made if contestant.label in wanted]
    for contestant in made:
        if contestant.client is not None:
            lack = environments.missing(contestant.client.name)
        else:
            lack = None
            if contestant.label == GO and golang.program() is None:
                lack = f"no {golang.NEEDS}"
        if lack is not None:
            lacks[contestant.label] = lack
    for label, lack in lacks.items():
        print(f"missing: {label}: {lack}")
    return [contestant for contestant in made if contestant.label not in lacks], lacks


def main() -> int:
    """Measure, print, keep; exit 1 below a target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--clients", default="")
    options = parser.parse_args()
    asked, chosen = chosen_by(options.clients), chosen_by(options.only)
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coord-recipes-")))
        labels = {label for label in (OURS, ON_ETCD, GO, AETCD, KAZOO, REDIS) if asked(label)}
        contestants, lacks = present(stack, scratch, labels)
        found, failures = measure_all(
            [row for row in ROWS if chosen(row.name)], contestants, options.rounds, options.scale
        )
    kept = judge(found)
    keep(
        "recipes",
        {
            "seconds": round(time.perf_counter() - began),
            "missing": lacks,
            "failed": failures,
            "targets": kept,
            "rows": found,
        },
    )
    return 1 if any(float(str(k["ratio"])) < float(str(k["must"])) for k in kept) else 0


if __name__ == "__main__":
    sys.exit(main())
