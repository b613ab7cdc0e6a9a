"""What stands behind a name, for every layout, on every store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import pytest

import coord
from tests.sdk.conftest import STORES
from tests.support.servers import ServerProcess

WITHIN_S = 20.0


@pytest.fixture(params=[*STORES, "memory"])
async def inline(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[coord.Client]:
    """A client on the test's own loop, in a namespace of its own."""
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    async with coord.connect(target, runtime="inline", namespace=f"explain/{prefix}") as made:
        yield made


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def background(*waits: Awaitable[object]) -> AsyncGenerator[None]:
    """Let these wait beside the block."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_nothing_and_something_unknown(inline: coord.Client) -> None:
    told = await inline.explain("a")
    assert (told.layout, told.holder, told.line, str(told)) == ("free", None, (), "'a' is free")
    await inline.put("a", "7")
    await inline.put("a/x", "1")
    told = await inline.explain("a")
    assert (told.layout, told.holder) == ("unknown", None)
    assert [place.key for place in told.waiters] == [b"a/x"]
    assert str(told).splitlines()[:2] == [
        "'a' is of no layout that is known",
        "  the key itself, and 1 keys below it",
    ]


async def test_a_lock_and_a_multi_lock(inline: coord.Client) -> None:
    async with inline.multi_lock(["a", "b"]).hold():
        told = await inline.explain("a")
        assert (told.layout, told.holding) == ("line", 1)
        assert told.facts == ("taken together with 'b'",)
        assert told.holder is not None
        assert told.holder.age is not None
    async with inline.mutex("a").hold():
        assert (await inline.explain("a")).facts == ()
    async with inline.mutex("s", layout="single-key", label="job").hold():
        told = await inline.explain("s")
        assert told.layout == "single key"
        assert told.holder is not None
        assert (told.holder.key, told.holder.metadata["label"]) == (b"s", "job")
        assert told.holder.ttl_left


async def test_a_read_write_lock(inline: coord.Client) -> None:
    lock = inline.rwlock("rw")
    async with lock.read().hold() as one, inline.session(ttl=30) as other:
        second = inline.rwlock("rw", session=other)
        async with background(second.write().acquire()):
            await until(lambda: _waiting(inline, "rw"))
            told = await inline.explain("rw")
            assert (told.layout, told.holding) == ("read-write lock", 1)
            assert told.holder is not None
            assert (told.holder.token, told.holder.role) == (one.token, "reads")
            (waiter,) = told.waiters
            assert (waiter.role, waiter.lease_id) == ("waits to write", other.lease_id)
            assert waiter.ttl_left
            assert "pid" in str(told)


async def _waiting(client: coord.Client, name: str) -> bool:
    return bool((await client.explain(name)).waiters)


async def test_a_semaphore_and_what_its_holder_waits_for(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as mine, inline.session(ttl=30) as other:
        semaphore = inline.semaphore("s", limit=3, session=mine)
        async with (
            semaphore.hold(2),
            inline.mutex("m", session=other).hold(),
            inline.rwlock("rw", session=other).write().hold(),
            inline.semaphore("t", limit=1, session=other).hold(),
            background(
                inline.semaphore("s", limit=3, session=other).acquire(2),
                inline.mutex("m", session=mine).acquire(),
                inline.rwlock("rw", session=mine).read().acquire(),
                inline.semaphore("t", limit=1, session=mine).acquire(),
            ),
        ):
            for name in ("s", "m", "rw", "t"):
                await until(lambda name=name: _waiting(inline, name))  # type: ignore[misc]
            told = await inline.explain("s")
            assert told.layout == "semaphore"
            assert told.facts == ("limit 3, 2 in use",)
            assert [place.role for place in told.line] == [
                "holds 2 permits",
                "waits for 2 permits",
            ]
            assert {(wait.name, wait.ahead, wait.holder) for wait in told.waits} >= {
                (b"m", 1, other.lease_id),
                (b"rw", 1, other.lease_id),
                (b"t", 1, other.lease_id),
            }
            assert not told.circular
            found = await inline.explain("t")
            assert (found.holder, [wait.name for wait in found.waits]) == (
                found.line[0],
                [b"s"],
            )


async def test_gates(inline: coord.Client) -> None:
    barrier = inline.barrier("gate")
    gate = await barrier.hold()
    told = await inline.explain("gate")
    assert told.layout == "barrier"
    assert told.facts == (f"closed, by token {gate.token}, until somebody opens it",)
    await gate.release()
    assert (await inline.explain("gate")).layout == "free"
    latch = inline.latch("latch", 3)
    await latch.count_down("a")
    told = await inline.explain("latch")
    assert told.layout == "latch"
    assert told.facts == ("waits for 2 arrivals, of 3, generation 1", "arrived: 'a'")
    await latch.count_down("b")
    await latch.count_down("c")
    assert (await inline.explain("latch")).facts[0] == "open, of 3, generation 1"


async def test_a_double_barrier(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        first = inline.double_barrier("d", 2, session=one)
        second = inline.double_barrier("d", 2, session=two)
        entering = asyncio.ensure_future(first.enter())
        await until(lambda: _waiting(inline, "d"))
        told = await inline.explain("d")
        assert (told.layout, told.holding) == ("double barrier", 0)
        assert told.facts == ("1 party waiting to enter",)
        assert [place.lease_id for place in told.waiters] == [one.lease_id]
        await asyncio.gather(second.enter(), entering)
        told = await inline.explain("d")
        assert {place.lease_id for place in told.holders} == {one.lease_id, two.lease_id}
        assert told.facts[1].startswith("a round is under way since revision")
        await asyncio.gather(first.leave(), second.leave())


async def test_queues(inline: coord.Client) -> None:
    kinds = {
        "q": inline.queue("q").put(b"1"),
        "p": inline.priority_queue("p").put(b"1", priority=7),
        "d": inline.delay_queue("d").put(b"1", delay=1000),
    }
    names = {"q": "a queue", "p": "a priority queue", "d": "a delay queue"}
    for name, putting in kinds.items():
        await putting
        told = await inline.explain(name)
        assert (told.layout, told.line) == ("queue", ())
        assert told.facts[0] == f"{names[name]} of 1 item"
        assert told.facts[1].startswith("the oldest is '")
    assert "the next one is due in " in str(await inline.explain("d"))
    await inline.queue("q").put(b"2")
    assert (await inline.explain("q")).facts[0] == "a queue of 2 items"


async def test_a_work_queue(inline: coord.Client) -> None:
    async with inline.work_queue("w") as queue:
        for _ in range(3):
            await queue.put(b"x")
        (item,) = await queue.receive(timeout=WITHIN_S)
        told = await inline.explain("w")
        assert told.layout == "work queue"
        assert told.facts[0].startswith("3 items: 2 ready, 1 claimed, 0 delayed; 0 dead letters, ")
        (claim,) = told.holders
        assert claim.role == f"works on '{item.id}', attempt 1"
        assert claim.ttl_left
        await item.ack()


async def test_services_and_groups(inline: coord.Client) -> None:
    async with inline.registry("svc").register("10.0.0.1:80", id="one"):
        told = await inline.explain("svc")
        assert (told.layout, told.facts) == ("service", ("1 instance",))
        (place,) = told.holders
        assert (place.key, place.role) == (b"svc/one", "at 10.0.0.1:80, serving")
        assert place.ttl_left
    async with inline.membership("group").join("a", data={"x": 1}):
        told = await inline.explain("group")
        assert (told.layout, told.facts) == ("group", ("1 member",))
        assert [(each.key, each.role) for each in told.holders] == [(b"group/a", "is a member")]


async def test_rate_limiters(inline: coord.Client) -> None:
    await inline.rate_limiter("r", 0.001, burst=5).acquire(2)
    told = await inline.explain("r")
    assert (told.layout, told.facts) == (
        "rate limiter",
        ("strict: 0.001 per second, 5 at once, 3 there now",),
    )
    async with inline.rate_limiter("d", 100, ttl=2) as limiter:
        await limiter.acquire(timeout=WITHIN_S)
        told = await inline.explain("d")
        assert told.facts == ("divided: 100 per second, 100 at once",)
        assert [place.role for place in told.holders] == ["has 100 per second"]
