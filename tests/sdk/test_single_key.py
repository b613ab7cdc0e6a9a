"""The layout of one key per lock (spec recipes 3, ``layout="single-key"``), for those who come from such a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import coord
from coord.compare import create_revision
from coord.op import put
from tests.support.faulty import Fault, make_faulty, settle

WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


def lock(client: coord.Client, name: str, session: coord.Session) -> coord.Mutex:
    return client.mutex(name, session=session, layout="single-key")


async def test_the_lock_is_the_key_itself(client: coord.Client, prefix: str) -> None:
    name = prefix + "m"
    async with client.session(ttl=10) as session:
        mutex = lock(client, name, session)
        assert await mutex.holder() is None
        grant = await mutex.acquire(timeout=WITHIN_S)
        (entry,) = (await client.get_prefix(prefix)).items
        assert (entry.key, entry.lease) == (name.encode(), session.lease_id)
        assert (grant.key, grant.token) == (entry.key, entry.create_revision)
        holder = await mutex.holder()
        assert holder is not None
        assert (holder.token, holder.metadata["v"]) == (grant.token, 1)
        assert await mutex.waiters() == ()
        assert await grant.release()
        assert (await client.get_prefix(prefix)).items == ()


async def test_sessions_exclude_each_other_with_rising_tokens(
    client: coord.Client, prefix: str
) -> None:
    inside = 0
    tokens: list[int] = []

    async def worker(session: coord.Session) -> None:
        nonlocal inside
        for _ in range(4):
            async with lock(client, prefix + "m", session).hold(timeout=WITHIN_S) as grant:
                inside += 1
                assert inside == 1
                tokens.append(grant.token)
                await asyncio.sleep(0)
                inside -= 1

    async with (
        client.session(ttl=20) as one,
        client.session(ttl=20) as two,
        asyncio.TaskGroup() as group,
    ):
        for session in (one, two, one, two):
            group.create_task(worker(session))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 16


async def test_another_program_with_the_same_key_is_waited_for(
    client: coord.Client, prefix: str
) -> None:
    name = prefix + "m"
    free = create_revision(name) == 0
    assert (await client.txn().when(free).then(put(name, "theirs")).commit()).succeeded
    async with client.session(ttl=10) as session:
        mutex = lock(client, name, session)
        assert await mutex.try_acquire() is None
        with pytest.raises(coord.LockTimeout, match=f"held by {name}"):
            await mutex.acquire(timeout=0.2)
        waiting = asyncio.ensure_future(mutex.acquire(timeout=WITHIN_S))
        await asyncio.sleep(0.02)
        await client.put(name, "still theirs")
        assert not waiting.done()
        await client.delete(name)
        grant = await waiting
        assert not (await client.txn().when(free).then(put(name, "theirs")).commit()).succeeded
        await grant.release()


async def test_a_broken_lock_is_lost_and_free(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        grant = await lock(client, prefix + "m", one).acquire(timeout=WITHIN_S)
        mutex = lock(client, prefix + "m", two)
        assert await mutex.break_lock(grant.token, reason="it hangs")
        assert await grant.lost.wait(timeout=5) == "revoked"
        async with mutex.hold(timeout=WITHIN_S) as second:
            assert second.token > grant.token
            assert await grant.release() is False  # and leaves the key of the next holder
            assert await client.get(second.key) is not None


async def test_a_session_that_ends_while_waiting_raises_at_once(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        held = await lock(client, prefix + "m", one).acquire(timeout=WITHIN_S)
        waiting = asyncio.ensure_future(lock(client, prefix + "m", two).acquire())
        await asyncio.sleep(0.05)
        await client.lease_revoke(two.lease_id)
        with pytest.raises(coord.SessionExpired):
            await asyncio.wait_for(waiting, WITHIN_S)
        assert await held.release()


async def test_a_create_that_landed_is_adopted_by_its_nonce(inline: coord.Client) -> None:
    make_faulty(inline, [Fault.LOSE_REPLY])
    async with inline.session(ttl=30) as session:
        grant = await lock(inline, "a", session).acquire(timeout=WITHIN_S)
        entry = await inline.get("a")
        assert entry is not None
        assert (entry.create_revision, entry.version) == (grant.token, 1)
        await grant.release()


async def test_a_late_copy_after_the_release_cannot_take_the_lock_back(
    inline: coord.Client,
) -> None:
    faulty = make_faulty(inline, [Fault.LATE])
    async with inline.session(ttl=30) as session:
        grant = await lock(inline, "a", session).acquire(timeout=WITHIN_S)
        await grant.release()
        assert await faulty.deliver_late() == 1
        assert await inline.get("a") is None


async def test_a_late_copy_after_giving_up_cannot_take_the_lock(inline: coord.Client) -> None:
    faulty = make_faulty(inline, [Fault.LATE])
    async with inline.session(ttl=30) as session:
        waiting = asyncio.ensure_future(lock(inline, "a", session).acquire())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await settle(inline, "a") == []
        await faulty.deliver_late()
        assert await inline.get("a") is None
        async with lock(inline, "a", session).hold(timeout=WITHIN_S):
            pass


async def test_the_delay_works_with_it(inline: coord.Client) -> None:
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        mutexes = [
            inline.mutex("a", session=s, layout="single-key", lock_delay=3600) for s in (one, two)
        ]
        held = await mutexes[0].acquire()
        waiting = asyncio.ensure_future(mutexes[1].acquire(timeout=WITHIN_S))
        await asyncio.sleep(0.02)
        await held.release()
        second = await waiting
        await inline.delete("a")
        assert await second.lost.wait(timeout=WITHIN_S) == "revoked"
        with pytest.raises(coord.LockTimeout, match="did not leave by itself"):
            await mutexes[0].acquire(timeout=0.1)


async def test_what_it_cannot_do_is_refused(inline: coord.Client) -> None:
    with pytest.raises(coord.InvalidArgument, match="no line"):
        inline.mutex("a", layout="single-key", detect_deadlocks=True)
    with pytest.raises(coord.InvalidArgument, match="layout"):
        inline.mutex("a", layout="other")  # type: ignore[arg-type] # the point  # pyright: ignore[reportArgumentType]
