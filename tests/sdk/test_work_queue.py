"""The work queue, on every store: delivery until done, tokens, attempts, dead letters, layout, cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from contextlib import AsyncExitStack

import pytest

import coord
from coord import Backoff
from coord.testing import Faults
from tests.sdk.queue_models import WorkModel, patient, recorded

__all__ = ["patient"]

WITHIN_S = 20.0
AT_ONCE = Backoff(first=0, most=0)


def keys_of(found: coord.RangeResult, name: str) -> list[str]:
    return [kv.key.decode().removeprefix(name + "/") for kv in found.items]


async def one(queue: coord.WorkQueue, timeout: float | None = WITHIN_S) -> coord.WorkItem:
    (item,) = await queue.receive(timeout=timeout)
    return item


# -- from put to done ----------------------------------------------------------------------------------------------


async def test_an_item_is_delivered_and_acknowledged(client: coord.Client, prefix: str) -> None:
    name = prefix + "q"
    async with client.work_queue(name) as queue:
        receipt = await queue.put("job")
        assert not receipt.duplicate
        item = await one(queue)
        assert (item.id, item.value, item.attempt, item.last_error) == (receipt.id, b"job", 1, "")
        item.check()
        assert item.valid_for() > 0
        claim = await client.get(item.key)
        assert claim is not None
        assert claim.create_revision == item.token
        assert (await queue.stats()).claimed == 1
        revision = await item.ack([coord.op.put(prefix + "effect", "done")])
        effect = await client.get(prefix + "effect")
        assert effect is not None
        assert effect.mod_revision == revision
        assert item.ended.is_set()
        assert item.valid_for() == 0
        for again in (item.ack, item.nack):
            with pytest.raises(coord.NotHeld):
                await again()
        stats = await queue.stats()
        assert (stats.items, stats.ready, stats.claimed, stats.dead) == (0, 0, 0, 0)
        with pytest.raises(coord.ReceiveTimeout) as caught:
            await queue.receive(timeout=0.1)
        assert isinstance(caught.value, TimeoutError)


async def test_the_most_urgent_then_the_oldest(client: coord.Client, prefix: str) -> None:
    async with client.work_queue(prefix + "q") as queue:
        for value, priority in (("a", 100), ("b", 100), ("c", 5), ("d", 200), ("e", 5)):
            await queue.put(value, priority=priority)
        got: list[bytes] = []
        for _ in range(5):
            async with await one(queue) as item:
                got.append(item.value)
        assert got == [b"c", b"e", b"a", b"b", b"d"]
        with pytest.raises(coord.BadPriority):
            await queue.put("x", priority=-1)


async def test_what_comes_back_keeps_its_place(client: coord.Client, prefix: str) -> None:
    async with client.work_queue(prefix + "q", backoff=AT_ONCE) as queue:
        for n in range(3):
            await queue.put(f"{n}")
        first = await one(queue)
        await first.nack(reason="not yet")
        again = await one(queue)
        assert (again.value, again.attempt, again.last_error) == (b"0", 2, "not yet")
        assert again.token > first.token
        await again.nack(refund=True)
        third = await one(queue)
        assert (third.value, third.attempt) == (b"0", 2)
        assert await third.release() is True  # as a refund
        assert third.ended.is_set()
        assert (await one(queue)).attempt == 2


async def test_the_end_of_a_block_decides(client: coord.Client, prefix: str) -> None:
    async with client.work_queue(prefix + "q", backoff=AT_ONCE) as queue:
        await queue.put("job")
        with pytest.raises(ZeroDivisionError):
            async with await one(queue):
                _ = 1 / 0
        item = await one(queue)
        assert (item.attempt, item.last_error) == (2, "ZeroDivisionError: division by zero")

        async def work() -> None:
            async with item:
                await asyncio.Event().wait()

        working = asyncio.ensure_future(work())
        await asyncio.sleep(0.02)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        item = await one(queue)
        assert (item.attempt, item.last_error) == (2, "ZeroDivisionError: division by zero")
        async with item:
            item.also(coord.op.put(prefix + "one", "1")).also(coord.op.put(prefix + "two", "2"))
        assert [kv.value for kv in (await client.get_prefix(prefix + "one")).items] == [b"1"]
        assert [kv.value for kv in (await client.get_prefix(prefix + "two")).items] == [b"2"]
        async with await _put_and_claim(queue, "own end") as item:
            await item.nack(delay=0)
        assert (await one(queue)).value == b"own end"


async def _put_and_claim(queue: coord.WorkQueue, value: str) -> coord.WorkItem:
    await queue.put(value)
    return await one(queue)


async def test_several_at_once_share_a_token(client: coord.Client, prefix: str) -> None:
    async with client.work_queue(prefix + "q") as queue:
        for n in range(45):
            await queue.put(f"{n:02}")
        with pytest.raises(coord.InvalidArgument):
            await queue.receive(max=41)
        first = await queue.receive(max=40)
        second = await queue.receive(max=40)
        assert [len(first), len(second)] == [40, 5]
        assert len({item.token for item in first}) == 1
        assert [item.value for item in first + second] == [b"%02d" % n for n in range(45)]
        for item in first + second:
            await item.ack()
        assert (await queue.stats()).items == 0


async def test_consume_yields_as_many_as_it_may(client: coord.Client, prefix: str) -> None:
    async with client.work_queue(prefix + "q") as queue:
        for n in range(6):
            await queue.put(f"{n}")
        got: list[bytes] = []
        async with asyncio.timeout(WITHIN_S):
            async for item in queue.consume():
                assert (await queue.stats()).claimed == 1
                async with item:
                    got.append(item.value)
                if len(got) == 3:
                    break
            two: list[coord.WorkItem] = []
            source = queue.consume(concurrency=2)
            two = [await anext(source), await anext(source)]
            third = asyncio.ensure_future(anext(source))
            await asyncio.sleep(0.05)
            assert not third.done()
            await two[1].ack()
            assert (await third).value == b"5"
        assert got == [b"0", b"1", b"2"]
        with pytest.raises(coord.InvalidArgument):
            await anext(queue.consume(concurrency=0))


# -- put -----------------------------------------------------------------------------------------------------------


async def test_a_dedup_id_is_put_once_while_it_is_known(client: coord.Client, prefix: str) -> None:
    async with client.work_queue(prefix + "q", dedup_window=60) as queue:
        first = await queue.put("a", dedup_id="order/7")
        again = await queue.put("b", dedup_id="order/7")
        assert (first.id, first.duplicate) == ("00100-order/7", False)
        assert (again.id, again.duplicate) == ("00100-order/7", True)
        async with await one(queue) as item:
            assert item.value == b"a"
            assert (await queue.put("c", dedup_id="order/7")).duplicate
        assert (await queue.put("d", dedup_id="order/7")).duplicate  # done, and remembered
        assert not (await queue.put("e", dedup_id="order/8")).duplicate
        for wrong in ("", "a\0b"):
            with pytest.raises(coord.InvalidArgument):
                await queue.put("x", dedup_id=wrong)


async def test_an_item_can_be_put_with_other_changes(client: coord.Client, prefix: str) -> None:
    async with client.work_queue(prefix + "q") as queue:
        balance = coord.compare.missing(prefix + "order")
        ops = queue.put_ops("ship it", priority=7)
        for wanted in (True, False):
            done = (
                await client.txn()
                .when(balance)
                .then(coord.op.put(prefix + "order", "1"), *ops)
                .commit()
            )
            assert done.succeeded is wanted
        assert (await one(queue)).value == b"ship it"
        assert len(queue.put_ops("later", delay=60)) == 2
        assert (await queue.stats()).items == 1
        with pytest.raises(coord.PayloadTooLarge):
            queue.put_ops(b"x" * (512 * 1024 + 1))


# -- failing -------------------------------------------------------------------------------------------------------


async def test_what_fails_too_often_becomes_a_dead_letter(
    client: coord.Client, prefix: str
) -> None:
    async with client.work_queue(prefix + "q", max_attempts=3, backoff=AT_ONCE) as queue:
        receipt = await queue.put(b"\0poison\xff")
        for attempt in (1, 2, 3):
            item = await one(queue)
            assert item.attempt == attempt
            await item.nack(reason=f"no {attempt}")
        await queue.put("good")
        async with await one(queue) as item:
            assert item.value == b"good"
        (letter,) = await queue.dead_letters()
        assert (letter.id, letter.value) == (receipt.id, b"\0poison\xff")
        assert (letter.attempts, letter.last_error) == (3, "no 3")
        stats = await queue.stats()
        assert (stats.items, stats.dead) == (0, 1)
        assert await queue.requeue("no such") is False
        assert await queue.requeue(letter.id) is True
        assert await queue.dead_letters() == ()
        item = await one(queue)
        assert (item.id, item.value, item.attempt) == (letter.id, letter.value, 1)
        for _ in range(2):
            await item.nack()
            item = await one(queue)
        await item.nack()
        with pytest.raises(coord.ReceiveTimeout):
            await queue.receive(timeout=0.2)
        assert await queue.purge(letter.id) is True
        assert await queue.purge(letter.id) is False
        found = keys_of(await client.get_prefix(prefix + "q/"), prefix + "q")
        assert {key.partition("/")[0] for key in found} <= {"conf", "consumers", "done"}


async def test_a_deleted_claim_is_lost_and_ends_its_block(
    client: coord.Client, prefix: str
) -> None:
    async with client.work_queue(prefix + "q", backoff=AT_ONCE) as queue:
        item = await _put_and_claim(queue, "job")
        inside = asyncio.Event()

        async def work() -> None:
            async with item:
                inside.set()
                await asyncio.Event().wait()

        working = asyncio.ensure_future(work())
        await inside.wait()
        await client.delete(item.key)
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(coord.ClaimLost, match="revoked"):
                await working
        assert item.lost.is_set()
        with pytest.raises(coord.ClaimLost):
            await item.ack([coord.op.put(prefix + "effect", "x")])
        assert await client.get(prefix + "effect") is None
        again = await one(queue)
        assert (again.attempt, again.value) == (2, b"job")
        assert again.token > item.token


async def test_an_acknowledgement_after_the_claim_has_gone_applies_nothing(
    client: coord.Client, prefix: str
) -> None:
    """The store decides, though nobody here knows of the loss yet."""
    async with client.work_queue(prefix + "q", backoff=AT_ONCE) as queue:
        item = await _put_and_claim(queue, "job")
        item.revoke = lambda: None  # type: ignore[method-assign]
        await client.delete(item.key)
        with pytest.raises(coord.ClaimLost):
            await item.ack([coord.op.put(prefix + "effect", "x")])
        assert await client.get(prefix + "effect") is None
        again = await one(queue)
        stale = await _claimed_again(client, again)
        with pytest.raises(coord.ClaimLost):
            await stale.nack()
        assert (await queue.stats()).items == 1


async def _claimed_again(client: coord.Client, item: coord.WorkItem) -> coord.WorkItem:
    """Let somebody else have the claim, as far as the store goes."""
    item.revoke = lambda: None  # type: ignore[method-assign]
    await client.delete(item.key)
    await client.put(item.key, "{}")
    return item


async def test_a_session_that_ends_gives_its_items_back(client: coord.Client, prefix: str) -> None:
    session = await client.session(ttl=20).open()
    async with (
        client.work_queue(prefix + "q", backoff=AT_ONCE, session=session) as queue,
        client.work_queue(prefix + "q", backoff=AT_ONCE) as other,
    ):
        item = await _put_and_claim(queue, "job")
        waiting = asyncio.ensure_future(queue.receive())
        taking = asyncio.ensure_future(other.receive())
        await asyncio.sleep(0.05)
        await session.close()
        with pytest.raises(coord.SessionClosed):
            await waiting
        async with asyncio.timeout(WITHIN_S):
            (again,) = await taking
        assert (again.attempt, again.value) == (2, b"job")  # what dies is counted
        with pytest.raises(coord.ClaimLost):
            await item.ack()
        assert again.token > item.token
        await again.ack()


async def test_consumers_must_agree(client: coord.Client, prefix: str) -> None:
    async with client.work_queue(prefix + "q", max_attempts=3) as queue:
        await _put_and_claim(queue, "job")
        async with client.work_queue(prefix + "q", max_attempts=4) as other:
            await other.put("a producer need not")
            with pytest.raises(coord.ConfMismatch, match=r"max_attempts=4 \(it has 3\)") as caught:
                await other.receive(timeout=5)
            assert caught.value.theirs == {"max_attempts": 3}


async def test_close_ends_receivers_and_keeps_claims(client: coord.Client, prefix: str) -> None:
    queue = client.work_queue(prefix + "q")
    item = await _put_and_claim(queue, "job")
    waiting = asyncio.ensure_future(queue.receive())
    await asyncio.sleep(0.05)
    await queue.close()
    with pytest.raises(coord.ClientClosed):
        await waiting
    assert await client.count(prefix + "q/consumers/") == 0
    item.check()
    await item.ack()
    assert (await queue.stats()).items == 0


# -- layout --------------------------------------------------------------------------------------------------------


async def test_the_layout(client: coord.Client, prefix: str) -> None:
    name = prefix + "q"
    queue = client.work_queue(name, max_attempts=2, dedup_window=30, backoff=AT_ONCE)
    async with queue, client.session(ttl=20) as session:
        dead = client.work_queue(name, max_attempts=2, dedup_window=30, session=session)
        for value in ("done", "dead", "claimed", "ready"):
            await queue.put(value, dedup_id=value)
        await queue.put("later", dedup_id="later", delay=3600)
        await (await one(queue)).ack()
        for _ in range(2):
            await (await one(queue)).nack(delay=0, reason="no")
        claimed = await one(queue)
        assert claimed.value == b"claimed"
        found = (await client.get_prefix(name + "/")).items
        keys = {kv.key.decode().removeprefix(name + "/"): kv for kv in found}
        lease = (await client.default_session()).lease_id
        assert sorted(keys) == sorted(
            [
                "attempts/00100-claimed",
                "claims/00100-claimed",
                "conf",
                f"consumers/{lease:x}",
                "dead/00100-dead",
                "delay/00100-later",
                "done/00100-done",
                "items/00100-claimed",
                "items/00100-later",
                "items/00100-ready",
            ]
        )
        assert json.loads(keys["attempts/00100-claimed"].value) == {"n": 1, "last_error": ""}
        assert keys["claims/00100-claimed"].lease == lease
        assert {"v", "nonce", "host", "pid", "since"} <= set(
            json.loads(keys["claims/00100-claimed"].value)
        )
        assert keys[f"consumers/{lease:x}"].lease == lease
        assert json.loads(keys["conf"].value) == {
            "v": 1,
            "max_attempts": 2,
            "claim": "session",
            "visibility": 0,
            "dedup_window": 30,
        }
        assert json.loads(keys["dead/00100-dead"].value) == {
            "value": "ZGVhZA==",
            "attempts": 2,
            "last_error": "no",
        }
        assert keys["delay/00100-later"].value.isdigit()
        assert list(json.loads(keys["done/00100-done"].value)) == ["token"]
        assert keys["done/00100-done"].lease not in {0, lease}
        assert keys["items/00100-ready"].value == b"ready"
        assert keys["items/00100-ready"].lease == 0
        await dead.close()


async def test_claims_with_times_of_their_own(client: coord.Client, prefix: str) -> None:
    name = prefix + "q"
    async with client.work_queue(name, claim="visibility", visibility=60) as queue:
        for n in range(3):
            await queue.put(f"{n}")
        items = await queue.receive(max=3)
        leases = [(await client.lease_time_to_live(item.session.lease_id)) for item in items]
        assert len({item.session.lease_id for item in items}) == 3
        assert all(info.granted == 60 for info in leases)
        claimed = await client.get_prefix(name + "/claims/")
        held = {item.key: item.session.lease_id for item in items}
        assert {kv.key: kv.lease for kv in claimed.items} == held
        await items[0].ack()
        await items[1].nack(refund=True)
        async with asyncio.timeout(WITHIN_S):  # their leases go with them
            for item in items[:2]:
                while (
                    await client.lease_time_to_live(item.session.lease_id)
                ).remaining is not None:
                    await asyncio.sleep(0.01)
        items[2].check()
        assert await items[2].extend() > 0
        await items[2].ack()
        with pytest.raises(coord.ConfMismatch):
            await client.work_queue(name).receive(timeout=5)
    async with client.work_queue(prefix + "other") as plain:
        item = await _put_and_claim(plain, "x")
        with pytest.raises(coord.InvalidArgument):
            await item.extend()
    for wrong in (
        {"claim": "lease"},
        {"visibility": 0},
        {"max_attempts": 0},
        {"dedup_window": 0},
        {"max_processing": 0},
    ):
        with pytest.raises(coord.InvalidArgument):
            client.work_queue(name, **wrong)  # pyright: ignore[reportArgumentType]


# -- many consumers ------------------------------------------------------------------------------------------------


async def test_items_go_once_to_many_consumers_under_deaths(endpoint: str, prefix: str) -> None:
    """4 consumers, whose leases are revoked at random; each item's effect happens once."""
    name, count = prefix + "q", 80
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(coord.connect(endpoint)) for _ in range(4)]
        queues = [c.work_queue(name, max_attempts=50, backoff=AT_ONCE) for c in clients]
        done = asyncio.Event()

        async def consume(number: int) -> None:
            while not done.is_set():
                try:
                    items = await queues[number].receive(max=1 + number, timeout=0.5)
                except coord.ReceiveTimeout:
                    continue
                for item in items:
                    try:
                        effect = coord.op.put(
                            f"{prefix}effect/{item.value.decode()}/{item.token}", ""
                        )
                        await item.ack([effect])
                    except coord.ClaimLost:
                        continue

        async def kill() -> None:
            for number in range(12):
                await asyncio.sleep(0.05)
                session = await clients[number % 4].default_session()
                with contextlib.suppress(
                    coord.LeaseNotFound
                ):  # it may not have noticed the last time
                    await clients[0].lease_revoke(session.lease_id)

        async def watch() -> None:
            while await clients[0].count(prefix + "effect/") < count:
                await asyncio.sleep(0.02)
            done.set()

        async with asyncio.timeout(60), recorded(clients[0], name + "/") as events:
            for n in range(count):
                await queues[0].put(f"{n}")
            async with asyncio.TaskGroup() as group:
                group.create_task(kill())
                group.create_task(watch())
                for number in range(4):
                    group.create_task(consume(number))
            for queue in queues:
                await queue.close()
        effects = keys_of(await clients[0].get_prefix(prefix + "effect/"), prefix + "effect")
    assert Counter(key.partition("/")[0] for key in effects) == Counter(
        str(n) for n in range(count)
    )
    model = WorkModel(name, 50)
    model.play(events)
    assert len(model.done) == count
    assert not model.items
    assert not model.dead


