"""Queues where answers are lost, callers go away, views are behind, and sessions and connections end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

import coord
from coord import op
from coord.cache.mirror import Limits
from coord.recipes.queues import consumer as consumer_module
from coord.recipes.turns import GRACE_S, Turns
from coord.runtime import Backoff
from tests.sdk.queue_models import HandOffModel, recorded
from tests.support.faulty import TXN, Fault, make_faulty
from tests.support.proxy import Proxy

WITHIN_S = 20.0
FAULTS = [fault for fault in Fault if fault is not Fault.NONE]


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline", request_timeout=2.0) as client:
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tries after a failure come soon."""
    monkeypatch.setattr(consumer_module, "RETRY_LOW_S", 0.001)
    monkeypatch.setattr(consumer_module, "RETRY_HIGH_S", 0.005)


async def drained(queue: coord.Queue | coord.PriorityQueue | coord.DelayQueue) -> list[bytes]:
    """Take what there is, what is on its way back included."""
    found: list[bytes] = []
    consumer = queue._consumer
    while consumer._flight is not None or consumer._returns or await queue.size():
        with contextlib.suppress(coord.QueueEmpty):
            found.append((await queue.get(timeout=0.5)).value)
    return found


# -- lost answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["queue", "priority_queue", "delay_queue"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_put_happens_once_whatever_is_lost(
    inline: coord.Client, fault: Fault, kind: str
) -> None:
    queue = getattr(inline, kind)("q")
    await queue.put("before")
    faulty = make_faulty(inline)
    # A priority queue reads first, and a read may be repeated.
    faulty.plan.extend([Fault.NONE] * (kind == "priority_queue") + [fault])
    revision = await queue.put("v")
    assert await faulty.deliver_late() == (fault in {Fault.LATE, Fault.TWICE})
    found = (await inline.get_prefix("q/", sort_by=coord.SortBy.MOD_REVISION)).items
    assert [kv.value for kv in found] == [b"before", b"v"]
    assert found[1].mod_revision == revision
    await queue.close()


async def test_a_put_without_a_marker_says_that_it_does_not_know(inline: coord.Client) -> None:
    queue = inline.queue("q")
    faulty = make_faulty(inline)
    faulty.plan.append(Fault.LOSE_REPLY)
    with pytest.raises(coord.AmbiguousResult):
        await queue.put("v", marker=False)
    assert await queue.size() == 1
    assert await inline.count("_coord/") == 0


