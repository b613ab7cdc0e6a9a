"""A cluster of real processes, its members named by number, name or role."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.testing.chaos import Cluster as Members
from coord.testing.chaos import MemberProcess, Proxied
from coord.testing.local.server import AsyncServer, Server
from coord.testing.local.stage import Opening, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
    from pathlib import Path

LEADER_WITHIN_S = 30.0

Who = int | str
"""A member: its number from 0, its name (``m1``, ``m2``, ...), or ``leader`` or ``follower``, as of the call."""


def cluster(
    members: int = 3,
    *,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Opening[Cluster, AsyncCluster]:
    """Run a cluster of ``members`` processes on 127.0.0.1 for as long as the block runs.

        with coord.testing.cluster(3) as cluster, coord.sync.connect(cluster.endpoints) as client:
            cluster.kill("leader")

    Everything between the members, and between them and their clients, passes proxies in this process.
    ``args``, ``env`` and ``directory`` are as for :func:`coord.testing.server`.
    Raises :class:`coord.testing.MemberFailed` when a member does not start.
    """
    if members < 1:
        raise ValueError(f"a cluster has one member or more, not {members}")

    @contextlib.asynccontextmanager
    async def run(stage: Stage, where: Path) -> AsyncGenerator[Cluster]:
        async with Members(
            where, size=members, flags=args, env=env, proxied=Proxied.ALL
        ) as running:
            yield Cluster(stage, running)

    return Opening(run, lambda face: face.aio, directory)


class _State:
    """The members, and what was done to them; on the stage."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self._paused: dict[MemberProcess, None] = {}
        self._cut_off: dict[str, None] = {}

    def _names(self) -> list[str]:
        return list(self.members.members)

    def _useful(self) -> list[MemberProcess]:
        """Return the members that can agree: those that run, and are not on the smaller side of a partition."""
        return [
            member
            for member in self.members.running
            if member not in self._paused and member.name not in self._cut_off
        ]

    async def leader(self, within: float = LEADER_WITHIN_S) -> MemberProcess:
        return await self.members.leader(among=self._useful(), within=within)

    async def find(self, who: Who) -> MemberProcess:
        names = self._names()
        match who:
            case int():
                if not 0 <= who < len(names):
                    raise LookupError(f"no member {who}: they are 0 to {len(names) - 1}")
                return self.members[names[who]]
            case "leader":
                return await self.leader()
            case "follower":
                leader = await self.leader()
                others = [member for member in self._useful() if member is not leader]
                if not others:
                    raise LookupError("no follower runs")
                return others[0]
            case _ if who in names:
                return self.members[who]
            case _:
                raise LookupError(f"no member {who!r}: take leader, follower or {', '.join(names)}")

    async def kill(self, who: Who) -> MemberProcess:
        member = await self.find(who)
        await member.kill()
        self._paused.pop(member, None)
        return member

    async def stop(self, who: Who) -> MemberProcess:
        member = await self.find(who)
        if member.is_running:
            member.resume()  # a paused process hears nothing
            await member.stop()
        self._paused.pop(member, None)
        return member

    async def start(self, who: Who) -> MemberProcess:
        member = await self.find(who)
        await member.start()
        return member

    async def restart(self, who: Who) -> MemberProcess:
        member = await self.stop(who)
        await member.start()
        return member

    async def pause(self, who: Who) -> MemberProcess:
        member = await self.find(who)
        member.pause()
        self._paused[member] = None
        return member

    async def resume(self, who: Who) -> MemberProcess:
        member = await self.find(who)
        member.resume()
        self._paused.pop(member, None)
        return member

    async def partition(self, sides: Iterable[Iterable[Who]]) -> None:
        groups = [[(await self.find(who)).name for who in side] for side in sides]
        self.members.links.partition(*groups)
        named = {name for group in groups for name in group}
        groups.append([name for name in self._names() if name not in named])
        large = {name for group in groups if 2 * len(group) > len(self._names()) for name in group}
        self._cut_off = {name: None for name in self._names() if name not in large}

    async def isolate(self, who: Who) -> MemberProcess:
        member = await self.find(who)
        await self.partition([[member.name]])
        self.members.links.isolate_clients(member.name)
        return member

    async def heal(self) -> None:
        self.members.links.heal()
        self._cut_off.clear()


