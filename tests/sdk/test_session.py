"""Sessions on real stores: their leases, their streams, bad networks, and processes that stand still."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import coord
from coord import EventType, SessionState
from coord.renewal import _RenewalStream
from coord.session import Session
from coord.wire import methods
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess
from tests.support.spying import spy_on

STOPS = int(os.environ.get("COORD_STOP_ROUNDS", "1"))
KEEP_ALIVE = methods.LEASE_KEEP_ALIVE.path


async def reached(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for something that happens in another process, or on another thread."""
    try:
        async with asyncio.timeout(30):
            while not await condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"never came true: {what}")


async def state_is(session: Session, state: SessionState) -> None:
    async def holds() -> bool:
        return session.state is state

    await reached(holds, f"the session is {state.value}")


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


# -- one session, every store --------------------------------------------------------------------------------------


async def test_life_of_a_session(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=20, name="mine") as session:
        assert session.state is SessionState.ACTIVE
        assert 0 < session.valid_for() <= 20 * 0.99 - 1
        assert session.lease_id in await client.leases()
        await client.put(prefix, "x", lease=session.lease_id)
    assert session.expired.reason == "closed"
    assert session.lease_id not in await client.leases()
    assert await client.get(prefix) is None


async def test_the_server_raises_a_short_ttl(client: coord.Client) -> None:
    async with client.session(ttl=1) as session:
        assert session.ttl == 2
        assert session.valid_for() <= 2 * 0.99 - 0.2


async def test_a_revoked_lease_expires_the_session_once(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=2) as session:
        seen: list[SessionState] = []
        expired = asyncio.Event()

        def note(state: SessionState) -> None:
            seen.append(state)
            if state is SessionState.EXPIRED:
                expired.set()

        session.on_state(note)
        grant = await client.mutex(prefix, session=session).acquire()
        await client.lease_revoke(session.lease_id)
        assert await session.expired.wait(timeout=10) == "lease not found"
        await expired.wait()
        assert seen == [SessionState.EXPIRED]
        with pytest.raises(coord.SessionExpired):
            session.check()
        with pytest.raises(coord.LockLost):
            grant.check()
        with pytest.raises(coord.SessionExpired):
            await client.mutex(prefix, session=session).acquire()
    assert session.state is SessionState.EXPIRED


async def test_a_lease_moves_to_another_session(client: coord.Client, prefix: str) -> None:
    first = await client.session(ttl=20).open()
    await client.put(prefix, "x", lease=first.lease_id)
    lease = await first.orphan()
    await first.close()
    async with client.session(lease_id=lease) as second:
        assert (second.lease_id, second.ttl) == (lease, 20)
        assert await client.get(prefix) is not None
    assert await client.get(prefix) is None
    with pytest.raises(coord.SessionExpired):
        await client.session(lease_id=lease).open()


