"""Typed views: keys whose values are objects, on every store and carrier."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

import coord
from coord import EventType, codec
from tests.support.faulty import Fault, make_faulty


@dataclass(frozen=True)
class Rule:
    limit: int
    tags: tuple[str, ...] = ()


async def test_writes_and_reads_objects(client: coord.Client, prefix: str) -> None:
    rules = client.typed(Rule)
    assert await rules.get(prefix + "a") is None
    first = await rules.put(prefix + "a", Rule(1, ("x",)))
    await rules.put(prefix + "b", Rule(2))
    pair = await rules.get(prefix + "a")
    assert pair is not None
    assert (pair.value, pair.mod_revision) == (Rule(1, ("x",)), first.revision)
    raw = await client.get(prefix + "a")
    assert raw is not None
    assert raw.value == b'{"limit":1,"tags":["x"]}'
    listed = await rules.get_prefix(prefix, limit=1)
    assert ([i.value for i in listed.items], listed.count, listed.more) == ([Rule(1, ("x",))], 2, True)  # fmt: skip
    assert (await rules.delete(prefix + "a")).deleted == 1
    old = await rules.get(prefix + "a", revision=first.revision, serializable=True)
    assert old == pair


async def test_a_value_of_another_kind(client: coord.Client, prefix: str) -> None:
    rules = client.typed(codec.structured(Rule))
    await client.put(prefix, "?")
    with pytest.raises(coord.DecodeError, match=f"the value of b'{prefix}' is no Rule"):
        await rules.get(prefix)
    with pytest.raises(coord.DecodeError):
        await rules.get_prefix(prefix)
    with pytest.raises(coord.DecodeError):
        await rules.update(prefix, lambda _: Rule(1))
    with pytest.raises(coord.InvalidArgument, match="complex has no form in JSON"):
        client.typed(complex)


async def test_watches_objects(client: coord.Client, prefix: str) -> None:
    rules = client.typed(Rule)
    async with rules.watch(prefix, prefix=True, prev_kv=True) as watch:
        await rules.put(prefix + "a", Rule(1))
        await rules.put(prefix + "a", Rule(2))
        await client.put(prefix + "a", "?")
        await rules.put(prefix + "a", Rule(3))
        gone = await rules.delete(prefix + "a")
        events = [await anext(watch) for _ in range(5)]
        assert [event.type for event in events] == [EventType.PUT] * 4 + [EventType.DELETE]
        assert [event.value for event in (*events[:2], *events[3:])] == [Rule(1), Rule(2), Rule(3), None]  # fmt: skip
        assert [event.previous and event.previous.value for event in events] == [
            None,
            Rule(1),
            Rule(2),
            None,
            Rule(3),
        ]
        assert [event.is_create for event in events] == [True, False, False, False, False]
        with pytest.raises(coord.DecodeError):
            events[2].value  # noqa: B018 - reading is what raises
        assert events[2].pair is None
        assert watch.revision == events[4].revision == gone.revision
        assert watch.lag == 0
        await rules.put(prefix + "b", Rule(4))
        async for batch in watch.batches():
            assert [event.value for event in batch.events] == [Rule(4)]
            assert batch.revision == batch.events[0].revision
            break
    watch.close()


async def test_caches_objects(client: coord.Client, prefix: str) -> None:
    rules = client.typed(Rule)
    await rules.put(prefix + "a", Rule(1))
    async with (
        rules.cache(prefix=prefix, max_keys=10) as view,
        rules.cache(key=prefix + "a") as one,
    ):
        assert (view[prefix + "a"], one.value) == (Rule(1), Rule(1))
        assert [entry.value for entry in view.index("limit")[1]] == [Rule(1)]
    with pytest.raises(coord.CacheOverflow):
        await rules.cache(key=prefix + "a", max_bytes=1).open()
    with pytest.raises(coord.InvalidArgument, match="either prefix or key"):
        rules.cache(prefix="a", key="b")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def test_updates_do_not_lose_each_other(client: coord.Client, prefix: str) -> None:
    counts = client.typed(int)

    async def count() -> None:
        for _ in range(10):
            await counts.update(prefix, lambda value: (value or 0) + 1)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(count())
    pair = await counts.get(prefix)
    assert pair is not None
    assert (pair.value, pair.version) == (40, 40)
    done = await counts.update(prefix, lambda value: (value or 0) + 1)
    assert done == await counts.get(prefix)


async def test_an_update_keeps_the_lease(client: coord.Client, prefix: str) -> None:
    rules = client.typed(Rule)
    lease = await client.lease_grant(60)
    await rules.put(prefix, Rule(1), lease=lease.id)
    done = await rules.update(prefix, lambda rule: replace(rule or Rule(0), limit=5))
    assert (done.value, done.lease) == (Rule(5), lease.id)
    assert done == await rules.get(prefix)
    await client.lease_revoke(lease.id)
    assert await rules.get(prefix) is None


async def test_an_update_gives_up(client: coord.Client, prefix: str) -> None:
    counts = client.typed(int)
    calls = 0

    async def disturb() -> None:
        updating = counts.updating(prefix, timeout=None)
        value = await updating.read()
        nonlocal calls
        while True:
            calls += 1
            await counts.put(prefix, calls)
            done, value = await updating.write(value or 0)
            assert done is None

    with pytest.raises(coord.UpdateConflict, match="during each of 100 updates"):
        await disturb()
    assert calls == 100
    with pytest.raises(coord.CoordTimeout, match="0 attempts"):
        await counts.update(prefix, lambda value: 0, timeout=0)


async def test_an_update_whose_answer_is_lost() -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        counts = client.typed(int)
        await counts.put("k", 1)
        make_faulty(client, [Fault.LOSE_REPLY])
        with pytest.raises(coord.AmbiguousResult):
            await counts.update("k", lambda value: (value or 0) + 1)
        pair = await counts.get("k")
        assert pair is not None
        assert pair.value == 2
