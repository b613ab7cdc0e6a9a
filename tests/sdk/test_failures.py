"""What a bad network does to calls and watches: outcomes that are told truly, and streams without a gap."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import coord
from coord import compare, op
from coord.core import Carrier
from coord.store.watch import WatchFeed
from tests.sdk.conftest import CARRIERS
from tests.support.proxy import Proxy
from tests.support.servers import free_port

carriers = pytest.mark.parametrize("transport", CARRIERS)


async def reached(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for something that has no event of its own."""
    try:
        async with asyncio.timeout(30):
            while not await condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"never came true: {what}")


@carriers
async def test_nothing_listens(transport: Carrier) -> None:
    endpoints = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    async with coord.connect(endpoints, transport=transport) as client:
        for call in (client.get("k", timeout=0.2), client.put("k", "v", timeout=0.2)):
            with pytest.raises(coord.Unavailable) as caught:
                await call
            assert all(endpoint in str(caught.value) for endpoint in endpoints)


@carriers
async def test_a_call_waits_for_a_server_that_comes_late(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with Proxy(endpoint) as proxy:
        await proxy.refuse()
        async with coord.connect(proxy.endpoint, transport=transport) as client:
            call = asyncio.ensure_future(client.put(prefix, "x", timeout=30))
            await asyncio.sleep(0.1)  # long enough to have been refused
            assert not call.done()
            await proxy.accept()
            await call


@carriers
async def test_a_write_whose_answer_is_cut_off_is_ambiguous(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
    ):
        await direct.put(prefix + "delete", "x")
        await client.get(prefix)
        proxy.hold_answers()
        calls = [
            asyncio.ensure_future(c)
            for c in (
                client.put(prefix + "put", "v"),
                client.delete(prefix + "delete"),
                client.txn()
                .when(compare.version(prefix + "txn") == 0)
                .then(op.put(prefix + "txn", "t"), op.delete(prefix + "none"))
                .commit(),
            )
        ]

        async def all_applied() -> bool:
            keys = {kv.key for kv in (await direct.get_prefix(prefix)).items}
            return keys == {(prefix + name).encode() for name in ("put", "txn")}

        await reached(all_applied, "all writes are applied")
        proxy.cut()
        await asyncio.wait(calls)
        proxy.pass_on()
        put, delete, txn = [call.exception() for call in calls]
        assert isinstance(put, coord.AmbiguousResult)
        assert put.operation == "Put"
        there = await put.resolve()
        assert isinstance(there, coord.KeyValue)
        assert there.value == b"v"
        assert isinstance(delete, coord.AmbiguousResult)
        left = await delete.resolve()
        assert isinstance(left, coord.RangeResult)
        assert left.items == ()
        assert isinstance(txn, coord.AmbiguousResult)
        seen = await txn.resolve()
        assert isinstance(seen, coord.TxnResult)
        assert [kv.value for kv in seen.range(0).items] == [b"t"]
        assert seen.range(1).items == ()
        # Nothing was sent twice: a second put would have been a second version.
        assert there.version == 1


@carriers
async def test_a_read_whose_answer_is_cut_off_is_repeated(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
    ):
        await direct.put(prefix, "x")
        await client.get(prefix)
        proxy.hold_answers()
        before = proxy.bytes_up
        call = asyncio.ensure_future(client.get(prefix))

        async def sent() -> bool:
            return proxy.bytes_up > before

        await reached(sent, "the request is on its way")
        proxy.cut()
        proxy.pass_on()
        found = await call
        assert found is not None
        assert found.value == b"x"


@carriers
async def test_deadlines(endpoint: str, transport: Carrier, prefix: str) -> None:
    async with Proxy(endpoint) as proxy:
        async with coord.connect(proxy.endpoint, transport=transport) as client:
            await client.get(prefix)
            proxy.hold_answers()
            with pytest.raises(
                coord.CoordTimeout, match=r"Range did not finish within 0\.2 s"
            ) as late:
                await client.get(prefix, timeout=0.2)
            assert isinstance(late.value, TimeoutError)
            proxy.pass_on()
        async with coord.connect(proxy.endpoint, transport=transport) as client:
            await client.get(prefix)
            proxy.hold_answers()
            with pytest.raises(coord.AmbiguousResult) as caught:
                await client.put(prefix, "x", timeout=0.2)
            proxy.pass_on()
            there = await caught.value.resolve()
            assert isinstance(there, coord.KeyValue)


async def test_what_finds_no_connection_after_a_silence_was_certainly_not_sent(
    endpoint: str, prefix: str
) -> None:
    async with Proxy(endpoint) as proxy, coord.connect(proxy.endpoint) as client:
        await client.get(prefix)
        proxy.hold_requests()
        proxy.hold_answers()
        with pytest.raises(coord.CoordTimeout):
            await client.get(prefix, timeout=0.2)
        # Its own connection is suspected, and a new one gets no answer either.
        with pytest.raises(coord.Unavailable, match=r"no connection within 0\.2 s"):
            await client.put(prefix, "x", timeout=0.2)
        proxy.pass_on()
        assert await client.get(prefix) is None


@carriers
async def test_a_lost_endpoint_is_replaced(endpoint: str, transport: Carrier, prefix: str) -> None:
    async with Proxy(endpoint) as one, Proxy(endpoint) as two:
        endpoints = [one.endpoint, two.endpoint]
        async with coord.connect(endpoints, transport=transport) as client:
            await client.put(prefix, "x")
            for down in (one, two, one):
                await down.refuse()
                down.cut()
                for _ in range(3):
                    assert await client.get(prefix) is not None
                await down.accept()


async def test_a_silent_endpoint_does_not_hold_up_the_others(endpoint: str, prefix: str) -> None:
    # It accepts connections and says nothing.
    async with Proxy(endpoint) as silent, Proxy(endpoint) as good:
        silent.hold_requests()
        silent.hold_answers()
        for _ in range(4):  # whichever comes first by chance
            async with coord.connect([silent.endpoint, good.endpoint]) as client:
                await client.put(prefix, "x", timeout=2.5)
                assert client.connection.endpoint == good.endpoint


async def write(client: coord.Client, key: str, numbers: range) -> None:
    for number in numbers:
        await client.put(key, str(number))


@carriers
async def test_a_watch_goes_on_over_cut_connections(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
        client.watch(prefix, prefix=True) as watch,
    ):
        seen: list[bytes] = []
        for burst in range(8):
            writer = asyncio.ensure_future(
                write(direct, prefix, range(burst * 50, burst * 50 + 50))
            )
            while len(seen) < burst * 50 + 20:
                seen.append((await anext(watch)).value)
            if burst % 2:
                proxy.hold_answers()  # some events are lost on the way with the connection
            await writer
            proxy.cut()
            proxy.pass_on()
        while len(seen) < 400:
            seen.append((await anext(watch)).value)
        assert seen == [str(n).encode() for n in range(400)]
        assert proxy.connections > 7


async def test_a_watch_ends_when_history_went_with_the_connection(
    endpoint: str, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        client.watch(prefix) as watch,
    ):
        await proxy.refuse()
        proxy.cut()
        await direct.put(prefix, "1")
        last = (await direct.put(prefix, "2")).revision
        await direct.compact(last)
        await proxy.accept()
        with pytest.raises(coord.Compacted) as caught:
            await anext(watch)
        assert caught.value.compact_revision == last


async def test_a_slow_reader_is_parked_and_catches_up(endpoint: str, prefix: str) -> None:
    async with coord.connect(endpoint) as client, coord.connect(endpoint) as writer:
        async with (
            client.watch(prefix, prefix=True) as slow,
            client.watch(prefix + "sign") as other,
        ):
            rounds, width = 60, 100
            for number in range(rounds):
                puts = [op.put(f"{prefix}{n:03}", str(number)) for n in range(width)]
                await writer.txn().then(*puts).commit()
            await writer.put(prefix + "sign", "x")
            assert (await anext(other)).value == b"x"  # the stream is not held up
            feed = slow._feed
            assert isinstance(feed, WatchFeed)

            async def parked() -> bool:
                return feed.parked

            await reached(parked, "the feed is full")
            seen = [await anext(slow) for _ in range(rounds * width + 1)]
        expected = [(f"{prefix}{n:03}", str(r)) for r in range(rounds) for n in range(width)]
        told = [(e.key.decode(), e.value.decode()) for e in seen]
        assert told == [*expected, (prefix + "sign", "x")]


async def test_a_watch_from_now_needs_somebody_who_tells_what_now_is() -> None:
    connecting = coord.connect(f"127.0.0.1:{free_port()}", request_timeout=0.2)
    async with connecting as client:
        with pytest.raises(coord.Unavailable):
            await client.watch("k").__aenter__()


async def test_something_that_is_no_store() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-nothing\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, coord.connect(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(coord.Unavailable):
            await client.put("k", "v", timeout=0.3)


@pytest.mark.parametrize("kind", ["mutex", "multi_lock"])
async def test_a_wait_that_is_too_long_says_what_is_wrong_with_the_store(
    endpoint: str, prefix: str, kind: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        lock = client.mutex(prefix + "m") if kind == "mutex" else client.multi_lock([prefix + "m"])
        held = await direct.mutex(prefix + "m").acquire()
        with pytest.raises(coord.LockTimeout) as caught:
            await lock.acquire(timeout=0.5)
        assert "store error" not in caught.value.explain

        async def count(wanted: int) -> bool:
            return await direct.count(prefix + "m/") == wanted

        await reached(lambda: count(1), "its place in line is given up")
        waiting = asyncio.ensure_future(lock.acquire(timeout=2))
        await reached(lambda: count(2), "it is in line")
        await proxy.refuse()
        proxy.cut()
        other = client.mutex(prefix + "n") if kind == "mutex" else client.multi_lock([prefix + "n"])
        for late in (waiting, other.acquire(timeout=1)):
            with pytest.raises(coord.LockTimeout) as caught:
                await late
            assert f"last store error: {proxy.endpoint}" in caught.value.explain
        await proxy.accept()
        await held.release()
