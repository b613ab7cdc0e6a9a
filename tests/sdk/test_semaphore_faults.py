"""The semaphore under lost, late and doubled requests, cancellations and lost connections; its named guards."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from coord.recipes.semaphore.attempt import Attempt
from coord.recipes.semaphore.entries import Limit
from tests.sdk.semaphore_model import judged
from tests.support.faulty import Fault, held_back, make_faulty, settle
from tests.support.lines import WITHIN_S, lined_up
from tests.support.proxy import Proxy

MAX_STEPS = 300
LOST = [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    """A client whose every await is a turn of the test's own loop."""
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def fresh(client: coord.Client, limit: int, session: coord.Session) -> coord.Semaphore:
    """A semaphore whose limit is known, so that the next request is an attempt's first."""
    semaphore = client.semaphore("a", limit=limit, session=session)
    await semaphore.state()
    return semaphore


# -- unknown outcomes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("number", range(6))
async def test_any_one_answer_may_be_lost(inline: coord.Client, fault: Fault, number: int) -> None:
    """Learning the limit, the creates alone and beside others, the grant, the releases: each is repeated rightly."""
    faulty = make_faulty(inline)
    async with judged(inline, "a"), inline.session(ttl=30) as session:
        semaphore = inline.semaphore("a", limit=2, session=session)
        faulty.plan.extend([Fault.NONE] * number + [fault])
        first = await semaphore.acquire(timeout=WITHIN_S)
        second = await semaphore.acquire(timeout=WITHIN_S)
        for permit in (first, second):
            entry = await inline.get(permit.key)
            assert entry is not None
            assert entry.create_revision == permit.token
            assert json.loads(entry.value)["state"] == "granted"
        assert await inline.count("a/holders/") == 2
        assert await first.release() is True
        assert await second.release() is True
        await faulty.deliver_late()
        assert await inline.count("a/holders/") == 0
        assert (await semaphore.state()).limit == 2


@pytest.mark.parametrize("fault", LOST)
async def test_a_try_whose_answer_is_lost_ends_as_one(inline: coord.Client, fault: Fault) -> None:
    faulty = make_faulty(inline)
    async with judged(inline, "a"), inline.session(ttl=30) as session:
        semaphore = await fresh(inline, 1, session)
        faulty.plan.extend([Fault.NONE, fault])
        permit = await semaphore.try_acquire()
        assert permit is not None
        await permit.release()
        await faulty.deliver_late()
        assert await inline.count("a/holders/") == 0


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside"])
async def test_a_late_copy_after_giving_up_takes_nothing(
    inline: coord.Client, *, beside: bool
) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        semaphore = await fresh(inline, 2, session)
        held = await semaphore.acquire() if beside else None
        faulty.plan.append(Fault.LATE)
        task = asyncio.ensure_future(semaphore.acquire())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        permit = await semaphore.try_acquire()  # once the clean-up is over, changed fence or not
        assert permit is not None
        assert await faulty.deliver_late() == 1
        assert await inline.count("a/holders/") == 1 + beside
        await permit.release()
        if held:
            await held.release()


