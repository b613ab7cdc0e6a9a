"""How long each recipe took to work again, as a table and as JSON."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.faultruns.lines import History
from tests.faultruns.rules import span

_QUIET_BEFORE_S = 3.0
"""The quiet moment to compare with is that long before a fault."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from some moments to the next success of a call that was begun after each; sorted."""

    seconds: tuple[float, ...]
    never: int
    """After so many moments there was no success any more."""

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def worst(self) -> float | None:
        return self.seconds[-1] if self.seconds else None

    def as_json(self) -> dict[str, object]:
        return {
            "moments": len(self.seconds) + self.never,
            "median_s": _rounded(self.median),
            "worst_s": _rounded(self.worst),
            "never": self.never,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def times_after(history: History, recipe: str, moments: Iterable[float]) -> Times:
    """Return how long after each moment a call succeeded that had been begun after it."""
    done = sorted((line.number("asked"), line.t) for line in history.of(recipe, "ok"))
    # Of the calls begun from a place on, the first that succeeded.
    best = [0.0] * len(done)
    soonest = float("inf")
    for place in range(len(done) - 1, -1, -1):
        soonest = min(soonest, done[place][1])
        best[place] = soonest
    found: list[float] = []
    never = 0
    for moment in moments:
        place = bisect_left(done, (moment, 0.0))
        if place < len(done):
            found.append(best[place] - moment)
        else:
            never += 1
    return Times(tuple(sorted(found)), never)


@dataclass(frozen=True, slots=True)
class Row:
    """One recipe of a run."""

    recipe: str
    successes: int
    errors: Counter[str]
    quiet: Times
    fault: Times
    heal: Times


def rows(history: History, recipes: list[str]) -> list[Row]:
    """Return what the table says of each recipe."""
    faults = history.of("fault", "begin")
    begins = [line.t for line in faults]
    heals = [line.t for line in history.of("fault", "heal")]
    # A fault may take a while until it is done: members that are to end in order.
    quiet = [line.number("asked") - _QUIET_BEFORE_S for line in faults]
    return [
        Row(
            recipe,
            len(history.of(recipe, "ok")),
            Counter(line.text("type") for line in history.of(recipe, "error")),
            times_after(history, recipe, quiet),
            times_after(history, recipe, begins),
            times_after(history, recipe, heals),
        )
        for recipe in recipes
    ]


def table(history: History, recipes: list[str]) -> str:
    """Return the table, in Markdown: each time as median and worst."""
    lines = [
        "| recipe | successes | errors | quiet | from the fault | from its healing |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows(history, recipes):
        errors = ", ".join(f"{name} {count}" for name, count in sorted(row.errors.items()))
        cells = [
            row.recipe,
            f"{row.successes}",
            errors or "none",
            *[_pair(times) for times in (row.quiet, row.fault, row.heal)],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _pair(times: Times) -> str:
    if times.median is None or times.worst is None:
        return "-"
    more = f" ({times.never} x not before the end)" if times.never else ""
    return f"{times.median:.1f}, {times.worst:.1f} s{more}"


def as_json(history: History, recipes: list[str]) -> dict[str, Any]:
    """Return the same, and what was done to the cluster."""
    begin, end = span(history)
    return {
        "seconds": round(end - begin, 1),
        "faults": [
            {"at_s": round(line.t - begin, 1), "what": line.data["text"]}
            for line in history.of("fault", "begin")
        ],
        "recipes": {
            row.recipe: {
                "successes": row.successes,
                "errors": dict(row.errors),
                "quiet": row.quiet.as_json(),
                "from_fault": row.fault.as_json(),
                "from_heal": row.heal.as_json(),
            }
            for row in rows(history, recipes)
        },
    }
