"""A part of a long run, for a process of its own, which must find it in a module that is not the program."""

from __future__ import annotations

import gc

from tests.exploration.catalogue import RECIPES
from tests.exploration.explorer import Report, explore


def explore_some(recipe: str, first: int, count: int) -> Report:
    """Run ``count`` schedules of a recipe, from the seed ``first`` on."""
    gc.collect()
    gc.freeze()  # what is there already stays
    return explore(RECIPES[recipe], range(first, first + count))
