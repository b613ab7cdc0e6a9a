"""``client.stm()`` and Go's ``concurrency.NewSTM`` on the same keys: no update of either is lost, no sum is torn.

``COORD_INTEROP_ROUNDS`` (default 6) makes longer runs.
"""

from __future__ import annotations

import asyncio

import pytest

import coord
from tests.interop.contest import ROUNDS
from tests.interop.gopeers import BUILD_WITHIN_S, go_peer

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.processes,
    pytest.mark.timeout(BUILD_WITHIN_S + ROUNDS * 5),
]
WITHIN_S = 60.0 + ROUNDS


async def test_both_count_in_one_key(client: coord.Client, endpoint: str, name: str) -> None:
    """Ours are transactions and a counter, which also share the key with Go's."""
    counter = client.counter(name)

    async def one_more(tx: coord.StmTxn) -> None:
        tx.put(name, str(await number(tx, name) + 1))

    async def transactions() -> None:
        for _ in range(ROUNDS):
            await client.stm(one_more, max_attempts=10_000)

    async def additions() -> None:
        for _ in range(ROUNDS):
            await counter.add()

    async with go_peer(endpoint) as one, go_peer(endpoint) as two:
        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            for peer in (one, two):
                group.create_task(_done(peer.begin("add", name, ROUNDS)))
            group.create_task(transactions())
            group.create_task(additions())
        assert await one.do("sum", name) == str(4 * ROUNDS)
    assert await counter.value() == 4 * ROUNDS


async def test_transfers_keep_the_sum_that_both_see(
    client: coord.Client, endpoint: str, name: str
) -> None:
    accounts = [f"{name}/{letter}" for letter in "abc"]
    a, b, c = accounts
    for account in accounts:
        await client.put(account, "1000")

    async def ours(source: str, target: str) -> None:
        async def move(tx: coord.StmTxn) -> None:
            left, right = await number(tx, source), await number(tx, target)
            tx.put(source, str(left - 1))
            tx.put(target, str(right + 1))

        for _ in range(ROUNDS):
            await client.stm(move, max_attempts=10_000)

    async def add_up(tx: coord.StmTxn) -> int:
        return sum([await number(tx, account) for account in accounts])

    async with (
        go_peer(endpoint) as one,
        go_peer(endpoint) as two,
        go_peer(endpoint) as auditor,
    ):

        async def audit() -> None:
            for _ in range(ROUNDS):
                assert await auditor.do("sum", *accounts) == "3000"
                assert (await client.stm(add_up, max_attempts=10_000)).value == 3000

        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            group.create_task(_done(one.begin("move", a, b, 2 * ROUNDS)))
            group.create_task(_done(two.begin("move", b, c, ROUNDS)))
            group.create_task(ours(c, a))
            group.create_task(ours(b, a))
            group.create_task(audit())
    found = {kv.key: int(kv.value) for kv in (await client.get_prefix(name + "/")).items}
    assert list(found.values()) == [1000, 1000, 1000]


async def number(tx: coord.StmTxn, key: str) -> int:
    return int(await tx.get(key) or b"0")


async def _done(step: asyncio.Task[str]) -> None:
    await step
