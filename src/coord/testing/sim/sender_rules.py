"""The rule of who is listened to: members of this cluster, in their present lives (R11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord.testing.sim.invariants import Member, QuietRule
from coord_server.raft import InstallSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord_server.raft import Message


class Senders(QuietRule):
    """R11: what a member's raft is given was sent to it by a member, and by no earlier life than before."""

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(report)
        # By what a message says: the lives in which its sender has sent it, ascending. One may say again
        # what an earlier one said while the receiver slept.
        self._sent: dict[int, list[int]] = {}
        # By receiver, its life, and sender: the newest life that was heard.
        self._heard: dict[tuple[str, int, int], int] = {}

    @override
    def sending(self, member: Member, messages: Sequence[Message]) -> None:
        for message in messages:
            lives = self._sent.setdefault(hash(message), [])
            if member.node.epoch not in lives:
                lives.append(member.node.epoch)

    def is_outlived(self, member: Member, message: Message) -> bool:
        """Tell whether the member has heard a newer life of the sender than the one that sent this."""
        place = (member.name, member.node.epoch, int(message.sender))
        return self._sent.get(hash(message), [0])[-1] < self._heard.get(place, 0)

    @override
    def receiving(self, member: Member, messages: Sequence[Message]) -> None:
        for message in messages:
            if isinstance(message, InstallSnapshot):
                continue  # it is fetched, and comes on a way of its own
            lives = self._sent.get(hash(message))
            who = f"{type(message).__name__} of {message.sender:x} in term {message.term}"
            if lives is None or message.to != member.id:
                self.report("R11", member.name, f"takes a {who}, which no member has sent to it")
                continue
            place = (member.name, member.node.epoch, int(message.sender))
            heard = self._heard.get(place, 0)
            # The oldest that it may be from.
            life = next((life for life in lives if life >= heard), None)
            if life is None:
                self.report("R11", member.name, f"takes a {who} from an earlier life")
            else:
                self._heard[place] = life
