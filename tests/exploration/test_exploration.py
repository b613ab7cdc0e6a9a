"""Schedules of every recipe, under faults drawn from a seed: a few in each run, as many as wanted by the command.

``COORD_EXPLORE_SCHEDULES`` (default 6) is the number for each recipe; long runs: ``python -m tests.exploration``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typing_extensions import override

from tests.exploration.catalogue import RECIPES
from tests.exploration.explorer import explore, fingerprint, run_one, shrink
from tests.exploration.faults import Fault
from tests.exploration.process import Process, Scenario, Violation
from tests.exploration.world import World

SCHEDULES = int(os.environ.get("COORD_EXPLORE_SCHEDULES", "6"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_schedules(recipe: str) -> None:
    report = explore(RECIPES[recipe], range(SCHEDULES), failures_most=1)
    told = [
        f"seed {failure.seed} (python -m tests.exploration --recipe {recipe} --seed {failure.seed} --trace)"
        f"\n{failure.text}"
        for failure in report.failures
    ]
    assert not told, told[0]
    assert report.schedules == SCHEDULES


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_seed_is_the_same_schedule_each_time(recipe: str) -> None:
    make = RECIPES[recipe]
    assert fingerprint(make, 7) == fingerprint(make, 7)
    assert fingerprint(make, 7) != fingerprint(make, 8)


class _Broken(Scenario):
    """Fails as soon as a process is stopped, whatever else there is."""

    name = "broken"

    @override
    async def body(self, process: Process, task: int) -> None:
        for number in range(20):
            await process.think(0.3)
            await process.call("put", process.client.put(f"x{task}", str(number)))

    @override
    def stays(self, key: bytes) -> bool:
        return True

    @override
    def judge(self, changes: object) -> None:
        if any(taken.fault is Fault.PAUSE for taken in self.world.plan.taken):
            raise Violation("broken", "for the test")


def test_a_failure_is_told_with_the_faults_that_it_needs() -> None:
    failed = next(
        outcome
        for outcome in (run_one(_Broken, seed) for seed in range(500))
        if outcome.error == "broken" and len(outcome.taken) > 5
    )
    without = shrink(_Broken, failed)
    left = run_one(_Broken, failed.seed, without, traced=True)
    assert left.error == "broken"
    assert [taken.fault for taken in left.taken] == [Fault.PAUSE]
    assert any("process stopped" in line for line in left.trace)


class _Leaking(Scenario):
    """Leaves an entry behind."""

    name = "leaking"
    bodies: tuple[int, ...] = (0,)

    @override
    async def body(self, process: Process, task: int) -> None:
        session = await process.session()
        if session is not None:
            await process.client.put("x", "", lease=session.lease_id)


class _Waiting(Scenario):
    """Waits for something that does not come."""

    name = "waiting"
    bodies: tuple[int, ...] = (0,)

    @override
    async def body(self, process: Process, task: int) -> None:
        await World.until_calm(self.world, 1000)


@pytest.mark.parametrize(("scenario", "rule"), [(_Leaking, "orphan"), (_Waiting, "stuck")])
def test_what_is_left_and_who_is_forgotten_is_told(scenario: type[Scenario], rule: str) -> None:
    assert {run_one(scenario, seed).error for seed in range(20)} & {rule}


def test_several_processes_share_a_run() -> None:
    words = ["--recipe", "mutex", "--schedules", "6", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.exploration", *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("mutex: 6 schedules, ")
    assert done.returncode == 0
