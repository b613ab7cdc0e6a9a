"""Messages between members that come late, twice, in another order and in parts: what raft allows.

A connection keeps its order, so the rules of raft would never meet half of what the paper lets happen
(section 5.3: messages may be delayed, reordered and lost). In seeds with this fault each member's post is
shuffled after it has arrived, and before raft is given it.

A leader may also send less of its log than would fit, nothing at the least, with the same commit index.
Ours never does, so no follower would be given an append that ends before the first entry on which the
two logs differ. In seeds with this fault some of its appends are cut in two before they leave, and the
second part may be lost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from coord.testing.sim.chance import Chance
from coord_server.raft import AppendRequest, Index, InstallSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.testing.sim.invariants import Member
    from coord.testing.sim.sender_rules import Senders
    from coord_server.raft import Message

# How late on average: some come after a few others, and some after an election.
_LATE_S: Final = (0.002, 0.02, 0.3, 2.0)
# How many of the appends that are cut begin with nothing, and how many of the second parts are lost.
_BARE: Final = 0.5
_LOST: Final = 0.5


class Mail:
    """Shuffles what arrives at members: ``share`` of the messages comes late, or a second time.

    Of the appends with entries ``parts`` are cut in two.
    """

    def __init__(self, seed: int, share: float, parts: float, senders: Senders) -> None:
        self._seed = seed
        self._share = share
        self._parts = parts
        self._senders = senders
        self.is_on = False
        """While a run's faults are on."""

    def shuffled(
        self, member: Member, take: Callable[[Sequence[Message]], None]
    ) -> Callable[[Sequence[Message]], None]:
        """Return what to call with messages that have arrived, so that ``take`` gets them shuffled."""
        if not self._share:
            return take
        chance = Chance(self._seed, "mail", f"{member.name}/{member.node.epoch}")
        loop, share, senders = member.node.loop, self._share, self._senders

        def late(message: Message) -> None:
            # What a life that is over has left under way ends with its connection.
            if not senders.is_outlived(member, message):
                take((message,))

        def arrived(messages: Sequence[Message]) -> None:
            if not self.is_on or loop is None:
                take(messages)
                return
            at_once: list[Message] = []
            for message in messages:
                is_late, comes_again = chance.below(share), chance.below(share / 2)
                # It is fetched, and comes on a way of its own.
                is_shuffled = not isinstance(message, InstallSnapshot)
                if not (is_late and is_shuffled):
                    at_once.append(message)
                if (is_late or comes_again) and is_shuffled:
                    delay = chance.exponential(chance.choice(_LATE_S))
                    loop.call_later(delay, late, message)
            if at_once:
                take(at_once)

        return arrived

    def cut(
        self, member: Member, send: Callable[[Sequence[Message]], None]
    ) -> Callable[[Sequence[Message]], None]:
        """Return what to call with messages that leave, so that ``send`` gets some of them cut."""
        if not self._parts:
            return send
        chance = Chance(self._seed, "parts", f"{member.name}/{member.node.epoch}")

        def leaving(messages: Sequence[Message]) -> None:
            parts: list[Message] = []
            for message in messages:
                if (
                    self.is_on
                    and isinstance(message, AppendRequest)
                    and message.entries
                    and chance.below(self._parts)
                ):
                    count = len(message.entries)
                    place = 0 if chance.below(_BARE) else chance.randrange(count)
                    first, second = _cut(message, place)
                    parts.append(first)
                    if not chance.below(_LOST):
                        parts.append(second)
                else:
                    parts.append(message)
            send(parts)

        return leaving


def _cut(message: AppendRequest, place: int) -> tuple[AppendRequest, AppendRequest]:
    """Return an append as two, of which the first has ``place`` entries: fewer than there are."""
    first, second = message.entries[:place], message.entries[place:]
    return (
        replace(message, entries=first),
        replace(
            message,
            entries=second,
            prev_index=Index(message.prev_index + place),
            prev_term=first[-1].term if first else message.prev_term,
        ),
    )
