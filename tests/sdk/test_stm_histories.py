"""Optimistic transactions all at once: sums that stay, counters that count, and histories that have an order."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import coord
from coord.core import Carrier
from coord.store.stm_txn import Isolation
from coord.testing.check import Append, ListTxn, Read, Step, cycles_of
from tests.sdk.conftest import CARRIERS
from tests.support.proxy import Proxy

UPPER: tuple[Isolation, ...] = ("serializable_snapshot", "serializable")
CHECKED: tuple[Isolation, ...] = (*UPPER, "repeatable_reads")
checked_levels = pytest.mark.parametrize("isolation", CHECKED)


def number(value: bytes | None) -> int:
    assert value is not None
    return int(value)


ACCOUNTS = 5
START = 100


@checked_levels
async def test_money_neither_appears_nor_vanishes(
    client: coord.Client, prefix: str, isolation: Isolation
) -> None:
    names = [f"{prefix}{n}" for n in range(ACCOUNTS)]
    for name in names:
        await client.put(name, str(START))
    audits: list[int] = []

    async def transfer(step: int) -> None:
        source, target = names[step % ACCOUNTS], names[(step * 3 + 1) % ACCOUNTS]

        async def body(tx: coord.StmTxn) -> None:
            have, other = number(await tx.get(source)), number(await tx.get(target))
            if source != target and have >= 7:
                tx.put(source, str(have - 7))
                tx.put(target, str(other + 7))

        await client.stm(body, isolation=isolation, prefetch=(source, target))

    async def worker(first: int) -> None:
        for step in range(first, 60, 4):
            await transfer(step)

    async def audit() -> None:
        async def body(tx: coord.StmTxn) -> int:
            return sum(int(v) for v in (await tx.range(prefix)).values())

        audits.extend([(await client.stm(body)).value for _ in range(10)])

    async with asyncio.TaskGroup() as group:
        for first in range(4):
            group.create_task(worker(first))
        group.create_task(audit())
    left = [int(kv.value) for kv in (await client.get_prefix(prefix)).items]
    assert sum(left) == ACCOUNTS * START
    assert min(left) >= 0
    assert set(audits) == {ACCOUNTS * START}


@pytest.mark.parametrize("transport", CARRIERS)
async def test_money_over_cut_connections(endpoint: str, transport: Carrier, prefix: str) -> None:
    """Each transfer also counts itself: one that was applied twice, or not at all, would show."""
    names = [f"{prefix}account/{n}" for n in range(ACCOUNTS)]
    workers, rounds = 4, 8
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
    ):
        for name in names:
            await direct.put(name, str(START))

        async def transfer(step: int) -> None:
            source, target = names[step % ACCOUNTS], names[(step * 3 + 1) % ACCOUNTS]

            async def body(tx: coord.StmTxn) -> None:
                moved = int(await tx.get(prefix + "moved", b"0") or b"0")
                tx.put(prefix + "moved", str(moved + 1))
                if source != target:
                    tx.put(source, str(number(await tx.get(source)) - 1))
                    tx.put(target, str(number(await tx.get(target)) + 1))

            await client.stm(body, max_attempts=1000, timeout=60)

        async def worker(first: int) -> None:
            for step in range(first, workers * rounds, workers):
                await transfer(step)

        async def disturb() -> None:
            while True:
                # After a little traffic, in the middle of whatever is under way.
                seen = proxy.bytes_up
                while proxy.bytes_up < seen + 2000:
                    await asyncio.sleep(0.002)
                proxy.hold_answers()
                await asyncio.sleep(0.01)  # for some answers to be lost; nothing hangs on how many
                proxy.cut()
                proxy.pass_on()

        disturber = asyncio.ensure_future(disturb())
        async with asyncio.TaskGroup() as group:
            for first in range(workers):
                group.create_task(worker(first))
        disturber.cancel()
        await asyncio.wait({disturber})
        assert proxy.connections > 3
        left = [int(kv.value) for kv in (await direct.get_prefix(prefix + "account/")).items]
        assert sum(left) == ACCOUNTS * START
        moved = await direct.get(prefix + "moved")
        assert moved is not None
        assert (int(moved.value), moved.version) == (workers * rounds, workers * rounds)


async def test_a_contended_counter(client: coord.Client, prefix: str) -> None:
    async def add(tx: coord.StmTxn) -> int:
        value = int(await tx.get(prefix, b"0") or b"0") + 1
        tx.put(prefix, str(value))
        return value

    async def worker() -> list[int]:
        return [(await client.stm(add, max_attempts=1000)).value for _ in range(8)]

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(worker()) for _ in range(8)]
    told = sorted(value for task in workers for value in task.result())
    assert told == list(range(1, 65))


@pytest.mark.parametrize("isolation", UPPER)
async def test_histories_have_an_order(
    client: coord.Client, prefix: str, isolation: Isolation
) -> None:
    """Lists that grow, judged as Elle judges them: strict serializability, in real time."""
    clock, elements = itertools.count(), itertools.count()
    history: list[ListTxn] = []

    async def one(worker: int, turn: int) -> None:
        steps: list[Step] = []
        names = [f"{prefix}{(worker + turn) % 3}", f"{prefix}{(worker * 2 + turn) % 3}"]
        begun, element = next(clock), next(elements)

        async def body(tx: coord.StmTxn) -> None:
            steps.clear()
            for index, name in enumerate(names):
                value = await tx.get(name, b"") or b""
                steps.append(Read(name, tuple([int(n) for n in value.split()])))
                if index == turn % 2:
                    tx.put(name, value + b" %d" % element)
                    steps.append(Append(name, element))

        await client.stm(body, isolation=isolation, max_attempts=1000)
        history.append(
            ListTxn(
                name=f"worker {worker} turn {turn}",
                begun=begun,
                ended=next(clock),
                status="ok",
                steps=tuple(steps),
            )
        )

    async def worker(number: int) -> None:
        for turn in range(12):
            await one(number, turn)

    async with asyncio.TaskGroup() as group:
        for worker_number in range(4):
            group.create_task(worker(worker_number))
    verdict = cycles_of(history)
    verdict.raise_if_bad()
    assert verdict.checked == 48
