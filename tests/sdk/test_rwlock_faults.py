"""The read-write lock under lost, late and doubled requests, cancellations and lost connections; its named guards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from tests.sdk.rwlock_model import History
from tests.support.faulty import Fault, held_back, make_faulty, settle
from tests.support.lines import WITHIN_S, lined_up
from tests.support.proxy import Proxy

MAX_STEPS = 300
KINDS = ("read", "write", "downgradable")


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    """A client whose every await is a turn of the test's own loop."""
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


def side_of(rw: coord.RWLock, kind: str) -> coord.ReadLock | coord.WriteLock:
    return rw.read() if kind == "read" else rw.write(downgradable=kind == "downgradable")


# -- unknown outcomes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_create_that_landed_is_adopted(inline: coord.Client, kind: str) -> None:
    faulty = make_faulty(inline, [Fault.LOSE_REPLY])
    async with inline.session(ttl=30) as session:
        side = side_of(inline.rwlock("a", session=session), kind)
        for acquire in (side.acquire, side.try_acquire):
            grant = await acquire()
            assert grant is not None
            entries = (await inline.get_prefix("a/")).items
            assert len(entries) == 1 + (kind == "downgradable")
            assert {(kv.create_revision, kv.version) for kv in entries} == {(grant.token, 1)}
            await grant.release()
            faulty.plan.append(Fault.LOSE_REPLY)
        faulty.plan.clear()
        assert await settle(inline, "a/") == []


async def test_a_pair_of_which_one_was_deleted_is_not_made_again(inline: coord.Client) -> None:
    """Its other entry must never be changed: foreign readers go by modification revisions."""
    make_faulty(inline, [Fault.LOSE_REPLY])
    async with inline.session(ttl=30) as session, inline.watch("a/", prefix=True) as changes:
        rw = inline.rwlock("a", session=session)
        task = asyncio.ensure_future(rw.write(downgradable=True).acquire())
        keys = {(await anext(changes)).kv.key, (await anext(changes)).kv.key}
        await inline.delete(max(keys))  # before the create is sent again
        with pytest.raises(coord.LockLost, match="revoked"):
            await task
        assert await settle(inline, "a/") == []
        for _ in keys:
            assert (await anext(changes)).type is coord.EventType.DELETE


@pytest.mark.parametrize("kind", KINDS)
async def test_a_late_copy_after_the_release_takes_nothing(inline: coord.Client, kind: str) -> None:
    """The release after an unanswered send changes the fence."""
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        side = side_of(inline.rwlock("a", session=session), kind)
        for acquire in (side.acquire, side.try_acquire):
            faulty.plan.append(Fault.LATE)
            grant = await acquire()
            assert grant is not None
            await grant.release()
            assert await faulty.deliver_late() == 1
            assert await inline.count("a/") == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_late_copy_after_giving_up_takes_nothing(inline: coord.Client, kind: str) -> None:
    faulty = make_faulty(inline, [Fault.LATE])
    async with inline.session(ttl=30) as session:
        rw = inline.rwlock("a", session=session)
        task = asyncio.ensure_future(side_of(rw, kind).acquire())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await settle(inline, "a/") == []
        await rw.write().acquire_for(
            "other", timeout=WITHIN_S
        )  # waits for the clean-up, changed fence or not
        assert await faulty.deliver_late() == 1
        assert await inline.count("a/") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_late_copy_of_a_try_that_failed_takes_nothing(
    inline: coord.Client, kind: str
) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        held = await inline.rwlock("a", session=one).write().acquire()
        faulty.plan.append(Fault.LATE)
        rw = inline.rwlock("a", session=two)
        assert await side_of(rw, kind).try_acquire() is None
        await held.release()
        grant = await side_of(rw, kind).try_acquire()  # once the first one's clean-up is over
        assert grant is not None
        await grant.release()
        assert await faulty.deliver_late() == 1
        assert await inline.count("a/") == 0


