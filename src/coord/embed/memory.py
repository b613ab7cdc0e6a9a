"""Servers inside this process: ``memory:`` on a network of its own, :func:`start` on a real loopback port."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coord.errors import Unavailable
from coord.rpc.memory import MemoryNet
from coord.runtime import finish, real_env
from coord.target import Endpoint, Opened

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coord.runtime import Env, Net
    from coord_server.server import Server

# A server drains for 5 s at most; the rest is for the disk.
_STOP_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A server of :func:`start`: what to give to ``connect()``."""

    endpoints: tuple[str, ...]


async def open_memory(env: Env) -> Opened:
    """Start a private server on the running loop; its data ends with it."""
    net = MemoryNet()
    server = await _start(net, replace(env, net=net), None)
    return Opened(
        endpoints=tuple(
            [Endpoint(address=a, tls=False, text="memory:") for a in server.client_addresses]
        ),
        net=net,
        close=server.stop,
    )


@contextlib.asynccontextmanager
async def start(
    data_dir: str | None = None, *, env: Env | None = None
) -> AsyncGenerator[EmbeddedServer]:
    """Run a server on the running loop for as long as the block runs, at a free port of 127.0.0.1.

        async with coord.embed.start() as server, coord.connect(server.endpoints) as client: ...

    It keeps its data in ``data_dir``, or in memory without one.
    A blocked loop blocks the server: clients with a thread of their own wait for it then.
    Raises :class:`Unavailable` when it cannot start. Leaving the block waits until everything is on disk, also
    when the caller is cancelled.
    """
    env = env if env is not None else real_env()
    server = await _start(env.net, env, data_dir)
    try:
        yield EmbeddedServer(endpoints=server.client_urls)
    finally:
        await finish(server.stop(), within=_STOP_WITHIN_S)


async def _start(net: Net, env: Env, data_dir: str | None) -> Server:
    from coord_server.bootstrap import (
        DataDirError,
    )  # the server is loaded only by those who start one
    from coord_server.embed import start_embedded
    from coord_server.server import StartError
    from coord_server.storage.disk import AlreadyLocked

    try:
        return await start_embedded(net=net, env=env, data_dir=data_dir, on_fatal=_report)
    except (AlreadyLocked, DataDirError, StartError, OSError) as error:
        raise Unavailable(f"the embedded server did not start: {error}") from error


def _report(error: BaseException) -> None:
    """Tell where applications listen: the server answers nobody from here on."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": "coord: the embedded server cannot go on", "exception": error}
    )