class Cluster:
    """Member processes. Every method returns when it is done, and blocks until then; :attr:`aio` awaits.

    ``who`` is a number from 0, a name (``m1``, ``m2``, ...), ``"leader"`` or ``"follower"``; methods return the member
    that was meant. Raises LookupError for one that there is not, and
    :class:`coord.testing.WaitedTooLong` when a role is asked for and the members agree on no leader.
    """

    def __init__(self, stage: Stage, members: Members) -> None:
        self._stage = stage
        self._state = _State(members)
        self._faces = {member: Server(stage, member) for member in members.members.values()}
        self.aio: AsyncCluster = AsyncCluster(stage, self._state, self._faces)
        """The same, to await."""

    @override
    def __repr__(self) -> str:
        return f"<coord.testing.Cluster at {self.endpoints}>"

    @property
    def endpoints(self) -> str:
        """Where clients connect: all members, for :func:`coord.connect` and ``COORD_ENDPOINTS``."""
        return self._state.members.endpoints

    @property
    def members(self) -> tuple[Server, ...]:
        """The members in the order of their numbers."""
        return tuple(self._faces.values())

    def __getitem__(self, who: Who) -> Server:
        """Return a member."""
        return self._faces[self._stage.call(self._state.find(who))]

    def wait_for_leader(self, timeout: float = LEADER_WITHIN_S) -> Server:
        """Return the leader once the members that can agree do so. Raises WaitedTooLong."""
        return self._faces[self._stage.call(self._state.leader(timeout))]

    def kill(self, who: Who) -> Server:
        """SIGKILL a member."""
        return self._faces[self._stage.call(self._state.kill(who))]

    def stop(self, who: Who) -> Server:
        """SIGTERM a member: it ends in order."""
        return self._faces[self._stage.call(self._state.stop(who))]

    def start(self, who: Who) -> Server:
        """Start a member that has ended, on its data; return once it serves."""
        return self._faces[self._stage.call(self._state.start(who))]

    def restart(self, who: Who) -> Server:
        """Stop a member if it runs, and start it; return once it serves."""
        return self._faces[self._stage.call(self._state.restart(who))]

    def pause(self, who: Who) -> Server:
        """SIGSTOP a member."""
        return self._faces[self._stage.call(self._state.pause(who))]

    def resume(self, who: Who) -> Server:
        """SIGCONT a member."""
        return self._faces[self._stage.call(self._state.resume(who))]

    def partition(self, *sides: Sequence[Who]) -> None:
        """Let members reach only those of their own side; those that are named nowhere are one more side.

        Clients reach everybody still. What was sent arrives after :meth:`heal`, unless an end has given up.
        """
        self._stage.call(self._state.partition(sides))

    def isolate(self, who: Who) -> Server:
        """Cut a member off from all others and from clients."""
        return self._faces[self._stage.call(self._state.isolate(who))]

    def heal(self) -> None:
        """End every partition."""
        self._stage.call(self._state.heal())


class AsyncCluster:
    """The face of a :class:`Cluster` for coroutines, of any loop: the loop goes on while a method waits."""

    def __init__(self, stage: Stage, state: _State, faces: Mapping[MemberProcess, Server]) -> None:
        self._stage = stage
        self._state = state
        self._faces = faces

    @override
    def __repr__(self) -> str:
        return f"<coord.testing.AsyncCluster at {self.endpoints}>"

    @property
    def endpoints(self) -> str:
        """See :class:`Cluster`."""
        return self._state.members.endpoints

    @property
    def members(self) -> tuple[AsyncServer, ...]:
        """See :class:`Cluster`."""
        return tuple(face.aio for face in self._faces.values())

    async def member(self, who: Who) -> AsyncServer:
        """Return a member."""
        return self._faces[await self._stage.run(self._state.find(who))].aio

    async def wait_for_leader(self, timeout: float = LEADER_WITHIN_S) -> AsyncServer:
        """See :class:`Cluster`."""
        return self._faces[await self._stage.run(self._state.leader(timeout))].aio

    async def kill(self, who: Who) -> AsyncServer:
        """See :class:`Cluster`."""
        return self._faces[await self._stage.run(self._state.kill(who))].aio

    async def stop(self, who: Who) -> AsyncServer:
        """See :class:`Cluster`."""
        return self._faces[await self._stage.run(self._state.stop(who))].aio

    async def start(self, who: Who) -> AsyncServer:
        """See :class:`Cluster`."""
        return self._faces[await self._stage.run(self._state.start(who))].aio

    async def restart(self, who: Who) -> AsyncServer:
        """See :class:`Cluster`."""
        return self._faces[await self._stage.run(self._state.restart(who))].aio

    async def pause(self, who: Who) -> AsyncServer:
        """See :class:`Cluster`."""
        return self._faces[await self._stage.run(self._state.pause(who))].aio

    async def resume(self, who: Who) -> AsyncServer:
        """See :class:`Cluster`."""
        return self._faces[await self._stage.run(self._state.resume(who))].aio

    async def partition(self, *sides: Sequence[Who]) -> None:
        """See :class:`Cluster`."""
        await self._stage.run(self._state.partition(sides))

    async def isolate(self, who: Who) -> AsyncServer:
        """See :class:`Cluster`."""
        return self._faces[await self._stage.run(self._state.isolate(who))].aio

    async def heal(self) -> None:
        """See :class:`Cluster`."""
        await self._stage.run(self._state.heal())