@pytest.mark.parametrize("with_view", [False, True])
@pytest.mark.parametrize("kind", ["queue", "priority_queue", "delay_queue"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_take_happens_once_whatever_is_lost(
    inline: coord.Client, fault: Fault, kind: str, *, with_view: bool
) -> None:
    async with getattr(inline, kind)("q") as queue:
        if with_view:
            await queue.put("x")
            await queue.get()
            with contextlib.suppress(coord.QueueEmpty):
                await queue.get(timeout=0.05)
        for n in range(3):
            # Of one millisecond the delay queue keeps no order.
            await queue.put(f"{n}", **({"at": 1000 + n} if kind == "delay_queue" else {}))
        faulty = make_faulty(inline)
        faulty.plan.extend([Fault.NONE] * (not with_view) + [fault])
        assert (await queue.get(timeout=WITHIN_S)).value == b"0"
        await faulty.deliver_late()
        assert await queue.size() == 2
        assert await drained(queue) == [b"1", b"2"]


async def test_a_lost_take_of_one_goes_to_the_other(inline: coord.Client) -> None:
    """The late copy of a take must not take what somebody has put back under the same key."""
    async with inline.queue("q") as queue:
        await inline.put("q/k", "1")
        faulty = make_faulty(inline)
        faulty.plan.extend([Fault.NONE, Fault.TWICE])
        assert (await queue.get()).value == b"1"
        await inline.put("q/k", "2")
        assert await faulty.deliver_late() == 1
        assert await drained(queue) == [b"2"]


async def test_a_take_names_the_item_as_it_was_seen(inline: coord.Client) -> None:
    """A foreign client may write over an item: who takes it gets what is there."""
    async with inline.queue("q") as queue:
        await inline.put("q/k", "old")
        read = queue._consumer.read_first

        async def read_and_overwrite() -> object:
            entry = await read()
            queue._consumer.read_first = read  # type: ignore[method-assign]
            await inline.put("q/k", "new")
            return entry

        queue._consumer.read_first = read_and_overwrite  # type: ignore[method-assign, assignment]
        assert (await queue.get()).value == b"new"


async def test_the_outcome_of_a_take_is_cleared_up_when_the_store_is_back(
    inline: coord.Client, quick: None
) -> None:
    async with inline.queue("q") as queue:
        await queue.put("a")
        await queue.put("b")
        faulty = make_faulty(inline)
        faulty.plan.append(Fault.NONE)  # the read
        # Longer than the marker's own tries: its time is 2 s.
        faulty.plan.extend([Fault.LOSE_REPLY] * 10_000)
        getting = asyncio.ensure_future(queue.get())
        await asyncio.sleep(2.5)
        assert not getting.done()
        faulty.plan.clear()
        async with asyncio.timeout(WITHIN_S):
            assert (await getting).value == b"a"
        assert await drained(queue) == [b"b"]


# -- callers that go away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", list(Fault))
async def test_an_item_whose_getter_has_gone_goes_to_the_next_or_back(
    inline: coord.Client, fault: Fault
) -> None:
    async with inline.queue("q") as queue:
        await queue.put("x")
        await queue.get()
        for turns in range(8):
            await queue.put("a")
            await queue.put("b")
            faulty = make_faulty(inline)
            faulty.plan.append(fault)
            getting = asyncio.ensure_future(queue.get())
            for _ in range(turns):
                await asyncio.sleep(0)
            getting.cancel()
            got = (
                []
                if (await asyncio.wait({getting}))[0].pop().cancelled()
                else [getting.result().value]
            )
            got += await drained(queue)
            await faulty.deliver_late()
            assert sorted(got) == [b"a", b"b"]
            assert await queue.size() == 0


async def test_what_comes_back_is_at_the_tail_and_says_so(inline: coord.Client) -> None:
    async with inline.queue("q") as queue:
        await queue.put("a")
        await queue.put("b")
        faulty = make_faulty(inline)
        taken = asyncio.Event()
        faulty.on_call = lambda path: taken.set() if faulty.paths.count(TXN) == 2 else None
        getting = asyncio.ensure_future(queue.get())
        await taken.wait()
        getting.cancel()
        await asyncio.wait({getting})
        async with asyncio.timeout(WITHIN_S):
            while not (await queue.peek(2))[-1].returned:
                await asyncio.sleep(0.005)
        items = [await queue.get(timeout=5), await queue.get(timeout=5)]
        assert [(item.value, item.returned) for item in items] == [(b"b", False), (b"a", True)]
        assert items[1].key.endswith(b"-returned")


async def test_what_comes_back_goes_to_a_getter_that_waits(inline: coord.Client) -> None:
    async with inline.queue("q") as queue:
        first, second = (asyncio.ensure_future(queue.get()) for _ in range(2))
        await asyncio.sleep(0.05)
        faulty = make_faulty(inline)
        taking = asyncio.Event()

        def note(path: str) -> None:
            if faulty.paths.count(TXN) == 2:  # the put, and the take
                taking.set()

        faulty.on_call = note
        await queue.put("a")
        await taking.wait()
        first.cancel()
        async with asyncio.timeout(WITHIN_S):
            item = await second
        assert (item.value, item.returned) == (b"a", False)
        assert faulty.paths.count(TXN) == 2


async def test_closing_the_client_puts_back_what_nobody_has_got() -> None:
    async with coord.connect("memory:") as keeper:
        core = keeper._core
        queue = keeper.queue("q")
        await queue.put("a")
        taken = await queue.get()
        queue._consumer._returns.clear()
        core.runtime.post(lambda: queue.give_back(taken))
        await queue.close()
        assert [item.value for item in await queue.peek()] == [b"a"]


# -- views that are behind -----------------------------------------------------------------------------------------


async def test_the_most_urgent_at_the_commit_is_taken_whatever_the_view_shows(
    inline: coord.Client,
) -> None:
    async with inline.priority_queue("q") as queue:
        await _begin_view(queue)
        await _with_stale_view(queue)
        assert (await queue.get()).value == b"urgent"
        assert (await queue.get()).value == b"late"
    async with inline.priority_queue("q", strict=False) as loose:
        await _begin_view(loose)
        await _with_stale_view(loose)
        assert (await loose.get()).value == b"late"


async def test_the_first_that_is_due_at_the_commit_is_taken_whatever_the_view_shows(
    inline: coord.Client,
) -> None:
    async with inline.delay_queue("q") as queue:
        await queue.put("gone")
        assert (await queue.get(timeout=WITHIN_S)).value == b"gone"  # from here on by a view
        await queue.put("late", at=2000)
        (late,) = await queue._consumer.read(1)
        await queue.put("early", at=1000)
        _show_once(queue, late)
        assert (await queue.get(timeout=WITHIN_S)).value == b"early"
        assert (await queue.get(timeout=WITHIN_S)).value == b"late"


async def test_what_is_found_behind_an_item_that_is_gone_is_not_taken_early(
    inline: coord.Client,
) -> None:
    async with inline.delay_queue("q") as queue:
        await queue.put("first")
        assert (await queue.get(timeout=WITHIN_S)).value == b"first"  # from here on by a view
        await queue.put("gone", at=1000)
        (gone,) = await queue._consumer.read(1)
        await inline.delete(gone.key)
        await queue.put("not yet", delay=3600)
        _show_once(queue, gone)
        with pytest.raises(coord.QueueEmpty):
            await queue.get(timeout=0.2)
        assert [item.value for item in await queue.peek()] == [b"not yet"]


def _show_once(queue: coord.DelayQueue, entry: object) -> None:
    """Let the view show ``entry`` as the head, once."""
    order = queue._consumer._order
    head = order.head
    shown = [entry]

    def stale(*args: object) -> object:
        return shown.pop() if shown else head(*args)  # type: ignore[arg-type]

    order.head = stale  # type: ignore[method-assign, assignment]


async def _with_stale_view(queue: coord.PriorityQueue) -> None:
    """Put an item and a more urgent one, and let the view miss that one once."""
    await queue.put("late", priority=9)
    (late,) = await queue._consumer.read(1)
    await queue.put("urgent", priority=1)
    order = queue._consumer._order
    heads = order.heads
    seen = asyncio.Event()

    def stale(*args: object) -> object:
        if not seen.is_set():
            return [late]
        return heads(*args)  # type: ignore[arg-type]

    order.heads = stale  # type: ignore[method-assign, assignment]
    begin = queue._consumer._begin

    def begin_once(*args: object, **kwargs: object) -> object:
        seen.set()
        return begin(*args, **kwargs)  # type: ignore[arg-type]

    queue._consumer._begin = begin_once  # type: ignore[method-assign, assignment]


async def _begin_view(queue: coord.Queue | coord.PriorityQueue) -> None:
    with contextlib.suppress(coord.QueueEmpty):
        await queue.get(timeout=0.05)


async def test_a_number_is_not_given_twice(inline: coord.Client) -> None:
    """Between a producer's read and its transaction another one puts, under the same number."""
    slow, fast = inline.priority_queue("q"), inline.priority_queue("q")
    await fast.put("first")
    markers = inline._core.markers
    run = markers.run

    async def later(*args: object, **kwargs: object) -> object:
        markers.run = run  # type: ignore[method-assign]
        await fast.put("overtakes")
        return await run(*args, **kwargs)  # type: ignore[arg-type]

    markers.run = later  # type: ignore[method-assign, assignment]
    await slow.put("slow")
    assert [item.value for item in await slow.peek(5)] == [b"first", b"overtakes", b"slow"]
    assert [item.value for item in await fast.peek(5)] == [b"first", b"overtakes", b"slow"]


# -- sessions and connections --------------------------------------------------------------------------------------


async def test_the_end_of_the_session_costs_no_item_and_enrols_anew(inline: coord.Client) -> None:
    async with inline.queue("q") as queue:
        waiting = asyncio.ensure_future(queue.get())
        await _enrolled(inline, "q")
        session = await inline.default_session()
        session.expire("for the test")
        await inline.lease_revoke(session.lease_id)
        await queue.put("a")
        async with asyncio.timeout(WITHIN_S):
            assert (await waiting).value == b"a"
            again = await inline.default_session()
            key = f"_coord/consumers/q/{again.lease_id:x}"
            while await inline.get(key) is None:
                await asyncio.sleep(0.01)
    assert await inline.count("_coord/consumers/q/") == 0


async def _enrolled(client: coord.Client, name: str, count: int = 1) -> None:
    async with asyncio.timeout(WITHIN_S):
        while await client.count(f"_coord/consumers/{name}/") < count:
            await asyncio.sleep(0.01)


async def test_a_lost_connection_is_waited_for(endpoint: str, prefix: str) -> None:
    name = prefix + "q"
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as far,
        far.queue(name) as queue,
    ):
        producer = direct.queue(name)
        waiting = asyncio.ensure_future(queue.get())
        await _enrolled(direct, name)
        for n in range(3):
            await proxy.refuse()
            proxy.cut()
            await producer.put(f"{n}")
            await proxy.accept()
            async with asyncio.timeout(WITHIN_S):
                assert (await waiting).value == str(n).encode()
            waiting = asyncio.ensure_future(queue.get())
        waiting.cancel()


async def test_a_view_that_grows_too_large_is_done_without(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "LIMITS", Limits(max_keys=5, max_bytes=1 << 20))
    async with inline.queue("q") as queue:
        waiting = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0.05)
        for n in range(20):
            await inline.queue("q").put(f"{n}")
        got = [(await waiting).value, *(await drained(queue))]
        assert got == [str(n).encode() for n in range(20)]


