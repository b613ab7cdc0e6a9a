"""Countdown latches, on every store: each arrival counts once, and nobody who waits misses the opening."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from coord import notices
from coord.store.marker import Marked
from tests.support.faulty import TXN, Fault, make_faulty
from tests.support.proxy import Proxy
from tests.support.virtual import VirtualLoop, run_virtual, virtual_client

EXAMPLES = int(os.environ.get("COORD_LATCH_EXAMPLES", "60"))
WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def asleep(client: coord.Client, waits: list[asyncio.Task[None]]) -> None:
    """Let waits that have begun reach the store and open their watches, and whatever wakes them do so."""
    async with asyncio.timeout(WITHIN_S):
        while sum(watch.created for watch in (await client.explain()).watches) < len(waits):
            await asyncio.sleep(0.01)
    for _ in range(20):
        await asyncio.sleep(0)
        await client.get("nothing")
    assert not any(wait.done() for wait in waits)


# -- counting ------------------------------------------------------------------------------------------------------


async def test_it_opens_after_so_many_arrivals(client: coord.Client, prefix: str) -> None:
    latch = client.latch(prefix + "l", 3)
    assert await latch.remaining() == 3
    assert [await latch.count_down(who) for who in ("a", "b", "a", b"b")] == [2, 1, 1, 1]
    with pytest.raises(coord.LatchTimeout, match="1 arrivals") as caught:
        await latch.wait(timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    waiting = asyncio.ensure_future(client.latch(prefix + "l", 3).wait(timeout=WITHIN_S))
    await asleep(client, [waiting])
    assert await latch.count_down() == 0
    await waiting
    await latch.wait(timeout=WITHIN_S)
    assert await latch.count_down("late") == 0
    assert await latch.remaining() == 0


async def test_the_layout(client: coord.Client, prefix: str) -> None:
    """The golden dump: what is missing and the generation, and a key for each arrival."""
    name = prefix + "l"
    latch = client.latch(name, 2)
    await latch.count_down("one")
    await latch.count_down()
    await latch.count_down("too late")
    found = {kv.key.decode(): (kv.value, kv.lease) for kv in (await client.get_prefix(name)).items}
    assert found.pop(name) == (b"0 1", 0)
    assert found.pop(name + "/arrived/one") == (b"", 0)
    (anonymous,) = found
    assert len(bytes.fromhex(anonymous.removeprefix(name + "/arrived/"))) == 8
    await latch.reset(5)
    assert [(kv.key, kv.value) for kv in (await client.get_prefix(name)).items] == [
        (name.encode(), b"5 2")
    ]


async def test_many_at_once_and_twice_each(client: coord.Client, prefix: str) -> None:
    count = 30
    latches = [client.latch(prefix + "l", count) for _ in range(6)]
    answers: list[int] = []

    async def arrive(number: int) -> None:
        who = f"who{number}"
        latch = latches[number % len(latches)]
        answers.append(await latch.count_down(who, timeout=WITHIN_S * 2))
        await latch.count_down(who, timeout=WITHIN_S * 2)

    waiting = asyncio.ensure_future(client.latch(prefix + "l", count).wait(timeout=WITHIN_S * 2))
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(arrive(number))
    await waiting
    assert sorted(answers) == list(range(count))
    assert await client.count(prefix + "l/arrived/") == count


async def test_another_number_is_refused(client: coord.Client, prefix: str) -> None:
    await client.latch(prefix + "l", 3).count_down("a")
    other = client.latch(prefix + "l", 4)
    for call in (other.remaining(), other.count_down("b"), other.wait(timeout=WITHIN_S)):
        with pytest.raises(coord.LatchMismatch) as caught:
            await call
        assert (caught.value.wanted, caught.value.found) == (4, 3)
    assert await client.latch(prefix + "l", 3).remaining() == 2
    await client.put(prefix + "strange", "?")
    with pytest.raises(coord.DecodeError):
        await client.latch(prefix + "strange", 1).remaining()
    with pytest.raises(coord.InvalidArgument):
        client.latch(prefix + "l", 0)
    with pytest.raises(coord.InvalidArgument):
        await client.latch(prefix + "l", 3).count_down("")
    with pytest.raises(coord.InvalidArgument):
        await client.latch(prefix + "l", 3).wait(timeout=-1)


async def test_very_many_arrivals_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MANY_KEYS", 2)
    async with coord.connect("memory:", runtime="inline") as client:
        latch = client.latch("l", 5)
        for _ in range(3):
            await latch.count_down()
        with pytest.warns(coord.KeyCountWarning, match="the latch 'l' has 3 keys"):
            assert await latch.remaining() == 2


# -- resetting -----------------------------------------------------------------------------------------------------


async def test_a_reset_needs_an_open_latch(client: coord.Client, prefix: str) -> None:
    latch = client.latch(prefix + "l", 2)
    await latch.count_down("a")
    with pytest.raises(coord.LatchPending) as caught:
        await latch.reset(2)
    assert caught.value.remaining == 1
    assert await latch.count_down("b") == 0
    other = client.latch(prefix + "l", 2)
    assert await other.count_down("c") == 0
    await client.latch(prefix + "l", 7).reset(3)  # the number that it was made for does not matter
    assert await client.latch(prefix + "l", 3).count_down("a") == 2
    # Who has seen it open, and does not know of the reset, counts all the same.
    with pytest.raises(coord.LatchMismatch):
        await other.count_down("b")
    assert await client.latch(prefix + "l", 3).count_down("b") == 1


async def test_of_several_who_reset_one_does(client: coord.Client, prefix: str) -> None:
    await client.latch(prefix + "l", 1).count_down()
    results = await asyncio.gather(
        *(client.latch(prefix + "l", 1).reset(2) for _ in range(5)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, coord.LatchPending) for result in results) == 4
    found = await client.get(prefix + "l")
    assert found is not None
    assert found.value == b"2 2"


async def test_who_waits_does_not_miss_it_though_it_is_reset_at_once(
    client: coord.Client, prefix: str
) -> None:
    latch = client.latch(prefix + "l", 1)
    await latch.remaining()
    waits = [asyncio.ensure_future(client.latch(prefix + "l", 1).wait()) for _ in range(5)]
    await asleep(client, waits)
    for _ in range(3):
        await latch.count_down()
        await latch.reset(1)
    async with asyncio.timeout(WITHIN_S):
        for wait in waits:
            await wait
    assert await latch.remaining() == 1


@pytest.mark.parametrize("count", [1, 4])
async def test_an_opening_that_was_compacted_away_shows_in_the_generation(
    endpoint: str, prefix: str, count: int
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        latch = direct.latch(prefix + "l", 1)
        await latch.remaining()
        waiting = asyncio.ensure_future(client.latch(prefix + "l", 1).wait())
        await asleep(client, [waiting])
        await proxy.refuse()
        proxy.cut()
        await latch.count_down()
        await latch.reset(count)  # though it is another latch now
        await direct.put(prefix + "x", "1")
        await direct.compact((await direct.put(prefix + "x", "2")).revision)
        await proxy.accept()
        async with asyncio.timeout(WITHIN_S):
            await waiting
        assert await latch.remaining() == count


async def test_a_latch_that_somebody_deletes_begins_anew(client: coord.Client, prefix: str) -> None:
    latch = client.latch(prefix + "l", 2)
    await latch.count_down("a")
    waiting = asyncio.ensure_future(client.latch(prefix + "l", 2).wait(timeout=WITHIN_S))
    await asleep(client, [waiting])
    await client.delete_prefix(prefix + "l")
    assert await latch.count_down("a") == 1
    await asleep(client, [waiting])
    assert await latch.count_down("b") == 0
    await waiting


# -- lost, late and doubled requests -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE])
@pytest.mark.parametrize("who", [None, "a"])
async def test_an_unanswered_arrival_counts_once(
    inline: coord.Client, fault: Fault, who: str | None
) -> None:
    latch = inline.latch("l", 3)
    await latch.remaining()
    faulty = make_faulty(inline, [fault])
    assert await latch.count_down(who) == 2
    await faulty.deliver_late()
    assert await latch.remaining() == 2
    assert await inline.count("l/arrived/") == 1


async def test_a_retry_does_not_count_in_the_next_generation(inline: coord.Client) -> None:
    """It was counted, or others have opened the latch: in both cases that generation was open."""
    for fault in (Fault.LOSE_REPLY, Fault.LATE):
        name = fault.name
        latch, other = inline.latch(name, 2), inline.latch(name, 2)
        await other.count_down("b")
        assert await latch.remaining() == 1
        faulty = make_faulty(inline, [fault])
        arriving = asyncio.ensure_future(latch.count_down("a"))
        while not faulty.paths:
            await asyncio.sleep(0)
        if fault is Fault.LATE:
            assert await other.count_down("c") == 0
        while await other.remaining():
            await asyncio.sleep(0)
        await other.reset(3)
        assert await arriving == 0
        await faulty.deliver_late()
        assert await other.remaining() == 3


async def test_a_late_copy_of_a_reset_does_not_close_it_again(inline: coord.Client) -> None:
    latch = inline.latch("l", 1)
    await latch.count_down()
    await latch.reset(1)
    await latch.count_down()
    faulty = make_faulty(inline, [Fault.NONE, Fault.LATE])
    await latch.reset(2)
    for who in ("a", "b"):
        await latch.count_down(who)
    assert await faulty.deliver_late() == 1
    found = await inline.get("l")
    assert found is not None
    assert found.value == b"0 3"


async def test_an_arrival_that_gets_no_answer_is_told_in_time(inline: coord.Client) -> None:
    latch = inline.latch("l", 2)
    await latch.remaining()
    for fault, counted in ((Fault.LOSE_REQUEST, False), (Fault.LOSE_REPLY, True)):
        faulty = make_faulty(inline)
        faulty.plan.extend([fault] * 1000)
        with pytest.raises(coord.AmbiguousResult) as caught:
            await latch.count_down("a", timeout=0.1)
        faulty.plan.clear()
        assert await caught.value.resolve() is counted
    assert await latch.count_down("a") == 1


def test_a_question_leaves_nothing_in_doubt() -> None:
    """Not even where it creates the latch that it asks about."""

    async def main(loop: VirtualLoop) -> None:
        async with virtual_client(loop) as client:
            make_faulty(client, [Fault.LOSE_REPLY] * 100)
            with pytest.raises(coord.LatchTimeout, match="looking at latch 'l' did not finish"):
                await client.latch("l", 3).remaining(timeout=2)

    run_virtual(main)


async def test_a_store_out_of_reach_is_no_doubt(endpoint: str, prefix: str) -> None:
    async with Proxy(endpoint) as proxy, coord.connect(proxy.endpoint) as client:
        latch = client.latch(prefix + "l", 2)
        await latch.remaining()
        await proxy.refuse()
        proxy.cut()
        with pytest.raises(coord.CoordError):
            await client.get("nothing", timeout=0.3)  # now it knows that the connection is gone
        with pytest.raises(coord.LatchTimeout):
            await latch.count_down("a", timeout=0.5)
        await proxy.accept()
        assert await latch.count_down("a", timeout=WITHIN_S) == 1


async def test_a_cancelled_wait_leaves_nothing(inline: coord.Client) -> None:
    latch = inline.latch("l", 1)
    waiting = asyncio.ensure_future(latch.wait())
    await asleep(inline, [waiting])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await inline.count("l") == 1


# -- against a model -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Model:
    """A latch as a sequential program."""

    count: int
    generation: int = 1
    arrived: set[str] = field(default_factory=set[str])

    @property
    def remaining(self) -> int:
        return self.count - len(self.arrived)

    def count_down(self, who: str) -> int:
        if self.remaining and who not in self.arrived:
            self.arrived.add(who)
        return self.remaining

    def reset(self, count: int) -> bool:
        if self.remaining:
            return False
        self.count, self.generation, self.arrived = count, self.generation + 1, set()
        return True


FAULTS = st.lists(
    st.sampled_from([Fault.NONE, Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]), max_size=15
)


@pytest.mark.timeout(60 + EXAMPLES)
@settings(max_examples=EXAMPLES)
@given(plan=FAULTS, seed=st.integers(0, 2**32), cancels=st.lists(st.integers(0, 30), max_size=3))
def test_any_faults_and_cancellations_agree_with_the_model(
    plan: list[Fault], seed: int, cancels: list[int]
) -> None:
    """What the store has gone through is a run of the model, and every answer is one of the states meanwhile."""
    run_virtual(lambda loop: _count(loop, plan, seed, cancels))


async def _count(loop: VirtualLoop, plan: list[Fault], seed: int, cancels: list[int]) -> None:
    chance = random.Random(seed)
    async with virtual_client(loop) as client:
        await client.latch("l", 3).remaining()
        first = (await client.get_prefix("l")).revision
        waits = [asyncio.ensure_future(client.latch("l", 3).wait()) for _ in range(2)]
        await asleep(client, waits)
        faulty = make_faulty(client, plan)
        answers: list[tuple[str, int, int, int]] = []

        async def act(latch: coord.CountdownLatch) -> None:
            for _ in range(4):
                who = chance.choice("abcd")
                begun = (await client.get("l")).mod_revision  # type: ignore[union-attr] # it is there
                if chance.random() < 0.2:
                    with contextlib.suppress(coord.LatchPending):
                        await latch.reset(3, timeout=60)
                else:
                    left = await latch.count_down(who, timeout=60)
                    ended = (await client.get("l")).mod_revision  # type: ignore[union-attr] # it is there
                    answers.append((who, left, begun, ended))

        tasks = [asyncio.ensure_future(act(client.latch("l", 3))) for _ in range(4)]
        for index, turns in enumerate(cancels):
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[index].cancel()
            await faulty.deliver_late()
        done, pending = await asyncio.wait(tasks, timeout=300)
        assert not pending
        for task in done:
            if not task.cancelled():
                await task
        await faulty.deliver_late()

        states = await _replay(client, first)
        if max(generation for _, generation, _ in states) > 1 or states[-1][0] == 0:
            async with asyncio.timeout(60):
                for wait in waits:
                    await wait
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        for who, left, begun, ended in answers:
            seen = [remaining for remaining, _, at in states if begun <= at <= ended]
            assert left in seen or (left == 0 and len(states) > 1), (who, left, seen)


async def _replay(client: coord.Client, first: int) -> list[tuple[int, int, int]]:
    """Run the model along the events of the store; return remaining, generation and revision of every state."""
    model = Model(3)
    states = [(3, 1, first)]
    now = (await client.get_prefix("l")).revision
    events: list[coord.WatchEvent] = []
    async with client.watch("", prefix=True, start_revision=first + 1) as watch:
        mark = await client.put("end", "")
        while not events or events[-1].revision < mark.revision:
            events.append(await anext(watch))
    for revision, changes in itertools.groupby(events, key=lambda event: event.revision):
        ours = [c for c in changes if c.key.startswith(b"l")]
        values = [c.value for c in ours if c.key == b"l"]
        if not values:
            assert not ours
            continue
        arrivals = [c.key for c in ours if c.key != b"l" and c.type is coord.EventType.PUT]
        if arrivals:
            (arrival,) = arrivals
            before = model.remaining
            assert model.count_down(arrival.decode().removeprefix("l/arrived/")) == before - 1
        else:
            assert model.reset(3)
        assert values == [f"{model.remaining} {model.generation}".encode()]
        states.append((model.remaining, model.generation, revision))
    assert now >= states[-1][2]
    return states


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_what_it_costs(inline: coord.Client) -> None:
    """count_down 1 warm, wait 1, and nothing after the event, however many wait (spec recipes 21)."""
    latch = inline.latch("l", 3)
    await latch.remaining()
    faulty = make_faulty(inline)
    waits = [asyncio.ensure_future(inline.latch("l", 3).wait()) for _ in range(20)]
    while len(faulty.paths) < 20:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert faulty.paths == [TXN] * 20
    faulty.paths.clear()
    for _ in range(2):
        await latch.count_down()
    await asyncio.sleep(0.05)
    assert not any(wait.done() for wait in waits)
    assert faulty.paths == [TXN] * 2  # nobody has looked: what each event says is enough
    await latch.count_down()
    async with asyncio.timeout(WITHIN_S):
        for wait in waits:
            await wait
    assert faulty.paths == [TXN] * 3


def test_the_timeout_of_a_reset_covers_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    async def slow(*_: object, timeout: float) -> Marked:
        assert next(calls) < 5
        await asyncio.sleep(min(0.8, timeout))
        return Marked(applied=False, revision=0)

    async def main(loop: VirtualLoop) -> None:
        async with virtual_client(loop) as client:
            latch = client.latch("late", 1)
            await latch.count_down("a")
            monkeypatch.setattr(client._core.markers, "run", slow)
            began = loop.time()
            with pytest.raises(coord.CoordTimeout):
                await latch.reset(1, timeout=1.0)
            assert loop.time() - began <= 1.001

    run_virtual(main)
