"""Topics: one order for everybody, nothing missed without a word, each message handled at least once."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import coord
from coord import op
from coord.client.connecting import open_client
from coord.core import Options
from coord.target import parse_target
from coord.testing.virtual import VirtualLoop, run_virtual, virtual_env
from tests.sdk.conftest import STORES
from tests.support.faulty import TXN, Fault, make_faulty
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess


@pytest.fixture(params=[*STORES, "memory"])
async def inline(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[coord.Client]:
    """A client on the test's own loop, in a namespace of its own."""
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    async with coord.connect(target, runtime="inline", namespace=f"topic/{prefix}") as made:
        yield made


async def take(subscription: coord.Subscription, count: int) -> list[coord.Message]:
    """Read so many messages; no gap is expected."""
    found: list[coord.Message] = []
    while len(found) < count:
        item = await asyncio.wait_for(anext(subscription), 20)
        assert isinstance(item, coord.Message)
        found.append(item)
    return found


async def first_gap(subscription: coord.Subscription) -> coord.Gap:
    item = await asyncio.wait_for(anext(subscription), 20)
    assert isinstance(item, coord.Gap)
    return item


def values(messages: list[coord.Message]) -> list[bytes]:
    return [message.value for message in messages]


# Publishing and reading.


async def test_what_is_published_arrives(client: coord.Client, prefix: str) -> None:
    topic = client.topic(prefix + "t")
    await topic.publish("before")
    async with topic.subscribe() as subscription:
        one = await topic.publish(b"\x00\xff\n{", headers={"kind": "a"})
        two = await topic.publish("")
        first, second = await take(subscription, 2)
        assert (first.value, dict(first.headers), first.revision) == (
            b"\x00\xff\n{",
            {"kind": "a"},
            one,
        )
        assert (second.value, dict(second.headers), second.revision) == (b"", {}, two)
    # The layout.
    found = await client.get_prefix(prefix)
    log = f"{prefix}t/log/".encode()
    assert len(found.items) == 3
    for kv in found.items:
        assert kv.key.startswith(log)
        assert len(kv.key) == len(log) + 16
        int(kv.key[len(log) :], 16)
        assert kv.lease != 0
    assert {kv.value for kv in found.items} == {
        b"{}\nbefore",
        b'{"kind":"a"}\n\x00\xff\n{',
        b"{}\n",
    }
    ttl = await client.lease_time_to_live(found.items[0].lease)
    assert ttl.granted == 4500 + 15


async def test_all_see_the_same_order(client: coord.Client, prefix: str) -> None:
    readers, writers, rounds = 20, 4, 10

    async def read(subscription: coord.Subscription) -> list[tuple[int, bytes]]:
        async with subscription:
            ready.release()
            messages = await take(subscription, writers * rounds)
            return [(m.revision, m.value) for m in messages]

    async def write(number: int) -> None:
        topic = client.topic(prefix + "t")
        for turn in range(rounds):
            await topic.publish(f"{number}.{turn}")

    ready = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        seen = [
            group.create_task(read(client.topic(prefix + "t").subscribe())) for _ in range(readers)
        ]
        for _ in range(readers):
            await ready.acquire()
        for number in range(writers):
            group.create_task(write(number))
    histories = {tuple(task.result()) for task in seen}
    assert len(histories) == 1
    (history,) = histories
    assert [revision for revision, _ in history] == sorted({revision for revision, _ in history})
    for number in range(writers):
        mine = [v for _, v in history if v.startswith(b"%d." % number)]
        assert mine == [b"%d.%d" % (number, turn) for turn in range(rounds)]


async def test_where_to_begin(client: coord.Client, prefix: str) -> None:
    topic = client.topic(prefix + "t")
    revisions = [await topic.publish(str(n)) for n in range(4)]
    async with topic.subscribe(from_="earliest") as subscription:
        assert values(await take(subscription, 4)) == [b"0", b"1", b"2", b"3"]
        await topic.publish("4")
        assert values(await take(subscription, 1)) == [b"4"]
    async with topic.subscribe(from_=revisions[1]) as subscription:
        assert values(await take(subscription, 3)) == [b"2", b"3", b"4"]
    async with topic.subscribe(from_=0) as subscription:
        item = await anext(subscription)
        # From the very first revision on: from history, or if that is compacted with a gap.
        assert isinstance(item, coord.Gap) or item.value == b"0"


