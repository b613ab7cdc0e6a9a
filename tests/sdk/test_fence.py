"""The create fence (recipes C5) and unknown outcomes (C4): lost, late and doubled requests of an acquire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from tests.support.faulty import Fault, make_faulty, settle


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def test_a_create_that_landed_is_adopted_by_its_nonce(inline: coord.Client) -> None:
    faulty = make_faulty(inline, [Fault.LOSE_REPLY])
    async with inline.session(ttl=30) as session:
        grant = await inline.mutex("a", session=session).acquire(timeout=5)
        entry = await inline.get(grant.key)
        assert entry is not None
        assert entry.create_revision == grant.token
        assert entry.version == 1
        await grant.release()
        assert await faulty.deliver_late() == 0


async def test_a_late_copy_after_the_release_cannot_take_the_lock_back(
    inline: coord.Client,
) -> None:
    faulty = make_faulty(inline, [Fault.LATE])
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        grant = await inline.mutex("a", session=one).acquire(timeout=5)
        await grant.release()
        assert await faulty.deliver_late() == 1
        assert await inline.get(grant.key) is None
        async with inline.mutex("a", session=two).hold(timeout=5):
            pass


async def test_a_late_copy_after_giving_up_cannot_take_the_lock(inline: coord.Client) -> None:
    faulty = make_faulty(inline, [Fault.LATE])
    async with inline.session(ttl=30) as one:
        mutex = inline.mutex("a", session=one)
        task = asyncio.ensure_future(mutex.acquire())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await settle(inline, "a/") == []
        await faulty.deliver_late()
        assert await inline.get_prefix("a/") == await inline.get_prefix("a/")
        assert (await inline.get_prefix("a/")).items == ()
        async with mutex.hold(timeout=5):  # and the changed fence does not lock ourselves out
            pass


LOCKS: dict[str, Callable[[coord.Client, coord.Session], coord.Mutex | coord.MultiLock]] = {
    "line": lambda client, session: client.mutex("a", session=session),
    "single key": lambda client, session: client.mutex("a/", session=session, layout="single-key"),
    "several": lambda client, session: client.multi_lock(["a/x", "a/y"], session=session),
}


@pytest.mark.parametrize("kind", LOCKS)
async def test_a_late_copy_after_an_operators_deletion_goes_with_the_release(
    inline: coord.Client, kind: str
) -> None:
    """Nobody knows it for his own, and it would stand in the way of all others for as long as the session lives."""
    make, faulty = LOCKS[kind], make_faulty(inline, [Fault.LATE])
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        grant = await make(inline, one).acquire(timeout=5)
        await inline.delete_prefix("a/")
        assert await faulty.deliver_late() == 1
        assert await inline.count("a/") > 0
        await grant.release()
        assert (await inline.get_prefix("a/")).items == ()
        assert not (await inline.txn().when(*grant.guards()).commit()).succeeded
        async with make(inline, two).hold(timeout=5):
            pass


async def test_a_lost_release_is_repeated_until_it_is_confirmed(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        for fault in (Fault.LOSE_REQUEST, Fault.LOSE_REPLY):
            grant = await inline.mutex("a", session=session).acquire(timeout=5)
            faulty.plan.append(fault)
            assert await grant.release() is True
            assert await inline.get(grant.key) is None


async def test_a_doubled_release_does_not_free_the_next_holder(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        mutex = inline.mutex("a", session=session)
        first = await mutex.acquire(timeout=5)
        faulty.plan.append(Fault.TWICE)
        await first.release()
        second = await mutex.acquire(timeout=5)
        assert second.key == first.key
        assert await faulty.deliver_late() == 1
        assert await inline.get(second.key) is not None
        second.check()
        await second.release()


# Without TWICE: one connection delivers an answered request once; copies come from our own resending.
FAULTS = st.lists(
    st.sampled_from([Fault.NONE, Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]), max_size=12
)


@settings(max_examples=40)
@given(plan=FAULTS, cancels=st.lists(st.integers(0, 25), max_size=4), sessions=st.integers(1, 3))
def test_any_faults_and_cancellations_keep_exclusion_and_order(
    plan: list[Fault], cancels: list[int], sessions: int
) -> None:
    """Contenders under lost, late and doubled requests: no overlap, rising tokens, nothing left, nobody stuck."""
    asyncio.run(_contend(plan, cancels, sessions))


async def _contend(plan: list[Fault], cancels: list[int], sessions: int) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        faulty = make_faulty(client)
        opened = [await client.session(ttl=30).open() for _ in range(sessions)]
        mutexes = [client.mutex("a", session=s) for s in opened]
        tokens: list[int] = []
        inside: list[int] = []

        async def contend(number: int) -> None:
            async with mutexes[number % sessions].hold() as grant:
                inside.append(number)
                try:
                    assert inside == [number]
                    tokens.append(grant.token)
                    await asyncio.sleep(0)
                finally:
                    inside.remove(number)

        faulty.plan.extend(plan)
        tasks = [asyncio.ensure_future(contend(n)) for n in range(5)]
        for index, turns in enumerate(cancels):
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[index].cancel()
            if index % 2:
                await faulty.deliver_late()
        done, pending = await asyncio.wait(tasks, timeout=30)
        assert not pending
        for task in done:
            if not task.cancelled():
                await task
        await faulty.deliver_late()
        assert tokens == sorted(set(tokens))
        assert await settle(client, "a/") == []
        for mutex in mutexes:
            async with mutex.hold(timeout=10):
                pass