async def test_a_try_waits_until_this_session_has_taken_back_what_it_gave_up(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held_back(monkeypatch)
    async with inline.session(ttl=30) as session:
        rw = inline.rwlock("a", session=session)
        reading = await rw.read().acquire()
        task = asyncio.ensure_future(rw.write().acquire())
        await lined_up(inline, "a", 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await inline.count("a/") == 2  # its entry is still there
        trying = asyncio.ensure_future(rw.read().try_acquire())
        await asyncio.wait([trying], timeout=0.02)
        assert not trying.done()
        go.set()
        async with asyncio.timeout(WITHIN_S):
            second = await trying
        assert second is not None
        await second.release()
        await reading.release()


async def test_a_try_is_not_refused_because_a_neighbour_changed_the_fence(
    inline: coord.Client,
) -> None:
    """Tasks of one session share the fence: an attempt that meets a new one tries again instead of saying no."""
    faulty = make_faulty(inline, [Fault.LATE])
    async with inline.session(ttl=30) as session:
        rw = inline.rwlock("a", session=session)
        reading = await rw.read().acquire()
        asked: list[asyncio.Task[coord.ReadGrant | None]] = []

        def ask(_: str) -> None:
            # In the same turn as the release that changes the fence, and sent after it, with the fence as known before.
            if not asked:
                asked.append(asyncio.ensure_future(rw.read().try_acquire()))

        faulty.on_call = ask
        await reading.release()
        async with asyncio.timeout(WITHIN_S):
            second = await asked[0]
        assert second is not None
        await second.release()
        await faulty.deliver_late()
        assert await settle(inline, "a/") == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_release_is_repeated_until_it_is_confirmed(inline: coord.Client, kind: str) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        side = side_of(inline.rwlock("a", session=session), kind)
        for fault in (Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE):
            grant = await side.acquire(timeout=WITHIN_S)
            faulty.plan.append(fault)
            assert await grant.release() is True
            assert await inline.count("a/") == 0
            after = await side.acquire(timeout=WITHIN_S)
            await faulty.deliver_late()
            after.check()
            assert await inline.get(after.key) is not None
            await after.release()


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE, Fault.TWICE])
async def test_a_downgrade_is_repeated_until_it_is_confirmed(
    inline: coord.Client, fault: Fault
) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        rw = inline.rwlock("a", session=session)
        grant = await rw.write(downgradable=True).acquire()
        faulty.plan.append(fault)
        await grant.downgrade()
        assert [kv.key for kv in (await inline.get_prefix("a/")).items] == [grant.key]
        async with rw.read().hold(timeout=WITHIN_S):
            grant.check()
        await faulty.deliver_late()
        grant.check()
        assert await grant.release() is True
        assert await inline.count("a/") == 0


