"""Our read-write lock and the RWMutex of etcd's own recipes exclude each other, and stand in one line.

The Go program is built from what Debian packages (golang-go, golang-etcd-server-dev); without them this is skipped.
``COORD_INTEROP_ROUNDS`` (default 6) is how often each contender takes the lock in the contest.
"""

from __future__ import annotations

import asyncio
import random

import pytest

import coord
from tests.interop.contest import ROUNDS
from tests.interop.gopeers import BUILD_WITHIN_S, GoPeer, go_peer
from tests.support.lines import WITHIN_S, lined_up

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.processes,
    pytest.mark.timeout(BUILD_WITHIN_S + ROUNDS * 5),
]


async def test_one_line_and_a_downgrade(client: coord.Client, endpoint: str, name: str) -> None:
    rw = client.rwlock(name)
    async with (
        go_peer(endpoint) as one,
        go_peer(endpoint) as two,
    ):
        # We read; the Go writer waits for us, and we wait behind it.
        reading = await rw.read().acquire(timeout=WITHIN_S)
        writing = one.begin("write", name)
        await lined_up(client, name, 2)
        behind = asyncio.ensure_future(rw.read().acquire())
        await lined_up(client, name, 3)
        assert await rw.read().try_acquire() is None
        assert not writing.done()
        await reading.release()
        async with asyncio.timeout(WITHIN_S):
            await writing
        assert not behind.done()
        state = await rw.state()
        assert state.writer is not None
        assert state.writer.metadata == {}
        await one.do("release")
        async with asyncio.timeout(WITHIN_S):
            await (await behind).release()

        # We write; a Go writer and then a Go reader of another process wait. The downgrade lets neither pass the other.
        alone = await rw.write(downgradable=True).acquire(timeout=WITHIN_S)
        reader = two.begin("read", name)
        await lined_up(client, name, 3)
        writer = one.begin("write", name)
        await lined_up(client, name, 4)
        assert not reader.done()
        await alone.downgrade()
        async with asyncio.timeout(WITHIN_S):
            await reader
        assert not writer.done()
        await two.do("release")
        await lined_up(client, name, 2)
        assert not writer.done()
        alone.check()
        await alone.release()
        async with asyncio.timeout(WITHIN_S):
            await writer
        await one.do("release")
    assert await client.count(name + "/") == 0


async def test_a_contest(client: coord.Client, endpoint: str, name: str) -> None:
    """Two Go contenders and two of ours, reading, writing and downgrading; nobody is inside with whom it must not."""
    rand = random.Random(name)
    inside: dict[int, str] = {}

    def enter(number: int, mode: str) -> None:
        inside[number] = mode
        assert "write" not in inside.values() or len(inside) == 1, inside

    async def rival(number: int, go: GoPeer, plan: list[str]) -> None:
        for mode in plan:
            await go.do(mode, name)
            enter(number, mode)
            await asyncio.sleep(0.002)
            del inside[number]
            await go.do("release")

    async def ours(number: int, session: coord.Session, plan: list[str]) -> None:
        rw = client.rwlock(name, session=session)
        for mode in plan:
            if mode == "read":
                async with rw.read().hold(timeout=WITHIN_S):
                    enter(number, mode)
                    await asyncio.sleep(0.002)
                    del inside[number]
            else:
                async with rw.write(downgradable=True).hold(timeout=WITHIN_S) as grant:
                    enter(number, mode)
                    await asyncio.sleep(0.002)
                    inside[number] = "read"
                    await grant.downgrade()
                    enter(number, "read")
                    del inside[number]

    async with (
        client.session(ttl=30) as session,
        go_peer(endpoint) as one,
        go_peer(endpoint) as two,
        asyncio.TaskGroup() as group,
    ):

        def plan() -> list[str]:
            return rand.choices(["read", "write"], k=ROUNDS)

        for number, go in enumerate((one, two)):
            group.create_task(rival(number, go, plan()))
        for number in (2, 3):
            group.create_task(ours(number, session, plan()))
    assert await client.count(name + "/") == 0
