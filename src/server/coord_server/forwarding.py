"""Operations that a follower hands to its leader, and how their answers come back.

A follower sends the operations of a turn to the leader as one *group*. The leader puts them into its
next entry behind a marker that names the group (member, incarnation, sequence number), so whoever applies
the entry knows whose operations they are. The follower answers its clients when it applies the entry
itself: the answer is its own, and a client that reads here next sees what it wrote.

Nothing is sent twice. A group names the term of the leader that it is meant for, and only that leader
takes it, so once an entry of a later term is applied here, a group that has not come by will never come:
it is refused with certainty. Until then a group that was sent may be in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from coord_server import errors
from coord_server.ops import OpKind, encode_batch, encode_origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord_server.errors import ErrorSpec
    from coord_server.proposals import ProposedBatch
    from coord_server.raft import NodeId

# Groups of followers that wait for the leader's next turn; beyond that they are refused.
MAX_WAITING_BYTES: Final = 64 << 20


class Line(Protocol):
    """What this needs of the connections between members."""

    def forward(self, to: NodeId, seq: int, term: int, data: bytes) -> bool:
        """Send a group to the leader; return whether it may have left. False: it certainly has not."""
        ...

    def refuse(self, to: NodeId, seq: int, spec: ErrorSpec) -> None:
        """Tell a follower that its group will never be proposed."""
        ...


@final
class Forwarding:
    """Both ends of the way: groups that this member has sent, and groups that it was sent."""

    def __init__(self, line: Line, *, member_id: int, incarnation: int) -> None:
        self._line = line
        self._me = member_id
        self._incarnation = incarnation
        self._seq = 0
        self._sent: dict[int, ProposedBatch] = {}
        self._waiting: list[tuple[NodeId, int, int, bytes]] = []
        self._waiting_bytes = 0
        self._taken = 0

    # As a follower.

    @property
    def outstanding(self) -> bool:
        """Whether answers of applied entries may be wanted here."""
        return bool(self._sent)

    def send(self, batch: ProposedBatch, leader: NodeId, term: int) -> None:
        """Hand a batch to the leader of ``term``."""
        self._seq += 1
        batch.term = term
        if self._line.forward(leader, self._seq, term, batch.data):
            self._sent[self._seq] = batch
        else:
            batch.fail(errors.NO_LEADER)

    def applied(
        self, member_id: int, incarnation: int, seq: int, results: Sequence[bytes | ErrorSpec]
    ) -> None:
        """Answer the group if it is of this member and this life of it."""
        if (member_id, incarnation) == (self._me, self._incarnation):
            batch = self._sent.pop(seq, None)
            if batch is not None:
                batch.answer(results)

    def refused(self, seq: int, spec: ErrorSpec) -> None:
        """Pass on that the leader has not taken a group."""
        batch = self._sent.pop(seq, None)
        if batch is not None:
            batch.fail(spec)

    def term_applied(self, term: int) -> None:
        """Refuse what was meant for leaders before ``term``, of which an entry is applied."""
        late = [seq for seq, batch in self._sent.items() if batch.term < term]
        for seq in late:
            self._sent.pop(seq).fail(errors.LEADER_CHANGED)

    def state_replaced(self) -> None:
        """Tell all askers that the outcome is unknown: their entries may be in a snapshot."""
        sent, self._sent = self._sent, {}
        for batch in sent.values():
            batch.fail(errors.TIMEOUT)

    def fail_before(self, tick: int, spec: ErrorSpec) -> None:
        """Tell those who have waited since ``tick`` that the outcome is unknown."""
        late = [seq for seq, batch in self._sent.items() if batch.tick <= tick]
        for seq in late:
            self._sent.pop(seq).fail(spec)

    # As the leader.

    def receive(
        self, sender: NodeId, incarnation: int, seq: int, term: int, data: bytes, *, current: int
    ) -> bool:
        """Take a follower's group if it is meant for the leader of ``current``, 0 for none; say if so."""
        if term != current:
            self._line.refuse(sender, seq, errors.LEADER_CHANGED)
            return False
        if self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
            self._line.refuse(sender, seq, errors.TOO_MANY_REQUESTS)
            return False
        self._waiting.append((sender, incarnation, seq, data))
        self._waiting_bytes += len(data)
        return True

    def take(self, *, max_bytes: int) -> bytes:
        """Return the groups that fit as the end of an entry, at least one if any waits.

        They are held until ``proposed`` or ``dropped`` tells what became of the entry.
        """
        parts: list[bytes] = []
        size = count = 0
        for sender, incarnation, seq, data in self._waiting:
            size += len(data)
            if parts and size > max_bytes:
                break
            mark = encode_origin(sender, incarnation, seq)
            parts += (encode_batch([(OpKind.ORIGIN, mark)]), data)
            count += 1
        self._taken = count
        return b"".join(parts)

    def proposed(self) -> None:
        """Forget the groups taken last: they are in the log."""
        for _, _, _, data in self._waiting[: self._taken]:
            self._waiting_bytes -= len(data)
        del self._waiting[: self._taken]
        self._taken = 0

    def dropped(self) -> None:
        """Send the groups taken last back: raft has not taken them."""
        for sender, _, seq, _ in self._waiting[: self._taken]:
            self._line.refuse(sender, seq, errors.TOO_MANY_REQUESTS)
        self.proposed()

    @property
    def waiting(self) -> bool:
        """Whether groups of followers wait for the leader's turn."""
        return bool(self._waiting)

    def step_down(self) -> None:
        """Send back what this member can no longer propose."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for sender, _, seq, _ in waiting:
            self._line.refuse(sender, seq, errors.LEADER_CHANGED)

    def forget(self) -> None:
        """Drop everything without an answer: the node is broken and must not speak."""
        self._sent.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
