"""Partitions under lost and late requests, crashes, partitions of the network, and members that see different groups.

In virtual time: several clients of one server in memory, on one loop. ``COORD_PARTITIONER_SEEDS`` (default 4) is the
number of runs of chaos, ``COORD_PARTITIONER_EXAMPLES`` (default 8) that of plans of lost answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import coord
from coord.client.connecting import open_client
from coord.core import Core, Options
from coord.embed.memory import open_memory
from coord.recipes.partitioner import engine
from coord.recipes.partitioner.state import targets
from coord.recipes.partitioner.view import View
from coord.rpc.status import StatusCode
from coord.target import Target, TargetKind
from coord.testing.faults import Faults
from tests.sdk.partitioner_model import Model, exclusive, judged
from tests.support.faulty import Fault, Plan, held_back, make_faulty, settle
from tests.support.virtual import VirtualLoop, run_virtual, virtual_env

LOST = [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]
CHAOS = int(os.environ.get("COORD_PARTITIONER_SEEDS", "4"))
EXAMPLES = int(os.environ.get("COORD_PARTITIONER_EXAMPLES", "8"))
TTL = 5
NAME = "p"


class Dice:
    """Randomness that a seed replays."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def bits(self, n: int) -> int:
        return self._random.getrandbits(n)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def token_bytes(self, n: int) -> bytes:
        return self._random.randbytes(n)


@pytest.fixture(autouse=True)
def _same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ids of members, and with them who should have what, be the same in each run."""
    monkeypatch.setattr(engine, "process_identity", lambda: ("host", 1))


class World:
    """One server in memory, clients under one list of faults, and one client that sees it all."""

    def __init__(self, connect: Callable[[str], Awaitable[coord.Client]], faults: Faults) -> None:
        self.connect = connect
        self.faults = faults
        self.partitioners: list[coord.Partitioner] = []
        self.isolated: set[int] = set()
        self.contexts: list[dict[str, Any]] = []
        """What the loop's exception handler was told."""
        self.observer: coord.Client

    async def look(self, seconds: float) -> None:
        """Let time pass, and look often whether two believe to own the same."""
        for _ in range(round(seconds * 20)):
            await asyncio.sleep(0.05)
            exclusive(self.partitioners)

    async def until(self, condition: Callable[[], object], within: float = 60) -> None:
        """Let time pass until something holds."""
        async with asyncio.timeout(within):
            while not condition():
                await self.look(0.05)

    def sum(self) -> int:
        return sum([len(each.owned()) for each in self.partitioners])


@contextlib.asynccontextmanager
async def world(loop: VirtualLoop, seed: int = 1) -> AsyncGenerator[World]:
    env = replace(virtual_env(loop), rand=Dice(seed))
    opened = await open_memory(env)
    faults = Faults()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(opened.close)
        stack.enter_context(faults.everywhere())

        async def connect(name: str) -> coord.Client:
            options = Options(
                target=Target(kind=TargetKind.ENDPOINTS, endpoints=opened.endpoints),
                placement="inline",
                name=name,
            )
            client = await open_client(options, replace(env, net=opened.net))
            return await stack.enter_async_context(client)

        made = World(connect, faults)
        made.observer = await connect("observer")
        loop.set_exception_handler(lambda _, what: made.contexts.append(what))
        yield made
    assert not any(isinstance(each.get("exception"), AssertionError) for each in made.contexts)


@dataclass(slots=True)
class Application:
    """An application that takes its time, and checks that its functions keep to the rules."""

    drain_s: float = 0.0
    serving: int = 0
    drained: set[int] = field(default_factory=set[int])

    async def assign(self, own: coord.Ownership) -> None:
        self.serving += 1
        try:
            await asyncio.sleep(100_000)
        finally:
            self.serving -= 1

    async def revoke(self, own: coord.Ownership) -> None:
        own.check()
        assert own.token not in self.drained, "once"
        self.drained.add(own.token)
        await asyncio.sleep(self.drain_s)


def alone(partitioner: coord.Partitioner) -> View:
    """Let a member see itself only, from now on; return its view."""
    run = partitioner._engine
    assert run is not None
    run._view.members = {run.id: 1}
    run._view._show_member = lambda *_: False  # type: ignore[method-assign]
    return run._view


