"""What a run must have kept: the rules of each recipe, put together."""

from __future__ import annotations

from collections.abc import Callable

from tests.faultruns import rules_cells, rules_gates, rules_locks, rules_queues, rules_views
from tests.faultruns.lines import History
from tests.faultruns.rules import Finding, check_common

Rule = Callable[[History, str], list[Finding]]

RULES: dict[str, Rule] = {
    "mutex": rules_locks.check_exclusive,
    "single_key": rules_locks.check_exclusive,
    "multi_lock": rules_locks.check_exclusive,
    "rwlock": rules_locks.check_exclusive,
    "semaphore": rules_locks.check_semaphore,
    "election": rules_locks.check_exclusive,
    "election_run": rules_locks.check_exclusive,
    "observe": rules_locks.check_observers,
    "barrier": rules_gates.check_barrier,
    "double_barrier": rules_gates.check_double_barrier,
    "latch": rules_gates.check_latch,
    "queue": rules_queues.check_queue,
    "priority_queue": rules_queues.check_priority_queue,
    "delay_queue": rules_queues.check_delay_queue,
    "work_queue": rules_queues.check_work_queue,
    "counter": rules_cells.check_numbers,
    "sharded_counter": rules_cells.check_sum,
    "id_allocator": rules_cells.check_ids,
    "atomic": rules_cells.check_numbers,
    "stm": rules_cells.check_stm,
    "rate_limiter": rules_cells.check_rate,
    "registry": rules_views.check_listing,
    "membership": rules_views.check_listing,
    "config": rules_views.check_config,
    "topic": rules_views.check_topic,
    "cache": rules_views.check_cache,
}


def judge(history: History, recipes: list[str], *, faults: int) -> list[Finding]:
    """Return everything that is wrong with a run in which at least ``faults`` faults were to happen."""
    found: list[Finding] = []
    begun, healed = len(history.of("fault", "begin")), len(history.of("fault", "healed"))
    if healed != begun or healed < faults:
        text = f"{begun} faults began and {healed} were healed, of at least {faults}"
        found.append(Finding("run", "faults", text))
    for recipe in recipes:
        found += RULES[recipe](history, recipe)
        found += check_common(history, recipe)
    return found
