"""Circles of waits (spec recipes 3, ``detect_deadlocks``): found when certain, and told by one who waits."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterable
from typing import cast

import pytest

import coord
from coord.locking import deadlock
from coord.locking.deadlock import Detector, find_circle, gives_up
from coord.locking.waits import Agent, Waiting, Waits

WITHIN_S = 20.0


@pytest.fixture
async def inline(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[coord.Client]:
    """A client whose waiters look soon."""
    monkeypatch.setattr(deadlock, "_FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(deadlock, "_CONFIRM_S", 0.02)
    monkeypatch.setattr(deadlock, "_LONGEST_S", 0.1)
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def lined_up(client: coord.Client, name: str, count: int) -> None:
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while await client.count(name + "/") != count:
            await anext(watch)


async def nested(
    outer: coord.Mutex, inner: coord.Mutex, ready: asyncio.Barrier, order: asyncio.Event | None
) -> str:
    """Take one lock, and the other inside once everybody has his first one."""
    async with outer.hold(timeout=WITHIN_S):
        await ready.wait()
        if order is not None:
            await order.wait()
        try:
            async with inner.hold(timeout=WITHIN_S):
                return "both"
        except coord.DeadlockDetected as error:
            return f"gave up {error.name}"


# -- in the store --------------------------------------------------------------------------------------------------


async def test_the_youngest_waiter_of_a_circle_gives_up(client: coord.Client, prefix: str) -> None:
    x, y = prefix + "x", prefix + "y"
    ready, order = asyncio.Barrier(2), asyncio.Event()
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:

        def mutex(name: str, session: coord.Session) -> coord.Mutex:
            return client.mutex(name, session=session, detect_deadlocks=True)

        first = asyncio.ensure_future(nested(mutex(x, one), mutex(y, one), ready, None))
        second = asyncio.ensure_future(nested(mutex(y, two), mutex(x, two), ready, order))
        await lined_up(client, y, 2)
        order.set()
        async with asyncio.timeout(WITHIN_S):
            assert await second == f"gave up {x}"
            assert await first == "both"
        assert (await client.get_prefix(prefix)).items == ()


async def test_the_error_shows_the_circle(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        x = await inline.mutex("x", session=one).acquire()

        async def other() -> None:
            async with inline.mutex("y", session=two).hold():
                await inline.mutex("x", session=two).acquire()

        task = asyncio.ensure_future(other())
        await lined_up(inline, "x", 2)
        with pytest.raises(coord.DeadlockDetected) as caught:
            await inline.mutex("y", session=one, detect_deadlocks=True).acquire(timeout=WITHIN_S)
        ours, theirs = caught.value.cycle
        assert (ours.name, ours.lease_id, ours.holder) == (b"y", one.lease_id, two.lease_id)
        assert (theirs.name, theirs.lease_id, theirs.holder) == (b"x", two.lease_id, one.lease_id)
        assert theirs.holder_token == x.token
        assert ours.token > theirs.token
        assert "waits for 'y'" in str(caught.value)
        await lined_up(inline, "y", 1)  # the place in line is given up
        task.cancel()
        await x.release()


async def test_three_of_which_two_are_tasks_of_one_session(inline: coord.Client) -> None:
    """A wait inside a process, for another task of the same session, has no entry in the store."""
    ready = asyncio.Barrier(3)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:

        def mutex(name: str, session: coord.Session) -> coord.Mutex:
            return inline.mutex(name, session=session, detect_deadlocks=True)

        tasks = [
            asyncio.ensure_future(nested(mutex("x", one), mutex("y", one), ready, None)),
            asyncio.ensure_future(nested(mutex("y", two), mutex("z", two), ready, None)),
            asyncio.ensure_future(nested(mutex("z", one), mutex("x", one), ready, None)),
        ]
        async with asyncio.timeout(WITHIN_S):
            told = sorted([await task for task in tasks])
        assert told == ["both", "both", "gave up x"]


async def test_two_tasks_of_one_session(inline: coord.Client) -> None:
    ready = asyncio.Barrier(2)
    x, y = (inline.mutex(name, detect_deadlocks=True) for name in ("x", "y"))
    tasks = [
        asyncio.ensure_future(nested(x, y, ready, None)),
        asyncio.ensure_future(nested(y, x, ready, None)),
    ]
    async with asyncio.timeout(WITHIN_S):
        told = sorted([await task for task in tasks])
    assert told[0] == "both"
    assert told[1].startswith("gave up ")


async def test_tasks_that_wait_independently_are_left_alone(inline: coord.Client) -> None:
    """Each session holds what the other waits for, but its holder goes on and will release."""
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        held: list[coord.Grant] = []

        async def hold(name: str, session: coord.Session) -> None:
            held.append(await inline.mutex(name, session=session).acquire())

        # Tasks of their own, which have ended: nobody who waits below can be taken for them.
        await asyncio.ensure_future(hold("x", one))
        await asyncio.ensure_future(hold("y", two))
        waits = [
            asyncio.ensure_future(
                inline.mutex(name, session=session, detect_deadlocks=True).acquire()
            )
            for name, session in (("y", one), ("x", two))
        ]
        looks = 0
        real = Detector._circle

        async def counted(self: Detector) -> tuple[Waiting, ...]:
            nonlocal looks
            looks += 1
            found = await real(self)
            assert found == ()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Detector, "_circle", counted)
            async with asyncio.timeout(WITHIN_S):
                while looks < 6:
                    await asyncio.sleep(0.01)
        assert not any(wait.done() for wait in waits)
        for grant in held:
            await grant.release()
        for wait in waits:
            await (await asyncio.wait_for(wait, WITHIN_S)).release()


async def test_another_task_of_the_holder_s_session_may_wait_for_us(inline: coord.Client) -> None:
    """We wait for x while we hold y; who waits for y is in the session that holds x, but is not the holder."""
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:

        async def take(name: str) -> coord.Grant:
            return await inline.mutex(name, session=two).acquire()

        x = await asyncio.ensure_future(take("x"))
        y = await inline.mutex("y", session=one).acquire()
        other = asyncio.ensure_future(take("y"))
        await lined_up(inline, "y", 2)
        with pytest.raises(coord.LockTimeout):
            await inline.mutex("x", session=one, detect_deadlocks=True).acquire(timeout=0.7)
        await y.release()
        await (await asyncio.wait_for(other, WITHIN_S)).release()
        await x.release()


async def test_a_circle_with_entries_of_other_clients_is_only_suspected(
    inline: coord.Client,
) -> None:
    theirs = (await inline.lease_grant(30)).lease_id
    leaf = format(theirs, "x")
    async with inline.session(ttl=30) as session:
        await inline.put(f"x/{leaf}", "", lease=theirs)  # as Go's mutex does
        y = await inline.mutex("y", session=session).acquire()
        await inline.put(f"y/{leaf}", "", lease=theirs)
        with (
            pytest.warns(coord.DeadlockWarning, match="waits for 'x'") as told,
            pytest.raises(coord.LockTimeout, match="this may be a circle"),
        ):
            await inline.mutex("x", session=session, detect_deadlocks=True).acquire(timeout=1)
        assert len([w for w in told if w.category is coord.DeadlockWarning]) == 1
        assert issubclass(coord.DeadlockWarning, coord.CoordWarning)
        await y.release()


async def test_nobody_looks_unless_asked_to(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        held = await inline.mutex("x", session=one).acquire()
        for detects in (False, True):
            mutex = inline.mutex("x", session=two, detect_deadlocks=detects)
            waiting = asyncio.ensure_future(mutex.acquire())
            await lined_up(inline, "x", 2)
            names = [t.get_name() for t in inline._core.supervisor._tasks]
            assert ("deadlock-detector" in names) is detects
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await lined_up(inline, "x", 1)
        await asyncio.sleep(0)
        names = [t.get_name() for t in inline._core.supervisor._tasks]
        assert "deadlock-detector" not in names
        await held.release()


async def test_a_time_out_says_what_the_holder_waits_for(client: coord.Client, prefix: str) -> None:
    x, y = prefix + "x", prefix + "y"
    async with (
        client.session(ttl=20) as one,
        client.session(ttl=20) as two,
        client.session(ttl=20) as three,
    ):
        held = await client.mutex(y, session=three).acquire()

        async def holder() -> None:
            async with client.mutex(x, session=two).hold(), client.mutex(y, session=two).hold():
                pass

        task = asyncio.ensure_future(holder())
        await lined_up(client, y, 2)
        # Reading may take longer than a time-out waits for it, once in a while.
        async with asyncio.timeout(WITHIN_S):
            while True:
                with pytest.raises(coord.LockTimeout) as caught:
                    await client.mutex(x, session=one).acquire(timeout=0.1)
                if "waits for" in caught.value.explain:
                    break
        assert f"of {two.lease_id:x} waits for '{y}'" in caught.value.explain
        await held.release()
        await task


# -- rules ---------------------------------------------------------------------------------------------------------


def wait(
    waiter: tuple[int, str], holder: tuple[int, str], *, token: int = 0, serial: int = 0
) -> Waiting:
    return Waiting(
        lease_id=waiter[0],
        owner=waiter[1],
        name=b"n",
        ahead=0,
        holder=holder[0],
        holder_owner=holder[1],
        token=token,
        serial=serial,
    )


class Known:
    """Waits that are given."""

    def __init__(self, waits: Iterable[Waiting]) -> None:
        self.waits = tuple(waits)

    async def of(self, agent: Agent) -> tuple[Waiting, ...]:
        return tuple([w for w in self.waits if w.waiter == agent])


async def circle(*waits: Waiting, certain: bool = True) -> tuple[Waiting, ...]:
    return await find_circle(cast("Waits", Known(waits)), waits[0].waiter, certain=certain)


A, B, C = (1, "a"), (2, "b"), (3, "c")


async def test_a_way_back_is_a_circle() -> None:
    ring = (wait(A, B), wait(B, C), wait(C, A))
    assert await circle(*ring) == ring
    assert await circle(*ring[:2]) == ()
    assert await circle(wait(A, B), wait(B, C), wait(C, B)) == ()  # without us


async def test_a_way_back_to_another_task_is_none() -> None:
    assert await circle(wait(A, B), wait(B, (1, "other"))) == ()
    assert await circle(wait(A, B), wait(B, (1, "other")), certain=False) == ()


async def test_a_way_back_to_somebody_unnamed_is_not_certain() -> None:
    ring = (wait(A, B), wait(B, (1, "")))
    assert await circle(*ring) == ()
    assert await circle(*ring, certain=False) == ring


async def test_a_very_long_way_is_not_followed() -> None:
    ring = [wait((n, "t"), ((n + 1) % 33, "t")) for n in range(33)]
    assert await circle(*ring) == ()
    ring = [wait((n, "t"), ((n + 1) % 32, "t")) for n in range(32)]
    assert await circle(*ring) == tuple(ring)


def test_who_gives_up() -> None:
    ring = (wait(A, B, token=7), wait(B, C, token=5), wait(C, A, token=6))
    assert gives_up(ring)
    assert not gives_up((*ring[1:], ring[0]))
    inside = (wait(A, B, serial=3), wait(B, C, token=9), wait(C, A, serial=2))
    assert gives_up(inside)
    assert not gives_up((*inside[1:], inside[0]))
    assert not gives_up((*inside[2:], *inside[:2]))


async def test_a_circle_that_is_gone_at_the_second_look_is_none(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = (wait(A, B, token=7), wait(B, A, token=5))
    other = (wait(A, B, token=7), wait(B, A, token=6))
    for second, told in ((ring, True), (other, False), ((), False)):
        looks: list[tuple[Waiting, ...]] = [ring, second]

        async def scripted(_: Detector, looks: list[tuple[Waiting, ...]] = looks) -> object:
            return looks.pop(0)

        monkeypatch.setattr(Detector, "_circle", scripted)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            detector = Detector(inline._home, "n", Agent(*A))
            assert await detector._look() is told
        assert bool(detector.cycle) is told
