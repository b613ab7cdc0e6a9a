"""``--initial-election-tick-advance``: a cluster that starts together need not wait to find out that nobody leads.

Once more than one peer is connected in the first seconds, most of the election timeout is taken as passed
(etcd ops: "Election"): a leader would have been heard of through them. Only one peer proves less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from coord_server.raft import NodeId, Tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.raft import Event

_WITHIN_S: Final = 5.0
_PEERS: Final = 2
# What is left of the timeout, in ticks, so that a heartbeat that is on its way still counts.
_LEFT_TICKS: Final = 2


class Steps(Protocol):
    """What this needs of a replica."""

    @property
    def leader_id(self) -> int:
        """The leader's id; 0 if there is none."""
        ...

    def step(self, event: Event) -> None:
        """Let raft take an event."""
        ...


@final
class HeadStart:
    """Looks every tick until it is given, too late, or not needed. ``peers`` are asked for, not remembered."""

    def __init__(
        self,
        replica: Steps,
        *,
        election_ticks: int,
        peers: Callable[[], list[NodeId]],
        active_since: Callable[[NodeId], float | None],
    ) -> None:
        self._replica = replica
        self._ticks = election_ticks - _LEFT_TICKS
        self._peers = peers
        self._active_since = active_since
        self._until: float | None = None
        self._is_over = self._ticks <= 0

    def tick(self, now: float) -> None:
        """Look; ``now`` in seconds of the monotonic clock. Called by the replica."""
        if self._is_over:
            return
        if self._until is None:
            self._until = now + _WITHIN_S
        if self._replica.leader_id or now > self._until:
            self._is_over = True
        elif sum(self._active_since(node) is not None for node in self._peers()) >= _PEERS:
            self._is_over = True
            for _ in range(self._ticks):
                # The jitter is for a timer that is reset now; this only lets the one that runs run on.
                self._replica.step(Tick(0))
