"""Waits and holds: their spans and links, how they end, and what is counted on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.trace import SpanKind, StatusCode

import coord
from coord._telemetry import MUTEX, link_to_holder, observed_wait
from coord._telemetry.notes import reason_of
from coord.local_line import LocalLine
from coord.runtime import real_env
from coord.store.comparing import Compare
from coord.store.operations import Op
from coord.store.txn import TxnResult
from tests.support.proxy import Proxy
from tests.support.telemetry import Listener, attributes_of, context_of, listening

ACQUIRE, TRY, HOLD = "coord.mutex.acquire", "coord.mutex.try_acquire", "coord.mutex.hold"
CAMPAIGN, LEAD = "coord.election.campaign", "coord.election.lead"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def identity(span: ReadableSpan) -> int:
    return context_of(span).span_id


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event of its own."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def until_waiting(mutex: coord.Mutex, count: int) -> None:
    async with asyncio.timeout(30):
        while len(await mutex.waiters()) < count:
            await asyncio.sleep(0.005)


async def test_wait_and_hold_stand_side_by_side_under_the_caller(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as session:
        with listener.tracer.start_as_current_span("job") as job:
            async with client.mutex(prefix + "m", session=session).hold() as grant:
                assert listener.named(HOLD) == []
        wait, hold = listener.one(ACQUIRE), listener.one(HOLD)
        caller = job.get_span_context().span_id
        assert parent(wait) == parent(hold) == caller
        assert linked(hold) == [identity(wait)]
        assert wait.kind is hold.kind is SpanKind.INTERNAL
        assert attributes_of(wait) == {
            "coord.name": prefix + "m",
            "coord.outcome": "granted",
            "coord.token": grant.token,
            "coord.queue.length": 0,
        }
        assert attributes_of(hold) == {
            "coord.name": prefix + "m",
            "coord.token": grant.token,
            "coord.lease": f"{session.lease_id:x}",
        }
        create = next(span for span in listener.named("etcdserverpb.KV/Txn"))
        assert parent(create) == identity(wait)
    assert listener.count("coord.client.wait.duration", coord__recipe="mutex") == 1
    assert listener.count("coord.client.hold.duration", coord__recipe="mutex") == 1
    assert listener.total("coord.client.queue.length", coord__recipe="mutex") == 0
    assert listener.total("coord.client.losses") == 0
    done = {"coord__cleanup": "release", "coord__outcome": "done"}
    assert listener.total("coord.client.cleanups", **done) == 1


async def test_a_cancelled_release_counts_once(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    cleanup = {"coord__cleanup": "release"}
    async with client.session(ttl=10) as session:
        grant = await client.mutex(prefix + "m", session=session).acquire()
        task = asyncio.ensure_future(grant.release())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await (await client.mutex(prefix + "m", session=session).acquire()).release()
    assert listener.total("coord.client.cleanups", **cleanup, coord__outcome="done") == 2
    assert listener.total("coord.client.cleanups", **cleanup, coord__outcome="left") == 0


async def test_a_wait_for_several_is_linked_to_each_holder_s(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    names = [prefix + name for name in ("a", "b", "c")]
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:
        first = await client.mutex(names[0], session=one).acquire()
        second = await client.multi_lock(names[1:], session=one).acquire()
        lock = client.multi_lock(names, session=two)
        assert await lock.try_acquire() is None
        waiting = asyncio.ensure_future(lock.acquire())
        await until_waiting(client.mutex(names[2]), 1)
        await first.release()
        await second.release()
        await (await waiting).release()
    a = identity(listener.one(ACQUIRE))
    held, waited = listener.named("coord.multi_lock.acquire")
    tried = listener.one("coord.multi_lock.try_acquire")
    b = identity(held)
    assert linked(held) == []
    assert linked(waited) == linked(tried) == [a, b, b]
    assert attributes_of(tried)["coord.outcome"] == "refused"
    assert attributes_of(waited)["coord.queue.length"] == 1
    assert [linked(hold) for hold in listener.named("coord.multi_lock.hold")] == [
        [b],
        [identity(waited)],
    ]


async def test_a_wait_is_linked_to_the_holder_s(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with (
        client.session(ttl=20) as one,
        client.session(ttl=20) as two,
        client.session(ttl=20) as three,
    ):
        held = await client.mutex(prefix + "m", session=one).acquire()
        holder = listener.one(ACQUIRE)
        entry = await client.get(held.key)
        assert entry is not None
        context = context_of(holder)
        told = json.loads(entry.value)["traceparent"]
        assert told.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
        mutex = client.mutex(prefix + "m", session=two)
        second = asyncio.ensure_future(mutex.acquire())
        await until_waiting(mutex, 1)
        third = asyncio.ensure_future(client.mutex(prefix + "m", session=three).acquire())
        await until_waiting(mutex, 2)
        await held.release()
        await (await second).release()
        await (await third).release()
    first_wait, second_wait, third_wait = listener.named(ACQUIRE)
    assert linked(first_wait) == []
    # The one behind both is linked to the one that held it when he came, not to the one before him.
    assert linked(second_wait) == linked(third_wait) == [identity(holder)]
    (link,) = third_wait.links
    assert link.context.is_remote
    assert dict(link.attributes or {}) == {
        "coord.key": held.key.decode(),
        "coord.token": held.token,
    }
    assert [attributes_of(w)["coord.queue.length"] for w in listener.named(ACQUIRE)] == [0, 1, 2]
    assert listener.total("coord.client.queue.length", coord__recipe="mutex") == 3


async def test_try_acquire_is_refused_and_linked(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        async with client.mutex(prefix + "m", session=one).hold():
            assert await client.mutex(prefix + "m", session=two).try_acquire() is None
        refused = listener.one(TRY)
        assert attributes_of(refused) == {"coord.name": prefix + "m", "coord.outcome": "refused"}
        assert linked(refused) == [identity(listener.one(ACQUIRE))]
        taken = await client.mutex(prefix + "m", session=two).try_acquire()
        assert taken is not None
        await taken.release()
    _, granted = listener.named(TRY)
    assert attributes_of(granted)["coord.outcome"] == "granted"
    assert attributes_of(granted)["coord.token"] == taken.token


def naming(span: int, *, padding: int = 0) -> str:
    """An entry of ours, as far as a link goes."""
    return json.dumps({"traceparent": f"00-{7:032x}-{span:016x}-01", "label": "x" * padding})


async def test_links_only_to_entries_that_name_a_span(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    """Go's clients leave the value empty; it may also be anything, written by anybody."""
    values = {
        "": [],
        "no json": [],
        "[" * 4000: [],
        '["traceparent"]': [],
        '{"traceparent":7}': [],
        '{"traceparent":"00-0-0-01"}': [],
        naming(0): [],
        naming(8, padding=5000): [],
        naming(9): [9],
    }
    async with client.session(ttl=10) as session:
        mutex = client.mutex(prefix + "m", session=session)
        for value in values:
            await client.put(prefix + "m/1", value)
            assert await mutex.try_acquire() is None
            waiting = asyncio.ensure_future(mutex.acquire())
            await until_waiting(mutex, 1)
            await client.delete(prefix + "m/1")
            await (await waiting).release()
    expected = list(values.values())
    assert [linked(span) for span in listener.named(TRY)] == expected
    assert [linked(span) for span in listener.named(ACQUIRE)] == expected


