"""The work queue where answers are lost, callers go away, sessions and connections end, and consumers are killed.

``COORD_WORK_ITEMS`` (default 60) is the number of items in the test that kills processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator

import pytest

import coord
from coord import Backoff
from coord.recipes.work_queue import claim as claim_module
from coord.recipes.work_queue import receiver as receiver_module
from coord.recipes.work_queue.agenda import Agenda
from coord.recipes.work_queue.layout import Attempts, Layout, dead_letter, parse
from coord.store.values import KeyValue
from tests.sdk.queue_models import WorkModel, recorded
from tests.support.faulty import TXN, Fault, make_faulty
from tests.support.proxy import Proxy

WITHIN_S = 20.0
ITEMS = int(os.environ.get("COORD_WORK_ITEMS", "60"))
FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
AT_ONCE = Backoff(first=0, most=0)


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline", request_timeout=2.0) as client:
        yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tries after a failure come soon."""
    for module in (claim_module, receiver_module):
        monkeypatch.setattr(module, "RETRY_LOW_S", 0.001)
        monkeypatch.setattr(module, "RETRY_HIGH_S", 0.005)


async def warm(client: coord.Client, name: str = "q", **options: object) -> coord.WorkQueue:
    """Return a queue whose view, session and leases are there, and which is empty."""
    queue = client.work_queue(name, backoff=AT_ONCE, **options)  # type: ignore[arg-type]
    await queue.put("warm")
    async with await one(queue):
        pass
    await asyncio.sleep(0.02)
    return queue


async def one(queue: coord.WorkQueue) -> coord.WorkItem:
    (item,) = await queue.receive(timeout=WITHIN_S)
    return item


async def claims(client: coord.Client, name: str = "q") -> int:
    return await client.count(name + "/claims/")


# -- lost answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_claim_is_made_once_whatever_is_lost(
    inline: coord.Client, fault: Fault, most: int
) -> None:
    async with await warm(inline) as queue:
        for n in range(most):
            await queue.put(f"{n}")
        await asyncio.sleep(0.02)
        faulty = make_faulty(inline)
        faulty.plan.append(fault)
        items = await queue.receive(max=most, timeout=WITHIN_S)
        assert [(item.value, item.attempt) for item in items] == [
            (str(n).encode(), 1) for n in range(most)
        ]
        for item in items:
            claim = await inline.get(item.key)
            assert claim is not None
            assert claim.create_revision == item.token
            await item.nack(refund=True)
        assert await claims(inline) == 0
        # A copy that comes now must not claim again: the attempts have another revision.
        await faulty.deliver_late()
        assert await claims(inline) == 0
        again = await queue.receive(max=most, timeout=WITHIN_S)
        assert [item.attempt for item in again] == [1] * most


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_claim_given_up_leaves_nothing_behind(inline: coord.Client, fault: Fault) -> None:
    async with await warm(inline) as queue:
        for turns in range(8):
            await queue.put("a")
            await asyncio.sleep(0.02)
            faulty = make_faulty(inline)
            faulty.plan.append(fault)
            receiving = asyncio.ensure_future(queue.receive())
            for _ in range(turns):
                await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait({receiving})
            if not receiving.cancelled():
                await receiving.result()[0].nack(refund=True)
            async with asyncio.timeout(WITHIN_S):
                while await claims(inline) or queue._receiver._flight is not None:
                    await asyncio.sleep(0.002)
            await faulty.deliver_late()
            assert await claims(inline) == 0
            async with await one(queue) as item:
                assert (item.value, item.attempt) == (b"a", 1)  # not counted


async def test_a_late_copy_of_a_claim_given_up_claims_nothing(inline: coord.Client) -> None:
    """The caller goes while the outcome is unknown, and the request arrives after that (spec recipes 11, claim)."""
    async with await warm(inline) as queue:
        await queue.put("a")
        await asyncio.sleep(0.02)
        faulty = make_faulty(inline)
        sent = asyncio.Event()
        faulty.on_call = lambda path: sent.set() if path == TXN else None
        faulty.plan.append(Fault.LATE)
        receiving = asyncio.ensure_future(queue.receive())
        await sent.wait()
        receiving.cancel()
        await asyncio.wait({receiving})
        async with asyncio.timeout(WITHIN_S):
            while queue._receiver._flight is not None:
                await asyncio.sleep(0.002)
        assert await faulty.deliver_late() == 1
        assert await claims(inline) == 0
        assert (await one(queue)).attempt == 1