async def test_more_than_a_page(inline: coord.Client) -> None:
    topic = inline.topic("t")
    await topic.publish("0")
    lease = (await inline.get_prefix("t/log/")).items[0].lease
    for start in range(1, 1101, 100):
        async with inline.batch() as batch:
            for n in range(start, start + 100):
                batch.put(f"t/log/{n:016x}", f"{{}}\n{n}", lease=lease)
    # All of a batch have one revision here, so their order is by key: nothing may be lost over it.
    async with topic.subscribe(from_="earliest") as subscription:
        messages = await take(subscription, 1101)
        assert sorted(int(m.value) for m in messages) == list(range(1101))


async def test_the_cost(inline: coord.Client) -> None:
    topic = inline.topic("t")
    await topic.publish("0")
    seen = make_faulty(inline)
    await topic.publish("1")
    assert seen.paths == [TXN]
    async with topic.subscribe() as subscription:
        seen.paths.clear()
        await topic.publish("2")
        await take(subscription, 1)
        assert seen.paths == [TXN]
    async with topic.subscribe(from_="earliest", durable="d", save_every=3) as subscription:
        await first_gap(subscription)
        seen.paths.clear()
        await take(subscription, 3)
        assert seen.paths == []
        await topic.publish("3")
        await take(subscription, 1)
        assert seen.paths == [TXN, TXN]  # the message, and the cursor


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.NONE], ids=lambda f: f.value)
async def test_published_exactly_once(inline: coord.Client, fault: Fault) -> None:
    topic = inline.topic("t")
    async with topic.subscribe() as subscription:
        faulty = make_faulty(inline, [fault])
        revision = await topic.publish("x")
        await faulty.deliver_late()
        await topic.publish("end")
        messages = await take(subscription, 2)
        assert values(messages) == [b"x", b"end"]
        assert messages[0].revision == revision


async def test_a_bucket_whose_lease_was_revoked(client: coord.Client, prefix: str) -> None:
    topic = client.topic(prefix + "t")
    await topic.publish("0")
    (kv,) = (await client.get_prefix(prefix)).items
    await client.lease_revoke(kv.lease)
    await topic.publish("1")
    async with topic.subscribe(from_="earliest") as subscription:
        assert values(await take(subscription, 1)) == [b"1"]


async def test_what_is_refused(inline: coord.Client) -> None:
    topic = inline.topic("t")
    with pytest.raises(coord.PayloadTooLarge, match="a message on b't'"):
        await topic.publish(b"x" * (64 * 1024))
    with pytest.raises(coord.InvalidArgument, match="headers"):
        await topic.publish("x", headers={"a": 1})  # type: ignore[dict-item]
    with pytest.raises(coord.InvalidArgument, match="retention"):
        inline.topic("t", retention=9)
    wrong: list[dict[str, Any]] = [
        {"from_": -1},
        {"from_": "newest"},
        {"durable": ""},
        {"durable": "a/b"},
        {"save_every": 0},
        {"save_within": 0},
    ]
    for options in wrong:
        with pytest.raises(coord.InvalidArgument):
            topic.subscribe(**options)
    async with topic.subscribe() as subscription:
        await topic.publish("x")
        (message,) = await take(subscription, 1)
        with pytest.raises(coord.InvalidArgument, match="durable"):
            await message.commit()


async def test_a_cancelled_read_loses_nothing(client: coord.Client, prefix: str) -> None:
    topic = client.topic(prefix + "t")
    async with topic.subscribe() as subscription:
        for n in range(10):
            reading = asyncio.ensure_future(anext(subscription))
            await asyncio.sleep(0.002 * (n % 3))
            reading.cancel()
            await asyncio.wait({reading})
            assert reading.cancelled()
        reading = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        with pytest.raises(coord.InvalidArgument, match="another task"):
            await anext(subscription)
        await topic.publish("x")
        message = await reading
        assert isinstance(message, coord.Message)
        assert message.value == b"x"


async def test_foreign_keys_are_messages_too(inline: coord.Client) -> None:
    topic = inline.topic("t")
    async with topic.subscribe() as subscription:
        for text in ("plain", "{broken\nrest", ""):
            await inline.put(f"t/log/{len(text)}", text)
        assert values(await take(subscription, 3)) == [b"plain", b"{broken\nrest", b""]


