"""One endpoint of the list is of no use: nobody listens, it holds still, or it has lost its leader. All moves on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import coord
from coord.core import Carrier
from coord.testing.chaos import Cluster, status_of
from tests.sdk.conftest import ALL_FLAVOURS, CARRIERS, ETCD_RELEASE
from tests.sdk.test_failures import reached
from tests.support.groups import group
from tests.support.servers import free_port

pytestmark = pytest.mark.processes
# A quarter of a minute each: gRPC's own carrier when all flavours are asked for.
carriers = pytest.mark.parametrize("transport", CARRIERS if ALL_FLAVOURS else CARRIERS[:1])

TTL_S = 6
LIMIT_S = 5.0  # of one call
HANGS_S = 60.0  # what is later than that hangs
UNLUCKY = (coord.Unavailable, coord.CoordTimeout, coord.AmbiguousResult)


async def nothing() -> None:
    """There is no trouble to make: it was there from the start."""


@dataclass(frozen=True, slots=True)
class Lame:
    """The endpoint in question, those that are well, and what brings the trouble."""

    endpoint: str
    others: list[str]
    fall: Callable[[], Awaitable[None]]


@asynccontextmanager
async def lame_member(store: str, trouble: str, directory: Path) -> AsyncGenerator[Lame]:
    """Three members; a follower is lame when ``fall()`` has returned."""
    async with contextlib.AsyncExitStack() as stack:
        if trouble == "leaderless":
            cluster = await stack.enter_async_context(Cluster(directory))
            leader = await cluster.leader()
            member = cluster.others(leader)[0]

            async def isolate() -> None:
                cluster.links.partition([member.name])

                async def alone() -> bool:
                    return (await status_of(member.endpoint)).leader == 0

                await reached(alone, "it knows no leader")

            rest = [m.endpoint for m in cluster.others(member)]
            yield Lame(member.endpoint, rest, isolate)
            return
        made = stack.enter_context(group(directory, store, version=ETCD_RELEASE))
        if trouble == "closed":
            yield Lame(f"127.0.0.1:{free_port()}", made.endpoints, nothing)
            return
        first = await status_of(made.endpoints[0])
        follower = "m1" if first.leader != first.header.member_id else "m2"
        server = made.members[follower]

        async def freeze() -> None:
            server.process.send_signal(signal.SIGSTOP)

        stack.callback(server.process.send_signal, signal.SIGCONT)
        rest = [m.endpoint for m in made.members.values() if m is not server]
        yield Lame(server.endpoint, rest, freeze)


async def connect_to(lame: Lame, transport: Carrier, *, there: bool) -> coord.Client:
    """A client whose first endpoint, which it draws by lot, is the lame one; and who is connected to it, if ``there``."""
    while True:
        client = await coord.connect([lame.endpoint, *lame.others], transport=transport)
        core: Any = client._core
        if core.transport._first == 0:
            if there:
                await client.get("k")
            if core.transport._first == 0:
                return client
        await client.close()


async def write(direct: coord.Client, prefix: str, count: int) -> None:
    for number in range(count):
        await direct.put(f"{prefix}{number:03}", "x")
        await asyncio.sleep(0.05)


async def put_until_served(client: coord.Client, key: str) -> int:
    """Put until one is acknowledged; return how many attempts that took."""
    for attempt in range(1, 20):
        with contextlib.suppress(*UNLUCKY):
            await client.put(key, "x", timeout=LIMIT_S)
            return attempt
        await asyncio.sleep(0.2)
    raise AssertionError("nothing was served")


@pytest.mark.slow
@carriers
@pytest.mark.parametrize(
    ("store", "trouble"),
    [
        ("etcd", "closed"),
        ("etcd", "stopped"),
        ("coord", "closed"),
        ("coord", "stopped"),
        ("coord", "leaderless"),
    ],
)
async def test_everything_moves_on(
    store: str, trouble: str, transport: Carrier, tmp_path: Path
) -> None:
    async with (
        lame_member(store, trouble, tmp_path) as lame,
        coord.connect(lame.others) as direct,
        asyncio.timeout(HANGS_S),
        await connect_to(lame, transport, there=trouble != "closed") as client,
        client.session(ttl=TTL_S) as session,
        client.watch("w/", prefix=True) as watch,
    ):
        grant = await client.mutex("held", session=session).acquire(timeout=LIMIT_S)
        await lame.fall()
        count = 100
        writer = asyncio.ensure_future(write(direct, "w/", count))
        # The second call has left the member that failed the first one.
        assert await put_until_served(client, "own") <= 2
        assert (await client.get("own", timeout=LIMIT_S)) is not None
        other = await client.mutex("other", session=session).acquire(timeout=LIMIT_S)
        assert await other.release()
        seen = [(await anext(watch)).key.decode() for _ in range(count)]
        assert seen == [f"w/{number:03}" for number in range(count)]
        await writer
        await asyncio.sleep(
            1.2 * TTL_S
        )  # what was confirmed before the trouble is worth nothing now
        session.check()
        grant.check()
        assert session.lease_id in await direct.leases()
        guarded = client.txn().when(grant.guard()).then(coord.op.put("guarded", "x"))
        assert (await guarded.commit(timeout=LIMIT_S)).succeeded
        assert await grant.release()
