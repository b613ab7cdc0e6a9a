"""Barriers and latches: nobody passes early."""

from __future__ import annotations

from collections import defaultdict

from tests.faultruns.lines import History, Line
from tests.faultruns.rules import Finding
from tests.faultruns.scene import WORKERS

_STALE_S = 45.0
"""What a call that failed has left is gone by then: it is given up in the background, or ends with its lease."""


def check_barrier(history: History, recipe: str) -> list[Finding]:
    """Nobody who came to a closed gate passed it while it was closed."""
    return [
        Finding(
            recipe,
            "early",
            f"worker {line.worker} passed at {line.t:.3f} what was closed from {gate.number('start'):.3f}"
            f" to {gate.number('until'):.3f}",
        )
        for line in history.of(recipe, "passed")
        for gate in history.of(recipe, "closed")
        if gate.number("start") <= line.number("asked") and line.t < gate.number("until")
    ]


def check_double_barrier(history: History, recipe: str) -> list[Finding]:
    """Nobody begins a round before all are there, and nobody ends it before all have left."""
    found: list[Finding] = []
    attempts: dict[int, list[Line]] = defaultdict(list)
    for line in history.of(recipe, "entered"):
        attempts[line.worker].append(line)
    left: dict[int, list[Line]] = defaultdict(list)
    for line in history.of(recipe, "left"):
        left[line.whole("round")].append(line)
    for line in history.of(recipe, "entered"):
        number = line.whole("round")
        found += [
            Finding(
                recipe, "early", f"worker {line.worker} began round {number} without worker {other}"
            )
            for other in range(WORKERS)
            if number and not _was_there(attempts[other], number, line.t)
        ]
    for number, lines in left.items():
        found += [
            Finding(
                recipe,
                "early",
                f"worker {line.worker} ended round {number} at {line.t:.3f}, and worker {other.worker} left"
                f" at {other.number('leaving'):.3f}",
            )
            for line in lines
            for other in lines
            if line.data["done"]
            and other.data["sure"]
            # One who entered after the others had gone was told late of a round that is over.
            and other.number("entered") < line.t < other.number("leaving")
        ]
    return found


def _was_there(attempts: list[Line], number: int, at: float) -> bool:
    """Whether a worker had come for this round by then: it says so, or its call failed not long before."""
    for line in attempts:
        if line.number("asked") > at:
            continue
        if line.whole("round") == number:
            return True
        if not line.whole("round") and line.t > at - _STALE_S:
            return True
    return False


def check_latch(history: History, recipe: str) -> list[Finding]:
    """Nobody passes before everybody has arrived since the last reset."""
    found: list[Finding] = []
    resets = [line for line in history.of(recipe, "reset") if line.data["done"]]
    arrived = history.of(recipe, "arrived")
    for line in history.of(recipe, "passed"):
        before = [reset for reset in resets if reset.t <= line.number("asked")]
        since = before[-1].number("asked") if before else 0.0
        there = {a.worker for a in arrived if a.t >= since and a.number("asked") <= line.t}
        missing = sorted(set(range(WORKERS)) - there)
        if missing:
            text = f"worker {line.worker} passed at {line.t:.3f} without {missing}"
            found.append(Finding(recipe, "early", text))
    return found