# -- unknown outcomes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("number", range(8))
def test_any_one_answer_may_be_lost(fault: Fault, number: int) -> None:
    """Joining, claims and releases: each is repeated rightly, and a late copy takes nothing."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            client = await here.connect("a")
            faulty = make_faulty(client)
            faulty.plan.extend([Fault.NONE] * number + [fault])
            partitioner = client.partitioner(NAME, 3, settle=0.1)
            async with partitioner.run():
                await here.until(lambda: len(partitioner.owned()) == 3)
                for own in partitioner.owned().values():
                    entry = await here.observer.get(own.key)
                    assert entry is not None
                    assert entry.create_revision == own.token
            assert await settle(here.observer, NAME + "/owners/") == []
            await faulty.deliver_late()
            assert await here.observer.count(NAME + "/owners/") == 0

    run_virtual(main)


def test_a_claim_whose_answer_is_lost_is_adopted() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            client = await here.connect("a")
            faulty = make_faulty(client)
            async with judged(here.observer, NAME) as model:
                partitioner = client.partitioner(NAME, 1, settle=0.1)
                faulty.plan.extend([Fault.NONE, Fault.LOSE_REPLY])  # join, claim
                async with partitioner.run():
                    await here.until(partitioner.owned)
                    (owner,) = (await here.observer.get_prefix(NAME + "/owners/")).items
                    assert partitioner.owned()["0"].token == owner.create_revision
            assert len(model.grants) == 1

    run_virtual(main)


def late_claims(client: coord.Client) -> Plan:
    """Let the coming claims of partitions, and nothing else, arrive late."""
    faulty = make_faulty(client)
    faulty.plan.extend([Fault.NONE, Fault.LATE])
    return faulty


def test_a_late_copy_of_a_claim_after_giving_up_takes_nothing() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            client = await here.connect("a")
            await client.default_session()  # which goes on
            faulty = late_claims(client)
            partitioner = client.partitioner(NAME, 1, settle=0.1)
            async with partitioner.run():
                await asyncio.sleep(0.105)  # the claim is under way
                assert len(faulty._late) == 1
                assert partitioner.owned() == {}
            assert await faulty.deliver_late() == 1
            assert await here.observer.count(NAME + "/") == 0

    run_virtual(main)


def test_a_stop_waits_until_a_claim_that_was_given_up_is_surely_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            client = await here.connect("a")
            await client.default_session()
            go = held_back(monkeypatch)
            faulty = late_claims(client)
            partitioner = await client.partitioner(NAME, 1, settle=0.1).run()
            await asyncio.sleep(0.105)
            assert len(faulty._late) == 1
            stopping = asyncio.ensure_future(partitioner.stop())
            await asyncio.sleep(3)
            assert not stopping.done()
            go.set()
            await stopping

    run_virtual(main)


def test_a_late_copy_of_a_claim_that_was_repeated_does_not_come_after_its_loss() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            client = await here.connect("a")
            faulty = late_claims(client)
            partitioner = client.partitioner(NAME, 1, settle=0.1)
            async with partitioner.run():
                await here.until(partitioner.owned)
                own = partitioner.owned()["0"]
                await partitioner.set_partitions(0)
                await here.observer.delete(own.key)
                await here.until(own.lost.is_set)
                await here.look(1)
                assert await faulty.deliver_late() == 1
                assert await here.observer.count(NAME + "/owners/") == 0

    run_virtual(main)


def test_a_key_deleted_before_the_answer_to_its_claim_is_a_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The view has shown the key and its end before anybody could know that it was ours."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            claim, claimed = engine.Engine._claim, list[coord.Ownership]()

            async def slow(
                self: engine.Engine, session: coord.Session, partition: str
            ) -> coord.Ownership | None:
                own = await claim(self, session, partition)
                if own is not None and not claimed:
                    claimed.append(own)
                    await here.observer.delete(own.key)
                    await asyncio.sleep(1)
                return own

            monkeypatch.setattr(engine.Engine, "_claim", slow)
            a = (await here.connect("a")).partitioner(NAME, 1, settle=0.1)
            async with a.run():
                await here.until(lambda: claimed and claimed[0].lost.is_set())
                await here.until(a.owned)
                assert a.owned()["0"].token > claimed[0].token

    run_virtual(main)


def test_what_is_not_wanted_any_longer_when_its_claim_is_answered_begins_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME) as model:
            claim, events = engine.Engine._claim, list[str]()

            async def slow(
                self: engine.Engine, session: coord.Session, partition: str
            ) -> coord.Ownership | None:
                own = await claim(self, session, partition)
                await asyncio.sleep(1)
                return own

            async def note(own: coord.Ownership) -> None:
                events.append(own.partition)

            monkeypatch.setattr(engine.Engine, "_claim", slow)
            a = (await here.connect("a")).partitioner(NAME, 1, settle=0.1)
            async with a.run(note, note):
                await asyncio.sleep(0.2)
                await a.set_partitions(0)
                await here.look(5)
                assert events == []
                assert await here.observer.count(NAME + "/owners/") == 0
        assert len(model.grants) == 1

    run_virtual(main)


def test_who_finds_an_owner_that_the_view_does_not_show_waits_for_it() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            a = (await here.connect("a")).partitioner(NAME, 5, settle=0.1)
            b = (await here.connect("b")).partitioner(NAME, 5, settle=0.1)
            async with a.run():
                await here.until(lambda: len(a.owned()) == 5)
                alone(a)
                async with b.run():
                    view = alone(b)
                    view.owners.clear()
                    view._as_of = lambda: 0  # type: ignore[method-assign]
                    await asyncio.sleep(0.09)
                    before = here.faults.count("Txn")
                    await asyncio.sleep(10)
                    assert here.faults.count("Txn") == before + 5
                    for own in list(a.owned().values())[:2]:
                        await here.observer.delete(own.key)

    run_virtual(main)


# -- moves ---------------------------------------------------------------------------------------------------------


def test_a_drain_that_takes_too_long_is_cut_short() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            slow, contexts = Application(drain_s=1000), here.contexts
            a = (await here.connect("a")).partitioner(NAME, 8, drain_timeout=3)
            b = (await here.connect("b")).partitioner(NAME, 8)
            here.partitioners = [a, b]
            async with a.run(slow.assign, slow.revoke):
                await here.until(lambda: slow.serving == 8)
                began = loop.time()
                async with b.run():
                    await here.until(lambda: here.sum() == 8 and b.owned())
                    assert 4.0 <= loop.time() - began < 4.5  # settle and drain
                    await here.look(0.5)
                    assert slow.serving == len(a.owned())
                    assert len(contexts) == len(b.owned())
                    assert "not drained within 3 s" in contexts[0]["message"]
                await here.until(lambda: slow.serving == 8)
                contexts.clear()
            assert slow.serving == 0
            assert len(contexts) == 8

    run_virtual(main)


def test_a_slow_drain_is_waited_for() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            app = Application(drain_s=5)
            a = (await here.connect("a")).partitioner(NAME, 8)
            b = (await here.connect("b")).partitioner(NAME, 8)
            here.partitioners = [a, b]
            async with a.run(app.assign, app.revoke):
                await here.until(lambda: app.serving == 8)
                async with b.run():
                    await here.look(5.5)
                    assert (len(a.owned()), len(b.owned())) == (8, 0)  # drained means owned
                    await here.look(1)
                    assert here.sum() == 8
                    assert app.serving == len(a.owned()) < 8

    run_virtual(main)


@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_moves_at_a_time(limit: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            draining = most = 0

            async def revoke(_: coord.Ownership) -> None:
                nonlocal draining, most
                draining += 1
                most = max(most, draining)
                await asyncio.sleep(1)
                draining -= 1

            a = (await here.connect("a")).partitioner(NAME, 20, max_moves=limit)
            here.partitioners = [a]
            async with a.run(None, revoke):
                await here.until(lambda: len(a.owned()) == 20)
                await a.set_partitions(10)
                await here.until(lambda: len(a.owned()) == 10)
                assert most == limit
                assert loop.time() > 1000 + 10 / limit

    run_virtual(main)


def test_nothing_moves_before_things_have_settled() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            client = await here.connect("a")
            a = client.partitioner(NAME, 4, settle=2)
            async with a.run():
                for _ in range(5):
                    async with client.partitioner(NAME, 4, settle=2).run():
                        await asyncio.sleep(1)
                    await asyncio.sleep(0.5)
                    assert a.owned() == {}
                await asyncio.sleep(2.1)
                assert len(a.owned()) == 4

    run_virtual(main)


def test_what_was_computed_for_an_earlier_view_counts_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:

            async def slow(
                core: Core, partitions: frozenset[str], members: dict[str, int]
            ) -> dict[str, str]:
                if len(partitions) == 3:
                    await asyncio.sleep(10)
                return await targets(core, partitions, members)

            monkeypatch.setattr(engine, "targets", slow)
            a = (await here.connect("a")).partitioner(NAME, 3)
            async with a.run():
                await asyncio.sleep(2)
                await a.set_partitions(1)
                await asyncio.sleep(20)
                assert list(a.owned()) == ["0"]

    run_virtual(main)


def test_members_that_see_different_groups_never_own_the_same() -> None:
    """Each of three believes for a while to be alone, and wants everything."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME) as model:
            for name in "abc":
                here.partitioners.append((await here.connect(name)).partitioner(NAME, 10))
            async with contextlib.AsyncExitStack() as stack:
                for each in here.partitioners:
                    await stack.enter_async_context(each.run())
                    alone(each)
                await here.until(lambda: here.sum() == 10)
                await here.look(20)
                owned = [len(each.owned()) for each in here.partitioners]
                assert sum(owned) == 10
                members = [each.id or "" for each in here.partitioners]
                for each in here.partitioners:
                    run = each._engine
                    assert run is not None
                    run._view.members = dict.fromkeys(members, 1)
                    run.members_changed()
                await here.until(lambda: all(len(each.owned()) > 1 for each in here.partitioners))
                await here.look(5)
                assert here.sum() == 10
        assert len(model.grants) >= 10

    run_virtual(main)


