"""The leader's proposals to end leases whose time is over.

A passed deadline ends nothing. It leads to an entry in the log, and all members delete the lease and
its keys where they apply it (etcd API: Lease, "Expiry").
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from coord.wire import rpc_pb2
from coord_server import errors
from coord_server.ops import OpKind, encode_in_term

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata
    from coord.rpc.service import Responder
    from coord.runtime import Clock
    from coord_server.lease import Lessor

# One pass in this many seconds takes at most so many leases: a thousand revocations a second leave
# room in the log for everybody else when a crowd of clients has died.
PASS_INTERVAL_S: Final = 0.5
PASS_LIMIT: Final = 500
# A revocation that failed is proposed again after this: as long as a request may take.
RETRY_AFTER_S: Final = 7.0


class Proposer(Protocol):
    """What the expirer needs of the replica."""

    @property
    def term(self) -> int:
        """The member's current term."""
        ...

    def propose(self, kind: int, payload: bytes, responder: Responder, stream_id: int) -> None:
        """Propose an operation; the responder hears of the outcome exactly once."""
        ...


class Expirer:
    """Proposes the end of expired leases while this member is primary.

    It is the responder of its own proposals; the number of a call is the lease's id.
    """

    def __init__(self, lessor: Lessor, replica: Proposer, clock: Clock) -> None:
        self._lessor = lessor
        self._replica = replica
        self._clock = clock
        self._next_pass = 0.0
        # (when, lease) of failed revocations, the earliest first.
        self._failed: deque[tuple[float, int]] = deque()

    def tick(self, now: float) -> None:
        """Make a pass if it is time. ``now`` is of the clock; called more often than passes are due."""
        lessor = self._lessor
        lessor.settle(now)
        if now < self._next_pass:
            return
        self._next_pass = now + PASS_INTERVAL_S
        while self._failed and self._failed[0][0] <= now:
            lessor.retry(self._failed.popleft()[1])
        if not lessor.primary:
            return
        for lease_id in lessor.expired(now, PASS_LIMIT):
            request = rpc_pb2.LeaseRevokeRequest(ID=lease_id).SerializeToString()
            payload = encode_in_term(self._replica.term, OpKind.LEASE_EXPIRE, request)
            self._replica.propose(OpKind.IN_TERM, payload, self, lease_id)

    def respond(self, stream_id: int, message: bytes) -> None:
        """Take note that a lease is gone. The lessor knows already."""

    def fail(self, stream_id: int, code: int, message: str, trailers: Metadata = ()) -> None:
        """Take note that a lease still exists, unless its owner was faster and revoked it."""
        del trailers
        gone = errors.LEASE_NOT_FOUND
        if (code, message) != (gone.code, gone.message):
            self._failed.append((self._clock.mono() + RETRY_AFTER_S, stream_id))
