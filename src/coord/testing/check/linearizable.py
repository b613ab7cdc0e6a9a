"""Whether keys behave like registers that one client after the other uses (etcd API: KV, linearizability).

An independent second opinion beside the order of revisions: revisions of answers only say what to try first, and are
compared where an answer shows them. Keys that are used together are searched together, others apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.testing.check.partitions import Partitions
from coord.testing.check.reference import Reference
from coord.testing.check.timeline import NEVER, Timeline
from coord.testing.check.verdict import Verdict, Violation, verdict_of
from coord.testing.check.wgl import Budget, Found, search

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.runtime import Clock
    from coord.testing.records import Record

# Operations that an explanation shows of each side.
_SHOWN = 8


def check_linearizable(
    records: Iterable[Record], *, budget_s: float = 30.0, clock: Clock | None = None
) -> Verdict:
    """Judge whether the key-value operations of a history are linearizable, keys that are used together together.

    Reads of the past, serializable reads, and limited or sorted ones are left to ``check_order``. Undecided after
    ``budget_s`` seconds in all.
    """
    return linearizability_of(Reference(Timeline(records)), budget_s=budget_s, clock=clock)


def linearizability_of(
    reference: Reference, *, budget_s: float = 30.0, clock: Clock | None = None
) -> Verdict:
    """As :func:`check_linearizable`, of a history that was read already."""
    budget = Budget(budget_s, clock=clock)
    violations: list[Violation] = []
    undecided: list[str] = []
    checked = 0
    wrong: set[bytes] = set()
    partitions = Partitions(reference)
    # A lie about one key is found among few operations; only what needs several keys needs the others.
    for part in [*partitions.single(), *partitions.joined()]:
        checked += part.calls if len(part.keys) == 1 else 0
        if not wrong.isdisjoint(part.keys):
            continue
        found = search(part.moves, part.initial, budget)
        if found.is_legal is None:
            reached = f"{len(found.order)} of {len(part.moves)} operations were put in order"
            undecided.append(f"out of time on keys {part.describe()}: {reached}")
        elif not found.is_legal:
            wrong.update(part.keys)
            violations.append(_violation(part.describe(), found))
    return verdict_of("linearizability", checked, violations, undecided)


def _violation(keys: str, found: Found) -> Violation:
    stuck = sorted(found.stuck, key=lambda move: move.ended)[:_SHOWN]
    before = found.order[-_SHOWN:]
    lines = [f"no order explains the operations on keys {keys}"]
    lines += [f"after {len(found.order)} operations, the last of them"]
    lines += [f"  {move.text}" for move in before]
    lines += ["none of these fits next"]
    lines += [f"  {move.text}" for move in stuck]
    names = tuple(move.name for move in stuck if move.ended != NEVER)
    return Violation(rule="not linearizable", operations=names, text="\n".join(lines))