async def test_a_put_a_claim_and_an_ack_cost_one_request_each() -> None:
    faults = Faults()
    with faults.everywhere():
        async with coord.connect("memory:") as client, client.work_queue("q") as queue:
            for _ in range(2):  # leases, the view, the agreement
                async with await _put_and_claim(queue, "x"):
                    pass
            await asyncio.sleep(0.05)
            faults.clear()
            await queue.put("a")
            item = await one(queue)
            await item.ack()
            methods = [call.method for call in faults.calls if "Keep" not in call.method]
            assert methods == ["KV/Txn"] * 3


async def test_consumers_do_not_all_try_each_item(prefix: str, patient: None) -> None:
    """50 consumers wait: an item costs at most 1.2 claims (spec recipes 21)."""
    faults, consumers, items = Faults(), 50, 40
    async with AsyncExitStack() as stack:
        stack.enter_context(faults.everywhere())
        host = await stack.enter_async_context(coord.connect("memory:", runtime="inline"))
        queues: list[coord.WorkQueue] = []
        for _ in range(consumers):
            # Clients of one core, and a session each: consumers of their own, to one server.
            made = coord.Client(host._core)
            made._closed = True
            queues.append(await stack.enter_async_context(made.work_queue(prefix)))
        got: list[bytes] = []

        async def consume(queue: coord.WorkQueue) -> None:
            while True:
                (item,) = await queue.receive()
                got.append(item.value)

        tasks = [asyncio.ensure_future(consume(queue)) for queue in queues]
        producer = host.work_queue(prefix)
        async with asyncio.timeout(WITHIN_S):
            while await host.count(f"{prefix}/consumers/") < consumers:
                await asyncio.sleep(0.01)
            await producer.put("for the marker's lease")
            while not got:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            faults.clear()
            got.clear()
            for n in range(items):
                await producer.put(f"{n}")
                while len(got) <= n:
                    await asyncio.sleep(0.001)
        claims = faults.count("Txn") - items
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert sorted(got) == sorted(str(n).encode() for n in range(items))
    assert claims <= 1.2 * items
