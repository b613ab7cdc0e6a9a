"""The seams as protocols: what a program may ask of the world (``spec``: Clock, Net, Rand, Offload)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from typing_extensions import override

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP end point. ``port`` 0 asks for a free one when listening."""

    host: str
    port: int

    @override
    def __str__(self) -> str:
        """Return ``host:port``, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix domain socket, by its path."""

    path: str

    @override
    def __str__(self) -> str:
        """Return ``unix:path``."""
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


class Clock(Protocol):
    """Two clocks. Deadlines, leases and timeouts use ``mono`` only."""

    def mono(self) -> float:
        """Return monotonic seconds that keep counting while the machine is suspended, where the platform can."""
        ...

    def wall(self) -> float:
        """Return seconds since the Unix epoch. For logs, tokens and certificates; it may jump."""
        ...


class Rand(Protocol):
    """Randomness that a simulator can replay."""

    def bits(self, n: int) -> int:
        """Return an integer of ``n`` random bits, fit for identifiers."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """Return a float in ``[low, high]``, for jitter."""
        ...

    def token_bytes(self, n: int) -> bytes:
        """Return ``n`` random bytes, fit for secrets."""
        ...


class Listener(Protocol):
    """An open listening socket."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it really listens, with the ports that were chosen for 0."""
        ...

    def close(self) -> None:
        """Stop accepting. Connections that exist stay."""
        ...

    async def wait_closed(self) -> None:
        """Wait until the socket is released, and the protocols of what it accepted know of it."""
        ...


class Net(Protocol):
    """Streams between programs."""

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Open a connection. Raises ``OSError``; a cancelled call leaves no socket."""
        ...

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Accept connections at ``address``. Raises ``OSError``."""
        ...


class Offload(Protocol):
    """Somewhere else to run blocking or long work."""

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """Run ``fn(*args)`` off the loop and return its result. A cancelled call does not stop ``fn``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """The seams together; the only thing that a component needs to be handed to live anywhere."""

    clock: Clock
    net: Net
    rand: Rand
    offload: Offload
