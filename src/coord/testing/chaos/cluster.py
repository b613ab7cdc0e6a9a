"""A cluster of member processes, with a proxy in front of each port."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING, Self

from coord.rpc.status import RpcError
from coord.runtime import finish
from coord.testing.chaos import warden
from coord.testing.chaos.calls import call, change, status_of
from coord.testing.chaos.links import Links
from coord.testing.chaos.member import STOP_WITHIN_S, MemberFailed, MemberProcess
from coord.testing.chaos.ports import Addresses
from coord.testing.chaos.proxy import ChaosProxy
from coord.testing.chaos.waiting import wait_until
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from pathlib import Path

# Elections of a machine that does many other things at once.
LEADER_WITHIN_S = 30.0
_TOKEN = "chaos"  # noqa: S105 - of the cluster's ids


class Proxied(Enum):
    """What has a proxy in front of it."""

    ALL = "all"
    PEERS = "peers"
    NOTHING = "nothing"


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


class Cluster:
    """``size`` members named m1, m2, ..., with their data below ``directory``.

    A directory that was used before holds a cluster of the same members, at the same addresses. ``flags`` go to
    every member. ``proxied`` says what passes ``links``.
    ``names`` may be given instead of ``size``; ``heard`` is as in :class:`MemberProcess`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        size: int = 3,
        names: Sequence[str] = (),
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        proxied: Proxied = Proxied.ALL,
        heard: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self.directory = directory
        self.links: Links = Links()
        self.members: dict[str, MemberProcess] = {}
        self.proxies: dict[str, ChaosProxy] = {}
        self._names = tuple(names) or tuple(f"m{number}" for number in range(1, size + 1))
        self._flags = tuple(flags)
        self._env = dict(env or {})
        self._proxied = proxied
        self._addresses = Addresses(directory / "addresses.json")
        self._heard = heard
        self._stack = AsyncExitStack()
        self._warden: Process | None = None

    def __getitem__(self, name: str) -> MemberProcess:
        return self.members[name]

    # Life.

    async def __aenter__(self) -> Self:
        """Start all members, and return once all serve."""
        try:
            await self.prepare()
            await self.start()
        except BaseException:
            await self._end()
            raise
        return self

    @asynccontextmanager
    async def unstarted(self) -> AsyncGenerator[Self]:
        """Do the same without starting anybody."""
        try:
            await self.prepare()
            yield self
        finally:
            await self._end()

    async def __aexit__(self, *_: object) -> None:
        """Kill what still runs; nothing is left, also when the caller is cancelled meanwhile."""
        await self._end()

    async def _end(self) -> None:
        try:
            await finish(self.kill(), within=STOP_WITHIN_S)
        finally:
            for member in self.members.values():
                member.kill_now()
            await self._stack.aclose()
            if self._warden is not None and self._warden.stdin is not None:
                self._warden.stdin.close()
                await self._warden.wait()

    def _note(self, line: str) -> None:
        """Tell the warden, which is to end what is left should this process be killed."""
        if self._warden is not None and self._warden.stdin is not None:
            self._warden.stdin.write(line.encode() + b"\n")

    async def prepare(self) -> None:
        """Make proxies and members, without starting any of these. For those who start them one by one."""
        self._warden = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", warden.__file__),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        for name in self._names:
            await self.make(name)
        founders = ",".join(f"{member.name}={member.peer_url}" for member in self.members.values())
        for member in self.members.values():
            member.flags = self._flags_for(founders, "new")

    def _flags_for(self, founders: str, state: str) -> tuple[str, ...]:
        return (
            f"--initial-cluster={founders}",
            f"--initial-cluster-state={state}",
            f"--initial-cluster-token={_TOKEN}",
            *self._flags,
        )

    async def make(self, name: str) -> MemberProcess:
        """Make a member, known to nobody yet."""
        ports = self._addresses.get(name)
        client, peer, client_port, peer_port = ports
        stack, links = self._stack, self.links
        if self._proxied is not Proxied.NOTHING:
            self.proxies[name] = await stack.enter_async_context(
                ChaosProxy(name, peer, links, port=peer_port, who=self._name_of)
            )
        if self._proxied is Proxied.ALL:
            await stack.enter_async_context(ChaosProxy(name, client, links, port=client_port))
        member = self.members[name] = MemberProcess(
            name,
            self.directory / name,
            peer_url=_url(peer if self._proxied is Proxied.NOTHING else peer_port),
            client_url=_url(client_port if self._proxied is Proxied.ALL else client),
            listens=(client, peer),
            env=self._env,
            heard=self._heard,
            noted=self._note,
        )
        self.links.join(name)
        return member

    def _name_of(self, urls: tuple[str, ...]) -> str | None:
        return next((m.name for m in self.members.values() if m.peer_url in urls), None)

    async def start(self, *names: str) -> None:
        """Start members, all of them unless some are named, together; return once they serve."""
        chosen = [self.members[name] for name in names or self.members]
        for member in chosen:
            await member.start(wait=False)
        for member in chosen:
            await member.ready()

    async def kill(self, *names: str) -> None:
        """Kill -9 members, all of them unless some are named, as good as at once."""
        chosen = [self.members[name] for name in names or self.members]
        for member in chosen:
            member.kill_now()
        for member in chosen:
            await member.kill()

    async def stop(self, *names: str) -> dict[str, int]:
        """SIGTERM to members, all unless some are named, together; return their exit codes."""
        chosen = [self.members[n] for n in names or self.members if self.members[n].is_running]
        codes: dict[str, int] = {}

        async def stop(member: MemberProcess) -> None:
            codes[member.name] = await member.stop()

        async with asyncio.TaskGroup() as group:
            for member in chosen:
                group.create_task(stop(member))
        return codes

    # What it is.

    @property
    def known_names(self) -> tuple[str, ...]:
        """The members that this directory has had; none if it is new."""
        return self._addresses.names

    @property
    def endpoints(self) -> str:
        """Where clients go, for ``coord.connect`` and ``COORD_ENDPOINTS``."""
        return ",".join(member.endpoint for member in self.members.values())

    @property
    def running(self) -> list[MemberProcess]:
        """The members that have a process."""
        return [member for member in self.members.values() if member.is_running]

    def others(self, *members: MemberProcess) -> list[MemberProcess]:
        """Return the members that were not given."""
        return [member for member in self.members.values() if member not in members]

    async def leader(
        self, *, among: Sequence[MemberProcess] = (), within: float = LEADER_WITHIN_S
    ) -> MemberProcess:
        """Return the one of the running members, or of ``among``, that all of these call their leader."""
        found: MemberProcess | None = None

        async def agreed() -> bool:
            nonlocal found
            asked = list(among) or self.running
            seen = await self._opinions(asked)
            if len(seen) != 1:
                return False
            _, number = seen.pop()
            found = next((m for m in asked if m.is_ready and m.member_id == number), None)
            return found is not None

        await wait_until(agreed, what="the members agree on a leader", within=within)
        if found is None:
            raise MemberFailed("the leader is no member of this cluster")
        return found

    async def _opinions(self, members: Sequence[MemberProcess]) -> set[tuple[int, int]]:
        """Return (term, leader) as the members see it; empty if one has no leader or does not answer."""
        seen: set[tuple[int, int]] = set()
        for member in members:
            try:
                status = await status_of(member.endpoint)
            except RpcError:
                return set()
            if not status.leader:
                return set()
            seen.add((status.raftTerm, status.leader))
        return seen

    async def caught_up(
        self, *members: MemberProcess, within: float = LEADER_WITHIN_S
    ) -> dict[str, rpc_pb2.StatusResponse]:
        """Return the statuses once all running members, or the given ones, have applied the same index."""
        chosen = members or tuple(self.running)
        statuses: dict[str, rpc_pb2.StatusResponse] = {}

        async def equal() -> bool:
            try:
                for member in chosen:
                    statuses[member.name] = await status_of(member.endpoint)
            except RpcError:
                return False
            return len({(s.raftAppliedIndex, s.raftTerm) for s in statuses.values()}) == 1

        await wait_until(equal, what="the members have applied the same", within=within)
        return statuses

    async def hashes(self) -> dict[str, tuple[int, int, int]]:
        """Return (hash, hash revision, compact revision) of each running member that has caught up."""
        await self.caught_up()
        found: dict[str, tuple[int, int, int]] = {}
        for member in self.running:
            answer = await call(
                member.endpoint, methods.MAINTENANCE_HASH_KV, rpc_pb2.HashKVRequest(), timeout=10
            )
            found[member.name] = (answer.hash, answer.hash_revision, answer.compact_revision)
        return found

    # How it is changed.

    async def add(
        self, name: str, *, asked: MemberProcess, learner: bool = False, start: bool = True
    ) -> MemberProcess:
        """Add a member with no data, through ``asked``, and start it unless told otherwise. Raises RpcError."""
        member = await self.make(name)
        request = rpc_pb2.MemberAddRequest(peerURLs=[member.peer_url], isLearner=learner)
        answer = await change(asked.endpoint, methods.CLUSTER_MEMBER_ADD, request)
        named = {m.peer_url: m.name for m in self.members.values()}
        founders = ",".join(
            f"{each.name or named[url]}={url}" for each in answer.members for url in each.peerURLs
        )
        member.flags = self._flags_for(founders, "existing")
        if start:
            await member.start()
        return member

    async def remove(self, member: MemberProcess, *, asked: MemberProcess) -> None:
        """Remove a member for ever, through ``asked``; its process is left alone. Raises RpcError."""
        request = rpc_pb2.MemberRemoveRequest(ID=member.member_id)
        await change(asked.endpoint, methods.CLUSTER_MEMBER_REMOVE, request)

    def forget(self, member: MemberProcess) -> None:
        """Take a member that has ended out of this object."""
        if member.is_running:
            raise MemberFailed(f"{member.name} runs")
        del self.members[member.name]
