"""One describer for each layout of keys, and which of them fits a name.

A describer looks at the key ``name`` and some of those below it, a :class:`Scene`, and says whether they are its own;
the first who does describes all of it. So those whose keys can be mistaken for others' come last.
"""

from coord.explaining.layouts.gates import Barriers, DoubleBarriers, Latches
from coord.explaining.layouts.groups import Groups, Services
from coord.explaining.layouts.lines import Lines, SingleKeys
from coord.explaining.layouts.locks import RWLocks, Semaphores
from coord.explaining.layouts.queues import Queues, WorkQueues
from coord.explaining.layouts.rates import RateLimiters
from coord.explaining.layouts.scene import Described, Describer, Scene, Seat

DESCRIBERS: tuple[Describer, ...] = (
    RateLimiters(),
    Latches(),
    RWLocks(),
    Semaphores(),
    DoubleBarriers(),
    WorkQueues(),
    Lines(),
    Services(),
    Groups(),
    Queues(),
    SingleKeys(),
    Barriers(),
)

__all__ = ["DESCRIBERS", "Described", "Describer", "Scene", "Seat"]
