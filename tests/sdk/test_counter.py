"""Counters, sharded counters and allocators of ids: exact under contention, lost answers and late copies."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from typing_extensions import override

import coord
from coord.rpc import RpcError, StatusCode
from coord.testing import Call, FaultRule, Faults
from tests.sdk.conftest import STORES
from tests.support.faulty import TXN, Fault, Plan, make_faulty, put_under
from tests.support.servers import ServerProcess
from tests.support.virtual import VirtualLoop, run_virtual, virtual_client

RANGE = "/etcdserverpb.KV/Range"
INT64_MAX = 2**63 - 1


@pytest.fixture(params=[*STORES, "memory"])
async def inline(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[coord.Client]:
    """A client on the test's own loop, in a namespace of its own."""
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    async with coord.connect(target, runtime="inline", namespace=f"counter/{prefix}") as made:
        yield made


async def raw(client: coord.Client, key: str) -> bytes | None:
    found = await client.get(key)
    return None if found is None else found.value


# What it is.


async def test_it_counts(client: coord.Client, prefix: str) -> None:
    counter = client.counter(prefix + "n", initial=10)
    assert await counter.value() == 10
    assert await raw(client, prefix + "n") is None
    assert await counter.add() == 11
    assert await counter.add(5) == 16
    assert await counter.add(-20) == -4
    assert await counter.value() == -4
    # The layout: one key, decimal.
    found = await client.get_prefix(prefix)
    assert [(kv.key, kv.value) for kv in found.items] == [(f"{prefix}n".encode(), b"-4")]
    await counter.reset(7)
    assert await client.counter(prefix + "n").add() == 8
    await client.delete(prefix + "n")
    assert await counter.add() == 11


async def test_what_others_write_is_seen(client: coord.Client, prefix: str) -> None:
    counter = client.counter(prefix + "n")
    assert await counter.add() == 1
    await client.put(prefix + "n", "0041")
    assert await counter.add() == 42


@pytest.mark.parametrize("text", ["", "x", "1.5", " 1", "1\n", "+1", "1e3", "٣", "1" * 5000])
async def test_what_is_no_number(inline: coord.Client, text: str) -> None:
    await inline.put("n", text)
    counter = inline.counter("n", bigint=True)
    for call in (counter.add, counter.value):
        with pytest.raises(coord.NotANumber, match="holds no number") as caught:
            await call()
        assert (caught.value.key, caught.value.found) == (b"n", text.encode())
    assert await raw(inline, "n") == text.encode()
    await counter.reset()
    assert await counter.add() == 1


async def test_sixty_four_bits_unless_told_otherwise(inline: coord.Client) -> None:
    counter = inline.counter("n", initial=INT64_MAX - 1)
    assert await counter.add() == INT64_MAX
    with pytest.raises(coord.Overflow, match="64 bits"):
        await counter.add()
    assert await raw(inline, "n") == b"%d" % INT64_MAX
    large = inline.counter("n", bigint=True)
    assert await large.add() == INT64_MAX + 1
    with pytest.raises(coord.Overflow):
        await counter.value()
    with pytest.raises(coord.Overflow, match="4000 digits"):
        await large.add(10**4000)
    with pytest.raises(coord.Overflow):
        await counter.reset(-(2**63) - 1)
    with pytest.raises(coord.Overflow):
        inline.counter("n", initial=2**63)


@pytest.mark.parametrize("wrong", [1.0, "1", True, None])
async def test_only_integers(inline: coord.Client, wrong: object) -> None:
    with pytest.raises(coord.InvalidArgument, match="integers"):
        await inline.counter("n").add(wrong)  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="integers"):
        inline.counter("n", initial=wrong)  # type: ignore[arg-type]


async def test_the_cost(inline: coord.Client) -> None:
    first, second = inline.counter("n"), inline.counter("n")
    await first.add()  # and the lease of the markers
    seen = make_faulty(inline)
    await first.add()
    assert seen.paths == [TXN]
    seen.paths.clear()
    await second.add()
    assert seen.paths == [TXN, TXN]
    seen.paths.clear()
    await inline.counter("new").add()
    await first.reset()
    assert seen.paths == [TXN, TXN]
    seen.paths.clear()
    await first.value()
    assert seen.paths == [RANGE]


