"""What it takes to let a member go without losing the others.

A removal is in force where it is applied, and a member applies what it knows to be committed. Were the
only one that knows to leave, the others would go on asking it for its vote, and if theirs is no majority
without it, for ever. So a leader does not remove itself: another voter leads first, knows of the commit
before anybody, and stays. And a removal is answered only when an entry behind it is committed by those who
stay: that entry brought them the commit index, and is durable on them together with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord_server.raft import ChangeKind

if TYPE_CHECKING:
    from coord_server.raft import ConfigChange, NodeId, RaftCore


def removed_by(change: ConfigChange) -> set[int]:
    """Return which members a change removes."""
    return {step.node for step in change.steps if step.kind is ChangeKind.REMOVE}


def heir_of(core: RaftCore, change: ConfigChange) -> NodeId | None:
    """Return who should lead in place of this leader, which the change removes; None if it stays.

    None as well if no other voter stays: then there is nobody to care for.
    """
    gone = removed_by(change)
    if core.node_id not in gone:
        return None
    views = core.progress
    stay = [node for node in core.membership.voters if node not in gone and node in views]
    # Who was heard of lately, and of those who has most of the log.
    return max(stay, key=lambda node: (views[node].recent_active, views[node].match), default=None)
