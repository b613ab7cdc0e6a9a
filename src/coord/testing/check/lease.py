"""Whether leases live as long as they were promised, and not much longer (etcd API: Lease).

A confirmation, the answer to a grant or a renewal, promises the lease from the time when its request was *sent*, for
its TTL less the drift of clocks. Known of a lease's end is what somebody was told: a refusal, a TTL of nothing, or the
deletion of its keys once an answer or an event has carried that revision.

- *early*: the lease had ended before the promised time, and nobody had asked for it;
- *revived*: it was confirmed by a request that began after the end was known;
- *dead*: a put was attached to it after its end;
- *torn*: its end did not take all of its keys in one revision;
- *late*: it was still there when all confirmations, and all faults, had been over for its TTL and the grace.

Left out: ids that are granted more than once, and the rate of many expiries at once.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from coord.testing.check.reference import Reference
from coord.testing.check.timeline import (
    NEVER,
    Operation,
    Timeline,
    lease_ids,
    pairs_in,
    ranges_of,
)
from coord.testing.check.verdict import Verdict, Violation, verdict_of
from coord.testing.model import in_range
from coord.testing.records import WatchResponded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coord.testing.model import Change
    from coord.testing.records import Record

NANOSECONDS = 1_000_000_000
DRIFT = 0.01
"""How far two clock rates may differ before the guarantees end."""
GRACE_S = 5.0
"""Three election timeouts of a second, and two seconds to carry it out."""

# As SDK and server say it.
_NOT_FOUND = ("LeaseNotFound", "lease not found")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fact:
    """Something about a lease: known from ``sent`` (the request left) to ``known`` (the answer came)."""

    sent: int
    known: int
    name: str
    text: str
    ttl: int = 0
    is_answered: bool = True


@dataclass(slots=True)
class _Life:
    """All that is known of one lease."""

    lease: int
    grants: int = 0
    confirmed: list[_Fact] = field(default_factory=list[_Fact])
    alive: list[_Fact] = field(default_factory=list[_Fact])
    gone: list[_Fact] = field(default_factory=list[_Fact])
    asked: list[_Fact] = field(default_factory=list[_Fact])
    """Revocations that were sent, whatever became of them."""
    revoked_at: int = NEVER
    """The revision of an answered revocation."""
    is_unsure: bool = False
    """A renewal has no answer: how long the lease lives is not known."""


def check_leases(
    records: Iterable[Record],
    *,
    drift: float = DRIFT,
    grace_s: float = GRACE_S,
    strangers: Sequence[bytes] = (),
) -> Verdict:
    """Judge the leases whose grant or renewals are recorded.

    ``strangers`` are prefixes of keys that are also deleted by who was not recorded.
    """
    reference = Reference(Timeline(records))
    return leases_of(reference, drift=drift, grace_s=grace_s, strangers=strangers)


def leases_of(
    reference: Reference,
    *,
    drift: float = DRIFT,
    grace_s: float = GRACE_S,
    strangers: Sequence[bytes] = (),
) -> Verdict:
    """As :func:`check_leases`, of a history that was read already."""
    book = _Book(reference, tuple(strangers))
    book.read()
    found = list(book.torn)
    checked = 0
    for life in book.lives.values():
        if life.grants > 1 or not life.confirmed:
            continue
        checked += 1
        found += _early(life, drift)
        found += _dead(life, book.puts.get(life.lease, ()))
        found += _late(life, reference.timeline, grace_s)
    return verdict_of("lease", checked, found)


def _violation(rule: str, life: _Life, text: str, *facts: _Fact) -> Violation:
    told = [f"lease {life.lease:x}: {text}", *(fact.text for fact in facts)]
    names = (f"lease {life.lease:x}", *(fact.name for fact in facts))
    return Violation(rule=rule, operations=names, text="\n".join(told))


def _early(life: _Life, drift: float) -> list[Violation]:
    for gone in sorted(life.gone, key=lambda fact: fact.known):
        if any(ask.sent <= gone.known for ask in life.asked):
            break
        for confirmed in life.confirmed:
            if confirmed.sent > gone.known:
                return [_violation("revived", life, "confirmed after its end", gone, confirmed)]
            until = confirmed.sent + int(confirmed.ttl * (1 - drift) * NANOSECONDS)
            if until > gone.known:
                short = (until - gone.known) / NANOSECONDS
                text = f"ended {short:.3f} s before the end of its {confirmed.ttl} s"
                return [_violation("early", life, text, confirmed, gone)]
    for ask in life.asked:
        for confirmed in life.confirmed:
            if ask.is_answered and confirmed.sent > ask.known:
                return [_violation("revived", life, "confirmed after its end", ask, confirmed)]
    return []


def _dead(life: _Life, puts: Sequence[Operation]) -> list[Violation]:
    known = min((fact.known for fact in life.gone), default=NEVER)
    answered = min((ask.known for ask in life.asked if ask.is_answered), default=NEVER)
    for put in puts:
        if put.sent > min(known, answered) or put.revision > life.revoked_at:
            told = [f"lease {life.lease:x} had ended, and a put was attached to it", put.describe()]
            names = (f"lease {life.lease:x}", put.name)
            return [Violation(rule="dead", operations=names, text="\n".join(told))]
    return []


def _late(life: _Life, timeline: Timeline, grace_s: float) -> list[Violation]:
    if life.is_unsure:
        return []
    faults = max((fault.ts for fault in timeline.faults), default=0)
    for alive in sorted(life.alive, key=lambda fact: fact.sent):
        before = [c for c in life.confirmed if c.sent < alive.sent and c.name != alive.name]
        if not before or any(c.known > alive.sent for c in before):
            continue
        ttl = max(c.ttl for c in before) * NANOSECONDS
        # A fault may have made a new leader, which gives every lease its whole time again.
        bound = max([faults, *(c.known for c in before)]) + ttl + int(grace_s * NANOSECONDS)
        if alive.sent > bound:
            text = f"still there {(alive.sent - bound) / NANOSECONDS:.3f} s after it had to be gone"
            return [_violation("late", life, text, before[-1], alive)]
    return []


class _Book:
    """Reads the facts of all leases out of a history."""

    def __init__(self, reference: Reference, strangers: tuple[bytes, ...]) -> None:
        self._reference = reference
        self._strangers = strangers
        self.lives: dict[int, _Life] = {}
        self.puts: dict[int, list[Operation]] = {}
        self.torn: list[Violation] = []
        self._told = _Told(reference.timeline)

    def read(self) -> None:
        """Read everything."""
        for operation in self._reference.timeline.operations:
            if operation.request is not None:
                self._read_call(operation)
        self._read_sessions()
        self._read_changes()

    def _life(self, lease: int) -> _Life:
        return self.lives.setdefault(lease, _Life(lease))

    def _read_call(self, o: Operation) -> None:
        refused = o.status == "fail" and any(text in o.error for text in _NOT_FOUND)
        match o.op:
            case "LeaseGrant":
                if o.is_ok and o.response is not None:
                    life = self._life(o.response.ID)
                    life.grants += 1
                    life.confirmed.append(_fact(o, o.response.TTL))
            case "LeaseKeepAlive":
                self._read_renewal(o, is_gone=refused)
            case "LeaseRevoke":
                life = self._life(o.request.ID)
                if o.status != "fail":
                    life.asked.append(_fact(o))
                if o.is_ok and o.revision:
                    life.revoked_at = min(life.revoked_at, o.revision)
            case "LeaseTimeToLive":
                if o.is_ok and o.response is not None:
                    life = self._life(o.request.ID)
                    if o.response.TTL > 0:
                        life.alive.append(_fact(o))
                    elif o.response.TTL < 0:  # 0 is about to end: neither
                        life.gone.append(_fact(o))
            case _:
                self._read_keys(o, refused=refused)

    def _read_renewal(self, o: Operation, *, is_gone: bool) -> None:
        life = self._life(o.request.ID)
        if o.status == "info":
            life.is_unsure = True
        elif is_gone or (o.is_ok and o.response is not None and o.response.TTL <= 0):
            life.gone.append(_fact(o))
        elif o.is_ok and o.response is not None:
            life.confirmed.append(_fact(o, o.response.TTL))
            life.alive.append(_fact(o))

    def _read_keys(self, o: Operation, *, refused: bool) -> None:
        leases = sorted(set(lease_ids(o.request)))
        if refused and len(leases) == 1:
            self._life(leases[0]).gone.append(_fact(o))
        if not o.is_ok:
            return
        if o.op == "Put":
            for lease in leases:
                self._life(lease).alive.append(_fact(o))
                self.puts.setdefault(lease, []).append(o)
        if o.op == "Range" and not o.is_serializable and o.request.revision <= 0:
            for lease in sorted({pair.lease for pair in pairs_in(o.response) if pair.lease}):
                self._life(lease).alive.append(_fact(o))

    def _read_sessions(self) -> None:
        for event in self._reference.timeline.sessions:
            life = self._life(event.lease)
            text = f"session of {event.client}: {event.phase}"
            sent = event.sent or event.ts
            fact = _Fact(sent=sent, known=event.ts, name=text, text=text, ttl=event.ttl)
            match event.phase:
                case "open":
                    life.grants += 1
                    life.confirmed.append(fact)
                case "renewed":
                    life.confirmed.append(fact)
                case "closed":
                    life.asked.append(replace(fact, sent=event.ts, is_answered=False))
                case "expired":
                    life.is_unsure = (
                        True  # its own clock says so; the store's is judged by what it did
                    )

    def _read_changes(self) -> None:
        """Find the ends of leases among the store's changes."""
        reference = self._reference
        attached: dict[int, set[bytes]] = {}
        for revision, changes in _groups(reference.changes):
            ended = self._ended_by(revision, changes)
            for change in changes:
                if change.before is not None:
                    attached.get(change.before.lease, set()).discard(change.key)
                if change.now is not None and change.now.lease:
                    attached.setdefault(change.now.lease, set()).add(change.key)
            if ended is None:
                continue
            life = self._life(ended)
            name = f"revision {revision}"
            if left := sorted(attached.get(ended, ())):
                text = f"lease {ended:x} ended at {name}, and {len(left)} of its keys stayed: {left[:5]}"
                self.torn.append(
                    Violation(rule="torn", operations=(f"lease {ended:x}", name), text=text)
                )
            known = self._told.when(revision)
            if known != NEVER:
                keys = [change.key for change in changes][:5]
                text = f"{name} deleted {keys}, and was known of then"
                life.gone.append(_Fact(sent=known, known=known, name=name, text=text))

    def _ended_by(self, revision: int, changes: Sequence[Change]) -> int | None:
        """Return the lease that a revision ended, None if it was something else."""
        leases = {0 if change.before is None else change.before.lease for change in changes}
        if len(leases) != 1 or 0 in leases or any(change.now is not None for change in changes):
            return None
        (lease,) = leases
        writer = self._reference.writers.get(revision)
        if writer is not None:
            return None
        asked = self.lives.get(lease)
        if asked is not None and asked.revoked_at == revision:
            return lease
        if any(change.key.startswith(self._strangers) for change in changes if self._strangers):
            return None
        doubted = [o for o in self._reference.doubted if o.op in {"DeleteRange", "Txn"}]
        for change in changes:
            for operation in doubted:
                if any(in_range(change.key, *span) for span in ranges_of(operation.request)):
                    return None
        return lease