async def test_lost_connections(endpoint: str, prefix: str) -> None:
    async with coord.connect(endpoint) as direct, Proxy(endpoint) as proxy:
        topic = direct.topic(prefix + "t")
        async with (
            coord.connect(proxy.endpoint) as client,
            client.topic(prefix + "t").subscribe() as subscription,
        ):
            for n in range(6):
                await topic.publish(str(n))
                proxy.cut()
            assert values(await take(subscription, 6)) == [b"%d" % n for n in range(6)]


# Durable subscribers.


async def test_a_durable_subscriber_goes_on(client: coord.Client, prefix: str) -> None:
    topic = client.topic(prefix + "t")
    await topic.publish("old")
    async with topic.subscribe(durable="d") as subscription:
        # A first start looks like one after the cursor has expired.
        gap = await first_gap(subscription)
        assert gap.start == 0
        for n in range(5):
            await topic.publish(str(n))
        await take(subscription, 3)
        # Asking for the third said that two are handled; that of the third nobody knows.
    found = await client.get(prefix + "t/cursors/d")
    assert found is not None
    assert set(json.loads(found.value)) == {"revision", "lag"}
    assert found.lease != 0
    async with topic.subscribe(durable="d") as subscription:
        messages = await take(subscription, 3)
        assert values(messages) == [b"2", b"3", b"4"]
        await messages[-1].commit()
    async with topic.subscribe(durable="d") as subscription:
        await topic.publish("5")
        assert values(await take(subscription, 1)) == [b"5"]


async def test_a_crash_between_handler_and_cursor(inline: coord.Client) -> None:
    """At least once; and exactly once where the effect is committed with the cursor."""
    topic = inline.topic("t")
    for n in range(6):
        await topic.publish(str(n))
    effects: list[bytes] = []

    async def consume(limit: int, durable: str, *, together: bool) -> None:
        async with topic.subscribe(from_="earliest", durable=durable, save_every=2) as subscription:
            async for item in subscription:
                if isinstance(item, coord.Gap):
                    continue
                if together:
                    effect = op.put(f"done/{durable}/{item.value.decode()}", "x")
                    await item.commit(also=[effect])
                else:
                    effects.append(item.value)
                limit -= 1
                if limit == 0:
                    raise RuntimeError("crashed")

    for limit in (3, 3):
        with pytest.raises(RuntimeError):
            await consume(limit, "apart", together=False)
    assert set(effects) == {b"%d" % n for n in range(5)}
    assert effects.count(b"2") == 2
    for limit in (1, 2, 3):
        with pytest.raises(RuntimeError):
            await consume(limit, "together", together=True)
    done = (await inline.get_prefix("done/together/")).items
    assert [(kv.key[-1:], kv.version) for kv in done] == [(b"%d" % n, 1) for n in range(6)]


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.NONE], ids=lambda f: f.value)
async def test_a_commit_is_applied_exactly_once(inline: coord.Client, fault: Fault) -> None:
    topic = inline.topic("t")
    await topic.publish("x")
    async with topic.subscribe(from_="earliest", durable="d") as subscription:
        await first_gap(subscription)
        (message,) = await take(subscription, 1)
        faulty = make_faulty(inline, [fault])
        await message.commit(also=[op.put("effect", "1")])
        await faulty.deliver_late()
        found = await inline.get("effect")
        assert found is not None
        assert found.version == 1
        await topic.publish("y")
        await take(subscription, 1)


async def test_a_commit_that_is_repeated_after_a_cancellation(inline: coord.Client) -> None:
    """It was applied, and is not applied again; but another commit at the same place is."""
    topic = inline.topic("t")
    await topic.publish("x")
    async with topic.subscribe(from_="earliest", durable="d") as subscription:
        await first_gap(subscription)
        (message,) = await take(subscription, 1)
        faulty = make_faulty(inline, [Fault.LOSE_REPLY, *[Fault.LOSE_REQUEST] * 1000])
        with pytest.raises(coord.AmbiguousResult):
            await message.commit(also=[op.put("effect", "1")], timeout=0.2)
        faulty.plan.clear()
        await message.commit(also=[op.put("effect", "1")])
        found = await inline.get("effect")
        assert found is not None
        assert found.version == 1
        await asyncio.gather(*[message.commit(also=[op.put(f"e/{n}", "1")]) for n in range(4)])
        assert await inline.count("e/") == 4


