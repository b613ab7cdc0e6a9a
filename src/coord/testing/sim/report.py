"""What is told of runs: a line each, a summary of all, and a folder for every failure."""

from __future__ import annotations

import gzip
import json
import platform
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from coord.testing.history import encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from coord.testing.sim.plan import Plan
    from coord.testing.sim.run import Outcome

_SHOWN_LINES = 30
_SHOWN_PROBLEMS = 5


def repro(
    seed: int,
    *,
    members: int | None = None,
    depth: str | None = None,
    also: tuple[str, ...] = (),
) -> str:
    """Return the command that runs a seed again."""
    more = "" if members is None else f" --members {members}"
    more += "" if depth is None else f" --depth {depth}"
    more += "".join(f" --also {name}" for name in also)
    return f"python -m coord.testing.sim --seeds {seed}{more}"


def figures(outcome: Outcome) -> dict[str, Any]:
    """Return what a summary needs of a run, as plain values that cross processes."""
    return {
        "seed": outcome.plan.options.seed,
        "members": outcome.plan.options.members,
        "depth": outcome.plan.options.depth,
        "verdict": outcome.verdict,
        "problems": [asdict(problem) for problem in outcome.problems[:_SHOWN_PROBLEMS]],
        "trace_hash": outcome.trace_hash,
        "events": outcome.events,
        "steps": outcome.steps,
        "virtual_s": outcome.virtual_s,
        "cpu_s": outcome.cpu_s,
        "ops": outcome.counts,
        "acked_writes": outcome.acked_writes,
        "crashes": outcome.crashes,
        "faults": dict(outcome.faults),
        "leader_changes": outcome.leader_changes,
        "replaced": outcome.replaced,
        "resized": outcome.resized,
        "strangers": outcome.strangers,
        "sizes": list(outcome.sizes),
        "evaluated": outcome.evaluated,
        "failpoints": sorted(outcome.failpoints),
    }


def summary(runs: Sequence[dict[str, Any]], *, minutes: float, failpoints: int) -> dict[str, Any]:
    """Return the figures of all runs together."""
    ops: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    hit: set[str] = set()
    for run in runs:
        ops.update(run["ops"])
        faults.update(run["faults"])
        hit.update(run["failpoints"])
    cpu_s = sum(run["cpu_s"] for run in runs)
    virtual_s = sum(run["virtual_s"] for run in runs)
    failures = [run for run in runs if run["verdict"]]
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "minutes": round(minutes, 2),
        "runs": len(runs),
        "failures": len(failures),
        "failed_seeds": [run["seed"] for run in failures],
        "verdicts": dict(Counter(run["verdict"] for run in failures)),
        "seeds": [
            min((r["seed"] for r in runs), default=0),
            max((r["seed"] for r in runs), default=0),
        ],
        "virtual_hours": round(virtual_s / 3600, 2),
        "virtual_per_cpu": round(virtual_s / cpu_s, 1) if cpu_s else 0.0,
        "seeds_per_cpu_s": round(len(runs) / cpu_s, 2) if cpu_s else 0.0,
        "ops": dict(sorted(ops.items())),
        "acked_writes": sum(run["acked_writes"] for run in runs),
        "acked_writes_lost": sum(run["verdict"] == "ledger" for run in runs),
        "crashes": sum(run["crashes"] for run in runs),
        "faults": dict(sorted(faults.items())),
        "members_replaced": sum(run["replaced"] for run in runs),
        "strangers": sum(run["strangers"] for run in runs),
        "clusters_resized": sum(bool(run["resized"]) for run in runs),
        "members_added_or_removed": sum(run["resized"] for run in runs),
        "sizes": sorted({size for run in runs for size in run["sizes"]}),
        "leader_changes_per_seed": round(
            sum(r["leader_changes"] for r in runs) / max(1, len(runs)), 2
        ),
        "invariants_evaluated": sum(run["evaluated"] for run in runs),
        "failpoints": {"hit": len(hit), "total": failpoints, "names": sorted(hit)},
    }


def write_summary(directory: Path, made: dict[str, Any]) -> None:
    """Write ``summary.json`` and ``summary.md``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(json.dumps(made, indent=1) + "\n")
    rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in made.items()]
    text = "\n".join(["# Simulation", "", "| what | how much |", "| --- | --- |", *rows]) + "\n"
    (directory / "summary.md").write_text(text)


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType] - any JSON
    if isinstance(value, list):
        return ", ".join(str(part) for part in value) or "none"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - any JSON
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_failure(
    directory: Path, outcome: Outcome, *, shrunk: Plan | None, lines: Sequence[str], command: str
) -> None:
    """Write a folder that holds everything about a failed run."""
    place = directory / f"seed-{outcome.plan.options.seed}"
    place.mkdir(parents=True, exist_ok=True)
    options = json.dumps(outcome.plan.options.to_json(), indent=1)
    (place / "options.json").write_text(options + "\n")
    (place / "plan.json").write_text(outcome.plan.to_json())
    if shrunk is not None:
        (place / "shrunk.json").write_text(shrunk.to_json())
    problems = [asdict(problem) for problem in outcome.problems]
    (place / "verdict.json").write_text(json.dumps(problems, indent=1) + "\n")
    with gzip.open(place / "history.jsonl.gz", "wt") as history:
        history.writelines(encode(record) + "\n" for record in outcome.records)
    with gzip.open(place / "trace.txt.gz", "wt") as trace:
        trace.writelines(line + "\n" for line in lines)
    (place / "repro.sh").write_text(f"#!/bin/sh\nexec {command}\n")


def tell_failure(run: dict[str, Any], command: str, shrunk: Plan | None) -> str:
    """Return what is printed about a failure: rule, seed, how to repeat it, the small plan."""
    lines = [f"seed {run['seed']}: {run['verdict']} ({run['members']} members, {run['depth']})"]
    lines += [
        f"  {p['rule']} {p['node']} at {p['at']:.6f} s: {p['text'][:400]}" for p in run["problems"]
    ]
    lines.append(f"  again: {command}")
    if shrunk is not None:
        plan = shrunk.to_json().splitlines()
        lines += [f"  {line}" for line in plan[:_SHOWN_LINES]]
        if len(plan) > _SHOWN_LINES:
            lines.append(f"  ... {len(plan) - _SHOWN_LINES} more lines")
    return "\n".join(lines)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
