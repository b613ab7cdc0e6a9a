"""The rules of leases: how long they live, on whatever primary (L1), and in whose term they end (L2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.testing.sim.invariants import Member, QuietRule
from coord.wire import rpc_pb2
from coord_server.ops import OpKind, decode_batch, decode_in_term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DRIFT: Final = 0.9
"""L1 allows clocks that run so much faster."""
_ABOUT_LEASES: Final = (OpKind.LEASE_EXPIRE, OpKind.LEASE_REVOKE, OpKind.LEASE_GRANT)
_ROUNDING_S: Final = 0.001


def _in_force(term: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the operations of an entry; not those that were meant for another term (L2)."""
    for kind, payload in decode_batch(data):
        if kind != OpKind.IN_TERM:
            yield kind, payload
            continue
        meant, inner, request = decode_in_term(payload)
        if meant == term:
            yield inner, request


def _out_of_force(term: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the operations of an entry that were meant for another term than its own."""
    for kind, payload in decode_batch(data):
        if kind == OpKind.IN_TERM:
            meant, inner, request = decode_in_term(payload)
            if meant != term:
                yield inner, request


class LeaseTerm(QuietRule):
    """L1: no lease expires before its TTL has passed since its last acked renewal was sent.

    L2: that a leader thought that a lease is over ends nothing in the term of another.
    """

    def __init__(
        self,
        report: Callable[[str, str, str], None],
        now: Callable[[], float],
        promised: Callable[[int], tuple[float, float] | None],
    ) -> None:
        super().__init__(report)
        self._now = now
        self._promised = promised
        self._looked_at = 0
        self._granted: set[int] = set()
        self.ended: dict[int, float] = {}
        """By lease: when its end was first applied anywhere."""

    def renewed(self, lease: int, sent_at: float) -> None:
        """Look at a renewal that was answered."""
        if self.ended.get(lease, sent_at) < sent_at:
            text = f"lease {lease:x} ended at {self.ended[lease]:.6f} s and was renewed at {sent_at:.6f} s"
            self.report("L1", "", text)

    def gone(self, lease: int) -> None:
        """Look at an answer that says that a lease, which was granted, does not exist."""
        if lease not in self.ended:
            self.report("L1", "", f"lease {lease:x} is said to be gone, and it was not ended")

    @override
    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        if index <= self._looked_at:
            return
        self._looked_at = index
        if not any(kind in data for kind in _ABOUT_LEASES):
            return
        too_late: list[int] = []
        for outer, whole in decode_batch(data):
            kind, payload = outer, whole
            if kind == OpKind.IN_TERM:
                meant, kind, payload = decode_in_term(whole)
                if meant != term:
                    if kind == OpKind.LEASE_EXPIRE:
                        too_late.append(rpc_pb2.LeaseRevokeRequest.FromString(payload).ID)
                    continue
            if kind == OpKind.LEASE_GRANT:
                self._granted.add(rpc_pb2.LeaseGrantRequest.FromString(payload).ID)
            elif kind in {OpKind.LEASE_EXPIRE, OpKind.LEASE_REVOKE}:
                lease = rpc_pb2.LeaseRevokeRequest.FromString(payload).ID
                self._ends(member, lease, expires=kind == OpKind.LEASE_EXPIRE)
        living = set(member.lessor.ids()) if too_late else set[int]()
        for lease in too_late:
            if lease in self._granted and lease not in self.ended and lease not in living:
                text = f"lease {lease:x} ends with entry {index}, which its proposer did not lead"
                self.report("L2", member.name, text)

    def _ends(self, member: Member, lease: int, *, expires: bool) -> None:
        # Ids are used once, so an end is for good.
        self.ended.setdefault(lease, self._now())
        promise = self._promised(lease) if expires else None
        if promise is not None and self._now() < promise[0] + promise[1] * _DRIFT:
            text = (
                f"lease {lease:x} of {promise[1]:g} s ends {self._now() - promise[0]:.3f} s after"
                " a renewal that was answered had been sent"
            )
            self.report("L1", member.name, text)


class LeaseRest(QuietRule):
    """L1, the other end: a new primary gives a lease what was left at the last checkpoint, and no more.

    A renewal that is answered leaves no checkpoint from before it. L2: a checkpoint of one who did not lead
    any more changes nothing. What was left is taken from the log, not from what members make of it.
    """

    def __init__(self, report: Callable[[str, str, str], None], now: Callable[[], float]) -> None:
        super().__init__(report)
        self._now = now
        self._looked_at = 0
        self._left: dict[int, int] = {}
        # When the last checkpoint of a lease was first applied anywhere.
        self._left_since: dict[int, float] = {}
        self._primaries: dict[str, int] = {}

    def renewed(self, lease: int, sent_at: float) -> None:
        """Look at a renewal that was answered."""
        left = self._left.get(lease, 0)
        if left and self._left_since[lease] < sent_at:
            text = f"lease {lease:x} was renewed, and the next primary would still give it {left} s"
            self.report("L1", "", text)

    @override
    def opened(self, member: Member) -> None:
        self._primaries.pop(member.name, None)

    @override
    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        if index <= self._looked_at:
            return
        self._looked_at = index
        for kind, payload in _in_force(term, data):
            if kind == OpKind.LEASE_CHECKPOINT:
                for rest in rpc_pb2.LeaseCheckpointRequest.FromString(payload).checkpoints:
                    self._left[rest.ID] = rest.remaining_TTL
                    self._left_since[rest.ID] = self._now()
        lessor = member.lessor
        for kind, payload in _out_of_force(term, data):
            if kind == OpKind.LEASE_CHECKPOINT:
                for rest in rpc_pb2.LeaseCheckpointRequest.FromString(payload).checkpoints:
                    left = self._left.get(rest.ID, 0)
                    if lessor.exists(rest.ID) and lessor.checkpointed(rest.ID) != left:
                        text = f"has {rest.remaining_TTL} s left of lease {rest.ID:x} as one said that did not lead"
                        self.report("L2", member.name, text)

    @override
    def stepped(self, member: Member) -> None:
        lessor, term = member.lessor, member.core.term
        if not lessor.primary:
            self._primaries.pop(member.name, None)
            return
        if self._primaries.get(member.name) == term:
            return
        self._primaries[member.name] = term
        clock = member.node.clock
        if clock is None or member.applier.applied_index < self._looked_at:
            return
        extension_s = member.node.config.election_timeout_s
        for lease in lessor.ids():
            least = self._left.get(lease, 0) or lessor.granted_ttl(lease)
            left = lessor.remaining(lease, clock.mono()) or 0.0
            if left > least + extension_s + _ROUNDING_S:
                text = f"begins as primary with {left:.3f} s for lease {lease:x}, of which {least} s were left"
                self.report("L1", member.name, text)
