"""Elections, on every store: one leader, rising tokens, what observers see, and ``run``."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

import coord
from coord import EventType, Leader, WatchEvent
from coord.election.observation import Observation
from coord.store.values import WatchBatch
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess

WITHIN_S = 20.0


@contextlib.asynccontextmanager
async def two_sessions(
    client: coord.Client,
) -> AsyncGenerator[tuple[coord.Session, coord.Session]]:
    async with client.session(ttl=20) as one, client.session(ttl=20) as two:
        yield one, two


async def lined_up(client: coord.Client, name: str, count: int) -> None:
    """Wait until so many candidates are in line."""
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while len(await client.election(name).candidates()) != count:
            await anext(watch)


# -- one term ------------------------------------------------------------------------------------------------------


async def test_a_term_from_campaign_to_resignation(client: coord.Client, prefix: str) -> None:
    election = client.election(prefix)
    with pytest.raises(coord.NoLeader):
        await election.leader()
    assert await election.candidates() == ()
    term = await election.campaign("one", timeout=WITHIN_S)
    term.check()
    leader = await election.leader()
    assert leader == Leader(
        key=term.key,
        value=b"one",
        token=term.token,
        revision=term.token,
        lease_id=term.session.lease_id,
    )
    revision = await term.proclaim("two")
    leader = await election.leader()
    assert (leader.value, leader.token, leader.revision) == (b"two", term.token, revision)
    assert await term.resign() is True
    with pytest.raises(coord.NoLeader):
        await election.leader()
    with pytest.raises(coord.NotHeld):
        await term.proclaim("three")
    assert await term.resign() is True


async def test_succession_is_in_order_with_rising_tokens(client: coord.Client, prefix: str) -> None:
    order: list[str] = []
    tokens: list[int] = []
    leading = 0

    async def candidate(name: str, session: coord.Session) -> None:
        nonlocal leading
        async with client.election(prefix, session=session).lead(name, timeout=WITHIN_S) as term:
            leading += 1
            assert leading == 1
            order.append(name)
            tokens.append(term.token)
            assert (await client.election(prefix).leader()).value == name.encode()
            leading -= 1

    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(client.session(ttl=20)) for _ in range(4)]
        first = await client.election(prefix, session=sessions[0]).campaign("0")
        async with asyncio.TaskGroup() as group:
            for number in (1, 2, 3):
                group.create_task(candidate(str(number), sessions[number]))
                await lined_up(client, prefix, number + 1)
            line = await client.election(prefix).candidates()
            assert [c.value for c in line] == [b"0", b"1", b"2", b"3"]
            assert [c.lease_id for c in line] == [s.lease_id for s in sessions]
            await first.resign()
    assert order == ["1", "2", "3"]
    assert tokens == sorted(tokens)
    assert tokens[0] > first.token


async def test_an_entry_of_the_same_lease_is_adopted(client: coord.Client, prefix: str) -> None:
    """What a program left behind under a lease that the next one adopts, as in spec core 8.4."""
    async with client.session(ttl=20) as session:
        key = f"{prefix}/{session.lease_id:x}"
        put = await client.put(key, "before", lease=session.lease_id)
        election = client.election(prefix, session=session)
        term = await election.campaign("before", timeout=WITHIN_S)
        assert (term.key, term.token) == (key.encode(), put.revision)
        assert (await election.leader()).revision == put.revision  # the same value is not put again
        await term.resign()
        put = await client.put(key, "before", lease=session.lease_id)
        term = await election.campaign("after", timeout=WITHIN_S)
        leader = await election.leader()
        assert (leader.value, leader.token) == (b"after", put.revision)
        assert leader.revision > put.revision
        await term.resign()


async def test_campaigns_of_one_session_queue_behind_each_other(
    client: coord.Client, prefix: str
) -> None:
    election = client.election(prefix)
    first = await election.campaign("1")
    with pytest.raises(coord.CampaignTimeout, match="another campaign of this session"):
        await election.campaign("2", timeout=0.1)
    waiting = asyncio.ensure_future(election.campaign("2"))
    await first.resign()
    async with asyncio.timeout(WITHIN_S):
        second = await waiting
    assert second.token > first.token
    await second.resign()


async def test_timeout_names_who_is_ahead_and_withdraws(client: coord.Client, prefix: str) -> None:
    async with two_sessions(client) as (one, two):
        term = await client.election(prefix, session=one).campaign("1")
        behind = client.election(prefix, session=two)
        with pytest.raises(coord.CampaignTimeout, match=term.key.decode()) as caught:
            await behind.campaign("2", timeout=0.3)
        assert isinstance(caught.value, TimeoutError)
        await lined_up(client, prefix, 1)
        with pytest.raises(coord.InvalidArgument):
            await behind.campaign("2", timeout=-1)
        await term.resign()


async def test_a_cancelled_campaign_leaves_nothing(client: coord.Client, prefix: str) -> None:
    async with two_sessions(client) as (one, two):
        term = await client.election(prefix, session=one).campaign("1")
        waiting = asyncio.ensure_future(client.election(prefix, session=two).campaign("2"))
        await lined_up(client, prefix, 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await lined_up(client, prefix, 1)
        await term.resign()
        await lined_up(client, prefix, 0)


# -- loss ----------------------------------------------------------------------------------------------------------


async def test_a_deleted_key_ends_the_term(client: coord.Client, prefix: str) -> None:
    election = client.election(prefix)
    term = await election.campaign("1")
    await client.delete(term.key)
    with pytest.raises(coord.LeadershipLost):
        await term.proclaim("2")
    assert await term.lost.wait(timeout=WITHIN_S) == "revoked"
    assert term.valid_for() == 0
    with pytest.raises(coord.LeadershipLost):
        term.check()
    assert await term.resign() is False
    again = await election.campaign("3", timeout=WITHIN_S)
    assert again.token > term.token
    await again.resign()


async def test_a_revoked_lease_ends_the_term_and_the_waiting(
    client: coord.Client, prefix: str
) -> None:
    async with client.session(ttl=2) as one, client.session(ttl=2) as two:
        term = await client.election(prefix, session=one).campaign("1")
        waiting = asyncio.ensure_future(client.election(prefix, session=two).campaign("2"))
        await lined_up(client, prefix, 2)
        await client.lease_revoke(two.lease_id)
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(coord.SessionExpired):
                await waiting
        term.check()
        await client.lease_revoke(one.lease_id)
        # Whichever is noticed first: the key's deletion, or the lease's end.
        assert await term.lost.wait(timeout=WITHIN_S) in ("revoked", "session lease not found")
        with pytest.raises(coord.LeadershipLost):
            await term.proclaim("3")


async def test_loss_cancels_the_body_of_lead(client: coord.Client, prefix: str) -> None:
    tokens: list[int] = []

    async def lead() -> None:
        async with client.election(prefix).lead("1") as term, asyncio.timeout(WITHIN_S):
            tokens.append(term.token)
            await client.delete(term.key)
            await asyncio.Event().wait()

    with pytest.raises(coord.LeadershipLost) as caught:
        await lead()
    assert [caught.value.token] == tokens
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_loss_flags_the_body_of_lead_if_asked(client: coord.Client, prefix: str) -> None:
    reached_the_end = asyncio.Event()

    async def lead() -> None:
        async with client.election(prefix).lead("1", on_loss="flag") as term:
            await client.delete(term.key)
            await term.lost.wait(timeout=WITHIN_S)
            reached_the_end.set()

    with pytest.raises(coord.LeadershipLost):
        await lead()
    assert reached_the_end.is_set()


# -- observers -----------------------------------------------------------------------------------------------------


async def true_history(
    client: coord.Client, name: str, first: int, last: int
) -> list[Leader | None]:
    """Every state of the leadership, computed from all events of the line."""
    events: list[WatchEvent] = []
    async with client.watch(name + "/", prefix=True, start_revision=first) as watch:
        while not events or events[-1].revision < last:
            events.append(await anext(watch))
    history: list[Leader | None] = [None]
    line: dict[bytes, Leader] = {}
    for _, changes in itertools.groupby(events, key=lambda event: event.revision):
        for event in changes:
            if event.type is EventType.PUT:
                line[event.key] = Leader.of(event.kv)
            else:
                line.pop(event.key, None)
        now = min(line.values(), key=lambda leader: leader.token, default=None)
        if now != history[-1]:
            history.append(now)
    return history


def is_part_of(seen: list[Leader | None], history: list[Leader | None]) -> bool:
    """Whether ``seen`` is ``history`` with some states left out."""
    rest = iter(history)
    return all(any(state == true for true in rest) for state in seen)


async def observe(
    election: coord.Election, until: bytes, seen: list[Leader | None], begun: asyncio.Event
) -> None:
    async for leader in election.observe():
        seen.append(leader)
        begun.set()
        if leader is not None and leader.value == until:
            return


async def reign(client: coord.Client, prefix: str, terms: int) -> tuple[coord.Term, int]:
    """Leaders come, proclaim and go, by resignation and by death; return the last one and its last word's revision."""
    for number in range(terms):
        async with two_sessions(client) as (one, two):
            first = await client.election(prefix, session=one).campaign(f"{number}a")
            second = asyncio.ensure_future(
                client.election(prefix, session=two).campaign(f"{number}b")
            )
            await first.proclaim(f"{number}c")
            if number % 3 == 0:
                await first.resign()
            elif number % 3 == 1:
                await client.delete(first.key)
            else:
                await one.close()
            term = await second
            await term.proclaim(f"{number}d")
            await term.resign()
    term = await client.election(prefix).campaign("")
    return term, await term.proclaim("end")


