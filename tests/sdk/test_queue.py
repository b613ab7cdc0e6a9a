"""Queues that hand items over, on every store: order, one taker each, waiting, layout, cost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

import coord
import coord.sync
from coord.testing import Faults, MemoryWorld
from tests.sdk.queue_models import HandOffModel, patient, recorded

__all__ = ["patient"]

WITHIN_S = 20.0


async def values(queue: coord.Queue | coord.PriorityQueue, count: int) -> list[bytes]:
    async with asyncio.timeout(WITHIN_S):
        return [(await queue.get()).value for _ in range(count)]


# -- first in, first out -------------------------------------------------------------------------------------------


async def test_items_come_in_the_order_of_their_puts(client: coord.Client, prefix: str) -> None:
    async with client.queue(prefix + "q") as queue:
        revisions = [await queue.put(f"v{n}") for n in range(5)]
        assert revisions == sorted(set(revisions))
        assert await queue.size() == 5
        assert [item.value for item in await queue.peek(3)] == [b"v0", b"v1", b"v2"]
        first = await queue.get()
        assert (first.value, first.revision, first.returned) == (b"v0", revisions[0], False)
        assert await values(queue, 4) == [b"v1", b"v2", b"v3", b"v4"]
        assert await queue.size() == 0
        assert await queue.peek() == ()


async def test_a_batch_is_taken_in_its_order(client: coord.Client, prefix: str) -> None:
    async with client.queue(prefix + "q") as queue:
        await queue.put_many([f"{n}" for n in range(40)])
        await queue.put("last")
        wanted = [str(n).encode() for n in range(40)] + [b"last"]
        assert [item.value for item in await queue.peek(50)] == wanted
        # The first is taken without a view, the others with one.
        assert await values(queue, 41) == wanted
        with pytest.raises(coord.InvalidArgument):
            await queue.put_many([])


async def test_the_layout_is_that_of_go(client: coord.Client, prefix: str) -> None:
    async with client.queue(prefix + "q") as queue:
        await queue.put("one")
        await queue.put_many(["two", "three"])
        found = (await client.get_prefix(prefix + "q", sort_by=coord.SortBy.MOD_REVISION)).items
        assert {kv.value for kv in found} == {b"one", b"two", b"three"}
        assert all(kv.lease == 0 and kv.version == 1 for kv in found)
        plain, *batch = sorted(found, key=lambda kv: (kv.mod_revision, kv.key))
        head = f"{prefix}q/".encode()
        assert len(plain.key) == len(head) + 16
        assert int(plain.key[len(head) :], 16) >= 0
        stems = {kv.key[: len(head) + 16] for kv in batch}
        assert [kv.key[len(head) + 16 :] for kv in batch] == [b"-0000", b"-0001"]
        assert len(stems) == 1


async def test_a_peer_with_the_layout_of_go_puts_and_takes(
    client: coord.Client, prefix: str
) -> None:
    """Go's recipes.Queue: keys ``name/<nanoseconds>``; takes the lowest revision, if it is still there."""
    async with client.queue(prefix + "q") as queue:
        await client.put(prefix + "q/1700000000000000000", "theirs")
        await queue.put("ours")
        assert (await queue.get()).value == b"theirs"
        found = await client.get_prefix(prefix + "q/", sort_by=coord.SortBy.MOD_REVISION, limit=1)
        key = found.items[0].key
        same = coord.compare.mod_revision(key) == found.items[0].mod_revision
        assert (await client.txn().when(same).then(coord.op.delete(key)).commit()).succeeded
        assert await queue.try_get() is None


async def test_neighbours_are_not_touched(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "q", "not an item")
    async with client.queue(prefix + "q") as queue, client.queue(prefix + "q0") as other:
        await other.put("elsewhere")
        assert await queue.size() == 0
        assert await queue.try_get() is None
        assert (await other.get()).value == b"elsewhere"


