"""Scheduled jobs on every store: what people do with them, and a scheduler that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import warnings
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

import coord
import coord.sync
from coord import Job
from coord.testing import MemoryWorld

WITHIN_S = 20.0


@contextlib.asynccontextmanager
async def running(
    cron: coord.Cron, handler: Callable[[coord.Tick], object] | None = None
) -> AsyncGenerator[asyncio.Task[None]]:
    task = asyncio.ensure_future(cron.run(handler))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_jobs_are_added_changed_and_removed(client: coord.Client, prefix: str) -> None:
    cron = client.cron(prefix + "c")
    job = Job(name="report", schedule="@hourly", tz="Europe/Rome", payload={"to": ["a"]})
    assert await cron.jobs() == ()
    await cron.add(job)
    with pytest.raises(coord.JobExists):
        await cron.add(job)
    (status,) = await cron.jobs()
    assert status.job == job
    assert (status.last_tick, status.running) == (None, ())
    now = datetime.now(UTC)
    assert status.next_tick is not None
    assert now < status.next_tick <= now + timedelta(hours=1)

    assert await cron.put(job) is False
    changed = Job(name="report", schedule="@daily", paused=True)
    assert await cron.put(changed) is True
    (status,) = await cron.jobs()
    assert (status.job.schedule, status.job.paused) == ("@daily", False)  # paused is for pause()
    assert await cron.put(Job(name="other", schedule="@every 1s", paused=True)) is True
    assert [each.job.name for each in await cron.jobs()] == ["other", "report"]
    assert (await cron.jobs())[0].next_tick is None

    assert await cron.remove("report") is True
    assert await cron.remove("report") is False
    assert await client.count(prefix + "c/state/") == 1
    for call in (cron.pause, cron.resume, cron.run_now):
        with pytest.raises(coord.UnknownJob):
            await call("report")


async def test_what_was_asked_for_runs(client: coord.Client, prefix: str) -> None:
    """Coroutines here, plain functions on a thread; one after the other, and told in the history."""
    cron = client.cron(prefix + "c")
    seen: list[tuple[str, object, str]] = []

    @cron.job("a", schedule="@yearly", payload=1)
    async def one(tick: coord.Tick) -> None:
        await asyncio.sleep(0)
        assert tick.valid_for() > 0
        seen.append((tick.job.name, tick.payload, threading.current_thread().name))

    @cron.handler("b")
    def two(tick: coord.Tick) -> None:
        seen.append((tick.job.name, tick.payload, threading.current_thread().name))

    def other(tick: coord.Tick) -> None:
        raise KeyError(tick.job.name)

    await cron.add(Job(name="b", schedule="@yearly"))
    await cron.add(Job(name="c", schedule="@yearly"))
    async with running(cron, other):
        asked = [await cron.run_now("b"), await cron.run_now("b")]
        await cron.run_now("c")
        async with asyncio.timeout(WITHIN_S):
            while not any(each.job.name == "a" for each in await cron.jobs()):
                await asyncio.sleep(0.01)
            await cron.run_now("a")
            while [len(await cron.history(n)) for n in "abc"] != [1, 2, 1]:
                await asyncio.sleep(0.02)
            while {r.outcome for n in "abc" for r in await cron.history(n)} != {"done", "failed"}:
                await asyncio.sleep(0.02)
    assert [(name, payload) for name, payload, _ in seen if name == "a"] == [("a", 1)]
    assert [name for name, _, _ in seen].count("b") == 2
    assert {thread for name, _, thread in seen if name == "a"} == {"MainThread"}
    assert all(thread != "MainThread" for name, _, thread in seen if name == "b")
    newest, oldest = await cron.history("b")
    assert [oldest.tick, newest.tick] == asked
    assert newest.token > oldest.token
    assert (newest.outcome, newest.attempt) == ("done", 1)
    (failed,) = await cron.history("c")
    assert (failed.outcome, failed.error) == ("failed", "KeyError: 'c'")
    assert await cron.history("b", limit=1) == (newest,)


async def test_a_run_may_write_under_its_guard(client: coord.Client, prefix: str) -> None:
    cron = client.cron(prefix + "c")

    async def handler(tick: coord.Tick) -> None:
        await tick.txn().then(coord.op.put(prefix + "fence", str(tick.token))).commit()

    await cron.add(Job(name="a", schedule="@yearly"))
    async with running(cron, handler):
        await cron.run_now("a")
        async with asyncio.timeout(WITHIN_S):
            while not (await cron.history("a") and (await cron.history("a"))[0].outcome == "done"):
                await asyncio.sleep(0.02)
    (record,) = await cron.history("a")
    found = await client.get(prefix + "fence")
    assert found is not None
    assert int(found.value) == record.token


async def test_refusals(client: coord.Client, prefix: str) -> None:
    cron = client.cron(prefix + "c")
    with pytest.raises(coord.BadSchedule):
        await cron.add(Job(name="a", schedule="@sometimes"))
    with pytest.raises(coord.BadSchedule):
        cron.job("a", schedule="61 * * * *")
    with pytest.raises(coord.InvalidArgument):
        await cron.history("a/b")
    with pytest.raises(coord.InvalidArgument):
        await cron.history("a", limit=0)
    with pytest.raises(coord.PayloadTooLarge):
        await cron.add(Job(name="a", schedule="@daily", payload="x" * (1 << 20)))
    with pytest.raises(coord.InvalidArgument):
        await cron.run(grace=-1)
    wrong: list[dict[str, Any]] = [{"ownership": "mine"}, {"history": 0}]
    for options in wrong:
        with pytest.raises(coord.InvalidArgument):
            client.cron(prefix + "c", **options)
    assert await cron.jobs() == ()
    await cron.add(Job(name="a", schedule="@yearly"))
    for _ in range(32):
        await cron.run_now("a")
    with pytest.raises(coord.InvalidArgument, match="too many"):
        await cron.run_now("a")


async def test_changes_at_the_same_time_are_all_made(client: coord.Client, prefix: str) -> None:
    cron = client.cron(prefix + "c")
    await cron.add(Job(name="a", schedule="@yearly"))
    asked = await asyncio.gather(*[cron.run_now("a") for _ in range(6)], cron.pause("a"))
    assert len(set(asked[:6])) == 6
    found = await client.get(prefix + "c/jobs/a")
    assert found is not None
    assert found.value.count(b"Z") == 7
    assert (await cron.jobs())[0].job.paused


async def test_a_job_that_nobody_can_read_is_told_and_left(
    client: coord.Client, prefix: str
) -> None:
    cron = client.cron(prefix + "c", ownership="elected")
    await client.put(prefix + "c/jobs/bad", "{}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        async with running(cron):
            await until(lambda: told)
    assert "job 'bad' cannot be read here" in str(told[0].message)
    assert await cron.jobs() == ()


async def test_closing_the_client_ends_the_scheduler() -> None:
    client = await coord.connect("memory:", runtime="inline")
    cron = client.cron("c")
    task = asyncio.ensure_future(cron.run())
    await asyncio.sleep(0.1)
    await client.close()
    with pytest.raises(coord.ClientClosed):
        await task


async def test_in_debug_mode_its_own_parts_are_no_conflict() -> None:
    async with coord.connect("memory:", runtime="inline", debug=True) as client:
        ownerships: tuple[Literal["elected", "partitioned"], ...] = ("elected", "partitioned")
        for ownership in ownerships:
            async with running(client.cron("c", ownership=ownership)):
                await asyncio.sleep(0.05)
        with pytest.raises(coord.NameConflict):
            client.mutex("c/jobs")


# -- without await -----------------------------------------------------------------------------------------------------------


def test_the_blocking_twin() -> None:
    with MemoryWorld() as world:
        client, other = world.connect_sync(), world.connect_sync()
        cron = client.cron("c")
        seen: list[coord.sync.Tick] = []
        enough = threading.Event()

        @cron.job("a", schedule="@every 1m", payload="x")
        def note(tick: coord.sync.Tick) -> None:
            seen.append(tick)
            if len(seen) == 3:
                enough.set()

        async def wrong(tick: coord.Tick) -> None:
            del tick

        with pytest.raises(coord.InvalidArgument):
            cron.handler("b")(wrong)

        def run() -> None:
            with contextlib.suppress(coord.ClientClosed):
                cron.run()

        thread = threading.Thread(target=run)
        thread.start()
        admin = other.cron("c")
        with world.clock.flying():
            assert enough.wait(WITHIN_S)
        assert [tick.payload for tick in seen[:3]] == ["x"] * 3
        assert len({tick.token for tick in seen}) == len(seen)
        assert seen[0].at < seen[1].at
        assert (seen[0].attempt, seen[0].asked, seen[0].job.name) == (1, False, "a")
        assert not seen[0].stopping.is_set()
        assert seen[0].missed_since is None
        assert admin.name == b"c"
        assert admin.pause("a")
        assert admin.resume("a")
        assert admin.run_now("a").tzinfo is UTC
        assert admin.put(Job(name="a", schedule="@every 2m"))
        admin.add(Job(name="b", schedule="@daily", paused=True))
        assert [status.job.name for status in admin.jobs()] == ["a", "b"]
        assert admin.history("a")[-1].outcome == "done"
        assert admin.remove("a")
        client.close()
        thread.join(WITHIN_S)
        assert not thread.is_alive()
