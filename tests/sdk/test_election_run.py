"""``Election.run``: what it does with lost candidacies, and with functions that do not stop; and ``observe`` in trouble."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import coord
import coord.sync
from coord.core import Placement
from coord.election import leading
from coord.election.observation import Observation
from tests.support.faulty import TXN, make_faulty, settle
from tests.support.servers import clean_environment
from tests.support.telemetry import Listener, listening

WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


async def forever(_: coord.Term) -> None:
    await asyncio.Event().wait()


async def first_leader(client: coord.Client, name: str) -> coord.Leader:
    async with asyncio.timeout(WITHIN_S):
        async for leader in client.election(name).observe():
            if leader is not None:
                return leader
    raise AssertionError


# -- standing again ------------------------------------------------------------------------------------------------


async def test_a_removed_candidacy_is_taken_up_again(client: coord.Client, prefix: str) -> None:
    name = prefix + "e"
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:
        term = await client.election(name, session=one).campaign("before")
        election = client.election(name, session=two)
        key = f"{name}/{two.lease_id:x}"
        start = (await client.get_prefix(name)).revision + 1
        running = asyncio.ensure_future(election.run(forever, value="runs"))
        async with client.watch(key, start_revision=start) as watch, asyncio.timeout(WITHIN_S):
            await anext(watch)
            await client.delete(key)
            while (await anext(watch)).type is not coord.EventType.PUT:
                pass
        await term.resign()
        assert (await first_leader(client, name)).value == b"runs"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_campaign_that_fails_for_now_is_begun_again(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    election = inline.election("e")
    failures: list[Exception] = [
        coord.Unavailable("away"),
        coord.CoordTimeout("Txn", 10.0),
        coord.AmbiguousResult("Txn", "no answer"),
        coord.LeadershipLost("e", 1, "revoked"),
        coord.SessionExpired("no renewal was confirmed in time"),
    ]
    original = election.campaign

    async def campaign(value: str | bytes = b"", *, timeout: float | None = None) -> coord.Term:
        if failures:
            raise failures.pop(0)
        return await original(value, timeout=timeout)

    async def lead(_: coord.Term) -> None:
        return

    monkeypatch.setattr(election, "campaign", campaign)
    monkeypatch.setattr(leading, "_REJOIN_HIGH_S", 0.06)
    async with asyncio.timeout(WITHIN_S):
        await election.run(lead, rejoin=False)
    assert failures == []


async def test_what_is_wrong_for_good_is_raised(inline: coord.Client) -> None:
    with pytest.raises(coord.PayloadTooLarge):
        await inline.election("e").run(forever, value=b"x" * (600 * 1024))


# -- overruns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("returns", [True, False], ids=["returned", "running"])
@pytest.mark.parametrize("again", [None, 0, 1, 2], ids=lambda again: f"again-{again}")
async def test_a_cancelled_run_gives_leadership_back(
    inline: coord.Client, *, returns: bool, again: int | None
) -> None:
    """At whatever moment, once or twice: while the function ends, and behind it."""
    for steps in range(16):
        begun = asyncio.Event()

        async def lead(term: coord.Term, begun: asyncio.Event = begun) -> None:
            begun.set()
            if not returns:
                await forever(term)

        running = asyncio.ensure_future(inline.election(f"e/{steps}").run(lead, rejoin=False))
        await begun.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        if again is not None:
            for _ in range(again):
                await asyncio.sleep(0)
            running.cancel()
        await asyncio.wait({running})
    assert await settle(inline, "e/") == []


async def test_the_deadline_of_a_term_moves_with_its_renewals(inline: coord.Client) -> None:
    async with inline.session(ttl=20) as session:
        term = await inline.election("e", session=session).campaign()
        clock = inline._home.env.clock
        assert 0 < term.stop_by - clock.mono() <= 20
        assert term.stop_by == pytest.approx(clock.mono() + session.valid_for(), abs=0.5)
        await term.resign()
        assert term.stop_by <= clock.mono()


async def test_a_function_that_stops_when_it_is_told_is_no_overrun(
    client: coord.Client, prefix: str
) -> None:
    overruns: list[coord.Term] = []
    terms: list[coord.Term] = []
    again = asyncio.Event()

    async def lead(term: coord.Term) -> None:
        terms.append(term)
        if len(terms) > 1:
            again.set()
        else:
            await client.lease_revoke(term.session.lease_id)
        await asyncio.Event().wait()

    running = asyncio.ensure_future(
        client.election(prefix + "e").run(lead, value="x", on_overrun=overruns.append)
    )
    await asyncio.wait_for(again.wait(), WITHIN_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert overruns == []


@pytest.mark.parametrize("runtime", ["thread", "inline"])
async def test_an_overrun_is_counted_and_logged_unless_somebody_takes_care(
    listener: Listener, runtime: Placement
) -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    let_go, seen = asyncio.Event(), asyncio.Event()

    def handle(_: object, context: dict[str, Any]) -> None:
        told.append(context)
        seen.set()

    async def lead(term: coord.Term) -> None:
        try:
            await client.lease_revoke(term.session.lease_id)
            await asyncio.Event().wait()
        finally:
            await let_go.wait()

    async with coord.connect("memory:", runtime=runtime) as client:
        loop.set_exception_handler(handle)
        try:
            async with client.session(ttl=2) as session:
                election = client.election("e", session=session)
                running = asyncio.ensure_future(election.run(lead))
                await asyncio.wait_for(seen.wait(), WITHIN_S)
                assert not running.done()
                let_go.set()
                with pytest.raises(coord.SessionExpired):
                    await running
        finally:
            loop.set_exception_handler(None)
    assert listener.total("coord.client.overruns", coord__recipe="election") == 1
    (context,) = told
    assert "'e'" in context["message"]
    assert "still runs" in context["message"]


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment({}),
    )


def test_a_program_may_ask_to_be_ended_though_it_blocks_its_loop() -> None:
    done = run_program("""
        import asyncio, threading, time, coord

        async def lead(term):
            await client.lease_revoke(term.session.lease_id)
            print("blocking", flush=True)
            time.sleep(30)
            print("never", flush=True)

        async def main():
            global client
            async with coord.connect("memory:") as client:
                async with client.session(ttl=2) as session:
                    await client.election("e", session=session).run(lead, on_overrun="exit")

        asyncio.run(main())
    """)
    assert (done.returncode, done.stdout) == (70, "blocking\n")
    assert "leads 'e'" in done.stderr
    assert "ending the process" in done.stderr


def test_a_thread_may_ask_for_it_too() -> None:
    done = run_program("""
        import time, coord.sync

        def lead(term):
            client.lease_revoke(term.session.lease_id)
            print("blocking", flush=True)
            time.sleep(30)
            print("never", flush=True)

        with coord.sync.connect("memory:") as client, client.session(ttl=2) as session:
            client.election("e", session=session).run(lead, on_overrun="exit")
    """)
    assert (done.returncode, done.stdout) == (70, "blocking\n")


def test_a_thread_hands_its_term_on() -> None:
    with coord.sync.connect("memory:") as client, client.session(ttl=20) as session:
        term = client.election("e", session=session).campaign("one")
        assert term.stop_by > term.acquired_at
        client.put("e/other", "two")
        leader = term.transfer("e/other", timeout=WITHIN_S)
        assert leader is not None
        assert leader.value == b"two"
        with pytest.raises(coord.NotLeader):
            term.check()
        with pytest.raises(coord.NotLeader):
            term.transfer("e/other")


# -- observing -----------------------------------------------------------------------------------------------------


async def test_an_observer_outlasts_a_silent_server(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = [coord.CoordTimeout("Txn", 10.0), coord.Unavailable("away")]
    original = Observation._resync

    async def resync(self: Observation) -> bool:
        runner = inline._home.txn
        with monkeypatch.context() as patch:
            if failures:
                patch.setattr(runner, "run", fail)
            return await original(self)

    async def fail(*_: object) -> None:
        raise failures.pop(0)

    monkeypatch.setattr(Observation, "_resync", resync)
    async with asyncio.timeout(WITHIN_S):
        async for leader in inline.election("e").observe():
            assert leader is None
            break
    assert failures == []


async def test_an_observer_reads_once_for_each_change_of_leader(inline: coord.Client) -> None:
    """observe 1 + 1 per change, and nothing for a new value (spec recipes 7)."""
    seen: list[coord.Leader | None] = []
    faulty = make_faulty(inline)

    async def look_on() -> None:
        async for leader in inline.election("e").observe():
            seen.append(leader)  # noqa: PERF401 - as they come

    async def until(count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(seen) < count:
                await asyncio.sleep(0)

    watching = asyncio.ensure_future(look_on())
    await until(1)
    for number in range(3):
        begun = len(seen)
        term = await inline.election("e").campaign(f"{number}")
        await until(begun + 1)
        faulty.paths.clear()
        await term.proclaim("more")
        await until(begun + 2)
        assert faulty.paths == [TXN]  # the proclamation
        faulty.paths.clear()
        await term.resign()
        await until(begun + 3)
        assert faulty.paths == [TXN, TXN]  # the resignation, and who is next
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