async def test_a_late_copy_of_a_claim_leaves_the_next_job_of_that_id_alone(
    inline: coord.Client,
) -> None:
    async with await warm(inline) as queue:
        await queue.put("a", dedup_id="a")
        await asyncio.sleep(0.02)
        faulty = make_faulty(inline)
        faulty.plan.append(Fault.LATE)
        await (await one(queue)).ack()
        # Its attempts are gone, as they were before; only the item is another one.
        await inline.delete("q/done/00100-a")
        await queue.put("b", dedup_id="a", delay=3600)
        assert await faulty.deliver_late() == 1
        assert await claims(inline) == 0


async def test_nobody_claims_what_carries_a_claim(inline: coord.Client) -> None:
    """Whoever has put it there, and though the attempts do not tell."""
    async with await warm(inline) as queue:
        await queue.put("a", dedup_id="a")
        await asyncio.sleep(0.02)
        receiver = queue._receiver
        assert receiver._view is not None
        candidates = list(receiver._agenda.ready(receiver._view.snapshot()))
        await inline.put("q/claims/00100-a", "{}")
        receiver._receivers += 1
        assert await receiver._attempt(await inline.default_session(), candidates) == []
        receiver._receivers -= 1
        claim = await inline.get("q/claims/00100-a")
        assert claim is not None
        assert claim.version == 1


async def test_what_somebody_else_has_done_is_not_acknowledged_by_us(inline: coord.Client) -> None:
    async with await warm(inline) as queue:
        await queue.put("a")
        item = await one(queue)
        item.revoke = lambda: None  # type: ignore[method-assign]
        await inline.delete(item.key)
        await (await one(queue)).ack()
        with pytest.raises(coord.ClaimLost):
            await item.ack([coord.op.put("effect", "1")])
        assert await inline.get("effect") is None


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_acknowledgement_happens_once_whatever_is_lost(
    inline: coord.Client, fault: Fault
) -> None:
    async with await warm(inline) as queue:
        await queue.put("a", dedup_id="a")
        item = await one(queue)
        faulty = make_faulty(inline)
        faulty.plan.append(fault)
        revision = await item.ack([coord.op.put("effect", "1")])
        effect = await inline.get("effect")
        assert effect is not None
        assert effect.version == 1
        assert effect.mod_revision == revision
        # The same job once more: a late copy of the first acknowledgement is not one of this.
        await inline.delete("q/done/00100-a")
        await queue.put("a again", dedup_id="a")
        again = await one(queue)
        await faulty.deliver_late()
        again.check()
        effect = await inline.get("effect")
        assert effect is not None
        assert effect.version == 1
        await again.ack()


@pytest.mark.parametrize("fault", FAULTS)
async def test_giving_back_happens_once_whatever_is_lost(
    inline: coord.Client, fault: Fault
) -> None:
    async with await warm(inline) as queue:
        await queue.put("a")
        item = await one(queue)
        faulty = make_faulty(inline)
        faulty.plan.append(fault)
        await item.nack(reason="no")
        again = await one(queue)
        assert (again.attempt, again.last_error) == (2, "no")
        await faulty.deliver_late()
        again.check()
        assert await claims(inline) == 1
        assert again.token > item.token
        await again.ack()


async def test_an_acknowledgement_that_nobody_can_know_of_says_so(inline: coord.Client) -> None:
    async with await warm(inline) as queue:
        await queue.put("a")
        item = await one(queue)
        faulty = make_faulty(inline)
        faulty.plan.extend([Fault.LOSE_REPLY] * 10_000)
        with pytest.raises(coord.AmbiguousResult) as caught:
            await item.ack([coord.op.put("effect", "1")], timeout=0.3)
        faulty.plan.clear()
        assert await caught.value.resolve() is True
        assert await item.ack() > 0  # and it may be asked again
        effect = await inline.get("effect")
        assert effect is not None
        assert effect.version == 1


async def test_a_refused_acknowledgement_keeps_the_claim(inline: coord.Client) -> None:
    async with await warm(inline) as queue:
        await queue.put("a")
        item = await one(queue)
        with pytest.raises(coord.LeaseNotFound):
            await item.ack([coord.op.put("effect", "1", lease=12345)])
        item.check()
        await item.nack(refund=True)
        assert (await one(queue)).attempt == 1


async def test_a_cancelled_acknowledgement_goes_on(inline: coord.Client) -> None:
    async with await warm(inline) as queue:
        for turns in range(10):
            await queue.put("a")
            item = await one(queue)
            acking = asyncio.ensure_future(item.ack())
            for _ in range(turns):
                await asyncio.sleep(0)
            acking.cancel()
            await asyncio.wait({acking})
            if item._ending or item.ended.is_set():
                await item.ended.wait(timeout=WITHIN_S)
            else:
                await item.ack()
            assert (await queue.stats()).items == 0


