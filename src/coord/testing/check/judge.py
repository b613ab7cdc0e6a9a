"""All checkers on one history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.testing.check.cycles import cycles_of, list_txns
from coord.testing.check.election import elections_of
from coord.testing.check.lease import leases_of
from coord.testing.check.ledger import ledger_of
from coord.testing.check.linearizable import linearizability_of
from coord.testing.check.lock import locks_of
from coord.testing.check.order import order_of
from coord.testing.check.reference import Reference
from coord.testing.check.timeline import Timeline
from coord.testing.check.verdict import Verdict, verdict_of
from coord.testing.check.watch import check_watches
from coord.testing.records import WatchOpened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coord.runtime import Clock
    from coord.testing.records import Record


def judge(
    records: Iterable[Record],
    *,
    strangers: Sequence[bytes] = (),
    budget_s: float = 30.0,
    clock: Clock | None = None,
) -> dict[str, Verdict]:
    """Judge a history by every checker, and return the verdicts by the checkers' names.

    ``strangers`` are prefixes of keys that were also written by who was not recorded, such as the keys of locks;
    their revisions must be told by a log or a witness. ``budget_s`` bounds the one search, seconds of ``clock``.
    Raises HistoryError for a history that cannot be read.
    """
    timeline = Timeline(records)
    reference = Reference(timeline)
    verdicts = [
        ledger_of(reference, strangers=strangers),
        order_of(reference),
        linearizability_of(reference, budget_s=budget_s, clock=clock),
        cycles_of(list_txns(timeline)),
        _watches(reference),
        leases_of(reference, strangers=strangers),
        locks_of(reference),
        elections_of(reference),
    ]
    return {verdict.checker: verdict for verdict in verdicts}


def _watches(reference: Reference) -> Verdict:
    records = reference.timeline.records
    count = sum(isinstance(record, WatchOpened) for record in records)
    if count and reference.gap:
        reason = f"nobody tells what made revision {reference.gap}"
        return verdict_of("watch", 0, (), [reason])
    # The values of a reference are texts already.
    return check_watches(reference.changes, records, text=bytes.decode)
