"""``python -m coord.testing.sim``: many seeds in several processes, and what became of them."""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coord.testing.sim import report
from coord.testing.sim.options import BRIEF, RESIZE, STRANGER, draw_options
from coord.testing.sim.plan import Plan, draw_plan
from coord.testing.sim.run import Outcome, run
from coord.testing.sim.shrink import shrink
from coord.testing.sim.trace import Trace
from coord_server import failpoints

if TYPE_CHECKING:
    from collections.abc import Sequence

# One seed in so many is run twice, in processes that hash differently.
_TWICE_EVERY = 20
_TWICE_TIMEOUT_S = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; 0 if every run passed, 1 if one failed, 2 for bad arguments."""
    given = _parser().parse_args(arguments)
    if given.hash_only:
        made = run(_plan(int(given.seeds), given))
        report.say(json.dumps([made.trace_hash, made.events, made.verdict]))
        return 0
    began = time.monotonic()
    plans = _pinned(given.plan) if given.plan else None
    if plans is not None:
        runs = [_one_plan(plan, given) for plan in plans]
    else:
        runs = _many(_range(given.seeds), given)
        _check_determinism(runs, given)
    total = report.summary(
        runs, minutes=(time.monotonic() - began) / 60, failpoints=len(failpoints.names())
    )
    if given.report:
        report.write_summary(Path(given.report), total)
    report.say(json.dumps(total))
    return 1 if total["failures"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m coord.testing.sim", description="Simulated clusters, one per seed."
    )
    parser.add_argument("--seeds", default="0-20", help="one seed, or FIRST-END without END")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--report", default="", help="directory for the summary and the failures")
    parser.add_argument("--members", type=int, default=None, help="instead of what seeds draw")
    parser.add_argument("--depth", choices=("direct", "full"), default=None)
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        choices=(RESIZE, STRANGER, BRIEF),
        help="faults that all seeds have; brief: half as long each",
    )
    parser.add_argument("--plan", default="", help="a plan's JSON file, or a directory of them")
    parser.add_argument("--no-shrink", action="store_true", help="keep failing plans as they are")
    parser.add_argument("--trace", action="store_true", help="print every event of the runs")
    parser.add_argument("--hash-only", action="store_true", help=argparse.SUPPRESS)
    return parser


def _range(text: str) -> list[int]:
    first, dash, end = text.partition("-")
    try:
        return list(range(int(first), int(end))) if dash else [int(first)]
    except ValueError:
        raise SystemExit(f"--seeds {text}: expected N or FIRST-END") from None


def _plan(seed: int, given: argparse.Namespace) -> Plan:
    also = tuple(given.also)
    return draw_plan(draw_options(seed, members=given.members, depth=given.depth, also=also))


def _pinned(text: str) -> list[Plan]:
    path = Path(text)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [Plan.from_json(file.read_text()) for file in files]


def _many(seeds: Sequence[int], given: argparse.Namespace) -> list[dict[str, Any]]:
    if given.jobs <= 1:
        return [_one_seed((seed, given)) for seed in seeds]
    # Not forked: a child must not inherit what this process has loaded and set.
    context = multiprocessing.get_context("spawn")
    with context.Pool(given.jobs, maxtasksperchild=50) as pool:
        return list(pool.imap_unordered(_one_seed, [(seed, given) for seed in seeds]))


def _one_seed(task: tuple[int, argparse.Namespace]) -> dict[str, Any]:
    seed, given = task
    return _one_plan(_plan(seed, given), given)


def _one_plan(plan: Plan, given: argparse.Namespace) -> dict[str, Any]:
    trace = Trace(keep_lines=given.trace)
    outcome = run(plan, trace=trace)
    if given.trace:
        report.say("\n".join(trace.lines))
    made = report.figures(outcome)
    if outcome.verdict:
        _tell(outcome, given)
    del outcome
    gc.collect()
    return made


def _tell(outcome: Outcome, given: argparse.Namespace) -> None:
    """Shrink a failure, print it, and keep it if there is a place."""
    plan = outcome.plan
    small = None
    if not given.no_shrink:
        small = shrink(plan, lambda candidate: run(candidate).verdict == outcome.verdict)
    command = report.repro(
        plan.options.seed, members=given.members, depth=given.depth, also=tuple(given.also)
    )
    if given.plan:
        command = f"python -m coord.testing.sim --plan {given.plan}"
    report.say(report.tell_failure(report.figures(outcome), command, small))
    if given.report:
        trace = Trace(keep_lines=True)
        run(small or plan, trace=trace)
        report.write_failure(
            Path(given.report), outcome, shrunk=small, lines=trace.lines, command=command
        )


def _check_determinism(runs: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Run some seeds again in another process that hashes differently: nothing may change."""
    for made in [made for made in runs if made["seed"] % _TWICE_EVERY == 0]:
        again = run_elsewhere(
            made["seed"],
            hash_seed=1 + made["seed"],
            members=given.members,
            depth=given.depth,
            also=tuple(given.also),
        )
        if again != [made["trace_hash"], made["events"], made["verdict"]]:
            text = f"hash {made['trace_hash']:08x} after {made['events']} events, then {again}"
            report.say(f"seed {made['seed']} is not deterministic: {text}")
            made["verdict"] = made["verdict"] or "determinism"


def run_elsewhere(
    seed: int,
    *,
    hash_seed: int,
    members: int | None = None,
    depth: str | None = None,
    also: tuple[str, ...] = (),
) -> list[Any]:
    """Run a seed in a fresh process with this PYTHONHASHSEED; return trace hash, events and verdict."""
    command = [sys.executable, "-m", "coord.testing.sim", "--hash-only", "--seeds", str(seed)]
    if members is not None:
        command += ["--members", str(members)]
    if depth is not None:
        command += ["--depth", depth]
    for name in also:
        command += ["--also", name]
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        command,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=_TWICE_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        return [done.stderr[-2000:]]
    made: list[Any] = json.loads(done.stdout)
    return made