async def test_a_try_waits_until_this_session_has_taken_back_what_it_gave_up(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held_back(monkeypatch)
    async with inline.session(ttl=30) as session:
        semaphore = await fresh(inline, 2, session)
        held = await semaphore.acquire()
        task = asyncio.ensure_future(semaphore.acquire(2))
        await lined_up(inline, "a", 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await inline.count("a/holders/") == 2  # its entry is still there
        trying = asyncio.ensure_future(semaphore.try_acquire())
        await asyncio.wait([trying], timeout=0.02)
        assert not trying.done()
        go.set()
        async with asyncio.timeout(WITHIN_S):
            second = await trying
        assert second is not None
        await second.release()
        await held.release()


async def test_a_late_copy_of_a_grant_changes_nothing(inline: coord.Client) -> None:
    """It names the limit that it counted with, and an entry that is there for as long as it is held."""
    faulty = make_faulty(inline)
    async with judged(inline, "a"), inline.session(ttl=30) as session:
        semaphore = await fresh(inline, 2, session)
        held = await semaphore.acquire()
        faulty.plan.extend([Fault.NONE, Fault.LATE])
        permit = await semaphore.acquire(timeout=WITHIN_S)
        await permit.release()
        assert await faulty.deliver_late() == 1
        assert await inline.count("a/holders/") == 1
        await held.release()


@pytest.mark.parametrize("fault", LOST)
async def test_a_changed_limit_takes_place_once(inline: coord.Client, fault: Fault) -> None:
    faulty = make_faulty(inline)
    semaphore = inline.semaphore("a", limit=2)
    await semaphore.state()
    faulty.plan.append(fault)
    await semaphore.set_limit(3)
    await inline.semaphore("a").set_limit(4)
    await faulty.deliver_late()
    assert (await semaphore.state()).limit == 4


# -- what may come in between --------------------------------------------------------------------------------------

Between = Callable[[], Awaitable[object]]


def before_granting(monkeypatch: pytest.MonkeyPatch, act: Between) -> None:
    """Do something once, between what a waiter has read and its grant."""
    grant, acts = Attempt._grant, [act]

    async def interposed(self: Attempt, limit: Limit) -> bool:
        if acts:
            await acts.pop()()
        return await grant(self, limit)

    monkeypatch.setattr(Attempt, "_grant", interposed)


def before_trying(monkeypatch: pytest.MonkeyPatch, act: Between) -> None:
    """Do something once, between what a try has read and its create."""
    enter, acts = Attempt.try_enter, [act]

    async def interposed(self: Attempt, limit: Limit, revision: int) -> bool:
        if acts:
            await acts.pop()()
        return await enter(self, limit, revision)

    monkeypatch.setattr(Attempt, "try_enter", interposed)


async def test_a_limit_lowered_just_before_the_grant_counts(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with judged(inline, "a"):
        semaphore = inline.semaphore("a", limit=2)
        held = await semaphore.acquire()
        before_granting(monkeypatch, lambda: inline.put("a/limit", "1"))
        task = asyncio.ensure_future(semaphore.acquire())
        await lined_up(inline, "a", 3)
        await asyncio.sleep(0.02)
        assert not task.done()
        await held.release()
        async with asyncio.timeout(WITHIN_S):
            await (await task).release()


async def test_a_limit_raised_just_before_the_grant_does_no_harm(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with judged(inline, "a"):
        semaphore = inline.semaphore("a", limit=2)
        held = await semaphore.acquire()
        before_granting(monkeypatch, lambda: inline.put("a/limit", "3"))
        permit = await semaphore.acquire(timeout=WITHIN_S)
        await permit.release()
        await held.release()


async def test_an_entry_deleted_just_before_the_grant_is_not_made_again(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    semaphore = inline.semaphore("a", limit=2)
    held = await semaphore.acquire()

    async def delete() -> None:
        (own,) = (await semaphore.state()).waiting
        await inline.delete(own.key)

    before_granting(monkeypatch, delete)
    with pytest.raises(coord.PermitLost, match="revoked"):
        await semaphore.acquire(timeout=WITHIN_S)
    assert await inline.count("a/holders/") == 1
    await held.release()


async def test_a_limit_lowered_since_it_was_learnt_counts_for_the_first_one_too(
    inline: coord.Client,
) -> None:
    async with judged(inline, "a"):
        semaphore = inline.semaphore("a", limit=2)
        await semaphore.state()
        await inline.semaphore("a").set_limit(1)
        with pytest.raises(coord.SemaphoreTimeout):
            await semaphore.acquire(2, timeout=0.05)
        await (await semaphore.acquire(timeout=WITHIN_S)).release()


async def test_who_comes_first_during_a_try_is_seen(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with judged(inline, "a"):
        semaphore = inline.semaphore("a", limit=2)
        await semaphore.state()
        others: list[coord.Permit] = []

        async def take(permits: int) -> None:
            others.append(await inline.semaphore("a", limit=2).acquire(permits))

        before_trying(monkeypatch, lambda: take(2))
        assert await semaphore.try_acquire() is None
        await others.pop().release()
        before_trying(monkeypatch, lambda: take(1))
        permit = await semaphore.try_acquire()  # there is room beside the other one
        assert permit is not None
        await others.pop().release()
        before_trying(monkeypatch, lambda: inline.put("a/limit", "1"))
        assert await semaphore.try_acquire() is None
        await permit.release()


async def test_a_late_copy_of_a_try_that_failed_takes_nothing(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        semaphore = await fresh(inline, 1, session)
        others: list[coord.Permit] = []

        async def take() -> None:
            others.append(await inline.semaphore("a", limit=1).acquire())
            faulty.plan.append(Fault.LATE)

        before_trying(monkeypatch, take)
        assert await semaphore.try_acquire() is None
        await others.pop().release()
        permit = await semaphore.try_acquire()  # once the first one's clean-up is over
        assert permit is not None
        await permit.release()
        assert await faulty.deliver_late() == 1
        assert await inline.count("a/holders/") == 0


async def test_a_granted_entry_is_one_however_it_was_learnt(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the grant is missing, and the limit has changed before it can be sent again."""
    async with judged(inline, "a"):
        semaphore = inline.semaphore("a", limit=2)
        held = await semaphore.acquire()
        grant = Attempt._grant
        calls = 0

        async def lost(self: Attempt, limit: Limit) -> bool:
            nonlocal calls
            calls += 1
            assert await grant(self, limit) is True
            await inline.put("a/limit", "1")
            return False

        monkeypatch.setattr(Attempt, "_grant", lost)
        permit = await semaphore.acquire(timeout=WITHIN_S)
        permit.check()
        assert calls == 1
        await permit.release()
        await held.release()


# -- cancellation --------------------------------------------------------------------------------------------------


async def cancel_at(semaphore: coord.Semaphore, step: int, *, twice: bool) -> bool:
    """Acquire for ``step`` turns of the loop and cancel; say whether it had finished by then."""
    task = asyncio.ensure_future(semaphore.acquire())
    for _ in range(step):
        await asyncio.sleep(0)
    if task.done():
        await (await task).release()
        return True
    task.cancel()
    if twice:
        await asyncio.sleep(0)
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await task).release()
    return False


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("fault", [Fault.NONE, Fault.LATE])
@pytest.mark.parametrize("holders", [0, 1, 2], ids=["alone", "beside", "full"])
async def test_cancelled_at_each_step(
    inline: coord.Client, holders: int, fault: Fault, *, twice: bool
) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        mine, theirs = await fresh(inline, 2, one), await fresh(inline, 2, two)
        finished, step = False, 0
        while not finished and step < (MAX_STEPS if fault is Fault.NONE else 40):
            held = [await theirs.acquire(timeout=WITHIN_S) for _ in range(holders)]
            faulty.plan.append(fault)
            task = asyncio.ensure_future(cancel_at(mine, step, twice=twice))
            for _ in range(min(step, 15)):
                await asyncio.sleep(0)
            faulty.plan.clear()
            for permit in held:
                await permit.release()
            finished = await task
            async with theirs.hold(2, timeout=WITHIN_S):
                await faulty.deliver_late()
            assert await settle(inline, "a/holders/") == []
            step += 1
        assert finished or fault is Fault.LATE
        assert step > 3


# -- everything at once --------------------------------------------------------------------------------------------

# Without TWICE: one connection delivers an answered request once; copies come from our own resending.
FAULTS = st.lists(st.sampled_from([Fault.NONE, *LOST]), max_size=16)


@settings(max_examples=40)
@given(
    plan=FAULTS,
    wants=st.lists(st.integers(1, 3), min_size=5, max_size=5),
    cancels=st.lists(st.integers(0, 25), max_size=3),
    limits=st.lists(st.integers(0, 4), max_size=3),
    deletes=st.lists(st.integers(0, 25), max_size=1),
)
def test_any_faults_and_cancellations_keep_the_rules(
    plan: list[Fault],
    wants: list[int],
    cancels: list[int],
    limits: list[int],
    deletes: list[int],
) -> None:
    """Five contenders of two sessions, judged by the model at every revision; nothing left, nobody stuck."""
    asyncio.run(_contend(plan, wants, cancels, limits, deletes))


async def _contend(
    plan: list[Fault],
    wants: list[int],
    cancels: list[int],
    limits: list[int],
    deletes: list[int],
) -> None:
    async with coord.connect("memory:", runtime="inline") as client, judged(client, "a"):
        faulty = make_faulty(client)
        sessions = [await client.session(ttl=30).open() for _ in range(2)]

        async def contend(number: int) -> None:
            semaphore = client.semaphore("a", initial_limit=3, session=sessions[number % 2])
            async with semaphore.hold(wants[number], on_loss="flag"):
                await asyncio.sleep(0)

        faulty.plan.extend(plan)
        tasks = [asyncio.ensure_future(contend(n)) for n in range(5)]
        for index, turns in enumerate(cancels):
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[index].cancel()
            if index % 2:
                await faulty.deliver_late()
        for limit in limits:
            await asyncio.sleep(0)
            await client.semaphore("a").set_limit(limit)
        for turns in deletes:
            for _ in range(turns):
                await asyncio.sleep(0)
            for kv in (await client.get_prefix("a/holders/", limit=1)).items:
                await client.delete(kv.key)
        if limits:
            await client.semaphore("a").set_limit(3)
        done, pending = await asyncio.wait(tasks, timeout=30)
        assert not pending
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                assert deletes
                assert isinstance(task.exception(), coord.PermitLost)
        await faulty.deliver_late()
        assert await settle(client, "a/holders/") == []
        for session in sessions:
            async with client.semaphore("a", initial_limit=3, session=session).hold(3, timeout=10):
                pass


# -- connections and rights ----------------------------------------------------------------------------------------


async def test_a_lost_connection_loses_no_hand_over(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        judged(direct, prefix),
    ):
        semaphore = direct.semaphore(prefix, limit=1)
        held = await semaphore.acquire()
        first = asyncio.ensure_future(client.semaphore(prefix).acquire())
        await lined_up(direct, prefix, 3)
        second = asyncio.ensure_future(client.semaphore(prefix).acquire())
        await lined_up(direct, prefix, 4)
        await proxy.refuse()
        proxy.cut()
        await held.release()
        await direct.put(prefix + "x", "1")
        await direct.compact((await direct.put(prefix + "x", "2")).revision)
        await proxy.accept()
        async with asyncio.timeout(WITHIN_S):
            await (await first).release()
            await (await second).release()


async def test_out_of_reach_it_waits_for_the_limit(endpoint: str, prefix: str) -> None:
    async with Proxy(endpoint) as proxy, coord.connect(proxy.endpoint) as client:
        session = await client.session(ttl=30).open()
        await proxy.refuse()
        proxy.cut()
        semaphore = client.semaphore(prefix, limit=1, session=session)
        task = asyncio.ensure_future(semaphore.acquire())
        with pytest.raises(coord.SemaphoreTimeout):
            await semaphore.acquire(timeout=0.3)
        assert not task.done()
        await proxy.accept()
        async with asyncio.timeout(WITHIN_S):
            await (await task).release()
        await session.close()


async def test_without_rights_on_the_fence_a_late_copy_is_taken_back() -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        client._home.may_fence = False
        faulty = make_faulty(client)
        async with client.session(ttl=2) as one:
            semaphore = await fresh(client, 1, one)
            faulty.plan.append(Fault.LATE)
            task = asyncio.ensure_future(semaphore.acquire())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with client.watch("a/", prefix=True) as changes:
                assert await faulty.deliver_late() == 1
                landed, gone = await anext(changes), await anext(changes)
            assert (landed.type, gone.type) == (coord.EventType.PUT, coord.EventType.DELETE)
            assert one.valid_for() > 0
            await (await semaphore.acquire(timeout=WITHIN_S)).release()
