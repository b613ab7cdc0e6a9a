"""What others may ask about a member, without a wait and without an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord_server.raft import Role

if TYPE_CHECKING:
    from coord_server.apply import Applier
    from coord_server.lease.lessor import Lessor
    from coord_server.log_writer import LogWriter
    from coord_server.mvcc.store import Store
    from coord_server.raft import Index, NodeId, RaftCore, Term


class ReplicaView:
    """The public figures of a replica, which inherits them."""

    def __init__(self, core: RaftCore, applier: Applier, writer: LogWriter) -> None:
        self._core = core
        self._writer = writer
        self.applier = applier
        self.store: Store = applier.store
        self.lessor: Lessor = applier.lessor
        self.member_id: int = core.node_id

    @property
    def term(self) -> int:
        """The member's current term."""
        return self._core.term

    @property
    def raft_term(self) -> Term:
        """The same, as raft's own type."""
        return self._core.term

    @property
    def node_id(self) -> NodeId:
        """The member's id, as raft's own type."""
        return self._core.node_id

    @property
    def leader_id(self) -> int:
        """The leader's member id; 0 if there is none."""
        return self._core.leader

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        return self._core.role is Role.LEADER

    @property
    def applied_index(self) -> int:
        """The last log index that the state holds."""
        return self.applier.applied_index

    @property
    def committed_index(self) -> int:
        """The last log index that is known to be committed."""
        return max(self._core.commit_index, self.applier.applied_index)

    @property
    def first_index(self) -> Index:
        """The lowest index of the log that is still in memory."""
        return self._core.first_index

    @property
    def last_index(self) -> Index:
        """The last index of this member's log, durable or not."""
        return self._core.last_index

    def match(self, node: NodeId) -> Index | None:
        """Return up to where a member is known to have this leader's log; None if it gets none from here."""
        progress = self._core.progress.get(node)
        return None if progress is None else progress.match

    @property
    def sync_average_s(self) -> float:
        """How long a log write has taken lately, in seconds."""
        return self._writer.average_s
