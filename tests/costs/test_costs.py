"""What each recipe costs in requests and events, counted, with few clients; ``python -m tests.costs`` has many."""

from __future__ import annotations

import pytest

from tests.costs import counting
from tests.costs.rows import ROWS

CLIENTS = 8


@pytest.mark.parametrize("recipe", ROWS)
def test_costs(recipe: str) -> None:
    costs = counting.count(recipe, CLIENTS)
    assert costs
    too_much = [cost for cost in costs if cost.figure > cost.at_most]
    assert not too_much
