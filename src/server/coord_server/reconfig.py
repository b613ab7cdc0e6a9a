"""When the members may be changed: the strict reconfiguration check (etcd ops: "Cluster").

A change that is legal can still cost the quorum: a second voter that never starts leaves a lone member
without a majority. Each rule looks at the cluster as it would be afterwards, by two measures. A voter
is *started* once it has a name. It is *connected* if this member has been in touch with it for five
seconds without a break.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coord_server import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.wire import rpc_pb2
    from coord_server.errors import ErrorSpec

# etcd's health interval.
CONNECTED_S: Final = 5.0
# How much of the leader's log a learner must have to be promoted.
READY_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one member sees of the others: all members, itself, and since when it is in touch with each.

    ``active_since`` returns a moment of the same clock as ``now``, in seconds; None without a connection.
    """

    members: Sequence[rpc_pb2.Member]
    own_id: int
    now: float
    active_since: Callable[[int], float | None]

    @property
    def voters(self) -> list[rpc_pb2.Member]:
        """The members with a vote."""
        return [member for member in self.members if not member.isLearner]

    def connected(self) -> int:
        """Return how many voters are connected, this member included if it is one."""
        return sum(self._is_connected(member.ID) for member in self.voters)

    def _is_connected(self, member_id: int) -> bool:
        if member_id == self.own_id:
            return True
        since = self.active_since(member_id)
        return since is not None and since <= self.now - CONNECTED_S


def add_refusal(sight: Sight, *, learner: bool) -> ErrorSpec | None:
    """Return why no voter, or no learner, may be added now."""
    voters = sight.voters
    started = _started(voters)
    after = len(voters) + 1
    # A lone member that was restored from a backup grows again one by one.
    alone = len(voters) == started == 1
    if not learner and not alone and started < _majority(after):
        return errors.MEMBER_NOT_ENOUGH_STARTED
    if len(voters) > 1 and sight.connected() < _majority(after):
        return errors.UNHEALTHY
    return None


def remove_refusal(sight: Sight, member_id: int) -> ErrorSpec | None:
    """Return why this member may not be removed now."""
    if member_id in {member.ID for member in sight.members if member.isLearner}:
        return None
    voters = sight.voters
    left = [voter for voter in voters if member_id != voter.ID]
    if _started(left) < _majority(len(left)):
        return errors.MEMBER_NOT_ENOUGH_STARTED
    # One that is down is not part of the quorum that works now.
    if member_id != sight.own_id and sight.active_since(member_id) is None:
        return None
    if sight.connected() - 1 < 1 + (len(voters) - 1) // 2:
        return errors.UNHEALTHY
    return None


def promote_refusal(sight: Sight) -> ErrorSpec | None:
    """Return why no learner may become a voter now; the learner itself counts as started."""
    voters = sight.voters
    if _started(voters) + 1 < _majority(len(voters) + 1):
        return errors.MEMBER_NOT_ENOUGH_STARTED
    return None


def is_ready(match: int | None, leader_match: int) -> bool:
    """Tell whether a learner has enough of the leader's log; one that nobody replicates to has not to."""
    return match is None or match >= leader_match * READY_SHARE


def _started(members: Sequence[rpc_pb2.Member]) -> int:
    return sum(bool(member.name) for member in members)


def _majority(count: int) -> int:
    return count // 2 + 1
