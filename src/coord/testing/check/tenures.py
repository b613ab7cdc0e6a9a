"""What locks and elections have in common: somebody holds something alone, under a token.

An attempt's holding is from ``won`` to the first of its release's call, its loss, and its own deadline, as far as that
was known; it is never longer than what the holder believed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coord.testing.check.timeline import NEVER, Operation, Timeline
from coord.testing.check.verdict import Violation
from coord.testing.lines import key_text
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coord.testing.check.reference import Reference
    from coord.testing.records import Tenure, TenureKind

NANOSECONDS = 1_000_000_000

# With these the local deadline says little about the time of others.
BLURRING_FAULTS = ("pause", "slow", "clock")


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One acquisition, from its records. Places are in the order of time; ``NEVER`` stands for what did not come."""

    first: Tenure
    called: int = NEVER
    won: int = NEVER
    won_record: Tenure | None = None
    failed: int = NEVER
    leave: Tenure | None = None
    left: Tenure | None = None
    lost: Tenure | None = None
    writes: list[Tenure] = field(default_factory=list["Tenure"])
    seen: list[Tenure] = field(default_factory=list["Tenure"])

    @property
    def name(self) -> str:
        """As violations name it."""
        return f"attempt {self.first.attempt}"

    @property
    def token(self) -> int:
        """The fencing token, 0 if it was not won."""
        return 0 if self.won_record is None else self.won_record.token

    @property
    def begin(self) -> int:
        """The time at which the caller knew that it had won."""
        return NEVER if self.won_record is None else self.won_record.ts

    @property
    def end(self) -> int:
        """The time from which the holder may not have relied on it any more."""
        ends: list[int] = []
        if self.lost is not None:
            ends.append(self.lost.ts)
        if self.leave is not None:
            ends.append(self.leave.ts)
        sure = self.leave is not None and self.leave.until > 0
        if self.won_record is not None and self.won_record.until and not sure:
            # How often it was renewed since is not known: it was sure at least until here.
            ends.append(self.won_record.until)
        return min(ends, default=NEVER)

    def describe(self) -> str:
        """Return one line about it."""
        what = f"{self.name} of {self.first.client} for {key_text(self.first.name)}"
        if self.won_record is None:
            return f"{what}: not won"
        until = "" if self.end == NEVER else f" to {self.end}"
        return f"{what}: token {self.token}, held from {self.begin}{until}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedWrite:
    """A write that happened because of a token."""

    revision: int
    token: int
    name: str


def attempts_of(timeline: Timeline, kind: TenureKind) -> dict[bytes, list[Attempt]]:
    """Return the attempts for each name, in the order of their first records."""
    by_id: dict[int, Attempt] = {}
    for place, record in enumerate(timeline.tenures):
        if record.kind != kind:
            continue
        attempt = by_id.setdefault(record.attempt, Attempt(first=record))
        match record.phase:
            case "call":
                attempt.called = place
            case "won":
                attempt.won, attempt.won_record = place, record
            case "failed":
                attempt.failed = place
            case "lost":
                attempt.lost = attempt.lost or record
            case "leave":
                attempt.leave = record
            case "left":
                attempt.left = record
            case "write":
                attempt.writes.append(record)
            case "seen":
                attempt.seen.append(record)
    names: dict[bytes, list[Attempt]] = {}
    for attempt in by_id.values():
        names.setdefault(attempt.first.name, []).append(attempt)
    return names


def violation(rule: str, text: str, *attempts: Attempt) -> Violation:
    """Return a violation by attempts."""
    told = [text, *(attempt.describe() for attempt in attempts)]
    return Violation(rule=rule, operations=tuple(a.name for a in attempts), text="\n".join(told))


