"""Schedulers under lost, late and doubled requests, and whose owner dies at every request; the named guards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from typing_extensions import override

import coord
from coord import Job
from coord.recipes.cron.book import Book, Page
from coord.recipes.cron.layout import Begun, JobDoc, Layout, State
from coord.recipes.cron.rules import Lose, Skip, Start
from coord.testing import Call, FaultRule, Faults
from tests.sdk.cron_model import judged
from tests.sdk.cron_world import World, in_world, running
from tests.support.faulty import TXN, Fault, make_faulty

TEN = "@every 10s"
POLICIES: tuple[Literal["at_most_once", "at_least_once"], ...] = ("at_most_once", "at_least_once")
LOST = [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE, Fault.TWICE]


class Handler:
    """Notes what begins and what is completed."""

    def __init__(self, took: float = 2.0) -> None:
        self.took = took
        self.begun: list[tuple[str, int, int]] = []
        self.done: list[str] = []

    async def __call__(self, tick: coord.Tick) -> None:
        ident = tick.at.isoformat()
        self.begun.append((ident, tick.attempt, tick.token))
        await asyncio.sleep(self.took)
        self.done.append(ident)


class Dying(Faults):
    """The client dies with its n-th transaction: before it arrives, or after, without hearing of it."""

    def __init__(self, number: int, *, arrives: bool) -> None:
        super().__init__()
        self._left = number
        self._arrives = arrives
        self.died = asyncio.Event()

    @override
    def match(self, call: Call, *, is_stream: bool) -> FaultRule | None:
        if is_stream or call.path != TXN or self.died.is_set():
            return None
        self._left -= 1
        if self._left >= 0:
            return None
        self.died.set()
        rule = self.drop_reply(silent=True) if self._arrives else self.drop_request(silent=True)
        asyncio.get_running_loop().call_soon(self.isolate)
        return rule


# -- the owner dies at each of its requests ------------------------------------------------------------------------------


@pytest.mark.parametrize("arrives", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_owner_dies_at_each_of_its_transactions(
    policy: Literal["at_most_once", "at_least_once"], *, arrives: bool
) -> None:
    """It is cut off from the store for good, and another takes over: nothing twice, and nothing for ever."""
    deaths: list[bool] = []

    async def main(world: World, number: int) -> None:
        faults = Dying(number, arrives=arrives)
        dying, other = await world.client(faults=faults), await world.client()
        handler = Handler()
        one, two = (c.cron("c", ownership="elected", ttl=10) for c in (dying, other))
        await two.add(Job(name="j", schedule=TEN, policy=policy, misfire="all", retries=9))
        one.handler("j")(handler)
        two.handler("j")(handler)
        async with judged(other, "c") as model:
            first = asyncio.ensure_future(one.run(grace=0))
            await asyncio.sleep(5)
            async with running(two, grace=30):
                await asyncio.sleep(50)
                faults.clear()  # what was under way arrives now
                first.cancel()
                await asyncio.wait([first])
        deaths.append(faults.died.is_set())
        begun = [ident for ident, _, _ in handler.begun]
        ticks = sorted(set(begun))
        assert len(model.results) >= 4
        tokens = [token for _, _, token in handler.begun]
        assert tokens == sorted(set(tokens))
        if policy == "at_most_once":
            assert begun == ticks
            assert set(model.results.values()) <= {"done", "lost"}
        else:
            # All that began were completed; another one may have been told of it only in vain.
            assert set(handler.done) == set(ticks)
            assert set(model.results.values()) == {"done"}

    for number in range(
        8
    ):  # the candidacy, the state, and the starts and ends of two ticks and more
        in_world(lambda world, number=number: main(world, number))  # type: ignore[misc]
    assert all(deaths)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_scheduler_is_cancelled_at_each_of_its_transactions(
    policy: Literal["at_most_once", "at_least_once"],
) -> None:
    """With no grace at all: nothing of it runs afterwards, and the other one goes on at once."""
    cancelled: list[bool] = []

    async def main(world: World, number: int) -> None:
        client, other = await world.client(), await world.client()
        handler = Handler()
        one, two = (c.cron("c", ownership="elected", ttl=300) for c in (client, other))
        await two.add(Job(name="j", schedule=TEN, policy=policy, misfire="all", retries=9))
        one.handler("j")(handler)
        two.handler("j")(handler)
        faulty = make_faulty(client)

        def count(path: str) -> None:
            if faulty.paths.count(TXN) > number and path == TXN:
                first.cancel()

        async with judged(other, "c") as model:
            first = asyncio.ensure_future(one.run(grace=0))
            faulty.on_call = count
            await asyncio.wait([first], timeout=40)
            cancelled.append(first.done())
            begun = len(handler.begun)
            async with running(two, grace=30):
                await asyncio.sleep(25)
        assert handler.begun[:begun] == sorted(handler.begun[:begun])
        assert len(model.results) >= 2
        idents = [ident for ident, _, _ in handler.begun]
        if policy == "at_most_once":
            assert idents == sorted(set(idents))
        else:
            assert set(handler.done) == set(idents)
            assert set(model.results.values()) == {"done"}

    for number in range(8):
        in_world(lambda world, number=number: main(world, number))  # type: ignore[misc]
    assert all(cancelled)


# -- any one answer may be lost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("policy", POLICIES)
def test_any_one_answer_may_be_lost(
    fault: Fault, policy: Literal["at_most_once", "at_least_once"]
) -> None:
    """The election, the states, the starts and the ends: each is repeated rightly, or found to have happened."""
    late = 0

    async def main(world: World, number: int) -> None:
        nonlocal late
        client, other = await world.client(), await world.client()
        cron, handler = client.cron("c", ownership="elected"), Handler()
        await cron.add(Job(name="j", schedule=TEN, policy=policy))
        cron.handler("j")(handler)
        faulty = make_faulty(client)
        faulty.plan.extend([Fault.NONE] * number + [fault])
        async with judged(other, "c") as model, running(cron, grace=30):
            await asyncio.sleep(26)
            late += await faulty.deliver_late()
            await asyncio.sleep(10)
        assert len(handler.begun) == len(handler.done) == 3
        assert sorted(model.results.values()) == ["done"] * 3
        assert all(begun == [1] for begun in model.attempts.values())

    for number in range(8):
        in_world(lambda world, number=number: main(world, number))  # type: ignore[misc]
    assert late if fault in (Fault.LATE, Fault.TWICE) else not late


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
def test_an_attempt_whose_failure_is_answered_by_nothing(fault: Fault) -> None:
    """It is put back once, and the next attempt comes after its pause."""

    async def main(world: World) -> None:
        client, other = await world.client(), await world.client()
        cron, faulty = client.cron("c", ownership="elected"), make_faulty(client)
        ticks: list[coord.Tick] = []

        async def handler(tick: coord.Tick) -> None:
            ticks.append(tick)
            if tick.attempt == 1:
                faulty.plan.append(fault)
                raise RuntimeError("not yet")

        await cron.add(Job(name="j", schedule=TEN, policy="at_least_once"))
        async with judged(other, "c") as model, running(cron, grace=30):
            cron.handler("j")(handler)
            await asyncio.sleep(15)
        assert [tick.attempt for tick in ticks] == [1, 2]
        assert not any(tick.lost.is_set() for tick in ticks)
        assert list(model.results.values()) == ["done"]

    in_world(main)


def test_a_late_start_begins_nothing_after_its_session() -> None:
    """The request that begins a tick arrives after its scheduler has stopped, and another has dealt with the tick."""

    async def main(world: World) -> None:
        client, other = await world.client(), await world.client()
        one, two = (c.cron("c", ownership="elected", ttl=10) for c in (client, other))
        handler = Handler()
        await two.add(Job(name="j", schedule=TEN))
        one.handler("j")(handler)
        two.handler("j")(handler)
        faulty = make_faulty(client)
        async with judged(other, "c"):
            async with running(one):
                await asyncio.sleep(9)
                faulty.plan.extend([Fault.LATE] * 50)
                await asyncio.sleep(3)
            faulty.plan.clear()
            async with running(two, grace=30):
                await asyncio.sleep(25)
            assert await faulty.deliver_late() > 0
            assert len(handler.begun) == len(set(handler.begun))
            records = await two.history("j")
            assert [record.outcome for record in records] == ["done"] * len(records)
            assert len(records) >= 3

    in_world(main)


def test_an_error_of_our_own_ends_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is never looked at again would be left out silently."""

    async def main(world: World) -> None:
        cron = (await world.client()).cron("c", ownership="elected")
        await cron.add(Job(name="j", schedule=TEN))
        task = asyncio.ensure_future(cron.run())
        await asyncio.sleep(5)

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("coord.recipes.cron.engine.decide", broken)
        await asyncio.wait([task], timeout=10)
        assert isinstance(task.exception(), ZeroDivisionError)

    in_world(main)


