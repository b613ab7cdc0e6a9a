"""Faults of single requests do what they say, on every store and over every carrier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

import coord
from coord.testing import Faults, StatusCode
from tests.support.servers import ServerProcess

# Store, carrier, and where the client lives: calls cross to its thread, or begin on its loop.
FLAVOURS = ("memory", "memory-inline", "coord", "coord-grpcio", "etcd")


@pytest.fixture
def faults() -> Iterator[Faults]:
    made = Faults()
    with made.everywhere():
        yield made


@pytest.fixture(params=FLAVOURS)
def target(request: pytest.FixtureRequest) -> tuple[str, str]:
    store, _, way = request.param.partition("-")
    if store == "memory":
        return "memory:", way
    name = "shared_etcd" if store == "etcd" else "shared_coord_server"
    server: ServerProcess = request.getfixturevalue(name)
    return server.endpoint, way


@pytest.fixture
async def client(target: tuple[str, str], faults: Faults) -> AsyncIterator[coord.Client]:
    endpoint, way = target
    async with coord.connect(
        endpoint,
        transport="grpcio" if way == "grpcio" else "native",
        runtime="inline" if way == "inline" else "thread",
        request_timeout=5,
    ) as made:
        yield made
        # Or goodbyes would wait for what a test has left behind.
        faults.clear()
        await made.delete_prefix("")


async def value(client: coord.Client, key: str) -> bytes | None:
    found = await client.get(key)
    return None if found is None else found.value


async def test_a_lost_request_is_not_applied(client: coord.Client, faults: Faults) -> None:
    rule = faults.drop_request("Put")
    with pytest.raises(coord.AmbiguousResult):
        await client.put("k", "v")
    assert rule.hits == 1
    assert await value(client, "k") is None
    await client.put("k", "w")
    assert await value(client, "k") == b"w"


async def test_a_lost_reply_is_of_a_request_that_was_applied(
    client: coord.Client, faults: Faults
) -> None:
    faults.drop_reply("KV/Put")
    with pytest.raises(coord.AmbiguousResult) as caught:
        await client.put("k", "v")
    assert await value(client, "k") == b"v"
    found = await caught.value.resolve()
    assert isinstance(found, coord.KeyValue)
    assert found.value == b"v"


async def test_a_silent_loss_ends_with_the_callers_timeout(
    client: coord.Client, faults: Faults
) -> None:
    faults.drop_request("Range", silent=True)
    with pytest.raises(coord.CoordTimeout):
        await client.get("k", timeout=0.05)
    faults.drop_reply("Put", silent=True)
    with pytest.raises(coord.AmbiguousResult):
        await client.put("k", "v", timeout=0.2)
    assert await value(client, "k") == b"v"


async def test_reads_are_repeated_over_a_loss(client: coord.Client, faults: Faults) -> None:
    await client.put("k", "v")
    rule = faults.drop_request("Range", times=2)
    assert await value(client, "k") == b"v"
    assert rule.hits == 2
    assert faults.count("Range") == 3


async def test_an_error_is_the_servers_word(client: coord.Client, faults: Faults) -> None:
    faults.fail("Put", StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
    with pytest.raises(coord.NoSpace):
        await client.put("k", "v")
    assert await value(client, "k") is None


async def test_a_duplicate_is_applied_twice(client: coord.Client, faults: Faults) -> None:
    faults.duplicate("Put")
    await client.put("k", "v")
    found = await client.get("k")
    assert found is not None
    assert found.version == 2


async def test_a_copy_may_be_late(client: coord.Client, faults: Faults) -> None:
    rule = faults.duplicate("Put", late=True)
    await client.put("k", "old")
    await client.put("k", "new")
    assert await rule.arrive() == 1
    found = await client.get("k")
    assert found is not None
    assert (found.value, found.version) == (b"old", 3)
    assert await rule.arrive() == 0


async def test_a_request_may_be_late(client: coord.Client, faults: Faults) -> None:
    rule = faults.late("Put")
    with pytest.raises(coord.AmbiguousResult):
        await client.put("k", "v")
    assert await value(client, "k") is None
    assert (rule.under_way, await rule.arrive()) == (1, 1)
    assert (rule.under_way, await value(client, "k")) == (0, b"v")


async def test_what_is_late_when_faults_are_cleared_never_arrives(
    client: coord.Client, faults: Faults
) -> None:
    rule = faults.late("Put")
    with pytest.raises(coord.AmbiguousResult):
        await client.put("k", "v")
    faults.clear()
    await rule.arrive()
    assert await value(client, "k") is None


async def test_what_is_held_arrives_when_it_is_released(
    client: coord.Client, faults: Faults
) -> None:
    rule = faults.hold("Put")
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(client.put("k", "late"))
        await rule.hit()
        assert await value(client, "k") is None
        rule.release()
    assert writing.result().revision > 0
    assert await value(client, "k") == b"late"


async def test_what_is_held_arrives_behind_a_caller_that_has_given_up(
    client: coord.Client, faults: Faults
) -> None:
    rule = faults.hold("Put")
    async with client.watch("k") as watch:
        with pytest.raises(coord.AmbiguousResult):
            await client.put("k", "late", timeout=0.05)
        assert await value(client, "k") is None
        rule.release()
        async with asyncio.timeout(10):
            event = await anext(aiter(watch))
    assert event.kv.value == b"late"


async def test_a_cancelled_caller_of_a_held_request_gives_up(
    client: coord.Client, faults: Faults
) -> None:
    rule = faults.hold("Put")
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(client.put("k", "never"))
        await rule.hit()
        writing.cancel()
    assert writing.cancelled()
    faults.clear()
    # What the others send now is behind it, if it was sent.
    await client.put("other", "v")
    assert await value(client, "k") is None


async def test_a_delay_is_shorter_than_the_timeout_or_the_caller_gives_up(
    client: coord.Client, faults: Faults
) -> None:
    rule = faults.delay("Put", 0.01)
    await client.put("k", "v")
    assert rule.hits == 1
    faults.delay("Put", 60)
    with pytest.raises(coord.AmbiguousResult):
        await client.put("k", "w", timeout=0.05)
    assert await value(client, "k") == b"v"


async def test_the_nth_call_and_how_many(client: coord.Client, faults: Faults) -> None:
    faults.drop_request("Put", nth=2, times=2)
    outcomes: list[str] = []
    for number in range(5):
        try:
            await client.put(f"k{number}", "v")
        except coord.AmbiguousResult:
            outcomes.append("lost")
        else:
            outcomes.append("ok")
    assert outcomes == ["ok", "lost", "lost", "ok", "ok"]


async def test_for_ever_until_removed(client: coord.Client, faults: Faults) -> None:
    rule = faults.drop_request("Put", times=None)
    for _ in range(3):
        with pytest.raises(coord.AmbiguousResult):
            await client.put("k", "v")
    rule.remove()
    await client.put("k", "v")
    assert rule.hits == 3


async def test_by_what_is_in_the_request(client: coord.Client, faults: Faults) -> None:
    faults.drop_request("Put", when=lambda call: call.message.key == b"b", times=None)
    await client.put("a", "v")
    with pytest.raises(coord.AmbiguousResult):
        await client.put("b", "v")
    assert [call.method for call in faults.calls] == ["KV/Put", "KV/Put"]


async def test_by_the_client(target: tuple[str, str], client: coord.Client, faults: Faults) -> None:
    endpoint, _ = target
    async with (
        coord.connect(endpoint, name="b") as b,
        coord.connect(endpoint, name="observer") as observer,
    ):
        faults.drop_request(client="b", times=None)
        await client.put("k", "v")
        with pytest.raises(coord.AmbiguousResult):
            await b.put("k", "v")
        faults.isolate()
        await observer.put("k", "w")
        faults.clear()


async def test_an_isolated_client_hears_nothing_until_it_is_healed(
    client: coord.Client, faults: Faults
) -> None:
    await client.put("k", "v")
    faults.isolate("coord")
    with pytest.raises(coord.CoordTimeout):
        await client.get("k", timeout=0.05)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(client.get("k"))
        await asyncio.sleep(0)
        faults.heal()
    found = reading.result()
    assert found is not None
    assert found.value == b"v"


async def test_a_watch_has_no_gap_after_a_partition(client: coord.Client, faults: Faults) -> None:
    seen: list[bytes] = []
    async with client.watch("w/", prefix=True) as watch:
        await client.put("w/1", "")
        events = aiter(watch)
        async with asyncio.timeout(10):
            seen.append((await anext(events)).kv.key)
            faults.isolate()
            with pytest.raises(coord.CoordError):
                await client.put("w/2", "", timeout=0.05)
            faults.heal()
            await client.put("w/3", "")
            while seen[-1] != b"w/3":
                seen.append((await anext(events)).kv.key)
    assert seen in ([b"w/1", b"w/3"], [b"w/1", b"w/2", b"w/3"])


@pytest.mark.parametrize("way", ["drop_request", "drop_reply", "fail"])
async def test_a_watch_begins_again_after_its_stream_has_ended(
    client: coord.Client, faults: Faults, way: str
) -> None:
    rule = getattr(faults, way)("Watch")
    async with client.watch("k") as watch:
        await client.put("k", "v")
        async with asyncio.timeout(10):
            event = await anext(aiter(watch))
    assert event.kv.value == b"v"
    assert rule.hits == 1
    assert faults.count("Watch") >= 2


async def test_a_delayed_stream_keeps_its_order(client: coord.Client, faults: Faults) -> None:
    rule = faults.delay("Watch", 0.02)
    async with client.watch("a") as first, client.watch("b") as second:
        await client.put("a", "1")
        await client.put("b", "2")
        async with asyncio.timeout(10):
            one, two = await anext(aiter(first)), await anext(aiter(second))
    assert (one.kv.value, two.kv.value) == (b"1", b"2")
    assert rule.hits == 1


async def test_a_session_survives_a_lost_keep_alive(client: coord.Client, faults: Faults) -> None:
    rule = faults.drop_reply("LeaseKeepAlive")
    async with client.session(ttl=2) as session:
        await rule.hit()
        before = faults.count("LeaseKeepAlive")
        async with asyncio.timeout(10):
            while faults.count("LeaseKeepAlive") == before:
                await asyncio.sleep(0.01)
        session.check()


def test_wrong_words_are_refused() -> None:
    faults = Faults()
    with pytest.raises(coord.InvalidArgument, match=r"no method; take one of .*KV/Put"):
        faults.drop_request("Putt")
    with pytest.raises(coord.InvalidArgument, match="count from 1"):
        faults.drop_request("Put", nth=0)
    with pytest.raises(coord.InvalidArgument, match="stream"):
        faults.duplicate("Watch")
    with pytest.raises(coord.InvalidArgument, match="no failure"):
        faults.fail("Put", StatusCode.OK)
    with pytest.raises(coord.InvalidArgument, match="0 seconds or more"):
        faults.delay("Put", -1)


def test_waiting_for_a_hit_ends() -> None:
    rule = Faults().drop_request("Put")
    with pytest.raises(TimeoutError, match="no request met the fault 'drop request'"):
        rule.wait_hit(timeout=0)


async def test_nothing_is_under_clients_of_later(faults: Faults) -> None:
    inner = Faults()
    with inner.everywhere():
        pass
    async with coord.connect("memory:") as client:
        await client.put("k", "v")
    assert (inner.calls, faults.count("Put")) == ((), 1)