class _Told:
    """When it was first known that the store had come to a revision."""

    def __init__(self, timeline: Timeline) -> None:
        marks = [(o.returned, o.revision) for o in timeline.operations if o.is_ok and o.revision]
        for record in timeline.records:
            if isinstance(record, WatchResponded):
                highest = max((e.pair.mod_revision for e in record.events), default=0)
                marks.append((record.ts, highest))
        self._revisions: list[int] = []
        self._times: list[int] = []
        for ts, revision in sorted(marks):
            if not self._revisions or revision > self._revisions[-1]:
                self._revisions.append(revision)
                self._times.append(ts)

    def when(self, revision: int) -> int:
        """Return the time, NEVER if nobody was told."""
        place = bisect_left(self._revisions, revision)
        return self._times[place] if place < len(self._times) else NEVER


def _fact(operation: Operation, ttl: int = 0) -> _Fact:
    return _Fact(
        sent=operation.sent,
        known=operation.returned,
        name=operation.name,
        text=operation.describe(),
        ttl=ttl,
        is_answered=operation.is_ok,
    )


def _groups(changes: Sequence[Change]) -> Iterable[tuple[int, list[Change]]]:
    groups: dict[int, list[Change]] = {}
    for change in changes:
        groups.setdefault(change.revision, []).append(change)
    return groups.items()