# All at once.


@dataclass(frozen=True, slots=True)
class Step:
    """One addition of ``n`` > 0, or one reading (0), and what it returned."""

    n: int
    result: int
    begun: int
    ended: int


def judge(history: list[Step], number: int = 0) -> None:
    """Run the history on one variable, in the only order that its results allow; times must allow it too."""
    latest = 0
    for step in sorted(history, key=lambda s: (s.result, s.n == 0, s.begun)):
        number += step.n
        assert step.result == number
        assert step.ended > latest, "it had ended before one that comes earlier in order began"
        latest = max(latest, step.begun)


def test_the_judge_sees_what_is_wrong() -> None:
    judge([Step(1, 1, 1, 4), Step(2, 3, 2, 3), Step(0, 3, 5, 6)])
    for wrong in (
        [Step(1, 1, 1, 2), Step(1, 1, 3, 4)],  # a lost update
        [Step(1, 1, 1, 2), Step(1, 3, 3, 4)],  # a doubled one
        [Step(1, 1, 1, 2), Step(0, 0, 3, 4)],  # a stale reading
        [Step(1, 2, 1, 2), Step(1, 1, 3, 4)],  # out of order
    ):
        with pytest.raises(AssertionError):
            judge(wrong)


async def test_histories_have_an_order(client: coord.Client, prefix: str) -> None:
    ticks = itertools.count(1)
    history: list[Step] = []

    async def worker(number: int) -> None:
        counter = client.counter(prefix + "n")
        for turn in range(8):
            begun = next(ticks)
            n = (number + turn) % 4
            result = await (counter.add(n) if n else counter.value())
            history.append(Step(n, result, begun, next(ticks)))

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(worker(number))
    judge(history)


async def test_many_writers(inline: coord.Client) -> None:
    """32 writers, each with a counter of its own, cost at most three transactions for each addition."""
    writers, rounds = 32, 6
    await inline.counter("n").add(0)
    seen = make_faulty(inline)
    told: list[int] = []

    async def writer() -> None:
        counter = inline.counter("n")
        told.extend([await counter.add(timeout=60) for _ in range(rounds)])

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(writer())
    assert sorted(told) == list(range(1, writers * rounds + 1))
    assert seen.paths.count(TXN) <= 3 * writers * rounds
    assert set(seen.paths) == {TXN}


async def test_tasks_share_a_counter(client: coord.Client, prefix: str) -> None:
    counter = client.counter(prefix + "n")

    async def writer() -> list[int]:
        return [await counter.add(timeout=60) for _ in range(10)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(writer()) for _ in range(8)]
    assert sorted(n for task in tasks for n in task.result()) == list(range(1, 81))


# Faults.


@pytest.mark.parametrize(
    "plan",
    [
        [Fault.LOSE_REPLY],
        [Fault.LOSE_REQUEST],
        [Fault.LATE],
        [Fault.TWICE],
        [Fault.LATE, Fault.LATE, Fault.LOSE_REQUEST, Fault.TWICE],
        [Fault.LOSE_REPLY, Fault.LOSE_REPLY, Fault.TWICE],
    ],
    ids=lambda plan: "+".join(fault.value for fault in plan),
)
async def test_added_exactly_once(inline: coord.Client, plan: list[Fault]) -> None:
    counter = inline.counter("n")
    await counter.add(3)
    faulty = make_faulty(inline, plan)
    assert await counter.add(4) == 7
    assert not faulty.plan
    await faulty.deliver_late()
    assert await counter.value() == 7
    faulty.plan.extend(plan)
    await counter.reset(1)
    await counter.add()
    await faulty.deliver_late()
    assert await counter.value() == 2


async def test_random_faults(inline: coord.Client) -> None:
    chance = random.Random(12)
    faulty = make_faulty(inline)
    faults = [Fault.NONE, Fault.NONE, *Fault]
    told: list[int] = []

    async def writer() -> None:
        counter = inline.counter("n")
        for _ in range(10):
            faulty.plan.append(chance.choice(faults))
            told.append(await counter.add(timeout=60))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(writer())
    faulty.plan.clear()
    await faulty.deliver_late()
    assert sorted(told) == list(range(1, 41))
    assert await raw(inline, "n") == b"40"


