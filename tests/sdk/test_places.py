"""Where a client may be used, and that nothing of it is left when it is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

import coord
from coord.core import Carrier, Placement
from coord.errors import CoordError
from coord.store.watch import WatchFeed
from tests.sdk.conftest import CARRIERS
from tests.support.proxy import Proxy
from tests.support.servers import free_port
from tests.support.uncollected import uncollected

carriers = pytest.mark.parametrize("transport", CARRIERS)
places = pytest.mark.parametrize("runtime", ["thread", "inline"])


def client_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.endswith("-runtime")]


@carriers
async def test_many_threads_and_loops_at_once(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with coord.connect(endpoint, transport=transport) as client:

        async def work(name: str) -> None:
            async with client.watch(f"{prefix}{name}/", prefix=True) as watch:
                async with asyncio.TaskGroup() as group:
                    for number in range(20):
                        group.create_task(client.put(f"{prefix}{name}/{number}", name))
                seen = {(await anext(watch)).key for _ in range(20)}
            assert len(seen) == 20

        def thread(name: str) -> None:
            for turn in range(3):  # a new loop each time
                asyncio.run(work(f"{name}.{turn}"))

        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(asyncio.to_thread(thread, f"thread{number}"))
            group.create_task(work("here"))
        assert await client.count(prefix) == (6 * 3 + 1) * 20
        # Loops that have ended are forgotten.
        assert len(client._core.runtime._returns) <= 8


async def test_an_inline_client_serves_other_threads_too(endpoint: str, prefix: str) -> None:
    async with coord.connect(endpoint, runtime="inline") as client:

        async def elsewhere() -> None:
            await client.put(prefix, "x")
            assert await client.get(prefix) is not None

        await asyncio.to_thread(asyncio.run, elsewhere())


@places
@carriers
async def test_close_leaves_nothing(
    endpoint: str, runtime: Placement, transport: Carrier, prefix: str
) -> None:
    tasks = asyncio.all_tasks()
    async with Proxy(endpoint) as proxy:
        client = await coord.connect(proxy.endpoint, runtime=runtime, transport=transport, name="x")
        await client.put(prefix, "x")
        watch = client.watch(prefix)
        await watch.__aenter__()
        assert client_threads() == (["x-runtime"] if runtime == "thread" else [])
        with uncollected():
            await client.close()
            await client.close()
            assert client_threads() == []
            async with asyncio.timeout(10):
                while proxy.open_connections:
                    await asyncio.sleep(0)
        assert proxy.connections == 1
    assert asyncio.all_tasks() == tasks
    assert repr(client).endswith("closed>")


@places
@carriers
async def test_use_after_close(endpoint: str, runtime: Placement, transport: Carrier) -> None:
    client = await coord.connect(endpoint, runtime=runtime, transport=transport)
    watch = client.watch("k")
    await watch.__aenter__()
    await client.close()
    for call in (
        client.get("k"),
        client.put("k", "v"),
        client.txn().commit(),
        client.lease_grant(5),
        client.lease_keep_alive_once(1),
        client.status(),
        client.watch("k").__aenter__(),
        anext(watch),
    ):
        with pytest.raises(coord.ClientClosed):
            await call
    watch.close()


@places
async def test_what_was_open_ends_after_the_client(
    endpoint: str, runtime: Placement, prefix: str
) -> None:
    client = await coord.connect(endpoint, runtime=runtime)
    session = await client.session(ttl=20).open()
    term = await client.election(prefix + "e", session=session).campaign()
    unopened = client.session()
    view = client.cache(prefix=prefix)
    await view.open()
    await client.close()
    # Here a coroutine that was made but "never awaited" fails the test, by its warning.
    for _ in range(2):
        await session.close()
    await unopened.close()
    with pytest.raises(coord.LeadershipLost):
        await term.proclaim("x")
    calls: list[Callable[[], Awaitable[object]]] = [
        session.orphan,
        unopened.open,
        client.default_session,
        client.mutex("m").acquire,
        client.mutex("m").try_acquire,
        client.mutex("m").holder,
        client.election("e").campaign,
        client.election("e").leader,
        view.sync,
        lambda: view.wait_revision(1 << 40),
        client.cache(key="k").open,
        lambda: client.stm(lambda tx: tx.get("k")),
    ]
    for call in calls:
        with pytest.raises(coord.ClientClosed):
            await call()
    view.close()


@places
@carriers
async def test_calls_that_run_while_it_closes(
    endpoint: str, runtime: Placement, transport: Carrier, prefix: str
) -> None:
    async with Proxy(endpoint) as proxy:
        client = await coord.connect(proxy.endpoint, runtime=runtime, transport=transport)
        await client.get(prefix)
        sent = proxy.bytes_up
        proxy.hold_answers()
        read = asyncio.ensure_future(client.get(prefix))
        written = asyncio.ensure_future(client.put(prefix, "x"))
        async with client.watch(prefix, start_revision=1) as watch:
            watched = asyncio.ensure_future(anext(watch))
            while proxy.bytes_up < sent + 100:
                await asyncio.sleep(0.001)
            await client.close()
            for task, kinds in (
                (read, (coord.ClientClosed,)),
                # Certain if it was never sent, in doubt if it was; never taken for a success.
                (written, (coord.ClientClosed, coord.AmbiguousResult)),
                (watched, (coord.ClientClosed,)),
            ):
                with pytest.raises(kinds):
                    await task


@carriers
async def test_calls_that_wait_for_a_server_while_it_closes(transport: Carrier) -> None:
    client = await coord.connect(f"127.0.0.1:{free_port()}", transport=transport)
    calls = [
        asyncio.ensure_future(client.put("k", "v", timeout=60)),
        asyncio.ensure_future(client.get("k", timeout=60)),
        asyncio.ensure_future(client.watch("k").__aenter__()),
    ]
    await asyncio.sleep(0.05)
    await client.close()
    for call in calls:
        with pytest.raises(coord.ClientClosed):
            await call


async def test_several_may_close_it(endpoint: str) -> None:
    client = await coord.connect(endpoint)
    await client.status()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(asyncio.to_thread(asyncio.run, client.close()))
        group.create_task(client.close())
    assert client_threads() == []


@places
async def test_a_cancelled_close_is_finished_first(endpoint: str, runtime: Placement) -> None:
    client = await coord.connect(endpoint, runtime=runtime)
    await client.status()
    closing = asyncio.ensure_future(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert client._core.closed
    assert client_threads() == []


async def test_a_cancelled_connect_leaves_no_thread(endpoint: str) -> None:
    for turns in range(4):
        connecting = asyncio.ensure_future(coord.connect(endpoint).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        try:
            client = await connecting
        except asyncio.CancelledError:
            pass
        else:
            await client.close()
        assert client_threads() == []


@places
async def test_a_cancelled_call_ends_at_once(
    endpoint: str, runtime: Placement, prefix: str
) -> None:
    async with (
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, runtime=runtime) as client,
    ):
        await client.get(prefix)
        proxy.hold_answers()
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await client.get(prefix)
        assert not isinstance(caught.value, CoordError)
        proxy.pass_on()
        assert await client.get(prefix) is None


async def test_a_forgotten_client_warns_and_ends(endpoint: str) -> None:
    client = await coord.connect(endpoint, name="forgotten")
    await client.status()
    (thread,) = [t for t in threading.enumerate() if t.name == "forgotten-runtime"]
    with pytest.warns(ResourceWarning, match="unclosed <coord.Client 'forgotten'"):
        del client
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


async def test_awaited_and_entered(endpoint: str) -> None:
    client = await coord.connect(endpoint)
    async with client as same:
        assert same is client
    connecting = coord.connect(endpoint)
    async with connecting:
        with pytest.raises(coord.InvalidArgument, match="in use"):
            await connecting.__aenter__()


async def test_a_blocked_loop_does_not_stop_the_client(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as client,
        coord.connect(endpoint) as other,
        client.watch(prefix) as watch,
    ):
        # The reader's loop stands still while events arrive at the runtime's.
        feed = watch._feed
        assert isinstance(feed, WatchFeed)
        arrived = threading.Event()
        deliver = feed._deliver

        def spy(batch: coord.WatchBatch) -> None:
            deliver(batch)
            arrived.set()

        feed._deliver = spy  # type: ignore[method-assign]
        writer = threading.Thread(target=asyncio.run, args=(other.put(prefix, "x"),))
        writer.start()
        assert arrived.wait(30)  # blocks this loop
        writer.join()
        assert (await anext(watch)).value == b"x"


def test_wrong_arguments() -> None:
    with pytest.raises(coord.InvalidArgument, match="runtime must be"):
        coord.connect("memory:", runtime="process")  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="transport must be"):
        coord.connect("memory:", transport="http")  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="request_timeout must be"):
        coord.connect("memory:", request_timeout=0)
    with pytest.raises(coord.InvalidArgument, match="memory: needs the native transport"):
        coord.connect("memory:", transport="grpcio")