async def test_get_waits_and_times_out(client: coord.Client, prefix: str) -> None:
    async with client.queue(prefix + "q") as queue:
        with pytest.raises(coord.QueueEmpty) as caught:
            await queue.get(timeout=0.1)
        assert isinstance(caught.value, TimeoutError)
        waiting = [asyncio.ensure_future(queue.get()) for _ in range(3)]
        await asyncio.sleep(0.05)
        for n in range(3):
            await queue.put(f"v{n}")
        async with asyncio.timeout(WITHIN_S):
            assert [(await each).value for each in waiting] == [b"v0", b"v1", b"v2"]
        with pytest.raises(coord.InvalidArgument):
            await queue.get(timeout=-1)


async def test_try_get_is_as_of_now(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as one,
        coord.connect(endpoint) as two,
        one.queue(prefix + "q") as puts,
        two.queue(prefix + "q") as takes,
    ):
        assert await takes.try_get() is None
        for n in range(30):
            await puts.put(f"{n}")
            assert got(await takes.try_get()) == str(n).encode()
            if n == 1:  # from here on with a view
                with contextlib.suppress(coord.QueueEmpty):
                    await takes.get(timeout=0.01)


async def test_a_cancelled_get_loses_no_item(client: coord.Client, prefix: str) -> None:
    async with client.queue(prefix + "q") as queue:
        wanted, got = set[bytes](), list[bytes]()
        for n in range(40):
            await queue.put(f"{n}")
            wanted.add(str(n).encode())
            getting = asyncio.ensure_future(queue.get())
            # From before it is sent to after it is answered.
            for _ in range(n % 8):
                await asyncio.sleep(0)
            if n % 4 == 0:
                await asyncio.sleep(0.001 * (n % 5))
            getting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                got.append((await getting).value)
        async with asyncio.timeout(WITHIN_S):
            while len(got) < 40:
                got.append((await queue.get()).value)
        assert sorted(got) == sorted(wanted)
        assert await queue.size() == 0


async def test_close_ends_getters_and_leaves_items(client: coord.Client, prefix: str) -> None:
    queue = client.queue(prefix + "q")
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0.05)
    await queue.close()
    with pytest.raises(coord.ClientClosed):
        await waiting
    await queue.close()
    await queue.put("stays")
    assert await queue.size() == 1
    with pytest.raises(coord.ClientClosed):
        await queue.get()
    assert await client.count(f"_coord/consumers/{prefix}q/") == 0


async def test_a_value_that_is_too_large_is_refused_here(client: coord.Client, prefix: str) -> None:
    async with client.queue(prefix + "q") as queue:
        with pytest.raises(coord.PayloadTooLarge, match="queue"):
            await queue.put(b"x" * (512 * 1024 + 1))
        assert await queue.size() == 0


@pytest.mark.parametrize("kind", ["queue", "priority_queue"])
async def test_each_item_has_one_taker_and_takes_come_in_order(
    endpoint: str, prefix: str, kind: str
) -> None:
    """4 producers, 4 consumers, each a client of its own; the history is played to the model."""
    name, count = prefix + "q", 25
    taken: list[bytes] = []
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(coord.connect(endpoint)) for _ in range(4)]
        queues = [_queue(c, kind, name) for c in clients]
        for queue in queues:
            stack.push_async_callback(queue.close)

        async def produce(number: int) -> None:
            for n in range(count):
                await queues[number].put(f"{number}-{n}")

        async def consume(number: int) -> None:
            while len(taken) < 4 * count:
                try:
                    taken.append((await queues[number].get(timeout=1)).value)
                except coord.QueueEmpty:
                    continue

        async with (
            asyncio.timeout(60),
            recorded(clients[0], name + "/") as events,
            asyncio.TaskGroup() as group,
        ):
            for number in range(4):
                group.create_task(produce(number))
                group.create_task(consume(number))
    assert Counter(taken) == Counter(f"{p}-{n}".encode() for p in range(4) for n in range(count))
    model = HandOffModel(by_key=kind == "priority_queue")
    model.play(events)
    assert len(model.taken) == 4 * count
    assert not model.items


def _queue(client: coord.Client, kind: str, name: str) -> coord.Queue | coord.PriorityQueue:
    return client.queue(name) if kind == "queue" else client.priority_queue(name)


# -- by priority ---------------------------------------------------------------------------------------------------