def test_functions_of_one_partition_never_overlap_in_one_process() -> None:
    """What a loss has cancelled takes its time to end; the next ownership waits for it."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            running = most = 0

            async def serve(own: coord.Ownership) -> None:
                nonlocal running, most
                running += 1
                most = max(most, running)
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    await asyncio.sleep(7)
                    raise
                finally:
                    running -= 1

            a = (await here.connect("a")).partitioner(NAME, 1, settle=0.1)
            async with a.run(serve):
                await here.until(lambda: running)
                await here.observer.delete(a.owned()["0"].key)
                await here.look(1)
                second = a.owned()["0"]
                assert running == 1
                await here.look(8)
                assert running == 1
                assert second.valid_for() > 0
            assert running == 0
            assert most == 1

    run_virtual(main)


# -- crashes and partitions of the network -------------------------------------------------------------------------


def test_cut_off_from_the_store_it_stops_before_others_begin() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            app = Application()
            a = (await here.connect("a")).partitioner(NAME, 6, ttl=TTL)
            b = (await here.connect("b")).partitioner(NAME, 6, ttl=TTL)
            here.partitioners = [a, b]
            async with a.run(app.assign), b.run():
                await here.until(lambda: here.sum() == 6)
                had = set(a.owned())
                assert had
                here.faults.isolate("a")
                await here.look(TTL / 2 - 0.5)
                assert set(a.owned()) == had  # it may come back in time
                await here.until(lambda: len(b.owned()) == 6)
                assert a.owned() == {}
                assert app.serving == 0
                here.faults.heal("a")
                await here.until(lambda: a.owned() and here.sum() == 6)
                assert set(a.owned()) == had  # it is still the same member

    run_virtual(main)


def test_a_pause_of_the_process_loses_everything_at_its_end() -> None:
    """The clock has gone on: the first look finds nothing owned, before any timer has run."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            a = (await here.connect("a")).partitioner(NAME, 3, ttl=TTL, settle=0.1)
            async with a.run():
                await here.until(lambda: len(a.owned()) == 3)
                before = a.owned()
                loop.freeze(TTL)
                assert a.owned() == {}
                with pytest.raises(coord.OwnershipLost):
                    before["0"].check()
                await here.until(lambda: len(a.owned()) == 3)
                assert all(a.owned()[p].token > before[p].token for p in before)

    run_virtual(main)


