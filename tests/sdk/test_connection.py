"""How a client stands to its endpoints: states, events, dead connections, explanations."""

from __future__ import annotations

import asyncio
import threading

import pytest

import coord
import coord.sync
from coord import ConnectionState
from coord.core import Carrier
from tests.sdk.conftest import CARRIERS
from tests.sdk.test_failures import reached
from tests.support.proxy import Proxy
from tests.support.quick import connect_quick
from tests.support.servers import free_port

carriers = pytest.mark.parametrize("transport", CARRIERS)


@carriers
async def test_states_and_events(endpoint: str, transport: Carrier) -> None:
    async with (
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
    ):
        seen: list[coord.Connection] = []
        bad = client.on_connection(lambda _: 1 / 0)
        bad()
        end = client.on_connection(seen.append)
        assert client.connection.state is ConnectionState.IDLE
        await client.status()

        async def ready() -> bool:
            return bool(seen) and seen[-1].state is ConnectionState.READY

        await reached(ready, "the connection is told")
        assert seen[-1].endpoint == proxy.endpoint
        await proxy.refuse()
        proxy.cut()
        with pytest.raises(coord.Unavailable):
            await client.get("k", timeout=0.5)

        async def down() -> bool:
            return seen[-1].state is ConnectionState.UNAVAILABLE

        await reached(down, "the loss is told")
        assert client.connection.endpoints[0].last_error
        end()


@carriers
async def test_a_failing_observer_is_reported_and_goes_on(
    endpoint: str, transport: Carrier
) -> None:
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    async with coord.connect(endpoint, transport=transport) as client:
        client.on_connection(lambda _: 1 / 0)
        await client.status()

        async def reported() -> bool:
            return "division by zero" in told

        await reached(reported, "the failure is reported")
        await client.put("k", "v")


def test_without_a_loop_a_worker_is_told(endpoint: str) -> None:
    with coord.sync.connect(endpoint) as client:
        ready, names = threading.Event(), list[str]()

        def note(connection: coord.Connection) -> None:
            names.append(threading.current_thread().name)
            if connection.state is ConnectionState.READY:
                ready.set()

        client.on_connection(note)
        client.status()
        assert ready.wait(30)
        assert all(name.startswith("coord-offload") for name in names)


@carriers
async def test_a_dead_connection_is_noticed_by_pings(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        connect_quick(proxy.endpoint, transport=transport) as client,
        client.watch(prefix) as watch,
    ):
        proxy.hold_requests()
        proxy.hold_answers()
        await direct.put(prefix, "x")

        async def connected_again() -> bool:
            return proxy.connections > 1

        await reached(connected_again, "the client has given up the silent connection")
        proxy.pass_on()
        assert (await anext(watch)).value == b"x"


@carriers
async def test_sessions_and_calls_leave_a_dead_connection(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        Proxy(endpoint) as proxy,
        connect_quick(proxy.endpoint, transport=transport) as client,
        client.session(ttl=5) as session,
    ):
        await client.put(prefix, "x")
        proxy.strand()  # the connection is dead, a new one would serve
        with pytest.raises(coord.CoordTimeout):
            await client.get(prefix, timeout=0.1)
        for _ in range(2):
            lowest = [session.valid_for()]

            async def again(lowest: list[float] = lowest) -> bool:
                lowest.append(min(lowest[-1], now := session.valid_for()))
                return now > lowest[-1]

            await reached(again, "the session is renewed")
        found = await client.get(prefix)
        assert found is not None
        assert proxy.connections > 1
        assert session.state is coord.SessionState.ACTIVE


@carriers
async def test_explanations(endpoint: str, transport: Carrier, prefix: str) -> None:
    async with (
        coord.connect(endpoint, transport=transport) as client,
        client.session(ttl=30, name="mine") as mine,
        client.session(ttl=30) as other,
        client.watch(prefix) as watch,
    ):
        del watch
        told = await client.explain()
        assert told.leader
        assert {s.name for s in told.sessions} == {"mine", ""}
        assert [w.key for w in told.watches] == [prefix.encode()]
        assert "session 'mine'" in str(told)
        a, b = prefix + "a", prefix + "b"
        assert str(await client.explain(a)) == f"{a!r} is free"
        async with (
            client.mutex(a, session=mine, label="job").hold(),
            client.mutex(b, session=other).hold(),
        ):
            crossed = [
                asyncio.ensure_future(client.mutex(b, session=mine).acquire()),
                asyncio.ensure_future(client.mutex(a, session=other).acquire()),
            ]

            async def lined_up() -> bool:
                return all([len(await client.mutex(n).waiters()) == 1 for n in (a, b)])

            await reached(lined_up, "both wait")
            found = await client.explain(a)
            assert found.holder is not None
            assert found.holder.lease_id == mine.lease_id
            assert found.holder.ttl_left
            assert [p.lease_id for p in found.waiters] == [other.lease_id]
            assert {w.name for w in found.waits} == {a.encode(), b.encode()}
            assert found.circular
            assert "circle" in str(found)
            for task in crossed:
                task.cancel()
            await asyncio.wait(crossed)


async def test_a_client_without_a_store_explains_itself() -> None:
    async with coord.connect(f"127.0.0.1:{free_port()}") as client:
        told = await client.explain(timeout=0.2)
        assert (told.version, told.leader) == ("", 0)
        assert "server unknown" in str(told)
