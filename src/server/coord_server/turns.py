"""What one turn of the loop makes of the operations that wait: an entry, or a group for the leader."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from coord_server import errors
from coord_server.raft import ProposalDropped, Proposed

if TYPE_CHECKING:
    from coord_server.delivery import Delivery
    from coord_server.forwarding import Forwarding
    from coord_server.proposals import Proposals, ProposedBatch
    from coord_server.raft import Effects, RaftCore
    from coord_server.replica_bounds import ReplicaBounds


@final
class Turns:
    """Takes operations of this member's clients, and groups that followers have sent."""

    def __init__(
        self,
        core: RaftCore,
        *,
        proposals: Proposals,
        forwarding: Forwarding,
        delivery: Delivery,
        bounds: ReplicaBounds,
    ) -> None:
        self._core = core
        self._proposals = proposals
        self._forwarding = forwarding
        self._delivery = delivery
        self._max_ops = bounds.max_batch_ops
        self._max_bytes = bounds.max_batch_bytes

    @property
    def wanted(self) -> bool:
        """Whether anything waits for a turn."""
        return bool(len(self._proposals)) or self._forwarding.waiting

    def propose(self) -> Effects | None:
        """Make the leader's next entry; None if nothing waits or raft does not take it."""
        batch = self._take_batch()
        data = b"" if batch is None else batch.data
        if self._forwarding.waiting:
            data += self._forwarding.take(max_bytes=self._max_bytes)
        if not data:
            return None
        try:
            effects = self._core.step(Proposed(data))
        except ProposalDropped:
            # Leadership is on its way to another, or too much waits for a quorum.
            if batch is not None:
                batch.fail(errors.TOO_MANY_REQUESTS)
            self._forwarding.dropped()
            return None
        self._forwarding.proposed()
        if batch is not None:
            self._delivery.expect(self._core.last_index, self._core.term, batch)
        return effects

    def hand_over(self) -> None:
        """Send the next operations to the leader, which is known."""
        batch = self._take_batch()
        if batch is not None:
            self._forwarding.send(batch, self._core.leader, self._core.term)

    def _take_batch(self) -> ProposedBatch | None:
        return self._proposals.take(max_ops=self._max_ops, max_bytes=self._max_bytes)
