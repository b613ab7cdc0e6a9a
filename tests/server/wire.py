"""The peers of a replica under test: what is sent to them stays here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from typing_extensions import override

from coord_server.peers import NoPeers
from coord_server.raft import Message, NodeId

M = TypeVar("M")


@dataclass
class Wire(NoPeers):
    """Notes what leaves."""

    sent: list[Message] = field(default_factory=list[Message])

    @override
    def send(self, messages: Sequence[Message]) -> None:
        self.sent.extend(messages)

    @override
    def offer_snapshot(self, to: NodeId) -> None:
        raise AssertionError("nobody needs a snapshot here")

    def take(self, kind: type[M]) -> list[M]:
        """Return what was sent of a kind, and forget everything."""
        taken: list[M] = [message for message in self.sent if isinstance(message, kind)]
        self.sent.clear()
        return taken