@pytest.mark.parametrize("fault", FAULTS)
async def test_burying_happens_once_whatever_is_lost(inline: coord.Client, fault: Fault) -> None:
    async with await warm(inline, max_attempts=1) as queue:
        await queue.put("a", dedup_id="a")
        await (await one(queue)).nack(reason="no")
        faulty = make_faulty(inline)
        faulty.plan.append(fault)
        with pytest.raises(coord.ReceiveTimeout):
            await queue.receive(timeout=0.3)
        (letter,) = await queue.dead_letters()
        assert (letter.value, letter.attempts) == (b"a", 1)
        assert await queue.requeue(letter.id)
        await faulty.deliver_late()
        assert await queue.dead_letters() == ()
        assert (await one(queue)).attempt == 1


async def test_a_dead_letter_that_was_purged_meanwhile_does_not_come_back(
    inline: coord.Client,
) -> None:
    async with await warm(inline) as queue:
        await inline.put("q/dead/00100-a", '{"value":"YQ==","attempts":1,"last_error":""}')
        (letter,) = await queue.dead_letters()
        kv = inline._core.kv
        get = kv.get

        async def get_and_purge(*args: object, **kwargs: object) -> object:
            found = await get(*args, **kwargs)  # type: ignore[arg-type]
            await inline.delete("q/dead/00100-a")
            return found

        kv.get = get_and_purge  # type: ignore[method-assign, assignment]
        assert await queue.requeue(letter.id) is False
        assert await queue.purge(letter.id) is False
        assert (await queue.stats()).items == 0


# -- sessions and connections --------------------------------------------------------------------------------------


async def test_a_body_is_cancelled_when_its_session_expires(inline: coord.Client) -> None:
    session = await inline.session(ttl=20).open()
    queue = inline.work_queue("q", backoff=AT_ONCE, session=session)
    await queue.put("a")
    item = await one(queue)
    inside = asyncio.Event()

    async def work() -> None:
        async with item:
            inside.set()
            await asyncio.Event().wait()

    working = asyncio.ensure_future(work())
    waiting = asyncio.ensure_future(queue.receive())
    await inside.wait()
    session.expire("for the test")
    with pytest.raises(coord.ClaimLost, match="its session ended"):
        await working
    with pytest.raises(coord.SessionExpired):
        await waiting
    with pytest.raises(coord.SessionExpired):
        await queue.receive()
    await queue.close()


async def test_work_that_takes_too_long_is_ended_and_its_item_given_back(
    inline: coord.Client,
) -> None:
    async with await warm(inline, max_processing=0.05) as queue:
        await queue.put("a")
        with pytest.raises(coord.ClaimLost, match="worked on for more than"):
            async with await one(queue):
                await asyncio.Event().wait()
        again = await one(queue)
        assert (again.attempt, again.last_error) == (2, "worked on for more than 0.05 s")
        await again.ack()
        assert (await queue.stats()).items == 0


async def test_receiving_goes_on_with_a_new_default_session(inline: coord.Client) -> None:
    async with await warm(inline) as queue:
        waiting = asyncio.ensure_future(queue.receive())
        await asyncio.sleep(0.02)
        (await inline.default_session()).expire("for the test")
        await queue.put("a")
        async with asyncio.timeout(WITHIN_S):
            (item,) = await waiting
        item.check()
        assert item.session is await inline.default_session()


async def test_a_lost_connection_is_waited_for(endpoint: str, prefix: str) -> None:
    name = prefix + "q"
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as far,
    ):
        queue = await warm(far, name)
        producer = direct.work_queue(name)
        for n in range(3):
            waiting = asyncio.ensure_future(queue.receive())
            await asyncio.sleep(0.02)
            await proxy.refuse()
            proxy.cut()
            await producer.put(f"{n}")
            await proxy.accept()
            async with asyncio.timeout(WITHIN_S):
                (item,) = await waiting
            assert item.value == str(n).encode()
            proxy.hold_answers()
            acking = asyncio.ensure_future(item.ack([coord.op.put(prefix + f"effect/{n}", "")]))
            async with asyncio.timeout(WITHIN_S):
                while await direct.get(prefix + f"effect/{n}") is None:
                    await asyncio.sleep(0.005)
            proxy.cut()
            proxy.pass_on()
            async with asyncio.timeout(WITHIN_S):
                await acking
        found = await direct.get_prefix(prefix + "effect/")
        assert [kv.version for kv in found.items] == [1, 1, 1]
        await queue.close()


