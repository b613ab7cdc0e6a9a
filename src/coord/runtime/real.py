"""The real seams: this machine's clocks, sockets, entropy and threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import random
import secrets
import socket
import time
from functools import cache
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias, TypeVar

from coord.runtime.seams import Address, Env, TcpAddress, UnixAddress

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

T = TypeVar("T")


class RealClock:
    """The machine's clocks; ``mono`` counts through suspend on Linux (``CLOCK_BOOTTIME``)."""

    def __init__(self) -> None:
        self._id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def mono(self) -> float:
        """See :meth:`coord.runtime.Clock.mono`."""
        return time.clock_gettime(self._id)

    def wall(self) -> float:
        """See :meth:`coord.runtime.Clock.wall`."""
        return time.time()


class RealRand:
    """Entropy of the operating system; jitter from a generator seeded by it."""

    def __init__(self) -> None:
        self._jitter = random.Random(secrets.randbits(64))  # noqa: S311 - spreads timers, guards no secret

    def bits(self, n: int) -> int:
        """See :meth:`coord.runtime.Rand.bits`."""
        return secrets.randbits(n)

    def uniform(self, low: float, high: float) -> float:
        """See :meth:`coord.runtime.Rand.uniform`."""
        return self._jitter.uniform(low, high)

    def token_bytes(self, n: int) -> bytes:
        """See :meth:`coord.runtime.Rand.token_bytes`."""
        return secrets.token_bytes(n)


# Until a connection that was just accepted has told its protocol: its transport is made, then it is connected.
_TURNS_TO_CONNECT: Final = 3


class _RealListener:
    def __init__(self, server: asyncio.Server, addresses: tuple[Address, ...]) -> None:
        self._server = server
        self._addresses = addresses

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._addresses

    def close(self) -> None:
        # Nothing is accepted from here on, but what has been accepted gets its transport in the next turn, and
        # asyncio leaves its socket open for good if the server is closed by then.
        loop = self._server.get_loop()
        for listening in self._server.sockets:
            loop.remove_reader(listening.fileno())
        loop.call_soon(self._server.close)

    async def wait_closed(self) -> None:
        # The server's own would, from 3.12 on, wait for the connections, too, which their owner closes.
        for _ in range(_TURNS_TO_CONNECT):
            await asyncio.sleep(0)


def _bound(server: asyncio.Server) -> tuple[Address, ...]:
    names: Sequence[tuple[object, ...]] = [s.getsockname() for s in server.sockets]
    return tuple(TcpAddress(str(n[0]), int(str(n[1]))) for n in names)


class RealNet:
    """Sockets of the running loop."""

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """See :meth:`coord.runtime.Net.connect`."""
        loop = asyncio.get_running_loop()
        if isinstance(address, UnixAddress):
            return await loop.create_unix_connection(
                factory,
                address.path,
                ssl=tls,
                server_hostname=(server_name or "localhost") if tls else None,
            )
        return await loop.create_connection(
            factory,
            address.host,
            address.port,
            ssl=tls,
            server_hostname=(server_name or address.host) if tls else None,
        )

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> _RealListener:
        """See :meth:`coord.runtime.Net.listen`."""
        loop = asyncio.get_running_loop()
        if isinstance(address, UnixAddress):
            unix = await loop.create_unix_server(factory, address.path, ssl=tls, backlog=1024)
            return _RealListener(unix, (address,))
        server = await loop.create_server(
            factory, address.host or None, address.port, ssl=tls, backlog=1024
        )
        return _RealListener(server, _bound(server))


class RealOffload:
    """A small pool of threads, started on first use."""

    def __init__(self, workers: int = 4) -> None:
        self._workers = workers
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """See :meth:`coord.runtime.Offload.run`."""
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(
                self._workers, thread_name_prefix="coord-offload"
            )
        return await asyncio.get_running_loop().run_in_executor(self._pool, fn, *args)

    def close(self) -> None:
        """Let the threads end when their work is done."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


def real_env() -> Env:
    """Return the seams of this machine."""
    return Env(clock=RealClock(), net=RealNet(), rand=RealRand(), offload=RealOffload())


def process_identity() -> tuple[str, int]:
    """Return this host's name and the process id, for people who inspect locks; nothing decides by them."""
    return _host(), os.getpid()


@cache
def _host() -> str:
    return socket.gethostname()


def end_process(code: int, text: str) -> NoReturn:
    """End this process at once, whatever its threads do, with ``text`` as its last line on stderr."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))
    os._exit(code)


FileStamp: TypeAlias = tuple[int, int, int, int, int]
"""What of a file changes when it is written or replaced."""


def file_stamps(paths: Sequence[str]) -> tuple[FileStamp | None, ...]:
    """Return the stamp of each file, None for one that cannot be found."""
    return tuple([_file_stamp(path) for path in paths])


def _file_stamp(path: str) -> FileStamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_bytes(path: str) -> bytes:
    """Return what is in a small file, such as a certificate. Raises ``OSError``."""
    with open(path, "rb") as file:
        return file.read()
