"""A program that pretends to be a member: of another cluster, of an earlier life, or with a message for another.

What it says would do harm: a vote is asked for in a later term, and there are entries and a commit index of
a leader that nobody has elected. Members must refuse it before they look at any of that (R11).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from coord.rpc.status import RpcError
from coord.runtime import Env
from coord.testing.sim.chance import Chance
from coord.testing.sim.env import NodeOffload
from coord.testing.sim.machine import Machine
from coord.testing.sim.server_node import PEER_PORT
from coord_server.peer.handshake import (
    HELLO_KEY,
    Hello,
    decode_hello,
    encode_echo,
    encode_hello,
)
from coord_server.peer.limits import MeshLimits
from coord_server.peer.link import STREAM_PATH
from coord_server.peer.local import dial
from coord_server.peer.packet import pack
from coord_server.raft import (
    AppendRequest,
    CommitNotice,
    Entry,
    EntryKind,
    Heartbeat,
    Index,
    NodeId,
    Term,
    VoteRequest,
)

if TYPE_CHECKING:
    from coord.testing.sim.invariants import Member, Observer
    from coord.testing.sim.machine import Stage
    from coord_server.raft import Message

HOST: Final = "10.0.5.1"
_DIAL_S: Final = 2.0
_STAYS_S: Final = 1.0


class Stranger(Machine):
    """Calls on members in a guise."""

    def __init__(self, stage: Stage, observer: Observer) -> None:
        super().__init__(stage, HOST)
        self.calls: int = 0
        """How often it has spoken to a member that was there."""
        self._observer = observer
        self._chance = Chance(stage.seed, "stranger")
        self._orders: list[tuple[str, str]] = []

    def call(self, host: str, guise: str) -> None:
        """Speak to the member on this host soon."""
        self._orders.append((host, guise))
        if self.loop is None:
            self.boot(self._work)

    async def _work(self) -> None:
        while True:
            while self._orders:
                host, guise = self._orders.pop(0)
                member = self._observer.member(host)
                if member is not None:
                    await self._speak(member, guise)
            await asyncio.sleep(_STAYS_S)

    async def _speak(self, member: Member, guise: str) -> None:
        if self.loop is None or self.net is None or self.clock is None:
            return
        env = Env(
            clock=self.clock,
            net=self.net,
            rand=self.rand(),
            offload=NodeOffload(self.stage.scheduler, self.loop, self.stage.seed),
        )
        url = f"http://{member.name}:{PEER_PORT}"
        try:
            channel = await dial(url, env=env, tls=None, limits=MeshLimits(), timeout=_DIAL_S)
        except RpcError:
            return
        # Not before: one that has been started again meanwhile knows of no earlier lives.
        hello = self._hello(member, guise)
        if hello is None:
            await channel.close()
            return
        self.calls += 1
        metadata = ((HELLO_KEY, encode_hello(hello)),)
        stream = channel.open_stream(STREAM_PATH, metadata=metadata)
        with contextlib.suppress(RpcError, TimeoutError):
            async with asyncio.timeout(_STAYS_S):
                welcome = await stream.receive()
            if welcome is not None:
                stream.send(encode_echo(decode_hello(welcome).incarnation))
        for data, _ in pack(_lies(hello.sender, NodeId(member.id), member.core.term)):
            stream.send(data)
        await asyncio.sleep(_STAYS_S)
        await channel.close()

    def _hello(self, member: Member, guise: str) -> Hello | None:
        """Return whom it pretends to be; None where there is nobody for this guise."""
        server: Any = member.node.server
        peering = getattr(server, "_peering", None)
        if peering is None:
            return None
        others = [node for node in member.core.membership.members if node != member.id]
        past: dict[NodeId, Any] = peering.mesh._incoming._lives._past  # noqa: SLF001 - what only it knows
        if guise == "life":
            others = [node for node in others if past.get(node)]
        elif guise == "removed":
            others = sorted(peering._members._removed)  # noqa: SLF001 - as above
        if not others:
            return None
        sender = self._chance.choice(others)
        hello = Hello(
            cluster_id=server._identity().cluster_id,  # noqa: SLF001
            sender=NodeId(sender),
            to=NodeId(member.id),
            incarnation=past[sender][0] if guise == "life" else 7,
        )
        if guise == "cluster":
            return replace(hello, cluster_id=hello.cluster_id ^ 1)
        if guise == "target":
            return replace(hello, to=NodeId(sender))
        return hello


def _lies(sender: NodeId, to: NodeId, term: Term) -> list[Message]:
    later = Term(term + 5)
    entry = Entry(later, Index(1 << 40), EntryKind.NORMAL, b"")
    return [
        VoteRequest(
            sender=sender, to=to, term=later, last_index=Index(1 << 40), last_term=later,
            is_transfer=True,
        ),
        Heartbeat(sender=sender, to=to, term=later, commit=Index(1 << 40), read_round=0),
        CommitNotice(sender=sender, to=to, term=later, commit=Index(1 << 40)),
        AppendRequest(
            sender=sender, to=to, term=later, prev_index=Index(entry.index - 1), prev_term=later,
            entries=(entry,), commit=entry.index,
        ),
    ]  # fmt: skip
