"""Services and groups under faults: lost, late and doubled requests, cancellations, time-outs, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from coord.client.connecting import Connecting
from coord.recipes.registry.health import HealthPolicy
from coord.testing import Faults
from tests.support.faulty import Fault, Plan, make_faulty, put_under, settle
from tests.support.proxy import Proxy
from tests.support.virtual import VirtualLoop, run_virtual, virtual_env

WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.005)


# -- lost and late requests ----------------------------------------------------------------------------------------


# Without TWICE: one connection delivers an answered request once; copies come from our own resending.
@pytest.mark.parametrize(
    "fault", [Fault.NONE, Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE], ids=lambda f: f.value
)
async def test_an_answer_that_is_missing_leaves_one_entry_and_then_none(
    inline: coord.Client, fault: Fault
) -> None:
    faulty = make_faulty(inline, [fault])
    registration = await inline.registry("web").register("h:1", timeout=WITHIN_S)
    (entry,) = (await inline.get_prefix("web/")).items
    assert entry.create_revision == registration.token
    assert entry.version == 1
    assert await registration.deregister() is True
    await faulty.deliver_late()
    assert (await inline.get_prefix("web/")).items == ()


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
async def test_an_answer_to_leaving_that_is_missing_is_asked_for_again(
    inline: coord.Client, fault: Fault
) -> None:
    registration = await inline.registry("web").register("h:1")
    make_faulty(inline, [fault])
    assert await registration.deregister() is True
    assert (await inline.get_prefix("web/")).items == ()


def _is_quiet(client: coord.Client) -> bool:
    """Whether no attempt is being abandoned."""
    return not [task for task in client._core.supervisor._tasks if task.get_name() == "abandon"]


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("arrives", ["after the clean-up", "during the next one"])
async def test_giving_up_leaves_nothing_whenever_the_request_arrives(
    inline: coord.Client, how: str, arrives: str
) -> None:
    await inline.default_session()
    faulty = make_faulty(inline, [Fault.LATE])
    registry = inline.registry("web")
    if how == "cancel":
        task = asyncio.ensure_future(registry.register("h:1").__aenter__())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(coord.ServiceTimeout, match="did not answer") as caught:
            await registry.register("h:1", timeout=0.01)
        assert isinstance(caught.value, TimeoutError)
    if arrives == "after the clean-up":
        await until(lambda: _is_quiet(inline))
        assert await faulty.deliver_late() == 1
        assert (await inline.get_prefix("web/")).items == ()
    # The next one of this id waits for the clean-up.
    async with registry.register("h:1", timeout=WITHIN_S) as registration:
        await faulty.deliver_late()
        (entry,) = (await inline.get_prefix("web/")).items
        assert entry.create_revision == registration.token
    await faulty.deliver_late()
    assert await settle(inline, "web/") == []


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
async def test_an_update_without_an_answer_is_written_once(
    inline: coord.Client, fault: Fault
) -> None:
    async with inline.registry("web").register("h:1") as registration:
        make_faulty(inline, [fault])
        with contextlib.suppress(coord.AmbiguousResult):
            await registration.update(weight=7, timeout=5)
        await registration.update(weight=8, timeout=5)
        entry = await inline.get(registration.key)
        assert entry is not None
        assert json.loads(entry.value)["Metadata"]["weight"] == 8


async def test_a_late_copy_of_an_older_update_changes_nothing(inline: coord.Client) -> None:
    async with inline.registry("web").register("h:1") as registration:
        faulty = make_faulty(inline, [Fault.LATE])
        with contextlib.suppress(coord.AmbiguousResult):
            await registration.update(weight=7, timeout=5)
        await registration.update(weight=8, timeout=5)
        await faulty.deliver_late()
        entry = await inline.get(registration.key)
        assert entry is not None
        assert json.loads(entry.value)["Metadata"]["weight"] == 8


async def test_a_late_copy_of_a_leave_does_not_remove_the_next_one(inline: coord.Client) -> None:
    registry = inline.registry("web")
    first = await registry.register("h:1")
    faulty = make_faulty(inline, [Fault.TWICE])
    await first.deregister()
    async with registry.register("h:1") as second:
        assert await faulty.deliver_late() == 1
        assert second.is_listed
        assert await inline.get(second.key) is not None


async def test_an_entry_of_our_own_last_session_is_replaced_not_adopted(
    inline: coord.Client,
) -> None:
    """A session that has ended here may live on in the store: its entry would vanish under us."""
    async with inline.registry("web", ttl=4).register("h:1") as registration:
        entry = await inline.get(registration.key)
        assert entry is not None
        session = registration._presence._own
        assert session is not None
        faults = Faults()
        faults.drop_request("LeaseRevoke", times=None)
        put_under(inline, faults)
        session.expire("for the test")
        before = registration._presence._entry
        await until(lambda: registration._presence._entry not in (None, before))
        again = await inline.get(registration.key)
        assert again is not None
        assert again.lease not in (0, entry.lease)


async def test_takeover_removes_only_what_it_has_seen(inline: coord.Client) -> None:
    """Between the look at the entry and its removal another one took its place."""
    registry = inline.registry("web", ttl=10)
    first = await registry.register("h1:1", id="a", on_removed="stop")
    between: list[coord.KeyValue] = []

    async def replace() -> None:
        await inline.delete(first.key)
        await inline.put(first.key, '{"Op":0,"Addr":"between:1","Metadata":null}')
        found = await inline.get(first.key)
        assert found is not None
        between.append(found)

    presence_class = type(first._presence)
    plain = presence_class._clear

    async def late_clear(self: object, session: object, found: object) -> None:
        if not between:
            await replace()
            await plain(self, session, found)  # type: ignore[arg-type] # handed on
            # What was seen is gone, and what came since is still there.
            now = await inline.get(first.key)
            assert now == between[0]
            return
        await plain(self, session, found)  # type: ignore[arg-type] # handed on

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence_class, "_clear", late_clear)
        async with registry.register("h2:1", id="a", takeover=True, timeout=5) as second:
            assert second.token > between[0].create_revision
    await first.deregister()


FAULTS = st.lists(
    st.sampled_from([Fault.NONE, Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.LATE]), max_size=10
)


@settings(max_examples=40, deadline=None)
@given(plan=FAULTS, cancels=st.lists(st.integers(0, 25), max_size=4))
def test_any_faults_and_cancellations_leave_one_entry_each_or_none(
    plan: list[Fault], cancels: list[int]
) -> None:
    asyncio.run(_churn(plan, cancels))


async def _churn(plan: list[Fault], cancels: list[int]) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        await client.default_session()
        faulty = make_faulty(client, plan)
        group = client.membership("g")
        inside: dict[str, int] = {}

        async def visit(number: int) -> None:
            ident = f"m{number % 2}"
            try:
                async with group.join(ident, data=number, takeover=number == 4) as seat:
                    inside[ident] = inside.get(ident, 0) + 1
                    await seat.update({"visit": number})
                    await asyncio.sleep(0.001)
                    inside[ident] -= 1
            except (coord.AlreadyMember, coord.NotMember, coord.MemberLost, coord.AmbiguousResult):
                pass

        tasks = [asyncio.ensure_future(visit(number)) for number in range(5)]
        for index, turns in enumerate(cancels):
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[index].cancel()
            if index % 2:
                await faulty.deliver_late()
        done, pending = await asyncio.wait(tasks, timeout=30)
        assert not pending
        for task in done:
            if not task.cancelled():
                task.result()
        await faulty.deliver_late()
        assert await settle(client, "g/") == []
        for ident in ("m0", "m1"):
            async with group.join(ident, timeout=10):
                pass


# -- time ----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def virtually(loop: VirtualLoop, count: int) -> AsyncGenerator[list[coord.Client]]:
    """Clients of one store in virtual time."""
    env = virtual_env(loop)
    options = coord.connect("memory:", runtime="inline")._options
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Connecting(options, env)) for _ in range(count)]


def test_many_that_lost_their_sessions_at_once_come_back_spread_out() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with virtually(loop, 1) as (client,):
            group = client.membership("g", ttl=20)
            seats = [await group.join(f"m{number}") for number in range(40)]
            began = loop.time()
            for seat in seats:
                session = seat._presence._own
                assert session is not None
                session.expire("for the test")
            back: dict[str, float] = {}
            while len(back) < 40:
                await asyncio.sleep(0.1)
                for seat in seats:
                    if seat.is_present and seat.id not in back:
                        back[seat.id] = loop.time() - began
            # Over half the TTL, and all of them within the TTL.
            assert max(back.values()) < 12
            assert max(back.values()) - min(back.values()) > 5
            assert max([sum(1 for t in back.values() if s <= t < s + 1) for s in range(12)]) < 15
            for seat in seats:
                await seat.leave()

    run_virtual(main)


def test_a_store_that_is_back_lists_again_within_the_ttl() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with virtually(loop, 1) as (client,):
            registration = await client.registry("web", ttl=10).register("h:1")
            first = registration.token
            faults = Faults()
            rules = [faults.fail(method, times=None) for method in ("Txn", "LeaseGrant")]
            put_under(client, faults)
            session = registration._presence._own
            assert session is not None
            session.expire("for the test")
            await asyncio.sleep(60)
            assert (await client.get_prefix("web/")).items == ()
            for rule in rules:
                rule.remove()
            await asyncio.sleep(10)
            assert registration.is_listed
            assert registration.token > first
            await registration.deregister()

    run_virtual(main)


@pytest.mark.parametrize("policy", ["remove", "mark"])
def test_health_that_could_not_be_written_is_written_later(policy: HealthPolicy) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with virtually(loop, 1) as (client,):
            well = True
            faults = Faults()
            put_under(client, faults)
            check = coord.HealthCheck(lambda: well, period=1, rise=1, fall=1, policy=policy)

            async def listed_as() -> str:
                found = await client.get("web/h:1")
                return "" if found is None else str(json.loads(found.value)["Metadata"]["health"])

            async with client.registry("web", ttl=600).register("h:1", health=check):
                for well in (False, True):
                    broken = faults.fail("Txn", times=None)
                    await asyncio.sleep(60)
                    broken.remove()
                    await asyncio.sleep(60)
                    ill = "" if policy == "remove" else "failing"
                    assert await listed_as() == ("serving" if well else ill)

    run_virtual(main)


async def test_an_update_ends_in_time_and_is_written_later(inline: coord.Client) -> None:
    async with inline.registry("web", ttl=60).register("h:1") as registration:
        faults = Faults()
        put_under(inline, faults)
        broken = [faults.hold(method, times=None) for method in ("Txn", "LeaseGrant")]
        with pytest.raises(coord.CoordTimeout) as caught:
            await registration.update(weight=7, timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        for rule in broken:
            rule.remove()
            rule.release()
        await registration.update(weight=8, timeout=WITHIN_S)
        entry = await inline.get(registration.key)
        assert entry is not None
        assert json.loads(entry.value)["Metadata"]["weight"] == 8


# -- connections ---------------------------------------------------------------------------------------------------


async def test_a_view_without_a_store_stays_and_says_since_when(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        direct.registry(prefix + "web").register("h:1"),
        client.registry(prefix + "web").discover() as view,
    ):
        await until(lambda: view.stale_for == 0)
        await proxy.refuse()
        proxy.cut()
        await until(lambda: view.stale_for > 0.2)
        assert view.pick().addr == "h:1"
        async with direct.registry(prefix + "web").register("h:2"):
            await proxy.accept()
            assert len(await view.wait_for(2, timeout=WITHIN_S)) == 2
            await until(lambda: view.stale_for == 0)


async def test_discovery_without_a_store_times_out(endpoint: str, prefix: str) -> None:
    async with Proxy(endpoint) as proxy, coord.connect(proxy.endpoint) as client:
        await proxy.refuse()
        registry = client.registry(prefix + "web")
        with pytest.raises(coord.ServiceTimeout):
            await registry.discover(timeout=0.2)
        with pytest.raises((coord.ServiceTimeout, coord.Unavailable)):
            await registry.register("h:1", timeout=0.2)
        with pytest.raises(coord.MembershipTimeout):
            await client.membership(prefix + "g").members(timeout=0.2)
        await proxy.accept()
        async with registry.register("h:1", timeout=WITHIN_S), registry.discover() as view:
            assert len(view.instances()) == 1


# -- cost ----------------------------------------------------------------------------------------------------------


def unary(faulty: Plan) -> list[str]:
    paths, faulty.paths = faulty.paths, []
    return [path.rpartition("/")[2] for path in paths]


async def test_what_it_costs(inline: coord.Client) -> None:
    await inline.default_session()
    faulty = make_faulty(inline)
    registry = inline.registry("web")
    registration = await registry.register("h:1")
    assert unary(faulty) == ["Txn"]
    view = await registry.discover()
    assert unary(faulty) == ["Range"]
    for _ in range(100):
        view.report(view.pick(), ok=True)
    assert unary(faulty) == []
    await registration.update(weight=2)
    assert unary(faulty) == ["Txn"]
    others = [await registry.register(f"h:{number}", id=f"n{number}") for number in range(5)]
    assert unary(faulty) == ["Txn"] * 5
    await view.wait_for(6, timeout=WITHIN_S)
    # A second view of the same client shares the copy.
    second = await registry.discover()
    assert len(second.instances()) == 6
    assert unary(faulty) == []
    for each in (registration, *others):
        await each.deregister()
    assert unary(faulty) == ["Txn"] * 6
    group = inline.membership("g")
    seat = await group.join("a")
    assert unary(faulty) == ["Txn"]
    assert len(await group.members()) == 1
    assert unary(faulty) == ["Range"]
    await seat.update(1)
    await seat.leave()
    assert unary(faulty) == ["Txn", "Txn"]
    await until(functools.partial(_is_empty, group))
    assert unary(faulty) == []


def _is_empty(group: coord.Membership) -> bool:
    return group._members() == ()


@pytest.mark.parametrize("end", ["comes back", "leaves", "is not well"])
def test_an_outage_that_ends_every_session_does_not_empty_the_list(end: str) -> None:
    """Leases outlive an outage, since a new leader gives them their whole time again: so do the entries."""

    async def main(loop: VirtualLoop) -> None:
        async with virtually(loop, 1) as (client,):
            registry = client.registry("web", ttl=10)
            made = [await registry.register(f"h:{number}") for number in range(3)]
            tokens = [each.token for each in made]
            for each in made:
                session = each._presence._own
                assert session is not None
                session.expire("for the test")
            counts: list[int] = []
            if end == "leaves":
                for each in made:
                    await each.deregister()
            elif end == "is not well":
                for each in made:
                    await each._presence.show(None)
            for _ in range(80):
                counts.append(await client.count("web/"))
                await asyncio.sleep(0.1)
            if end != "comes back":
                assert set(counts[1:]) == {0}
                return
            assert set(counts) == {3}
            assert all(each.is_listed for each in made)
            assert [each.token for each in made] == tokens  # they have never gone
            leases = await client.leases()
            assert len(leases) == 3  # those before are gone
            for each in made:
                await each.deregister()

    run_virtual(main)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.NONE])
async def test_any_one_answer_may_be_lost_on_the_way_back(
    inline: coord.Client, fault: Fault, place: int
) -> None:
    """An entry is looked for, taken along under the new lease, and found; then it is left, and nothing comes late."""
    registration = await inline.registry("web", ttl=60).register("h:1")
    presence, token = registration._presence, registration.token
    session, before = presence._own, presence._entry
    assert session is not None
    faulty = make_faulty(inline, [*[Fault.NONE] * place, fault])
    session.expire("for the test")
    presence._home.pause = at_once  # type: ignore[method-assign] # the others are not there to be kept apart from
    await until(lambda: presence._entry not in (None, before))
    entry = await inline.get(registration.key)
    assert entry is not None
    assert presence._own is not None
    assert entry.lease == presence._own.lease_id
    assert (registration.token, entry.create_revision) == (token, token)
    await presence.show(b"new")
    await faulty.deliver_late()
    entry = await inline.get(registration.key)
    assert entry is not None
    assert entry.value == b"new"
    await registration.deregister()
    assert await inline.get(registration.key) is None


async def at_once(low: float, high: float) -> None:
    await asyncio.sleep(0)
