"""Cancel an acquire at each await, once and twice: no key stays behind, no grant is lost, the next one gets in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import coord
from tests.support.faulty import Fault, make_faulty, settle

MAX_STEPS = 300


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    """A client whose every await is a turn of the test's own loop."""
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


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
    try:
        grant = await task
    except asyncio.CancelledError:
        return False
    await grant.release()  # the cancellation came too late to matter
    return False


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("kind", ["mutex", "election"])
async def test_uncontended(inline: coord.Client, kind: str, *, twice: bool) -> None:
    async with inline.session(ttl=30) as session:
        mutex, election = inline.mutex("a", session=session), inline.election("a", session=session)
        acquire: Acquire = mutex.acquire if kind == "mutex" else election.campaign
        for step in range(MAX_STEPS):
            finished = await cancel_at(acquire, step, twice=twice)
            async with mutex.hold(timeout=10):
                assert len((await inline.get_prefix("a/")).items) == 1
            if finished:
                break
        else:
            pytest.fail("the acquire never finished")
        assert step > 3
        assert await settle(inline, "a/") == []


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
async def test_while_waiting_and_at_the_hand_over(inline: coord.Client, *, twice: bool) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        holder, waiter = inline.mutex("a", session=one), inline.mutex("a", session=two)
        finished, step = False, 0
        while not finished:
            held = await holder.acquire(timeout=10)

            async def acquire() -> coord.Grant:
                return await waiter.acquire()

            release_after = min(step, 12)
            task = asyncio.ensure_future(cancel_at(acquire, step, twice=twice))
            for _ in range(release_after):
                await asyncio.sleep(0)
            await held.release()
            finished = await task
            async with holder.hold(timeout=10):
                pass
            assert await settle(inline, "a/") == []
            step += 1
            assert step < MAX_STEPS


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE])
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
async def test_with_an_unanswered_create(
    inline: coord.Client, fault: Fault, *, twice: bool
) -> None:
    """The create's answer is missing when the cancellation comes; a late copy must not hold the lock for ever."""
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        mine, other = inline.mutex("a", session=one), inline.mutex("a", session=two)
        finished, step = False, 0
        while not finished and step < 60:
            faulty.plan.append(fault)
            finished = await cancel_at(mine.acquire, step, twice=twice)
            faulty.plan.clear()
            async with mine.hold(timeout=10):
                pass  # queues behind the clean-up of the cancelled attempt
            await faulty.deliver_late()
            async with other.hold(timeout=10):
                pass
            assert await settle(inline, "a/") == []
            step += 1


@pytest.mark.parametrize("kind", ["mutex", "election"])
async def test_a_cancelled_release_goes_on(inline: coord.Client, kind: str) -> None:
    async with inline.session(ttl=30) as session:
        mutex, election = inline.mutex("a", session=session), inline.election("a", session=session)
        acquire: Acquire = mutex.acquire if kind == "mutex" else election.campaign
        for step in range(1, MAX_STEPS):
            task = asyncio.ensure_future((await acquire()).release())
            for _ in range(step):
                await asyncio.sleep(0)
            if not (finished := task.done()):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert await task
            async with asyncio.timeout(10):
                while (await inline.get_prefix("a/")).items:
                    await asyncio.sleep(0.001)
                await (await acquire()).release()
            if finished:
                break
        else:
            pytest.fail("the release never finished")


async def test_thread_runtime_releases_what_a_cancelled_caller_did_not_get() -> None:
    async with coord.connect("memory:") as client, client.session(ttl=30) as session:
        mutex = client.mutex("a", session=session)
        for turns in range(60):
            task = asyncio.ensure_future(mutex.acquire())
            for _ in range(turns % 20):
                await asyncio.sleep(0.0002 * (turns % 7))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).release()
            async with mutex.hold(timeout=10):
                pass
        assert await settle(client, "a/") == []
