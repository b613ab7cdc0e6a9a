"""The operator of a simulated cluster: moves leadership, and adds, removes and replaces members.

It does one thing after the other. What it has begun it ends, however long that takes: a cluster that is
left with a member too few is not what anybody wants to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from coord.rpc.status import RpcError
from coord.runtime import start_task
from coord.testing.sim.chance import Chance
from coord.testing.sim.client_node import ClientNode
from coord.testing.sim.options import MOST_MEMBERS
from coord.testing.sim.scripts import Op
from coord.testing.sim.server_node import PEER_PORT
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.message import Message

    from coord.testing.sim.invariants import Observer
    from coord.testing.sim.journal import Journal
    from coord.testing.sim.machine import Stage
    from coord.testing.sim.plan import Fault
    from coord.testing.sim.server_node import ServerNode
    from coord.wire.methods import Rpc

HOST: Final = "10.0.3.1"
_CALL_S: Final = 3.0
_PAUSE_S: Final = 0.3
# How many write beside a removal, and how often each.
_WRITERS: Final = 6
_WRITES: Final = 3
# How often two members lose each other during a removal, and how soon on average.
_CUTS: Final = 0.4
_CUT_SOON_S: Final = 0.01
_ONE_WAY: Final = 0.5
# How long it waits for word that a member was added before it starts that on a guess.
_SURE_S: Final = 20.0


class Admin(ClientNode):
    """A program that takes orders and works them off."""

    def __init__(
        self,
        stage: Stage,
        servers: Sequence[ServerNode],
        observer: Observer,
        journal: Journal,
        *,
        depth: str,
        cut: Callable[..., None],
    ) -> None:
        hosts = [server.name for server in servers]
        super().__init__(stage, HOST, hosts, (), journal, depth=depth, lease_ttl_s=1)
        self.is_done: bool = True
        self.replaced: int = 0
        self.resized: int = 0
        self.sizes: set[int] = set()
        """The numbers of members, learners included, that it has seen."""
        self._removed: set[int] = set()
        # The hosts of the members as they were listed last.
        self._listed: list[str] = []
        self._servers = {server.name: server for server in servers}
        self._observer = observer
        self._orders: list[Fault] = []
        self._cut = cut
        self._written = 0
        self._chance = Chance(stage.seed, "operator")
        self._ways = Chance(stage.seed, "operator", "ways")

    def order(self, fault: Fault) -> None:
        """Do this when everything ordered before is done."""
        self._orders.append(fault)
        if self.is_done:
            self.is_done = False
            if self.loop is None:
                self.boot(self._work)

    async def _work(self) -> None:
        while True:
            while self._orders:
                fault = self._orders.pop(0)
                as_learner = bool(fault.args.get("learner"))
                match fault.args["action"]:
                    case "move":
                        await self._move(fault.on[0])
                    case "add":
                        await self._grow(fault.on[0], as_learner=as_learner)
                    case "remove":
                        await self._shrink(fault.on[0])
                    case _:
                        await self._replace(fault.on[0], as_learner=as_learner)
            self.is_done = True
            await asyncio.sleep(_PAUSE_S)

    async def _call(
        self,
        rpc: Rpc[Any, Any],
        request: Message,
        hosts: Sequence[str] = (),
    ) -> Any:  # noqa: ANN401 - the rpc's response
        """Make a call to the members that serve, or to ``hosts``. Raises RpcError."""
        if not hosts:
            # By chance: one that does not answer must not be asked for ever, nor, in turns, a learner
            # always what only voters answer.
            able = [n for n, server in self._servers.items() if not server.is_retired]
            hosts = [self._chance.choice(able)]
        carrier = self.carrier(hosts)
        try:
            raw = await carrier.unary(rpc.path, request.SerializeToString(), timeout=_CALL_S)
        finally:
            await carrier.close()
        return rpc.response.FromString(raw)

    async def _members(self, *, linearizable: bool = True) -> dict[str, rpc_pb2.Member]:
        """Return the members by their hosts, as soon as anybody can tell.

        A list that is not linearizable may be old, and is there also without a quorum.
        """
        request = rpc_pb2.MemberListRequest(linearizable=linearizable)
        while True:
            listed = await self._try(rpcs.CLUSTER_MEMBER_LIST, request)
            if listed is not None:
                return self._by_host(listed.members)

    def _by_host(self, listed: Iterable[rpc_pb2.Member]) -> dict[str, rpc_pb2.Member]:
        members = {_host(m): m for m in listed if m.ID not in self._removed}
        self.sizes.add(len(members))
        self._listed = list(members)
        return members

    async def _move(self, host: str) -> None:
        leader, target = self._observer.leader(), self._observer.member(host)
        if leader is None or target is None:
            return
        request = rpc_pb2.MoveLeaderRequest(targetID=target.id)
        # It may not be the leader any more, or the target may not take over.
        with contextlib.suppress(RpcError):
            await self._call(rpcs.MAINTENANCE_MOVE_LEADER, request, [leader.name])

    # Changes of the members. Each is done to the end before the next begins.

    async def _replace(self, host: str, *, as_learner: bool) -> None:
        members = await self._members()
        if host in members and len(members) == 1:
            return  # nobody would be left
        await self._remove(host, members)
        self._servers[host].retire()
        await self._join(host, as_learner=as_learner)
        self.replaced += 1

    async def _grow(self, wish: str, *, as_learner: bool) -> None:
        """Add a member on the host that is wished for, or on the next that has none."""
        members = await self._members()
        host = next((name for name in self._hosts_from(wish) if name not in members), None)
        if host is not None and len(members) < MOST_MEMBERS:
            await self._join(host, as_learner=as_learner)
            self.resized += 1

    async def _shrink(self, wish: str) -> None:
        """Remove a member: one that is gone for good, or else the one wished for, or the next there is."""
        members = await self._members()
        present = [name for name in self._hosts_from(wish) if name in members]
        if len(present) == 1:
            return
        servers = self._servers
        lost = [n for n in present if servers[n].is_refusing or servers[n].stays_dead]
        host = [*lost, *present][0]
        await self._remove(host, members)
        servers[host].retire(power=False)
        self.resized += 1

    def _hosts_from(self, first: str) -> list[str]:
        names = list(self._servers)
        place = names.index(first)
        return names[place:] + names[:place]

    async def _remove(self, host: str, members: dict[str, rpc_pb2.Member]) -> None:
        """Ask for the end of a membership until it has ended."""
        self._servers[host].is_leaving = True
        self._scribble()
        while host in members:
            number = members[host].ID
            request = rpc_pb2.MemberRemoveRequest(ID=number)
            if self._chance.below(_CUTS) or (self._leads(host) and self._ways.below(_CUTS)):
                self._cut_soon()
            await self._try(rpcs.CLUSTER_MEMBER_REMOVE, request)
            members = await self._members()
            if host not in members:
                self._removed.add(number)
                self._tell_newcomers(set(members))

    async def _join(self, host: str, *, as_learner: bool) -> None:
        """Add a member and start it; a learner is made a voter when it is ready."""
        url = f"http://{host}:{PEER_PORT}"
        request = rpc_pb2.MemberAddRequest(peerURLs=[url], isLearner=as_learner)
        hosts = set(self._listed)
        doubts_from = self.stage.scheduler.now + _SURE_S
        while host not in hosts:
            answer = await self._try(rpcs.CLUSTER_MEMBER_ADD, request)
            if answer is None:
                # The second of two voters has a say before it runs: without it there is no quorum to ask. An
                # old list does not have it, and who has it has everything before it.
                old = rpc_pb2.MemberListRequest(linearizable=False)
                answer = await self._try(rpcs.CLUSTER_MEMBER_LIST, old)
            if answer is not None:
                hosts = set(self._by_host(answer.members))
            elif self.stage.scheduler.now > doubts_from:
                # Whoever added it may have been started again since, and serve nobody before it runs.
                self._let_in(host, hosts | {host})
        self._let_in(host, hosts)
        while as_learner:
            members = await self._members()
            if self._servers[host].is_refusing:
                # Its disk has rotted since: another takes its place.
                await self._replace(host, as_learner=True)
                return
            member = members[host]
            as_learner = member.isLearner
            if as_learner:
                promotion = rpc_pb2.MemberPromoteRequest(ID=member.ID)
                await self._try(rpcs.CLUSTER_MEMBER_PROMOTE, promotion)

    def _leads(self, host: str) -> bool:
        """Whether the word that matters is that of a leader's own removal."""
        leader = self._observer.leader()
        return leader is not None and leader.name == host

    def _cut_soon(self) -> None:
        """Let the leader and another member lose each other while a change is on its way between them."""
        leader = self._observer.leader()
        others = [member.name for member in self._observer.members if member is not leader]
        if leader is None or not others:
            return
        other, lasts = self._chance.choice(others), self._chance.uniform(0.3, 3.0)
        soon = self._chance.exponential(_CUT_SOON_S)
        # Half of the time the other is still heard, and what it has said counts.
        one_way = self._ways.below(_ONE_WAY)

        def cut() -> None:
            self._cut(leader.name, other, lasts, one_way=one_way)

        self.stage.scheduler.after(soon, cut)

    def _scribble(self) -> None:
        """Write a little, many at a time, so that a change of membership has company in the log."""
        leader = self._observer.leader()
        if leader is None:
            return
        for number in range(_WRITERS):
            start_task(self._write(leader.name, number), name=f"operator writes {number}")

    async def _write(self, host: str, number: int) -> None:
        carrier = self.carrier([host])
        for _ in range(_WRITES):
            self._written += 1
            op = Op(id=self._written, client=HOST, op="put", key=number, after=0.0, timeout=_CALL_S)
            await self._do(carrier, op)
        await carrier.close()

    def _let_in(self, host: str, hosts: set[str]) -> None:
        """Start a member that was added, or perhaps was; if it was not, it says so and tries again."""
        node = self._servers[host]
        node.config = replace(node.config, initial_cluster_state="existing")
        self._tell_newcomers(hosts)
        node.is_leaving = node.is_retired = False
        node.start()

    def _tell_newcomers(self, hosts: set[str]) -> None:
        """Correct the flags of those who join: one that has not started yet needs the members of now."""
        cluster = ",".join(f"{each}=http://{each}:{PEER_PORT}" for each in sorted(hosts))
        for node in self._servers.values():
            if node.config.initial_cluster_state == "existing":
                node.config = replace(node.config, initial_cluster=cluster)

    async def _try(self, rpc: Rpc[Any, Any], request: Message) -> Any:  # noqa: ANN401 - the rpc's response
        """Make a call; None if it was not answered, or refused."""
        try:
            return await self._call(rpc, request)
        except RpcError:
            await asyncio.sleep(_PAUSE_S)
            return None


def _host(member: rpc_pb2.Member) -> str:
    return member.peerURLs[0].rpartition("/")[2].rpartition(":")[0]