async def test_a_downgrade_goes_on_without_its_caller(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        rw = inline.rwlock("a", session=session)
        for way in ("cancel", "timeout"):
            grant = await rw.write(downgradable=True).acquire()
            faulty.plan.extend([Fault.LOSE_REQUEST] * 3)
            if way == "cancel":
                task = asyncio.ensure_future(grant.downgrade())
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(coord.LockTimeout, match="downgrade"):
                    await grant.downgrade(timeout=0.01)
            assert grant.downgraded
            grant.check()
            async with rw.read().hold(timeout=WITHIN_S):
                pass
            await grant.downgrade()
            await grant.release()
            assert await settle(inline, "a/") == []


async def test_a_release_during_a_downgrade_removes_both_entries(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty, go = make_faulty(inline), asyncio.Event()

    async def pause(_low: float, _high: float) -> None:
        await go.wait()

    monkeypatch.setattr(inline._home, "pause", pause)
    async with inline.session(ttl=30) as session:
        grant = await inline.rwlock("a", session=session).write(downgradable=True).acquire()
        faulty.plan.append(Fault.LOSE_REQUEST)
        task = asyncio.ensure_future(grant.downgrade())
        while faulty.plan:
            await asyncio.sleep(0)
        assert await grant.release() is True
        assert await inline.count("a/") == 0
        go.set()
        with pytest.raises(coord.NotHeld):
            await task


async def test_a_store_that_refuses_the_downgrade_is_heard(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as session:
        grant = await inline.rwlock("a", session=session).write(downgradable=True).acquire()
        place = grant._place
        run = place._home.txn.run

        async def refuse(*_: object, **__: object) -> coord.TxnResult:
            raise coord.PermissionDenied("etcdserver: permission denied")

        place._home.txn.run = refuse  # type: ignore[method-assign]
        with pytest.raises(coord.PermissionDenied):
            await grant.downgrade()
        grant.check()  # a right to read, as asked
        place._home.txn.run = run  # type: ignore[method-assign]
        await grant.downgrade()
        assert await inline.count("a/") == 1
        await grant.release()


# -- cancellation --------------------------------------------------------------------------------------------------

Acquire = Callable[[], Awaitable[coord.Grant]]


async def cancel_at(acquire: Acquire, step: int, *, twice: bool) -> bool:
    """Run ``acquire`` for ``step`` turns of the loop and cancel it; say whether it had finished by then."""
    task = asyncio.ensure_future(acquire())
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
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [Fault.NONE, Fault.LATE])
async def test_cancelled_at_each_step(
    inline: coord.Client, kind: str, fault: Fault, *, twice: bool
) -> None:
    """While somebody else holds it, and at the hand-over: no key stays, and the next one gets in."""
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        holder, rw = inline.rwlock("a", session=one), inline.rwlock("a", session=two)
        finished, step = False, 0
        while not finished and step < (MAX_STEPS if fault is Fault.NONE else 40):
            held = await holder.write().acquire(timeout=WITHIN_S)
            faulty.plan.append(fault)
            task = asyncio.ensure_future(cancel_at(side_of(rw, kind).acquire, step, twice=twice))
            for _ in range(min(step, 12)):
                await asyncio.sleep(0)
            faulty.plan.clear()
            await held.release()
            finished = await task
            async with holder.write().hold(timeout=WITHIN_S):
                await faulty.deliver_late()
            assert await settle(inline, "a/") == []
            step += 1
        assert finished or fault is Fault.LATE
        assert step > 3


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
async def test_a_downgrade_cancelled_at_each_step(inline: coord.Client, *, twice: bool) -> None:
    async with inline.session(ttl=30) as session:
        rw = inline.rwlock("a", session=session)
        finished, step = False, 0
        while not finished:
            grant = await rw.write(downgradable=True).acquire(timeout=WITHIN_S)
            task = asyncio.ensure_future(grant.downgrade())
            for _ in range(step):
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
            if twice:
                await asyncio.sleep(0)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            grant.check()
            if grant.downgraded:
                async with rw.read().hold(timeout=WITHIN_S):
                    pass
            assert await grant.release() is True
            assert await settle(inline, "a/") == []
            step += 1
            assert step < MAX_STEPS


# -- everything at once --------------------------------------------------------------------------------------------

# Without TWICE: one connection delivers an answered request once; copies come from our own resending.
FAULTS = st.lists(
    st.sampled_from([Fault.NONE, Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]), max_size=14
)


@settings(max_examples=40)
@given(
    plan=FAULTS,
    kinds=st.lists(st.sampled_from(KINDS), min_size=5, max_size=5),
    cancels=st.lists(st.integers(0, 25), max_size=3),
    deletes=st.lists(st.integers(0, 25), max_size=1),
)
def test_any_faults_and_cancellations_keep_the_rules(
    plan: list[Fault], kinds: list[str], cancels: list[int], deletes: list[int]
) -> None:
    """Five contenders of two sessions: exclusion and order as in the model, nothing left, nobody stuck."""
    asyncio.run(_contend(plan, kinds, cancels, deletes))


async def _contend(
    plan: list[Fault], kinds: list[str], cancels: list[int], deletes: list[int]
) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        faulty = make_faulty(client)
        sessions = [await client.session(ttl=30).open() for _ in range(2)]
        history = History()

        async def contend(number: int) -> None:
            side = side_of(client.rwlock("a", session=sessions[number % 2]), kinds[number])
            async with side.hold(on_loss="flag") as grant:
                held = history.grant("read" if kinds[number] == "read" else "write", grant.token)
                grant.lost.watch(lambda: history.end(held) if held.ended is None else None)
                try:
                    await asyncio.sleep(0)
                    if isinstance(grant, coord.WriteGrant) and kinds[number] == "downgradable":
                        history.downgrade(held)
                        await grant.downgrade()
                        await asyncio.sleep(0)
                finally:
                    if held.ended is None:
                        history.end(held)

        faulty.plan.extend(plan)
        tasks = [asyncio.ensure_future(contend(n)) for n in range(5)]
        for index, turns in enumerate(cancels):
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[index].cancel()
            if index % 2:
                await faulty.deliver_late()
        for turns in deletes:
            for _ in range(turns):
                await asyncio.sleep(0)
            for kv in (await client.get_prefix("a/", limit=1)).items:
                await client.delete(kv.key)
        done, pending = await asyncio.wait(tasks, timeout=30)
        assert not pending
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                assert deletes
                assert isinstance(task.exception(), coord.LockLost)
        await faulty.deliver_late()
        if not deletes:  # the holder hears of a deletion a moment later than the one behind it
            history.judge()
        assert await settle(client, "a/") == []
        for session in sessions:
            async with client.rwlock("a", session=session).write().hold(timeout=10):
                pass


# -- connections and rights ----------------------------------------------------------------------------------------


async def test_a_lost_connection_loses_no_hand_over(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        for kind in KINDS:
            held = await direct.rwlock(prefix).write().acquire()
            waiting = asyncio.ensure_future(side_of(client.rwlock(prefix), kind).acquire())
            await lined_up(direct, prefix, 2 + (kind == "downgradable"))
            await proxy.refuse()
            proxy.cut()
            await held.release()
            await proxy.accept()
            async with asyncio.timeout(WITHIN_S):
                grant = await waiting
            assert grant.token > held.token
            assert await grant.release()


async def test_a_lost_session_tells_a_holder_and_lets_the_next_one_in(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:
        alone = await client.rwlock(prefix, session=one).write(downgradable=True).acquire()
        waiting = asyncio.ensure_future(client.rwlock(prefix, session=two).write().acquire())
        await lined_up(client, prefix, 3)
        await alone.downgrade()
        await client.lease_revoke(one.lease_id)
        async with asyncio.timeout(WITHIN_S):
            after = await waiting
        assert await alone.lost.wait(timeout=WITHIN_S) is not None
        with pytest.raises(coord.LockLost):
            await alone.downgrade()
        assert await alone.release() is False
        await after.release()


async def test_without_rights_on_the_fence_a_late_copy_is_taken_back() -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        client._home.may_fence = False
        faulty = make_faulty(client, [Fault.LATE])
        async with client.session(ttl=2) as one:
            task = asyncio.ensure_future(client.rwlock("a", session=one).read().acquire())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with client.watch("a/", prefix=True) as changes:
                assert await faulty.deliver_late() == 1
                landed, gone = await anext(changes), await anext(changes)
            assert (landed.type, gone.type) == (coord.EventType.PUT, coord.EventType.DELETE)
            assert one.valid_for() > 0
