"""The semaphore, on every store: limits, weights, order, resizing, loss, time-outs, layout.

``COORD_SEMAPHORE_WAITERS`` (default 40) is the number of waiters in the test of hand-over costs.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from collections.abc import AsyncIterator

import pytest

import coord
from coord.recipes.semaphore import attempt as attempts
from coord.recipes.semaphore import semaphore as semaphores
from tests.sdk.semaphore_model import judged
from tests.support.faulty import TXN, make_faulty
from tests.support.lines import WITHIN_S, lined_up

HERD = int(os.environ.get("COORD_SEMAPHORE_WAITERS", "40"))


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


def waiting(task: asyncio.Task[coord.Permit]) -> bool:
    return not task.done()


async def granted(task: asyncio.Task[coord.Permit]) -> coord.Permit:
    async with asyncio.timeout(WITHIN_S):
        return await task


async def asking(
    client: coord.Client, semaphore: coord.Semaphore, permits: int, *, entries: int
) -> asyncio.Task[coord.Permit]:
    """Begin to wait, and return when the store has so many entries and the limit."""
    task = asyncio.ensure_future(semaphore.acquire(permits))
    await lined_up(client, semaphore.name.decode(), entries + 1)
    return task


async def test_no_more_than_the_limit_in_order(client: coord.Client, prefix: str) -> None:
    async with judged(client, prefix + "s") as model:
        semaphore = client.semaphore(prefix + "s", limit=3)
        first = await semaphore.acquire(timeout=WITHIN_S)
        second = await semaphore.acquire(2, timeout=WITHIN_S)
        assert second.token > first.token
        assert (first.permits, second.permits) == (1, 2)
        assert 0 < second.valid_for() <= 15
        assert await semaphore.available() == 0
        two = await asking(client, semaphore, 2, entries=3)
        one = await asking(client, semaphore, 1, entries=4)
        state = await semaphore.state()
        assert [entry.token for entry in state.holders] == [first.token, second.token]
        assert await semaphore.holders() == state.holders
        assert [entry.permits for entry in state.waiting] == [2, 1]
        await first.release()
        await lined_up(client, prefix + "s", 4)
        # One permit is free, but the first in line wants two: nobody passes it.
        assert await semaphore.try_acquire() is None
        assert await semaphore.available() == 1
        assert waiting(two)
        assert waiting(one)
        await second.release()
        third, fourth = await granted(two), await granted(one)
        assert second.token < third.token < fourth.token
        assert await third.release() is True
        assert await fourth.release() is True
        with pytest.raises(coord.NotHeld):
            third.check()
        assert await semaphore.available() == 3
    assert model.most == 3


async def test_try_takes_what_is_free_and_leaves_nothing_otherwise(
    client: coord.Client, prefix: str
) -> None:
    semaphore = client.semaphore(prefix + "s", limit=3)
    first = await semaphore.try_acquire(2)
    assert first is not None
    assert await semaphore.try_acquire(2) is None
    assert await client.count(prefix + "s/holders/") == 1
    second = await semaphore.try_acquire()
    assert second is not None
    assert await semaphore.try_acquire() is None
    await first.release()
    behind = await asking(client, semaphore, 3, entries=2)
    assert await semaphore.try_acquire() is None  # somebody waits
    await second.release()
    await (await granted(behind)).release()
    assert await client.count(prefix + "s/holders/") == 0


async def test_a_higher_limit_lets_in_as_many_as_fit(client: coord.Client, prefix: str) -> None:
    async with judged(client, prefix + "s"):
        semaphore = client.semaphore(prefix + "s", limit=1)
        held = await semaphore.acquire()
        waits = [
            await asking(client, semaphore, permits, entries=number)
            for number, permits in enumerate([1, 2, 1, 1], start=2)
        ]
        await client.semaphore(prefix + "s").set_limit(5)
        grants = [await granted(wait) for wait in waits[:3]]
        assert await semaphore.available() == 0
        assert waiting(waits[3])
        await held.release()
        grants.append(await granted(waits[3]))
        for grant in grants:
            await grant.release()


async def test_a_lower_limit_takes_nothing_back_and_lets_nobody_in(
    client: coord.Client, prefix: str
) -> None:
    async with judged(client, prefix + "s"):
        semaphore = client.semaphore(prefix + "s", limit=3)
        held = [await semaphore.acquire() for _ in range(3)]
        await semaphore.set_limit(1)
        assert await semaphore.available() == -2
        behind = await asking(client, semaphore, 1, entries=4)
        for permit in held[:2]:
            permit.check()
            await permit.release()
        await lined_up(client, prefix + "s", 3)
        assert waiting(behind)
        await held[2].release()
        await (await granted(behind)).release()
        await semaphore.set_limit(0)
        assert await semaphore.try_acquire() is None
        with pytest.raises(coord.SemaphoreTimeout):
            await semaphore.acquire(timeout=0.2)
        # Who knows an older limit does not get by with it.
        known = client.semaphore(prefix + "s", initial_limit=9)
        assert await known.available() == 0
        await semaphore.set_limit(2)
        await (await known.acquire(2, timeout=WITHIN_S)).release()
        await semaphore.set_limit(1)
        with pytest.raises(coord.SemaphoreTimeout):
            await known.acquire(2, timeout=0.2)


async def test_the_limit_is_made_once_and_must_be_the_expected_one(
    client: coord.Client, prefix: str
) -> None:
    with pytest.raises(coord.LimitMismatch, match="no limit yet") as missing:
        await client.semaphore(prefix + "s").acquire()
    assert (missing.value.expected, missing.value.found) == (None, None)
    assert await client.count(prefix) == 0
    await (await client.semaphore(prefix + "s", initial_limit=2).acquire()).release()
    await (await client.semaphore(prefix + "s", initial_limit=9).acquire()).release()
    for ask in (
        client.semaphore(prefix + "s", limit=3).acquire,
        client.semaphore(prefix + "s", limit=3).try_acquire,
        client.semaphore(prefix + "s", limit=3).state,
    ):
        with pytest.raises(coord.LimitMismatch, match="limit of 2, not 3"):
            await ask()
    same = client.semaphore(prefix + "s", limit=2)
    await (await same.acquire()).release()
    await client.semaphore(prefix + "s").set_limit(4)
    await (await same.acquire(4, timeout=WITHIN_S)).release()  # a change under way is followed
    with pytest.raises(coord.LimitMismatch):
        await client.semaphore(prefix + "s", limit=2).acquire()


async def test_a_limit_that_vanished_is_made_again(client: coord.Client, prefix: str) -> None:
    semaphore = client.semaphore(prefix + "s", limit=1)
    held = await semaphore.acquire()
    behind = await asking(client, semaphore, 1, entries=2)
    await client.delete(prefix + "s/limit")
    await held.release()
    await (await granted(behind)).release()
    assert (await semaphore.state()).limit == 1
    await client.delete(prefix + "s/limit")
    await (await semaphore.acquire(timeout=WITHIN_S)).release()
    await client.delete(prefix + "s/limit")
    taken = await semaphore.try_acquire()
    assert taken is not None
    await taken.release()
    # Where nobody may make it, nobody gets in.
    follower = client.semaphore(prefix + "s")
    await (await follower.acquire(timeout=WITHIN_S)).release()
    await client.delete(prefix + "s/limit")
    with pytest.raises(coord.LimitMismatch):
        await follower.acquire(timeout=WITHIN_S)
    await lined_up(client, prefix + "s", 0)


async def test_layout(client: coord.Client, prefix: str) -> None:
    name = prefix + "s"
    async with client.session(ttl=20) as session:
        semaphore = client.semaphore(name, limit=3, session=session)
        first = await semaphore.acquire(2)
        second = await semaphore.acquire()
        behind = await asking(client, semaphore, 1, entries=3)
        items = {kv.key.decode(): kv for kv in (await client.get_prefix(name + "/")).items}
        limit = items.pop(name + "/limit")
        assert (limit.value, limit.lease) == (b"3", 0)
        by_age = sorted(items.values(), key=lambda kv: kv.create_revision)
        assert [kv.key for kv in by_age[:2]] == [first.key, second.key]
        # Granted at once; first in line and then granted; in line.
        assert [kv.version for kv in by_age] == [1, 2, 1]
        assert [kv.create_revision for kv in by_age[:2]] == [first.token, second.token]
        for kv, permits, state in zip(
            by_age, (2, 1, 1), ("granted", "granted", "waiting"), strict=True
        ):
            said = json.loads(kv.value)
            assert kv.value.startswith(b'{"permits":')
            assert said.keys() == {"permits", "state", "meta"}
            assert (said["permits"], said["state"]) == (permits, state)
            assert said["meta"].keys() == {"v", "nonce", "owner", "host", "pid", "since"}
            assert re.fullmatch("[0-9a-f]{16}", said["meta"]["nonce"])
            assert kv.key.decode() == (
                f"{name}/holders/{session.lease_id:x}-{said['meta']['nonce']}"
            )
            assert kv.lease == session.lease_id
        await first.release()
        await (await granted(behind)).release()
        await second.release()


async def test_a_timeout_says_what_is_in_the_way_and_leaves_no_place(
    client: coord.Client, prefix: str
) -> None:
    semaphore = client.semaphore(prefix + "s", limit=2)
    held = await semaphore.acquire(2)
    with pytest.raises(
        coord.SemaphoreTimeout, match="first in line; 2 permits in use, the limit is 2"
    ):
        await semaphore.acquire(timeout=0.2)
    await lined_up(client, prefix + "s", 2)
    ahead = await asking(client, semaphore, 2, entries=2)
    key = (await semaphore.state()).waiting[0].key.decode()
    with pytest.raises(coord.SemaphoreTimeout, match=re.escape(f"waiting behind {key}")) as caught:
        await semaphore.acquire(timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert "which waits for 2 permits" in caught.value.explain
    behind = await asking(client, semaphore, 1, entries=3)
    ahead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ahead
    await held.release()
    last = await granted(behind)
    # What a time-out left is not in the way of the next try.
    with pytest.raises(coord.SemaphoreTimeout):
        await semaphore.acquire(2, timeout=0.05)
    other = await semaphore.try_acquire()
    assert other is not None
    await other.release()
    await last.release()
    assert await client.count(prefix + "s/holders/") == 0


async def test_wrong_numbers_are_refused(client: coord.Client, prefix: str) -> None:
    semaphore = client.semaphore(prefix + "s", limit=2)
    for permits in (0, -1, 2**31):
        with pytest.raises(coord.InvalidArgument, match="permits"):
            await semaphore.acquire(permits)
        with pytest.raises(coord.InvalidArgument, match="permits"):
            await semaphore.try_acquire(permits)
    with pytest.raises(coord.InvalidArgument, match="timeout"):
        await semaphore.acquire(timeout=-1)
    for limit in (-1, 2**31, "3"):
        with pytest.raises(coord.InvalidArgument, match="limit"):
            await semaphore.set_limit(limit)  # type: ignore[arg-type]
        with pytest.raises(coord.InvalidArgument, match="limit"):
            client.semaphore(prefix + "s", limit=limit)  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="either"):
        client.semaphore(prefix + "s", limit=2, initial_limit=2)
    assert await client.count(prefix) == 0


@pytest.mark.parametrize("place", ["first", "behind"])
async def test_a_session_that_ends_while_waiting_raises_at_once(
    client: coord.Client, prefix: str, place: str
) -> None:
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:
        mine = client.semaphore(prefix + "s", limit=1, session=one)
        held = await mine.acquire()
        ahead = await asking(client, mine, 1, entries=2) if place == "behind" else None
        theirs = client.semaphore(prefix + "s", session=two)
        wait = await asking(client, theirs, 1, entries=3 if ahead else 2)
        await client.lease_revoke(two.lease_id)
        with pytest.raises(coord.SessionExpired):
            async with asyncio.timeout(8):
                await wait
        await held.release()
        if ahead:
            await (await granted(ahead)).release()


async def test_a_deleted_entry_is_lost(client: coord.Client, prefix: str) -> None:
    semaphore = client.semaphore(prefix + "s", limit=1)
    held = await semaphore.acquire()
    first = await asking(client, semaphore, 1, entries=2)
    second = await asking(client, semaphore, 1, entries=3)
    for task, entry in zip(
        (second, first), reversed((await semaphore.state()).waiting), strict=True
    ):
        await client.delete(entry.key)
        with pytest.raises(coord.PermitLost, match="revoked"):
            await granted(task)
    await client.delete(held.key)
    assert await held.lost.wait(timeout=WITHIN_S) == "revoked"
    with pytest.raises(coord.PermitLost):
        held.check()
    assert await held.release() is False
    reached = False
    with pytest.raises(coord.PermitLost):
        async with semaphore.hold(timeout=WITHIN_S) as permit:
            await client.delete(permit.key)
            await asyncio.sleep(30)
            reached = True
    assert not reached


async def test_the_permits_of_a_lost_session_come_back(client: coord.Client, prefix: str) -> None:
    async with judged(client, prefix + "s"), client.session(ttl=20) as two:
        one = await client.session(ttl=20).open()
        mine = client.semaphore(prefix + "s", limit=2, session=one)
        held = [await mine.acquire(), await mine.acquire()]
        wait = await asking(client, client.semaphore(prefix + "s", session=two), 2, entries=3)
        await client.lease_revoke(one.lease_id)
        await (await granted(wait)).release()
        for permit in held:
            assert await permit.lost.wait(timeout=WITHIN_S) is not None
            with pytest.raises(coord.PermitLost):
                permit.check()


async def test_guarded_writes_end_with_the_permit(client: coord.Client, prefix: str) -> None:
    permit = await client.semaphore(prefix + "s", limit=1).acquire()
    write = permit.txn().then(coord.op.put(prefix + "x", "1"))
    assert (await write.commit()).succeeded
    await permit.release()
    assert not (await write.commit()).succeeded


async def test_what_cannot_be_read_blocks_and_lets_nobody_in(
    client: coord.Client, prefix: str
) -> None:
    semaphore = client.semaphore(prefix + "s", limit=2)
    for value in ("junk", "[]", '{"permits":"2","state":"granted"}', '{"permits":1,"state":"new"}'):
        await client.put(prefix + "s/holders/1-2", value)
        state = await semaphore.state()
        assert (state.available, [entry.state for entry in state.waiting]) == (2, ["waiting"])
        assert await semaphore.try_acquire() is None
        task = await asking(client, semaphore, 1, entries=2)
        await client.delete(prefix + "s/holders/1-2")
        await (await granted(task)).release()
    for value in ("junk", "", "-3", "9" * 5000):
        await client.put(prefix + "s/limit", value)
        assert (await client.semaphore(prefix + "s").state()).limit == 0
        with pytest.raises(coord.SemaphoreTimeout):
            await semaphore.acquire(timeout=0.05)


async def test_a_killed_holder_returns_its_permit(endpoint: str, prefix: str) -> None:
    """Its lease ends by its time to live: those who wait get the permit then."""
    holder = (
        "import asyncio, coord\n"
        "async def main():\n"
        f"    client = await coord.connect({endpoint!r})\n"
        "    session = await client.session(ttl=2).open()\n"
        f"    await client.semaphore({prefix + 's'!r}, limit=1, session=session).acquire()\n"
        "    print('held', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    async with coord.connect(endpoint) as client:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", holder, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"held\n"
            task = await asking(client, client.semaphore(prefix + "s"), 1, entries=2)
        finally:
            process.kill()
            await process.wait()
        await (await granted(task)).release()


# -- under load ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_many_with_weights_crashes_and_changes_of_the_limit(
    client: coord.Client, prefix: str, seed: int
) -> None:
    rand = random.Random(seed)
    name = prefix + "s"
    async with judged(client, name) as model:
        lasting = [await client.session(ttl=30).open() for _ in range(2)]
        await client.semaphore(name, limit=4).state()

        async def work(session: coord.Session, count: int) -> None:
            semaphore = client.semaphore(name, session=session)
            for _ in range(count):
                permits = rand.randint(1, 3)
                if rand.random() < 0.2:
                    permit = await semaphore.try_acquire(permits)
                else:
                    permit = await semaphore.acquire(permits, timeout=WITHIN_S)
                await asyncio.sleep(0.001 * rand.randint(0, 2))
                if permit is not None:
                    await permit.release()

        async def crash() -> None:
            for _ in range(4):
                session = await client.session(ttl=30).open()
                semaphore = client.semaphore(name, session=session)
                tasks = [asyncio.ensure_future(semaphore.acquire(2)) for _ in range(2)]
                await asyncio.wait(tasks, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
                await client.lease_revoke(session.lease_id)
                for task in tasks:
                    with pytest.raises((coord.SessionExpired, coord.PermitLost)):
                        (await task).check()
                        await asyncio.wait_for(session.expired.wait(), WITHIN_S)
                        session.check()

        async def resize() -> None:
            other = client.semaphore(name)
            for limit in (3, 6, 3, 5):
                await other.set_limit(limit)
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(work(lasting[number % 2], 5))
            group.create_task(crash())
            group.create_task(resize())
        assert await client.count(name + "/holders/") == 0
        for session in lasting:
            await session.close()
    assert 3 <= model.most <= 6


async def test_more_holders_than_one_look_reads(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MOST_READ", 3)
    monkeypatch.setattr(semaphores, "MOST_READ", 3)
    async with judged(inline, "a"):
        semaphore = inline.semaphore("a", limit=7)
        held = [await semaphore.acquire(timeout=WITHIN_S) for _ in range(7)]
        assert (await semaphore.state()).holders[-1].token == held[-1].token
        behind = await asking(inline, semaphore, 2, entries=8)
        await held.pop().release()
        await held.pop(0).release()
        held.append(await granted(behind))
        assert await semaphore.available() == 0
        for permit in held:
            await permit.release()


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_cost_without_and_beside_others(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    async with inline.session(ttl=30) as session:
        semaphore = inline.semaphore("a", limit=3, session=session)
        await semaphore.state()
        costs: list[int] = []

        def spent() -> int:
            assert set(faulty.paths) <= {TXN}
            costs.append(len(faulty.paths))
            faulty.paths.clear()
            return costs[-1]

        faulty.paths.clear()
        alone = await semaphore.acquire()
        assert spent() == 1
        beside = await semaphore.acquire()
        assert spent() == 2
        tried = await semaphore.try_acquire()
        assert spent() == 2
        assert tried is not None
        assert await semaphore.try_acquire() is None
        assert spent() == 1
        for permit in (alone, beside, tried):
            await permit.release()
            assert spent() == 1


async def test_a_hand_over_wakes_the_first_in_line_and_its_successor(inline: coord.Client) -> None:
    """Release, look of the first, its grant, look of the one behind it: four requests, however many wait."""
    faulty = make_faulty(inline)
    async with judged(inline, "a"):
        semaphore = inline.semaphore("a", limit=2)
        held = [await semaphore.acquire(), await semaphore.acquire()]
        tasks = [await asking(inline, semaphore, 1, entries=number + 3) for number in range(HERD)]
        faulty.paths.clear()
        costs: list[int] = []
        for number, task in enumerate(tasks):
            await held.pop(0).release()
            held.append(await granted(task))
            if number + 1 < HERD:
                await inline.get("x")  # what the grant has woken has looked by then
                async with asyncio.timeout(WITHIN_S):
                    while len(faulty.paths) < 5:
                        await asyncio.sleep(0)
            costs.append(faulty.paths.count(TXN))
            faulty.paths.clear()
        assert costs == [4] * (HERD - 1) + [3]
        for permit in held:
            await permit.release()
