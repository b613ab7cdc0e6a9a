"""The read-write lock, on every store: who excludes whom, order, downgrade, loss, time-outs, layout, foreign clients."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator

import pytest

import coord
from tests.sdk.rwlock_model import ForeignRWMutex, History, Mode
from tests.support.faulty import TXN, make_faulty
from tests.support.lines import WITHIN_S, lined_up


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def test_readers_share_and_a_writer_is_alone(client: coord.Client, prefix: str) -> None:
    name = prefix + "rw"
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:
        first = await client.rwlock(name, session=one).read().acquire(timeout=WITHIN_S)
        second = await client.rwlock(name, session=two).read().acquire(timeout=WITHIN_S)
        assert second.token > first.token
        assert await client.rwlock(name, session=two).write().try_acquire_for("w") is None
        writing = asyncio.ensure_future(
            client.rwlock(name, session=one).write().acquire_for("w", timeout=None)
        )
        await lined_up(client, name, 3)
        await first.release()
        await lined_up(client, name, 2)
        assert not writing.done()
        await second.release()
        async with asyncio.timeout(WITHIN_S):
            alone = await writing
        assert alone.token > second.token
        assert 0 < alone.valid_for() <= 20
        assert await client.rwlock(name, session=two).read().try_acquire() is None
        assert await client.rwlock(name, session=two).write().try_acquire() is None
        assert await client.count(name + "/") == 1
        assert await alone.release() is True
        assert await client.count(name + "/") == 0
        with pytest.raises(coord.NotHeld):
            alone.check()
        last = await client.rwlock(name, session=two).write().try_acquire()
        assert last is not None
        assert last.token > alone.token
        await last.release()


async def test_a_writer_that_waits_holds_back_later_readers(
    client: coord.Client, prefix: str
) -> None:
    rw = client.rwlock(prefix + "rw")
    reading = await rw.read().acquire()
    writing = asyncio.ensure_future(rw.write().acquire())
    await lined_up(client, prefix + "rw", 2)
    later = asyncio.ensure_future(rw.read().acquire())
    await lined_up(client, prefix + "rw", 3)
    assert await rw.read().try_acquire() is None
    state = await rw.state()
    assert [entry.token for entry in state.readers] == [reading.token]
    assert state.writer is None
    assert [entry.mode for entry in state.waiting] == ["write", "read"]
    await reading.release()
    async with asyncio.timeout(WITHIN_S):
        alone = await writing
    assert not later.done()
    state = await rw.state()
    assert state.readers == ()
    assert state.writer is not None
    assert (state.writer.token, state.writer.key) == (alone.token, alone.key)
    assert [entry.mode for entry in state.waiting] == ["read"]
    await alone.release()
    async with asyncio.timeout(WITHIN_S):
        await (await later).release()
    assert await rw.state() == coord.RWState(readers=(), writer=None, waiting=())


async def test_a_downgrade_lets_readers_in_and_no_writer(client: coord.Client, prefix: str) -> None:
    name = prefix + "rw"
    rw = client.rwlock(name)
    async with client.watch(name + "/", prefix=True) as changes:
        alone = await rw.write(downgradable=True).acquire()
        token = alone.token
        assert {kv.create_revision for kv in (await client.get_prefix(name + "/")).items} == {token}
        writing = asyncio.ensure_future(rw.write().acquire_for("other", timeout=None))
        await lined_up(client, name, 3)
        assert [entry.mode for entry in (await rw.state()).waiting] == ["write"]
        assert await rw.read().try_acquire() is None
        before = alone.downgraded
        await alone.downgrade()
        assert not before
        assert alone.downgraded
        await alone.downgrade()  # a second time changes nothing
        assert alone.token == token
        assert alone.key.startswith(f"{name}/read/".encode())
        alone.check()
        guarded = alone.txn().then(coord.op.put(prefix + "x", "1"))
        assert (await guarded.commit()).succeeded
        assert not writing.done()
        state = await rw.state()
        assert [entry.token for entry in state.readers] == [token]
        assert await alone.release() is True
        async with asyncio.timeout(WITHIN_S):
            after = await writing
        assert after.token > token
        await after.release()
        # No entry was ever changed: foreign readers go by modification revisions.
        puts: list[bytes] = []
        async with asyncio.timeout(WITHIN_S):
            async for event in changes:
                if event.type is coord.EventType.PUT:
                    puts.append(event.kv.key)
                elif event.kv.key == after.key:
                    break
        assert len(puts) == len(set(puts)) == 3


async def test_a_downgrade_lets_the_readers_behind_it_in(client: coord.Client, prefix: str) -> None:
    rw = client.rwlock(prefix + "rw")
    async with rw.write(downgradable=True).hold(timeout=WITHIN_S) as alone:
        waits = [asyncio.ensure_future(rw.read().acquire()) for _ in range(3)]
        await lined_up(client, prefix + "rw", 5)
        assert not any(wait.done() for wait in waits)
        await alone.downgrade(timeout=WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            for wait in waits:
                await (await wait).release()
        alone.check()
    assert await client.count(prefix + "rw/") == 0


async def test_a_downgrade_is_refused_without_a_read_entry_and_after_the_end(
    client: coord.Client, prefix: str
) -> None:
    rw = client.rwlock(prefix + "rw")
    plain = await rw.write().acquire()
    with pytest.raises(coord.InvalidArgument, match="downgradable=True"):
        await plain.downgrade()
    plain.check()
    await plain.release()
    with pytest.raises(coord.NotHeld):
        await plain.downgrade()
    with pytest.raises(coord.InvalidArgument, match="timeout"):
        await plain.downgrade(timeout=-1)


async def test_who_reads_may_not_ask_to_write(client: coord.Client, prefix: str) -> None:
    rw = client.rwlock(prefix + "rw")
    reading = await rw.read().acquire()
    for refused in (rw.write().acquire, rw.write().try_acquire):
        with pytest.raises(coord.UpgradeRefused, match="release it"):
            await refused()
    assert await client.count(prefix + "rw/") == 1
    # Another task may wait for the first one.
    writing = asyncio.ensure_future(rw.write(downgradable=True).acquire())
    await lined_up(client, prefix + "rw", 3)
    await reading.release()
    async with asyncio.timeout(WITHIN_S):
        await (await writing).release()
    alone = await rw.write(downgradable=True).acquire(timeout=WITHIN_S)
    await alone.downgrade()
    with pytest.raises(coord.UpgradeRefused):
        await rw.write().acquire()
    await alone.release()
    await (await rw.write().acquire(timeout=WITHIN_S)).release()
    assert (await client.default_session()).readers == {}


async def test_layout(client: coord.Client, prefix: str) -> None:
    name = prefix + "rw"
    async with client.session(ttl=20) as session:
        rw = client.rwlock(name, session=session)
        lease = f"{session.lease_id:x}"
        for side, kinds in (
            (rw.read(), ["read"]),
            (rw.write(), ["write"]),
            (rw.write(downgradable=True), ["read", "write"]),
        ):
            grant = await side.acquire(timeout=WITHIN_S)
            items = (await client.get_prefix(name + "/")).items
            said = json.loads(items[0].value)
            assert said.keys() == {"v", "nonce", "owner", "host", "pid", "since"}
            assert re.fullmatch("[0-9a-f]{16}", said["nonce"])
            own = f"{lease}-{said['nonce']}"
            assert [kv.key.decode() for kv in items] == [f"{name}/{kind}/{own}" for kind in kinds]
            assert grant.key == items[-1].key
            for kv in items:
                assert (kv.lease, kv.version) == (session.lease_id, 1)
                assert (kv.create_revision, kv.value) == (grant.token, items[0].value)
            await grant.release()


async def test_a_timeout_says_who_is_in_the_way_and_leaves_no_place(
    client: coord.Client, prefix: str
) -> None:
    rw = client.rwlock(prefix + "rw")
    alone = await rw.write().acquire()
    for waiting in (rw.read(), rw.write(), rw.write(downgradable=True)):
        with pytest.raises(coord.LockTimeout, match=re.escape(alone.key.decode())) as caught:
            await waiting.acquire(timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
    await lined_up(client, prefix + "rw", 1)
    task = asyncio.ensure_future(rw.write(downgradable=True).acquire())
    await lined_up(client, prefix + "rw", 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await lined_up(client, prefix + "rw", 1)
    with pytest.raises(coord.InvalidArgument, match="timeout"):
        await rw.read().acquire(timeout=-1)
    await alone.release()
    # What a time-out left is not in the way of the next try.
    reading = await rw.read().acquire()
    with pytest.raises(coord.LockTimeout):
        await rw.write().acquire_for("other", timeout=0.05)
    other = await rw.read().try_acquire()
    assert other is not None
    await other.release()
    await reading.release()


@pytest.mark.parametrize("mode", ["read", "write"])
async def test_a_session_that_ends_while_waiting_raises_at_once(
    client: coord.Client, prefix: str, mode: Mode
) -> None:
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:
        alone = await client.rwlock(prefix + "rw", session=one).write().acquire()
        rw = client.rwlock(prefix + "rw", session=two)
        waiting = asyncio.ensure_future((rw.read() if mode == "read" else rw.write()).acquire())
        await lined_up(client, prefix + "rw", 2)
        await client.lease_revoke(two.lease_id)
        with pytest.raises(coord.SessionExpired):
            async with asyncio.timeout(8):
                await waiting
        alone.check()
        await alone.release()


async def test_a_deleted_entry_is_lost_in_every_state(client: coord.Client, prefix: str) -> None:
    rw = client.rwlock(prefix + "rw")
    for grant in (
        await rw.read().acquire(),
        await rw.read().acquire(),
    ):
        await client.delete(grant.key)
        assert await grant.lost.wait(timeout=WITHIN_S) == "revoked"
        with pytest.raises(coord.LockLost):
            grant.check()
        assert await grant.release() is False
    alone = await rw.write(downgradable=True).acquire(timeout=WITHIN_S)
    await client.delete(alone.key)
    assert await alone.lost.wait(timeout=WITHIN_S) == "revoked"
    with pytest.raises(coord.LockLost):
        await alone.downgrade()
    assert await alone.release() is False
    assert await client.count(prefix + "rw/") == 0
    shared = await rw.write(downgradable=True).acquire(timeout=WITHIN_S)
    await shared.downgrade()
    shared.check()
    await client.delete(shared.key)
    assert await shared.lost.wait(timeout=WITHIN_S) == "revoked"
    assert await shared.release() is False


async def test_a_downgrade_without_its_read_entry_is_a_loss(
    client: coord.Client, prefix: str
) -> None:
    alone = await client.rwlock(prefix + "rw").write(downgradable=True).acquire()
    await client.delete(alone.key.replace(b"/write/", b"/read/"))
    with pytest.raises(coord.LockLost):
        await alone.downgrade()
    assert (
        await client.count(prefix + "rw/") == 1
    )  # the write entry: nobody comes in before the release
    assert await alone.release() is False
    assert await client.count(prefix + "rw/") == 0


async def test_a_deleted_waiting_entry_ends_the_wait(client: coord.Client, prefix: str) -> None:
    rw = client.rwlock(prefix + "rw")
    alone = await rw.write().acquire()
    waiting = asyncio.ensure_future(rw.read().acquire())
    await lined_up(client, prefix + "rw", 2)
    (entry,) = (await rw.state()).waiting
    await client.delete(entry.key)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(coord.LockLost, match="revoked"):
            await waiting
    await alone.release()


async def test_a_lost_hold_cancels_its_body(client: coord.Client, prefix: str) -> None:
    reached = False
    with pytest.raises(coord.LockLost):
        async with client.rwlock(prefix + "rw").write(downgradable=True).hold() as grant:
            await grant.downgrade()
            await client.delete(grant.key)
            await asyncio.sleep(30)
            reached = True
    assert not reached


async def test_names_next_to_each_other_do_not_interfere(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "a", "a key called like the lock")
    await client.put(prefix + "a/other", "nothing of it, but below its name")
    await client.put(prefix + "ab/write/1", "and one that starts with it")
    async with client.rwlock(prefix + "a").read().hold(timeout=5):
        state = await client.rwlock(prefix + "a").state()
        assert (len(state.readers), state.writer, state.waiting) == (1, None, ())


# -- under load ----------------------------------------------------------------------------------------------------


async def test_a_writer_among_many_readers_gets_its_turn(client: coord.Client, prefix: str) -> None:
    """20 readers that come back at once: a writer waits for those before it only."""
    rw = client.rwlock(prefix + "rw")
    history, stop = History(), asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            async with rw.read().hold(timeout=WITHIN_S) as grant:
                held = history.grant("read", grant.token)
                await asyncio.sleep(0)
                history.end(held)

    async def write() -> None:
        for _ in range(5):
            async with rw.write().hold(timeout=WITHIN_S) as grant:
                held = history.grant("write", grant.token)
                await asyncio.sleep(0)
                history.end(held)
        stop.set()

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(read())
        group.create_task(write())
    history.judge()
    assert sum(held.mode == "write" for held in history.held) == 5
    assert await client.count(prefix + "rw/") == 0


@pytest.mark.parametrize("seed", range(2))
async def test_own_and_foreign_clients_keep_the_rules_together(
    client: coord.Client, prefix: str, seed: int
) -> None:
    """Half of the contenders know only Go's rules; ours downgrade at times. No grant overlaps one that excludes it."""
    rand = random.Random(seed)
    name = prefix + "rw"
    history = History()

    async def ours(session: coord.Session, plan: list[str]) -> None:
        rw = client.rwlock(name, session=session)
        for step in plan:
            if step == "read":
                async with rw.read().hold(timeout=WITHIN_S) as reading:
                    held = history.grant("read", reading.token)
                    await asyncio.sleep(0.001)
                    history.end(held)
            else:
                async with rw.write(downgradable=step == "down").hold(timeout=WITHIN_S) as alone:
                    held = history.grant("write", alone.token)
                    await asyncio.sleep(0.001)
                    if step == "down":
                        history.downgrade(held)
                        await alone.downgrade()
                        await asyncio.sleep(0.001)
                    history.end(held)

    async def foreign(lease_id: int, plan: list[Mode]) -> None:
        for mode in plan:
            mutex = ForeignRWMutex(client, name, lease_id)
            async with asyncio.timeout(WITHIN_S):
                held = history.grant(mode, await mutex.lock(mode))
            await asyncio.sleep(0.001)
            history.end(held)
            await mutex.unlock()

    async with client.session(ttl=30) as one, client.session(ttl=30) as two:
        async with asyncio.TaskGroup() as group:
            for session in (one, two, one):
                group.create_task(ours(session, rand.choices(["read", "write", "down"], k=6)))
            for _ in range(3):
                plan: list[Mode] = rand.choices(["read", "write"], k=6)
                group.create_task(foreign(one.lease_id, plan))
        history.judge()
        assert len(history.held) == 36
        assert await client.count(name + "/") == 0


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_uncontended_it_costs_one_request_in_and_one_out(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        rw = inline.rwlock("a", session=session)
        for side in (rw.read(), rw.write(), rw.write(downgradable=True)):
            for acquire in (side.acquire, side.try_acquire):
                faulty.paths.clear()
                grant = await acquire()
                assert grant is not None
                assert faulty.paths == [TXN]
                await grant.release()
                assert faulty.paths == [TXN, TXN]
        alone = await rw.write(downgradable=True).acquire()
        faulty.paths.clear()
        assert await rw.read().try_acquire() is None
        assert faulty.paths == [TXN]
        await alone.downgrade()
        assert faulty.paths == [TXN, TXN]
        await alone.release()


async def test_a_hand_over_wakes_all_readers_behind_it_or_one_writer(inline: coord.Client) -> None:
    """Behind the first writer: five readers, who all come in together, then three writers, one by one."""
    faulty = make_faulty(inline)
    async with inline.session(ttl=600) as session:
        rw = inline.rwlock("a", session=session)
        alone = await rw.write().acquire()
        waits: list[asyncio.Task[coord.Grant]] = []
        for number, side in enumerate([rw.read()] * 5 + [rw.write()] * 3, start=2):
            waits.append(asyncio.ensure_future(side.acquire()))
            await lined_up(inline, "a", number)
        faulty.paths.clear()
        await alone.release()
        async with asyncio.timeout(WITHIN_S):
            readers = [await wait for wait in waits[:5]]
        # The release, and a look of each reader.
        assert faulty.paths == [TXN] * 6
        for reader in readers[:-1]:
            await reader.release()
        await asyncio.sleep(0.05)
        # The first writer watches the last reader: those before it wake nobody.
        assert faulty.paths == [TXN] * 10
        faulty.paths.clear()
        last = readers[-1]
        for wait in waits[5:]:
            await last.release()
            async with asyncio.timeout(WITHIN_S):
                last = await wait
            assert faulty.paths == [TXN, TXN]
            faulty.paths.clear()
        await last.release()
