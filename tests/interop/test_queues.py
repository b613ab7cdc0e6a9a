"""``coord`` queues and those of Go's recipes: one queue, whoever puts and whoever takes.

``COORD_INTEROP_ROUNDS`` (default 6) makes longer runs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

import coord
from tests.interop.contest import ROUNDS
from tests.interop.gopeers import BUILD_WITHIN_S, GoPeer, go_peer

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.processes,
    pytest.mark.timeout(BUILD_WITHIN_S + ROUNDS * 5),
]
WITHIN_S = 60.0 + ROUNDS
URGENCIES = (0, 7, 100, 65535)

Put = Callable[[str], Awaitable[object]]
Take = Callable[[int], Coroutine[Any, Any, list[str]]]


async def test_items_come_in_order_whoever_puts_and_whoever_takes(
    client: coord.Client, endpoint: str, name: str
) -> None:
    rand, expected = random.Random(name), list[str]()
    async with go_peer(endpoint) as peer, client.queue(name) as queue:
        for number in range(4 * ROUNDS):
            for step in range(rand.randint(1, 3)):
                item = f"{number}-{step}"
                await (queue.put(item) if rand.random() < 0.5 else peer.do("put", name, item))
                expected.append(item)
            while len(expected) > rand.randint(0, 4):
                if rand.random() < 0.5:
                    taken = (await queue.get(timeout=WITHIN_S)).value.decode()
                else:
                    taken = await peer.do("take", name, 1)
                assert taken == expected.pop(0)
        assert await queue.size() == len(expected)


async def test_the_most_urgent_comes_first_whoever_puts_and_whoever_takes(
    client: coord.Client, endpoint: str, name: str
) -> None:
    rand, expected = random.Random(name), list[tuple[int, int, str]]()
    async with go_peer(endpoint) as peer, client.priority_queue(name) as queue:
        for number in range(4 * ROUNDS):
            for step in range(rand.randint(1, 3)):
                item, urgency = f"{number}-{step}", rand.choice(URGENCIES)
                if rand.random() < 0.5:
                    await queue.put(item, priority=urgency)
                else:
                    await peer.do("put-urgent", name, urgency, item)
                expected.append((urgency, 10 * number + step, item))
            expected.sort()
            while len(expected) > rand.randint(0, 4):
                if rand.random() < 0.5:
                    taken = (await queue.get(timeout=WITHIN_S)).value.decode()
                else:
                    taken = await peer.do("take-urgent", name, 1)
                assert taken == expected.pop(0)[2]
        assert await queue.size() == len(expected)


@pytest.mark.parametrize("waits", ["ours", "theirs"])
async def test_who_waits_on_an_empty_queue_is_woken_by_the_other(
    client: coord.Client, endpoint: str, name: str, waits: str
) -> None:
    urgent_name = name + "-urgent"
    async with (
        go_peer(endpoint) as peer,
        client.queue(name) as queue,
        client.priority_queue(urgent_name) as urgent,
    ):
        for number in range(ROUNDS):
            if waits == "theirs":
                waiting = peer.begin("take", name, 1)
                await queue.put(f"a{number}")
                assert await asyncio.wait_for(waiting, WITHIN_S) == f"a{number}"
                waiting = peer.begin("take-urgent", urgent_name, 1)
                await urgent.put(f"b{number}", priority=9)
                assert await asyncio.wait_for(waiting, WITHIN_S) == f"b{number}"
            else:
                getting = asyncio.ensure_future(queue.get(timeout=WITHIN_S))
                await peer.do("put", name, f"a{number}")
                assert (await getting).value == f"a{number}".encode()
                getting = asyncio.ensure_future(urgent.get(timeout=WITHIN_S))
                await peer.do("put-urgent", urgent_name, 9, f"b{number}")
                assert (await getting).value == f"b{number}".encode()


async def test_a_crowd_hands_over_each_item_once(
    client: coord.Client, endpoint: str, name: str
) -> None:
    """Two producers and two consumers of each kind at once; the items of one producer keep their order."""
    each = 4 * ROUNDS
    async with (
        go_peer(endpoint) as go_puts,
        go_peer(endpoint) as go_puts_too,
        go_peer(endpoint) as go_takes,
        go_peer(endpoint) as go_takes_too,
        client.queue(name) as one,
        client.queue(name) as two,
    ):
        puts = [*map(putting(name), (go_puts, go_puts_too)), one.put, two.put]
        takes = [*map(taking(name), (go_takes, go_takes_too)), *map(getting, (one, two))]
        await crowd(puts, takes, each)
        assert await one.size() == 0


async def test_a_crowd_hands_over_each_urgent_item_once(
    client: coord.Client, endpoint: str, name: str
) -> None:
    each = 2 * ROUNDS
    async with (
        go_peer(endpoint) as go_puts,
        go_peer(endpoint) as go_puts_too,
        go_peer(endpoint) as go_takes,
        go_peer(endpoint) as go_takes_too,
        client.priority_queue(name) as one,
        client.priority_queue(name) as two,
    ):
        puts = [
            *map(putting(name, "put-urgent", "5"), (go_puts, go_puts_too)),
            *map(putting_urgent, (one, two)),
        ]
        takes = [
            *map(taking(name, "take-urgent"), (go_takes, go_takes_too)),
            *map(getting, (one, two)),
        ]
        await crowd(puts, takes, each)
        assert await one.size() == 0


def putting(name: str, step: str = "put", *words: str) -> Callable[[GoPeer], Put]:
    return lambda peer: lambda item: peer.do(step, name, *words, item)


def putting_urgent(queue: coord.PriorityQueue) -> Put:
    return lambda item: queue.put(item, priority=5)


def taking(name: str, step: str = "take") -> Callable[[GoPeer], Take]:
    async def take(peer: GoPeer, count: int) -> list[str]:
        return [await peer.do(step, name, 1) for _ in range(count)]

    return lambda peer: lambda count: take(peer, count)


def getting(queue: coord.Queue | coord.PriorityQueue) -> Take:
    async def take(count: int) -> list[str]:
        return [(await queue.get()).value.decode() for _ in range(count)]

    return take


async def crowd(puts: list[Put], takes: list[Take], each: int) -> None:
    """Every producer puts so many items, every consumer takes as many: each comes out once, in its producer's order."""

    async def produce(number: int, put: Put) -> None:
        for item in range(each):
            await put(f"{number}.{item}")

    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        consumers = [group.create_task(take(each)) for take in takes]
        for number, put in enumerate(puts):
            group.create_task(produce(number, put))
    taken = [consumer.result() for consumer in consumers]
    assert sorted(item for some in taken for item in some) == sorted(
        f"{number}.{item}" for number in range(len(puts)) for item in range(each)
    )
    for some in taken:
        for number in range(len(puts)):
            own = [int(item.partition(".")[2]) for item in some if item.startswith(f"{number}.")]
            assert own == sorted(own)