async def test_the_most_urgent_comes_first(client: coord.Client, prefix: str) -> None:
    async with client.priority_queue(prefix + "q") as queue:
        for priority in (100, 7, 65535, 0, 7):
            await queue.put(f"{priority}", priority=priority)
        await queue.put("second of 7")  # no: that is 100
        assert [item.value for item in await queue.peek(2)] == [b"0", b"7"]
        wanted = [b"0", b"7", b"7", b"100", b"second of 7", b"65535"]
        assert await values(queue, 6) == wanted
        for wrong in (-1, 65536, True, 1.5, "7"):
            with pytest.raises(coord.BadPriority):
                await queue.put("x", priority=wrong)  # type: ignore[arg-type]


async def test_an_urgent_item_overtakes_while_somebody_waits(
    client: coord.Client, prefix: str
) -> None:
    async with client.priority_queue(prefix + "q") as queue:
        await queue.put("a", priority=9)
        assert (await queue.get()).value == b"a"
        for n in range(5):
            await queue.put(f"late-{n}", priority=9)
        await queue.put("urgent", priority=1)
        assert await values(queue, 6) == [b"urgent", *[f"late-{n}".encode() for n in range(5)]]


async def test_the_layout_by_priority_is_that_of_go(client: coord.Client, prefix: str) -> None:
    async with client.priority_queue(prefix + "q") as queue:
        await queue.put("a", priority=5)
        await queue.put("b", priority=5)
        await queue.put("c", priority=100)
        found = {
            kv.key.decode(): kv.value
            for under in (prefix + "q", "__" + prefix + "q")
            for kv in (await client.get_prefix(under)).items
        }
        assert found == {
            f"{prefix}q/00005/{0:016d}": b"a",
            f"{prefix}q/00005/{1:016d}": b"b",
            f"{prefix}q/00100/{0:016d}": b"c",
            f"__{prefix}q/00005": b"",
            f"__{prefix}q/00100": b"",
        }
        # What Go's recipes.PriorityQueue puts behind ours, and takes before it.
        await client.put(f"{prefix}q/00005/{2:016d}", "theirs")
        await client.delete(f"{prefix}q/00005/{0:016d}")
        assert await values(queue, 3) == [b"b", b"theirs", b"c"]


async def test_producers_of_one_priority_do_not_swap_or_lose(endpoint: str, prefix: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(coord.connect(endpoint)) for _ in range(3)]
        queues = [c.priority_queue(prefix + "q") for c in clients]

        async def produce(number: int) -> None:
            for n in range(10):
                await queues[number].put(f"{number}-{n}")

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(produce(number))
        keys = [kv.key for kv in (await clients[0].get_prefix(prefix + "q/")).items]
        assert keys == [f"{prefix}q/00100/{n:016d}".encode() for n in range(30)]
        got = await values(queues[0], 30)
        for number in range(3):
            mine = [value for value in got if value.startswith(b"%d-" % number)]
            assert mine == [f"{number}-{n}".encode() for n in range(10)]
        await queues[0].close()


# -- by time -------------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[MemoryWorld]:
    with MemoryWorld() as made:
        yield made


def test_no_item_comes_before_its_time(world: MemoryWorld) -> None:
    client = world.connect_sync()
    with client.delay_queue("q") as queue:
        queue.put("later", delay=7200)
        queue.put("soon", delay=3600)
        queue.put("now")
        queue.put("then", at=world_now(client) + 5400)
        assert queue.size() == 4
        assert got(queue.try_get()) == b"now"
        assert queue.try_get() is None
        # By a clock that stands still, so to the second: one that flies goes on while the machine is busy.
        for after, value in ((3600, b"soon"), (1800, b"then"), (1800, b"later")):
            world.clock.advance(after - 1)
            assert queue.try_get() is None
            world.clock.advance(1)
            assert got(queue.try_get()) == value
        begun = world_now(client)
        queue.put("waited for", delay=3600)
        with world.clock.flying():
            with pytest.raises(coord.QueueEmpty):
                queue.get(timeout=60)
            assert queue.get().value == b"waited for"
            assert world_now(client) - begun >= 3600


def test_an_earlier_item_overtakes_a_wait(world: MemoryWorld) -> None:
    one, two = world.connect_sync(), world.connect_sync()
    with one.delay_queue("q") as queue, two.delay_queue("q") as other:
        queue.put("first", delay=1)
        world.clock.advance(1)
        assert queue.get().value == b"first"
        queue.put("late", delay=100)
        other.put("early", delay=50)
        with world.clock.flying():
            assert queue.get().value == b"early"
            assert queue.get().value == b"late"


