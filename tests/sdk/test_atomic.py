"""Compare-and-set cells: who knows what is in them may change it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

import coord
from tests.sdk.conftest import STORES
from tests.support.faulty import TXN, Fault, make_faulty
from tests.support.servers import ServerProcess

RANGE = "/etcdserverpb.KV/Range"


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@pytest.fixture(params=[*STORES, "memory"])
async def inline(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[coord.Client]:
    """A client on the test's own loop, in a namespace of its own."""
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    async with coord.connect(target, runtime="inline", namespace=f"atomic/{prefix}") as made:
        yield made


async def test_compare_and_set(client: coord.Client, prefix: str) -> None:
    cell = client.atomic(prefix + "c", Point)
    assert await cell.get() == coord.Versioned(value=None, revision=0)
    first = await cell.compare_and_set(0, Point(1))
    assert await cell.get() == first == coord.Versioned(value=Point(1), revision=first.revision)
    second = await cell.compare_and_set(first.revision, Point(2))
    assert second.revision > first.revision
    for stale in (0, first.revision):
        with pytest.raises(coord.Conflict) as caught:
            await cell.compare_and_set(stale, Point(3))
        told = caught.value
        assert (told.key, told.expected, told.actual) == (cell.name, stale, second.revision)
    assert await cell.get() == second
    # The layout: one key, the codec's bytes.
    found = await client.get_prefix(prefix)
    assert [(kv.key, kv.value) for kv in found.items] == [(cell.name, b'{"x":2,"y":0}')]


async def test_a_value_that_went_and_came_again_is_another(
    client: coord.Client, prefix: str
) -> None:
    cell = client.atomic(prefix + "c")
    first = await cell.compare_and_set(0, b"a")
    await client.delete(prefix + "c")
    again = await cell.compare_and_set(0, b"a")
    with pytest.raises(coord.Conflict):
        await cell.compare_and_set(first.revision, b"b")
    assert (await cell.compare_and_set(again.revision, b"b")).value == b"b"


async def test_updates(client: coord.Client, prefix: str) -> None:
    async def worker() -> None:
        cell = client.atomic(prefix + "c", dict[str, int])
        for _ in range(5):
            await cell.update(lambda old: {"n": (old or {"n": 0})["n"] + 1}, timeout=60)

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(worker())
    found = await client.get(prefix + "c")
    assert found is not None
    assert (found.value, found.version) == (b'{"n":30}', 30)


async def test_an_update_that_raises_writes_nothing(inline: coord.Client) -> None:
    cell = inline.atomic("c")
    with pytest.raises(ZeroDivisionError):
        await cell.update(lambda _: b"%d" % (1 // 0))
    assert (await cell.get()).revision == 0


async def test_an_update_that_is_always_late(inline: coord.Client) -> None:
    cell = inline.atomic("c", int)
    calls = 0
    updating = cell.updating(lease=None, timeout=60)
    value = await updating.read()
    with pytest.raises(coord.CoordTimeout, match="others came first 3 times"):
        while True:
            calls += 1
            await inline.put("c", str(calls * 100))
            if calls == 4:  # its time ends here, not while a request is under way
                updating._deadline = 0
            _, value = await updating.write((value or 0) + 1)
    assert (await cell.get()).value == calls * 100


async def test_leases(client: coord.Client, prefix: str) -> None:
    cell = client.atomic(prefix + "c")
    lease = (await client.lease_grant(60)).lease_id

    async def attached() -> int:
        found = await client.get(prefix + "c")
        assert found is not None
        return found.lease

    one = await cell.compare_and_set(0, b"1", lease=lease)
    assert await attached() == lease
    two = await cell.compare_and_set(one.revision, b"2")
    assert await attached() == lease
    await cell.update(lambda _: b"3")
    assert await attached() == lease
    await cell.update(lambda _: b"4", lease=0)
    assert await attached() == 0
    assert two.value == b"2"
    await client.lease_revoke(lease)
    with pytest.raises(coord.LeaseNotFound):
        await cell.update(lambda _: b"5", lease=lease)
    assert (await cell.get()).value == b"4"


async def test_watching(client: coord.Client, prefix: str) -> None:
    cell = client.atomic(prefix + "c", Point)
    seen: list[coord.Versioned[Point]] = []
    async for versioned in cell.watch():
        seen.append(versioned)
        match len(seen):
            case 1:
                await cell.compare_and_set(0, Point(1))
            case 2:
                await client.put(prefix + "c", "not a point")
                await cell.home.core.kv.put(prefix + "c", b'{"x":2}')
            case 3:
                await client.delete(prefix + "c")
            case _:
                break
    assert [v.value for v in seen] == [None, Point(1), Point(2), None]
    assert seen[0].revision == seen[3].revision == 0
    assert 0 < seen[1].revision < seen[2].revision


async def test_what_cannot_be_read(inline: coord.Client) -> None:
    await inline.put("c", "{")
    cell = inline.atomic("c", Point)
    with pytest.raises(coord.DecodeError, match="'c'"):
        await cell.get()
    with pytest.raises(coord.DecodeError):
        await cell.update(lambda _: Point(1))
    with pytest.raises(coord.InvalidArgument, match="revision"):
        await cell.compare_and_set(-1, Point(1))


async def test_too_large(inline: coord.Client) -> None:
    with pytest.raises(coord.PayloadTooLarge, match="the cell"):
        await inline.atomic("c").compare_and_set(0, b"x" * (512 * 1024 + 1))
    assert (await inline.atomic("c").get()).revision == 0


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.NONE], ids=lambda f: f.value)
async def test_written_exactly_once(inline: coord.Client, fault: Fault) -> None:
    cell = inline.atomic("c")
    faulty = make_faulty(inline, [fault])
    one = await cell.compare_and_set(0, b"1")
    found = await inline.get("c")
    assert found is not None
    assert (found.mod_revision, found.version) == (one.revision, 1)
    # A late copy finds the same comparison true again after a deletion, and must do nothing.
    await inline.delete("c")
    await faulty.deliver_late()
    assert await inline.get("c") is None
    faulty.plan.append(fault)
    await cell.update(lambda old: (old or b"") + b"x")
    await faulty.deliver_late()
    assert (await cell.get()).value == b"x"


async def test_the_cost(inline: coord.Client) -> None:
    cell = inline.atomic("c")
    one = await cell.compare_and_set(0, b"1")
    seen = make_faulty(inline)
    await cell.compare_and_set(one.revision, b"2")
    assert seen.paths == [TXN]
    seen.paths.clear()
    await cell.update(lambda _: b"3")
    assert seen.paths == [RANGE, TXN]
