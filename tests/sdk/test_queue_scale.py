"""Long queues: what a take costs must not grow with them. ``COORD_QUEUE_ITEMS=100000`` makes it long."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc

import pytest
from typing_extensions import override

import coord
from coord.testing import Faults

ITEMS = int(os.environ.get("COORD_QUEUE_ITEMS", "600"))
WITHIN_S = 30.0 + ITEMS / 100
GETTERS = 16
VALUE = b"x" * 64
# What a job in the backlog may cost its consumer: entry, place in the order, and their keys. About 1.5 KiB are seen.
BYTES_PER_JOB = 3072


class Looks(dict[bytes, int]):
    """What the consumer knows to be gone. It is asked once for each item that is looked at: this counts."""

    count = 0

    @override
    def get(self, key: bytes, default: int | None = None) -> int | None:  # type: ignore[override]
        self.count += 1
        return super().get(key, default)


async def _fill(client: coord.Client, prefix: str, names: list[str]) -> None:
    """Put the items as a foreign producer, 100 in a transaction."""
    for start in range(0, len(names), 100):
        puts = [coord.op.put(prefix + name, name) for name in names[start : start + 100]]
        await client.txn().then(*puts).commit()


@pytest.mark.parametrize("kind", ["queue", "priority_queue", "delay_queue"])
async def test_a_take_looks_at_few_items_however_many_there_are(kind: str) -> None:
    faults, names = Faults(), [f"{n:016}" for n in range(ITEMS)]
    with faults.everywhere():
        made = coord.connect("memory:", runtime="inline")
    async with made as client:
        queue: coord.Queue | coord.PriorityQueue | coord.DelayQueue
        queue = getattr(client, kind)("q")
        consumer = queue._consumer
        await _fill(client, "q/00001/" if kind == "priority_queue" else "q/", names)
        await queue.get()  # without a view
        consumer._gone = looks = Looks()
        got: list[bytes] = []
        faults.clear()

        async def getter(count: int) -> None:
            for _ in range(count):
                got.append((await queue.get()).value)  # noqa: PERF401 - as they come

        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            for number in range(GETTERS):
                group.create_task(getter(len(range(number, ITEMS - 1, GETTERS))))
        assert sorted(got) == [name.encode() for name in names[1:]]
        assert 0 < looks.count <= 8 * ITEMS
        # As many share one as wait; nearly always that is all of them.
        assert faults.count("KV/Txn") <= ITEMS / 4
        await queue.close()


async def test_a_backlog_of_jobs_costs_memory_in_proportion() -> None:
    jobs = ITEMS
    async with coord.connect("memory:", runtime="inline") as client:
        async with client.work_queue("q") as producer:
            for start in range(0, jobs, 50):
                ops = [
                    op
                    for n in range(start, min(jobs, start + 50))
                    for op in producer.put_ops(VALUE, dedup_id=f"{n:08}")
                ]
                await client.txn().then(*ops).commit()
        async with client.work_queue("warm") as warm:  # what is made once
            await warm.put(VALUE)
            for item in await warm.receive():
                await item.ack()
        gc.collect()
        tracemalloc.start()
        try:
            async with client.work_queue("q") as queue, asyncio.timeout(WITHIN_S):
                (item,) = await queue.receive()
                gc.collect()
                held, _ = tracemalloc.get_traced_memory()
                assert (await queue.stats()).items == jobs
                await item.ack()
        finally:
            tracemalloc.stop()
        assert held <= BYTES_PER_JOB * jobs + (1 << 19)