@pytest.mark.parametrize("seed", range(CHAOS))
def test_chaos(seed: int) -> None:
    """Kills, cuts, other sets, joins and leaves at random; one owner at any time, and order once it is over."""
    run_virtual(lambda loop: _chaos(loop, seed))


async def _chaos(loop: VirtualLoop, seed: int) -> None:
    random = Random(seed)
    async with world(loop, seed) as here, judged(here.observer, NAME) as model:
        apps = [Application(drain_s=random.choice([0, 0.5, 15])) for _ in range(4)]
        clients = [await here.connect(str(n)) for n in range(4)]
        here.partitioners = [
            client.partitioner(NAME, 12, ttl=TTL, weight=random.randint(1, 3), max_moves=3)
            for client in clients
        ]
        async with contextlib.AsyncExitStack() as stack:
            for each, app in zip(here.partitioners, apps, strict=True):
                await stack.enter_async_context(each.run(app.assign, app.revoke))
            for _ in range(12):
                await _disturb(here, random)
                await here.look(random.choice([0.1, 1.0, 4.0, 8.0]))
            for n in here.isolated:
                here.faults.heal(str(n))
            for each in here.partitioners:
                await each.set_partitions(16)
            await here.look(60)
            await _at_rest(here, model)
            for each, app in zip(here.partitioners, apps, strict=True):
                assert app.serving == len(each.owned())
    assert len(model.grants) > 16