async def test_a_lease_of_somebody_else_is_adopted_and_renewed(endpoint: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(coord.connect(endpoint))
        grant = await client.lease_grant(2)
        session = await stack.enter_async_context(client.session(lease_id=grant.lease_id))
        begun = session._confirmed_at

        async def renewed_often() -> bool:
            return session._confirmed_at - begun > 2.5

        await reached(renewed_often, "it has been renewed for longer than it was granted")
        assert grant.lease_id in await client.leases()


async def test_closing_the_client_revokes_its_sessions(endpoint: str) -> None:
    async with coord.connect(endpoint) as observer:
        async with coord.connect(endpoint) as client:
            sessions = [await client.session(ttl=60).open() for _ in range(5)]
            ids = {session.lease_id for session in sessions}
            assert ids <= set(await observer.leases())
        assert not ids & set(await observer.leases())
        assert {session.state for session in sessions} == {SessionState.CLOSED}


async def test_the_default_session_is_shared_and_replaced(
    client: coord.Client, prefix: str
) -> None:
    one = await client.default_session()
    assert await client.default_session() is one
    grant = await client.mutex(prefix).acquire()
    assert grant.session is one
    await client.lease_revoke(one.lease_id)
    assert await grant.lost.wait(timeout=10)
    await one.expired.wait(timeout=10)
    two = await client.default_session()
    assert two is not one
    async with client.mutex(prefix).hold(timeout=5) as again:
        assert again.session is two
        assert again.token > grant.token


# -- streams -------------------------------------------------------------------------------------------------------


async def test_renewals_go_out_every_third_of_the_ttl(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coord.connect(endpoint, runtime="inline") as client:
        spy = spy_on(client, monkeypatch)
        async with client.session(ttl=2) as session:
            async with asyncio.timeout(30):
                sent = await spy.until_sent(KEEP_ALIVE, 4)
            gaps = [b - a for a, b in itertools.pairwise(sent)]
            assert min(gaps) >= 2 / 3 * 0.9 - 0.01  # and if they came too late, it would not be
            assert session.state is SessionState.ACTIVE
            assert len(spy.opened(KEEP_ALIVE)) == 1


async def test_many_sessions_share_few_streams(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = spy_on(inline, monkeypatch)
    sessions: list[Session] = []
    for count, streams in ((200, 4), (1000, 16)):
        while len(sessions) < count:
            sessions.append(await inline.session(ttl=60).open())
        pool = inline._home.renewals
        assert pool.stream_count <= streams
        before = [session._confirmed_at for session in sessions]
        for session in sessions:
            pool.renew(session)

        async def all_confirmed(before: list[float] = before) -> bool:
            return all(s._confirmed_at > b for s, b in zip(sessions, before, strict=True))

        await reached(all_confirmed, "every session is renewed")
        assert len(spy.opened(KEEP_ALIVE)) <= streams
    for session in sessions[::2]:
        await session.close()
    fresh = await inline.session(ttl=60).open()
    assert inline._home.renewals.stream_count <= 16
    await fresh.close()
    async with asyncio.TaskGroup() as group:
        for session in sessions[1::2]:
            group.create_task(session.close())
    assert inline._home.renewals.stream_count == 0

    async def all_ended() -> bool:
        return not any(stream.is_open for stream in spy.opened(KEEP_ALIVE))

    await reached(all_ended, "no stream is left")
    assert await inline.leases() == ()


async def test_a_critical_session_has_a_stream_of_its_own(inline: coord.Client) -> None:
    async with inline.session(ttl=60), inline.session(ttl=60):
        assert inline._home.renewals.stream_count == 1
        async with inline.session(ttl=60, critical=True), inline.session(ttl=60):
            assert inline._home.renewals.stream_count == 2
        assert inline._home.renewals.stream_count == 1


@pytest.mark.parametrize("how", ["cancelled", "broken"])
async def test_renewals_survive_the_end_of_their_task(
    how: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: errors.append(context.get("exception"))
    )
    async with (
        coord.connect(endpoint, runtime="inline") as client,
        client.session(ttl=3) as session,
    ):
        pool, take = client._home.renewals, _RenewalStream._take
        pool.renew(session)

        def running() -> list[asyncio.Task[Any]]:
            tasks = client._core.supervisor._tasks
            return [task for task in tasks if task.get_name() == "lease-renewals"]

        async def confirmed_after(moment: float) -> None:
            async def holds() -> bool:
                return session._confirmed_at > moment

            await reached(holds, "a renewal is confirmed")

        await confirmed_after(0)
        for _ in range(3):
            (victim,) = running()
            if how == "cancelled":
                victim.cancel()
            else:

                def broken(stream: _RenewalStream, message: bytes) -> None:
                    monkeypatch.setattr(_RenewalStream, "_take", take)
                    raise LookupError("a mistake of ours")

                monkeypatch.setattr(_RenewalStream, "_take", broken)
                pool.renew(session)
            await asyncio.wait({victim})
            await confirmed_after(client._core.env.clock.mono())
            assert session.state is SessionState.ACTIVE
            assert running() != [victim]
        assert [type(error) for error in errors] == [LookupError] * 3 * (how == "broken")


# -- bad networks --------------------------------------------------------------------------------------------------


async def test_a_stall_suspends_and_its_end_resumes(
    coord_process: ServerProcess, prefix: str
) -> None:
    endpoint = coord_process.endpoint
    async with (
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        client.session(ttl=6) as session,
    ):
        grant = await client.mutex(prefix, session=session).acquire()
        states: asyncio.Queue[SessionState] = asyncio.Queue()
        session.on_state(states.put_nowait)
        proxy.hold_requests()
        async with asyncio.timeout(20):
            assert await states.get() is SessionState.SUSPENDED
            grant.check()  # suspended is not lost
            proxy.pass_on()
            assert await states.get() is SessionState.ACTIVE
        grant.check()
        assert await grant.release()


async def test_a_stall_that_lasts_expires(coord_process: ServerProcess, prefix: str) -> None:
    endpoint = coord_process.endpoint
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        session = await client.session(ttl=2).open()
        grant = await client.mutex(prefix, session=session).acquire()
        async with direct.watch(grant.key) as watch:
            proxy.hold_requests()
            assert (
                await grant.lost.wait(timeout=20)
                == "its session ended: no renewal was confirmed in time"
            )
            assert session.state is SessionState.EXPIRED
            # We know before anybody else can: for others the lock is still taken.
            assert await direct.get(grant.key) is not None
            async with asyncio.timeout(20):
                assert (await anext(watch)).type is EventType.DELETE
        proxy.pass_on()


async def test_cut_connections_do_not_cost_the_session(endpoint: str) -> None:
    async with (
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        client.session(ttl=3) as session,
    ):
        for _ in range(3):
            proxy.cut()
            now = client._core.env.clock.mono()
            client._core.runtime.post(lambda: client._home.renewals.renew(session))

            async def renewed(now: float = now) -> bool:
                return session._confirmed_at > now

            await reached(renewed, "a renewal is confirmed on a new connection")
        assert session.state is SessionState.ACTIVE


async def test_a_hedge_goes_through_another_endpoint(coord_process: ServerProcess) -> None:
    endpoint = coord_process.endpoint
    async with Proxy(endpoint) as one, Proxy(endpoint) as two:
        both = {proxy.endpoint: proxy for proxy in (one, two)}
        async with (
            coord.connect(list(both)) as client,
            client.session(ttl=4) as session,
        ):
            client._core.runtime.post(lambda: client._home.renewals.renew(session))

            async def has_stream() -> bool:
                return client._home.renewals._endpoint_of(session) is not None

            await reached(has_stream, "the renewals have a stream")
            used = client._home.renewals._endpoint_of(session)
            assert used is not None
            silent = both[used]
            silent.hold_requests()
            silent.hold_answers()
            now = client._core.env.clock.mono()

            async def renewed() -> bool:
                return session._confirmed_at > now + 4

            # Longer than the TTL without a word from the endpoint that the stream is on.
            await reached(renewed, "renewals are confirmed through the other endpoint")
            assert session.state is not SessionState.EXPIRED
            silent.pass_on()


async def test_a_silent_connection_to_the_only_endpoint_is_replaced(
    coord_process: ServerProcess,
) -> None:
    async with (
        Proxy(coord_process.endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        client.session(ttl=4) as session,
    ):
        client._core.runtime.post(lambda: client._home.renewals.renew(session))
        renewed_from = client._core.env.clock.mono()

        async def renewed() -> bool:
            return session._confirmed_at > renewed_from

        await reached(renewed, "the renewals have a stream")
        before = proxy.connections
        proxy.strand()
        # Longer than the TTL without a word on the connection that there was.
        renewed_from = client._core.env.clock.mono() + 4
        await reached(renewed, "renewals are confirmed over another connection")
        assert session.state is not SessionState.EXPIRED
        assert proxy.connections > before


async def test_a_call_after_one_without_an_answer_goes_over_another_connection(
    coord_process: ServerProcess, prefix: str
) -> None:
    async with Proxy(coord_process.endpoint) as proxy, coord.connect(proxy.endpoint) as client:
        await client.put(prefix, "x")
        proxy.strand()
        with pytest.raises(coord.CoordTimeout):
            await client.get(prefix, timeout=0.2)
        assert await client.get(prefix, timeout=10) is not None
        assert proxy.connections == 2


# -- standing still ------------------------------------------------------------------------------------------------


async def test_a_blocked_application_keeps_its_session_unless_it_asked_not_to(
    etcd_process: ServerProcess, coord_process: ServerProcess, prefix: str
) -> None:
    """Three times the TTL of ``time.sleep`` in the application's thread."""
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        clients = [
            await enter(coord.connect(process.endpoint))
            for process in (etcd_process, coord_process)
        ]
        grants: list[coord.Grant] = []
        looped: list[Session] = []
        probed: list[Session] = []
        for client in clients:
            session = await enter(client.session(ttl=2))
            grants.append(await client.mutex(prefix, session=session).acquire())
            looped.append(await enter(client.session(ttl=2, liveness="loop", liveness_timeout=0.5)))
            probed.append(
                await enter(client.session(ttl=2, liveness=lambda: True, liveness_timeout=0.5))
            )
        time.sleep(6)  # noqa: ASYNC251 - what this is about
        for grant in grants:
            grant.check()
            assert grant.session.valid_for() > 0
        assert [session.state for session in looped] == [SessionState.EXPIRED] * 2
        assert [session.expired.reason for session in looped] == ["unhealthy"] * 2
        assert all(session.valid_for() > 0 for session in probed)
        for client, grant in zip(clients, grants, strict=True):
            holder = await client.mutex(prefix).holder()
            assert holder is not None
            assert holder.token == grant.token
            assert await grant.release()


_STOPPED = """
import asyncio, sys
import coord

async def main():
    async with coord.connect(sys.argv[1]) as client:
        session = await client.session(ttl=2).open()
        grant = await client.mutex(sys.argv[2], session=session).acquire()
        print(grant.key.decode(), flush=True)
        sys.stdin.readline()  # the loop stands still, the renewals go on
        state = session.state
        try:
            grant.check()
        except coord.LockLost:
            print(state.value, "lost", session.valid_for(), flush=True)
        else:
            print(state.value, "held", session.valid_for(), flush=True)

asyncio.run(main())
"""


@pytest.mark.processes
@pytest.mark.parametrize("_round", range(STOPS))
async def test_a_stopped_process_finds_its_session_expired_at_its_first_call(
    endpoint: str, prefix: str, _round: int
) -> None:
    async def one(number: int, client: coord.Client) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _STOPPED, endpoint, f"{prefix}{number}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            key = (await process.stdout.readline()).decode().rstrip()
            async with client.watch(key) as watch:
                process.send_signal(signal.SIGSTOP)
                event = await anext(watch)  # until the server has given it up
            assert event.type is EventType.DELETE
            process.stdin.write(b"look\n")
            process.send_signal(signal.SIGCONT)
            answer = await process.stdout.readline()
            await process.communicate()
            return answer
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async with (
        coord.connect(endpoint) as client,
        asyncio.timeout(60),
        asyncio.TaskGroup() as group,
    ):
        answers = [group.create_task(one(number, client)) for number in range(3)]
    assert [answer.result() for answer in answers] == [b"expired lost 0.0\n"] * 3


async def test_observers_without_a_loop_run_on_a_worker(endpoint: str) -> None:
    async with coord.connect(endpoint) as client:
        session = await client.session(ttl=10).open()
        told: asyncio.Queue[tuple[SessionState, int]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def register() -> None:
            def tell(state: SessionState) -> None:
                loop.call_soon_threadsafe(told.put_nowait, (state, threading.get_ident()))

            session.on_state(tell)

        await asyncio.to_thread(register)
        await session.close()
        state, thread = await told.get()
        assert state is SessionState.CLOSED
        assert thread != threading.get_ident()


async def test_a_slow_observer_without_a_loop_gets_the_newest_state() -> None:
    gate = threading.Event()
    told: list[SessionState] = []
    begun: asyncio.Queue[SessionState] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def slow(state: SessionState) -> None:
        told.append(state)
        loop.call_soon_threadsafe(begun.put_nowait, state)
        gate.wait(30)

    async with coord.connect("memory:") as client:
        session = client.session(ttl=30)
        await asyncio.to_thread(session.on_state, slow)
        await session.open()
        assert await begun.get() is SessionState.ACTIVE

        async def go_on() -> None:
            session._tell(SessionState.SUSPENDED)
            session._tell(SessionState.ACTIVE)

        await client._home.run(go_on())
        await session.close()
        assert told == [SessionState.ACTIVE]  # one call at a time
        gate.set()
        assert await asyncio.wait_for(begun.get(), 30) is SessionState.CLOSED
    assert told == [SessionState.ACTIVE, SessionState.CLOSED]


async def test_an_observer_whose_loop_has_ended_is_in_nobodys_way() -> None:
    async with coord.connect("memory:") as client:
        session = client.session(ttl=30)

        async def register() -> None:
            session.on_state(lambda _: None)

        await asyncio.to_thread(asyncio.run, register())
        told: asyncio.Queue[SessionState] = asyncio.Queue()
        session.on_state(told.put_nowait)
        await session.open()
        assert await asyncio.wait_for(told.get(), 30) is SessionState.ACTIVE
        await session.close()
        assert await asyncio.wait_for(told.get(), 30) is SessionState.CLOSED


async def test_an_observer_that_has_ended_is_told_nothing() -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        session = client.session(ttl=30)
        early: list[SessionState] = []
        end = session.on_state(early.append)
        told: asyncio.Queue[SessionState] = asyncio.Queue()
        session.on_state(told.put_nowait)
        await session.open()
        assert await told.get() is SessionState.ACTIVE
        end()
        end()
        await session.close()
        assert await told.get() is SessionState.CLOSED
        assert early == [SessionState.ACTIVE]
