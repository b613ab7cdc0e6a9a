"""Several mutexes at once, on every store: all or nothing, any order of names, one token, loss, cost, layout.

``COORD_PHILOSOPHERS`` (default 20) is the number of meals of each philosopher.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator

import pytest

import coord
from coord.op import put
from coord.store.caller import Repeat
from coord.wire import lock_pb2, methods
from tests.support.faulty import TXN, make_faulty

MEALS = int(os.environ.get("COORD_PHILOSOPHERS", "20"))
WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def lined_up(client: coord.Client, name: str, count: int) -> None:
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while await client.count(name + "/") != count:
            await anext(watch)


def names_of(prefix: str, text: str) -> list[str]:
    return [prefix + name for name in text.split()]


# -- what it gives -------------------------------------------------------------------------------------------------


async def test_all_names_are_held_with_one_token(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=10) as session:
        lock = client.multi_lock(names_of(prefix, "c a b a"), session=session, label="transfer")
        assert lock.names == tuple(n.encode() for n in names_of(prefix, "a b c"))
        grant = await lock.acquire(timeout=WITHIN_S)
        grant.check()
        entries = (await client.get_prefix(prefix)).items
        leaf = f"{session.lease_id:x}"
        # The layout of Go's mutex, for each name.
        assert [kv.key.decode() for kv in entries] == [
            f"{name}/{leaf}" for name in names_of(prefix, "a b c")
        ]
        assert {kv.create_revision for kv in entries} == {grant.token}
        assert {kv.lease for kv in entries} == {session.lease_id}
        assert {kv.version for kv in entries} == {1}
        (value,) = {kv.value for kv in entries}
        told = json.loads(value)
        assert sorted(told) == ["host", "label", "nonce", "owner", "pid", "since", "v"]
        assert told["label"] == "transfer"
        assert grant.keys == tuple(kv.key for kv in entries)
        assert grant.key == grant.keys[0]
        holder = await client.mutex(prefix + "b").holder()
        assert holder is not None
        assert holder.token == grant.token
        assert await grant.release() is True
        assert (await client.get_prefix(prefix)).items == ()
        with pytest.raises(coord.NotHeld):
            grant.check()


async def test_mutexes_of_its_names_are_excluded_and_exclude_it(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        both = client.multi_lock(names_of(prefix, "a b"), session=one)
        b = client.mutex(prefix + "b", session=two)
        held = await both.acquire(timeout=WITHIN_S)
        assert await b.try_acquire() is None
        waiting = asyncio.ensure_future(b.acquire(timeout=WITHIN_S))
        await lined_up(client, prefix + "b", 2)
        await held.release()
        single = await waiting
        assert single.token > held.token
        assert await both.try_acquire() is None
        assert await client.count(prefix + "a/") == 0  # nothing is left behind, under no name
        with pytest.raises(coord.LockTimeout, match=single.key.decode()):
            await both.acquire(timeout=0.2)
        await lined_up(client, prefix + "b", 1)
        again = asyncio.ensure_future(both.acquire(timeout=WITHIN_S))
        await lined_up(client, prefix + "b", 2)
        # The free name is in line, too: all or nothing.
        assert await client.count(prefix + "a/") == 1
        assert not again.done()
        await single.release()
        grant = await again
        assert grant.token > single.token
        await grant.release()
        tried = await both.try_acquire()
        assert tried is not None
        await tried.release()


async def test_it_waits_until_the_last_name_is_free(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        a, b = [await client.mutex(n, session=one).acquire() for n in names_of(prefix, "a b")]
        lock = client.multi_lock(names_of(prefix, "a b c"), session=two)
        waiting = asyncio.ensure_future(lock.acquire(timeout=WITHIN_S))
        await lined_up(client, prefix + "a", 2)
        await a.release()
        with pytest.raises(coord.LockTimeout):  # who comes later waits, though nobody holds a
            await client.mutex(prefix + "a", session=one).acquire(timeout=0.2)
        assert not waiting.done()
        await b.release()
        assert await (await waiting).release()


async def test_any_order_of_names_makes_no_circle(client: coord.Client, prefix: str) -> None:
    """Dining philosophers: each needs his two forks, and asks for the right one first."""
    inside: dict[str, int] = {}
    tokens: dict[str, list[int]] = {}

    async def dine(number: int, session: coord.Session) -> None:
        forks = [f"{prefix}fork{number}", f"{prefix}fork{(number + 1) % 5}"]
        for _ in range(MEALS):
            async with client.multi_lock(forks, session=session).hold(timeout=60) as grant:
                for fork in forks:
                    assert fork not in inside
                    inside[fork] = number
                    tokens.setdefault(fork, []).append(grant.token)
                await asyncio.sleep(0)
                for fork in forks:
                    del inside[fork]

    sessions = [await client.session(ttl=60).open() for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        for number, session in enumerate(sessions):
            group.create_task(dine(number, session))
    for session in sessions:
        await session.close()
    assert [len(found) for found in tokens.values()] == [2 * MEALS] * 5
    assert all(found == sorted(set(found)) for found in tokens.values())


async def test_random_sets_beside_mutexes_and_other_clients(
    client: coord.Client, prefix: str
) -> None:
    """Nobody holds one and asks for another, so everybody gets his turn; and no name has two holders."""
    dice = random.Random(7)
    names = names_of(prefix, "a b c d")
    inside: set[str] = set()

    def enter(mine: list[str]) -> None:
        assert not inside & set(mine)
        inside.update(mine)

    async def many(session: coord.Session) -> None:
        for _ in range(5):
            mine = dice.sample(names, dice.randint(1, 4))
            async with client.multi_lock(mine, session=session).hold(timeout=60):
                enter(mine)
                await asyncio.sleep(0)
                inside.difference_update(mine)

    async def single(session: coord.Session) -> None:
        for _ in range(5):
            mine = dice.choice(names)
            async with client.mutex(mine, session=session).hold(timeout=60):
                enter([mine])
                await asyncio.sleep(0)
                inside.discard(mine)

    async def foreign() -> None:
        """As ``etcdctl lock`` and Go programs line up: entries without a value."""
        lease = await client.lease_grant(60)
        call = client._core.caller.call
        for _ in range(5):
            mine = dice.choice(names)
            request = lock_pb2.LockRequest(name=mine.encode(), lease=lease.lease_id)
            answer = await call(methods.LOCK_LOCK, request, repeat=Repeat.ONCE, timeout=60)
            enter([mine])
            await asyncio.sleep(0)
            inside.discard(mine)
            unlock = lock_pb2.UnlockRequest(key=answer.key)
            await call(methods.LOCK_UNLOCK, unlock, repeat=Repeat.ONCE, timeout=60)

    sessions = [await client.session(ttl=60).open() for _ in range(5)]
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for session in sessions[:3]:
            group.create_task(many(session))
        for session in sessions[3:]:
            group.create_task(single(session))
        group.create_task(foreign())
        group.create_task(foreign())
    for session in sessions:
        await session.close()
    assert (await client.get_prefix(prefix)).items == ()


async def test_tasks_of_one_session_take_turns(client: coord.Client, prefix: str) -> None:
    inside: set[str] = set()
    rounds = 0

    async def work(text: str) -> None:
        nonlocal rounds
        mine = names_of(prefix, text)
        async with client.multi_lock(mine).hold(timeout=60):
            assert not inside & set(mine)
            inside.update(mine)
            await asyncio.sleep(0)
            inside.difference_update(mine)
            rounds += 1

    async with asyncio.TaskGroup() as group:
        for text in ["a b", "b a", "b c", "c a", "a", "c b a"] * 3:
            group.create_task(work(text))
    assert rounds == 18


# -- loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_losing_one_name_is_losing_all(
    client: coord.Client, prefix: str, victim: int
) -> None:
    lock = client.multi_lock(names_of(prefix, "a b c"))
    with pytest.raises(coord.LockLost) as caught:
        async with lock.hold(timeout=WITHIN_S) as grant:
            mutex = client.mutex(names_of(prefix, "a b c")[victim])
            assert await mutex.break_lock(grant.token, reason="it hangs")
            await asyncio.sleep(30)
    assert caught.value.reason == "revoked"
    # What was left of it went with the release, and only that.
    assert (await client.get_prefix(prefix)).items == ()
    async with lock.hold(timeout=WITHIN_S) as grant:
        assert grant.valid_for() > 0


async def test_the_release_of_a_broken_one_leaves_the_next_holder_alone(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        grant = await client.multi_lock(names_of(prefix, "a b"), session=one).acquire()
        b = client.mutex(prefix + "b", session=two)
        assert await b.break_lock(grant.token, reason="it hangs")
        async with b.hold(timeout=WITHIN_S) as theirs:
            assert await grant.lost.wait(timeout=5) == "revoked"
            assert await grant.release() is False
            (left,) = (await client.get_prefix(prefix)).items
            assert left.key == theirs.key


async def test_guards_cover_every_name(client: coord.Client, prefix: str) -> None:
    key = prefix + "data/x"
    lock = client.multi_lock(names_of(prefix, "a b"))
    grant = await lock.acquire(timeout=WITHIN_S)
    assert (await grant.txn().then(put(key, "1")).commit()).succeeded
    assert (await client.txn().when(*grant.guards()).then(put(key, "2")).commit()).succeeded
    with pytest.raises(coord.InvalidArgument, match="several names"):
        grant.guard()

    async def write(tx: coord.StmTxn) -> None:
        tx.guard(grant)
        tx.put(key, "3")

    await client.stm(write)
    await client.mutex(prefix + "b").break_lock(grant.token, reason="it hangs")
    assert not (await client.txn().when(*grant.guards()).then(put(key, "4")).commit()).succeeded
    assert not (await grant.txn().then(put(key, "4")).commit()).succeeded
    with pytest.raises(coord.LockLost):
        await client.stm(write)
    found = await client.get(key)
    assert found is not None
    assert found.value == b"3"
    await grant.release()
    one = await client.multi_lock([prefix + "a"]).acquire(timeout=WITHIN_S)
    assert one.guards() == (one.guard(),)
    await one.release()


async def test_an_entry_that_is_deleted_while_waiting_ends_the_wait(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        held = await client.mutex(prefix + "a", session=one).acquire()
        lock = client.multi_lock(names_of(prefix, "a b"), session=two)
        waiting = asyncio.ensure_future(lock.acquire())
        await lined_up(client, prefix + "b", 1)
        await client.delete(f"{prefix}b/{two.lease_id:x}")
        with pytest.raises(coord.LockLost, match="revoked"):
            await asyncio.wait_for(waiting, 8)
        await lined_up(client, prefix + "a", 1)  # the other entry is given up as well
        await held.release()


async def test_session_that_ends_while_waiting_raises_at_once(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        held = await client.mutex(prefix + "b", session=one).acquire()
        lock = client.multi_lock(names_of(prefix, "a b"), session=two)
        waiting = asyncio.ensure_future(lock.acquire())
        await lined_up(client, prefix + "b", 2)
        await client.lease_revoke(two.lease_id)
        with pytest.raises(coord.SessionExpired):
            async with asyncio.timeout(8):
                await waiting
        assert await held.release()


async def test_session_that_ends_while_holding_is_told(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=10) as one:
        grant = await client.multi_lock(names_of(prefix, "a b"), session=one).acquire()
        await client.lease_revoke(one.lease_id)
        assert await grant.lost.wait(timeout=8)
        with pytest.raises(coord.LockLost):
            grant.check()
        assert await grant.release() is False


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_alone_it_costs_one_request_in_and_one_out(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as one, inline.session(ttl=30) as two:
        lock = inline.multi_lock(names_of("", "a b c"), session=one)
        other = inline.multi_lock(names_of("", "c d"), session=two)
        faulty.paths.clear()
        grant = await lock.acquire()
        assert faulty.paths == [TXN]
        assert await other.try_acquire() is None
        assert faulty.paths == [TXN, TXN]
        await grant.release()
        assert faulty.paths == [TXN, TXN, TXN]


async def test_a_departure_wakes_one_and_costs_one_look(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    sessions = [await inline.session(ttl=600).open() for _ in range(12)]
    held = await inline.multi_lock(["a", "b"], session=sessions[0]).acquire()
    costs: list[list[str]] = []

    async def contend(session: coord.Session) -> None:
        grant = await inline.multi_lock(["b", "a"], session=session).acquire()
        costs.append(list(faulty.paths))
        faulty.paths.clear()
        await grant.release()

    async with asyncio.TaskGroup() as group:
        for number, session in enumerate(sessions[1:], 2):
            group.create_task(contend(session))
            await lined_up(inline, "a", number)
        faulty.paths.clear()
        await held.release()
    # The release of the one, and the evaluation of the other.
    assert costs == [[TXN, TXN]] * 11
    for session in sessions:
        await session.close()


async def test_forty_names_fit_one_transaction(client: coord.Client, prefix: str) -> None:
    names = [f"{prefix}{n:02}" for n in range(40)]
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        held = await client.multi_lock(names, session=one).acquire(timeout=WITHIN_S)
        assert await client.count(prefix) == 40
        lock = client.multi_lock(reversed(names), session=two)
        assert await lock.try_acquire() is None
        waiting = asyncio.ensure_future(lock.acquire(timeout=WITHIN_S))
        await lined_up(client, names[-1], 2)
        await held.release()
        grant = await waiting
        # Also when a part of it is gone.
        await client.delete(grant.keys[7])
        await grant.release()
        assert await client.count(prefix) == 0


# -- refusals ------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_a_multi_lock_is_refused(inline: coord.Client) -> None:
    with pytest.raises(coord.TooManyNames, match="at most 40 names, not 41") as caught:
        inline.multi_lock([f"n{n}" for n in range(41)])
    assert caught.value.count == 41
    with pytest.raises(coord.InvalidArgument, match="at least one"):
        inline.multi_lock([])
    with pytest.raises(coord.InvalidArgument, match="not one"):
        inline.multi_lock("ab")
    with pytest.raises(coord.InvalidArgument, match="name"):
        inline.multi_lock(["a", ""])
    # The second's entries would lie in the first's line, and hide there who is before them.
    with pytest.raises(coord.NameConflict):
        inline.multi_lock(["a", "b", "a/b"])
    with pytest.raises(coord.PayloadTooLarge):
        inline.multi_lock(["a"], label="x" * (600 * 1024))
    with pytest.raises(coord.InvalidArgument, match="timeout"):
        await inline.multi_lock(["a"]).acquire(timeout=-1)
