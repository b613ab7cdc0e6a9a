"""What is to be done for a job now: the rules alone, by examples and against a dumb model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from coord import Job
from coord.recipes.cron.layout import (
    Begun,
    JobDoc,
    State,
    decode_record,
    encode_record,
    tick_id,
    tick_time,
)
from coord.recipes.cron.rules import Lose, Skip, Start, Step, Wait, decide, due_of
from coord.recipes.cron.schedule import parse_schedule

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return BEGIN + timedelta(minutes=minutes)


def tick(minutes: float) -> str:
    return tick_id(at(minutes))


def step(
    minutes: float,
    state: State | None = None,
    *,
    alive: set[str] | None = None,
    **given: Any,  # noqa: ANN401 - the fields of a job
) -> Step:
    """Decide about a job that is due every ten minutes since the beginning."""
    asked = given.pop("asked", ())
    since = given.pop("since", BEGIN)
    job = replace(Job(name="j", schedule="@every 10m"), **given)
    doc = JobDoc(job=job, since=since, asked=asked)
    schedule = parse_schedule(job.schedule, job.tz)
    return decide(doc, schedule, state or State(), alive or set(), at(minutes).timestamp())


def test_the_next_tick_follows_from_the_last_one() -> None:
    assert step(3) == Wait(until=at(10).timestamp())
    assert step(10) == Start(tick=tick(10))
    assert step(10.5) == Start(tick=tick(10))
    assert step(10.5, State(last_tick=tick(10))) == Wait(until=at(20).timestamp())
    # A clock that was ahead, or that was put back: nothing twice, and nothing before its time.
    assert step(3, State(last_tick=tick(10))) == Wait(until=at(20).timestamp())


def test_a_tick_before_the_job_was_there_is_none() -> None:
    assert step(35, since=at(25)) == Start(tick=tick(30))
    assert step(29, since=at(25)) == Wait(until=at(30).timestamp())
    assert step(35, State(last_tick=tick(30)), since=at(25)) == Wait(until=at(40).timestamp())


def test_misfires() -> None:
    """The ticks 10 to 50 are due, and the last of them is two minutes old."""
    assert step(52) == Start(tick=tick(50), missed_since=at(10))
    assert step(52, misfire="skip") == Skip(tick=tick(50), since=at(10))
    assert step(52, misfire="all") == Start(tick=tick(10))
    assert step(52, misfire="all", misfire_limit=2) == Start(tick=tick(40), missed_since=at(10))
    # Within the grace it is no misfire.
    assert step(50.5, misfire="skip") == Start(tick=tick(50), missed_since=at(10))
    assert step(52, misfire="skip", misfire_grace=180) == Start(tick=tick(50), missed_since=at(10))
    assert step(12, misfire="skip") == Skip(tick=tick(10), since=at(10))
    assert step(12, misfire="once") == Start(tick=tick(10))


def test_overlap() -> None:
    state = State(last_tick=tick(10), running={tick(10): Begun(attempt=1)})
    assert step(20, state, alive={tick(10)}) == Wait()
    assert step(20, state, alive={tick(10)}, overlap=True) == Start(tick=tick(20))
    # Of an earlier life of the job, whose state is gone.
    assert step(20, alive={tick(0)}) == Wait()


def test_what_is_begun_and_runs_nowhere() -> None:
    state = State(last_tick=tick(10), running={tick(10): Begun(attempt=2)})
    assert step(11, state) == Lose(tick=tick(10), attempt=2)
    often: dict[str, Any] = {"policy": "at_least_once", "retries": 2}
    assert step(11, state, **often) == Start(tick=tick(10), attempt=3)
    last = replace(state, running={tick(10): Begun(attempt=3)})
    assert step(11, last, **often) == Lose(tick=tick(10), attempt=3)
    # Not before the pause after a failure, and at once if it was given back.
    due = round(at(12).timestamp() * 1000)
    paused = replace(state, running={tick(10): Begun(attempt=1, due_ms=due)})
    assert step(11, paused, **often) == Wait(until=at(12).timestamp())
    assert step(12, paused, **often) == Start(tick=tick(10), attempt=2)
    returned = replace(state, running={tick(10): Begun(attempt=0, given_back=True)})
    assert step(11, returned) == Start(tick=tick(10), attempt=1)


def test_paused_and_asked_for() -> None:
    assert step(25, paused=True) == Wait()
    one, two = tick(1.0001), tick(2.0001)
    assert step(25, paused=True, asked=(one, two)) == Start(tick=one, asked=True)
    done = State(last_asked=one)
    assert step(25, done, paused=True, asked=(one, two)) == Start(tick=two, asked=True)
    busy = State(last_asked=one, running={one: Begun(attempt=1)})
    assert step(25, busy, asked=(one, two), alive={one}) == Wait()


def test_jitter_is_the_same_for_all_and_another_for_each() -> None:
    job = Job(name="j", schedule="@every 10m", jitter=300)
    dues = [due_of(job, at(10 * n)) - at(10 * n).timestamp() for n in range(1, 50)]
    assert all(0 <= due < 300 for due in dues)
    assert len(set(dues)) > 40
    assert max(dues) - min(dues) > 200
    first = due_of(job, at(10))
    assert step(10, jitter=300) == Wait(until=first)
    assert step((first - BEGIN.timestamp()) / 60 + 0.001, jitter=300) == Start(tick=tick(10))


def test_a_tick_whose_jitter_has_not_passed_is_not_caught_up_on() -> None:
    job = Job(name="j", schedule="@every 10m", jitter=540)
    found = step(52, misfire="all", misfire_limit=1, jitter=540, misfire_grace=3600)
    assert isinstance(found, Start)
    moment = tick_time(found.tick)
    assert moment is not None
    assert due_of(job, moment) <= at(52).timestamp()
    later = [n for n in range(1, 6) if due_of(job, at(10 * n)) <= at(52).timestamp()]
    assert moment == at(10 * max(later))


@given(
    moments=st.lists(st.integers(1, 200), min_size=1, max_size=12),
    misfire=st.sampled_from(["skip", "once", "all"]),
    limit=st.integers(1, 4),
)
@settings(max_examples=200, deadline=None)
def test_every_tick_is_dealt_with_once(moments: list[int], misfire: str, limit: int) -> None:
    """Clocks that jump about: each tick up to the latest is begun, or left out and told so, and never both."""
    state, begun, told, highest = State(), list[int](), set[int](), 0
    for minutes in moments:
        highest = max(highest, minutes)
        caught_up = 0
        while not isinstance(
            found := step(minutes, state, misfire=misfire, misfire_limit=limit), Wait
        ):
            assert isinstance(found, (Start, Skip))
            number = _number(found.tick)
            since = found.since if isinstance(found, Skip) else found.missed_since
            out = set(range(number if since is None else _number(tick_id(since)), number))
            if isinstance(found, Start):
                begun.append(number)
                caught_up += 1
                assert caught_up <= (limit if misfire == "all" else 1)
                state = state.begun(found.tick, 1, asked=False).ended(found.tick)
            else:
                out.add(number)
                state = state.missed(found.tick)
            assert not told & out
            told |= out
    assert begun == sorted(set(begun))
    assert not told & set(begun)
    assert told | set(begun) == set(range(1, highest // 10 + 1))


def _number(ident: str) -> int:
    moment = tick_time(ident)
    assert moment is not None
    return (moment - BEGIN) // timedelta(minutes=10)


# -- what stands in the store ------------------------------------------------------------------------------------------


def test_ticks_in_keys_sort_as_they_come() -> None:
    moments = [at(0), at(0) + timedelta(milliseconds=7), at(0) + timedelta(seconds=1), at(600)]
    assert [tick_time(tick_id(moment)) for moment in moments] == moments
    assert tick_id(at(0)) == "20260301T000000Z"
    assert tick_id(moments[1]) == "20260301T000000.007Z"
    for wrong in ("", "x", "20260301", "20260301T000000.xZ"):
        assert tick_time(wrong) is None


def test_documents_come_back() -> None:
    job = Job(name="j", schedule="0 3 * * *", tz="Europe/Rome", payload={"a": [1]}, timeout=5)
    doc = JobDoc(job=job, since=at(1), asked=(tick(1.0001),))
    assert JobDoc.decode("j", doc.encode()) == doc
    state = State(
        last_tick=tick(1),
        last_asked=tick(1.001),
        running={tick(1): Begun(attempt=2, due_ms=5), tick(0): Begun(attempt=0, given_back=True)},
    )
    assert State.decode(state.encode()) == state
    record = coord.TickRecord(tick=at(1), outcome="failed", attempt=2, started_at=at(1), error="x")
    kv = coord.KeyValue(
        key=b"p/" + tick(1).encode(),
        value=encode_record(record, "n"),
        create_revision=7,
        mod_revision=8,
        version=2,
        lease=0,
    )
    assert decode_record(kv, b"p/") == replace(record, token=7)
    assert decode_record(replace(kv, key=b"p/other"), b"p/") is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"schedule":"@hourly"}',
        b'{"schedule":7,"since":"20260301T000000Z"}',
        b'{"schedule":"@never","since":"20260301T000000Z"}',
        b'{"schedule":"@hourly","since":"20260301T000000Z","retries":-1}',
        b'{"schedule":"@hourly","since":"20260301T000000Z","jitter":"x"}',
        b"[" * 100_000,
    ],
)
def test_what_others_have_written_is_no_job(value: bytes) -> None:
    assert JobDoc.decode("j", value) is None
    assert State.decode(value) == State()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "a\0"},
        {"policy": "maybe"},
        {"misfire": "twice"},
        {"misfire_limit": 0},
        {"misfire_grace": 0},
        {"retries": -1},
        {"timeout": 0},
        {"jitter": -1},
        {"jitter": 3601},
        {"payload": {1}},
        {"payload": float("nan")},
    ],
    ids=str,
)
def test_a_job_that_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(coord.InvalidArgument):
        replace(Job(name="j", schedule="@hourly"), **wrong).check()