# -- named guards ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    """A client whose every await is a turn of the test's own loop."""
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


class Desk:
    """One job, and what its owner needs to write about it."""

    def __init__(self, client: coord.Client, term: coord.Term) -> None:
        self.client = client
        self.term = term
        self.cron = client.cron("c")
        self.book = Book(client._home, b"c", Layout(b"c"), history_s=60)

    async def page(self) -> Page:
        """Read the job."""
        found = await self.client.get("c/jobs/j")
        assert found is not None
        doc = JobDoc.decode("j", found.value)
        assert doc is not None
        page = Page(key=b"j", doc=doc, doc_revision=found.mod_revision, state=State())
        await self.book.read([page])
        return page

    async def start(
        self,
        page: Page,
        tick: str = "20300101T000000Z",
        **said: Any,  # noqa: ANN401 - of a step
    ) -> coord.Tick | None:
        return await self.book.start(page, self.term, Start(tick=tick, **said))

    async def ticks(self) -> dict[bytes, bytes]:
        return {kv.key: kv.value for kv in (await self.client.get_prefix("c/ticks/")).items}

    async def state(self) -> State:
        found = await self.client.get("c/state/j")
        assert found is not None
        return State.decode(found.value)


@pytest.fixture
async def desk(inline: coord.Client) -> AsyncIterator[Desk]:
    async with inline.session(ttl=30) as session:
        term = await inline.election("leader", session=session).campaign()
        made = Desk(inline, term)
        await made.cron.add(Job(name="j", schedule="@hourly", overlap=True))
        yield made
        await term.resign()


