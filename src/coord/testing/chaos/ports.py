"""Ports for members that come back at the same address."""

from __future__ import annotations

import json
import random
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

# Below where kernels take the ports of outgoing connections from (32768 on Linux, 49152 elsewhere): a port of
# a member that is down for a while must not become somebody's end of another connection.
_LOWEST, _HIGHEST = 12_000, 32_000
_TRIES = 1_000


def free_ports(count: int) -> list[int]:
    """Return different loopback ports on which nobody listens now. Raises OSError if there are too few."""
    draw = random.SystemRandom()
    ports: list[int] = []
    with ExitStack() as held:
        for _ in range(_TRIES):
            if len(ports) == count:
                return ports
            port = draw.randrange(_LOWEST, _HIGHEST)
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    raise OSError(f"no {count} free ports on the loopback")


class Ports(NamedTuple):
    """Where a member listens, and where proxies listen for it."""

    client: int
    peer: int
    client_proxy: int
    peer_proxy: int


class Addresses:
    """The ports of a cluster's members, kept in a file: members are known to each other by them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Ports] = {}
        if path.exists():
            known: dict[str, list[int]] = json.loads(path.read_text())
            self._known = {name: Ports(*ports) for name, ports in known.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The members that were ever made."""
        return tuple(self._known)

    def get(self, name: str) -> Ports:
        """Return a member's ports, drawn when it is new."""
        if name not in self._known:
            self._known[name] = Ports(*free_ports(4))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._known))
        return self._known[name]
