"""Three members of either server, as processes that are started, killed and started again, with the same flags."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from coord.rpc import CLIENT_LIMITS, Channel, RpcError
from coord.runtime import TcpAddress, real_env
from coord.testing.chaos.calls import status_of
from coord.testing.chaos.ports import free_ports
from tests.support.memory import rss_bytes
from tests.support.servers import clean_environment, etcd_binary

if TYPE_CHECKING:
    from pathlib import Path

READY_WITHIN_S = 60.0
# How often a member that does not answer is asked again.
ASK_AGAIN_S = 0.005


def commands() -> dict[str, list[str]]:
    """Return how each of the two servers is started."""
    return {
        "coord-server": [sys.executable, "-m", "coord_server"],
        "etcd": [etcd_binary("etcd"), "--logger=zap", "--log-level=error"],
    }


@dataclass(slots=True)
class Node:
    """One member. Its process is None while it is dead."""

    name: str
    client_port: int
    peer_port: int
    command: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def pid(self) -> int:
        """The id of its process."""
        if self.process is None:
            raise SystemExit(f"{self.name} does not run")
        return self.process.pid

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        return rss_bytes(self.pid) / (1 << 20)


class Trio:
    """A cluster of ``size`` members below a directory; leaving the context kills what runs.

    ``scheme`` is that of the clients' URLs.
    """

    def __init__(
        self, command: list[str], directory: Path, *, size: int = 3, scheme: str = "http"
    ) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        ports = free_ports(2 * size)
        self.nodes = [
            Node(f"m{number}", *ports[2 * number : 2 * number + 2]) for number in range(size)
        ]
        founders = ",".join(f"{n.name}=http://127.0.0.1:{n.peer_port}" for n in self.nodes)
        for node in self.nodes:
            client, peer = f"{scheme}://{node.endpoint}", f"http://127.0.0.1:{node.peer_port}"
            node.command = [
                *(*command, f"--name={node.name}", f"--data-dir={directory / node.name}"),
                *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                *(f"--initial-cluster={founders}", "--initial-cluster-token=bench"),
                f"--quota-backend-bytes={8 << 30}",
            ]

    def __enter__(self) -> Self:
        """Start nothing yet: starting is measured."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what runs."""
        self.close()

    def close(self) -> None:
        """Kill what runs."""
        for node in self.nodes:
            self.kill(node)

    def start(self, *nodes: Node) -> None:
        """Start the processes of some members, or of all."""
        for node in nodes or self.nodes:
            with (self._directory / f"{node.name}.log").open("ab") as log:
                node.process = subprocess.Popen(
                    node.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=clean_environment(),
                    start_new_session=True,
                )

    def kill(self, node: Node) -> None:
        """Kill -9 a member, and wait for its end."""
        if node.process is not None:
            node.process.kill()
            node.process.wait()
            node.process = None

    def others(self, *nodes: Node) -> list[Node]:
        """Return the members that were not given."""
        return [node for node in self.nodes if node not in nodes]

    async def leader(self) -> Node:
        """Return the member that calls itself the leader, once there is one."""
        end = time.perf_counter() + READY_WITHIN_S
        while time.perf_counter() < end:
            for node in self.nodes:
                with contextlib.suppress(RpcError, OSError):
                    status = await status_of(node.endpoint)
                    if status.leader == status.header.member_id:
                        return node
        raise SystemExit("no leader")

    async def caught_up(self) -> None:
        """Return once all members have applied the same index."""
        end = time.perf_counter() + 600
        while time.perf_counter() < end:
            with contextlib.suppress(RpcError, OSError):
                seen = [await status_of(node.endpoint) for node in self.nodes]
                if len({s.raftAppliedIndex for s in seen}) == 1:
                    return
        raise SystemExit("the members have not caught up within 600 s")


async def dial(node: Node, *, timeout: float = 5.0) -> Channel:
    """Connect to a member."""
    channel = Channel(
        TcpAddress("127.0.0.1", node.client_port),
        env=real_env(),
        authority=node.endpoint,
        limits=CLIENT_LIMITS,
    )
    await channel.connect(timeout=timeout)
    return channel