def test_a_clock_that_is_wrong_takes_early_or_late(world: MemoryWorld) -> None:
    client = world.connect_sync()
    fast, right = client.delay_queue("q"), client.delay_queue("q")
    clock = client._portal.core.env.clock
    fast._async._consumer._order._wall = lambda: clock.wall() + 10.0  # type: ignore[attr-defined]
    right.put("x", delay=12)
    world.clock.advance(1)
    assert fast.try_get() is None
    world.clock.advance(1.5)
    assert right.try_get() is None
    assert got(fast.try_get()) == b"x"
    fast.close()
    right.close()


def world_now(client: coord.sync.Client) -> float:
    return client._portal.core.env.clock.wall()


def got(item: coord.QueueItem | None) -> bytes:
    assert item is not None
    return item.value


async def test_times_and_layout(client: coord.Client, prefix: str) -> None:
    async with client.delay_queue(prefix + "q") as queue:
        at = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
        await queue.put("past", at=at)
        await queue.put("older", at=at - timedelta(seconds=1))
        keys = [kv.key for kv in (await client.get_prefix(prefix + "q/")).items]
        head = f"{prefix}q/".encode()
        assert [key[len(head) : len(head) + 17] for key in keys] == [
            b"0000999999999000-",
            b"0001000000000000-",
        ]
        assert all(len(key) == len(head) + 17 + 16 for key in keys)
        assert (await queue.get()).value == b"older"
        assert (await queue.get()).value == b"past"
        for wrong in ({"delay": -1}, {"at": datetime(2001, 9, 9)}, {"delay": 1, "at": 1.0}):  # noqa: DTZ001
            with pytest.raises(coord.InvalidArgument):
                await queue.put("x", **wrong)  # pyright: ignore[reportArgumentType]


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_a_put_and_a_take_cost_one_request_each() -> None:
    faults = Faults()
    with faults.everywhere():
        async with coord.connect("memory:") as client, client.queue("q") as queue:
            await queue.put("for the marker's lease")
            faults.clear()
            await queue.put("a")
            assert [call.method for call in faults.calls] == ["KV/Txn"]
            faults.clear()
            await queue.get()  # without a view: a read and a take
            assert [call.method for call in faults.calls] == ["KV/Txn", "KV/Txn"]
            with contextlib.suppress(coord.QueueEmpty):
                await queue.get()
                await queue.get(timeout=0.1)
            for n in range(5):
                await queue.put(f"{n}")
            await queue.get()
            faults.clear()
            await queue.get()
            assert [call.method for call in faults.calls if "Lease" not in call.method] == [
                "KV/Txn"
            ]


async def test_consumers_do_not_all_try_each_item(prefix: str, patient: None) -> None:
    """50 consumers wait: an item costs at most 1.2 takes (spec recipes 21)."""
    faults, consumers, items = Faults(), 50, 40
    async with AsyncExitStack() as stack:
        stack.enter_context(faults.everywhere())
        host = await stack.enter_async_context(coord.connect("memory:", runtime="inline"))
        queues: list[coord.Queue] = []
        for _ in range(consumers):
            # Clients of one core, and a session each: consumers of their own, to one server.
            made = coord.Client(host._core)
            made._closed = True
            queues.append(await stack.enter_async_context(made.queue(prefix)))
        got: list[bytes] = []

        async def consume(queue: coord.Queue) -> None:
            while True:
                got.append((await queue.get()).value)

        tasks = [asyncio.ensure_future(consume(queue)) for queue in queues]
        async with asyncio.timeout(WITHIN_S):
            while await host.count(f"_coord/consumers/{prefix}/") < consumers:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            faults.clear()
            for n in range(items):
                await host.put(f"{prefix}/{n}", f"{n}")  # as a foreign producer
                while len(got) <= n:
                    await asyncio.sleep(0.001)
        takes = faults.count("Txn")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert sorted(got) == sorted(str(n).encode() for n in range(items))
    assert takes <= 1.2 * items
