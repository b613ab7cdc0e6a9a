"""A server inside this process: for ``memory:`` clients, tests and tools.

Nothing is logged, nothing of the process is tuned, no signal is handled: the process belongs to others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from coord_server.config import Config
from coord_server.env import ServerEnv
from coord_server.flag_values import Url
from coord_server.log import Log, silent
from coord_server.server import Server
from coord_server.storage.disk import RealDisk
from coord_server.storage.lmdb_backend import LmdbBackend
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk
from coord_server.storage.wal import SEGMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.runtime import Env, Net

# Segments are made in full beforehand, which saves a disk work; in memory it costs 50 ms and 64 MB at each start.
_MEMORY_SEGMENT_BYTES = 1 << 20
_LOOPBACK = (Url(scheme="http", host="127.0.0.1", port=0),)


async def start_embedded(
    *,
    net: Net,
    env: Env,
    data_dir: str | None = None,
    config: Config | None = None,
    log: Log | None = None,
    on_fatal: Callable[[BaseException], None] | None = None,
) -> Server:
    """Start a server on ``net`` and return it once it serves; the caller stops it.

    Without ``data_dir`` everything lives in memory and is gone with the server. ``config`` may set
    anything but the directory; without it the server listens on a free loopback port of ``net``.
    Raises what ``Server.start`` raises.
    """
    base = config if config is not None else Config(name="embedded", listen_client_urls=_LOOPBACK)
    settings = replace(base, data_dir=data_dir if data_dir is not None else "memory")
    server_env = ServerEnv(
        clock=env.clock,
        net=net,
        rand=env.rand,
        offload=env.offload,
        disk=MemoryDisk(record_unsynced=False) if data_dir is None else RealDisk(),
    )
    server = Server(
        settings,
        server_env,
        log if log is not None else silent(env.clock),
        make_backend=_in_memory if data_dir is None else LmdbBackend,
        on_fatal=on_fatal,
        segment_bytes=_MEMORY_SEGMENT_BYTES if data_dir is None else SEGMENT_BYTES,
    )
    await server.start()
    return server


def _in_memory(_path: str) -> MemoryBackend:
    return MemoryBackend()