# -- histories -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_histories_under_faults_fit_the_model(
    inline: coord.Client, quick: None, seed: int
) -> None:
    """3 consumers of one server, all of their transactions under random faults, getters that give up at random."""
    chance = random.Random(seed)
    names = [str(n).encode() for n in range(60)]
    got: list[bytes] = []
    async with recorded(inline, "q/") as events:
        faulty = make_faulty(inline)
        queues = [inline.queue("q") for _ in range(3)]

        def plan(path: str) -> None:
            if path == TXN and chance.random() < 0.15:
                faulty.plan.append(chance.choice(FAULTS))

        faulty.on_call = plan

        async def produce() -> None:
            for name in names:
                await queues[0].put(name)
                if chance.random() < 0.2:
                    await faulty.deliver_late()

        async def consume(queue: coord.Queue) -> None:
            while len(got) < len(names):
                with contextlib.suppress(coord.QueueEmpty):
                    timeout = chance.choice([0.001, 0.01, 0.2])
                    got.append((await queue.get(timeout=timeout)).value)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(produce())
            for queue in queues:
                group.create_task(consume(queue))
        faulty.on_call = lambda _: None
        await faulty.deliver_late()
        for queue in queues:
            await queue.close()
    assert Counter(got) == Counter(names)
    model = HandOffModel(by_key=False)
    model.play(events)
    assert not model.items


