"""Every recipe on a real cluster of three, while something is done to it again and again.

    python -m tests.faultruns --fault leader-kill --minutes 10 --json leader-kill.json

Three members behind proxies (``coord.testing.chaos``), and three client processes in which all recipes are used at the
same time (``worker``, ``work_*``). Every client notes what it did (``lines``); afterwards all notes are judged
(``judge``, ``rules_*``), and it is worked out how long each recipe took to work again (``report``).

Invariants: only processes that were started here are signalled; each step of a client has a limit, and one that
passes it is a violation; a recipe that was hardly used is one, too.

Left out: clients are not stopped or killed, and no clock is bent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
from pathlib import Path

from tests.faultruns.faults import FAULTS, plan
from tests.faultruns.judge import judge
from tests.faultruns.lines import History
from tests.faultruns.recipes import WORKLOADS
from tests.faultruns.report import as_json, table
from tests.faultruns.run import Outcome, run

_AFTER_S = 20.0
_SHOWN = 40


def main() -> int:
    """Run, judge, print; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faultruns")
    parser.add_argument("--fault", choices=sorted(FAULTS), required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--recipes", default=",".join(WORKLOADS))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--keep", type=Path, help="keep notes and logs in this directory")
    options = parser.parse_args()
    recipes = str(options.recipes).split(",")
    planned = plan(options.fault, options.minutes * 60, random.Random(options.seed))
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made) if options.keep is None else options.keep
        directory.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(
            run(
                directory,
                planned,
                recipes=recipes,
                seed=options.seed,
                seconds=options.minutes * 60,
                after_s=_AFTER_S,
            )
        )
    # Where healing takes long, fewer faults find their place.
    findings = judge(outcome.history, recipes, faults=max(1, len(planned) // 2))
    count = len(outcome.history.of("fault", "begin"))
    print(f"{options.fault}, seed {options.seed}, {count} faults, load {outcome.load}")
    print(table(outcome.history, recipes))
    for text in outcome.complaints[:_SHOWN]:
        print(f"run: {text}")
    for finding in findings[:_SHOWN]:
        print(f"{finding.recipe}: {finding.rule}: {finding.text}")
    print(f"{len(findings)} violations, {len(outcome.complaints)} complaints about processes")
    if options.json is not None:
        summary = _summary(options, outcome, recipes, len(findings))
        options.json.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if findings or outcome.complaints else 0


def _summary(
    options: argparse.Namespace, outcome: Outcome, recipes: list[str], violations: int
) -> dict[str, object]:
    history: History = outcome.history
    return {
        "fault": options.fault,
        "seed": options.seed,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [round(each, 1) for each in outcome.load],
        "violations": violations,
        "complaints": len(outcome.complaints),
        **as_json(history, recipes),
    }


if __name__ == "__main__":
    sys.exit(main())
