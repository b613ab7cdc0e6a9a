"""Clusters of several server processes, of ours or of etcd, by the same flags."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers import (
    ServerProcess,
    _launch,
    coord_server_command,
    end,
    etcd_binary,
    free_port,
    get,
    wait_until,
)


@dataclass(slots=True)
class Group:
    """The members by name; ``peers`` has where each is reached by the others."""

    store: str
    directory: Path
    version: str
    members: dict[str, ServerProcess] = field(default_factory=dict[str, ServerProcess])
    peers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def endpoints(self) -> list[str]:
        """``host:port`` of each."""
        return [member.endpoint for member in self.members.values()]

    def launch(self, name: str, *, joins: bool = False, advertise: str | None = None) -> None:
        """Start a member, without waiting for it. ``advertise`` is a client URL to tell instead of the real one."""
        client = f"http://127.0.0.1:{free_port()}"
        words = (
            [etcd_binary("etcd", self.version), "--logger=zap"]
            if self.store == "etcd"
            else coord_server_command()
        )
        data = self.directory / name
        founders = ",".join(f"{each}={url}" for each, url in self.peers.items())
        command = [
            *words,
            f"--name={name}",
            f"--data-dir={data}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={advertise or client}",
            f"--listen-peer-urls={self.peers[name]}",
            f"--initial-advertise-peer-urls={self.peers[name]}",
            f"--initial-cluster={founders}",
            f"--initial-cluster-state={'existing' if joins else 'new'}",
        ]
        server = _launch(command, self.directory / f"{name}.log", data, None)
        server.urls = (client,)
        self.members[name] = server

    def wait(self, name: str) -> None:
        """Return once a member is healthy."""
        server = self.members[name]

        def is_healthy() -> bool:
            try:
                return get(server.url, "/health")[0] == 200
            except OSError:
                return False

        wait_until(server, is_healthy)


@contextlib.contextmanager
def group(
    directory: Path,
    store: str,
    *,
    size: int = 3,
    version: str = "3.5.1",
    advertise: str | None = None,
) -> Generator[Group]:
    """Run ``size`` members m1, m2, ... until the context is left; yields them once all are healthy."""
    made = Group(store, directory, version)
    made.peers = {f"m{n}": f"http://127.0.0.1:{free_port()}" for n in range(1, size + 1)}
    try:
        for name in made.peers:
            made.launch(name, advertise=advertise)
        for name in made.peers:
            made.wait(name)
        yield made
    finally:
        for server in made.members.values():
            end(server)
