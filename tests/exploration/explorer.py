"""Runs schedules one after the other, and finds out which of its faults a failure needs."""

from __future__ import annotations

import gc
import hashlib
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.exploration.faults import Taken
from tests.exploration.process import Scenario
from tests.exploration.world import World

_COLLECT_EVERY = 100
_SHRINK_RUNS_MOST = 300
MakeScenario = Callable[[World], Scenario]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one schedule ended; ``error`` is None if all was well."""

    seed: int
    error: str | None
    text: str
    taken: tuple[Taken, ...]
    virtual_s: float
    requests: int
    trace: tuple[str, ...] = ()

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of its faults."""
        return frozenset(taken.number for taken in self.taken)


@dataclass(slots=True, kw_only=True)
class Report:
    """What a run over many schedules came to."""

    schedules: int = 0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    failures: list[Outcome] = field(default_factory=list[Outcome])

    def add(self, outcome: Outcome) -> None:
        """Count one schedule."""
        self.schedules += 1
        self.virtual_s += outcome.virtual_s
        self.requests += outcome.requests
        self.faults.update(taken.fault.value for taken in outcome.taken)
        if outcome.error is not None:
            self.failures.append(outcome)

    def merge(self, other: Report) -> None:
        """Count another run's, too."""
        self.schedules += other.schedules
        self.cpu_s += other.cpu_s
        self.virtual_s += other.virtual_s
        self.requests += other.requests
        self.faults.update(other.faults)
        self.failures += other.failures


def run_one(
    make: MakeScenario, seed: int, without: frozenset[int] = frozenset(), *, traced: bool = False
) -> Outcome:
    """Run the schedule of one seed."""
    world = World(seed, without, make)
    error, text = None, ""
    try:
        world.run()
    except Exception as failure:  # noqa: BLE001 - whatever comes out of a schedule is its result
        error = getattr(failure, "rule", type(failure).__name__)
        text = "".join(traceback.format_exception(failure))
    return Outcome(
        seed=seed,
        error=error,
        text=text,
        taken=tuple(world.plan.taken),
        virtual_s=world.loop.now,
        requests=world.network.requests,
        trace=tuple(_lines(world)) if traced else (),
    )


def _lines(world: World) -> list[str]:
    lines = [
        (at, f"{at:9.3f} {who} {what} {about}") for at, who, what, about in world.network.trace
    ]
    for change in world.store.changes:
        did = (
            "deleted" if change.value is None else f"= {change.value.decode(errors='replace')[:70]}"
        )
        key = change.key.decode(errors="replace")
        lines.append(
            (change.at, f"{change.at:9.3f}     {change.revision}: {key} {did} ({change.by})")
        )
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]


def fingerprint(make: MakeScenario, seed: int) -> str:
    """Return a hash of all that happened in a schedule: the same each time."""
    world = World(seed, frozenset(), make)
    world.run()
    digest = hashlib.sha256()
    for line in world.network.trace:
        digest.update(repr(line).encode())
    for change in world.store.changes:
        # Values name the task that wrote them, and no task of a program has the name of another.
        digest.update(repr((change.revision, change.key, change.created, change.at)).encode())
    digest.update(repr((world.loop.now, world.loop.steps)).encode())
    return digest.hexdigest()


def explore(make: MakeScenario, seeds: Iterable[int], *, failures_most: int = 20) -> Report:
    """Run the schedules of all seeds, or fewer if many fail."""
    report = Report()
    began = time.process_time()
    was_enabled = gc.isenabled()
    gc.disable()  # one collection now and then costs less than many
    try:
        for seed in seeds:
            report.add(run_one(make, seed))
            if report.schedules % _COLLECT_EVERY == 0:
                gc.collect()
            if len(report.failures) >= failures_most:
                break
    finally:
        if was_enabled:
            gc.enable()
    report.cpu_s = time.process_time() - began
    return report


def shrink(make: MakeScenario, failed: Outcome) -> frozenset[int]:
    """Return the numbers of the faults that may be left out, so that the schedule still fails by the same rule."""
    without: frozenset[int] = frozenset()
    runs = 0
    smaller = True
    outcome = failed
    while smaller and runs < _SHRINK_RUNS_MOST:
        smaller = False
        for number in sorted(outcome.numbers, reverse=True):
            attempt = run_one(make, failed.seed, without | {number})
            runs += 1
            if attempt.error == failed.error:
                without, outcome, smaller = without | {number}, attempt, True
                break
    return without
