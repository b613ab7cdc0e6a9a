"""Our SDK beside the other Python clients of etcd: ``python -m benchmarks.python_clients``.

    --rounds N      how often everything is measured (3)
    --seconds S     how long one measurement takes (1.5)
    --only a,b      rows whose name contains one of the words
    --clients a,b   clients whose name contains one of the words

All run against one etcd 3.5.1; ours on coord-server, too.
Every client is a process of its own, in an environment of its own, used as its documentation says; in each round all
clients take a row in turn, so that a noisy neighbour hits all.
What was measured beside busy neighbours is measured again, and the quietest of three counts; each row says how busy.
After each measurement the store's revision must have moved by what the client says to have written.
A ratio is ours (``coord thread`` on etcd, unless it is said otherwise) divided by the other's in the same round, the
median over the rounds with the smallest and the largest: above 1 we are faster, or need less CPU.
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
from typing import TYPE_CHECKING

import coord
from benchmarks.clients.environments import (
    CLIENTS,
    ROOT,
    Client,
    environment,
    folder,
    missing,
    python,
)
from benchmarks.kept import keep, neighbours
from tests.support.servers import coord_server_process, real_etcd

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.servers import ServerProcess

FAN_PREFIX = "/fan/"
FAN_TXN = 100  # events that one transaction makes: the writer must not be what is measured
WATCH_TIMEOUT_S = 120.0
BUSY_NEIGHBOUR = 0.25  # of a core


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question, and by how much the revision moves per operation; None: not by calls."""

    name: str
    operation: str
    callers: int
    writes_per_op: int | None
    until: str = ""
    """How long or how often, if it is not the run's ``--seconds``."""
    unit: str = "/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A client on a server; ``how`` is the form of ours, or the other client."""

    label: str
    how: str | Client
    on_etcd: bool = True

    def command(self, url: str, row: Row, until: str) -> list[str]:
        """Return how it is run."""
        words = [row.operation, str(row.callers), until]
        if isinstance(self.how, Client):
            host, _, port = url.partition("://")[2].partition(":")
            program = [python(folder(self.how)), "-W", "ignore", "-m"]
            return [*program, f"benchmarks.clients.{self.how.module}", host, port, *words]
        module = "sdk_sync" if self.how == "sync" else "sdk"
        program = [sys.executable, "-W", "ignore", "-m", f"benchmarks.clients.{module}", url]
        return [*program, *words, *([] if self.how == "sync" else [self.how])]


SESSIONLESS = frozenset(
    {
        "etcd-client-py",
        *(
            f"coord {how}{on}"
            for how in ("inline", "sync", "grpcio")
            for on in ("", ", coord-server")
        ),
    }
)
OURS = "coord thread"
HERE = "coord thread, coord-server"


def rows() -> list[Row]:
    """All questions, in the order of the table."""
    table = [
        Row(name=f"{operation} {callers}", operation=operation, callers=callers, writes_per_op=n)
        for operation, n in (("put", 1), ("get", 0), ("txn", 1))
        for callers in (1, 64, 256)
    ]
    table.append(
        Row(name="lock cycles 16 names", operation="lock-own", callers=16, writes_per_op=2)
    )
    table.append(
        Row(
            name="watch events, 40 watchers",
            operation="watched",
            # With ten of them it was the writer's speed that was measured, which is etcd's, for all alike.
            callers=40,
            writes_per_op=None,
            until="1000",
        )
    )
    table.append(
        Row(
            name="1,000 sessions, CPU s/min",
            operation="sessions",
            callers=1000,
            writes_per_op=None,
            until="18s",
            unit="CPU s/min",
        )
    )
    return table


def contestants() -> list[Contestant]:
    """Ours in all its forms, and the others."""
    ours = [
        Contestant(label=f"coord {how}", how=how) for how in ("thread", "inline", "sync", "grpcio")
    ]
    others = [Contestant(label=client.name.partition("==")[0], how=client) for client in CLIENTS]
    here = [
        Contestant(label=f"coord {how}, coord-server", how=how, on_etcd=False)
        for how in ("thread", "inline", "sync")
    ]
    return [*ours, *others, *here]


