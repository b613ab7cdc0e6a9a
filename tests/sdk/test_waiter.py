"""The waiter engine (spec recipes C6): whatever happens to streams, history and sessions, a wait ends rightly.

``COORD_HERD`` (default 50) is the number of waiters in the test of hand-over costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

import coord
from coord import waiter
from coord.store.values import EventType, KeyValue, WatchBatch, WatchEvent
from coord.store.watch import WatchFeed
from tests.support.faulty import TXN, Fault, make_faulty, settle
from tests.support.proxy import Proxy

HERD = int(os.environ.get("COORD_HERD", "50"))
WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


@contextlib.asynccontextmanager
async def far_and_near(endpoint: str) -> AsyncGenerator[tuple[coord.Client, Proxy, coord.Client]]:
    """A direct client, a proxy, and a client behind it."""
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        yield direct, proxy, client


async def lined_up(client: coord.Client, name: str, count: int) -> None:
    """Wait until so many contenders are in the store's line."""
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while await client.count(name + "/") != count:
            await anext(watch)


async def forget_history(client: coord.Client, prefix: str) -> None:
    """Compact, further than any watch that has seen all so far."""
    await client.put(prefix + "x", "1")
    await client.compact((await client.put(prefix + "x", "2")).revision)


# -- streams and history -------------------------------------------------------------------------------------------


async def test_a_lost_stream_does_not_lose_the_hand_over(endpoint: str, prefix: str) -> None:
    async with far_and_near(endpoint) as (direct, proxy, client):
        for cut_before in (True, False):
            held = await direct.mutex(prefix).acquire()
            waiting = asyncio.ensure_future(client.mutex(prefix).acquire())
            await lined_up(direct, prefix, 2)
            if cut_before:
                await proxy.refuse()
                proxy.cut()
                await held.release()
                await proxy.accept()
            else:
                proxy.hold_answers()  # the event is lost on its way
                await held.release()
                proxy.cut()
                proxy.pass_on()
            async with asyncio.timeout(WITHIN_S):
                grant = await waiting
            assert grant.token > held.token
            assert await grant.release()


async def test_the_end_of_the_watching_task_does_not_lose_the_hand_over(
    inline: coord.Client,
) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        held = await inline.mutex("a", session=one).acquire()
        waiting = asyncio.ensure_future(inline.mutex("a", session=two).acquire())
        await lined_up(inline, "a", 2)
        tasks = inline._core.supervisor._tasks
        (victim,) = [task for task in tasks if task.get_name() == "watch-stream"]
        victim.cancel()
        await held.release()
        async with asyncio.timeout(WITHIN_S):
            grant = await waiting
        assert grant.token > held.token
        assert await grant.release() is True


async def test_a_compaction_while_out_of_touch_does_not_lose_the_hand_over(
    endpoint: str, prefix: str
) -> None:
    async with far_and_near(endpoint) as (direct, proxy, client):
        held = await direct.mutex(prefix).acquire()
        waiting = asyncio.ensure_future(client.mutex(prefix).acquire())
        await lined_up(direct, prefix, 2)
        await proxy.refuse()
        proxy.cut()
        await held.release()
        await forget_history(direct, prefix)
        await proxy.accept()
        async with asyncio.timeout(WITHIN_S):
            grant = await waiting
        assert grant.token > held.token
        assert await grant.release() is True


async def test_a_compaction_while_out_of_touch_does_not_grant_either(
    endpoint: str, prefix: str
) -> None:
    async with far_and_near(endpoint) as (direct, proxy, client):
        held = await direct.mutex(prefix).acquire()
        waiting = asyncio.ensure_future(client.mutex(prefix).acquire())
        await lined_up(direct, prefix, 2)
        await proxy.refuse()
        proxy.cut()
        await forget_history(direct, prefix)
        connections = proxy.connections
        await proxy.accept()
        await client.get(prefix + "x")  # in touch again
        assert proxy.connections > connections
        assert not waiting.done()
        held.check()
        await held.release()
        async with asyncio.timeout(WITHIN_S):
            await (await waiting).release()