async def test_who_has_lost_its_share_begins_nothing(desk: Desk) -> None:
    page = await desk.page()
    await desk.client.delete(desk.term.key)
    assert await desk.start(page) is None
    assert await desk.ticks() == {}
    assert not page.is_read


@pytest.mark.parametrize("change", ["pause", "remove", "put"])
async def test_what_people_have_changed_is_not_begun(desk: Desk, change: str) -> None:
    page = await desk.page()
    if change == "put":
        await desk.cron.put(Job(name="j", schedule="@daily"))
    else:
        await getattr(desk.cron, change)("j")
    assert await desk.start(page) is None
    assert await desk.ticks() == {}


async def test_a_state_that_has_moved_on_begins_nothing(desk: Desk) -> None:
    """Its key may be gone already with the history."""
    old, page = await desk.page(), await desk.page()
    tick = await desk.start(page)
    assert tick is not None
    await desk.book.finish(page, tick, desk.book.record("20300101T000000Z", "done"))
    await desk.client.delete(tick.key)
    assert await desk.start(old) is None
    assert await desk.ticks() == {}


async def test_a_tick_that_is_there_is_not_begun_again(desk: Desk) -> None:
    """And the state goes past it, so that the next one comes."""
    key = "c/ticks/j/20300101T000000Z"
    await desk.client.put(key, '{"outcome":"done"}')
    assert await desk.start(await desk.page()) is None
    assert (await desk.ticks())[key.encode()] == b'{"outcome":"done"}'
    assert (await desk.state()).last_tick == "20300101T000000Z"
    assert (await desk.state()).running == {}


