"""Members that only talk: a mesh, its listener, and a handler that notes what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from coord.rpc import MemoryNet, Registry, RpcServer
from coord.runtime import Net, RealNet, RealOffload, TcpAddress
from coord_server.env import ServerEnv, real_server_env
from coord_server.log import Log
from coord_server.peer import Mesh, MeshLimits, draw_incarnation, server_limits
from coord_server.peer.mesh import Standing, refuse_unknown
from coord_server.raft import Heartbeat, Index, InstallSnapshot, Message, NodeId, Term
from coord_server.storage.disk import Disk
from coord_server.storage.memory_disk import MemoryDisk

PATIENCE_S = 20.0
CLUSTER = 0xC1
SCRATCH = "/data/member"
N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
QUICK = MeshLimits(retry_min_s=0.01, retry_max_s=0.05)
Urls = Mapping[NodeId, Sequence[str]]


def beat(sender: NodeId, to: NodeId, number: int) -> Heartbeat:
    """A message that is told from others by its number."""
    return Heartbeat(sender=sender, to=to, term=Term(1), commit=Index(0), read_round=number)


class Heard:
    """A handler that keeps everything, and lets tests wait for it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.batches: list[int] = []
        self.lost: list[tuple[NodeId, bool]] = []
        self.unreached: list[NodeId] = []
        self.forwards: list[tuple[NodeId, int, int, bytes]] = []
        self.refusals: list[tuple[int, int, str]] = []
        self.snapshots: list[tuple[InstallSnapshot, str]] = []
        self.outcomes: list[tuple[NodeId, bool]] = []
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def received(self, messages: Sequence[Message]) -> None:
        self.messages.extend(messages)
        self.batches.append(len(messages))
        self._news.set()

    def connection_lost(self, node: NodeId, *, was_reset: bool) -> None:
        self.lost.append((node, was_reset))
        self._news.set()

    def unreachable(self, node: NodeId) -> None:
        self.unreached.append(node)
        self._news.set()

    def forwarded(self, node: NodeId, incarnation: int, seq: int, data: bytes) -> None:
        self.forwards.append((node, incarnation, seq, data))
        self._news.set()

    def refused(self, seq: int, code: int, text: str) -> None:
        self.refusals.append((seq, code, text))
        self._news.set()

    def snapshot_received(self, message: InstallSnapshot, path: str) -> None:
        self.snapshots.append((message, path))
        self._news.set()

    def snapshot_done(self, node: NodeId, *, ok: bool) -> None:
        self.outcomes.append((node, ok))
        self._news.set()

    def log(self, line: str) -> None:
        self.lines.append(line)
        self._news.set()

    def numbers(self) -> list[int]:
        return [message.read_round for message in self.messages if isinstance(message, Heartbeat)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something heard has made the condition true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_logged(self, *words: str) -> None:
        await self.until(lambda: any(all(w in line for w in words) for line in self.lines))

    def count_logged(self, *words: str) -> int:
        return sum(all(word in line for word in words) for line in self.lines)


class Member:
    """One life of a member. ``listen`` before ``url`` is known."""

    def __init__(
        self,
        node: NodeId,
        *,
        net: Net,
        cluster_id: int = CLUSTER,
        limits: MeshLimits = QUICK,
        tls: ssl.SSLContext | None = None,
        incarnation: int | None = None,
        disk: Disk | None = None,
        standing: Callable[[NodeId], Standing] = refuse_unknown,
        urls: tuple[str, ...] = (),
        scratch: str | None = SCRATCH,
    ) -> None:
        real = real_server_env()
        self.node = node
        self.heard = Heard()
        self._offload = RealOffload()
        self.env = ServerEnv(
            clock=real.clock,
            net=net,
            rand=real.rand,
            offload=self._offload,
            disk=disk or MemoryDisk(record_unsynced=False),
        )
        if scratch is not None:
            self.env.disk.mkdir(scratch)
        self.mesh_log = Log(clock=self.env.clock, write=self.heard.log)
        self.removed: set[NodeId] = set()
        """Whom its table of members knows as removed."""
        self.was_told_removed = False
        self.incarnation = draw_incarnation(self.env.rand) if incarnation is None else incarnation
        self.mesh = Mesh(
            cluster_id=cluster_id,
            member_id=node,
            incarnation=self.incarnation,
            env=self.env,
            handler=self.heard,
            log=self.mesh_log,
            urls=urls,
            tls=tls,
            limits=limits,
            standing=lambda n: Standing.REMOVED if n in self.removed else standing(n),
            on_removed=self._told_removed,
            scratch=scratch,
        )
        self.rpc: RpcServer | None = None
        self.address: TcpAddress | None = None
        self.scheme = "http"
        self.errors: list[BaseException] = []

    def _told_removed(self) -> None:
        self.was_told_removed = True

    @property
    def url(self) -> str:
        assert self.address is not None
        return f"{self.scheme}://127.0.0.1:{self.address.port}"

    async def listen(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.rpc = RpcServer(
            Registry(self.mesh.methods()),
            env=self.env,
            limits=server_limits(self.mesh.limits),
            on_error=lambda _what, error: self.errors.append(error),
        )
        address = await self.rpc.listen(TcpAddress("127.0.0.1", port), tls=tls)
        assert isinstance(address, TcpAddress)
        self.address = address
        self.scheme = "http" if tls is None else "https"

    async def connected(self, *nodes: NodeId) -> None:
        """Wait until messages to all of these members pass."""
        await self.heard.until(
            lambda: all(self.mesh.active_since(node) is not None for node in nodes)
        )

    async def called_by(self, *nodes: NodeId) -> None:
        """Wait until messages from all of these members pass."""
        await self.heard.until(lambda: all(map(self.mesh.has_stream_from, nodes)))

    async def stop(self) -> None:
        """An orderly end."""
        await self.mesh.close()
        await self.kill()

    async def kill(self) -> None:
        """What the others see of a killed process: connections that end, and nothing before."""
        if self.rpc is not None:
            rpc, self.rpc = self.rpc, None
            await rpc.close()
        await self.mesh.close()
        self._offload.close()
        assert self.errors == []


def introduce(*members: Member) -> dict[NodeId, list[str]]:
    """Tell all members of each other; return their URLs."""
    urls = {member.node: [member.url] for member in members}
    for member in members:
        member.mesh.set_peers(urls)
    return urls


@contextlib.asynccontextmanager
async def cluster(
    *nodes: NodeId, net: Net | None = None, limits: MeshLimits = QUICK
) -> AsyncGenerator[list[Member]]:
    """Members that know each other and are connected both ways."""
    net = net or MemoryNet()
    members = [Member(node, net=net, limits=limits) for node in nodes]
    try:
        for member in members:
            await member.listen()
        introduce(*members)
        for member in members:
            others = [node for node in nodes if node != member.node]
            await member.connected(*others)
            await member.called_by(*others)
        yield members
    finally:
        for member in members:
            await member.stop()


NETS: dict[str, Callable[[], Net]] = {"memory": MemoryNet, "sockets": RealNet}
