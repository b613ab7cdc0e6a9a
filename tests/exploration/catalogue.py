"""Every recipe that is explored, by name."""

from __future__ import annotations

from tests.exploration.recipes.mutex import MutexScenario
from tests.exploration.world import Scenario

RECIPES: dict[str, type[Scenario]] = {scenario.name: scenario for scenario in (MutexScenario,)}
