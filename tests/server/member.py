"""A member on a disk in memory, for tests: put together, crashed, and put together again."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from coord.runtime import RealClock, RealNet, RealRand
from coord.wire.fast import HeaderStamp
from coord_server.apply import Applier
from coord_server.env import ServerEnv
from coord_server.mvcc.hub import WatchHub
from coord_server.peers import Peers
from coord_server.raft import (
    HardState,
    Index,
    Membership,
    NodeId,
    RaftConfig,
    RaftCore,
    RaftLog,
    Term,
)
from coord_server.replica import Replica
from coord_server.replica_bounds import ReplicaBounds
from coord_server.storage.backend import Backend
from coord_server.storage.disk import Disk
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import CrashMode, MemoryDisk
from coord_server.storage.wal import Wal

T = TypeVar("T")

MEMBER = 7
NODE = NodeId(MEMBER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    election_timeout_s: float = 1.0
    request_timeout_s: float = 7.0 * 36_000  # 70 ticks of an hour each


class InPlace:
    """An Offload that does the work at once."""

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)


@dataclass
class Answers:
    """A responder that notes what it is told."""

    given: dict[int, bytes | tuple[int, str]] = field(
        default_factory=dict[int, bytes | tuple[int, str]]
    )

    def respond(self, stream_id: int, message: bytes) -> None:
        assert stream_id not in self.given
        self.given[stream_id] = message

    def fail(self, stream_id: int, code: int, message: str, trailers: object = ()) -> None:
        assert stream_id not in self.given
        self.given[stream_id] = (code, message)


def server_env(disk: Disk) -> ServerEnv:
    return ServerEnv(
        clock=RealClock(), net=RealNet(), rand=RealRand(), offload=InPlace(), disk=disk
    )


def alone(max_committed_bytes: int = 1 << 20) -> RaftConfig:
    return RaftConfig(
        node_id=NODE,
        membership=Membership(voters=(NODE,)),
        max_committed_bytes=max_committed_bytes,
    )


class Member:
    """Log, backend, state and replica over one disk. Ticks come only when `Replica._tick` is called."""

    def __init__(
        self,
        disk: MemoryDisk,
        *,
        env: ServerEnv | None = None,
        backend: Backend | None = None,
        bounds: ReplicaBounds | None = None,
        timing: Timing | None = None,
        raft: RaftConfig | None = None,
        peers: Peers | None = None,
        segment_bytes: int = 4096,
    ) -> None:
        self.disk = disk
        disk.mkdir("/data")
        self.fatal: list[BaseException] = []
        self.starting: asyncio.Task[None] | None = None
        config = raft if raft is not None else alone()
        if Wal.exists(disk, "/data/wal"):
            self.wal = Wal.open(disk, "/data/wal", segment_bytes=segment_bytes)
            self.recovered = self.wal.recover()
            log = RaftLog(
                base_index=Index(self.recovered.released_index),
                base_term=Term(self.recovered.released_term),
                entries=self.recovered.entries,
            )
            self.core = RaftCore(config, self.recovered.hard_state, log)
        else:
            self.wal = Wal.create(disk, "/data/wal", b"id", segment_bytes=segment_bytes)
            self.core = RaftCore(config, HardState(), RaftLog())
        env = env if env is not None else server_env(disk)
        self.clock = env.clock
        self.backend = backend if backend is not None else MemoryBackend(disk, "/data/db")
        self.applier = Applier(self.backend, HeaderStamp(1, MEMBER))
        self.hub = WatchHub(self.applier.store)
        self.replica = Replica(
            core=self.core,
            wal=self.wal,
            applier=self.applier,
            hub=self.hub,
            backend=self.backend,
            env=env,
            config=timing if timing is not None else Timing(),
            on_fatal=self.fatal.append,
            bounds=bounds if bounds is not None else ReplicaBounds(tick_s=3600.0),
            peers=peers,
        )

    async def stop(self) -> None:
        await self.replica.stop()
        self.wal.close()
        self.backend.close()


class PowerLost(OSError):
    """The machine died at this step."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "power lost")


def lose_power_after(disk: MemoryDisk, steps: int) -> None:
    """Let every step on the disk after the next ``steps`` fail."""

    def on_step(operation: str, path: str) -> None:
        nonlocal steps
        steps -= 1
        if steps < 0:
            raise PowerLost

    disk.on_step = on_step


def image_of(disk: MemoryDisk, mode: CrashMode, seed: int) -> MemoryDisk:
    return disk.crash_image(mode, random.Random(seed))
