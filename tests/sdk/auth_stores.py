"""Real etcd with users, for the tests of credentials; set up through ``client.auth`` itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import coord
from coord import Access
from tests.sdk.conftest import ETCD_RELEASE
from tests.support.servers import ServerProcess, real_etcd

ROOT_PASSWORD = "root-password"
USER, PASSWORD = "alice", "alices-password"
PREFIX = "open/"


async def add_users(endpoint: str) -> None:
    """Add ``root``, and a user who may do anything with the keys under ``open/``; then turn authentication on."""
    async with coord.connect(endpoint) as client:
        auth = client.auth
        await auth.user_add("root", ROOT_PASSWORD)
        await auth.user_grant_role("root", "root")
        await auth.role_add("opener")
        await auth.role_grant_permission("opener", PREFIX, Access.READWRITE, prefix=True)
        await auth.role_grant_permission("opener", "_coord/", Access.READWRITE, prefix=True)
        await auth.user_add(USER, PASSWORD)
        await auth.user_grant_role(USER, "opener")
        await auth.enable()


@asynccontextmanager
async def etcd_with_users(
    directory: Path, *flags: str, listen: str | None = None
) -> AsyncGenerator[ServerProcess]:
    """Run an etcd with these users until the context is left."""
    with real_etcd(directory, *flags, version=ETCD_RELEASE, listen=listen) as server:
        await add_users(server.endpoint)
        yield server


def root(endpoint: str) -> coord.Connecting:
    """Connect as ``root``."""
    return coord.connect(endpoint, user="root", password=ROOT_PASSWORD)