# -- histories -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_histories_under_faults_fit_the_model(  # noqa: C901 - a story of several actors
    inline: coord.Client, seed: int
) -> None:
    """3 consumers of one server under random faults, cancellations, refusals and ends of sessions."""
    chance = random.Random(seed)
    names = [str(n) for n in range(40)]
    done: Counter[str] = Counter()
    async with recorded(inline, "q/") as events:
        faulty = make_faulty(inline)
        sessions = [await inline.session(ttl=60).open() for _ in range(3)]
        queues = [
            inline.work_queue("q", backoff=AT_ONCE, max_attempts=30, session=session)
            for session in sessions
        ]

        def plan(path: str) -> None:
            if path == TXN and chance.random() < 0.1:
                faulty.plan.append(chance.choice(FAULTS))

        faulty.on_call = plan

        async def produce() -> None:
            for name in names:
                await queues[0].put(name, priority=chance.choice([1, 2]))
                if chance.random() < 0.2:
                    await faulty.deliver_late()

        async def consume(number: int) -> None:
            while sum(done.values()) < len(names):
                try:
                    timeout = chance.choice([0.002, 0.02, 0.3])
                    items = await queues[number].receive(max=chance.randint(1, 3), timeout=timeout)
                except coord.ReceiveTimeout:
                    continue
                except coord.SessionError:
                    return
                for item in items:
                    await handle(item)

        async def handle(item: coord.WorkItem) -> None:
            what = chance.random()
            with contextlib.suppress(coord.ClaimLost):
                if what < 0.2:
                    await item.nack(reason="by chance", refund=chance.random() < 0.5)
                elif what < 0.25 and item.session is not sessions[0]:
                    item.session.expire("by chance")
                else:
                    name = item.value.decode()
                    await item.ack([coord.op.put(f"effect/{name}/{item.token}", "")])
                    done[name] += 1

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(produce())
            for number in range(3):
                group.create_task(consume(number))
        faulty.on_call = lambda _: None
        faulty.plan.clear()
        await faulty.deliver_late()
        for queue in queues:
            await queue.close()
        for session in sessions:
            await session.close()
    effects = [kv.key.split(b"/")[1].decode() for kv in (await inline.get_prefix("effect/")).items]
    assert Counter(effects) == Counter(names)
    assert done == Counter(names)
    model = WorkModel("q", 30)
    model.play(events)
    assert len(model.done) == len(names)
    assert not model.items
    assert not model.claims


KILLED = """
import asyncio, sys
import coord

async def main():
    async with coord.connect(sys.argv[1]) as client:
        session = await client.session(ttl=2).open()
        async with client.work_queue(sys.argv[2], max_attempts=99, session=session) as queue:
            print("ready", flush=True)
            async for item in queue.consume(concurrency=3):
                async with item:
                    item.also(coord.op.put(f"{sys.argv[3]}{item.value.decode()}/{item.token}", ""))

asyncio.run(main())
"""