async def test_only_who_runs_a_tick_ends_it(desk: Desk) -> None:
    page = await desk.page()
    tick = await desk.start(page)
    assert tick is not None
    await desk.client.delete(tick.key)
    await desk.client.put(tick.key, '{"outcome":"running"}')
    with pytest.raises(coord.TickLost):
        await desk.book.finish(page, tick, desk.book.record("20300101T000000Z", "done"))
    assert (await desk.ticks())[tick.key] == b'{"outcome":"running"}'
    assert tick.lost.is_set()


async def test_an_end_keeps_what_others_have_written_of_the_job(desk: Desk) -> None:
    """Two ticks at a time: the end of one, from a page that is old, leaves the other one in the state."""
    page = await desk.page()
    first = await desk.start(page)
    assert first is not None
    old = replace(page)
    second = await desk.start(page, "20300101T010000Z")
    assert second is not None
    await desk.book.finish(old, first, desk.book.record("20300101T000000Z", "done"))
    assert (await desk.state()).running == {"20300101T010000Z": Begun(attempt=1)}
    assert (await desk.state()).last_tick == "20300101T010000Z"
    page.forget()
    await desk.book.finish(page, second, desk.book.record("20300101T010000Z", "done"))
    assert (await desk.state()).running == {}


async def test_an_end_that_was_written_is_not_written_again(desk: Desk) -> None:
    """By a repetition that has read the state anew."""
    page = await desk.page()
    tick = await desk.start(page)
    assert tick is not None
    record = desk.book.record("20300101T000000Z", "done")
    await desk.book.finish(page, tick, record)
    page.forget()
    await desk.book.finish(page, tick, record)
    found = await desk.client.get(tick.key)
    assert found is not None
    assert found.version == 2


async def test_an_end_of_a_job_that_was_removed_leaves_no_state(desk: Desk) -> None:
    page = await desk.page()
    tick = await desk.start(page)
    assert tick is not None
    await desk.cron.remove("j")
    await desk.book.finish(page, tick, desk.book.record("20300101T000000Z", "done"))
    assert await desk.client.get("c/state/j") is None
    (record,) = await desk.cron.history("j")
    assert record.outcome == "done"


async def test_a_tick_that_runs_is_not_lost(desk: Desk) -> None:
    page = await desk.page()
    tick = await desk.start(page)
    assert tick is not None
    before = await desk.ticks()
    await desk.book.lose(page, desk.term, Lose(tick="20300101T000000Z", attempt=1))
    assert await desk.ticks() == before
    assert not page.is_read
    tick.end()


@pytest.mark.parametrize("what", ["skip", "lose"])
async def test_ticks_are_left_out_by_their_owner_only(desk: Desk, what: str) -> None:
    page = await desk.page()
    await desk.client.delete(desk.term.key)
    tick, since = "20300101T000000Z", datetime(2030, 1, 1, tzinfo=UTC)
    if what == "skip":
        await desk.book.skip(page, desk.term, Skip(tick=tick, since=since))
    else:
        await desk.book.lose(page, desk.term, Lose(tick=tick, attempt=1))
    assert await desk.ticks() == {}
    assert (await desk.state()).last_tick == ""


async def test_the_keys_of_a_job(desk: Desk) -> None:
    """The layout, key by key (spec recipes 23)."""
    page = await desk.page()
    tick = await desk.start(page)
    assert tick is not None
    entry = await desk.client.get(tick.key)
    assert entry is not None
    assert entry.lease == desk.term.session.lease_id
    assert entry.create_revision == tick.token
    said = json.loads(entry.value)
    assert said.keys() == {"v", "nonce", "outcome", "attempt", "host", "pid", "started_at"}
    await desk.book.finish(page, tick, desk.book.record("20300101T000000Z", "done", attempt=1))
    entry = await desk.client.get(tick.key)
    assert entry is not None
    assert entry.lease not in (0, desk.term.session.lease_id)
    assert entry.create_revision == tick.token
    found = {kv.key for kv in (await desk.client.get_prefix("c/")).items}
    assert found == {b"c/jobs/j", b"c/state/j", b"c/ticks/j/20300101T000000Z"}
