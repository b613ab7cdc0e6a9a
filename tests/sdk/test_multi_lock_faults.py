"""A multi-lock under lost, late and doubled requests, cancellations, and circles by nesting: all of it, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from coord.locking import deadlock
from tests.support.faulty import Fault, make_faulty, settle
from tests.support.proxy import Proxy

WITHIN_S = 20.0
AB = ["a", "b"]


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def everything(client: coord.Client) -> list[bytes]:
    found = (await client.get_prefix("")).items
    return [kv.key for kv in found if not kv.key.startswith(b"_coord/gate/")]


async def test_a_create_that_landed_is_adopted_as_a_whole(inline: coord.Client) -> None:
    make_faulty(inline, [Fault.LOSE_REPLY])
    async with inline.session(ttl=30) as session:
        grant = await inline.multi_lock(AB, session=session).acquire(timeout=WITHIN_S)
        entries = (await inline.get_prefix("")).items
        assert [kv.key for kv in entries] == list(grant.keys)
        assert {(kv.create_revision, kv.version) for kv in entries} == {(grant.token, 1)}
        await grant.release()
        assert await everything(inline) == []


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_create_that_landed_and_was_broken_is_no_grant(
    inline: coord.Client, victim: int
) -> None:
    faulty = make_faulty(inline, [Fault.LOSE_REPLY])
    async with inline.session(ttl=30) as session:
        key = f"{AB[victim]}/{session.lease_id:x}"
        waiting = asyncio.ensure_future(inline.multi_lock(AB, session=session).acquire())
        while len(faulty.paths) < 1 or not await inline.get(key):
            await asyncio.sleep(0)
        await inline.delete(key)
        with pytest.raises(coord.LockLost, match="revoked"):
            await asyncio.wait_for(waiting, WITHIN_S)
        assert await settle(inline, "a/") == []
        assert await settle(inline, "b/") == []
        async with inline.multi_lock(AB, session=session).hold(timeout=WITHIN_S):
            pass


async def test_a_late_copy_after_the_release_takes_nothing_back(inline: coord.Client) -> None:
    faulty = make_faulty(inline, [Fault.LATE])
    async with inline.session(ttl=30) as session:
        grant = await inline.multi_lock(AB, session=session).acquire(timeout=WITHIN_S)
        await grant.release()
        assert await faulty.deliver_late() == 1
        assert await everything(inline) == []


@pytest.mark.parametrize("fault", [Fault.LATE, Fault.LOSE_REPLY])
async def test_an_unknown_create_that_is_given_up_leaves_nothing(
    inline: coord.Client, fault: Fault
) -> None:
    faulty = make_faulty(inline, [fault])
    async with inline.session(ttl=30) as session:
        waiting = asyncio.ensure_future(inline.multi_lock(AB, session=session).acquire())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for name in AB:
            assert await settle(inline, name + "/") == []
        await faulty.deliver_late()
        assert await everything(inline) == []
        async with inline.multi_lock(AB, session=session).hold(timeout=WITHIN_S):
            pass


async def test_a_given_up_one_of_which_the_first_entry_was_broken_leaves_nothing(
    inline: coord.Client,
) -> None:
    faulty = make_faulty(inline, [Fault.LOSE_REPLY])
    async with inline.session(ttl=30) as session:
        waiting = asyncio.ensure_future(inline.multi_lock(AB, session=session).acquire())
        while not await inline.count("b/"):
            await asyncio.sleep(0)
        await inline.delete(f"a/{session.lease_id:x}")
        faulty.plan.extend([Fault.LOSE_REQUEST] * 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await settle(inline, "b/") == []


async def test_a_lost_release_is_repeated_until_it_is_confirmed(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        for fault in (Fault.LOSE_REQUEST, Fault.LOSE_REPLY):
            grant = await inline.multi_lock(AB, session=session).acquire(timeout=WITHIN_S)
            faulty.plan.append(fault)
            assert await grant.release() is True
            assert await everything(inline) == []


async def test_a_doubled_release_does_not_free_the_next_holder(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        lock = inline.multi_lock(AB, session=session)
        first = await lock.acquire(timeout=WITHIN_S)
        faulty.plan.append(Fault.TWICE)
        await first.release()
        second = await lock.acquire(timeout=WITHIN_S)
        assert await faulty.deliver_late() == 1
        assert await everything(inline) == list(second.keys)
        await second.release()


async def test_a_doubled_release_of_a_broken_one_does_not_free_the_next_holder(
    inline: coord.Client,
) -> None:
    """What removes the rest of a broken grant is guarded entry by entry."""
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        lock = inline.multi_lock(AB, session=session)
        first = await lock.acquire(timeout=WITHIN_S)
        await inline.delete(first.keys[1])
        faulty.plan.append(Fault.TWICE)
        await first.release()
        assert await everything(inline) == []
        second = await lock.acquire(timeout=WITHIN_S)
        assert await faulty.deliver_late() == 1
        assert await everything(inline) == list(second.keys)
        second.check()
        await second.release()


async def test_a_late_copy_of_a_try_that_failed_takes_nothing(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        held = await inline.mutex("b", session=one).acquire()
        lock = inline.multi_lock(AB, session=two)
        faulty.plan.append(Fault.LATE)
        assert await lock.try_acquire() is None
        await held.release()
        async with lock.hold(timeout=WITHIN_S):
            pass
        assert await faulty.deliver_late() == 1
        assert await everything(inline) == []


async def test_a_lost_connection_does_not_lose_the_hand_over(endpoint: str, prefix: str) -> None:
    names = [prefix + name for name in AB]
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        held = await direct.multi_lock(names).acquire(timeout=WITHIN_S)
        waiting = asyncio.ensure_future(client.multi_lock(names).acquire())
        async with asyncio.timeout(WITHIN_S):
            while await direct.count(prefix) < 4:
                await asyncio.sleep(0.01)
        await proxy.refuse()
        proxy.cut()
        await held.release()
        await proxy.accept()
        async with asyncio.timeout(WITHIN_S):
            grant = await waiting
        assert grant.token > held.token
        proxy.cut()  # a holder keeps what it has
        grant.check()
        assert await grant.release()
        assert await direct.count(prefix) == 0


async def test_a_session_that_another_process_uses_is_told(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as session:
        for name in AB:
            key = f"{name}/{session.lease_id:x}"
            await inline.put(key, "", lease=session.lease_id)
            with pytest.raises(coord.SessionShared):
                await inline.multi_lock(AB, session=session).acquire(timeout=WITHIN_S)
            assert await everything(inline) == [key.encode()]
            await inline.delete(key)


async def test_a_nested_circle_is_detected(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlock, "_FIRST_LOOK_S", 0.05)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        ready = asyncio.Barrier(2)

        async def nested(outer: list[str], inner: list[str], session: coord.Session) -> str:
            async with inline.multi_lock(outer, session=session).hold(timeout=WITHIN_S):
                await ready.wait()
                lock = inline.multi_lock(inner, session=session, detect_deadlocks=True)
                try:
                    async with lock.hold(timeout=WITHIN_S):
                        return "both"
                except coord.DeadlockDetected:
                    return "gave up"

        tasks = [
            asyncio.ensure_future(nested(["a", "b"], ["c"], one)),
            asyncio.ensure_future(nested(["c"], ["b", "d"], two)),
        ]
        assert sorted([await asyncio.wait_for(task, WITHIN_S) for task in tasks]) == [
            "both",
            "gave up",
        ]


# Without TWICE: one connection delivers an answered request once; copies come from our own resending.
FAULTS = st.lists(
    st.sampled_from([Fault.NONE, Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]), max_size=12
)


@settings(max_examples=40)
@given(plan=FAULTS, cancels=st.lists(st.integers(0, 25), max_size=4), sessions=st.integers(1, 3))
def test_any_faults_and_cancellations_keep_exclusion_and_order(
    plan: list[Fault], cancels: list[int], sessions: int
) -> None:
    """Contenders under lost and late requests: no overlap, rising tokens per name, nothing left, nobody stuck."""
    asyncio.run(_contend(plan, cancels, sessions))


async def _contend(plan: list[Fault], cancels: list[int], sessions: int) -> None:
    wanted = [["a", "b"], ["c", "b"], ["a", "c"], ["b"], ["c", "b", "a"]]
    async with coord.connect("memory:", runtime="inline") as client:
        faulty = make_faulty(client)
        opened = [await client.session(ttl=30).open() for _ in range(sessions)]
        tokens: dict[str, list[int]] = {}
        inside: set[str] = set()

        async def contend(number: int) -> None:
            mine = wanted[number]
            async with client.multi_lock(mine, session=opened[number % sessions]).hold() as grant:
                assert not inside & set(mine)
                inside.update(mine)
                try:
                    for name in mine:
                        tokens.setdefault(name, []).append(grant.token)
                    await asyncio.sleep(0)
                finally:
                    inside.difference_update(mine)

        faulty.plan.extend(plan)
        tasks = [asyncio.ensure_future(contend(number)) for number in range(len(wanted))]
        for number, turns in enumerate(cancels):
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[number].cancel()
        async with asyncio.timeout(60):
            done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(d, asyncio.CancelledError) or d is None for d in done)
        await faulty.deliver_late()
        for name in "abc":
            assert await settle(client, name + "/") == []
            found = tokens.get(name, [])
            assert found == sorted(set(found))
        assert await everything(client) == []
