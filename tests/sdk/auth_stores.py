"""Real etcd with users, for the tests of credentials; set up through ``client.auth`` itself."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import coord
from coord import Access
from coord.sync import connect
from tests.sdk.conftest import ETCD_RELEASE
from tests.support.servers import ServerProcess, free_port, get, real_etcd

ROOT_PASSWORD = "root-password"
USER, PASSWORD = "alice", "alices-password"
PREFIX = "open/"
_numbers = itertools.count()


def add_users(endpoint: str, tls: coord.TlsConfig | None = None) -> None:
    """Add ``root``, and a user who may do anything with the keys under ``open/``; then turn authentication on."""
    with connect(endpoint, tls=tls) as client:
        auth = client.auth
        auth.user_add("root", ROOT_PASSWORD)
        auth.user_grant_role("root", "root")
        auth.role_add("opener")
        for prefix in (PREFIX, "_coord/"):
            auth.role_grant_permission("opener", prefix, Access.READWRITE, prefix=True)
        auth.user_add(USER, PASSWORD)
        auth.user_grant_role(USER, "opener")
        auth.enable()


@contextmanager
def etcd_with_users(
    directory: Path, *flags: str, listen: str | None = None
) -> Generator[ServerProcess]:
    """Run an etcd with these users until the context is left."""
    with real_etcd(directory, *flags, version=ETCD_RELEASE, listen=listen) as server:
        add_users(server.endpoint)
        yield server


@contextmanager
def etcd_cluster(directory: Path, size: int, *flags: str) -> Generator[list[ServerProcess]]:
    """Run an etcd cluster with these users until the context is left."""
    peers = {f"m{number}": f"http://127.0.0.1:{free_port()}" for number in range(size)}
    founding = ",".join([f"{name}={url}" for name, url in peers.items()])
    with ThreadPoolExecutor(size) as starters, ExitStack() as running:

        def member(name: str) -> ServerProcess:
            return running.enter_context(
                real_etcd(
                    directory / name,
                    f"--name={name}",
                    f"--listen-peer-urls={peers[name]}",
                    f"--initial-advertise-peer-urls={peers[name]}",
                    f"--initial-cluster={founding}",
                    *flags,
                    version=ETCD_RELEASE,
                )
            )

        members = list(starters.map(member, peers))  # each is healthy with the others only
        add_users(members[0].endpoint)
        yield members


def root(endpoint: str) -> coord.Connecting:
    """Connect as ``root``."""
    return coord.connect(endpoint, user="root", password=ROOT_PASSWORD)


@asynccontextmanager
async def somebody(server: ServerProcess) -> AsyncGenerator[tuple[coord.Client, str]]:
    """Connect as root, and add a user for one test, with alice's rights and password; yields both."""
    name = f"user{next(_numbers)}"
    async with root(server.endpoint) as admin:
        await admin.auth.user_add(name, PASSWORD)
        await admin.auth.user_grant_role(name, "opener")
        yield admin, name


async def end_tokens(admin: coord.Client, name: str, password: str = PASSWORD) -> None:
    """Let the server forget all tokens of a user."""
    await admin.auth.user_change_password(name, password)


def count(server: ServerProcess, method: str) -> int:
    """How many calls of a method the server has begun, by its own count."""
    _, text = get(server.url, "/metrics")
    pattern = rf'grpc_server_started_total{{[^}}]*grpc_method="{method}"[^}}]*}} (\S+)'
    return sum(int(float(number)) for number in re.findall(pattern, text))
