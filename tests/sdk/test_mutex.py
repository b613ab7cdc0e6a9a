"""The mutex, on every store: exclusion, order, tokens, loss, time-outs, inspection."""

from __future__ import annotations

import asyncio
import json

import pytest

import coord
from coord.compare import create_revision
from coord.op import delete, put


async def test_acquire_gives_a_valid_grant_and_release_frees_the_name(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as session:
        mutex = client.mutex(prefix + "m", session=session)
        grant = await mutex.acquire(timeout=5)
        grant.check()
        assert 0 < grant.valid_for() <= 10
        entry = await client.get(grant.key)
        assert entry is not None
        assert entry.create_revision == grant.token
        assert entry.lease == session.lease_id
        assert grant.key == f"{prefix}m/{session.lease_id:x}".encode()
        assert await grant.release() is True
        assert await client.get(grant.key) is None
        assert grant.valid_for() == 0
        with pytest.raises(coord.NotHeld):
            grant.check()
        assert await grant.release() is True


async def test_two_sessions_exclude_each_other_in_order_with_rising_tokens(
    client: coord.Client, prefix: str
) -> None:
    inside = 0
    tokens: list[int] = []
    order: list[int] = []

    async def worker(number: int, session: coord.Session) -> None:
        nonlocal inside
        mutex = client.mutex(prefix + "m", session=session)
        for _ in range(5):
            async with mutex.hold(timeout=20) as grant:
                inside += 1
                assert inside == 1
                tokens.append(grant.token)
                order.append(number)
                await asyncio.sleep(0)
                inside -= 1

    async with (
        client.session(ttl=20) as one,
        client.session(ttl=20) as two,
        asyncio.TaskGroup() as group,
    ):
        for number in range(4):
            group.create_task(worker(number, one if number % 2 else two))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 20
    assert set(order) == {0, 1, 2, 3}


async def test_tasks_of_one_session_are_served_first_come_first_served(
    client: coord.Client, prefix: str
) -> None:
    order: list[int] = []
    mutex = client.mutex(prefix + "m")
    first = await mutex.acquire()

    async def wait(number: int) -> None:
        async with mutex.hold():
            order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(wait(number))
            await asyncio.sleep(0.002)
        await first.release()
    assert order == list(range(10))


async def test_try_acquire_takes_a_free_lock_and_leaves_nothing_otherwise(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        grant = await client.mutex(prefix + "m", session=one).try_acquire()
        assert grant is not None
        assert await client.mutex(prefix + "m", session=two).try_acquire() is None
        assert await client.mutex(prefix + "m", session=one).try_acquire() is None
        assert len((await client.get_prefix(prefix)).items) == 1
        await grant.release()
        again = await client.mutex(prefix + "m", session=two).try_acquire()
        assert again is not None
        assert again.token > grant.token
        await again.release()


async def test_timeout_explains_who_holds_it_and_leaves_no_place_in_line(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        held = await client.mutex(prefix + "m", session=one, label="nightly").acquire()
        waiter = client.mutex(prefix + "m", session=two)
        with pytest.raises(coord.LockTimeout, match=held.key.decode()) as caught:
            await waiter.acquire(timeout=0.3)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, coord.CoordTimeout)
        # The next acquire of this session queues behind the clean-up of the last one.
        with pytest.raises(coord.LockTimeout):
            await waiter.acquire(timeout=0.05)
        await held.release()
        async with waiter.hold(timeout=5):
            assert len(await waiter.waiters()) == 0


async def test_line_shows_holder_and_waiters(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        mutex = client.mutex(prefix + "m", session=one, label="nightly")
        assert await mutex.holder() is None
        grant = await mutex.acquire()
        waiting = asyncio.ensure_future(client.mutex(prefix + "m", session=two).acquire())
        while not (line := await mutex.waiters()):
            await asyncio.sleep(0.01)
        holder = await mutex.holder()
        assert holder is not None
        assert (holder.token, holder.lease_id) == (grant.token, one.lease_id)
        assert holder.metadata["label"] == "nightly"
        assert holder.metadata["v"] == 1
        assert [w.lease_id for w in line] == [two.lease_id]
        await grant.release()
        await (await waiting).release()


async def test_break_lock_tells_the_holder_and_leaves_a_note(
    client: coord.Client, prefix: str
) -> None:
    mutex = client.mutex(prefix + "m")
    grant = await mutex.acquire()
    assert await mutex.break_lock(grant.token, reason="stuck") is True
    assert await grant.lost.wait(timeout=5) == "revoked"
    with pytest.raises(coord.LockLost):
        grant.check()
    assert await grant.release() is False
    assert await mutex.break_lock(grant.token, reason="again") is False
    note = await client.get(f"_coord/audit/{prefix}m/{grant.token}")
    assert note is not None
    assert json.loads(note.value)["reason"] == "stuck"


async def test_deleted_key_cancels_the_body_and_raises_lock_lost(
    client: coord.Client, prefix: str
) -> None:
    mutex = client.mutex(prefix + "m")
    reached = False
    with pytest.raises(coord.LockLost) as caught:
        async with mutex.hold() as grant:
            await client.delete(grant.key)
            await asyncio.sleep(30)
            reached = True
    assert not reached
    assert caught.value.reason == "revoked"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_flagged_loss_lets_the_body_end_and_raises_then(
    client: coord.Client, prefix: str
) -> None:
    ended = False
    with pytest.raises(coord.LockLost):
        async with client.mutex(prefix + "m").hold(on_loss="flag") as grant:
            await client.delete(grant.key)
            await grant.lost.wait(timeout=5)
            ended = True
    assert ended


async def test_errors_of_the_body_win_over_the_loss(client: coord.Client, prefix: str) -> None:
    with pytest.raises(LookupError):
        async with client.mutex(prefix + "m").hold(on_loss="flag") as grant:
            await client.delete(grant.key)
            await grant.lost.wait(timeout=5)
            raise LookupError


async def test_own_timeout_of_the_body_stays_a_timeout(client: coord.Client, prefix: str) -> None:
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.2):
            async with client.mutex(prefix + "m").hold():
                await asyncio.sleep(30)
    assert not isinstance(caught.value, coord.CoordError)
    async with client.mutex(prefix + "m").hold(timeout=5):
        pass


async def test_session_that_ends_while_waiting_raises_at_once(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        held = await client.mutex(prefix + "m", session=one).acquire()
        waiting = asyncio.ensure_future(client.mutex(prefix + "m", session=two).acquire())
        while not await client.mutex(prefix + "m", session=one).waiters():
            await asyncio.sleep(0.01)
        await client.lease_revoke(two.lease_id)
        with pytest.raises(coord.SessionExpired):
            async with asyncio.timeout(8):
                await waiting
        grant_still_valid = held.valid_for()
        assert grant_still_valid > 0
        await held.release()


async def test_guard_protects_writes_of_a_holder(client: coord.Client, prefix: str) -> None:
    mutex = client.mutex(prefix + "m")
    first = await mutex.acquire()
    written = await client.txn().when(first.guard()).then(put(prefix + "data", "1")).commit()
    assert written.succeeded
    await first.release()
    second = await mutex.acquire()
    stale = await client.txn().when(first.guard()).then(put(prefix + "data", "stale")).commit()
    assert not stale.succeeded
    fresh = await client.txn().when(second.guard()).then(put(prefix + "data", "2")).commit()
    assert fresh.succeeded
    await second.release()


async def test_a_transaction_of_a_grant_writes_only_while_it_is_held(
    client: coord.Client, prefix: str
) -> None:
    key = prefix + "data"
    held = await client.mutex(prefix + "m").acquire()
    empty = coord.compare.version(key) == 0
    assert (await held.txn().when(empty).then(put(key, "1")).commit()).succeeded
    assert not (await held.txn().when(empty).then(put(key, "2")).commit()).succeeded
    late = held.txn().then(put(key, "late"))
    await held.release()
    assert not (await late.commit()).succeeded
    with pytest.raises(coord.NotHeld):
        held.txn()
    found = await client.get(key)
    assert found is not None
    assert found.value == b"1"


async def test_reentrant_counts_per_task(client: coord.Client, prefix: str) -> None:
    mutex = client.mutex(prefix + "m", reentrant=True)
    outer = await mutex.acquire()
    inner = await mutex.acquire()
    assert inner.token == outer.token
    other = asyncio.ensure_future(mutex.acquire())
    await asyncio.sleep(0.05)
    assert not other.done()
    await inner.release()
    await asyncio.sleep(0.05)
    assert not other.done()
    await outer.release()
    theirs = await asyncio.wait_for(other, 5)
    assert theirs.token > outer.token
    await theirs.release()


async def test_names_next_to_each_other_do_not_interfere(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "a", "a key called like the lock")
    await client.put(prefix + "ab", "and one that starts with it")
    async with (
        client.mutex(prefix + "a").hold(timeout=5) as one,
        client.mutex(prefix + "ab").hold(timeout=5) as other,
    ):
        for name, grant in (("a", one), ("ab", other)):
            mutex = client.mutex(prefix + name)
            holder = await mutex.holder()
            assert holder is not None
            assert (holder.key, holder.token) == (grant.key, grant.token)
            assert await mutex.waiters() == ()


async def test_missing_entry_in_line_is_noticed_by_its_waiter(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        held = await client.mutex(prefix + "m", session=one).acquire()
        mutex = client.mutex(prefix + "m", session=two)
        waiting = asyncio.ensure_future(mutex.acquire())
        while not (line := await mutex.waiters()):
            await asyncio.sleep(0.01)
        guard = create_revision(line[0].key) == line[0].token
        assert (await client.txn().when(guard).then(delete(line[0].key)).commit()).succeeded
        with pytest.raises(coord.LockLost, match="revoked"):
            await asyncio.wait_for(waiting, 8)
        await held.release()


@pytest.mark.parametrize("name", ["", b"", "a\0b"], ids=["text", "bytes", "nul"])
async def test_bad_names_are_refused(client: coord.Client, name: str | bytes) -> None:
    with pytest.raises(coord.InvalidArgument, match="name"):
        client.mutex(name)


async def test_negative_timeout_is_refused(client: coord.Client, prefix: str) -> None:
    with pytest.raises(coord.InvalidArgument, match="timeout"):
        await client.mutex(prefix + "m").acquire(timeout=-1)
