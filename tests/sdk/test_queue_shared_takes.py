"""Getters of one queue object that wait at the same time: one transaction takes an item for each of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

import coord
from coord.recipes.queues import consumer as consumer_module
from tests.sdk.queue_models import HandOffModel, recorded
from tests.support.faulty import TXN, Fault, Plan, make_faulty

WITHIN_S = 20.0
FAULTS = [fault for fault in Fault if fault is not Fault.NONE]

AnyQueue = coord.Queue | coord.PriorityQueue


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline", request_timeout=2.0) as client:
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tries after a failure come soon."""
    monkeypatch.setattr(consumer_module, "RETRY_LOW_S", 0.001)
    monkeypatch.setattr(consumer_module, "RETRY_HIGH_S", 0.005)


def made(client: coord.Client, kind: str) -> AnyQueue:
    return client.queue("q") if kind == "queue" else client.priority_queue("q")


async def following(queue: AnyQueue, items: int) -> None:
    """Let it begin a view and enrol, and wait until that shows ``items``."""
    consumer = queue._consumer
    async with asyncio.timeout(WITHIN_S):
        while consumer._view is None:
            with contextlib.suppress(coord.QueueEmpty):
                await queue.get(timeout=0.05)
        while not consumer._turns._names or len(consumer._view) != items:
            await asyncio.sleep(0.001)


def begun(queue: AnyQueue, getters: int) -> list[asyncio.Task[coord.QueueItem]]:
    return [asyncio.ensure_future(queue.get()) for _ in range(getters)]


async def results(tasks: list[asyncio.Task[coord.QueueItem]]) -> list[bytes]:
    async with asyncio.timeout(WITHIN_S):
        return [(await task).value for task in tasks]


def see_once(queue: AnyQueue, entries: list[coord.KeyValue]) -> None:
    """Let the next look at the view show ``entries``, and all later ones what there is."""
    order = queue._consumer._order
    heads = order.heads
    begin = queue._consumer._begin

    def begin_and_see(*args: object, **kwargs: object) -> object:
        order.heads = heads  # type: ignore[method-assign]
        return begin(*args, **kwargs)  # type: ignore[arg-type]

    order.heads = lambda *_: list(entries)  # type: ignore[method-assign]
    queue._consumer._begin = begin_and_see  # type: ignore[method-assign, assignment]


def takes(faulty: Plan) -> int:
    return faulty.paths.count(TXN)


@pytest.mark.parametrize("kind", ["queue", "priority"])
async def test_those_who_wait_are_served_by_one_transaction(
    inline: coord.Client, kind: str
) -> None:
    async with made(inline, kind) as queue:
        await following(queue, 0)
        getters = begun(queue, 8)
        await asyncio.sleep(0.01)
        faulty = make_faulty(inline)
        names = [b"%d" % n for n in range(9)]
        # Of a foreign producer, all at one revision.
        keys = [b"q/00100/%016d" % n for n in range(9)]
        puts = [coord.op.put(key, name) for key, name in zip(keys, names, strict=True)]
        await inline.txn().then(*puts).commit()
        assert await results(getters) == names[:8]
        assert takes(faulty) == 2
        assert [item.value for item in await queue.peek(2)] == [b"8"]


async def test_there_is_a_bound(inline: coord.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "_MOST", 3)
    async with inline.queue("q") as queue:
        await following(queue, 0)
        getters = begun(queue, 7)
        await asyncio.sleep(0.01)
        queue._consumer._most = 3
        faulty = make_faulty(inline)
        await queue.put_many([b"%d" % n for n in range(7)])
        assert await results(getters) == [b"%d" % n for n in range(7)]
        assert takes(faulty) == 1 + 3


