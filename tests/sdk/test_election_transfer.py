"""Handing leadership on: to whom it is meant, past whom it can be, and never to two.

``COORD_TRANSFER_EXAMPLES`` (default 40) is the number of schedules with lost, late and cancelled requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from tests.support.faulty import TXN, Fault, make_faulty, settle
from tests.support.virtual import VirtualLoop, run_virtual, virtual_client

EXAMPLES = int(os.environ.get("COORD_TRANSFER_EXAMPLES", "40"))
WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


class Line:
    """A leader and candidates behind it, each with a session of its own."""

    def __init__(self, client: coord.Client, name: str, sessions: list[coord.Session]) -> None:
        self.client = client
        self.name = name
        self.sessions = sessions
        self.waiting: dict[int, asyncio.Task[coord.Term]] = {}

    def key(self, number: int) -> bytes:
        return f"{self.name}/{self.sessions[number].lease_id:x}".encode()

    async def lead(self) -> coord.Term:
        """Let the first one lead, and the others stand behind it in order."""
        term = await self.client.election(self.name, session=self.sessions[0]).campaign("0")
        for number in range(1, len(self.sessions)):
            self.stand(number)
            await self.has(number + 1)
        return term

    def stand(self, number: int) -> None:
        election = self.client.election(self.name, session=self.sessions[number])
        self.waiting[number] = asyncio.ensure_future(election.campaign(str(number)))

    async def has(self, count: int) -> None:
        async with (
            self.client.watch(self.name + "/", prefix=True) as watch,
            asyncio.timeout(WITHIN_S),
        ):
            while await self.client.count(self.name + "/") != count:
                await anext(watch)

    async def order(self) -> list[bytes]:
        return [c.value for c in await self.client.election(self.name).candidates()]

    async def term(self, number: int) -> coord.Term:
        async with asyncio.timeout(WITHIN_S):
            return await self.waiting.pop(number)

    async def intent(self) -> coord.KeyValue | None:
        return await self.client.get(f"_coord/transfer/{self.name}")


@contextlib.asynccontextmanager
async def line_of(client: coord.Client, name: str, count: int) -> AsyncGenerator[Line]:
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(client.session(ttl=20)) for _ in range(count)]
        line = Line(client, name, sessions)
        try:
            yield line
        finally:
            for waiting in line.waiting.values():
                waiting.cancel()
            await asyncio.gather(*line.waiting.values(), return_exceptions=True)


# -- to whom it is meant -------------------------------------------------------------------------------------------


async def test_those_ahead_go_to_the_end_of_the_line(client: coord.Client, prefix: str) -> None:
    async with line_of(client, prefix + "e", 5) as line:
        first = await line.lead()
        leader = await first.transfer(line.key(3), timeout=WITHIN_S)
        second = await line.term(3)
        assert leader is not None
        assert (leader.key, leader.value, leader.token) == (second.key, b"3", second.token)
        assert second.token > first.token
        second.check()
        with pytest.raises(coord.NotLeader):
            first.check()
        order = await line.order()
        assert order[:2] == [b"3", b"4"]  # who was behind it still is
        assert sorted(order[2:]) == [b"1", b"2"]
        assert await line.intent() is None
        terms = [second]
        for each in order[1:]:
            await terms[-1].resign()
            terms.append(await line.term(int(each)))
        assert [t.token for t in terms] == sorted({t.token for t in terms})
        await terms[-1].resign()


async def test_the_next_one_needs_nobody_to_move(client: coord.Client, prefix: str) -> None:
    async with line_of(client, prefix + "e", 3) as line:
        first = await line.lead()
        before = await line.order()
        leader = await first.transfer(line.key(1).decode(), timeout=WITHIN_S)
        second = await line.term(1)
        assert leader is not None
        assert leader.token == second.token
        assert await line.order() == before[1:]
        await second.resign()
        await (await line.term(2)).resign()


async def test_the_layout_of_an_intent(client: coord.Client, prefix: str) -> None:
    async with line_of(client, prefix + "e", 2) as line:
        term = await line.lead()
        await client.put(line.key(0) + b"0", "")  # foreign, and stays
        line.stand(1)
        last = await client.session(ttl=20).open()
        line.sessions.append(last)
        line.stand(2)
        await line.has(4)
        handing = asyncio.ensure_future(term.transfer(line.key(2), patience=60))
        async with (
            client.watch("_coord/transfer/", prefix=True) as watch,
            asyncio.timeout(WITHIN_S),
        ):
            while (intent := await line.intent()) is None:
                await anext(watch)
        assert intent.lease == term.session.lease_id
        target = await client.get(line.key(2))
        assert target is not None
        assert json.loads(intent.value) == {
            "v": 1,
            "to": target.key.decode(),
            "token": target.create_revision,
            "from": term.key.decode(),
            "term": term.token,
        }
        handing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handing
        async with asyncio.timeout(WITHIN_S):
            while await line.intent() is not None:
                await asyncio.sleep(0.01)
        term.check()  # it goes on
        await last.close()


# -- when it cannot be ---------------------------------------------------------------------------------------------


async def test_a_foreign_candidate_stays_and_is_reported(client: coord.Client, prefix: str) -> None:
    async with line_of(client, prefix + "e", 1) as line:
        term = await line.lead()
        lease = await client.lease_grant(20)
        await client.put(f"{prefix}e/{lease.lease_id:x}", "foreign", lease=lease.lease_id)
        line.sessions.append(await client.session(ttl=20).open())
        line.stand(1)
        await line.has(3)
        with pytest.raises(coord.TransferTimeout) as caught:
            await term.transfer(line.key(1), patience=60, timeout=0.3)
        assert isinstance(caught.value, TimeoutError)
        term.check()
        leader = await term.transfer(line.key(1), patience=0.3)
        assert leader is not None
        assert leader.value == b"foreign"
        await client.lease_revoke(lease.lease_id)
        await (await line.term(1)).resign()
        await line.sessions[1].close()


async def test_only_a_candidate_behind_the_leader_can_follow(
    client: coord.Client, prefix: str
) -> None:
    async with line_of(client, prefix + "e", 2) as line:
        term = await line.lead()
        for key in (term.key, line.key(1) + b"x", b"elsewhere/1", "elsewhere"):
            with pytest.raises(coord.NoCandidate):
                await term.transfer(key)
        with pytest.raises(coord.InvalidArgument):
            await term.transfer(line.key(1), patience=-1)
        with pytest.raises(coord.InvalidArgument):
            await term.transfer(line.key(1), timeout=-1)
        term.check()
        assert await line.intent() is None
        await term.resign()
        with pytest.raises(coord.NotLeader):
            await term.transfer(line.key(1))
        second = await line.term(1)
        await client.delete(second.key)
        with pytest.raises(coord.LeadershipLost):
            await second.transfer(line.key(0))


async def test_a_candidate_that_leaves_meanwhile_ends_it(client: coord.Client, prefix: str) -> None:
    async with line_of(client, prefix + "e", 1) as line:
        term = await line.lead()
        await client.put(prefix + "e/foreign", "")
        line.sessions.append(await client.session(ttl=20).open())
        line.stand(1)
        await line.has(3)
        handing = asyncio.ensure_future(term.transfer(line.key(1), patience=60))
        async with (
            client.watch("_coord/transfer/", prefix=True) as watch,
            asyncio.timeout(WITHIN_S),
        ):
            while await line.intent() is None:
                await anext(watch)
        await line.sessions[1].close()
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(coord.NoCandidate):
                await handing
        term.check()
        await term.resign()


async def test_a_leader_that_is_lost_meanwhile_hands_nothing_on(
    client: coord.Client, prefix: str
) -> None:
    for kind in ("entry", "lease"):
        async with line_of(client, prefix + kind, 1) as line:
            term = await line.lead()
            await client.put(f"{line.name}/foreign", "")
            line.sessions.append(await client.session(ttl=20).open())
            line.stand(1)
            await line.has(3)
            handing = asyncio.ensure_future(term.transfer(line.key(1), patience=60))
            async with asyncio.timeout(WITHIN_S):
                while await line.intent() is None:
                    await asyncio.sleep(0.01)
            if kind == "entry":
                await client.delete(term.key)
            else:
                await client.lease_revoke(term.session.lease_id)
            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(coord.LeadershipLost):
                    await handing
            await line.sessions[1].close()


@pytest.mark.parametrize("stale", ["leader", "target", "garbage", "list", "fields"])
async def test_an_old_intent_moves_nobody(inline: coord.Client, stale: str) -> None:
    async with line_of(inline, "e", 3) as line:
        term = await line.lead()
        before = (await inline.get_prefix("e/")).items
        (target,) = [kv for kv in before if kv.key == line.key(2)]
        intent = {
            "v": 1,
            "to": target.key.decode(),
            "token": target.create_revision + (stale == "target"),
            "from": term.key.decode(),
            "term": term.token - (stale == "leader"),
        }
        if stale == "fields":
            intent["token"] = "many"
        faulty = make_faulty(inline)
        value = {"garbage": "{", "list": "[]"}.get(stale, json.dumps(intent))
        await inline.put("_coord/transfer/e", value)
        for _ in range(100):
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert (await inline.get_prefix("e/")).items == before
        # Each has looked, the one that is ahead has tried at most once, and nobody is busy with it for ever.
        assert len(faulty.paths) <= 8
        await term.resign()
        await (await line.term(1)).resign()


async def test_without_rights_to_the_intents_it_is_the_turn_of_the_next(
    inline: coord.Client,
) -> None:
    inline._home.may_fence = False
    async with line_of(inline, "e", 3) as line:
        term = await line.lead()
        leader = await term.transfer(line.key(2), patience=0.1)
        second = await line.term(1)
        assert leader is not None
        assert leader.token == second.token
        assert (await inline.get_prefix("_coord/transfer/")).items == ()
        await second.resign()


# -- lost, late and doubled requests -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE])
@pytest.mark.parametrize("place", range(8))
async def test_each_request_may_be_lost(inline: coord.Client, fault: Fault, place: int) -> None:
    async with line_of(inline, "e", 3) as line:
        term = await line.lead()
        faulty = make_faulty(inline, [Fault.NONE] * place + [fault])
        async with asyncio.timeout(WITHIN_S):
            leader = await term.transfer(line.key(2))
        second = await line.term(2)
        assert leader is not None
        assert leader.token == second.token
        await faulty.deliver_late()
        await line.has(2)  # who stepped back stands again, though it may have had to ask twice
        assert await line.order() == [b"2", b"1"]
        await second.resign()
        await (await line.term(1)).resign()
        await faulty.deliver_late()
        assert await settle(inline, "e/") == []


FAULTS = st.lists(
    st.sampled_from([Fault.NONE, Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]), max_size=12
)


@pytest.mark.timeout(60 + EXAMPLES)
@settings(max_examples=EXAMPLES)
@given(plan=FAULTS, targets=st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_any_faults_keep_one_leader_and_lose_no_candidate(
    plan: list[Fault], targets: list[int]
) -> None:
    """Four who lead in turn, and hand on to anybody."""

    async def main(loop: VirtualLoop) -> None:
        async with (
            virtual_client(loop) as client,
            line_of(client, "e", 4) as line,
        ):
            await _hand_on(client, line, plan, targets)

    run_virtual(main)


async def _hand_on(client: coord.Client, line: Line, plan: list[Fault], targets: list[int]) -> None:
    faulty = make_faulty(client)
    inside: list[int] = []
    tokens: list[int] = []
    led: set[int] = set()
    left = list(targets)

    async def lead(number: int) -> None:
        term = await client.election("e", session=line.sessions[number]).campaign(str(number))
        inside.append(number)
        assert inside == [number]
        tokens.append(term.token)
        led.add(number)
        await asyncio.sleep(0)
        inside.remove(number)
        if left:
            line_now = await client.election("e").candidates()
            target = line_now[left.pop() % len(line_now)].key
            with contextlib.suppress(coord.NoCandidate):
                await term.transfer(target, patience=20)
                return
        await term.resign()

    faulty.plan.extend(plan)
    tasks = [asyncio.ensure_future(lead(number)) for number in range(4)]
    done, pending = await asyncio.wait(tasks, timeout=300)
    assert not pending
    for task in done:
        await task
    await faulty.deliver_late()
    assert led == set(range(4))
    assert tokens == sorted(set(tokens))
    assert await settle(client, "e/") == []


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_what_it_costs(inline: coord.Client) -> None:
    """Without an intent a candidate costs what it did; with one, those who are ahead ask three times."""
    async with line_of(inline, "e", 3) as line:
        faulty = make_faulty(inline)
        term = await line.lead()
        # One request each, but for those of the test itself.
        assert sum(path == TXN for path in faulty.paths) == 3
        faulty.paths.clear()
        await term.transfer(line.key(2))
        second = await line.term(2)
        # The leader: who it is, the intent, two looks, the resignation, the end of the intent, who leads. The one in
        # between: a look, the removal, a new entry. The one meant: a look at the intent, at the departure, at its turn.
        assert faulty.paths.count(TXN) <= 7 + 3 + 3
        await second.resign()
        await (await line.term(1)).resign()
