"""The seams of the server: those of ``coord.runtime``, and the disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.runtime import Env, real_env
from coord_server.storage.disk import RealDisk

if TYPE_CHECKING:
    from coord_server.storage.disk import Disk


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEnv(Env):
    """Everything a server may ask of the world."""

    disk: Disk


def real_server_env() -> ServerEnv:
    """Return the seams of this machine, its file system included."""
    env = real_env()
    return ServerEnv(
        clock=env.clock, net=env.net, rand=env.rand, offload=env.offload, disk=RealDisk()
    )
