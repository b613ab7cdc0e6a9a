"""Watches: order, completeness, filters, progress, compaction; on every store and carrier."""

from __future__ import annotations

import asyncio

import pytest

import coord
from coord import EventType, WatchFilter, op
from coord.core import Carrier
from tests.sdk.conftest import CARRIERS


async def take(watch: coord.Watch, count: int) -> list[coord.WatchEvent]:
    return [await anext(watch) for _ in range(count)]


def told(events: list[coord.WatchEvent]) -> list[tuple[str, str, str]]:
    return [(e.type.name, e.key.decode()[-1], e.value.decode()) for e in events]


async def test_sees_what_happens_after_it_was_entered(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "a", "before")
    async with client.watch(prefix, prefix=True) as watch:
        first = await client.put(prefix + "a", "1")
        await client.put(prefix + "b", "2")
        gone = await client.delete(prefix + "a")
        events = await take(watch, 3)
    assert told(events) == [("PUT", "a", "1"), ("PUT", "b", "2"), ("DELETE", "a", "")]
    assert (events[0].revision, events[2].revision) == (first.revision, gone.revision)
    assert [e.is_create for e in events] == [False, True, False]
    assert [e.previous for e in events] == [None, None, None]


async def test_one_key_a_range_and_a_prefix(client: coord.Client, prefix: str) -> None:
    start = (await client.put(prefix, "start")).revision + 1
    for name in ("a", "b", "c"):
        await client.put(prefix + name, name)
    async with client.watch(prefix + "b", start_revision=start) as one:
        assert told(await take(one, 1)) == [("PUT", "b", "b")]
    async with client.watch(prefix + "a", end=prefix + "c", start_revision=start) as some:
        assert told(await take(some, 2)) == [("PUT", "a", "a"), ("PUT", "b", "b")]
    async with client.watch(prefix, prefix=True, start_revision=start) as several:
        assert [e.key.decode()[-1] for e in await take(several, 3)] == ["a", "b", "c"]
    async with client.watch(prefix + "b", end=b"\0", start_revision=start) as onwards:
        assert [e.key.decode()[-1] for e in await take(onwards, 2)] == ["b", "c"]


async def test_from_the_past(client: coord.Client, prefix: str) -> None:
    start = (await client.put(prefix, "0")).revision
    for number in range(1, 50):
        await client.put(prefix, str(number))
    async with client.watch(prefix, start_revision=start) as watch:
        events = await take(watch, 50)
        await client.put(prefix, "live")
        events += await take(watch, 1)
    assert [e.value.decode() for e in events] == [*map(str, range(50)), "live"]


async def test_from_the_future(client: coord.Client, prefix: str) -> None:
    now = (await client.put(prefix, "now")).revision
    async with client.watch(prefix, start_revision=now + 3) as watch:
        for number in range(1, 5):
            await client.put(prefix, str(number))
        assert (await anext(watch)).revision >= now + 3


async def test_previous_pairs(client: coord.Client, prefix: str) -> None:
    async with client.watch(prefix, prefix=True, prev_kv=True) as watch:
        await client.put(prefix, "1")
        await client.put(prefix, "2")
        await client.delete(prefix)
        events = await take(watch, 3)
    assert [e.previous and e.previous.value for e in events] == [None, b"1", b"2"]


async def test_filters(client: coord.Client, prefix: str) -> None:
    puts = client.watch(prefix, filters=[WatchFilter.NO_DELETE])
    deletes = client.watch(prefix, filters=[WatchFilter.NO_PUT])
    async with puts, deletes:
        for _ in range(2):
            await client.put(prefix, "x")
            await client.delete(prefix)
        assert [e.type for e in await take(puts, 2)] == [EventType.PUT] * 2
        assert [e.type for e in await take(deletes, 2)] == [EventType.DELETE] * 2


async def test_a_batch_is_whole_revisions(client: coord.Client, prefix: str) -> None:
    async with client.watch(prefix, prefix=True) as watch:
        both = (
            await client.txn().then(op.put(prefix + "a", "1"), op.put(prefix + "b", "2")).commit()
        )
        after = await client.put(prefix + "c", "3")
        seen: list[coord.WatchEvent] = []
        async for batch in watch.batches():
            assert {e.revision for e in batch.events} <= {both.revision, after.revision}
            assert batch.revision == batch.events[-1].revision
            seen += batch.events
            if batch.revision == after.revision:
                break
            assert len(batch.events) == 2
    assert [e.revision for e in seen] == [both.revision, both.revision, after.revision]


