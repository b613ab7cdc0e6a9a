"""A watch that outlives compaction, says where it is, and leaves a stream that has fallen silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import coord
from coord import EventType, WatchFilter, op
from coord.core import Carrier
from coord.store import resync
from coord.store.heartbeat import Heartbeat, Pulse
from coord.store.values import KeyValue
from coord.store.watch import WatchFeed, WatchSpec
from tests.sdk.test_failures import carriers, reached
from tests.support.proxy import Proxy
from tests.support.servers import coord_server_process
from tests.support.virtual import VirtualLoop, run_virtual


async def batch_of(watch: coord.Watch) -> coord.WatchBatch:
    async for batch in watch.batches():
        return batch
    raise AssertionError("a watch does not end")


async def lose_history(
    direct: coord.Client, proxy: Proxy, change: Callable[[], Awaitable[object]]
) -> int:
    """Let ``change`` happen while nobody listens, and forget how; returns the last revision."""
    await proxy.refuse()
    proxy.cut()
    await change()
    last = (await direct.put("unrelated", "x")).revision
    await direct.compact(last)
    await proxy.accept()
    return last


def told(batch: coord.WatchBatch) -> list[tuple[str, str, str]]:
    return [(e.type.name, e.key.decode()[-1], e.value.decode()) for e in batch.events]


# The difference, as a rule.


def pair(key: bytes, created: int, changed: int) -> KeyValue:
    return KeyValue(key=key, value=b"", create_revision=created, mod_revision=changed, version=1)


revisions = st.tuples(st.integers(1, 5), st.integers(0, 5)).map(lambda p: (p[0], p[0] + p[1]))
states = st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), revisions)


@given(known=states, now=states)
def test_the_difference_turns_one_state_into_the_other(
    known: resync.State, now: resync.State
) -> None:
    items = [pair(key, *revs) for key, revs in sorted(now.items())]
    events = resync.difference(known, items, 20)
    result = dict(known)
    resync.note(result, events)
    assert result == now
    told = [event.revision for event in events]
    assert told == sorted(told)
    untouched = {key for key in known if now.get(key) == known[key]}
    assert untouched.isdisjoint(event.key for event in events)
    for key in known.keys() & now.keys():
        kinds = [event.type for event in events if event.key == key]
        assert (EventType.DELETE in kinds) == (known[key][0] != now[key][0])


# The watch.


@carriers
async def test_after_compaction_the_difference_comes_as_a_flagged_batch(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
    ):
        for name in ("same", "changed:c", "gone:g", "new life:n"):
            await direct.put(prefix + name, "1")
        async with client.watch(prefix, prefix=True, resync=True) as watch:
            await direct.put(prefix + "told:t", "1")
            assert told(await batch_of(watch)) == [("PUT", "t", "1")]

            async def change() -> None:
                await direct.put(prefix + "changed:c", "2")
                await direct.delete(prefix + "gone:g")
                await direct.delete(prefix + "told:t")
                await direct.delete(prefix + "new life:n")
                await direct.put(prefix + "new life:n", "1")
                await direct.put(prefix + "born:b", "1")

            last = await lose_history(direct, proxy, change)
            batch = await batch_of(watch)
            assert batch.resync
            assert batch.revision >= last
            assert told(batch)[:4] == [("PUT", "c", "2"), ("DELETE", "n", ""), ("PUT", "n", "1"), ("PUT", "b", "1")]  # fmt: skip
            assert sorted(told(batch)[4:]) == [("DELETE", "g", ""), ("DELETE", "t", "")]
            assert watch.revision >= last
            await direct.put(prefix + "after:a", "1")
            after = await batch_of(watch)
            assert (after.resync, told(after)) == (False, [("PUT", "a", "1")])


async def test_a_watch_from_a_compacted_revision_begins_with_what_there_is(
    client: coord.Client, prefix: str
) -> None:
    old = (await client.put(prefix, "1")).revision
    new = (await client.put(prefix, "2")).revision
    await client.compact(new)
    async with client.watch(prefix, start_revision=old, resync=True) as watch:
        batch = await batch_of(watch)
        assert batch.resync
        assert told(batch) == [("PUT", "/", "2")]


async def test_filters_hold_for_the_difference_too(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        await direct.put(prefix + "a", "1")
        only = client.watch(prefix, prefix=True, filters=[WatchFilter.NO_PUT], resync=True)
        async with only as watch:
            await direct.put(prefix + "b", "1")  # not told, and yet its end will be
            await reached(lambda: heard(watch), "the put has arrived")

            async def change() -> None:
                await direct.delete(prefix + "b")
                await direct.put(prefix + "a", "2")

            await lose_history(direct, proxy, change)
            assert told(await batch_of(watch)) == [("DELETE", "b", "")]


async def heard(watch: coord.Watch) -> bool:
    feed: Any = watch._feed
    return bool(feed._feed._batches)


async def test_a_watch_from_the_past_knows_what_was_there_before(
    client: coord.Client, prefix: str
) -> None:
    await client.put(prefix + "a", "1")
    start = (await client.put(prefix + "b", "1")).revision
    async with client.watch(prefix, prefix=True, start_revision=start, resync=True) as watch:
        feed: Any = watch._feed
        assert set(feed._state) == {f"{prefix}a".encode()}
        assert told(await batch_of(watch)) == [("PUT", "b", "1")]
        assert set(feed._state) == {f"{prefix}a".encode(), f"{prefix}b".encode()}
    with pytest.raises(coord.FutureRevision):
        await client.watch(prefix, start_revision=1 << 40, resync=True).__aenter__()


async def test_a_cancelled_read_loses_no_difference(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        client.watch(prefix, prefix=True, resync=True) as watch,
    ):
        proxy.hold_answers()  # so that the read below meets the cancellation wherever it is
        await lose_history(direct, proxy, lambda: direct.put(prefix + "a", "1"))
        for _ in range(3):
            reader = asyncio.ensure_future(batch_of(watch))
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait({reader})
        proxy.pass_on()
        batch = await batch_of(watch)
        assert batch.resync
        assert told(batch) == [("PUT", "a", "1")]


# Where it is.


async def test_position_and_lag(client: coord.Client, prefix: str) -> None:
    watch = client.watch(prefix, prefix=True)
    assert (watch.revision, watch.lag) == (0, 0)
    before = await client.put("elsewhere", "x")
    async with watch:
        assert watch.revision == before.revision
        both = await client.txn().then(op.put(prefix + "a", ""), op.put(prefix + "b", "")).commit()
        await anext(watch)
        assert watch.revision == both.revision - 1  # half of it is unread
        assert watch.lag >= 1
        await anext(watch)
        assert watch.revision == both.revision
        again = client.watch(prefix, prefix=True, start_revision=watch.revision + 1)
        after = await client.put(prefix + "c", "")
        async with again:
            assert (await anext(again)).revision == after.revision
    assert client.watch(prefix, start_revision=7).revision == 6


# Silence.


def test_a_heartbeat_asks_and_gives_up() -> None:
    async def main(loop: VirtualLoop) -> None:
        told: list[tuple[str, float]] = []
        begin = loop.time()

        def tell(what: str) -> None:
            told.append((what, loop.time() - begin))

        heartbeat = Heartbeat(
            Pulse(quiet_s=10, answer_s=5),
            ask=lambda: tell("ask"),
            give_up=lambda: tell("give up"),
        )
        heartbeat.start()
        await asyncio.sleep(9)
        heartbeat.heard()
        await asyncio.sleep(12)  # 10: heard; 20: nothing since then
        assert told == [("ask", 20)]
        heartbeat.heard()  # at 21, so that it looks at 31, when this has been heard, and asks at 41
        await asyncio.sleep(19)
        assert told == [("ask", 20)]
        await asyncio.sleep(1.5)
        assert told == [("ask", 20), ("ask", 41)]
        loop.freeze(100)  # a stopped process has not listened: it asks again before it judges
        await asyncio.sleep(1)
        assert [what for what, _ in told] == ["ask", "ask", "ask"]
        await asyncio.sleep(10)
        assert [what for what, _ in told] == ["ask", "ask", "ask", "give up"]
        await asyncio.sleep(100)
        assert len(told) == 4
        heartbeat.stop()
        heartbeat.stop()

    run_virtual(main)


@carriers
async def test_a_silent_stream_is_left_for_another(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as mute,
        Proxy(endpoint) as other,
        coord.connect([mute.endpoint, other.endpoint], transport=transport) as client,
    ):
        client._core.watches.pulse = Pulse(quiet_s=0.1, answer_s=0.3)
        async with client.watch(prefix, prefix=True) as watch:
            await direct.put(prefix, "1")
            assert (await anext(watch)).value == b"1"
            streams = client._core.watches.stream_number
            mute.hold_answers()
            other.hold_answers()
            await direct.put(prefix, "2")

            async def given_up() -> bool:
                return client._core.watches.stream_number > streams or not watch._feed.live  # type: ignore[union-attr]

            await reached(given_up, "the stream has been given up")
            mute.pass_on()
            other.pass_on()
            await direct.put(prefix, "3")
            assert [(await anext(watch)).value for _ in range(2)] == [b"2", b"3"]


async def test_a_quiet_stream_lives_on(client: coord.Client, prefix: str) -> None:
    mux = client._core.watches
    mux.pulse = Pulse(quiet_s=0.05, answer_s=20)
    async with client.watch(prefix) as watch:
        feed: Any = watch._feed
        first, asked = mux.stream_number, feed.watch_id

        async def asked_often() -> bool:
            return mux._last_id > asked + 5 and not mux._creating

        await reached(asked_often, "several signs of life")
        await client.put(prefix, "x")
        assert (await anext(watch)).value == b"x"
        assert mux.stream_number == first


async def test_progress_on_demand(client: coord.Client, prefix: str) -> None:
    status = await client.status()
    if status.version in ("3.5.1", "3.4.23"):
        pytest.skip("its answer may overtake events")
    async with client.watch(prefix, progress_notify=True) as watch:
        elsewhere = await client.put("elsewhere/" + prefix, "x")
        client._core.runtime.post(client._core.watches.ask_progress)
        batch = await batch_of(watch)
        assert (batch.events, batch.revision >= elsewhere.revision) == ((), True)
        assert watch.revision >= elsewhere.revision


@pytest.mark.parametrize(
    ("covered", "revision", "believed"),
    [(False, 9, False), (False, 10, False), (False, 11, True), (True, 10, True)],
)
async def test_progress_that_may_be_older_than_the_watch(
    revision: int, *, covered: bool, believed: bool
) -> None:
    # The answer was asked for before this watch began, and overtaken by its confirmation at revision 10.
    mux: Any = None
    feed = WatchFeed(mux, WatchSpec(key=b"k", start_revision=5, progress_notify=True), 1)
    feed.on_stream_progress(20)  # nobody watches for it yet
    assert feed.next_revision == 5
    feed.on_created(10, covered=covered)
    feed.on_stream_progress(revision)
    assert feed.next_revision == (revision + 1 if believed else 5)
    feed.on_lost(1.0)
    feed.on_stream_progress(20)
    assert feed.next_revision < 20


async def test_a_server_that_comes_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with coord_server_process(tmp_path, data_dir=data) as first:
        listen = first.urls[0]
        async with (
            coord.connect(first.endpoint) as client,
            client.watch("k", prefix=True, resync=True) as watch,
        ):
            await client.put("k", "1")
            assert (await anext(watch)).value == b"1"
            first.process.kill()
            first.process.wait()
            with coord_server_process(tmp_path, data_dir=data, listen=listen):
                await client.put("k", "2")
                assert (await anext(watch)).value == b"2"