def holders(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts that were won, in the order in which the winners knew."""
    return sorted((a for a in attempts if a.won != NEVER), key=lambda attempt: attempt.won)


def check_tokens(attempts: Sequence[Attempt]) -> Iterator[Violation]:
    """Tokens are unique, and rise in real time."""
    by_token: dict[int, Attempt] = {}
    for attempt in holders(attempts):
        other = by_token.setdefault(attempt.token, attempt)
        if other is not attempt:
            yield violation("token", f"token {attempt.token} was given twice", other, attempt)
    best: Attempt | None = None
    done = 0
    won = holders(attempts)
    for attempt in sorted(won, key=lambda each: each.called):
        while done < len(won) and won[done].won < attempt.called:
            if best is None or won[done].token > best.token:
                best = won[done]
            done += 1
        if best is not None and attempt.token < best.token:
            text = f"token {attempt.token} was asked for when {best.token} had been given"
            yield violation("token", text, best, attempt)


def check_overlaps(attempts: Sequence[Attempt]) -> Iterator[Violation]:
    """No two are sure at the same time."""
    last: Attempt | None = None
    for attempt in sorted(holders(attempts), key=lambda each: each.begin):
        if attempt.end <= attempt.begin:
            continue
        if last is not None and attempt.begin < last.end:
            both = (min(attempt.end, last.end) - attempt.begin) / NANOSECONDS
            text = f"two held it, for {both:.3f} s"
            yield violation("overlap", text, last, attempt)
        if last is None or attempt.end > last.end:
            last = attempt


def check_succession(attempts: Sequence[Attempt]) -> Iterator[Violation]:
    """Who stands in front gets it first: wins come in the order of tokens."""
    highest: Attempt | None = None
    for attempt in holders(attempts):
        if highest is not None and attempt.token < highest.token:
            text = (
                f"token {highest.token} was granted before {attempt.token}, which waited in front"
            )
            yield violation("order", text, highest, attempt)
        else:
            highest = attempt


def check_fence(
    attempts: Sequence[Attempt], others: Sequence[GuardedWrite] = ()
) -> Iterator[Violation]:
    """See that no guarded write succeeds after one with a higher token."""
    writes = [
        GuardedWrite(revision=w.revision, token=w.token, name=attempt.name)
        for attempt in attempts
        for w in attempt.writes
    ]
    highest: GuardedWrite | None = None
    # Of equal revisions, as of a store that is not this one, the record's order decides.
    for write in sorted([*writes, *others], key=lambda each: each.revision):
        if highest is not None and write.token < highest.token:
            text = (
                f"token {write.token} wrote at revision {write.revision}, after token"
                f" {highest.token} at {highest.revision}"
            )
            yield Violation(rule="fence", operations=(highest.name, write.name), text=text)
        else:
            highest = write


def guarded_writes(timeline: Timeline, name: bytes) -> list[GuardedWrite]:
    """Return recorded transactions that compared the create revision of a key of this name, and wrote."""
    found: list[GuardedWrite] = []
    for operation in timeline.operations:
        if operation.op != "Txn" or not (operation.is_ok and operation.changed):
            continue
        token = _guard(operation, name + b"/")
        if token:
            found.append(
                GuardedWrite(revision=operation.revision, token=token, name=operation.name)
            )
    return found


def _guard(operation: Operation, prefix: bytes) -> int:
    if operation.response is None or not operation.response.succeeded:
        return 0
    for compare in operation.request.compare:
        is_guard = (
            compare.target == rpc_pb2.Compare.CREATE
            and compare.result == rpc_pb2.Compare.EQUAL
            and compare.key.startswith(prefix)
            and not compare.range_end
        )
        if is_guard and not _touches(operation.request.success, compare.key):
            return int(compare.create_revision)
    return 0


def _touches(ops: Sequence[rpc_pb2.RequestOp], key: bytes) -> bool:
    """Tell whether the guard itself is written: who leaves the line guards that with its place in it."""
    return any(key in (op.request_put.key, op.request_delete_range.key) for op in ops)


def check_presence(attempts: Sequence[Attempt], reference: Reference) -> Iterator[Violation]:
    """At a grant the holder's key is there: made at its token, and not gone before the call."""
    made = {(c.key, c.revision): c for c in reference.changes if c.now is not None}
    gone: dict[tuple[bytes, int], int] = {}
    for change in reference.changes:
        if change.now is None and change.before is not None:
            gone[change.key, change.before.create] = change.revision
    for attempt in holders(attempts):
        record = attempt.won_record
        if record is None or not record.key or record.token > reference.model.revision:
            continue
        place = (record.key, record.token)
        if place not in made:
            text = f"{key_text(record.key)} was not created at revision {record.token}"
            yield violation("present", text, attempt)
        elif gone.get(place, NEVER) <= _known_before(reference.timeline, attempt):
            text = f"{key_text(record.key)} was deleted at {gone[place]}, before the call"
            yield violation("present", text, attempt)


def _known_before(timeline: Timeline, attempt: Attempt) -> int:
    """Return the highest revision that somebody was told before an attempt began."""
    began = attempt.first.ts
    return max(
        (o.revision for o in timeline.operations if o.is_ok and o.returned < began), default=0
    )


def check_leftovers(name: bytes, reference: Reference) -> Iterator[Violation]:
    """Nothing is left in the line of who is gone: a revoked lease, a session that ended."""
    if reference.gap:
        return
    ended = {
        o.request.ID for o in reference.timeline.operations if o.op == "LeaseRevoke" and o.is_ok
    }
    for key, version in sorted(reference.model.kv.items()):
        if key.startswith(name + b"/") and version.lease in ended:
            text = f"{key_text(key)} is still there, and its lease {version.lease:x} has ended"
            yield Violation(rule="leftover", operations=(f"lease {version.lease:x}",), text=text)


def check_losses(
    attempts: Sequence[Attempt], timeline: Timeline, lateness_s: float
) -> Iterator[Violation]:
    """See that holders learn of a loss before the deadline that their session's renewals gave them."""
    for attempt in holders(attempts):
        lost, record = attempt.lost, attempt.won_record
        if lost is None or record is None:
            continue
        deadlines = [
            event.sent + event.ttl * NANOSECONDS
            for event in timeline.sessions
            if event.lease == record.lease and event.ttl and event.ts <= lost.ts
        ]
        late = lost.ts - max(deadlines, default=NEVER) - int(lateness_s * NANOSECONDS)
        if late > 0:
            text = f"told of the loss {late / NANOSECONDS:.3f} s after its lease could be gone"
            yield violation("late loss", text, attempt)


def check_waiting(
    attempts: Sequence[Attempt], timeline: Timeline, patience_s: float
) -> Iterator[Violation]:
    """Nobody waits for long when nobody holds it."""
    ends = [0]
    for attempt in attempts:
        if attempt.won != NEVER:
            left = attempt.left or attempt.lost
            until = 0 if attempt.won_record is None else attempt.won_record.until
            ends.append(left.ts if left is not None else until or timeline.end)
    for attempt in attempts:
        is_waiting = attempt.called != NEVER and attempt.won == attempt.failed == NEVER
        waited = timeline.end - max(attempt.first.ts, *ends)
        if is_waiting and waited > patience_s * NANOSECONDS:
            text = f"waited {waited / NANOSECONDS:.3f} s to the end, and nobody held it"
            yield violation("handover", text, attempt)
