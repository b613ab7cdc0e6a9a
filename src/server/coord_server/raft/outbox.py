"""What a step asks of the world, collected until the step is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from coord.runtime.invariants import invariant
from coord_server.raft.types import (
    NOBODY,
    Effects,
    Entry,
    HardState,
    Index,
    NodeId,
    Persist,
    ReadReady,
    Role,
    SnapshotMeta,
    SoftState,
)

if TYPE_CHECKING:
    from coord_server.raft.member import Member
    from coord_server.raft.messages import Message

T = TypeVar("T")


def _taken(items: list[T]) -> tuple[T, ...]:
    taken = tuple(items)
    items.clear()
    return taken


class Outbox:
    """Collects, and remembers what was given out before: hard state, status, committed entries.

    Committed entries are given out in parts of a bounded size. Who applies them would otherwise be deaf
    for as long as a whole log takes, and a follower that is deaf campaigns.
    """

    __slots__ = (
        "_reported",
        "_saved",
        "after_persist",
        "entries",
        "handed_out",
        "install",
        "is_holding",
        "reads",
        "send",
        "snapshots",
    )

    def __init__(self, saved: HardState, *, handed_out: Index) -> None:
        self._saved = saved
        self._reported = SoftState(role=Role.FOLLOWER, leader=NOBODY, term=saved.term)
        self.handed_out = handed_out
        # A part is being applied, and there is more.
        self.is_holding = False
        self.send: list[Message] = []
        self.after_persist: list[Message] = []
        self.entries: list[Entry] = []
        self.reads: list[ReadReady] = []
        self.snapshots: list[NodeId] = []
        self.install: SnapshotMeta | None = None

    def restart(self, snapshot: SnapshotMeta) -> None:
        """Install a snapshot; what it covers is not handed out any more."""
        self.install = snapshot
        self.entries.clear()
        self.handed_out = snapshot.index
        self.is_holding = False

    def take(self, member: Member) -> Effects:
        """Return what this step asks for, and begin with nothing for the next."""
        committed: tuple[Entry, ...] = ()
        # A follower hears of a commit before its own disk has the entry; apply waits for the disk.
        upto = min(member.commit, member.durable)
        if upto > self.handed_out and not self.is_holding:
            limit = member.config.max_committed_bytes
            committed = member.log.batch(self.handed_out, limit, upto=upto)
            self.handed_out = committed[-1].index
            self.is_holding = self.handed_out < upto
        install, self.install = self.install, None
        return Effects(
            self._take_persist(member, install),
            _taken(self.send) if self.send else (),
            _taken(self.after_persist) if self.after_persist else (),
            install,
            committed,
            _taken(self.reads) if self.reads else (),
            _taken(self.snapshots) if self.snapshots else (),
            self._take_status(member),
            self.is_holding and bool(committed),
        )

    def _take_persist(self, member: Member, snapshot: SnapshotMeta | None) -> Persist | None:
        """Return what must be written now. A new commit index alone waits for the next write."""
        saved = self._saved
        promised = member.term != saved.term or member.vote != saved.vote
        if not (self.entries or promised or snapshot is not None):
            return None
        hard_state = None
        if promised or member.commit != saved.commit:
            invariant(member.term >= saved.term, "the term never falls")
            invariant(member.commit >= saved.commit, "the commit index never falls")
            hard_state = self._saved = HardState(member.term, member.vote, member.commit)
        entries = tuple(self.entries)
        self.entries.clear()
        log = member.log
        return Persist(hard_state, entries, log.last_index, log.last_term, member.term, snapshot)

    def _take_status(self, member: Member) -> SoftState | None:
        reported = self._reported
        if (
            reported.role is member.role
            and reported.leader == member.leader
            and reported.term == member.term
        ):
            return None
        self._reported = SoftState(role=member.role, leader=member.leader, term=member.term)
        return self._reported
