"""ZooKeeper and Redis, as Debian has them, each write on disk before it is answered."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support import peers
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

READY_WITHIN_S = 60.0
_ASK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Side:
    """A server that runs."""

    url: str
    pid: int


@contextlib.contextmanager
def redis(folder: Path) -> Generator[Side]:
    """Run Redis with ``appendfsync always``."""
    folder.mkdir(parents=True)
    port = free_port()
    words = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    words += ["--appendonly", "yes", "--appendfsync", "always"]
    with _running([*_program("redis-server"), *words], port, folder) as side:
        yield side


@contextlib.contextmanager
def zookeeper(folder: Path) -> Generator[Side]:
    """Run one ZooKeeper, which syncs its log before every answer, as it does by default."""
    folder.mkdir(parents=True)
    port = free_port()
    settings = folder / "zoo.cfg"
    settings.write_text(
        f"tickTime=2000\ndataDir={folder}\nclientPortAddress=127.0.0.1\nclientPort={port}\n"
        "admin.enableServer=false\nmaxClientCnxns=0\n"
    )
    words = [*_program("zookeeper"), "org.apache.zookeeper.server.ZooKeeperServerMain"]
    with _running([*words, str(settings)], port, folder) as side:
        yield side


def _program(name: str) -> Sequence[str]:
    words = peers.program(name)
    if words is None:
        raise FileNotFoundError(f"{peers.describe(name)}; `make peers` fetches it")
    return words


@contextlib.contextmanager
def _running(command: list[str], port: int, folder: Path) -> Generator[Side]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(process, port, folder)
        yield Side(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    end = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(_ASK_AGAIN_S)
    raise RuntimeError(f"it does not start:\n{(folder / 'log').read_text()[-2000:]}")
