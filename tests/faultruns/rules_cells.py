"""Counters, cells, transactions, ids and rates: exact numbers."""

from __future__ import annotations

from collections import Counter

from tests.faultruns.lines import History
from tests.faultruns.rules import Finding, is_denied
from tests.faultruns.scene import WORKERS
from tests.faultruns.work_cells import ACCOUNTS, BALANCE, BURST, RATE

_WINDOWS = 300
"""So many permits are looked at from each one on: more than a minute's."""
_PERMITS_OFF = 0.5
"""The limiter counts by the wall clock, and the judge by the monotonic one."""
_CALLS = {"counter": "add", "sharded_counter": "add", "atomic": "update", "stm": "transfer"}


def check_sum(history: History, recipe: str) -> list[Finding]:
    """What was confirmed was counted, and what was refused was not."""
    final = history.final(recipe)
    if final is None:
        return [Finding(recipe, "left", "nobody looked at the end")]
    added = history.of(recipe, "added")
    sure = sum(line.data["value"] is not None for line in added)
    doubts = sum(
        line.data["value"] is None and not is_denied(history, line, _CALLS[recipe])
        for line in added
    )
    if not sure <= int(final["value"]) <= sure + doubts:
        text = f"{final['value']}, and {sure} were confirmed and {doubts} are in doubt"
        return [Finding(recipe, "sum", text)]
    return []


def check_numbers(history: History, recipe: str) -> list[Finding]:
    """The same, and each addition has a number of its own, in the order of time."""
    found = check_sum(history, recipe)
    added = [line for line in history.of(recipe, "added") if line.data["value"] is not None]
    counts = Counter(line.whole("value") for line in added)
    found += [
        Finding(recipe, "twice", f"{value} was returned {count} times")
        for value, count in counts.items()
        if count > 1
    ]
    highest, place = 0, 0
    for line in sorted(added, key=lambda each: each.number("asked")):
        while place < len(added) and added[place].t <= line.number("asked"):
            highest = max(highest, added[place].whole("value"))
            place += 1
        if line.whole("value") <= highest:
            text = f"{line.data['value']} was returned to who asked after {highest}"
            found.append(Finding(recipe, "order", text))
    return found


def check_stm(history: History, recipe: str) -> list[Finding]:
    """The same, and no money is made or lost, in no transaction."""
    found = check_numbers(history, recipe)
    total = ACCOUNTS * BALANCE
    seen = [line.data["total"] for line in history.of(recipe, "added")]
    final = history.final(recipe)
    found += [
        Finding(recipe, "total", f"{each} instead of {total}")
        for each in [*seen, None if final is None else final["total"]]
        if each is not None and each != total
    ]
    return found


def check_ids(history: History, recipe: str) -> list[Finding]:
    """Each id once, and rising for each allocator."""
    found: list[Finding] = []
    counts = Counter(line.whole("value") for line in history.of(recipe, "id"))
    found += [
        Finding(recipe, "twice", f"{value} was given {count} times")
        for value, count in counts.items()
        if count > 1
    ]
    for worker in range(WORKERS):
        highest = -1
        for line in history.of(recipe, "id"):
            if line.worker == worker:
                if line.whole("value") <= highest:
                    text = f"worker {worker} got {line.data['value']} after {highest}"
                    found.append(Finding(recipe, "order", text))
                highest = line.whole("value")
    return found


def check_rate(history: History, recipe: str) -> list[Finding]:
    """In no window more than the rate and the burst."""
    permits = sorted(history.of(recipe, "permit"), key=lambda line: line.number("asked"))
    found: list[Finding] = []
    for place, line in enumerate(permits):
        start = line.number("asked")
        # A permit was taken between its asking and its answer: in the window for sure if both are.
        ends = sorted(each.t for each in permits[place : place + _WINDOWS])
        worst = max(
            number - (RATE * (end - start) + BURST) for number, end in enumerate(ends, start=1)
        )
        if worst > _PERMITS_OFF:
            found.append(
                Finding(recipe, "rate", f"{worst:.1f} permits too many from {start:.3f} on")
            )
    return found