@pytest.mark.parametrize(("strict", "items"), [(True, 3), (False, 7)])
async def test_a_take_fits_the_limits_of_the_store(*, strict: bool, items: int) -> None:
    async with (
        coord.connect("memory:", runtime="inline", max_txn_ops=8) as client,
        client.priority_queue("q", strict=strict) as queue,
    ):
        await following(queue, 0)
        for n in range(9):
            await queue.put(b"%d" % n)
        await following(queue, 9)
        faulty = make_faulty(client)
        assert await results(begun(queue, 9)) == [b"%d" % n for n in range(9)]
        # The first getter runs before there are others.
        assert takes(faulty) == 1 + -(-8 // items)


async def test_one_that_is_gone_does_not_keep_the_others(inline: coord.Client) -> None:
    async with inline.queue("q") as queue:
        await following(queue, 0)
        for name in "abcd":
            await queue.put(name)
        entries = list(await queue._consumer.read(3))
        await following(queue, 4)
        see_once(queue, entries)
        await inline.delete(entries[1].key)
        assert sorted(await results(begun(queue, 3))) == [b"a", b"c", b"d"]


async def test_what_is_more_urgent_than_one_of_them_comes_in_its_place(
    inline: coord.Client,
) -> None:
    async with inline.priority_queue("q") as queue:
        await following(queue, 0)
        await queue.put("first", priority=1)
        await queue.put("third", priority=3)
        entries = list(await queue._consumer.read(2))
        await queue.put("second", priority=2)
        await following(queue, 3)
        see_once(queue, entries)
        assert await results(begun(queue, 2)) == [b"first", b"second"]


async def test_a_failure_is_told_to_each_for_whom_it_was(inline: coord.Client) -> None:
    async with inline.queue("q") as queue:
        await following(queue, 0)
        getters = begun(queue, 3)
        await asyncio.sleep(0.01)
        markers = inline._core.markers
        run = markers.run
        tried = asyncio.Event()

        async def refuse(*_: object, **__: object) -> object:
            tried.set()
            await asyncio.sleep(0)
            markers.run = run  # type: ignore[method-assign]
            raise coord.PermissionDenied("no")

        puts = [coord.op.put(f"q/{n}", f"{n}") for n in range(3)]
        markers.run = refuse  # type: ignore[method-assign, assignment]
        await inline.txn().then(*puts).commit()
        await tried.wait()
        late = begun(queue, 1)
        async with asyncio.timeout(WITHIN_S):
            ended = await asyncio.gather(*getters, return_exceptions=True)
        assert all(isinstance(error, coord.PermissionDenied) for error in ended)
        assert await results(late) == [b"0"]


@pytest.mark.parametrize("stay", [0, 1])
async def test_what_was_taken_for_those_who_have_gone_goes_back_in_order(
    inline: coord.Client, stay: int
) -> None:
    async with inline.queue("q") as queue:
        await following(queue, 0)
        getters = begun(queue, 4)
        await asyncio.sleep(0.01)
        faulty = make_faulty(inline)
        taking = asyncio.Event()

        def note(path: str) -> None:
            if takes(faulty) == 2:  # the put, and the take
                taking.set()

        faulty.on_call = note
        await queue.put_many(["a", "b", "c", "d"])
        await taking.wait()
        for getter in getters[stay:]:
            getter.cancel()
        await asyncio.wait(getters)
        async with asyncio.timeout(WITHIN_S):
            while await queue.size() < 4 - stay:
                await asyncio.sleep(0.001)
        left = await queue.peek(5)
        assert all(item.returned for item in left)
        assert [item.value for item in left] == [b"a", b"b", b"c", b"d"][stay:]


async def test_closing_meanwhile_loses_nothing(inline: coord.Client) -> None:
    queue = inline.queue("q")
    await following(queue, 0)
    getters = begun(queue, 4)
    await asyncio.sleep(0.01)
    faulty = make_faulty(inline)
    taking = asyncio.Event()
    faulty.on_call = lambda _: taking.set() if takes(faulty) == 2 else None
    await queue.put_many(["a", "b", "c", "d"])
    await taking.wait()
    await queue.close()
    ended = await asyncio.gather(*getters, return_exceptions=True)
    got = [item.value for item in ended if isinstance(item, coord.QueueItem)]
    assert all(isinstance(each, coord.QueueItem | coord.ClientClosed) for each in ended)
    got += [item.value for item in await queue.peek(5)]
    assert got == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("kind", ["queue", "priority"])
@pytest.mark.parametrize("seed", range(3))
async def test_histories_under_faults_fit_the_model(
    inline: coord.Client, quick: None, seed: int, kind: str
) -> None:
    """2 objects with 4 getters each, all transactions under random faults, getters that give up at random."""
    chance = random.Random(seed)
    names = [str(n).encode() for n in range(60)]
    got: list[bytes] = []
    async with recorded(inline, "q/") as events:
        faulty = make_faulty(inline)
        queues = [made(inline, kind) for _ in range(2)]

        def plan(path: str) -> None:
            if path == TXN and chance.random() < 0.15:
                faulty.plan.append(chance.choice(FAULTS))

        faulty.on_call = plan

        async def produce() -> None:
            for name in names:
                await queues[0].put(name)
                if chance.random() < 0.2:
                    await faulty.deliver_late()

        async def consume(queue: AnyQueue) -> None:
            while len(got) < len(names):
                with contextlib.suppress(coord.QueueEmpty):
                    timeout = chance.choice([0.001, 0.01, 0.2])
                    got.append((await queue.get(timeout=timeout)).value)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(produce())
            for queue in queues:
                for _ in range(4):
                    group.create_task(consume(queue))
        faulty.on_call = lambda _: None
        await faulty.deliver_late()
        for queue in queues:
            await queue.close()
    assert Counter(got) == Counter(names)
    model = HandOffModel(by_key=kind == "priority")
    model.play(events)
    assert not model.items
