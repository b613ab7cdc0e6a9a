"""Which workload each recipe has, and what reads its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import coord
from tests.faultruns import (
    work_cells,
    work_elections,
    work_gates,
    work_locks,
    work_queues,
    work_views,
)
from tests.faultruns.lines import Notes
from tests.faultruns.scene import Scene

Run = Callable[[Scene], Awaitable[None]]
End = Callable[[coord.Client, Notes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Workload:
    """``run`` is what each worker does, ``end`` reads afterwards what is in the store."""

    run: Run
    end: End | None = None


WORKLOADS: dict[str, Workload] = {
    "mutex": Workload(work_locks.mutex),
    "single_key": Workload(work_locks.single_key),
    "multi_lock": Workload(work_locks.multi_lock),
    "rwlock": Workload(work_locks.rwlock),
    "semaphore": Workload(work_locks.semaphore),
    "election": Workload(work_elections.election),
    "election_run": Workload(work_elections.election_run),
    "observe": Workload(work_elections.observe),
    "barrier": Workload(work_gates.barrier),
    "double_barrier": Workload(work_gates.double_barrier),
    "latch": Workload(work_gates.latch),
    "queue": Workload(work_queues.queue, work_queues.size_at_end("queue")),
    "priority_queue": Workload(
        work_queues.priority_queue, work_queues.size_at_end("priority_queue")
    ),
    "delay_queue": Workload(work_queues.delay_queue, work_queues.size_at_end("delay_queue")),
    "work_queue": Workload(work_queues.work_queue, work_queues.work_queue_end),
    "counter": Workload(work_cells.counter, work_cells.counter_end),
    "sharded_counter": Workload(work_cells.sharded_counter, work_cells.sharded_counter_end),
    "id_allocator": Workload(work_cells.id_allocator),
    "atomic": Workload(work_cells.atomic, work_cells.atomic_end),
    "stm": Workload(work_cells.stm, work_cells.stm_end),
    "rate_limiter": Workload(work_cells.rate_limiter),
    "registry": Workload(work_views.registry),
    "membership": Workload(work_views.membership),
    "config": Workload(work_views.config, work_views.config_end),
    "topic": Workload(work_views.topic),
    "cache": Workload(work_views.cache, work_views.cache_end),
}