def test_no_link_outside_a_wait(listener: Listener) -> None:
    entry = b'{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
    with listener.tracer.start_as_current_span("mine"):
        link_to_holder(MUTEX, b"k", 1, entry)
    (span,) = listener.named("mine")
    assert span.links == ()


async def test_a_timeout_is_told_and_its_entry_is_abandoned(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with (
        client.session(ttl=10) as one,
        client.session(ttl=10) as two,
        client.mutex(prefix + "m", session=one).hold(),
    ):
        with pytest.raises(coord.LockTimeout):
            await client.mutex(prefix + "m", session=two).acquire(timeout=0.1)
        abandoned = {"coord__cleanup": "abandon", "coord__outcome": "done"}
        await until(lambda: listener.total("coord.client.cleanups", **abandoned) == 1)
    (wait,) = [s for s in listener.named(ACQUIRE) if attributes_of(s)["coord.outcome"] == "timeout"]
    assert attributes_of(wait)["error.type"] == "LockTimeout"
    assert wait.status.status_code is StatusCode.ERROR
    assert len(listener.named(HOLD)) == 1
    waits = listener.series("coord.client.wait.duration", coord__outcome="timeout")
    assert [series.attributes for series in waits] == [
        {"coord.recipe": "mutex", "coord.outcome": "timeout"}
    ]


async def test_a_cancelled_wait_is_told_as_that(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with (
        client.session(ttl=10) as one,
        client.session(ttl=10) as two,
        client.mutex(prefix + "m", session=one).hold(),
    ):
        waiting = asyncio.ensure_future(client.mutex(prefix + "m", session=two).acquire())
        await until_waiting(client.mutex(prefix + "m"), 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        cancelled = {"coord__outcome": "cancelled", "coord__recipe": "mutex"}
        await until(lambda: listener.count("coord.client.wait.duration", **cancelled) == 1)


async def test_a_broken_lock_ends_its_hold_as_lost(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as session:
        mutex = client.mutex(prefix + "m", session=session)
        grant = await mutex.acquire()
        await mutex.break_lock(grant.token, reason="test")
        await grant.lost.wait(timeout=10)
        hold = listener.one(HOLD)
        assert await grant.release() is False
    assert attributes_of(hold)["coord.reason"] == "revoked"
    assert attributes_of(hold)["error.type"] == "LockLost"
    assert hold.status.status_code is StatusCode.ERROR
    assert listener.one(HOLD) is not None  # the release did not end it once more
    assert listener.count("coord.client.hold.duration") == 1
    assert listener.total("coord.client.losses", coord__reason="revoked") == 1
    assert listener.total("coord.client.losses") == 1


async def test_a_revoked_lease_loses_session_and_grant(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    session = await client.session(ttl=10).open()
    grant = await client.mutex(prefix + "m", session=session).acquire()
    await client.lease_revoke(session.lease_id)
    await session.expired.wait(timeout=20)
    await grant.lost.wait(timeout=10)
    lost = "coord.client.losses"
    assert listener.total(lost, coord__recipe="session", coord__reason="lease_not_found") == 1
    assert listener.total(lost, coord__recipe="mutex") == 1


async def test_closing_the_session_loses_what_is_held(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as session:
        await client.mutex(prefix + "m", session=session).acquire()
    assert attributes_of(listener.one(HOLD))["coord.reason"] == "closed"
    assert listener.total("coord.client.losses", coord__reason="closed") == 1


async def test_campaign_and_term_are_spans_and_the_proposal_stays_as_it_is(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as one, client.session(ttl=10) as two:
        with listener.tracer.start_as_current_span("job") as job:
            term = await client.election(prefix + "e", session=one).campaign("mine")
        leader = await client.election(prefix + "e").leader()
        assert leader.value == b"mine"
        other = client.election(prefix + "e", session=two)
        with pytest.raises(coord.CampaignTimeout):
            await other.campaign("x", timeout=0.1)
        abandoned = {"coord__recipe": "election", "coord__cleanup": "abandon"}
        await until(lambda: listener.total("coord.client.cleanups", **abandoned) == 1)
        waiting = asyncio.ensure_future(other.campaign("x"))
        async with asyncio.timeout(30):
            while len(await other.candidates()) < 2:
                await asyncio.sleep(0.005)
        await term.resign()
        await (await waiting).resign()
    won, lost, later = listener.named(CAMPAIGN)
    lead = listener.named(LEAD)[0]
    assert parent(won) == parent(lead) == job.get_span_context().span_id
    assert linked(lead) == [identity(won)]
    assert attributes_of(won)["coord.outcome"] == "granted"
    assert attributes_of(lost)["error.type"] == "CampaignTimeout"
    assert attributes_of(later)["coord.queue.length"] == 1
    assert lost.links == later.links == ()
    assert listener.count("coord.client.hold.duration", coord__recipe="election") == 2


async def test_opening_a_session_is_a_span_and_renewals_are_counted(
    listener: Listener, client: coord.Client
) -> None:
    async with client.session(ttl=2, name="worker"):
        opened = listener.one("coord.session.open")
        assert attributes_of(opened) == {"coord.name": "worker", "coord.outcome": "granted"}
        grant = listener.one("etcdserverpb.Lease/LeaseGrant")
        assert parent(grant) == identity(opened)
        ok = {"coord__outcome": "ok"}
        await until(lambda: listener.total("coord.client.renewals", **ok) >= 2)
        assert listener.count("coord.client.renewal.duration") >= 2
    assert listener.total("coord.client.losses") == 0


async def test_a_session_that_cannot_open_says_why(listener: Listener, endpoint: str) -> None:
    async with coord.connect(endpoint) as client:
        with pytest.raises(coord.SessionExpired):
            await client.session(lease_id=12345).open()
    opened = listener.one("coord.session.open")
    assert attributes_of(opened)["coord.outcome"] == "failed"
    assert attributes_of(opened)["error.type"] == "SessionExpired"


# -- what goes wrong -------------------------------------------------------------------------------------------------


async def test_tasks_of_one_session_are_linked_to_the_head_of_their_line(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=10) as session:
        mutex = client.mutex(prefix + "m", session=session)
        held = await mutex.acquire()
        waiting = asyncio.ensure_future(mutex.acquire())
        with pytest.raises(coord.LockTimeout):
            await mutex.acquire(timeout=0.1)
        await held.release()
        await (await waiting).release()
        await (await mutex.acquire()).release()
    first, timed_out, second, last = listener.named(ACQUIRE)
    assert attributes_of(timed_out)["coord.outcome"] == "timeout"
    assert linked(timed_out) == linked(second) == [identity(first)]
    assert linked(first) == linked(last) == []


async def test_renewals_without_an_answer_fail_and_the_session_expires(
    listener: Listener, endpoint: str, prefix: str
) -> None:
    async with Proxy(endpoint) as proxy, coord.connect(proxy.endpoint) as client:
        session = await client.session(ttl=2).open()
        grant = await client.mutex(prefix + "m", session=session).acquire()
        proxy.hold_answers()
        await grant.lost.wait(timeout=30)
        assert await grant.release() is False
    failed = {"coord__outcome": "failed"}
    assert listener.total("coord.client.renewals", **failed) >= 1
    expired = {"coord__reason": "expired"}
    assert listener.total("coord.client.losses", coord__recipe="session", **expired) == 1
    assert listener.total("coord.client.losses", coord__recipe="mutex", **expired) == 1
    left = {"coord__cleanup": "release", "coord__outcome": "left"}
    assert listener.total("coord.client.cleanups", **left) == 1


async def test_a_release_past_the_deadline_is_a_loss(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        session = await client.session(ttl=10).open()
        grant = await client.mutex("m", session=session).acquire()
        monkeypatch.setattr(session, "valid_for", lambda: 0.0)  # before any timer has told
        assert await grant.release() is False
        monkeypatch.undo()
    assert attributes_of(listener.one(HOLD))["coord.reason"] == "expired"
    assert listener.count("coord.client.hold.duration") == 1
    assert listener.total("coord.client.losses", coord__recipe="mutex") == 1


async def test_who_has_left_the_line_is_not_linked_to(listener: Listener) -> None:
    session = cast("coord.Session", SimpleNamespace(lines={}))

    async def join() -> LocalLine:
        return await LocalLine.join(session, b"m")

    def waiting() -> asyncio.Task[LocalLine]:
        return asyncio.ensure_future(
            observed_wait(MUTEX, MUTEX.wait, "m", join, clock=real_env().clock)
        )

    head = await waiting()
    second = waiting()
    await asyncio.sleep(0)
    third = waiting()
    head.leave()  # the third joins before the second has noticed that it is the head
    (await second).leave()
    (await third).leave()
    first_span, second_span, third_span = listener.named(ACQUIRE)
    assert linked(second_span) == [identity(first_span)]
    assert linked(third_span) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("revoked", "revoked"),
        ("lease not found", "lease_not_found"),
        ("its session ended: lease not found", "lease_not_found"),
        ("its session ended: no renewal was confirmed in time", "expired"),
        ("the grant took longer than its TTL", "expired"),
        ("unhealthy", "unhealthy"),
        ("its session ended: orphaned", "orphaned"),
        ("its session ended: what nobody has thought of", "other"),
    ],
)
def test_reasons_are_few(text: str, reason: str) -> None:
    assert reason_of(text) == reason


async def test_the_holder_is_read_only_for_those_who_record(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace that is not sampled is carried on, but costs no larger request."""
    never = TracerProvider(sampler=sampling.ALWAYS_OFF, shutdown_on_exit=False)
    operations: list[int] = []
    for tracers in (listener.tracers, never, None):
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
        async with coord.connect("memory:", runtime="inline") as client:
            runner = client._core.txn
            run = runner.run

            async def counted(
                when: tuple[Compare, ...],
                then: tuple[Op, ...],
                *rest: Any,  # noqa: ANN401 - passed on
                run: Callable[..., Awaitable[TxnResult]] = run,
                **options: Any,  # noqa: ANN401 - passed on
            ) -> TxnResult:
                operations.append(len(then))
                return await run(when, then, *rest, **options)

            monkeypatch.setattr(runner, "run", counted)
            grant = await client.mutex("m").acquire()
            entry = await client.get(grant.key)
            assert entry is not None
            flags = {id(listener.tracers): "-03", id(never): "-02"}.get(id(tracers), "")
            assert json.loads(entry.value).get("traceparent", "").endswith(flags)
            assert ("traceparent" in json.loads(entry.value)) is (tracers is not None)
            await grant.release()
    assert operations == [3, 1, 2, 1, 2, 1]


async def test_queues_tell_of_their_waits_and_a_job_of_its_hold(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    async with client.queue(prefix + "q") as queue, client.work_queue(prefix + "w") as work:
        await queue.put("a")
        await work.put("a")
        await queue.get()
        assert await queue.try_get() is None
        with pytest.raises(coord.QueueEmpty):
            await queue.get(timeout=0.05)
        (item,) = await work.receive()
        async with item:
            pass
    name = {"coord.name": prefix + "q"}
    got, empty = listener.named("coord.queue.get")
    assert attributes_of(got) == {**name, "coord.outcome": "granted"}
    assert attributes_of(empty)["coord.outcome"] == "timeout"
    refused = {**name, "coord.outcome": "refused"}
    assert attributes_of(listener.one("coord.queue.try_get")) == refused
    received = listener.one("coord.work_queue.receive")
    assert attributes_of(received)["coord.outcome"] == "granted"
    held = attributes_of(listener.one("coord.work_queue.handle"))
    assert (held["coord.name"], held["coord.token"]) == (prefix + "w", item.token)
    assert listener.count("coord.client.hold.duration", coord__recipe="work_queue") == 1
    listener.check_names()