async def test_two_consumers_of_one_cursor(client: coord.Client, prefix: str) -> None:
    topic = client.topic(prefix + "t")
    async with topic.subscribe(durable="d") as one:
        await first_gap(one)
        for n in range(4):
            await topic.publish(str(n))
        (message,) = await take(one, 1)
        async with topic.subscribe(durable="d") as two:
            (other,) = await take(two, 1)
            await other.commit()
            effect = op.put(prefix + "effect", "x")
            with pytest.raises(coord.CursorBusy) as caught:
                await message.commit(also=[effect])
            assert (caught.value.topic, caught.value.subscriber) == (topic.name, "d")
            assert await client.get(prefix + "effect") is None


async def test_a_cursor_that_expires_as_history_is_compacted(inline: coord.Client) -> None:
    """It proves something only while it is there."""
    topic = inline.topic("t")
    async with topic.subscribe(durable="d") as subscription:
        await first_gap(subscription)
    await topic.publish("x")
    subscription = topic.subscribe(durable="d")
    begin = subscription._start

    async def slowly() -> int:
        start = await begin()
        await inline.delete("t/cursors/d")
        await compacted(inline)
        return start

    subscription._start = slowly  # type: ignore[method-assign]
    async with subscription:
        gap = await first_gap(subscription)
        (message,) = await take(subscription, 1)
        assert gap.start < message.revision == gap.end


async def test_a_cursor_that_is_none(inline: coord.Client) -> None:
    await inline.put("t/cursors/d", "junk")
    with pytest.raises(coord.CoordError, match="no cursor"):
        async with inline.topic("t").subscribe(durable="d"):
            pass


# Compaction and expiry, in virtual time.


async def compacted(client: coord.Client) -> None:
    now = (await client.put("tick", "x")).revision
    await client.compact(now)


def in_virtual_time(story: Callable[[coord.Client], Awaitable[None]]) -> None:
    """Run a story with a client and a server whose hours pass at once."""

    async def main(loop: VirtualLoop) -> None:
        env = virtual_env(loop)
        options = Options(target=parse_target("memory:"), placement="inline")
        async with await open_client(options, env) as client:
            await story(client)

    run_virtual(main)


def test_compaction_while_away_loses_nothing_that_is_retained() -> None:
    async def story(client: coord.Client) -> None:
        topic = client.topic("t", retention=800)
        async with topic.subscribe(durable="d") as subscription:
            await first_gap(subscription)
            await topic.publish("0")
            await take(subscription, 1)
            await topic.publish("1")
            await take(subscription, 1)
        for n in range(2, 5):
            await topic.publish(str(n))
        await asyncio.sleep(700)  # the cursor lives for 800
        await compacted(client)
        async with topic.subscribe(durable="d") as subscription:
            # The small lag in the cursor proves that nothing has expired: no gap.
            assert values(await take(subscription, 4)) == [b"1", b"2", b"3", b"4"]

    in_virtual_time(story)


def test_an_expired_cursor_is_a_gap() -> None:
    async def story(client: coord.Client) -> None:
        topic = client.topic("t", retention=800)
        async with topic.subscribe(durable="d") as subscription:
            await first_gap(subscription)
        await topic.publish("lost")
        await asyncio.sleep(1100)
        await topic.publish("kept")
        await compacted(client)
        async with topic.subscribe(from_="earliest", durable="d") as subscription:
            gap = await first_gap(subscription)
            (message,) = await take(subscription, 1)
            assert message.value == b"kept"
            assert gap == coord.Gap(start=0, end=message.revision)

    in_virtual_time(story)


def test_expired_messages_are_replayed_from_history() -> None:
    async def story(client: coord.Client) -> None:
        topic = client.topic("t", retention=80)
        first = await topic.publish("0")
        for n in range(1, 4):
            await topic.publish(str(n))
        await asyncio.sleep(200)
        assert await client.count("t/log/") == 0
        async with topic.subscribe(from_=first) as subscription:
            assert values(await take(subscription, 3)) == [b"1", b"2", b"3"]

    in_virtual_time(story)


