"""Linearizable reads at the leader: a read index, then proof that it still leads (thesis 6.4).

Each read waits for one *round* of heartbeats: when a quorum has answered a heartbeat that was sent
after the read came, nobody else can have led, and committed something, before it came. Rounds are
numbered, so an answer to a later one confirms all earlier ones, and a lost heartbeat is made good by
any later one.

A follower's question is an answer as well: in a cluster of three it confirms itself, without a round
(`Leadership._vouches`).

One round goes to all voters, the next ones only to those who confirmed it first: that is a quorum, and
the work of asking the others is spared. At every heartbeat, which goes to all, and when one of them is
out of reach, the choice is forgotten; so one who falls silent holds reads up until the next heartbeat.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from coord_server.raft.types import Index, NodeId

if TYPE_CHECKING:
    from coord_server.raft.member import Member

# Reads that wait at a leader, each for a turn's worth of a member's clients. Who asks beyond that
# gets no answer and asks again; a leader without a quorum must not fill its memory.
_MAX_WAITING: Final = 4096


class Asker(NamedTuple):
    """Who asked, and the name that it gave to the question."""

    node: NodeId
    context: int


class _Waiting(NamedTuple):
    number: int
    read_index: Index
    askers: tuple[Asker, ...]


class ReadRounds:
    """The reads of one leadership."""

    __slots__ = ("_acked", "_member", "_parked", "_quick", "_waiting", "round")

    def __init__(self, member: Member) -> None:
        self._member = member
        # Rises within the leadership, and travels in every heartbeat.
        self.round = 0
        self._acked: dict[NodeId, int] = {}
        # A quorum together with this member; empty: not chosen.
        self._quick: tuple[NodeId, ...] = ()
        self._parked: list[Asker] = []
        self._waiting: deque[_Waiting] = deque()

    def park(self, asker: Asker) -> None:
        """Keep a read until an entry of this term is committed: the leader may not know what is."""
        if len(self._parked) < _MAX_WAITING:
            self._parked.append(asker)

    def unpark(self) -> tuple[Asker, ...]:
        """Return the reads that were parked; they share a round."""
        parked = tuple(self._parked)
        self._parked.clear()
        return parked

    def begin(self, askers: tuple[Asker, ...]) -> bool:
        """Begin a round for reads at the present commit index; return whether heartbeats must go."""
        if len(self._waiting) >= _MAX_WAITING:
            return False
        self.round += 1
        self._waiting.append(_Waiting(self.round, self._member.commit, askers))
        return True

    def audience(self) -> tuple[NodeId, ...]:
        """Return whose heartbeats confirm a new round."""
        member = self._member
        return self._quick or tuple(
            node for node in member.membership.all_voters if node != member.me
        )

    def ask_all(self) -> None:
        """Forget who was quick: the next round goes to all."""
        self._quick = ()

    def lost(self, node: NodeId) -> bool:
        """Note that a member is out of reach; return whether all must be asked, for rounds wait for it."""
        if node not in self._quick:
            return False
        self.ask_all()
        return bool(self._waiting)

    def acknowledged(self, node: NodeId, read_round: int) -> None:
        """``node`` answered a heartbeat of this round."""
        if read_round > self._acked.get(node, 0) and read_round <= self.round:
            self._acked[node] = read_round

    def confirmed(self) -> list[tuple[Index, tuple[Asker, ...]]]:
        """Return the reads, with their index, that a quorum's answers have confirmed."""
        if not self._waiting:
            return []
        member = self._member
        # The highest round that a quorum answered, found as the highest index that a quorum has.
        acked = {
            node: Index(self.round if node == member.me else self._acked.get(node, 0))
            for node in member.membership.all_voters
        }
        confirmed = member.membership.committed(acked)
        done: list[tuple[Index, tuple[Asker, ...]]] = []
        while self._waiting and self._waiting[0].number <= confirmed:
            waiting = self._waiting.popleft()
            done.append((waiting.read_index, waiting.askers))
        if done and not self._quick:
            self._quick = tuple(
                node
                for node in member.membership.all_voters
                if node != member.me and acked[node] >= confirmed
            )
        return done
