"""What a replica asks of the connections to the other members, and the answer of one who has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from coord.runtime import invariant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord_server.errors import ErrorSpec
    from coord_server.raft import Message, NodeId


class Peers(Protocol):
    """Messages to other members. Nothing here waits, and nothing is certain to arrive."""

    def send(self, messages: Sequence[Message]) -> None:
        """Send, each to its ``to``; what cannot leave is dropped and reported as unreachable."""
        ...

    def flush(self) -> None:
        """Let what was sent leave now, and not when the loop comes round: it is about to wait for the disk."""
        ...

    def forward(self, to: NodeId, seq: int, term: int, data: bytes) -> bool:
        """Hand operations to the leader of ``term``; False if they certainly did not leave."""
        ...

    def refuse(self, to: NodeId, seq: int, spec: ErrorSpec) -> None:
        """Tell a follower that its operations will never be proposed."""
        ...

    def offer_snapshot(self, to: NodeId) -> None:
        """Let a member fetch the whole state, since the log no longer has what it lacks."""
        ...

    def active_since(self, node: NodeId) -> float | None:
        """Since when the connection to a member works, in monotonic seconds; None if it does not."""
        ...


class NoPeers(Peers):
    """The connections of a member that is alone. A single voter has nobody to talk to."""

    @override
    def send(self, messages: Sequence[Message]) -> None:
        """Drop: a single voter may still have a learner that was never connected."""

    @override
    def flush(self) -> None:
        """There is nothing."""

    @override
    def forward(self, to: NodeId, seq: int, term: int, data: bytes) -> bool:
        return False

    @override
    def refuse(self, to: NodeId, seq: int, spec: ErrorSpec) -> None:
        invariant(False, "nobody forwards to a member that is alone")  # noqa: FBT003

    @override
    def offer_snapshot(self, to: NodeId) -> None:
        """Drop, as in ``send``."""

    @override
    def active_since(self, node: NodeId) -> float | None:
        return None
