"""Double barriers under races, crashes, and lost, late and doubled requests.

``COORD_BARRIER_EXAMPLES`` (default 30) is the number of schedules with lost, late and cancelled requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from coord.entry import Entry
from tests.sdk.test_double_barrier import Referee, gathered, places, rest
from tests.support.faulty import Fault, held_back, make_faulty, settle
from tests.support.virtual import VirtualLoop, run_virtual, virtual_client

EXAMPLES = int(os.environ.get("COORD_BARRIER_EXAMPLES", "30"))
WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def test_what_a_cancelled_call_leaves_behind_is_no_other_party(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held_back(monkeypatch)
    first = asyncio.ensure_future(inline.double_barrier("b", 2).enter())
    while not await inline.count("b/waiters/"):
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    again = asyncio.ensure_future(inline.double_barrier("b", 2).enter())
    for _ in range(10):
        await inline.get("nothing")
    assert not again.done()
    go.set()
    async with inline.session(ttl=30) as session:
        other = asyncio.ensure_future(inline.double_barrier("b", 2, session=session).enter())
        async with asyncio.timeout(WITHIN_S):
            assert await again == await other


# -- races ---------------------------------------------------------------------------------------------------------


def before_withdrawal(
    monkeypatch: pytest.MonkeyPatch, *steps: Coroutine[object, object, object]
) -> None:
    """Do something between the look that finds no room and the removal of the entry, once."""
    original = Entry.leave_if
    left = list(steps)

    async def racing(
        self: Entry, when: tuple[coord.Compare, ...], then: tuple[coord.Op, ...] = ()
    ) -> coord.TxnResult:
        while left:
            await left.pop(0)
        return await original(self, when, then)

    monkeypatch.setattr(Entry, "leave_if", racing)


async def test_who_is_counted_by_a_round_that_begins_takes_part_in_it(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our entry was about to be taken back, but the old round has ended and a new one counts it."""
    await inline.put("b/waiters/old", "")
    await inline.put("b/ready", "")
    before_withdrawal(
        monkeypatch,
        inline.delete("b/waiters/old"),
        inline.put("b/waiters/new", ""),
        inline.put("b/ready", ""),
    )
    async with asyncio.timeout(WITHIN_S):
        begun = await inline.double_barrier("b", 2).enter()
    ready = await inline.get("b/ready")
    assert ready is not None
    assert ready.mod_revision == begun


