"""The seeds of `make sim`: two hundred, each a cluster of its own with its own faults, for half as long each.

``COORD_SIM_FULL=1``, as in `make test-all`: for as long as there.
"""

from __future__ import annotations

import os

import pytest

from coord.testing.sim import draw_options, draw_plan, run
from coord.testing.sim.options import BRIEF
from coord.testing.sim.report import repro

_FIRST = int(os.environ.get("COORD_SIM_FIRST", "0"))
_COUNT = int(os.environ.get("COORD_SIM_SEEDS", "200"))
_ALSO = () if os.environ.get("COORD_SIM_FULL") else (BRIEF,)


@pytest.mark.parametrize("seed", range(_FIRST, _FIRST + _COUNT))
def test_a_seed_has_no_problem(seed: int) -> None:
    outcome = run(draw_plan(draw_options(seed, also=_ALSO)))
    assert outcome.problems == [], f"again: {repro(seed, also=_ALSO)}"