@pytest.mark.parametrize("transport", CARRIERS)
async def test_progress_says_how_far_it_is(endpoint: str, transport: Carrier, prefix: str) -> None:
    connecting = coord.connect(endpoint, transport=transport)
    async with connecting as client, client.watch(prefix, progress_notify=True) as watch:
        elsewhere = await client.put("elsewhere/" + prefix, "x")
        async for batch in watch.batches():
            assert batch.events == ()
            if batch.revision >= elsewhere.revision:
                break


async def test_compaction_ends_a_watch_that_needs_more(client: coord.Client, prefix: str) -> None:
    old = (await client.put(prefix, "1")).revision
    new = (await client.put(prefix, "2")).revision
    await client.compact(new)
    async with client.watch(prefix, start_revision=old) as watch:
        with pytest.raises(coord.Compacted) as caught:
            await anext(watch)
        assert caught.value.compact_revision == new
        with pytest.raises(coord.Compacted):
            await anext(watch)
    async with client.watch(prefix, start_revision=caught.value.compact_revision) as again:
        assert (await anext(again)).value == b"2"


async def test_a_refused_watch_leaves_the_others_alone(client: coord.Client, prefix: str) -> None:
    async with client.watch(prefix) as good:
        async with client.watch(prefix + "b", end=prefix + "a", start_revision=1) as bad:
            with pytest.raises(coord.RequestRefused, match="watcher range is empty"):
                await anext(bad)
        await client.put(prefix, "x")
        assert (await anext(good)).value == b"x"


async def test_many_watches_share_a_stream(client: coord.Client, prefix: str) -> None:
    watches = [client.watch(f"{prefix}{n}") for n in range(100)]
    for watch in watches:
        await watch.__aenter__()
    for number in range(100):
        await client.put(f"{prefix}{number}", str(number))
    for number, watch in enumerate(watches):
        assert (await anext(watch)).value == str(number).encode()
        watch.close()


async def test_a_cancelled_read_loses_nothing(client: coord.Client, prefix: str) -> None:
    async with client.watch(prefix) as watch:
        seen: list[bytes] = []

        async def read() -> None:
            seen.append((await anext(watch)).value)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            reader = group.create_task(read())
            for number in range(200):
                await client.put(prefix, str(number))
                reader.cancel()
                await asyncio.wait({reader})
                reader = group.create_task(read())
            await client.put(prefix, "last")
            while not seen or seen[-1] != b"last":
                await asyncio.wait({reader})
                reader = group.create_task(read())
            reader.cancel()
    assert seen == [*[str(n).encode() for n in range(200)], b"last"]


async def test_without_a_block_it_opens_at_the_first_read(
    client: coord.Client, prefix: str
) -> None:
    start = (await client.put(prefix, "x")).revision
    watch = client.watch(prefix, start_revision=start)
    async for event in watch:
        assert event.value == b"x"
        break
    watch.close()
    watch.close()
    with pytest.raises(coord.ClientClosed, match="the watch is closed"):
        await anext(watch)


async def test_large_events_arrive_whole(client: coord.Client, prefix: str) -> None:
    # More than the fragmentation limit of 2 MiB in one revision.
    start = (await client.put(prefix, "start")).revision + 1
    big = [client.txn().then(*[op.put(f"{prefix}{n}/{m}", b"x" * 300_000) for m in range(4)]) for n in range(3)]  # fmt: skip
    for txn in big:
        await txn.commit()
    async with client.watch(prefix, prefix=True, start_revision=start) as watch:
        events = await take(watch, 12)
    assert [len(e.value) for e in events] == [300_000] * 12
    assert len({e.key for e in events}) == 12


async def test_one_reader_at_a_time(client: coord.Client, prefix: str) -> None:
    async with client.watch(prefix) as watch:
        first = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        with pytest.raises(coord.InvalidArgument, match="another task is reading"):
            await anext(watch)
        await client.put(prefix, "x")
        assert (await first).value == b"x"


async def test_events_and_batches_do_not_mix_within_a_revision(
    client: coord.Client, prefix: str
) -> None:
    async with client.watch(prefix, prefix=True) as watch:
        await client.txn().then(op.put(prefix + "a", ""), op.put(prefix + "b", "")).commit()
        await anext(watch)
        with pytest.raises(coord.InvalidArgument, match="still unread"):
            await anext(watch.batches())


def test_wrong_arguments() -> None:
    client = coord.Client.__new__(coord.Client)
    with pytest.raises(coord.InvalidArgument, match="either end or prefix"):
        client.watch("k", end="z", prefix=True)
    with pytest.raises(coord.InvalidArgument, match="start_revision must be"):
        client.watch("k", start_revision=0)
    with pytest.raises(coord.InvalidArgument, match="key must not be empty"):
        client.watch("")