async def test_a_put_gets_through_where_others_put_all_the_time(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not pause as we do: Go's client, for one. What was read before a pause is of no use after it."""
    markers, rivals = inline._core.markers, 0

    async def rival_puts() -> None:
        nonlocal rivals
        rivals += 1
        key = f"q/00100/{rivals:016}"
        await inline.txn().then(op.put("__q/00100", ""), op.put(key, "theirs")).commit()

    commit = markers.run

    async def too_late(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever it takes
        if not rivals:
            await rival_puts()
        return await commit(*args, **options)

    async def pause(*_: object) -> None:
        await rival_puts()

    monkeypatch.setattr(markers, "run", too_late)
    monkeypatch.setattr(Backoff, "pause", pause)
    async with inline.priority_queue("q") as queue:
        await queue.put("ours")
        assert rivals == 2
        assert [item.value for item in await queue.peek(3)] == [b"theirs", b"theirs", b"ours"]


# -- turns ---------------------------------------------------------------------------------------------------------


def test_exactly_one_consumer_tries_at_once_and_the_others_in_turn() -> None:
    names = [b"a", b"b", b"c", b"d"]
    turns = {name: Turns() for name in names}
    for name, each in turns.items():
        each.update(names, name)
        assert each.count == 4
    firsts = Counter[bytes]()
    for n in range(400):
        key = b"item-%d" % n
        waits = {name: each.wait(key, 0.0) for name, each in turns.items()}
        assert sorted(waits.values()) == pytest.approx([0, GRACE_S, 2 * GRACE_S, 3 * GRACE_S])
        firsts[min(waits, key=lambda name: waits[name])] += 1
    assert all(50 < firsts[name] < 150 for name in names)


def test_who_lets_an_item_pass_is_not_waited_for() -> None:
    turns = Turns()
    assert turns.wait(b"x", 0.0) == 0  # nobody else is known
    turns.update([b"a", b"b"], b"a")
    theirs = next(k for k in (b"%d" % n for n in range(99)) if turns.wait(k, 0.0) > 0)
    turns.passed(theirs, 10.0)
    assert turns.wait(theirs, 10.5) == 0
    assert turns.wait(theirs, 11.0) == GRACE_S
    turns.update([b"a", b"b"], None)  # not enrolled yet: after all of them
    assert turns.wait(theirs, 20.0) == 2 * GRACE_S
    turns.update([str(n).encode() for n in range(100)], None)
    assert turns.wait(theirs, 20.0) <= 8 * GRACE_S


def test_consumers_that_see_everything_late_become_patient_for_a_while() -> None:
    turns = Turns()
    turns.update([b"a", b"b"], b"a")
    theirs = next(k for k in (b"%d" % n for n in range(99)) if turns.wait(k, 0.0) > 0)
    for now, grace in ((0.0, 2), (0.0, 4), (0.0, 8)):
        turns.lost(now)
        assert turns.wait(theirs, now) == pytest.approx(grace * GRACE_S)
    assert turns.wait(theirs, 2.0) == pytest.approx((1 + 7 / 2) * GRACE_S)
    assert turns.wait(theirs, 60.0) == pytest.approx(GRACE_S)
    for _ in range(10):
        turns.lost(60.0)
    assert turns.wait(theirs, 60.0) == pytest.approx(0.4)
    turns.update([b"%d" % n for n in range(20)], None)
    assert turns.wait(theirs, 60.0) == 1.0


def test_a_turn_comes_at_the_time_that_was_told() -> None:
    """Rounding leaves a rest now and then, which a clock that moves only when somebody waits may never get over."""
    turns = Turns()
    turns.update([b"a", b"b"], b"a")
    theirs = next(k for k in (b"%d" % n for n in range(99)) if turns.wait(k, 0.0) > 0)
    for n in range(1000):
        since = 1000 + n / 7
        now = since + turns.left(theirs, since, 0.0)
        assert turns.left(theirs, now, now - since) == 0
        assert turns.left(theirs, now - 0.001, now - 0.001 - since) > 0