async def _disturb(here: World, random: Random) -> None:
    number = random.randrange(4)
    victim = here.partitioners[number]
    # Who cannot be told that somebody has taken his keys away goes on until his safe deadline.
    owned = list(victim.owned().values()) if number not in here.isolated else []
    match random.randrange(5):
        case 0:
            here.faults.isolate(str(number))
            here.isolated.add(number)
        case 1:
            for n in here.isolated:
                here.faults.heal(str(n))
            here.isolated.clear()
        case 2 if owned:
            await here.observer.lease_revoke(owned[0].session.lease_id)
        case 3 if owned:
            await here.observer.delete(random.choice(owned).key)
        case _:
            await victim.set_partitions(random.choice([8, 12, 16]))


async def _at_rest(here: World, model: Model) -> None:
    """What is there now must be what the model would have once nothing changes."""
    found = await here.partitioners[0].assignment()
    assert found.unowned == found.moving == ()
    still = Model(model.name)
    still.members = {each.id: each.weight for each in found.members}
    assert len(still.members) == 4
    still.owners = {p: (own.member, own.token, own.lease_id) for p, own in found.owners.items()}
    still.at_rest(found.partitions)
    for each in here.partitioners:
        for partition, own in each.owned().items():
            assert found.owners[partition].token == own.token


FAULTS = st.lists(st.sampled_from([Fault.NONE, *LOST]), max_size=16)