@pytest.mark.parametrize(("fault", "applied"), [(Fault.LOSE_REPLY, True), (Fault.LATE, False)])
async def test_out_of_time_in_doubt(inline: coord.Client, fault: Fault, *, applied: bool) -> None:
    counter = inline.counter("n")
    await counter.add()
    faulty = make_faulty(inline, [fault, *[Fault.LOSE_REQUEST] * 1000])
    with pytest.raises(coord.AmbiguousResult) as caught:
        await counter.add(timeout=0.3)
    faulty.plan.clear()
    assert (await caught.value.resolve() is not None) == applied
    await faulty.deliver_late()
    assert await counter.value() == (2 if applied else 1)
    assert await counter.add() == (3 if applied else 2)


async def test_without_a_marker_a_lost_answer_is_told(inline: coord.Client) -> None:
    counter = inline.counter("n", exactly_once=False)
    make_faulty(inline, [Fault.LOSE_REPLY])
    with pytest.raises(coord.AmbiguousResult):
        await counter.add()
    assert await counter.add() == 2
    assert await inline.count("_coord/") == 0


class Down(Plan):
    """Nobody there."""

    @override
    def match(self, call: Call, *, is_stream: bool) -> FaultRule | None:
        raise RpcError(StatusCode.UNAVAILABLE, "nobody there", sent=False)


async def test_the_store_is_down(inline: coord.Client) -> None:
    counter = inline.counter("n")
    await counter.add()
    take_away = put_under(inline, Down())
    with pytest.raises(coord.Unavailable):
        await counter.add(timeout=0.2)
    take_away()
    assert await counter.add() == 2