def test_a_message_lives_for_the_retention() -> None:
    async def story(client: coord.Client) -> None:
        topic = client.topic("t", retention=80)
        for n in range(30):
            await topic.publish(str(n))
            await asyncio.sleep(10)
            kept = {kv.value for kv in (await client.get_prefix("t/log/")).items}
            assert {b"{}\n%d" % m for m in range(max(0, n - 7), n + 1)} <= kept
            assert len(kept) <= 13

    in_virtual_time(story)


def test_a_slow_handler_is_told_of_the_gap() -> None:
    """Messages expire while it works, and history is compacted: what it has not taken out may be missing."""

    async def story(client: coord.Client) -> None:
        topic = client.topic("t", retention=80)
        async with topic.subscribe(durable="d", save_every=1) as subscription:
            await first_gap(subscription)
            await topic.publish("0")
            await take(subscription, 1)
            await topic.publish("1")
            await topic.publish("2")
            await take(subscription, 1)
            # It works on "1" for long; saved is that "0" is handled, a moment after "2" had come.
            await asyncio.sleep(70)
        # It saved at the end that "0" was handled, with what was unhandled then 70 seconds old.
        lag = json.loads((await client.get("t/cursors/d")).value)["lag"]  # type: ignore[union-attr]
        assert lag is None or lag >= 70 or lag < 10
        await asyncio.sleep(60)
        assert await client.count("t/log/") == 0
        await compacted(client)
        async with topic.subscribe(durable="d") as subscription:
            item = await asyncio.wait_for(anext(subscription), 20)
            assert isinstance(item, coord.Gap)

    in_virtual_time(story)


def test_an_idle_subscriber_keeps_its_cursor() -> None:
    async def story(client: coord.Client) -> None:
        topic = client.topic("t", retention=80)
        async with topic.subscribe(durable="d") as subscription:
            await first_gap(subscription)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(subscription), 1000)
            found = await client.get("t/cursors/d")
            assert found is not None
            assert json.loads(found.value)["lag"] == 0
            assert found.version > 100
        await topic.publish("x")
        await asyncio.sleep(60)
        await compacted(client)
        async with topic.subscribe(durable="d") as subscription:
            assert values(await take(subscription, 1)) == [b"x"]

    in_virtual_time(story)


def test_no_gap_is_silent() -> None:
    """Random lives of a durable subscriber: what was published is handled, or told as a gap that covers it."""
    for seed in range(int(os.environ.get("COORD_TOPIC_SEEDS", "3"))):
        chance = random.Random(seed)

        async def story(client: coord.Client, chance: random.Random = chance) -> None:
            retention = 80.0
            topic = client.topic("t", retention=retention)
            published: dict[int, bytes] = {}
            handled: set[int] = set()
            gaps: list[coord.Gap] = []

            async def work(subscription: coord.Subscription) -> None:
                async for item in subscription:
                    if isinstance(item, coord.Gap):
                        gaps.append(item)
                        continue
                    if chance.random() < 0.2:
                        await asyncio.sleep(chance.choice([1, 20, 120]))
                    handled.add(item.revision)
                    if chance.random() < 0.3:
                        await item.commit()

            start = (await client.put("start", "")).revision
            for _ in range(12):
                subscription = topic.subscribe(
                    from_=start, durable="d", save_every=chance.randint(1, 4)
                )
                async with subscription:
                    working = asyncio.ensure_future(work(subscription))
                    for _ in range(chance.randint(0, 6)):
                        revision = await topic.publish("m")
                        published[revision] = b"m"
                        await asyncio.sleep(chance.choice([0, 0, 1, 15, 50]))
                        if chance.random() < 0.2:
                            await compacted(client)
                    working.cancel()
                    await asyncio.wait({working})
                for _ in range(chance.randint(0, 3)):
                    published[await topic.publish("m")] = b"m"
                await asyncio.sleep(chance.choice([0, 5, 60, 85, 200]))
                if chance.random() < 0.5:
                    await compacted(client)
            async with topic.subscribe(from_=start, durable="d") as subscription:
                working = asyncio.ensure_future(work(subscription))
                await asyncio.sleep(700)
                working.cancel()
                await asyncio.wait({working})
            missed = {
                r
                for r in published
                if r not in handled and not any(g.start < r < g.end for g in gaps)
            }
            assert not missed

        in_virtual_time(story)