def takes(contestant: Contestant, row: Row) -> bool:
    """Say whether a row is asked of a client."""
    if row.operation != "sessions":
        return True
    # Our sessions live on the client's thread, whatever the callers do.
    # etcd-client-py 0.5.1 returns no id from lease_grant(), so there is nothing to renew.
    return contestant.label not in SESSIONLESS


class Failed(Exception):
    """A client did not do what was asked of it."""


class Run:
    """The servers, and what was measured so far."""

    def __init__(self, etcd: ServerProcess, ours: ServerProcess, seconds: float) -> None:
        self._urls = {True: etcd.url, False: ours.url}
        self._servers = (etcd.pid, ours.pid)
        self._seconds = seconds

    def measure_quietly(self, contestant: Contestant, row: Row) -> dict[str, float]:
        """Measure, again while neighbours are busy, at most three times; return the quietest."""
        found: list[dict[str, float]] = []
        for _ in range(1 if row.operation == "sessions" else 3):
            found.append(self.measure(contestant, row))
            if found[-1]["neighbours"] < BUSY_NEIGHBOUR:
                break
        return min(found, key=lambda figure: figure["neighbours"])

    def measure(self, contestant: Contestant, row: Row) -> dict[str, float]:
        """Run one client once, and look at what it did."""
        url = self._urls[contestant.on_etcd]
        until = row.until or f"{self._seconds:g}s"
        before, leases = asyncio.run(_state(url))
        client = contestant.how if isinstance(contestant.how, Client) else None
        with (
            neighbours(self._servers) as others,
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                contestant.command(url, row, until),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(client),
                cwd=ROOT,
            ) as process,
        ):
            try:
                result = self._follow(process, url, row)
                if row.operation == "sessions":
                    self._check_leases(contestant, url, leases, row.callers)
                    process.kill()  # how long a client takes to end them is not asked, and one never does
                else:
                    process.communicate(timeout=60)
                    done: subprocess.CompletedProcess[str]
                    done = subprocess.CompletedProcess(process.args, process.returncode)
                    done.check_returncode()
            except (ValueError, subprocess.SubprocessError) as problem:
                process.kill()
                errors.seek(0)
                raise Failed(f"{problem}\n{errors.read()[-2000:]}") from problem
        if row.writes_per_op is not None:
            moved = asyncio.run(_state(url))[0] - before
            if moved != result["ops"] * row.writes_per_op:
                raise Failed(f"{result['ops']} operations moved the revision by {moved}")
        return result | {"neighbours": others.cores}

    def _follow(self, process: subprocess.Popen[str], url: str, row: Row) -> dict[str, float]:
        """Read what a generator says; write when it is ready to watch."""
        for line in process.stdout or ():
            if line.strip() == "ready":
                asyncio.run(_write(url, int(row.until)))
            elif line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                return found
        raise ValueError("it ended without a result")

    @staticmethod
    def _check_leases(contestant: Contestant, url: str, before: frozenset[int], count: int) -> None:
        kept = len(asyncio.run(_state(url))[1] - before)
        if kept != count:
            raise ValueError(f"{contestant.label}: {kept} of {count} leases are alive")


async def _state(url: str) -> tuple[int, frozenset[int]]:
    async with coord.connect(url, runtime="inline") as client:
        return (await client.status()).revision, frozenset(await client.leases())


async def _write(url: str, events: int) -> None:
    """Write as many events in transactions of :data:`FAN_TXN`."""
    async with coord.connect(url, runtime="inline") as client:
        for start in range(0, events, FAN_TXN):
            puts = [
                coord.op.put(f"{FAN_PREFIX}{n}", b"x" * 64) for n in range(start, start + FAN_TXN)
            ]
            await client.txn().then(*puts).commit()


def value(row: Row, figure: dict[str, float]) -> float:
    """Return what a row is about."""
    if row.operation == "sessions":
        return figure["cpu_s"] / figure["seconds"] * 60
    return figure["ops"] / figure["seconds"]


def better(row: Row, a: float, b: float) -> float:
    """Return how many times better ``a`` is than ``b``."""
    return b / a if row.operation == "sessions" else a / b


def spread(ratios: list[float]) -> str:
    """Print a ratio with its extremes."""
    return f"{statistics.median(ratios):6.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"


Figures = dict[str, list[dict[str, float]]]


