"""Every recipe that is explored, by name."""

from __future__ import annotations

from tests.exploration.recipes.multi_lock import MultiLockScenario
from tests.exploration.recipes.mutex import (
    LockDelayScenario,
    MutexScenario,
    ReentrantScenario,
    SingleKeyScenario,
)
from tests.exploration.recipes.rwlock import RWLockScenario
from tests.exploration.recipes.semaphore import SemaphoreScenario
from tests.exploration.world import Scenario

_ALL: tuple[type[Scenario], ...] = (
    MutexScenario,
    SingleKeyScenario,
    ReentrantScenario,
    LockDelayScenario,
    RWLockScenario,
    SemaphoreScenario,
    MultiLockScenario,
)
RECIPES: dict[str, type[Scenario]] = {scenario.name: scenario for scenario in _ALL}