# The copy of a claim arrives after the partition's owner has given it back, and would have it for nobody.
@example(
    one=[Fault.LOSE_REQUEST, *[Fault.NONE] * 4, Fault.LATE],
    two=[Fault.LOSE_REQUEST],
    leaves=3,
    deletes=5,
)
@settings(max_examples=EXAMPLES)
@given(one=FAULTS, two=FAULTS, leaves=st.integers(0, 40), deletes=st.integers(0, 40))
def test_any_faults_keep_the_rules(
    one: list[Fault], two: list[Fault], leaves: int, deletes: int
) -> None:
    """Two members with answers lost at random, one of which leaves at some moment; nothing left, nobody stuck."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            plans: list[Plan] = []
            for name, plan in (("a", one), ("b", two)):
                client = await here.connect(name)
                plans.append(make_faulty(client))
                plans[-1].plan.extend(plan)
                here.partitioners.append(client.partitioner(NAME, 5, settle=0.1, ttl=30))
            a, b = here.partitioners
            async with a.run():
                async with b.run():
                    await here.look(deletes / 20)
                    for kv in (await here.observer.get_prefix(NAME + "/owners/", limit=2)).items:
                        await here.observer.delete(kv.key)
                    await here.look(leaves / 20)
                for plan_ in plans:
                    await plan_.deliver_late()
                await here.until(lambda: len(a.owned()) == 5)
            for plan_ in plans:
                await plan_.deliver_late()
            assert await settle(here.observer, NAME + "/owners/") == []

    run_virtual(main)


# -- ends ----------------------------------------------------------------------------------------------------------


def test_a_join_that_is_not_answered_leaves_nothing() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            client = await here.connect("a")
            await client.default_session()
            here.faults.isolate("a")
            partitioner = client.partitioner(NAME, 2)
            with pytest.raises(coord.CoordTimeout, match="joining"):
                await partitioner.run(timeout=1)
            joining = asyncio.ensure_future(partitioner.run().open())
            await asyncio.sleep(1)
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
            here.faults.heal("a")
            async with partitioner.run(timeout=10):
                await here.until(lambda: len(partitioner.owned()) == 2)
            assert await settle(here.observer, NAME + "/") == []

    run_virtual(main)


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 40, 200])
def test_a_stop_that_is_cancelled_goes_on(turns: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            app = Application(drain_s=2)
            client = await here.connect("a")
            partitioner = await client.partitioner(NAME, 3, settle=0.1).run(app.assign, app.revoke)
            await here.until(lambda: app.serving == 3)
            stopping = asyncio.ensure_future(partitioner.stop())
            for _ in range(turns):
                await asyncio.sleep(0)
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            if turns:
                assert app.serving == 0
                assert await settle(here.observer, NAME + "/") == []
            else:
                await partitioner.stop()

    run_virtual(main)


def test_a_client_that_closes_ends_everything() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            app = Application()
            client = await here.connect("a")
            async with client.partitioner(NAME, 3, settle=0.1).run(app.assign, app.revoke):
                await here.until(lambda: app.serving == 3)
                await client.close()
                await asyncio.sleep(1)
                assert app.serving == 0
            assert await here.observer.count(NAME + "/") == 0

    run_virtual(main)


def test_a_client_that_closes_during_a_stop_ends_it() -> None:
    """Which is no cancellation of whoever stops it."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            app = Application(drain_s=5)
            client = await here.connect("a")
            partitioner = await client.partitioner(NAME, 3, settle=0.1).run(app.assign, app.revoke)
            await here.until(lambda: app.serving == 3)
            stopping = asyncio.ensure_future(partitioner.stop())
            await here.look(1)
            await client.close()
            await stopping
            assert app.serving == 0

    run_virtual(main)


def test_joining_again_takes_several_attempts_and_one_session() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here, judged(here.observer, NAME):
            client = await here.connect("a")
            a = client.partitioner(NAME, 2, ttl=TTL, settle=0.1)
            async with a.run():
                await here.until(lambda: len(a.owned()) == 2)
                session = a.owned()["0"].session
                here.faults.fail(
                    "Txn",
                    StatusCode.RESOURCE_EXHAUSTED,
                    "etcdserver: mvcc: database space exceeded",
                    times=4,
                )
                await here.observer.lease_revoke(session.lease_id)
                await here.until(session.expired.is_set)
                await here.until(lambda: len(a.owned()) == 2)
                assert len(await here.observer.leases()) == 1

    run_virtual(main)


def test_a_member_whose_key_is_deleted_comes_back() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            a = (await here.connect("a")).partitioner(NAME, 3)
            async with a.run():
                await here.until(lambda: len(a.owned()) == 3)
                before = a.owned()
                (member,) = (await a.assignment()).members
                await here.observer.delete(f"{NAME}/members/{member.id}")
                await here.look(5)
                (again,) = (await a.assignment()).members
                assert again.token > member.token
                assert a.owned() == before

    run_virtual(main)


def test_others_in_the_group_take_no_part() -> None:
    """What is written below the name by hand, or joins the group of members without a weight, gets nothing."""

    async def main(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            for value in (
                "",
                "{",
                "[]",
                '{"data":[]}',
                '{"data":{"weight":"2"}}',
                '{"data":{"weight":0}}',
            ):
                await here.observer.put(f"{NAME}/members/{len(value)}", value)
            await here.observer.put(f"{NAME}/owners/2", json.dumps({"nonce": 3}))
            a = (await here.connect("a")).partitioner(NAME, 4)
            async with a.run():
                await here.until(lambda: len(a.owned()) == 3)
                found = await a.assignment()
                assert [each.id for each in found.members] == [a.id]
                assert found.owners["2"].member == ""
                assert found.moving == ("2",)
                await here.observer.delete(f"{NAME}/owners/2")
                await here.until(lambda: len(a.owned()) == 4)

    run_virtual(main)
