"""The seeds of `make sim`: two hundred, each a cluster of its own with its own faults."""

from __future__ import annotations

import os

import pytest

from coord.testing.sim import draw_options, draw_plan, run

_FIRST = int(os.environ.get("COORD_SIM_FIRST", "0"))
_COUNT = int(os.environ.get("COORD_SIM_SEEDS", "200"))


@pytest.mark.parametrize("seed", range(_FIRST, _FIRST + _COUNT))
def test_a_seed_has_no_problem(seed: int) -> None:
    outcome = run(draw_plan(draw_options(seed)))
    assert outcome.problems == [], f"again: python -m coord.testing.sim --seeds {seed}"
