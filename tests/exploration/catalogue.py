"""Every recipe that is explored, by name."""

from __future__ import annotations

from tests.exploration.process import Scenario
from tests.exploration.recipes.cells import AtomicScenario, CounterScenario, StmScenario
from tests.exploration.recipes.cron import CronScenario
from tests.exploration.recipes.election import ElectionRunScenario, ElectionScenario
from tests.exploration.recipes.gates import (
    BarrierScenario,
    DoubleBarrierScenario,
    LatchScenario,
)
from tests.exploration.recipes.multi_lock import MultiLockScenario
from tests.exploration.recipes.mutex import (
    LockDelayScenario,
    MutexScenario,
    ReentrantScenario,
    SingleKeyScenario,
)
from tests.exploration.recipes.partitioner import PartitionerScenario
from tests.exploration.recipes.presence import MembershipScenario, RegistryScenario
from tests.exploration.recipes.queues import (
    DelayQueueScenario,
    PriorityQueueScenario,
    QueueScenario,
    WorkQueueScenario,
)
from tests.exploration.recipes.rwlock import RWLockScenario
from tests.exploration.recipes.semaphore import SemaphoreScenario
from tests.exploration.recipes.session import SessionScenario
from tests.exploration.recipes.views import (
    CacheScenario,
    ConfigScenario,
    RateLimiterScenario,
    TopicScenario,
)

_ALL: tuple[type[Scenario], ...] = (
    SessionScenario,
    MutexScenario,
    SingleKeyScenario,
    ReentrantScenario,
    LockDelayScenario,
    RWLockScenario,
    SemaphoreScenario,
    MultiLockScenario,
    ElectionScenario,
    ElectionRunScenario,
    MembershipScenario,
    RegistryScenario,
    BarrierScenario,
    DoubleBarrierScenario,
    LatchScenario,
    QueueScenario,
    PriorityQueueScenario,
    DelayQueueScenario,
    WorkQueueScenario,
    CounterScenario,
    AtomicScenario,
    StmScenario,
    CacheScenario,
    ConfigScenario,
    TopicScenario,
    RateLimiterScenario,
    PartitionerScenario,
    CronScenario,
)
RECIPES: dict[str, type[Scenario]] = {scenario.name: scenario for scenario in _ALL}
