"""Double barriers, on every store: rounds begin complete, end together, and never overlap.

``COORD_BARRIER_ROUNDS`` (default 12) is the number of rounds in the test with more candidates than parties.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

import coord
from coord import waiter
from tests.support.faulty import TXN, make_faulty

ROUNDS = int(os.environ.get("COORD_BARRIER_ROUNDS", "12"))
WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


@contextlib.asynccontextmanager
async def places(
    client: coord.Client, name: str, count: int, parties: int
) -> AsyncGenerator[list[coord.DoubleBarrier]]:
    """Places at a barrier, each with a session of its own."""
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(client.session(ttl=20)) for _ in range(count)]
        yield [client.double_barrier(name, parties, session=each) for each in sessions]


async def gathered(client: coord.Client, name: str, count: int) -> None:
    """Wait until so many entries are there."""
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while await client.count(name + "/waiters/") != count:
            await anext(watch)


async def entered(
    client: coord.Client, barriers: list[coord.DoubleBarrier], name: str
) -> list[asyncio.Task[int]]:
    """Begin to enter, one after the other."""
    tasks: list[asyncio.Task[int]] = []
    for number, barrier in enumerate(barriers, start=1):
        tasks.append(asyncio.ensure_future(barrier.enter(timeout=WITHIN_S)))
        if number < barrier.parties:
            await gathered(client, name, number)
    return tasks


async def rest(client: coord.Client) -> None:
    """Let everything go on that can."""
    for _ in range(30):
        await asyncio.sleep(0)
        await client.get("nothing")


# -- a round -------------------------------------------------------------------------------------------------------


async def test_they_start_together_and_end_together(client: coord.Client, prefix: str) -> None:
    name = prefix + "b"
    async with places(client, name, 3, 3) as barriers:
        tasks = await entered(client, barriers[:2], name)
        await rest(client)
        assert not any(task.done() for task in tasks)
        begun = await barriers[2].enter(timeout=WITHIN_S)
        assert [await task for task in tasks] == [begun] * 2

        waiters = (await client.get_prefix(name + "/waiters/")).items
        leases = {kv.lease for kv in waiters}
        assert len(leases) == 3
        for kv in waiters:  # the golden dump: <name>/waiters/<lease>-<nonce>, leased and empty
            lease, _, nonce = kv.key.decode().removeprefix(name + "/waiters/").partition("-")
            assert (int(lease, 16), len(nonce), kv.value) == (kv.lease, 16, b"")
        ready = await client.get(name + "/ready")
        assert ready is not None
        assert (ready.mod_revision, ready.value, ready.lease) == (begun, b"", 0)
        assert await client.count(name + "/") == 4

        leaving = [asyncio.ensure_future(each.leave(timeout=WITHIN_S)) for each in barriers[1:]]
        await gathered(client, name, 1)
        assert not any(task.done() for task in leaving)
        await barriers[0].leave(timeout=WITHIN_S)
        for task in leaving:
            await task
        assert (await client.get_prefix(name)).items == ()

        again = await entered(client, barriers, name)
        numbers = {await task for task in again}
        assert len(numbers) == 1
        assert numbers.pop() > begun
        async with asyncio.TaskGroup() as group:
            for each in barriers:
                group.create_task(each.leave(timeout=WITHIN_S))
        assert (await client.get_prefix(name)).items == ()


async def test_one_party_is_a_round(client: coord.Client, prefix: str) -> None:
    barrier = client.double_barrier(prefix + "b", 1)
    async with barrier.joined(timeout=WITHIN_S) as first:
        with pytest.raises(coord.InvalidArgument, match="entered already"):
            await barrier.enter()
    async with barrier.joined(timeout=WITHIN_S) as second:
        assert second > first
    with pytest.raises(coord.NotHeld):
        await barrier.leave()
    assert (await client.get_prefix(prefix)).items == ()


def test_arguments(inline: coord.Client) -> None:
    with pytest.raises(coord.InvalidArgument):
        inline.double_barrier("b", 0)
    with pytest.raises(coord.InvalidArgument):
        inline.double_barrier("b", 1, when_full="sometimes")  # type: ignore[arg-type] # the point


async def test_a_wait_in_vain_leaves_nothing(client: coord.Client, prefix: str) -> None:
    async with places(client, prefix + "b", 2, 3) as (one, two):
        waiting = asyncio.ensure_future(one.enter(timeout=WITHIN_S))
        await gathered(client, prefix + "b", 1)
        with pytest.raises(coord.BarrierTimeout) as caught:
            await two.enter(timeout=0.3)
        assert isinstance(caught.value, TimeoutError)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await gathered(client, prefix + "b", 0)
        with pytest.raises(coord.InvalidArgument):
            await two.enter(timeout=-1)
        assert await client.get(prefix + "b/ready") is None


async def test_a_body_that_raises_holds_nobody_up(client: coord.Client, prefix: str) -> None:
    async with places(client, prefix + "b", 2, 2) as (one, two):
        failed = asyncio.Event()

        async def fail() -> None:
            with pytest.raises(LookupError):
                async with one.joined(timeout=WITHIN_S):
                    raise LookupError
            failed.set()

        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            group.create_task(fail())
            async with two.joined(timeout=WITHIN_S):
                await failed.wait()  # it has not waited for us
        assert (await client.get_prefix(prefix)).items == ()


# -- rounds --------------------------------------------------------------------------------------------------------


class Referee:
    """Sees who is inside which round."""

    def __init__(self, parties: int) -> None:
        self._parties = parties
        self._inside: Counter[int] = Counter()
        self.members: Counter[int] = Counter()

    def enter(self, number: int) -> None:
        assert set(+self._inside) <= {number}, "two rounds overlap"
        assert number >= max(self.members, default=0)
        self._inside[number] += 1
        self.members[number] += 1
        assert self.members[number] <= self._parties

    def leave(self, number: int) -> None:
        self._inside[number] -= 1

    def left(self, number: int) -> None:
        assert self._inside[number] == 0, "somebody of the round is still inside"


async def test_more_candidates_than_parties_never_overlap(
    client: coord.Client, prefix: str
) -> None:
    referee = Referee(3)

    async def take_part(barrier: coord.DoubleBarrier) -> None:
        while len(referee.members) < ROUNDS:
            try:
                number = await barrier.enter(timeout=2)
            except coord.BarrierTimeout:
                continue
            referee.enter(number)
            await asyncio.sleep(0)
            referee.leave(number)
            await barrier.leave(timeout=WITHIN_S)
            referee.left(number)

    async with places(client, prefix + "b", 7, 3) as barriers:
        async with asyncio.timeout(WITHIN_S * 3), asyncio.TaskGroup() as group:
            for each in barriers:
                group.create_task(take_part(each))
        await gathered(client, prefix + "b", 0)
    assert set(referee.members.values()) == {3}
    assert len(referee.members) >= ROUNDS


async def test_a_slow_member_keeps_the_next_round_waiting(
    client: coord.Client, prefix: str
) -> None:
    name = prefix + "b"
    async with places(client, name, 4, 2) as (slow, quick, third, fourth):
        tasks = await entered(client, [slow, quick], name)
        begun = {await task for task in tasks}
        leaving = asyncio.ensure_future(quick.leave(timeout=WITHIN_S))
        await gathered(client, name, 1)
        next_round = [asyncio.ensure_future(b.enter(timeout=WITHIN_S)) for b in (third, fourth)]
        await rest(client)
        await gathered(client, name, 1)  # they have taken their entries back
        assert not any(task.done() for task in (*next_round, leaving))
        await slow.leave(timeout=WITHIN_S)
        await leaving
        numbers = {await task for task in next_round}
        assert len(numbers) == 1
        assert numbers.pop() > max(begun)


async def test_who_does_not_want_to_wait_is_told(client: coord.Client, prefix: str) -> None:
    name = prefix + "b"
    async with places(client, name, 2, 2) as barriers, client.session(ttl=20) as session:
        for task in await entered(client, barriers, name):
            await task
        late = client.double_barrier(name, 2, session=session, when_full="raise")
        with pytest.raises(coord.BarrierFull) as caught:
            await late.enter(timeout=WITHIN_S)
        assert caught.value.parties == 2
        await gathered(client, name, 2)


async def test_a_ready_that_nobody_is_left_of_is_ignored(client: coord.Client, prefix: str) -> None:
    """A whole round crashed, and what it left of itself begins no other."""
    name = prefix + "b"
    await client.put(name + "/ready", "")
    async with places(client, name, 2, 2) as barriers:
        tasks = await entered(client, barriers[:1], name)
        await rest(client)
        assert not tasks[0].done()
        begun = await barriers[1].enter(timeout=WITHIN_S)
        assert await tasks[0] == begun
        async with asyncio.TaskGroup() as group:
            for each in barriers:
                group.create_task(each.leave(timeout=WITHIN_S))
    assert (await client.get_prefix(name)).items == ()


async def test_looking_again_does_not_make_an_old_ready_a_new_one(
    client: coord.Client, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = functools.partial(waiter.wait_until, recheck=0.02)
    monkeypatch.setattr("coord.recipes.double_barrier.wait_until", often)
    await client.put(prefix + "b/ready", "")
    with pytest.raises(coord.BarrierTimeout):
        await client.double_barrier(prefix + "b", 2).enter(timeout=0.5)


async def test_leaving_looks_at_ones_own_round_only(client: coord.Client, prefix: str) -> None:
    """An entry that lines up for the next round, of a client that does not take it back, holds nobody up."""
    name = prefix + "b"
    async with places(client, name, 2, 2) as (one, two):
        for task in await entered(client, [one, two], name):
            await task
        await client.put(name + "/waiters/foreign", "")
        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            group.create_task(one.leave())
            group.create_task(two.leave())
        assert [kv.key for kv in (await client.get_prefix(name)).items] == [
            f"{name}/waiters/foreign".encode()
        ]


async def test_the_end_of_a_round_leaves_the_next_ones_ready_alone(
    client: coord.Client, prefix: str
) -> None:
    name = prefix + "b"
    barrier = client.double_barrier(name, 1)
    await barrier.enter(timeout=WITHIN_S)
    put = await client.put(name + "/ready", "")
    await barrier.leave(timeout=WITHIN_S)
    ready = await client.get(name + "/ready")
    assert ready is not None
    assert ready.mod_revision == put.revision
    assert await client.count(name + "/waiters/") == 0


# -- crashes -------------------------------------------------------------------------------------------------------


async def test_members_that_crash_count_as_gone(client: coord.Client, prefix: str) -> None:
    name = prefix + "b"
    async with places(client, name, 4, 4) as barriers:
        for task in await entered(client, barriers, name):
            await task
        one, two, three, four = barriers
        leaving = [asyncio.ensure_future(each.leave(timeout=WITHIN_S)) for each in (one, two)]
        await gathered(client, name, 3)
        for crashed in (three, four):
            session = crashed._session
            assert session is not None
            await session.close()
        for departure in leaving:
            await departure
        with pytest.raises(coord.SessionClosed):
            await three.leave(timeout=WITHIN_S)
        assert (await client.get_prefix(name)).items == ()


async def test_the_lowest_may_crash_while_the_others_wait_for_it(
    client: coord.Client, prefix: str
) -> None:
    name = prefix + "b"
    async with places(client, name, 3, 3) as (lowest, two, three):
        for task in await entered(client, [lowest, two, three], name):
            await task
        leaving = asyncio.ensure_future(two.leave(timeout=WITHIN_S))
        await gathered(client, name, 2)
        session = lowest._session
        assert session is not None
        await session.close()
        await gathered(client, name, 1)
        await rest(client)
        assert not leaving.done()  # the third is still inside
        await three.leave(timeout=WITHIN_S)
        await leaving


async def test_the_end_of_a_session_ends_the_wait(client: coord.Client, prefix: str) -> None:
    name = prefix + "b"
    async with client.session(ttl=20) as session:
        waiting = asyncio.ensure_future(client.double_barrier(name, 2, session=session).enter())
        await gathered(client, name, 1)
        await client.lease_revoke(session.lease_id)
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(coord.SessionExpired):
                await waiting


async def test_a_removed_entry_ends_the_wait(client: coord.Client, prefix: str) -> None:
    name = prefix + "b"
    async with client.session(ttl=20) as session:
        waiting = asyncio.ensure_future(client.double_barrier(name, 2, session=session).enter())
        await gathered(client, name, 1)
        await client.delete_prefix(name + "/waiters/")
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(coord.BarrierLost, match="revoked"):
                await waiting


async def test_a_session_is_needed_only_until_ones_own_entry_is_gone(
    client: coord.Client, prefix: str
) -> None:
    name = prefix + "b"
    async with places(client, name, 2, 2) as (lowest, other):
        for task in await entered(client, [lowest, other], name):
            await task
        leaving = asyncio.ensure_future(other.leave(timeout=WITHIN_S))
        await gathered(client, name, 1)
        session = other._session
        assert session is not None
        await session.close()
        await rest(client)
        assert not leaving.done()
        await lowest.leave(timeout=WITHIN_S)
        await leaving


async def test_a_leave_that_ends_early_has_left_all_the_same(
    client: coord.Client, prefix: str
) -> None:
    name = prefix + "b"
    async with places(client, name, 3, 3) as (lowest, two, three):
        for task in await entered(client, [lowest, two, three], name):
            await task
        with pytest.raises(coord.BarrierTimeout):
            await lowest.leave(timeout=0.2)  # would wait for the highest
        await gathered(client, name, 2)
        leaving = asyncio.ensure_future(two.leave())
        await rest(client)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await gathered(client, name, 1)
        await three.leave(timeout=WITHIN_S)
        assert (await client.get_prefix(name)).items == ()


async def test_somebody_else_begins_the_round_when_the_last_one_has_crashed(
    client: coord.Client, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are there, and nobody has said so: any of them may, when it looks again."""
    often = functools.partial(waiter.wait_until, recheck=0.1)
    monkeypatch.setattr("coord.recipes.double_barrier.wait_until", often)
    name = prefix + "b"
    async with places(client, name, 2, 3) as (one, two):
        tasks = await entered(client, [one, two], name)
        await rest(client)
        assert not any(task.done() for task in tasks)
        await client.put(name + "/waiters/crashed", "")
        numbers = {await task for task in tasks}
        assert len(numbers) == 1


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_what_it_costs(inline: coord.Client) -> None:
    """enter 1, the last one 2; nothing after the event; leave at most 2, and one look for each that is woken."""
    async with places(inline, "b", 3, 3) as barriers:
        faulty = make_faulty(inline)
        tasks = [asyncio.ensure_future(each.enter()) for each in barriers]
        for task in tasks:
            await task
        await asyncio.sleep(0.02)
        assert faulty.paths == [TXN] * 4
        faulty.paths.clear()
        async with asyncio.timeout(WITHIN_S):
            leaving = [asyncio.ensure_future(each.leave()) for each in barriers[1:]]
            while len(faulty.paths) < 4:  # a look and a departure each
                await asyncio.sleep(0)
            await asyncio.sleep(0.02)
            assert faulty.paths == [TXN] * 4
            faulty.paths.clear()
            await barriers[0].leave()  # a look, and the departure with `ready`
            for departure in leaving:
                await departure
        assert faulty.paths == [TXN] * 4  # and a look each of the two that were woken
