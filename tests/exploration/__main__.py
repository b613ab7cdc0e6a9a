"""Explores the schedules of the recipes: ``python -m tests.exploration --recipe mutex --schedules 100000``.

A failure prints its seed, the faults that it needs, and how to see it again: ``--seed N --trace``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.exploration.catalogue import RECIPES
from tests.exploration.chunk import explore_some
from tests.exploration.explorer import Outcome, Report, run_one, shrink

_CHUNK = 200


def _chunks(first: int, count: int) -> Iterator[tuple[int, int]]:
    for start in range(first, first + count, _CHUNK):
        yield start, min(_CHUNK, first + count - start)


def _run(recipe: str, first: int, count: int, jobs: int, minutes: float) -> Report:
    total = Report()
    until = time.monotonic() + minutes * 60
    if jobs == 1:
        for start, size in _chunks(first, count):
            total.merge(explore_some(recipe, start, size))
            if time.monotonic() > until:
                break
        return total
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for report in pool.map(
            explore_some, *zip(*((recipe, *c) for c in _chunks(first, count)), strict=True)
        ):
            total.merge(report)
    return total


def _tell(recipe: str, failure: Outcome) -> None:
    without = shrink(RECIPES[recipe], failure)
    left = run_one(RECIPES[recipe], failure.seed, without)
    print(f"\n{recipe}: seed {failure.seed} fails: {failure.error}")
    print(left.text.strip().rpartition("\n")[2])
    for taken in left.taken:
        print(
            f"  needs fault {taken.number} at {taken.at:.3f}: {taken.fault.value} ({taken.about})"
        )
    leave_out = ",".join(str(number) for number in sorted(without))
    extra = f" --without {leave_out}" if leave_out else ""
    print(
        f"  see it: python -m tests.exploration --recipe {recipe} --seed {failure.seed} --trace{extra}"
    )


def _summary(recipe: str, report: Report) -> dict[str, object]:
    return {
        "recipe": recipe,
        "schedules": report.schedules,
        "failures": len(report.failures),
        "faults": sum(report.faults.values()),
        "by_fault": dict(sorted(report.faults.items())),
        "requests": report.requests,
        "cpu_s": round(report.cpu_s, 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments say; 1 if a schedule failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.exploration", description=__doc__)
    parser.add_argument("--recipe", action="append", choices=sorted(RECIPES), help="default: all")
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop a recipe after so long")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--without", default="", help="numbers of faults to leave out")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--json", type=Path, help="add a line for each recipe to this file")
    options = parser.parse_args(arguments)
    recipes: list[str] = options.recipe or list(RECIPES)
    failed = False
    for recipe in recipes:
        if options.seed is not None:
            without = frozenset(int(n) for n in options.without.split(",") if n)
            outcome = run_one(RECIPES[recipe], options.seed, without, traced=options.trace)
            print("\n".join(outcome.trace))
            print(outcome.text or f"{recipe}: seed {options.seed} is well")
            failed |= outcome.error is not None
            continue
        report = _run(recipe, options.first, options.schedules, options.jobs, options.minutes)
        rate = report.schedules / max(report.cpu_s, 1e-9)
        faults = sum(report.faults.values())
        print(
            f"{recipe}: {report.schedules} schedules, {faults} faults, {len(report.failures)} failures,"
            f" {report.cpu_s:.1f} s ({rate:.0f} per second)",
            flush=True,
        )
        if options.json is not None:
            with options.json.open("a") as file:
                file.write(json.dumps(_summary(recipe, report)) + "\n")
        rules: set[str | None] = set()
        for failure in report.failures:
            if failure.error not in rules:
                rules.add(failure.error)
                _tell(recipe, failure)
        failed |= bool(report.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
