"""A short run: all recipes, one leader that is killed, and one member that holds still.

It keeps two cores busy for most of a minute: ``COORD_FAULT_RUNS=1`` asks for it. The rules of its judge are tested always.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faultruns.faults import Planned, plan
from tests.faultruns.judge import judge
from tests.faultruns.recipes import WORKLOADS
from tests.faultruns.report import as_json, table
from tests.faultruns.run import run

PLANNED = [Planned(4.0, "leader-kill", 2.0), Planned(6.0, "freeze", 3.0)]


@pytest.mark.skipif(not os.environ.get("COORD_FAULT_RUNS"), reason="COORD_FAULT_RUNS=1 asks for it")
@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(300)
async def test_every_recipe_outlives_a_leader_and_a_freeze(tmp_path: Path) -> None:
    recipes = list(WORKLOADS)
    outcome = await run(tmp_path, PLANNED, recipes=recipes, seed=1, seconds=60.0, after_s=6.0)
    assert outcome.complaints == []
    assert judge(outcome.history, recipes, faults=len(PLANNED)) == []
    figures = as_json(outcome.history, recipes)
    assert len(figures["faults"]) == len(PLANNED)
    assert len(table(outcome.history, recipes).splitlines()) == 2 + len(recipes)


def test_a_plan_keeps_to_its_times() -> None:
    planned = plan("freeze", 600, random.Random(1))
    assert 600 / 21 < len(planned) < 60
    for before, after in zip([Planned(0, "freeze", 0), *planned], planned, strict=False):
        assert 10 <= before.lasts_s + after.after_s <= 20
        assert 2 <= after.lasts_s <= 6
    assert sum(each.after_s + each.lasts_s for each in planned) <= 600
    assert planned == plan("freeze", 600, random.Random(1))
