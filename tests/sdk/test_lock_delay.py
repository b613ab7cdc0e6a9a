"""The pause after a holder that did not leave by itself (spec recipes 3, ``lock_delay``).

A delay of an hour shows that there is one, or none: whoever has to wait it out times out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import coord
from coord.locking.delay import was_clean
from coord.store.values import KeyValue
from tests.support.faulty import TXN, Fault, make_faulty, settle

HOUR = 3600.0
WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def mark(client: coord.Client, name: str) -> bytes | None:
    found = await client.get(f"_coord/clean/{name}")
    return None if found is None else found.value


async def lined_up(client: coord.Client, name: str, count: int) -> None:
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while await client.count(name + "/") != count:
            await anext(watch)


def found(value: bytes) -> tuple[KeyValue, ...]:
    return (KeyValue(key=b"k", value=value, create_revision=1, mod_revision=1, version=1, lease=0),)


@pytest.mark.parametrize(
    ("marks", "after", "clean"),
    [
        ((), 0, True),  # nobody has ever held it with a delay
        ((), 5, False),  # who was in the way has said nothing
        (found(b"5"), 5, True),
        (found(b"4"), 5, False),  # the mark of somebody before
        (found(b"4"), 0, True),
        (found(b"held:5"), 5, False),
        (found(b"held:5"), 0, False),
        (found(b""), 0, False),
        (found(b"-1"), 0, False),
    ],
)
def test_what_a_mark_says(marks: tuple[KeyValue, ...], after: int, *, clean: bool) -> None:
    assert was_clean(marks, after) is clean


async def test_a_release_is_followed_at_once(client: coord.Client, prefix: str) -> None:
    name = prefix + "m"
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        first = await client.mutex(name, session=one, lock_delay=HOUR).acquire(timeout=WITHIN_S)
        assert await mark(client, name) == f"held:{first.token}".encode()
        waiting = asyncio.ensure_future(
            client.mutex(name, session=two, lock_delay=HOUR).acquire(timeout=WITHIN_S)
        )
        await lined_up(client, name, 2)
        assert await first.release()
        second = await waiting
        assert second.token > first.token
        assert await second.release()
        assert await mark(client, name) == str(second.token).encode()
        third = await client.mutex(name, session=one, lock_delay=HOUR).acquire(timeout=WITHIN_S)
        assert await third.release()


async def test_the_end_of_a_lease_is_no_release(client: coord.Client, prefix: str) -> None:
    name = prefix + "m"
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        first = await client.mutex(name, session=one, lock_delay=HOUR).acquire(timeout=WITHIN_S)
        mutex = client.mutex(name, session=two, lock_delay=HOUR)
        waiting = asyncio.ensure_future(mutex.acquire(timeout=1))
        await lined_up(client, name, 2)
        await client.lease_revoke(one.lease_id)
        with pytest.raises(coord.LockTimeout, match="did not leave by itself"):
            await waiting
        # Not for the one who waited only: whoever comes anew finds the same mark.
        with pytest.raises(coord.LockTimeout, match="did not leave by itself"):
            await mutex.acquire(timeout=0.5)
        assert await mark(client, name) is not None
        assert first.lost_reason is not None


async def test_the_delay_passes(client: coord.Client, prefix: str) -> None:
    name = prefix + "m"
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        first = await client.mutex(name, session=one, lock_delay=0.2).acquire(timeout=WITHIN_S)
        assert await client.mutex(name).break_lock(first.token, reason="it hangs")
        second = await client.mutex(name, session=two, lock_delay=0.2).acquire(timeout=WITHIN_S)
        assert await mark(client, name) == f"held:{second.token}".encode()
        assert await second.release()
        tried = await client.mutex(name, session=two, lock_delay=HOUR).try_acquire()
        assert tried is not None
        await client.delete(tried.key)
        assert await first.release() is False
        again = await client.mutex(name, session=one, lock_delay=0.2).try_acquire()
        assert again is not None
        assert again.token > tried.token
        await again.release()


async def test_a_holder_without_a_mark_is_waited_for(client: coord.Client, prefix: str) -> None:
    name = prefix + "m"
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        first = await client.mutex(name, session=one).acquire(timeout=WITHIN_S)
        waiting = asyncio.ensure_future(
            client.mutex(name, session=two, lock_delay=HOUR).acquire(timeout=1)
        )
        await lined_up(client, name, 2)
        await first.release()
        with pytest.raises(coord.LockTimeout, match="did not leave by itself"):
            await waiting


async def test_who_gives_up_during_the_delay_was_no_holder(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        first = await inline.mutex("a", session=one, lock_delay=HOUR).acquire()
        await inline.delete(first.key)
        waiting = asyncio.ensure_future(inline.mutex("a", session=two, lock_delay=HOUR).acquire())
        await lined_up(inline, "a", 1)
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await settle(inline, "a/") == []
        await first.lost.wait(timeout=WITHIN_S)
        assert await first.release() is False
        with pytest.raises(coord.LockTimeout, match="did not leave by itself"):
            await inline.mutex("a", session=one, lock_delay=HOUR).acquire(timeout=0.1)
        assert await settle(inline, "a/") == []


async def test_our_entry_is_watched_during_the_delay(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        first = await inline.mutex("a", session=one, lock_delay=HOUR).acquire()
        await inline.delete(first.key)
        waiting = asyncio.ensure_future(inline.mutex("a", session=two, lock_delay=HOUR).acquire())
        await lined_up(inline, "a", 1)
        await inline.delete_prefix("a/")
        with pytest.raises(coord.LockLost, match="revoked"):
            await asyncio.wait_for(waiting, WITHIN_S)


async def test_a_session_that_ends_during_the_delay_raises_at_once(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        first = await inline.mutex("a", session=one, lock_delay=HOUR).acquire()
        await inline.delete(first.key)
        waiting = asyncio.ensure_future(inline.mutex("a", session=two, lock_delay=HOUR).acquire())
        await lined_up(inline, "a", 1)
        await inline.lease_revoke(two.lease_id)
        with pytest.raises(coord.SessionExpired):
            await asyncio.wait_for(waiting, WITHIN_S)


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE])
async def test_a_lost_mark_is_written_again(inline: coord.Client, fault: Fault) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        mutex = inline.mutex("a", session=session, lock_delay=0.1)
        faulty.plan.extend([Fault.NONE, fault])
        grant = await mutex.acquire(timeout=WITHIN_S)
        assert await mark(inline, "a") == f"held:{grant.token}".encode()
        await grant.release()
        # A copy that arrives now finds the entry gone.
        await faulty.deliver_late()
        assert await mark(inline, "a") == str(grant.token).encode()


async def test_a_lost_release_still_leaves_a_mark(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        mutex = inline.mutex("a", session=session, lock_delay=HOUR)
        for fault in (Fault.LOSE_REQUEST, Fault.LOSE_REPLY):
            grant = await mutex.acquire(timeout=WITHIN_S)
            faulty.plan.append(fault)
            assert await grant.release()
            assert await mark(inline, "a") == str(grant.token).encode()


async def test_a_delay_costs_one_request(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        mutex = inline.mutex("a", session=session, lock_delay=HOUR)
        faulty.paths.clear()
        grant = await mutex.acquire()
        assert faulty.paths == [TXN, TXN]
        await grant.release()
        assert faulty.paths == [TXN, TXN, TXN]


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
async def test_bad_delays_are_refused(inline: coord.Client, delay: float) -> None:
    with pytest.raises(coord.InvalidArgument, match="lock_delay"):
        inline.mutex("a", lock_delay=delay)
