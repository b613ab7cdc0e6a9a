"""The process of ``coord cluster start``: owns the members and does to them what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from coord.cli.local_cluster.control import Answer, ControlSocket, make_private, socket_path
from coord.cli.local_cluster.screen import Screen
from coord.cli.options import CommandFailed
from coord.rpc.status import RpcError
from coord.testing.chaos import Cluster, MemberFailed, Proxied, WaitedTooLong, status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord.cli.local_cluster.control import Order
    from coord.testing.chaos import MemberProcess

_LOOK_S = 0.2
_STATUS_S = 1.0


def keep(size: int, data_dir: str | None, flags: Sequence[str]) -> int:
    """Run a cluster until it is told to end. Raises CommandFailed."""
    path = socket_path(data_dir)
    with contextlib.ExitStack() as stack:
        if data_dir is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="coord-cluster-"))
        else:
            directory = data_dir
        make_private(path.parent)
        place = Path(directory).resolve()
        return asyncio.run(_run(size, place, path, flags))


async def _run(size: int, directory: Path, socket: Path, flags: Sequence[str]) -> int:
    return await Keeper(size, directory, socket, flags).run()


class Keeper:
    """One cluster, from its start to its end."""

    def __init__(self, size: int, directory: Path, socket: Path, flags: Sequence[str]) -> None:
        names = tuple(f"m{number}" for number in range(1, size + 1))
        self._names = names
        self._screen = Screen(names)
        self._cluster = Cluster(
            directory,
            names=names,
            flags=flags,
            # Clients come and go at full speed; only what passes between members is to be cut.
            proxied=Proxied.PEERS,
            heard=self._screen.log,
        )
        known = self._cluster.known_names
        if known and known != names:
            raise CommandFailed(
                f"{directory} holds a cluster of {len(known)} members: {', '.join(known)}"
            )
        self._control = ControlSocket(socket, self._obey)
        self._stop = asyncio.Event()
        self._paused: set[str] = set()
        self._expected: set[str] = set()
        self._cut = ""

    async def run(self) -> int:
        """Start everything, wait, end everything."""
        loop = asyncio.get_running_loop()
        await self._control.open()
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._stop.set)
            await self._live()
        finally:
            await self._control.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        return 0

    async def _live(self) -> None:
        cluster, screen = self._cluster, self._screen
        async with cluster.unstarted():
            for member in cluster.members.values():
                screen.tell(member.name, f"peers {member.peer_url}  clients {member.client_url}")
            screen.say(f"export COORD_ENDPOINTS={cluster.endpoints}")
            for member in cluster.members.values():
                await member.start(wait=False)
            ready = False
            while not self._stop.is_set():
                self._look()
                if not ready and all(member.is_ready for member in cluster.members.values()):
                    ready = True
                    screen.say("ready")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._stop.wait()
            screen.say("stopping")
            for name in sorted(self._paused):
                self._cluster[name].resume()
            for name, code in sorted((await cluster.stop()).items()):
                screen.tell(name, f"ended with {code}")

    def _look(self) -> None:
        """Tell of members that have ended although nobody asked them to."""
        for member in self._cluster.members.values():
            if member.is_running:
                self._expected.discard(member.name)
            elif member.name not in self._expected:
                self._expected.add(member.name)
                self._paused.discard(member.name)
                self._screen.tell(member.name, f"ended with {member.exit_code}")

    # Orders.

    async def _obey(self, order: Order) -> Answer:
        unknown = [name for name in order.names if name not in self._names]
        if unknown:
            return Answer(error=f"no member {unknown[0]!r}: there is {', '.join(self._names)}")
        try:
            match order.verb:
                case "status":
                    return await self._status()
                case "partition":
                    return self._partition(order.sides)
                case "heal":
                    self._cluster.links.heal()
                    self._cut = ""
                    return self._done("all members reach each other")
                case "stop":
                    self._stop.set()
                    return Answer(lines=["stopping"])
                case _:
                    for name in order.names:
                        await self._do(order.verb, self._cluster[name])
                    return Answer(lines=[f"{name}: {order.verb}" for name in order.names])
        except (MemberFailed, WaitedTooLong, ValueError) as error:
            return Answer(error=str(error).splitlines()[0])

    def _done(self, text: str) -> Answer:
        self._screen.say(text)
        return Answer(lines=[text])

    async def _do(self, verb: str, member: MemberProcess) -> None:
        name = member.name
        self._screen.tell(name, verb)
        match verb:
            case "kill":
                _ = member.pid  # refuses one that does not run
                self._expected.add(name)
                self._paused.discard(name)
                await member.kill()
            case "pause":
                member.pause()
                self._paused.add(name)
            case "resume":
                member.resume()
                self._paused.discard(name)
            case "restart":
                if name in self._paused:
                    member.resume()
                    self._paused.discard(name)
                self._expected.add(name)
                if member.is_running:
                    await member.stop()
                await member.start(wait=False)
            case _:
                raise ValueError(f"no such order: {verb}")

    def _partition(self, sides: tuple[tuple[str, ...], ...]) -> Answer:
        self._cluster.links.heal()
        self._cluster.links.partition(*sides)
        named = [name for side in sides for name in side]
        rest = tuple(name for name in self._names if name not in named)
        self._cut = " / ".join(",".join(side) for side in (*sides, rest) if side)
        return self._done(f"partition: {self._cut}")

    async def _status(self) -> Answer:
        values = [await self._state_of(member) for member in self._cluster.members.values()]
        width = max(len(str(value["state"])) for value in values)
        lines = [_row(value, width) for value in values]
        if self._cut:
            lines.append(f"partition: {self._cut}")
        return Answer(lines=lines, values=values)

    async def _state_of(self, member: MemberProcess) -> dict[str, object]:
        value: dict[str, object] = {
            "name": member.name,
            "state": "stopped",
            "peerURL": member.peer_url,
            "clientURL": member.client_url,
        }
        if not member.is_running:
            return value
        value |= {"pid": member.pid, "state": "starting"}
        if member.name in self._paused:
            value["state"] = "paused"
        elif member.is_ready:
            try:
                status = await status_of(member.endpoint, timeout=_STATUS_S)
            except RpcError:
                value["state"] = "silent"
            else:
                role = "leader" if status.leader == status.header.member_id else "follower"
                value["state"] = role if status.leader else "no leader"
                value |= {"ID": f"{status.header.member_id:x}", "term": status.raftTerm}
                value |= {"applied": status.raftAppliedIndex, "revision": status.header.revision}
        return value


def _row(value: dict[str, object], width: int) -> str:
    state = str(value["state"])
    parts = [f"{value['name']}  {state:<{width}}  {value['clientURL']}"]
    parts += [f"{key} {value[key]}" for key in ("pid", "term", "applied") if key in value]
    return "  ".join(parts)
