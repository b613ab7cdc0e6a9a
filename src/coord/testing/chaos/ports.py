"""Ports for members that come back at the same address."""

from __future__ import annotations

import atexit
import json
import random
import socket
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

# Below where kernels take the ports of outgoing connections from (32768 on Linux, 49152 elsewhere): a port of
# a member that is down for a while must not become somebody's end of another connection.
_LOWEST, _HIGHEST = 12_000, 32_000
_BLOCK = 50
_TRIES = 1_000


class _Reserve:
    """Ports that no other process that draws here will draw, as long as this one runs.

    A port is free when it is drawn, and its member binds it later, and again after each crash. So processes
    draw from blocks of their own: who listens on a block's first port has the block.
    """

    def __init__(self) -> None:
        self._guards: list[socket.socket] = []
        self._blocks: list[int] = []
        self._left: list[int] = []

    def draw(self) -> int:
        """Return a port on which nobody listens now. Raises OSError if there is none."""
        for _ in range(_TRIES):
            if not self._left:
                self._take_block()
            port = self._left.pop()
            if _is_free(port):
                return port
        raise OSError("no free ports on the loopback")

    def _take_block(self) -> None:
        draw = random.SystemRandom()
        for _ in range(_TRIES):
            first = draw.randrange(_LOWEST, _HIGHEST, _BLOCK)
            guard = socket.socket()
            try:
                guard.bind(("127.0.0.1", first))
                guard.listen()
            except OSError:
                guard.close()
                continue
            self._guards.append(guard)
            atexit.register(guard.close)
            self._blocks.append(first)
            break
        else:
            if not self._blocks:
                raise OSError("no free ports on the loopback")
            # All are somebody's: begin with ours again.
            first = draw.choice(self._blocks)
        self._left = list(range(first + 1, first + _BLOCK))


_reserve = _Reserve()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return different loopback ports on which nobody listens now. Raises OSError if there are too few."""
    return [_reserve.draw() for _ in range(count)]


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
