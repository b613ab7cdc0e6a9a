"""``coord`` barriers against those of Go's recipes, in both roles."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable

import pytest

import coord
from tests.interop.contest import ROUNDS
from tests.interop.gopeers import BUILD_WITHIN_S, Failed, GoPeer, go_peer

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.processes,
    pytest.mark.timeout(BUILD_WITHIN_S + ROUNDS * 5),
]
WITHIN_S = 30.0


async def entries(client: coord.Client, name: str, count: int) -> None:
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while await client.count(name + "/waiters/") != count:
            await anext(watch)


async def test_a_gate_of_ours_stops_go_and_one_of_gos_stops_us(
    client: coord.Client, endpoint: str, name: str
) -> None:
    barrier = client.barrier(name)
    async with go_peer(endpoint) as peer:
        for leased in (False, True):
            gate = await barrier.hold(leased=leased)
            with pytest.raises(Failed, match="key"):  # etcd's "given key already present"
                await peer.do("close", name)
            waiting = peer.begin("wait", name)
            await asyncio.sleep(0.2)
            assert not waiting.done()
            assert await gate.release() is True
            await asyncio.wait_for(waiting, WITHIN_S)

        await peer.do("close", name)
        with pytest.raises(coord.BarrierHeld):
            await barrier.hold()
        passing = asyncio.ensure_future(barrier.wait(timeout=WITHIN_S))
        await asyncio.sleep(0.2)
        assert not passing.done()
        await peer.do("open", name)
        await passing

        await barrier.hold()
        await peer.do("open", name)  # Go asks nobody whose it is
        assert await barrier.release() is False


async def test_nobody_passes_a_closed_gate(client: coord.Client, endpoint: str, name: str) -> None:
    """Whoever closes it, ours or Go's, and whoever opens it: two of each wait, and none returns before it opens."""
    barrier = client.barrier(name)
    rand = random.Random(name)
    is_open = False

    async def passes(waiting: Awaitable[object]) -> None:
        await waiting
        assert is_open

    async with go_peer(endpoint) as keeper, go_peer(endpoint) as one, go_peer(endpoint) as two:
        for _ in range(ROUNDS):
            closes, opens = rand.choice(("ours", "theirs")), rand.choice(("ours", "theirs"))
            await (barrier.hold() if closes == "ours" else keeper.do("close", name))
            is_open = False
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                for peer in (one, two):
                    group.create_task(passes(peer.begin("wait", name)))
                    group.create_task(passes(barrier.wait()))
                assert await one_look_each(client, 3, name) == [1, 1, 1]
                is_open = True
                await (barrier.release(force=True) if opens == "ours" else keeper.do("open", name))


async def one_look_each(client: coord.Client, times: int, key: str) -> list[int]:
    return [int(await client.get(key) is not None) for _ in range(times)]


@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_a_round_with_go(client: coord.Client, endpoint: str, name: str, first: str) -> None:
    """One round at a time, since Go knows no rounds: whoever comes last begins it, whoever is lowest ends it."""
    async with (
        go_peer(endpoint) as peer,
        client.session(ttl=20) as session,
    ):
        barrier = client.double_barrier(name, 2, session=session)
        for _ in range(2):
            if first == "ours":
                entering = asyncio.ensure_future(barrier.enter(timeout=WITHIN_S))
                await entries(client, name, 1)
                await peer.do("enter", name, 2)
                await entering
                leaving = asyncio.ensure_future(barrier.leave(timeout=WITHIN_S))
                await asyncio.sleep(0.2)
                assert not leaving.done()  # the lowest waits for the highest
                await peer.do("leave")
                await leaving
            else:
                theirs = peer.begin("enter", name, 2)
                await entries(client, name, 1)
                await barrier.enter(timeout=WITHIN_S)
                await asyncio.wait_for(theirs, WITHIN_S)
                left = peer.begin("leave")
                await asyncio.sleep(0.2)
                assert not left.done()
                await barrier.leave(timeout=WITHIN_S)
                await asyncio.wait_for(left, WITHIN_S)
            assert (await client.get_prefix(name + "/")).items == ()


async def test_two_of_each_begin_and_end_together(
    client: coord.Client, endpoint: str, name: str
) -> None:
    """Nobody is in before all have come, nobody is out before all have begun to leave, in any order of coming."""
    arrived, leaving = 0, 0

    async def ours(barrier: coord.DoubleBarrier, round_: int) -> None:
        nonlocal arrived, leaving
        arrived += 1
        await barrier.enter()
        assert arrived == 4 * round_
        leaving += 1
        await barrier.leave()
        assert leaving == 4 * round_

    async def theirs(peer: GoPeer, round_: int) -> None:
        nonlocal arrived, leaving
        arrived += 1
        await peer.begin("enter", name, 4)
        assert arrived == 4 * round_
        leaving += 1
        await peer.begin("leave")
        assert leaving == 4 * round_

    rand = random.Random(name)
    async with (
        go_peer(endpoint) as go_one,
        go_peer(endpoint) as go_two,
        client.session(ttl=30) as session_one,
        client.session(ttl=30) as session_two,
    ):
        one, two = (
            client.double_barrier(name, 4, session=each) for each in (session_one, session_two)
        )
        for number in range(1, ROUNDS + 1):
            parties = [ours(one, number), ours(two, number)]
            parties += [theirs(go_one, number), theirs(go_two, number)]
            rand.shuffle(parties)
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                for party in parties:
                    group.create_task(party)
            assert await client.count(name + "/waiters/") == 0
