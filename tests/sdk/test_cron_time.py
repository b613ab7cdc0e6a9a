"""Schedulers in virtual time: clocks that differ, ticks that were missed, retries, timeouts, changes, and many jobs.

``COORD_CRON_JOBS`` (default 300) is the number of jobs that are dealt out anew; 10000 takes minutes.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from datetime import timedelta
from typing import Any, Literal

import pytest

import coord
from coord import Job
from coord.recipes.cron.owners import SHARES
from tests.sdk.cron_model import Model, judged
from tests.sdk.cron_world import BEGIN, World, in_world, running
from tests.support.faulty import make_faulty

MANY = int(os.environ.get("COORD_CRON_JOBS", "300"))
OWNERSHIPS: tuple[Literal["partitioned", "elected"], ...] = ("partitioned", "elected")
# A virtual minute costs as much as anything here, so the tests have shorter ones.
UNIT = 12.0
TEN = f"@every {10 * UNIT:g}s"


def minutes(record: coord.Tick | coord.TickRecord) -> float:
    """When a tick is due, in units since the beginning."""
    at = record.at if isinstance(record, coord.Tick) else record.tick
    return (at - BEGIN) / timedelta(seconds=UNIT)


async def outcomes(cron: coord.Cron, name: str = "j") -> list[tuple[float, str, int]]:
    return [(minutes(r), r.outcome, r.attempt) for r in reversed(await cron.history(name))]


class Log:
    """A handler that notes what it is called with, and takes some time."""

    def __init__(self, world: World, took: float = 0.0, *, fails: int = 0) -> None:
        self.world = world
        self.took = took
        self.fails = fails
        self.ticks: list[coord.Tick] = []
        self.at: list[float] = []
        self.cancelled = 0

    async def __call__(self, tick: coord.Tick) -> None:
        self.ticks.append(tick)
        self.at.append(self.world.now)
        try:
            await asyncio.sleep(self.took)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if len(self.ticks) <= self.fails:
            raise RuntimeError("not yet")

    @property
    def minutes(self) -> list[float]:
        return [minutes(tick) for tick in self.ticks]


# -- one start per tick, whatever the clocks -----------------------------------------------------------------------------


@pytest.mark.parametrize("ownership", OWNERSHIPS)
def test_three_clocks_that_differ_by_a_minute(ownership: Literal["partitioned", "elected"]) -> None:
    """The schedulers come and go, so that each sees to the jobs for a while: each tick begins once."""

    async def main(world: World) -> None:
        log = Log(world, 1.0)
        crons: list[coord.Cron] = []
        for ahead in (-30.0, 30.0, 0.0):
            client = await world.client(ahead)
            crons.append(client.cron("c", ownership=ownership, ttl=300))
        for n in range(3):
            await crons[0].add(Job(name=f"j{n}", schedule="*/20 * * * * *", misfire="all"))
        async with judged(await world.client(), "c") as model:
            for round_ in range(9):
                async with running(
                    *(crons[(round_ + n) % 3] for n in range(1 + round_ % 2)), grace=5
                ):
                    for cron in crons:
                        for name in ("j0", "j1", "j2"):
                            cron.handler(name)(log)
                    await asyncio.sleep(70)
        assert world.now >= 600
        for n in range(3):
            ticks = [
                m for m, t in zip(log.minutes, log.ticks, strict=True) if t.job.name == f"j{n}"
            ]
            assert ticks == sorted(set(ticks))
            assert ticks == pytest.approx(
                [ticks[0] + 20 / UNIT * n for n in range(len(ticks))]
            )  # and none was left out
            assert len(ticks) >= 27
        assert all(len(begun) == 1 for begun in model.attempts.values())
        # Each began when it was due by the clock of its scheduler.
        assert min(at - UNIT * m for at, m in zip(log.at, log.minutes, strict=True)) >= -30.001

    in_world(main)


def test_a_clock_that_is_put_back_repeats_nothing() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world)
        cron.job("j", schedule=TEN)(log)
        async with running(cron):
            await asyncio.sleep(25 * UNIT)
            world.clocks[0].ahead = -30 * UNIT
            await asyncio.sleep(36 * UNIT)
        # 61 units have passed, and the clock says 31.
        assert log.minutes == [10, 20, 30]

    in_world(main)


def test_a_clock_that_is_put_forward_is_noticed_within_half_a_minute() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world)
        cron.job("j", schedule=TEN)(log)
        async with running(cron):
            await asyncio.sleep(UNIT)
            world.clocks[0].ahead = 9.5 * UNIT
            await asyncio.sleep(30)
        assert log.minutes == [10]

    in_world(main)


# -- misfires ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misfire", "ran", "told"),
    [
        ("skip", [60], [(50, "missed", 0), (60, "done", 1)]),
        ("once", [50, 60], [(50, "done", 1), (60, "done", 1)]),
        ("all", [30, 40, 50, 60], [(m, "done", 1) for m in (30, 40, 50, 60)]),
    ],
)
def test_ticks_that_nobody_was_there_for(
    misfire: Literal["skip", "once", "all"], ran: list[float], told: list[tuple[float, str, int]]
) -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world)
        await cron.add(
            Job(name="j", schedule=TEN, misfire=misfire, misfire_limit=3, misfire_grace=30)
        )
        await asyncio.sleep(55 * UNIT)
        async with judged(await world.client(), "c"), running(cron):
            cron.handler("j")(log)
            await asyncio.sleep(6 * UNIT)
        assert log.minutes == ran
        assert await outcomes(cron) == told
        first = (await cron.history("j"))[-1]
        missed = first.missed_since
        assert missed is not None
        assert (missed - BEGIN) / timedelta(seconds=UNIT) == 10
        if misfire != "skip":
            assert log.ticks[0].missed_since == missed

    in_world(main)


def test_a_paused_job_catches_up_on_nothing() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world)
        cron.job("j", schedule=TEN, misfire="all")(log)
        async with running(cron):
            await asyncio.sleep(15 * UNIT)
            assert await cron.pause("j") is True
            assert await cron.pause("j") is False
            assert (await cron.jobs())[0].next_tick is None
            await asyncio.sleep(30 * UNIT)
            asked = await cron.run_now("j")
            await asyncio.sleep(1)
            assert log.ticks[-1].at == asked
            assert log.ticks[-1].asked
            assert await cron.resume("j") is True
            await asyncio.sleep(10 * UNIT)
        assert [m for m in log.minutes if m % 10 == 0] == [10, 50]

    in_world(main)


def test_what_was_asked_for_in_a_whole_second_is_no_tick() -> None:
    async def main(world: World) -> None:
        client = await world.client()
        world.clocks[0].freeze_at(10 * UNIT)
        cron = client.cron("c", ttl=300)
        await cron.add(Job(name="j", schedule=TEN))
        asked = [await cron.run_now("j"), await cron.run_now("j")]
        assert [(each - BEGIN) / timedelta(milliseconds=1) for each in asked] == [
            10_000 * UNIT + 1,
            10_000 * UNIT + 2,
        ]

    in_world(main)


# -- overlap, timeouts and retries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("overlap", "ran"), [(False, [10, 30, 50]), (True, [10, 20, 30, 40, 50])])
def test_a_handler_that_takes_longer_than_its_interval(*, overlap: bool, ran: list[float]) -> None:
    """Without overlap the next tick waits for the end, and stands for those that it waited through."""

    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world, 24 * UNIT)
        cron.job("j", schedule=TEN, overlap=overlap, misfire="once")(log)
        async with judged(await world.client(), "c") as model, running(cron, grace=3600):
            await asyncio.sleep(61 * UNIT)
        assert log.minutes[: len(ran)] == ran
        if not overlap:
            assert log.at == pytest.approx([10 * UNIT, 34 * UNIT, 58 * UNIT], abs=0.1)
        assert set(model.results.values()) == {"done"}

    in_world(main)


def test_a_run_that_takes_too_long_is_ended() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world, 100)
        cron.job("j", schedule=TEN, timeout=30)(log)
        async with judged(await world.client(), "c"), running(cron):
            await asyncio.sleep(13 * UNIT)
        assert log.cancelled == 1
        (record,) = await cron.history("j")
        assert (record.outcome, record.error) == ("timeout", "ran for more than 30 s")
        assert record.started_at is not None
        assert record.ended_at is not None
        assert (record.ended_at - record.started_at).total_seconds() == pytest.approx(30, abs=0.01)

    in_world(main)


@pytest.mark.parametrize(
    ("policy", "retries", "fails", "told"),
    [
        ("at_most_once", 5, 1, [(10, "failed", 1)]),
        ("at_least_once", 2, 2, [(10, "done", 3)]),
        ("at_least_once", 2, 3, [(10, "failed", 3)]),
        ("at_least_once", 0, 1, [(10, "failed", 1)]),
    ],
)
def test_failures_are_tried_again_if_the_job_says_so(
    policy: Literal["at_most_once", "at_least_once"],
    retries: int,
    fails: int,
    told: list[tuple[float, str, int]],
) -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world, fails=fails)
        cron.job("j", schedule=TEN, policy=policy, retries=retries)(log)
        async with judged(await world.client(), "c"), running(cron):
            await asyncio.sleep(12 * UNIT)
        assert await outcomes(cron) == told
        tokens = [tick.token for tick in log.ticks]
        assert tokens == sorted(set(tokens))
        assert log.at == pytest.approx([10 * UNIT + n for n in (0, 1, 3)][: len(log.at)], abs=0.1)
        if told[0][1] == "failed":
            assert (await cron.history("j"))[0].error == "RuntimeError: not yet"

    in_world(main)


# -- stopping --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "grace", "told"),
    [
        ("at_most_once", 60, [(10, "done", 1)]),
        ("at_least_once", 60, [(10, "done", 1)]),
        ("at_most_once", 5, [(10, "lost", 1)]),
        ("at_least_once", 5, [(10, "done", 1)]),
    ],
)
def test_a_scheduler_that_is_stopped_ends_or_gives_back(
    policy: Literal["at_most_once", "at_least_once"],
    grace: float,
    told: list[tuple[float, str, int]],
) -> None:
    """What is given back goes to another scheduler, and is no attempt."""

    async def main(world: World) -> None:
        one, two = [(await world.client()).cron("c", ttl=300) for _ in range(2)]
        log = Log(world, 30)
        for cron in (one, two):
            cron.job("j", schedule=TEN, policy=policy, retries=0)(log)
        async with judged(await world.client(), "c"):
            async with running(one, grace=grace):
                await asyncio.sleep(10 * UNIT + 1)
            async with running(two, grace=60):
                await asyncio.sleep(60)
        assert await outcomes(one) == told
        assert log.cancelled == (grace == 5)
        assert len(log.ticks) == (2 if (policy, grace) == ("at_least_once", 5) else 1)

    in_world(main)


def test_shares_that_move_interrupt_nothing() -> None:
    """A second scheduler takes half of the jobs over: their ticks run to the end where they are, and then go on there."""

    async def main(world: World) -> None:
        one, two = [(await world.client()).cron("c", ttl=300) for _ in range(2)]
        logs = [Log(world, 2 * UNIT), Log(world, 2 * UNIT)]
        names = [f"j{n}" for n in range(12)]
        for cron, log in zip((one, two), logs, strict=True):
            for name in names:
                cron.job(name, schedule=TEN)(log)
        async with judged(await world.client(), "c") as model, running(one, grace=300):
            await asyncio.sleep(10 * UNIT + 1)
            async with running(two, grace=300):
                await asyncio.sleep(30 * UNIT)
            assert len([m for m in logs[0].minutes if m == 10]) == 12
            assert logs[0].cancelled == logs[1].cancelled == 0
            assert {t.job.name for t in logs[0].ticks if minutes(t) == 20}.isdisjoint(
                {t.job.name for t in logs[1].ticks if minutes(t) == 20}
            )
            assert len([m for log in logs for m in log.minutes if m == 20]) == 12
            assert [m for m in logs[1].minutes if m == 20]
        assert set(model.results.values()) == {"done"}

    in_world(main)


# -- changes ---------------------------------------------------------------------------------------------------------------


def test_a_job_that_changes_while_it_runs() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world, 5 * UNIT)
        people = (await world.client()).cron("c", ttl=300)
        await people.add(Job(name="j", schedule=TEN, payload=1))
        cron.handler("j")(log)
        async with judged(await world.client(), "c") as model, running(cron, grace=3600):
            await asyncio.sleep(10.5 * UNIT)
            # It runs. The ticks that the new schedule would have had before are no misfires.
            assert await people.put(Job(name="j", schedule=f"@every {15 * UNIT:g}s", payload=2))
            assert not await people.put(Job(name="j", schedule=f"@every {15 * UNIT:g}s", payload=2))
            await asyncio.sleep(10 * UNIT)
            assert await people.put(Job(name="j", schedule=f"@every {15 * UNIT:g}s", payload=3))
            await asyncio.sleep(11 * UNIT)
            assert await people.remove("j")
            assert not await people.remove("j")
            await asyncio.sleep(30 * UNIT)
            assert [(m, t.payload) for m, t in zip(log.minutes, log.ticks, strict=True)] == [
                (10, 1),
                (15, 2),
                (30, 3),
            ]
            await people.add(Job(name="j", schedule=TEN))
            await asyncio.sleep(10 * UNIT)
        assert log.minutes[3:] == [70]
        assert set(model.results.values()) == {"done"}

    in_world(main)


def test_a_job_added_again_by_a_slow_clock_does_not_repeat_its_tick() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client(30)).cron("c", ttl=300), Log(world)
        slow = (await world.client(-30)).cron("c", ttl=300)
        await slow.add(Job(name="j", schedule="@every 1m"))
        cron.handler("j")(log)
        async with judged(await world.client(), "c"), running(cron):
            await asyncio.sleep(95)
            assert [tick.at.minute for tick in log.ticks] == [0, 1, 2]
            await slow.remove("j")
            await slow.add(Job(name="j", schedule="@every 1m"))  # at 1:05 by its clock
            await asyncio.sleep(60)
        assert [tick.at.minute for tick in log.ticks] == [0, 1, 2, 3]

    in_world(main)


def test_a_removed_job_does_not_run_beside_its_next_life() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world, 15 * UNIT)
        await cron.add(Job(name="j", schedule=TEN))
        cron.handler("j")(log)
        async with running(cron, grace=3600):
            await asyncio.sleep(11 * UNIT)
            await cron.remove("j")
            await cron.add(Job(name="j", schedule=TEN))
            await asyncio.sleep(20 * UNIT)
        assert log.minutes == [10, 20]
        assert log.at == pytest.approx([10 * UNIT, 25 * UNIT], abs=0.1)

    in_world(main)


def test_once_and_no_more() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world)
        cron.job("j", schedule="@at 2026-03-01T00:02")(log)
        for _ in range(2):
            async with running(cron):
                await asyncio.sleep(15 * UNIT)
        assert log.minutes == [10]
        with pytest.raises(coord.BadSchedule, match="over"):
            await cron.add(Job(name="k", schedule="@at 2026-03-01T00:02"))
        # A program may go on to name it.
        await cron.remove("j")
        async with running(cron):
            await asyncio.sleep(60)
        assert await cron.jobs() == ()

    in_world(main)


def test_a_job_without_a_handler_is_told_and_left() -> None:
    async def main(world: World) -> None:
        cron, log = (await world.client()).cron("c", ttl=300), Log(world)
        await cron.add(Job(name="j", schedule=TEN))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            async with running(cron):
                await asyncio.sleep(11 * UNIT)
                assert await cron.history("j") == ()
                cron.handler("j")(log)
                await asyncio.sleep(60)
        (warning,) = [str(w.message) for w in told if w.category is coord.CronWarning]
        assert "no handler for job 'j'" in warning
        assert log.minutes == [10]

    in_world(main)


# -- loss --------------------------------------------------------------------------------------------------------------------


def test_a_deleted_tick_cancels_its_handler() -> None:
    async def main(world: World) -> None:
        client = await world.client()
        cron, log = client.cron("c", ttl=300), Log(world, 5 * UNIT)
        cron.job("j", schedule=TEN)(log)
        async with running(cron):
            await asyncio.sleep(10 * UNIT + 5)
            (tick,) = log.ticks
            tick.check()
            assert (await client.delete(tick.key)).deleted == 1
            await asyncio.sleep(1)
            assert log.cancelled == 1
            with pytest.raises(coord.TickLost):
                tick.check()
            late = client.txn().when(tick.guard()).then(coord.op.put("x", "y"))
            assert (await late.commit()).succeeded is False
        assert await outcomes(cron) == [(10, "lost", 1)]

    in_world(main)


# -- many --------------------------------------------------------------------------------------------------------------------


def test_many_jobs_are_dealt_out_anew() -> None:
    """A scheduler comes, and one goes: within seconds all jobs are seen to again, for few requests."""

    async def main(world: World) -> None:
        clients = [await world.client() for _ in range(3)]
        crons = [client.cron("c", ttl=300) for client in clients]
        ran: list[tuple[str, float]] = []

        async def note(tick: coord.Tick) -> None:
            ran.append((tick.job.name, minutes(tick)))

        for first in range(0, MANY, 32):
            jobs = [Job(name=f"j{n}", schedule=TEN) for n in range(first, min(first + 32, MANY))]
            await asyncio.gather(*[crons[0].add(job) for job in jobs])
        tasks = [asyncio.ensure_future(cron.run(note)) for cron in crons[:2]]
        await asyncio.sleep(7 * UNIT)
        faults = make_faulty(clients[2])
        tasks.append(asyncio.ensure_future(crons[2].run(note)))
        await asyncio.sleep(UNIT)
        tasks[0].cancel()
        await asyncio.sleep(UNIT)
        assert not ran
        # A claim for each of its shares, and reads of a hundred states each.
        reads = len(faults.paths)
        assert reads < 3 * SHARES + MANY / 50
        await asyncio.sleep(2 * UNIT)
        assert sorted(ran) == sorted((f"j{n}", 10.0) for n in range(MANY))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    in_world(main)


def test_a_model_that_sees_wrongs() -> None:
    """The judge of these tests refuses what it should."""

    def event(key: str, said: dict[str, Any], *, created: int, at: int) -> coord.WatchEvent:
        import json

        kv = coord.KeyValue(
            key=key.encode(),
            value=json.dumps(said).encode(),
            create_revision=created,
            mod_revision=at,
            version=at - created + 1,
            lease=0,
        )
        return coord.WatchEvent(type=coord.EventType.PUT, kv=kv, previous=None)

    def model() -> Model:
        made = Model("c")
        made.change(
            event("c/jobs/j", {"policy": "at_most_once", "overlap": False}, created=1, at=1)
        )
        made.change(event("c/ticks/j/1", {"outcome": "running", "attempt": 1}, created=2, at=2))
        return made

    with pytest.raises(AssertionError):
        model().at_rest()
    wrongs = [
        event("c/ticks/j/1", {"outcome": "running", "attempt": 2}, created=3, at=3),
        event("c/ticks/j/1", {"outcome": "done"}, created=3, at=3),
        event("c/ticks/j/2", {"outcome": "running", "attempt": 1}, created=2, at=2),
    ]
    for wrong in wrongs:
        with pytest.raises(AssertionError):
            model().change(wrong)
