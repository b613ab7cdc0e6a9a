"""Making a failing plan small: what is left is what the failure needs.

Delta debugging (Zeller and Hildebrandt, 2002) over the items of a plan: faults, whole clients, then single
operations. After that what is left is made simpler: shorter faults, crashes that keep a prefix, fewer
keys. A step counts only if the run still fails with the same verdict; what else a run may be wrong about
is another bug's business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from coord.testing.sim.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.testing.sim.plan import Fault, Plan
    from coord.testing.sim.scripts import Op

T = TypeVar("T")


@dataclass(kw_only=True)
class Budget:
    """How often a plan may be run again, and for how many seconds altogether."""

    runs: int = 200
    seconds: float = 300.0

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.seconds

    def spend(self) -> bool:
        """Take one run; tell whether there was one."""
        self.runs -= 1
        return self.runs >= 0 and time.monotonic() < self._until


def shrink(plan: Plan, fails: Callable[[Plan], bool], *, budget: Budget | None = None) -> Plan:
    """Return the smallest plan found for which ``fails(plan)`` still holds. ``plan`` itself fails."""
    left = budget if budget is not None else Budget()

    def still(candidate: Plan) -> bool:
        return left.spend() and fails(candidate)

    plan = _fewer_faults(plan, still)
    plan = _fewer_clients(plan, still)
    plan = _fewer_ops(plan, still)
    plan = _fewer_faults(plan, still)
    return _simpler(plan, still)


def _fewer_faults(plan: Plan, still: Callable[[Plan], bool]) -> Plan:
    faults = minimize(plan.faults, lambda kept: still(replace(plan, faults=tuple(kept))))
    return replace(plan, faults=tuple(faults))


def _fewer_clients(plan: Plan, still: Callable[[Plan], bool]) -> Plan:
    names = list(dict.fromkeys(op.client for op in plan.ops))

    def of(kept: Sequence[str]) -> Plan:
        return replace(plan, ops=tuple(op for op in plan.ops if op.client in kept))

    return of(minimize(names, lambda kept: still(of(kept))))


def _fewer_ops(plan: Plan, still: Callable[[Plan], bool]) -> Plan:
    def of(kept: Sequence[Op]) -> Plan:
        return replace(plan, ops=_with_pauses(plan.ops, kept))

    return of(minimize(plan.ops, lambda kept: still(of(kept))))


def _with_pauses(ops: Sequence[Op], kept: Sequence[Op]) -> tuple[Op, ...]:
    """Return what is kept, each at about the time it had: the pauses of what went are added up."""
    ids = {op.id for op in kept}
    owed: dict[str, float] = {}
    made: list[Op] = []
    for op in ops:
        after = owed.pop(op.client, 0.0) + op.after
        if op.id in ids:
            made.append(replace(op, after=round(after, 4)))
        else:
            owed[op.client] = after
    return tuple(made)


def minimize(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return a part of ``items`` that fails, and of which no piece that was tried can go (ddmin)."""
    left = list(items)
    if left and fails([]):
        return []
    pieces = 2
    while len(left) > 1:
        size = -(-len(left) // pieces)
        for start in range(0, len(left), size):
            rest = left[:start] + left[start + size :]
            if rest and fails(rest):
                left = rest
                pieces = max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(len(left), pieces * 2)
    return left


def _simpler(plan: Plan, still: Callable[[Plan], bool]) -> Plan:
    for number, fault in enumerate(plan.faults):
        for simpler in _simpler_faults(fault):
            faults = (*plan.faults[:number], simpler, *plan.faults[number + 1 :])
            candidate: Plan = replace(plan, faults=faults)
            if still(candidate):
                plan = candidate
                break
    return _plainer(plan, still)


def _plainer(plan: Plan, still: Callable[[Plan], bool]) -> Plan:
    """Try options that leave more out, and one key for everybody."""
    options = plan.options
    attempts = [
        replace(options, faults=()),
        replace(options, drift=0.0),
        replace(options, buggify=0.0),
        replace(options, loss=0.0, duplication=0.0, delay_mean_ms=0.5),
        replace(options, crash_mode="prefix"),
        replace(options, chaos_s=max((f.at + f.lasts for f in plan.faults), default=1.0) + 1.0),
        replace(options, depth="direct"),
    ]
    for attempt in attempts:
        changed = _merged(plan.options, options, attempt)
        if changed != plan.options and still(replace(plan, options=changed)):
            plan = replace(plan, options=changed)
    one_key = replace(plan, ops=tuple(replace(op, key=0) for op in plan.ops))
    return one_key if one_key != plan and still(one_key) else plan


def _merged(now: Options, base: Options, attempt: Options) -> Options:
    """Return ``now`` with what ``attempt`` changed of ``base``."""
    before, after = base.to_json(), attempt.to_json()
    changed = {name: after[name] for name in after if after[name] != before[name]}
    return Options.from_json({**now.to_json(), **changed})


def _simpler_faults(fault: Fault) -> list[Fault]:
    """Return simpler faults, the simplest first."""
    made: list[Fault] = []
    if fault.lasts > 0.1:  # noqa: PLR2004 - short enough for anybody
        made += [replace(fault, lasts=0.1), replace(fault, lasts=round(fault.lasts / 4, 3))]
    if len(fault.on) > 1 and fault.kind != "clog":  # that is of a link, which has two ends
        made.append(replace(fault, on=fault.on[:1]))
    if fault.args.get("leader"):
        made.append(replace(fault, args={**fault.args, "leader": False}))
    return made