async def test_observers_see_the_true_leaders_in_order(client: coord.Client, prefix: str) -> None:
    first = (await client.get_prefix(prefix)).revision
    seen: list[Leader | None] = []
    begun = asyncio.Event()
    async with asyncio.timeout(WITHIN_S * 2), asyncio.TaskGroup() as group:
        group.create_task(observe(client.election(prefix), b"end", seen, begun))
        await begun.wait()
        term, last = await reign(client, prefix, 6)
    history = await true_history(client, prefix, first, last)
    await term.resign()
    assert seen[0] is None  # "nobody" is told, too
    assert seen[-1] == history[-1]
    assert is_part_of(seen, history)
    assert all(a != b for a, b in itertools.pairwise(seen))
    tokens = [leader.token for leader in seen if leader is not None]
    assert tokens == sorted(tokens)


async def test_observers_go_on_over_cut_connections_and_compactions(
    endpoint: str, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        first = (await direct.get_prefix(prefix)).revision
        seen: list[Leader | None] = []
        begun = asyncio.Event()
        async with asyncio.timeout(WITHIN_S * 2), asyncio.TaskGroup() as group:
            observing = group.create_task(observe(client.election(prefix), b"end", seen, begun))
            await begun.wait()
            reigning = group.create_task(reign(direct, prefix, 12))
            while not reigning.done():
                await asyncio.wait({reigning}, timeout=0.05)
                proxy.cut()
            term, last = reigning.result()
            history = await true_history(direct, prefix, first, last)
            await observing
        await term.resign()
        assert is_part_of(seen, history)
        assert seen[-1] == history[-1]

        # Out of touch while a new leader comes and history goes.
        observer = client.election(prefix).observe()
        assert await anext(observer) is None
        await proxy.refuse()
        proxy.cut()
        term = await direct.election(prefix).campaign("unseen")
        revision = await term.proclaim("seen")
        await direct.compact((await direct.put(prefix, "x")).revision)
        await proxy.accept()
        async with asyncio.timeout(WITHIN_S):
            leader = await anext(observer)
        assert leader is not None
        assert (leader.value, leader.token, leader.revision) == (b"seen", term.token, revision)
        await term.resign()
        async with asyncio.timeout(WITHIN_S):
            assert await anext(observer) is None


# -- run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["etcd", "memory"])
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[coord.Client]:
    """A client on a thread of its own, and one on the test's loop."""
    if request.param == "memory":
        async with coord.connect("memory:", runtime="inline") as made:
            yield made
    else:
        process: ServerProcess = request.getfixturevalue("etcd_process")
        async with coord.connect(process.endpoint) as made:
            yield made


async def test_run_leads_until_the_function_returns(runner: coord.Client, prefix: str) -> None:
    terms: list[coord.Term] = []

    async def lead(term: coord.Term) -> None:
        term.check()
        assert (await runner.election(prefix).leader()).value == b"me"
        terms.append(term)

    async with asyncio.timeout(WITHIN_S):
        await runner.election(prefix).run(lead, value="me", rejoin=False)
    assert len(terms) == 1
    assert terms[0].released
    with pytest.raises(coord.NoLeader):
        await runner.election(prefix).leader()


async def test_run_joins_again_with_rising_tokens(runner: coord.Client, prefix: str) -> None:
    tokens: list[int] = []
    enough = asyncio.Event()

    async def lead(term: coord.Term) -> None:
        tokens.append(term.token)
        if len(tokens) == 3:
            enough.set()
            await asyncio.Event().wait()
        if len(tokens) == 2:
            raise LookupError("rejoins after an error, too")

    running = asyncio.ensure_future(runner.election(prefix).run(lead))
    async with asyncio.timeout(WITHIN_S):
        await enough.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert tokens == sorted(set(tokens))
    with pytest.raises(coord.NoLeader):
        await runner.election(prefix).leader()


async def test_run_raises_the_functions_error_if_asked(runner: coord.Client, prefix: str) -> None:
    async def lead(_: coord.Term) -> None:
        raise LookupError("mine")

    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(LookupError, match="mine"):
            await runner.election(prefix).run(lead, on_error="raise")
    with pytest.raises(coord.NoLeader):
        await runner.election(prefix).leader()


async def test_a_slow_body_overlaps_nothing_of_its_process_and_is_reported(prefix: str) -> None:
    """Leadership is lost, but the body takes its time: until it has returned this process does not lead again."""
    inside = 0
    tokens: list[int] = []
    overruns: list[coord.Term] = []
    overrun, second, let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def note(term: coord.Term) -> None:
        overruns.append(term)
        overrun.set()

    async def lead(term: coord.Term) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        tokens.append(term.token)
        try:
            if len(tokens) == 1:
                await client.delete(term.key)
                await asyncio.Event().wait()
            second.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if len(tokens) == 1:
                await let_go.wait()
            raise
        finally:
            inside -= 1

    async with coord.connect("memory:") as client, client.session(ttl=2) as session:
        running = asyncio.ensure_future(
            client.election(prefix, session=session).run(lead, on_overrun=note)
        )
        async with asyncio.timeout(WITHIN_S):
            await overrun.wait()
            assert await client.election(prefix).candidates() == ()
            let_go.set()
            await second.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
    assert [term.token for term in overruns] == tokens[:1]
    assert len(tokens) == 2
    assert tokens[1] > tokens[0]


async def test_run_gets_a_new_default_session_after_the_old_one_expired(
    runner: coord.Client, prefix: str
) -> None:
    sessions: list[coord.Session] = []
    enough = asyncio.Event()

    async def lead(term: coord.Term) -> None:
        sessions.append(term.session)
        if len(sessions) == 2:
            enough.set()
        else:
            await runner.lease_revoke(term.session.lease_id)
        await asyncio.Event().wait()

    running = asyncio.ensure_future(runner.election(prefix).run(lead))
    async with asyncio.timeout(WITHIN_S):
        await enough.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sessions[0] is not sessions[1]
    assert sessions[0].state is coord.SessionState.EXPIRED


async def test_run_on_a_session_of_its_callers_ends_with_it(
    runner: coord.Client, prefix: str
) -> None:
    async def lead(term: coord.Term) -> None:
        await runner.lease_revoke(term.session.lease_id)
        await asyncio.Event().wait()

    async with runner.session(ttl=2) as session, asyncio.timeout(WITHIN_S):
        with pytest.raises(coord.SessionExpired):
            await runner.election(prefix, session=session).run(lead)


async def test_who_led_and_left_between_two_looks_is_not_told_as_nobody_twice() -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        observation = Observation(client._home, b"brief/")
        assert await observation.next() is None
        feed = observation._feed
        assert feed is not None
        await feed.created.wait()
        await client.put("brief/1", "a")
        await client.delete("brief/1")
        while feed.buffered < 2:
            await client.get("nothing")
        # As they come to somebody whose stream was lost meanwhile.
        events = [event for batch in feed._batches for event in batch.events]
        feed._batches = deque([WatchBatch(events=tuple(events), revision=events[-1].revision)])
        telling = asyncio.ensure_future(observation.next())
        while observation._feed in (feed, None) and not telling.done():
            await asyncio.sleep(0)
        await client.put("brief/2", "b")
        leader = await telling
        assert leader is not None
        assert leader.value == b"b"
        observation.close_soon()
