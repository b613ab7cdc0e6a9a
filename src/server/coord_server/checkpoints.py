"""The leader's proposals to write down how much time long leases have left.

Without them a restart or a change of leader gives every lease its full time again: harmless for ten
seconds, not for a day. Every five minutes (``interval_s``) the remaining time of each lease that has more
than that left goes through the log, a thousand leases to an entry (etcd API: Lease, "Checkpoints").
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

from coord.wire import rpc_pb2
from coord_server.ops import OpKind, encode_in_term

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata
    from coord_server.expiry import Proposer
    from coord_server.lease import Lessor

INTERVAL_S: Final = 300.0
PASS_INTERVAL_S: Final = 0.5
PASS_LIMIT: Final = 1_000


@final
class Checkpointer:
    """Proposes checkpoints while this member is primary; the responder of its own proposals."""

    def __init__(
        self, lessor: Lessor, replica: Proposer, *, interval_s: float = INTERVAL_S
    ) -> None:
        self._lessor = lessor
        self._replica = replica
        self._interval_s = interval_s
        self._next_round: float | None = None
        self._next_pass = 0.0
        self._due: deque[int] = deque()

    def tick(self, now: float) -> None:
        """Make a pass if it is time. ``now`` is of the clock; called more often than passes are due."""
        lessor = self._lessor
        if not lessor.primary:
            self._next_round = None
            self._due.clear()
            return
        if self._next_round is None:
            self._next_round = now + self._interval_s
        elif now >= self._next_round:
            self._next_round = now + self._interval_s
            self._due = deque(lessor.longer_than(self._interval_s, now))
        if self._due and now >= self._next_pass:
            self._next_pass = now + PASS_INTERVAL_S
            self._propose(now)

    def _propose(self, now: float) -> None:
        request = rpc_pb2.LeaseCheckpointRequest()
        while self._due and len(request.checkpoints) < PASS_LIMIT:
            lease_id = self._due.popleft()
            remaining_s = self._lessor.begin_checkpoint(lease_id, now)
            if remaining_s is not None:
                request.checkpoints.add(ID=lease_id, remaining_TTL=remaining_s)
        if request.checkpoints:
            payload = encode_in_term(
                self._replica.term, OpKind.LEASE_CHECKPOINT, request.SerializeToString()
            )
            self._replica.propose(OpKind.IN_TERM, payload, self, 0)

    def respond(self, stream_id: int, message: bytes) -> None:
        """Take note of a checkpoint. The lessor knows already."""

    def fail(self, stream_id: int, code: int, message: str, trailers: Metadata = ()) -> None:
        """Take note that there is none this time: the next round makes another."""
