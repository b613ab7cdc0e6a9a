"""What everybody notes during a run: lines of JSON, with times of one clock.

All processes of a run are on one machine, so ``CLOCK_MONOTONIC`` is the same for all of them. Each line is flushed:
what a process did before it hung or died is there.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

RUNNER = -1
"""The number of the process that runs the cluster, among those of the workers."""


def now() -> float:
    """Monotonic seconds, the same in all processes of this machine."""
    return time.monotonic()


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened at ``t``: what ``worker`` did with ``recipe``."""

    t: float
    worker: int
    recipe: str
    kind: str
    data: dict[str, Any]

    def number(self, name: str) -> float:
        return float(self.data[name])

    def whole(self, name: str) -> int:
        return int(self.data[name])

    def text(self, name: str) -> str:
        return str(self.data[name])


class Notes:
    """Writes the lines of one process."""

    def __init__(self, path: Path, worker: int) -> None:
        self._worker = worker
        self._file = path.open("a", encoding="utf-8")

    def note(self, recipe: str, kind: str, **data: object) -> None:
        line = {"t": now(), "w": self._worker, "r": recipe, "k": kind, **data}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def parse(text: str) -> Line:
    """Read one line."""
    given = cast("dict[str, Any]", json.loads(text))
    t, worker = float(given.pop("t")), int(given.pop("w"))
    return Line(t, worker, str(given.pop("r")), str(given.pop("k")), given)


class History:
    """Everything that was noted, in the order of time."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines: list[Line] = sorted(lines, key=lambda line: line.t)
        self._by: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for line in self.lines:
            self._by[line.recipe, line.kind].append(line)

    @classmethod
    def read(cls, *paths: Path) -> History:
        return cls([parse(text) for path in paths for text in path.read_text().splitlines()])

    def of(self, recipe: str, *kinds: str) -> list[Line]:
        """Return the lines of a recipe that are of one of these kinds, in the order of time."""
        found = [line for kind in kinds for line in self._by.get((recipe, kind), ())]
        return sorted(found, key=lambda line: line.t) if len(kinds) > 1 else found

    def final(self, recipe: str) -> dict[str, Any] | None:
        """Return what the store held of a recipe at the end; None if nobody looked."""
        lines = self.of(recipe, "final")
        return lines[-1].data if lines else None
