"""The table of leases: replicated facts, and on the primary a heap of deadlines.

Renewing is one assignment. The heap is not touched: its entry is early from then on, and when its
moment comes the lease is found alive and is filed again under its real deadline. So the heap holds
one entry for each lease, keepalives cost nothing in it, and a scan costs only what has really come
due (etcd API: Lease; Gray and Cheriton, "Leases", 1989).
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final

from coord.runtime import invariant
from coord_server.lease.record import decode_record, encode_record, record_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The longest TTL a client may ask for, in seconds (etcd API: LeaseGrant); beyond it nanosecond
# clocks of 64 bits overflow.
MAX_TTL_S: Final = 9_000_000_000
# From so many leases on a new primary spreads deadlines, to at most so many within one second.
SPREAD_FROM_LEASES: Final = 1_000
SPREAD_PER_SECOND: Final = 750
# Entries of forgotten leases stay in the heap until their moment, up to this many beyond the live.
_HEAP_SLACK: Final = 1_024

_NEVER: Final = float("inf")


def minimum_ttl_s(*, election_ms: int, heartbeat_ms: int) -> int:
    """Return the shortest TTL that a lease can have: one and a half election timeouts, rounded up.

    A shorter one could run out while the cluster merely elects a leader.
    """
    ticks = election_ms // heartbeat_ms
    return -(-(3 * ticks // 2) * heartbeat_ms // 1000)


class Lease:
    """One lease. ``deadline`` is in seconds of the caller's clock; never, unless primary."""

    __slots__ = (
        "checkpoint_s", "checkpoint_sent", "clears", "deadline", "keys", "lease_id", "reported",
        "ttl_s",
    )  # fmt: skip

    def __init__(self, lease_id: int, ttl_s: int, checkpoint_s: int = 0) -> None:
        self.lease_id = lease_id
        self.ttl_s = ttl_s
        self.checkpoint_s = checkpoint_s
        self.keys: set[bytes] = set()
        self.deadline = _NEVER
        # Handed out by expired() and not taken back: it has no heap entry and awaits its revocation.
        self.reported = False
        # A checkpoint was proposed and is not applied: a renewal now would be forgotten by it.
        self.checkpoint_sent = False
        # So many checkpoints of 0 are on their way, for renewals that wait.
        self.clears = 0