async def test_others_are_always_first(inline: coord.Client) -> None:
    counter = inline.counter("n")
    await counter.add()
    core = inline._core
    run = core.markers.run

    calls = 0

    async def late(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        await inline.put("n", str(await inline.count("") + 100))
        done = await run(*args, **options)  # type: ignore[arg-type]
        if calls == 3:  # its time ends here, not while a request is under way
            await asyncio.sleep(2)
        return done

    core.markers.run = late  # type: ignore[method-assign, assignment]
    with pytest.raises(coord.CoordTimeout, match="others came first"):
        await counter.add(timeout=2)
    core.markers.run = run  # type: ignore[method-assign]
    before = await counter.value()
    assert before > 100  # nothing was added
    assert await counter.add() == before + 1


@pytest.mark.parametrize("kind", ["counter", "atomic"])
def test_after_an_outage_it_goes_on_soon(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attempt took while the store was away is no measure for the pause behind it."""

    def longest(_: float, high: float) -> float:
        return high

    async def main(loop: VirtualLoop) -> None:
        async with virtual_client(loop) as client:
            rand: Any = client._core.env.rand
            monkeypatch.setattr(rand, "uniform", longest)
            adder, cell = client.counter("c"), client.atomic("c", int)
            await adder.add()
            faults = Faults()
            put_under(client, faults)
            slow = faults.delay("Txn", 4.0, times=2)
            begun = loop.time()
            add = (
                adder.add(timeout=20)
                if kind == "counter"
                else cell.update(lambda value: (value or 0) + 1, timeout=20)
            )
            adding = asyncio.ensure_future(add)
            for value in ("10", "20"):
                await asyncio.sleep(2.0)
                await client.put("c", value)
                await asyncio.sleep(2.0)
            await adding
            assert slow.hits == 2
            assert loop.time() - begun < 8.0 + 1.0 + 0.5
            assert await raw(client, "c") == b"21"

    run_virtual(main)


async def test_a_cancelled_addition(inline: coord.Client) -> None:
    counter = inline.counter("n")
    await counter.add()
    seen = make_faulty(inline)
    for turns in range(12):
        adding = asyncio.ensure_future(counter.add())
        seen.paths.clear()
        while not seen.paths:
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        adding.cancel()
        await asyncio.wait({adding})
        assert adding.cancelled() or adding.result() > 1
    total = await counter.add()
    assert 2 <= total <= 14
    assert await counter.value() == total


async def test_a_closed_client(endpoint: str, prefix: str) -> None:
    async with coord.connect(endpoint) as client:
        counter, ids = client.counter(prefix + "n"), client.id_allocator(prefix + "i")
    with pytest.raises(coord.ClientClosed):
        await counter.add()
    with pytest.raises(coord.ClientClosed):
        await ids.next()


# Shards.


async def test_shards(client: coord.Client, prefix: str) -> None:
    async def writer(number: int) -> None:
        counter = client.sharded_counter(prefix + "s", shards=4 if number % 2 else 8)
        for _ in range(10):
            await counter.add(number, timeout=60)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(writer(number))
    counter = client.sharded_counter(prefix + "s")
    assert await counter.value() == 280
    names = [kv.key for kv in (await client.get_prefix(prefix)).items]
    assert set(names) <= {f"{prefix}s/{n}".encode() for n in range(8)}
    await client.put(prefix + "s/x", "many")
    with pytest.raises(coord.NotANumber):
        await counter.value()


async def test_a_shard_that_others_use_is_left(inline: coord.Client) -> None:
    counter = inline.sharded_counter("s", shards=10_000)
    await counter.add()
    (first,) = (await inline.get_prefix("s/")).items
    await counter.add()
    assert await raw(inline, first.key.decode()) == b"2"
    await inline.put(first.key, "3")
    await counter.add()
    assert await raw(inline, first.key.decode()) == b"4"
    await counter.add()
    assert [kv.value for kv in (await inline.get_prefix("s/")).items] in (
        [b"4", b"1"],
        [b"1", b"4"],
    )
    assert await counter.value() == 5


@pytest.mark.parametrize("shards", [0, -1, 10_001])
async def test_the_number_of_shards(inline: coord.Client, shards: int) -> None:
    with pytest.raises(coord.InvalidArgument, match="shards"):
        inline.sharded_counter("s", shards=shards)


# Ids.


async def test_ids_are_unique_and_rise(client: coord.Client, prefix: str) -> None:
    one = client.id_allocator(prefix + "i", block=7)
    two = client.id_allocator(prefix + "i", block=3)

    async def take(ids: coord.IdAllocator) -> list[int]:
        return [await ids.next() for _ in range(20)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(take(ids)) for ids in (one, one, two, two)]
    taken = [task.result() for task in tasks]
    assert all(ids == sorted(ids) for ids in taken)
    everything = [n for ids in taken for n in ids]
    assert len(set(everything)) == 80
    assert min(everything) == 1
    last = await raw(client, prefix + "i")
    assert last is not None
    assert max(everything) <= int(last) <= 80 + 7 + 3


async def test_one_request_for_a_block(inline: coord.Client) -> None:
    ids = inline.id_allocator("i", block=100)
    assert await ids.next() == 1
    seen = make_faulty(inline)
    async with asyncio.TaskGroup() as group:
        for _ in range(199):
            group.create_task(ids.next())
    assert seen.paths == [TXN]
    assert await ids.next() == 201
    # What a process that ends has not used is never handed out.
    assert await inline.id_allocator("i").next() == 301


async def test_a_block_whose_answer_is_lost(inline: coord.Client) -> None:
    ids = inline.id_allocator("i", block=2)
    faulty = make_faulty(inline, [Fault.LOSE_REPLY, Fault.TWICE])
    taken = [await ids.next() for _ in range(6)]
    await faulty.deliver_late()
    assert taken == [1, 2, 3, 4, 5, 6]
    assert await raw(inline, "i") == b"6"


async def test_a_block_that_does_not_come(inline: coord.Client) -> None:
    ids = inline.id_allocator("i")
    faulty = make_faulty(inline, [Fault.LOSE_REQUEST] * 1000)
    first = asyncio.ensure_future(ids.next(timeout=1))
    await asyncio.sleep(0)
    with pytest.raises(coord.CoordTimeout, match="a block of ids"):
        await ids.next(timeout=0.05)
    with pytest.raises(coord.AmbiguousResult):
        await first
    faulty.plan.clear()
    assert await ids.next() == 1


@pytest.mark.parametrize("block", [0, 100_001])
async def test_the_size_of_a_block(inline: coord.Client, block: int) -> None:
    with pytest.raises(coord.InvalidArgument, match="block"):
        inline.id_allocator("i", block=block)