async def test_a_holder_out_of_touch_notices_its_deletion_beyond_a_compaction(
    endpoint: str, prefix: str
) -> None:
    async with far_and_near(endpoint) as (direct, proxy, client):
        grant = await client.mutex(prefix).acquire()
        async with asyncio.timeout(WITHIN_S):
            while grant._watching is None:
                await asyncio.sleep(0.01)
        await proxy.refuse()
        proxy.cut()
        await forget_history(direct, prefix)
        await proxy.accept()
        await client.get(prefix + "x")
        grant.check()
        await direct.delete(grant.key)
        assert await grant.lost.wait(timeout=WITHIN_S) == "revoked"


async def test_a_silent_watch_is_made_good_by_looking_again(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event ever comes; every ``recheck`` seconds the condition is asked all the same."""

    async def never(sight: waiter.Sight, feed: WatchFeed) -> WatchEvent | None:
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(waiter, "_first_change", never)
    often = functools.partial(waiter.wait_until, recheck=0.05)
    monkeypatch.setattr("coord.contender.wait_until", often)
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        held = await inline.mutex("a", session=one).acquire()
        waiting = asyncio.ensure_future(inline.mutex("a", session=two).acquire())
        seen = asyncio.Event()

        def count(_: str) -> None:
            if len(faulty.paths) > 5:
                seen.set()

        faulty.on_call = count
        await seen.wait()
        assert not waiting.done()
        await held.release()
        async with asyncio.timeout(WITHIN_S):
            await (await waiting).release()


@pytest.mark.parametrize("error", [coord.Unavailable("no"), coord.CoordTimeout("a look", 10.0)])
async def test_a_look_that_fails_is_made_again(
    inline: coord.Client, error: coord.CoordError
) -> None:
    looks = 0

    async def look() -> waiter.Done[str]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise error
        return waiter.Done("seen")

    async with asyncio.timeout(WITHIN_S):
        assert await waiter.wait_until(inline._home, look, session=None) == "seen"


async def test_a_change_that_says_all_ends_the_wait_without_a_look(inline: coord.Client) -> None:
    """Of the changes that are looked out for only some count, and those end the wait, or ask again."""
    looks: list[int] = []

    async def condition() -> waiter.Done[bytes] | waiter.Watch:
        revision = (await inline.get_prefix("a")).revision
        looks.append(1)
        sight = waiter.Sight(b"a", on="any", where=lambda event: event.kv.value != b"noise")
        return waiter.Watch((sight,), revision, ended=_told)

    waiting = asyncio.ensure_future(waiter.wait_until(inline._home, condition, session=None))
    for value, seen in ((b"noise", 1), (b"ask again", 1), (b"noise", 2), (b"the end", 2)):
        while len(looks) < seen:
            await asyncio.sleep(0)
        await inline.put("a", value)
    async with asyncio.timeout(WITHIN_S):
        assert await waiting == b"the end"
    assert len(looks) == 2


def _told(event: WatchEvent) -> waiter.Done[bytes] | None:
    return None if event.kv.value == b"ask again" else waiter.Done(event.kv.value)


# -- sessions ------------------------------------------------------------------------------------------------------


async def test_an_expiry_interrupts_a_wait_that_is_stuck_in_a_request(
    endpoint: str, prefix: str
) -> None:
    """The event arrives, the evaluation never does: the wait ends with the session, not with the request."""
    async with far_and_near(endpoint) as (direct, proxy, client):
        held = await direct.mutex(prefix).acquire()
        session = await client.session(ttl=2).open()
        waiting = asyncio.ensure_future(client.mutex(prefix, session=session).acquire())
        await lined_up(direct, prefix, 2)
        proxy.hold_requests()
        await held.release()
        with pytest.raises(coord.SessionExpired):
            async with asyncio.timeout(8):  # a request may take 10 s
                await waiting
        assert session.state is coord.SessionState.EXPIRED
        proxy.pass_on()
        async with asyncio.timeout(WITHIN_S), direct.mutex(prefix).hold():
            pass


async def test_every_way_to_end_a_session_ends_its_waits(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as one, inline.mutex("a", session=one).hold():
        for end, reason in (
            (coord.Session.close, coord.SessionClosed),
            (coord.Session.orphan, coord.SessionClosed),
            (_expire, coord.SessionExpired),
        ):
            two = await inline.session(ttl=30).open()
            # One waits in the store's line, one behind it in ours.
            waits = [
                asyncio.ensure_future(inline.mutex("a", session=two).acquire()) for _ in range(2)
            ]
            await lined_up(inline, "a", 2)
            await end(two)
            for wait in waits:
                with pytest.raises(reason):
                    await wait
            with contextlib.suppress(coord.LeaseNotFound):
                await inline.lease_revoke(two.lease_id)
            await lined_up(inline, "a", 1)


async def _expire(session: coord.Session) -> None:
    session.expire("for the test")


async def test_a_deleted_entry_ends_the_wait(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:
        held = await client.mutex(prefix, session=one).acquire()
        waiting = asyncio.ensure_future(client.mutex(prefix, session=two).acquire())
        await lined_up(client, prefix, 2)
        await client.delete(f"{prefix}/{two.lease_id:x}")
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(coord.LockLost, match="revoked"):
                await waiting
        await held.release()


async def test_a_look_that_was_not_answered_in_time_is_repeated(inline: coord.Client) -> None:
    """The time of one request is not that of the wait."""
    looks = [coord.CoordTimeout("Txn", 10), coord.Unavailable("away"), None]

    async def look() -> waiter.Done[int]:
        error = looks.pop(0)
        if error is not None:
            raise error
        return waiter.Done(7)

    assert await waiter.wait_until(inline._home, look, session=None) == 7
    assert looks == []


async def test_while_valid_leaves_no_cancellation_behind(inline: coord.Client) -> None:
    session = await inline.session(ttl=30).open()

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done all the same"
        raise AssertionError

    async def wait() -> tuple[str, int]:
        answer = await waiter.while_valid(session, stubborn())
        task = asyncio.current_task()
        assert task is not None
        return answer, task.cancelling()

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    session.expire("for the test")
    assert await waiting == ("done all the same", 0)

    session = await inline.session(ttl=30).open()
    both = asyncio.ensure_future(waiter.while_valid(session, asyncio.Event().wait()))
    await asyncio.sleep(0)
    session.expire("for the test")
    both.cancel()  # the caller's own cancellation wins
    with pytest.raises(asyncio.CancelledError):
        await both


async def test_a_step_that_ends_the_session_itself_leaves_no_cancellation_behind(
    inline: coord.Client,
) -> None:
    session = await inline.session(ttl=30).open()

    async def finds_out() -> None:
        await asyncio.sleep(0)
        session.expire("for the test")
        session.check()

    with pytest.raises(coord.SessionExpired):
        await waiter.while_valid(session, finds_out())
    await asyncio.sleep(0)  # nothing is raised here

    async def finds_out_and_waits() -> None:
        await finds_out_quietly()
        await asyncio.Event().wait()

    async def finds_out_quietly() -> None:
        again.expire("for the test")

    again = await inline.session(ttl=30).open()
    with pytest.raises(coord.SessionExpired):
        await waiter.while_valid(again, finds_out_and_waits())
    await asyncio.sleep(0)
    with pytest.raises(coord.SessionExpired):  # it had fired before
        await waiter.while_valid(again, asyncio.Event().wait())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_waiter_whose_lease_was_revoked_may_go_on_with_something_else(
    inline: coord.Client,
) -> None:
    session = await inline.session(ttl=30).open()
    async with inline.mutex("lease-revoked").hold():
        waiting = asyncio.ensure_future(_acquire_and_go_on(inline, session))
        await lined_up(inline, "lease-revoked", 2)
        await inline.lease_revoke(session.lease_id)
        assert await waiting == "gone on"


async def _acquire_and_go_on(client: coord.Client, session: coord.Session) -> str:
    with pytest.raises(coord.SessionExpired):
        await client.mutex("lease-revoked", session=session).acquire()
    await asyncio.sleep(0)
    return "gone on"


async def test_a_body_that_finds_out_the_loss_itself_ends_with_its_own_error(
    inline: coord.Client,
) -> None:
    session = await inline.session(ttl=30).open()
    with pytest.raises(LookupError):
        async with inline.mutex("found-out", session=session).hold():
            session.expire("for the test")
            raise LookupError
    await asyncio.sleep(0)
    assert await inline.get("found-out") is None


async def test_a_loss_is_told_although_nobody_can_say_whether_the_lease_lives(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[object] = []
    asked = asyncio.Event()

    async def unanswered(_: coord.Session) -> None:
        asked.set()
        raise coord.Unavailable("for the test")

    monkeypatch.setattr(coord.Session, "confirm_lost", unanswered)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    grant = await inline.mutex("unanswered").acquire()
    await inline.delete(grant.key)
    await grant.lost.wait(timeout=WITHIN_S)
    await asked.wait()
    await asyncio.sleep(0)
    assert not await grant.release()
    assert heard == []


# -- cancellations and copies --------------------------------------------------------------------------------------


class FakeFeed:
    """A feed with one event, when the test says so."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        self._event.set()

    async def next(self) -> WatchBatch:
        await self._event.wait()
        kv = KeyValue(key=b"k", value=b"", create_revision=0, mod_revision=2, version=0)
        return WatchBatch(events=(WatchEvent(type=EventType.DELETE, kv=kv),), revision=2)


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_at_the_moment_of_the_event_is_not_lost(turns: int) -> None:
    feeds = [(waiter.Sight(b"k"), FakeFeed()) for _ in range(2)]
    waiting = asyncio.ensure_future(waiter._any(feeds))  # type: ignore[arg-type] # a fake
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    feeds[0][1].fire()
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await waiting
    else:
        event = await waiting
        assert event is not None
        assert event.revision == 2


async def test_a_late_copy_of_a_try_that_failed_takes_nothing(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        held = await inline.mutex("a", session=one).acquire()
        mutex = inline.mutex("a", session=two)
        faulty.plan.append(Fault.LATE)
        assert await mutex.try_acquire() is None
        await held.release()
        # The next attempt waits for the first one's clean-up; a copy that arrives now finds the fence.
        async with mutex.hold(timeout=WITHIN_S):
            pass
        assert await faulty.deliver_late() == 1
        assert await settle(inline, "a/") == []


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_a_hand_over_wakes_one_waiter_and_costs_two_requests(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    sessions = [await inline.session(ttl=600).open() for _ in range(HERD + 1)]
    held = await inline.mutex("a", session=sessions[0]).acquire()
    costs: list[list[str]] = []
    order: list[int] = []

    async def contend(number: int) -> None:
        grant = await inline.mutex("a", session=sessions[number]).acquire()
        costs.append(list(faulty.paths))
        order.append(number)
        faulty.paths.clear()
        await grant.release()

    async with asyncio.TaskGroup() as group:
        for number in range(1, HERD + 1):
            group.create_task(contend(number))
            await lined_up(inline, "a", number + 1)
        faulty.paths.clear()
        await held.release()
    assert order == list(range(1, HERD + 1))
    # The release of the one, and the evaluation of the other.
    assert costs == [[TXN, TXN]] * HERD
    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(session.close())


async def test_a_waiter_that_leaves_wakes_only_its_successor(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    sessions = [await inline.session(ttl=600).open() for _ in range(6)]
    held = await inline.mutex("a", session=sessions[0]).acquire()
    waits: list[asyncio.Task[coord.Grant]] = []
    for number, session in enumerate(sessions[1:], start=2):
        waits.append(asyncio.ensure_future(inline.mutex("a", session=session).acquire()))
        await lined_up(inline, "a", number)
    faulty.paths.clear()
    evaluated = asyncio.Event()

    def count(_: str) -> None:
        if faulty.paths.count(TXN) >= 2:
            evaluated.set()

    faulty.on_call = count
    waits[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits[2]
    await evaluated.wait()  # the departure, and its successor's look
    await inline.put("x", "x")
    assert faulty.paths.count(TXN) == 2
    assert not any(wait.done() for wait in waits if wait is not waits[2])
    grants: list[coord.Grant] = [held]
    for wait in (waits[0], waits[1], waits[3], waits[4]):
        await grants[-1].release()
        async with asyncio.timeout(WITHIN_S):
            grants.append(await wait)
    await grants[-1].release()
    tokens = [grant.token for grant in grants]
    assert tokens == sorted(tokens)