class Lessor:
    """All leases of a member, starting as a follower's: no deadlines.

    ``min_ttl`` in seconds is what ``minimum_ttl_s`` says for the configured election timeout.
    """

    def __init__(self, min_ttl: int = 2) -> None:
        self.min_ttl = min_ttl
        self.primary: bool = False
        self._leases: dict[int, Lease] = {}
        # (deadline when filed, serial, lease). The serial keeps leases from being compared.
        self._heap: list[tuple[float, int, Lease]] = []
        self._serial = 0
        self._unsettled: list[Lease] = []
        self._waiting: dict[int, list[Callable[[], None]]] = {}
        self._gone: list[int] = []

    def __len__(self) -> int:
        return len(self._leases)

    # Replicated facts: these run while an entry is applied, in the same order on every member.

    def grant(self, lease_id: int, ttl: int) -> int:
        """Add a lease and return its TTL in seconds: ``ttl``, or the minimum if that is longer.

        The caller has asked ``exists`` and has refused a TTL over MAX_TTL_S. On the primary the
        deadline is set by the next ``settle``.
        """
        invariant(lease_id not in self._leases, "a lease is granted once")
        lease = Lease(lease_id, max(ttl, self.min_ttl))
        self._leases[lease_id] = lease
        if self.primary:
            self._unsettled.append(lease)
        return lease.ttl_s

    def exists(self, lease_id: int) -> bool:
        """Tell whether the lease was granted and not revoked, however late it is."""
        return lease_id in self._leases

    def revoke(self, lease_id: int) -> list[bytes]:
        """Forget the lease; return its keys in ascending order, which the caller deletes.

        Unknown: no keys. Whoever waits for the end of the lease hears of it at the next ``settle``.
        """
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return []
        if lease_id in self._waiting:
            self._gone.append(lease_id)
        self._shrink_heap()
        return sorted(lease.keys)

    def attach(self, lease_id: int, key: bytes) -> None:
        """Hang a key on a lease; the caller has detached it from any other.

        An unknown lease is passed over: old records may name one that has ended since.
        """
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.keys.add(key)

    def detach(self, lease_id: int, key: bytes) -> None:
        """Take a key off a lease; nothing happens if it does not hang there."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.keys.discard(key)

    def checkpoint(self, lease_id: int, remaining_s: int) -> None:
        """Keep the remaining time that the next primary shall start from; 0 means the full TTL."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.checkpoint_s = remaining_s
            lease.checkpoint_sent = False

    def ids(self) -> list[int]:
        """Return all ids: on the primary by remaining time, elsewhere ascending."""
        leases = sorted(self._leases.values(), key=lambda lease: (lease.deadline, lease.lease_id))
        return [lease.lease_id for lease in leases]

    def keys(self, lease_id: int) -> list[bytes]:
        """Return the attached keys, ascending; none for an unknown lease."""
        lease = self._leases.get(lease_id)
        return [] if lease is None else sorted(lease.keys)

    def granted_ttl(self, lease_id: int) -> int:
        """Return the granted TTL in seconds; 0 for an unknown lease."""
        lease = self._leases.get(lease_id)
        return 0 if lease is None else lease.ttl_s

    # The persistent part.

    def encode_record(self, lease_id: int) -> tuple[bytes, bytes]:
        """Return key and value of a lease for the lease bucket. The lease must exist."""
        lease = self._leases[lease_id]
        return record_key(lease_id), encode_record(lease_id, lease.ttl_s, lease.checkpoint_s)

    def load(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Replace everything by the leases of a bucket, without keys and as a follower.

        TTLs below the minimum are raised. Raises ValueError for a record that cannot be read.
        """
        self.demote()
        self._leases = {}
        for _key, value in records:
            lease_id, ttl_s, checkpoint_s = decode_record(value)
            self._leases[lease_id] = Lease(lease_id, max(ttl_s, self.min_ttl), checkpoint_s)
        self._gone.extend(self._waiting)

    # Deadlines: the primary's alone. ``now`` is in seconds of a clock that never goes back.

    def promote(self, now: float, extend: float) -> None:
        """Become primary: each lease has its remaining time, and ``extend`` seconds, from now on.

        The remaining time is the checkpoint's, or else the full TTL. Many leases that would end
        together are spread, later than due and never earlier, so that their end does not choke
        the log.
        """
        self.primary = True
        leases = sorted(
            self._leases.values(),
            key=lambda lease: (lease.checkpoint_s or lease.ttl_s, lease.lease_id),
        )
        spread = len(leases) >= SPREAD_FROM_LEASES
        for place, lease in enumerate(leases):
            deadline = now + (lease.checkpoint_s or lease.ttl_s) + extend
            if spread and place >= SPREAD_PER_SECOND:
                deadline = max(deadline, leases[place - SPREAD_PER_SECOND].deadline + 1.0)
            lease.deadline = deadline
            lease.reported = lease.checkpoint_sent = False
        self._unsettled = []
        self._refile()

    def demote(self) -> None:
        """Stop being primary: no lease ends here any more. Those who wait are told at ``settle``."""
        self.primary = False
        self._heap = []
        self._unsettled = []
        for lease in self._leases.values():
            lease.deadline = _NEVER
            lease.reported = False
        self._gone.extend(self._waiting)

    def settle(self, now: float) -> None:
        """Start the time of leases granted since the last call, and tell who waited for an end.

        Called after the entries of a turn were applied, so that what is told is the state after
        them. Cheap when there is nothing to do.
        """
        if self._unsettled:
            fresh, self._unsettled = self._unsettled, []
            for lease in fresh:
                # A renewal may have come first: then it has its deadline and lacks only its entry.
                if self._leases.get(lease.lease_id) is lease:
                    if lease.deadline == _NEVER:
                        lease.deadline = now + lease.ttl_s
                    self._file(lease)
        if self._gone:
            gone, self._gone = self._gone, []
            for lease_id in gone:
                for run in self._waiting.pop(lease_id, ()):
                    run()

    def renew(self, lease_id: int, now: float) -> int | None:
        """Give the lease its full TTL from now on and return that TTL in seconds.

        None: there is no such lease, it is past its deadline (``is_expired``), it has a checkpoint
        (``must_clear``), or this lessor is not primary; nothing has changed then.
        """
        lease = self._leases.get(lease_id)
        if lease is None or not self.primary:
            return None
        if lease.reported or lease.deadline <= now:
            return None
        if lease.checkpoint_s or lease.checkpoint_sent:
            return None
        lease.deadline = now + lease.ttl_s
        return lease.ttl_s

    def is_expired(self, lease_id: int, now: float) -> bool:
        """Tell whether the lease still exists although its deadline has passed."""
        lease = self._leases.get(lease_id)
        return lease is not None and (lease.reported or lease.deadline <= now)

    def must_clear(self, lease_id: int, now: float) -> bool:
        """Tell whether a renewal has to wait until a checkpoint of 0 is applied.

        Otherwise the next primary would count from the checkpoint, and the lease could end before
        the time that the renewal was answered with.
        """
        lease = self._leases.get(lease_id)
        return (
            lease is not None
            and self.primary
            and bool(lease.checkpoint_s or lease.checkpoint_sent)
            and not (lease.reported or lease.deadline <= now)
        )

    def longer_than(self, span_s: float, now: float) -> list[int]:
        """Return the leases that have more than ``span_s`` seconds left."""
        least = now + span_s
        return [
            lease.lease_id for lease in self._leases.values() if least < lease.deadline < _NEVER
        ]

    def begin_checkpoint(self, lease_id: int, now: float) -> int | None:
        """Return the seconds left, rounded up, for a checkpoint that the caller proposes.

        None if there is no such lease or it has no time left, or if a renewal is about to change that.
        Until a checkpoint of the lease is applied, renewals ``must_clear`` it.
        """
        lease = self._leases.get(lease_id)
        if lease is None or lease.deadline == _NEVER or lease.deadline <= now:
            return None
        if lease.clears:
            # Behind the renewal's 0 in the log, it would take the renewed time back.
            return None
        lease.checkpoint_sent = True
        return math.ceil(lease.deadline - now)

    def begin_clear(self, lease_id: int) -> None:
        """Note that a renewal waits for a checkpoint of 0; until ``end_clear`` no other is begun."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.clears += 1

    def end_clear(self, lease_id: int) -> None:
        """Note that this checkpoint of 0 is applied, or has failed."""
        lease = self._leases.get(lease_id)
        if lease is not None and lease.clears:
            lease.clears -= 1

    def checkpointed(self, lease_id: int) -> int:
        """Return the remaining time in seconds that the next primary shall start from; 0: the full TTL."""
        lease = self._leases.get(lease_id)
        return 0 if lease is None else lease.checkpoint_s

    def when_gone(self, lease_id: int, run: Callable[[], None]) -> None:
        """Call ``run`` once, from ``settle``, when the lease is revoked or this primary demoted."""
        self._waiting.setdefault(lease_id, []).append(run)
        if lease_id not in self._leases or not self.primary:
            self._gone.append(lease_id)

    def remaining(self, lease_id: int, now: float) -> float | None:
        """Return the seconds left, below zero while the revocation is on its way.

        None for an unknown lease. Without a deadline, as on a follower, it is the granted TTL.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            return None
        return float(lease.ttl_s) if lease.deadline == _NEVER else lease.deadline - now

    def expired(self, now: float, limit: int) -> list[int]:
        """Return at most ``limit`` leases that are past their deadline, the longest overdue first.

        Each is returned once; it comes again only after ``retry``, or after a promotion.
        """
        due: list[int] = []
        heap = self._heap
        while heap and heap[0][0] <= now and len(due) < limit:
            lease = heapq.heappop(heap)[2]
            if self._leases.get(lease.lease_id) is not lease:
                continue
            if lease.deadline > now:
                self._file(lease)
                continue
            lease.reported = True
            due.append(lease.lease_id)
        return due

    def retry(self, lease_id: int) -> None:
        """Let ``expired`` return the lease again: its revocation was proposed and did not happen."""
        lease = self._leases.get(lease_id)
        if lease is not None and lease.reported:
            lease.reported = False
            self._file(lease)

    def _file(self, lease: Lease) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (lease.deadline, self._serial, lease))

    def _refile(self) -> None:
        waiting = [lease for lease in self._leases.values() if not lease.reported]
        unsettled = {id(lease) for lease in self._unsettled}
        self._heap = [
            (lease.deadline, serial, lease)
            for serial, lease in enumerate(waiting)
            if id(lease) not in unsettled
        ]
        self._serial = len(waiting)
        heapq.heapify(self._heap)

    def _shrink_heap(self) -> None:
        # Short-lived leases with long TTLs would otherwise pile up here for the length of a TTL.
        if len(self._heap) > 2 * len(self._leases) + _HEAP_SLACK:
            self._refile()