async def test_who_is_one_too_many_does_not_take_part(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round that we found complete begins before we have taken our entry back."""
    for each in ("1", "2"):
        await inline.put(f"b/waiters/{each}", "")
    before_withdrawal(monkeypatch, inline.put("b/ready", ""))
    entering = asyncio.ensure_future(inline.double_barrier("b", 2).enter())
    await gathered(inline, "b", 3)
    await gathered(inline, "b", 2)
    await rest(inline)
    assert not entering.done()
    await inline.delete_prefix("b/")
    await gathered(inline, "b", 1)  # there is room, and it stands again
    assert not entering.done()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


async def test_a_copy_of_the_beginning_begins_nothing_later(inline: coord.Client) -> None:
    """The request that begins a round arrives again when that is over, and others gather."""
    barrier = inline.double_barrier("b", 1)
    await inline.default_session()
    faulty = make_faulty(inline, [Fault.NONE, Fault.LATE])
    async with asyncio.timeout(WITHIN_S):
        await barrier.enter()
        await barrier.leave()
    assert await inline.get("b/ready") is None
    assert await faulty.deliver_late() == 1
    assert await inline.get("b/ready") is None


async def test_a_late_copy_of_an_entry_does_not_stand_again(inline: coord.Client) -> None:
    barrier = inline.double_barrier("b", 1)
    await inline.default_session()
    faulty = make_faulty(inline, [Fault.LATE])
    async with asyncio.timeout(WITHIN_S):
        await barrier.enter()
        await barrier.leave()
    assert await faulty.deliver_late() == 1
    assert (await inline.get_prefix("b/waiters/")).items == ()


async def test_nor_when_somebody_has_removed_the_entry(inline: coord.Client) -> None:
    barrier = inline.double_barrier("b", 1)
    await inline.default_session()
    faulty = make_faulty(inline, [Fault.LATE])
    async with asyncio.timeout(WITHIN_S):
        await barrier.enter()
        await inline.delete_prefix("b/waiters/")
        await barrier.leave()
    assert await faulty.deliver_late() == 1
    assert (await inline.get_prefix("b/waiters/")).items == ()


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
@pytest.mark.parametrize("place", range(6))
async def test_each_request_may_be_lost(inline: coord.Client, fault: Fault, place: int) -> None:
    async with places(inline, "b", 2, 2) as barriers:
        make_faulty(inline, [Fault.NONE] * place + [fault])
        referee = Referee(2)

        async def take_part(barrier: coord.DoubleBarrier) -> None:
            number = await barrier.enter(timeout=WITHIN_S)
            referee.enter(number)
            await asyncio.sleep(0)
            referee.leave(number)
            await barrier.leave(timeout=WITHIN_S)
            referee.left(number)

        async with asyncio.TaskGroup() as group:
            for each in barriers:
                group.create_task(take_part(each))
        assert list(referee.members.values()) == [2]
        assert await settle(inline, "b/waiters/") == []


@pytest.mark.parametrize("place", range(12))
def test_a_crash_at_each_request_holds_nobody_up(place: int) -> None:
    """One of three dies with its lease at one moment of two rounds; the others go on."""

    async def main(loop: VirtualLoop) -> None:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(virtual_client(loop))
            barriers = await stack.enter_async_context(places(client, "b", 3, 2))
            victim = barriers[0]._session
            assert victim is not None
            faulty = make_faulty(client)
            ended: list[asyncio.Task[object]] = []

            def crash(_: str) -> None:
                if len(faulty.paths) == place + 1:
                    revoked = client.lease_revoke(victim.lease_id)
                    ended.append(asyncio.ensure_future(revoked))

            faulty.on_call = crash

            async def take_part(barrier: coord.DoubleBarrier) -> None:
                for _ in range(2):
                    await barrier.enter(timeout=600)
                    await asyncio.sleep(0.01)
                    await barrier.leave(timeout=600)

            tasks = [asyncio.ensure_future(take_part(each)) for each in barriers]
            done, pending = await asyncio.wait(tasks, timeout=60)
            # With an odd number of places one of the two may be alone in the end, and waits for somebody.
            assert len(pending) <= 1
            for task in pending:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            for task in done:
                error = task.exception()
                assert error is None or (
                    task is tasks[0] and isinstance(error, coord.SessionError | coord.BarrierLost)
                ), error
            assert ended
            assert await settle(client, "b/waiters/") == []

    run_virtual(main)


FAULTS = st.lists(
    st.sampled_from([Fault.NONE, Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]), max_size=12
)


@pytest.mark.timeout(60 + EXAMPLES)
@settings(max_examples=EXAMPLES)
@given(plan=FAULTS, cancels=st.lists(st.integers(0, 60), max_size=4))
def test_any_faults_and_cancellations_keep_rounds_apart(
    plan: list[Fault], cancels: list[int]
) -> None:
    """Five candidates for rounds of two, twice each, in virtual time."""

    async def main(loop: VirtualLoop) -> None:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(virtual_client(loop))
            barriers = await stack.enter_async_context(places(client, "b", 5, 2))
            await _take_part(client, barriers, plan, cancels)

    run_virtual(main)


async def _take_part(
    client: coord.Client,
    barriers: list[coord.DoubleBarrier],
    plan: list[Fault],
    cancels: list[int],
) -> None:
    faulty = make_faulty(client)
    referee = Referee(2)

    async def take_part(barrier: coord.DoubleBarrier) -> None:
        for _ in range(2):
            number = await barrier.enter(timeout=60)
            referee.enter(number)
            try:
                await asyncio.sleep(0)
            finally:
                referee.leave(number)
            with contextlib.suppress(coord.BarrierTimeout):
                await barrier.leave(timeout=60)

    faulty.plan.extend(plan)
    tasks = [asyncio.ensure_future(take_part(each)) for each in barriers]
    for index, turns in enumerate(cancels):
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[index].cancel()
        if index % 2:
            await faulty.deliver_late()
    done, pending = await asyncio.wait(tasks, timeout=300)
    assert not pending
    for task in done:
        if not task.cancelled():
            error = task.exception()
            # Those who are left may be too few for a round.
            assert error is None or isinstance(error, coord.BarrierTimeout), error
    if not plan and not cancels:
        assert set(referee.members.values()) == {2}
    for barrier in barriers:  # who was cancelled inside has not left
        with contextlib.suppress(coord.NotHeld, coord.BarrierTimeout):
            await barrier.leave(timeout=1)
    await faulty.deliver_late()
    assert await settle(client, "b/waiters/") == []