async def test_killed_processes_lose_nothing_and_repeat_no_effect(
    endpoint: str, prefix: str
) -> None:
    name, effects = prefix + "q", prefix + "effect/"
    chance = random.Random(7)

    async def start() -> asyncio.subprocess.Process:
        made = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, endpoint, name, effects, stdout=asyncio.subprocess.PIPE
        )
        assert made.stdout is not None
        assert await made.stdout.readline() == b"ready\n"
        return made

    async with coord.connect(endpoint) as client:
        queue = client.work_queue(name, max_attempts=99)
        workers = [await start() for _ in range(2)]
        try:
            async with asyncio.timeout(120 + ITEMS / 10):
                for n in range(ITEMS):
                    await queue.put(f"{n}")
                    if n % (ITEMS // 3) == ITEMS // 4:
                        victim = workers.pop(chance.randrange(2))
                        victim.kill()
                        await victim.wait()
                        workers.append(await start())
                while (await queue.stats()).items:
                    await asyncio.sleep(0.05)
        finally:
            for worker in workers:
                worker.kill()
                await worker.wait()
        found = [kv.key.split(b"/")[-2].decode() for kv in (await client.get_prefix(effects)).items]
        assert Counter(found) == Counter(str(n) for n in range(ITEMS))


# -- receivers that wait at the same time --------------------------------------------------------------------------


async def test_those_who_wait_share_a_claim(inline: coord.Client) -> None:
    queue = await warm(inline)
    receivers = [asyncio.ensure_future(queue.receive(max=most)) for most in (1, 2, 1, 1)]
    await asyncio.sleep(0.01)
    faulty = make_faulty(inline)
    ops = [op for n in range(6) for op in queue.put_ops(f"{n}", dedup_id=f"{n}")]
    await inline.txn().then(*ops).commit()
    async with asyncio.timeout(WITHIN_S):
        got = [await receiver for receiver in receivers]
    assert [[item.value for item in items] for items in got] == [
        [b"0"],
        [b"1", b"2"],
        [b"3"],
        [b"4"],
    ]
    assert len({item.token for items in got for item in items}) == 1
    assert faulty.paths.count(TXN) == 2
    assert await claims(inline) == 5
    await queue.close()


async def test_what_was_claimed_for_those_who_have_gone_goes_back(inline: coord.Client) -> None:
    queue = await warm(inline)
    receivers = [asyncio.ensure_future(queue.receive()) for _ in range(4)]
    await asyncio.sleep(0.01)
    faulty = make_faulty(inline)
    claiming = asyncio.Event()
    faulty.on_call = lambda _: claiming.set() if faulty.paths.count(TXN) == 2 else None
    ops = [op for n in range(4) for op in queue.put_ops(f"{n}", dedup_id=f"{n}")]
    await inline.txn().then(*ops).commit()
    await claiming.wait()
    for receiver in receivers[1:]:
        receiver.cancel()
    await asyncio.wait(receivers)
    (item,) = receivers[0].result()
    assert item.value == b"0"
    async with asyncio.timeout(WITHIN_S):
        while await claims(inline) > 1:
            await asyncio.sleep(0.001)
    again = await one(queue)
    assert (again.value, again.attempt) == (b"1", 1)
    await queue.close()


async def test_claims_with_times_of_their_own_are_made_one_by_one(inline: coord.Client) -> None:
    queue = await warm(inline, claim="visibility", visibility=5)
    receivers = [asyncio.ensure_future(queue.receive()) for _ in range(3)]
    await asyncio.sleep(0.01)
    ops = [op for n in range(3) for op in queue.put_ops(f"{n}", dedup_id=f"{n}")]
    await inline.txn().then(*ops).commit()
    async with asyncio.timeout(WITHIN_S):
        got = [(await receiver)[0] for receiver in receivers]
    assert [item.value for item in got] == [b"0", b"1", b"2"]
    assert len({item.token for item in got}) == 3
    await queue.close()


# -- rules ---------------------------------------------------------------------------------------------------------


def test_what_anybody_may_have_written_is_no_surprise() -> None:
    assert parse(b"\xff") == {}
    assert parse(b"[1]") == {}
    assert Attempts.decode(b'{"n":"x","last_error":3}') == Attempts()
    kv = KeyValue(key=b"d/1", value=b'{"value":"?"}', create_revision=1, mod_revision=2, version=1)
    letter = dead_letter(kv, b"d/")
    assert (letter.id, letter.value, letter.attempts, letter.revision) == ("1", b"", 0, 2)


async def test_the_agenda_equals_what_a_plain_look_finds(inline: coord.Client) -> None:
    """Random changes below the prefix; after each, the fast answer against the slow one."""
    chance, layout = random.Random(3), Layout(b"q")
    agenda = Agenda(layout)
    async with inline.cache(prefix="q/") as view:
        changes = view.changes()
        agenda.start(view.snapshot(), 0.0, 0.0)
        for turn in range(300):
            item = b"%05d-%d" % (chance.randint(1, 3), chance.randint(0, 5))
            part = chance.choice([layout.items, layout.items, layout.claims, layout.delay])
            if chance.random() < 0.4:
                result = (await inline.delete(part + item)).revision
            else:
                value = str(chance.randint(0, 400) * 1000) if part == layout.delay else "x"
                result = (await inline.put(part + item, value)).revision
            await view.wait_revision(result)
            snapshot = view.snapshot()
            while view.snapshot().number and changes._base is not snapshot:
                before = changes._base
                try:
                    async with asyncio.timeout(0.05):
                        batch = await anext(changes)
                except TimeoutError:
                    break
                agenda.feed(batch, snapshot, float(turn), float(turn))
                if changes._base is before and not changes._batches:
                    break
            agenda.promote(snapshot, float(turn), float(turn))
            found = [candidate.id for candidate in agenda.ready(snapshot)]
            assert found == _plain(snapshot, layout, turn)


def _plain(snapshot: coord.CacheSnapshot[bytes], layout: Layout, now: int) -> list[bytes]:
    ready: list[tuple[int, int, bytes]] = []
    for entry in snapshot.entries(layout.items):
        item = entry.key[len(layout.items) :]
        delay = snapshot.get(layout.delay + item)
        late = delay is not None and int(delay) > now * 1000
        if layout.claims + item not in snapshot and not late:
            ready.append((int(item[:5]), entry.create_revision, item))
    return [item for _, _, item in sorted(ready)]