def table(row: Row, found: Figures) -> None:
    """Print one row of all clients."""
    print(f"\n{row.name}")
    for label, figures in found.items():
        values = [value(row, f) for f in figures]
        cpu = statistics.median(f["cpu_s"] / f["ops"] * 1e6 for f in figures)
        p50 = statistics.median(f["p50_us"] for f in figures)
        others = statistics.median(f["neighbours"] for f in figures)
        line = f"  {label:27} {statistics.median(values):10.1f} {row.unit:9} cpu {cpu:7.1f} us  p50 {p50:7.0f} us  others {others:4.2f}"
        if OURS in found and label != OURS:
            ratios = [
                better(row, value(row, a), v) for a, v in zip(found[OURS], values, strict=True)
            ]
            line += f"  ours/it {spread(ratios)}"
        print(line, flush=True)


# What must be reached: row, whose figure, beside whom, at least.
TARGETS = (
    ("put 64", HERE, "aetcd", 5.0),
    ("lock cycles 16 names", HERE, "aetcd", 4.0),
    *(
        (f"{operation} {callers}", OURS, other, must)
        for operation in ("put", "get")
        for callers, must in ((1, 1.3), (64, 1.5))
        for other in ("aetcd", "etcd3", "etcd-client-py")
    ),
)


def judge(chosen: list[Row], found: dict[str, Figures]) -> list[dict[str, object]]:
    """Compare with the targets, print what was reached, return it."""
    by_name = {row.name: row for row in chosen}
    kept: list[dict[str, object]] = []
    print("\ntargets")
    for name, mine, other, must in TARGETS:
        figures = found.get(name, {})
        if mine not in figures or other not in figures:
            continue
        row = by_name[name]
        ratios = [
            better(row, value(row, a), value(row, b))
            for a, b in zip(figures[mine], figures[other], strict=True)
        ]
        reached = statistics.median(ratios)
        mark = "" if reached >= must else "  BELOW"
        print(f"  {name:22} {mine:27} / {other:15} {spread(ratios)}  must {must:.1f}{mark}")
        kept.append({"row": name, "ours": mine, "other": other, "ratio": reached, "must": must})
    return kept


def measure_all(
    run: Run, chosen: list[Row], clients: list[Contestant], rounds: int
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Measure row by row, in each round all clients in turn."""
    found: dict[str, Figures] = {}
    failures: dict[str, str] = {}
    for row in chosen:
        figures: Figures = {c.label: [] for c in clients if takes(c, row)}
        for _ in range(rounds):
            for contestant in clients:
                if contestant.label not in figures:
                    continue
                try:
                    figures[contestant.label].append(run.measure_quietly(contestant, row))
                except Failed as failure:
                    del figures[contestant.label]
                    failures[f"{row.name}: {contestant.label}"] = str(failure)
                    print(f"failed: {row.name}: {contestant.label}: {failure}", flush=True)
        table(row, figures)
        found[row.name] = figures
    return found, failures


def chosen_by(words: str) -> Callable[[str], bool]:
    """Return whether a name has one of the comma-separated words; none choose all."""
    wanted = [w for w in words.split(",") if w]
    return lambda name: not wanted or any(w in name for w in wanted)


def main() -> int:
    """Measure, print, keep; exit 1 below a target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.python_clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--only", default="")
    parser.add_argument("--clients", default="")
    options = parser.parse_args()
    wanted, asked = chosen_by(options.only), chosen_by(options.clients)
    chosen = [row for row in rows() if wanted(row.name)]
    clients: list[Contestant] = []
    lacks: dict[str, str] = {}
    for contestant in [c for c in contestants() if asked(c.label)]:
        lack = missing(contestant.how.name) if isinstance(contestant.how, Client) else None
        if lack is None:
            clients.append(contestant)
        else:
            lacks[contestant.label] = lack
            print(f"missing: {contestant.label}: {lack}")
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coord-clients-")))
        etcd = stack.enter_context(real_etcd(scratch / "etcd"))
        ours = stack.enter_context(coord_server_process(scratch / "coord"))
        run = Run(etcd, ours, options.seconds)
        found, failures = measure_all(run, chosen, clients, options.rounds)
    kept = judge(chosen, found)
    keep(
        "python-clients",
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
