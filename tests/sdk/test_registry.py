"""Services, on every store: registering, finding, healing, draining, health, and what is written."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable

import pytest

import coord

WITHIN_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def viewing(
    client: coord.Client, service: str, **options: object
) -> AsyncGenerator[coord.ServiceView]:
    async with client.registry(service).discover(timeout=WITHIN_S, **options) as view:  # type: ignore[arg-type] # handed on
        yield view


async def raw_instances(client: coord.Client, service: str, count: int) -> list[int]:
    """Entries of others, each with a lease of its own; return the leases."""
    leases: list[int] = []
    for number in range(count):
        lease = await client.lease_grant(60)
        value = json.dumps({"Op": 0, "Addr": f"h{number}:1", "Metadata": None})
        await client.put(f"{service}/{number}", value, lease=lease.lease_id)
        leases.append(lease.lease_id)
    return leases


async def test_an_instance_is_listed_while_it_is_registered(
    client: coord.Client, prefix: str
) -> None:
    registry = client.registry(prefix + "web")
    async with viewing(client, prefix + "web") as view:
        with pytest.raises(coord.NoInstance, match="web"):
            view.pick()
        async with registry.register(
            "10.0.0.1:80", weight=2, zone="eu", tags=("a",), metadata={"build": 7}, timeout=5
        ) as registration:
            (found,) = await view.wait_for(1, timeout=WITHIN_S)
            assert (found.id, found.addr, found.weight, found.zone, found.tags) == (
                "10.0.0.1:80",
                "10.0.0.1:80",
                2,
                "eu",
                ("a",),
            )
            assert found.metadata == {"build": 7}
            assert found.token == registration.token
            assert view.pick() == found
            assert registration.is_listed
            entry = await client.get(registration.key)
            assert entry is not None
            assert entry.lease == (await client.default_session()).lease_id
        assert await client.get(registration.key) is None
        await until(lambda: view.instances() == ())


async def test_the_entry_is_laid_out_as_go_does(client: coord.Client, prefix: str) -> None:
    registry = client.registry(prefix + "web")
    async with registry.register("h:1", id="one", version="1.2") as registration:
        (kv,) = (await client.get_prefix(prefix)).items
        assert kv.key == f"{prefix}web/one".encode()
        value = json.loads(kv.value)
        since = value["Metadata"].pop("since")
        nonce = value["Metadata"].pop("nonce")
        assert since > 1_600_000_000
        assert len(nonce) == 16
        assert value == {
            "Op": 0,
            "Addr": "h:1",
            "Metadata": {"id": "one", "weight": 1, "version": "1.2", "health": "serving"},
        }
        assert registration.token == kv.create_revision


async def test_instances_of_gos_clients_are_seen(client: coord.Client, prefix: str) -> None:
    await raw_instances(client, prefix + "web", 2)
    await client.put(prefix + "web/odd", "not an instance")
    async with viewing(client, prefix + "web") as view:
        assert [each.addr for each in view.instances()] == ["h0:1", "h1:1"]
        assert {view.pick().addr for _ in range(4)} == {"h0:1", "h1:1"}
        assert list(view.undecodable) == [f"{prefix}web/odd".encode()]


async def test_an_id_is_had_by_one(client: coord.Client, prefix: str) -> None:
    registry = client.registry(prefix + "web", ttl=10)
    async with registry.register("h1:1", id="a"):
        with pytest.raises(coord.AlreadyRegistered, match="h1:1"):
            await registry.register("h2:1", id="a", timeout=5)
        shared = client.registry(prefix + "web")
        async with shared.register("h3:1", id="b"):
            with pytest.raises(coord.AlreadyRegistered, match="this client"):
                await shared.register("h4:1", id="b")
    async with registry.register("h2:1", id="a", timeout=5):
        pass


async def test_takeover_replaces_and_the_one_before_is_told(
    client: coord.Client, prefix: str
) -> None:
    registry = client.registry(prefix + "web", ttl=10)
    first = await registry.register("h1:1", id="a")
    second = await registry.register("h2:1", id="a", takeover=True, timeout=5)
    assert second.token > first.token
    assert await first.lost.wait(timeout=WITHIN_S) == "taken over by another"
    assert await first.deregister() is False
    with pytest.raises(coord.NotHeld):
        await first.update(weight=3)
    entry = await client.get(second.key)
    assert entry is not None
    assert entry.create_revision == second.token
    assert await second.deregister() is True
    assert await second.deregister() is True


async def test_update_changes_the_entry_in_place(client: coord.Client, prefix: str) -> None:
    async with (
        client.registry(prefix + "web").register("h:1", metadata={"a": 1}) as registration,
        viewing(client, prefix + "web") as view,
    ):
        await registration.update(weight=9, metadata={"b": 2}, timeout=5)
        await until(lambda: view.instances()[0].weight == 9)
        (found,) = view.instances()
        assert found.metadata == {"b": 2}
        assert found.token == registration.token
        assert found.revision > found.token
        await registration.update(zone="eu")
        await until(lambda: view.instances()[0].zone == "eu")
        with pytest.raises(coord.InvalidArgument):
            await registration.update(weight=-1)
        with pytest.raises(coord.PayloadTooLarge):
            await registration.update(metadata={"a": "x" * 600_000})
    with pytest.raises(coord.NotHeld):
        await registration.update(weight=1)


async def test_a_deleted_entry_is_put_again(client: coord.Client, prefix: str) -> None:
    async with client.registry(prefix + "web").register("h:1") as registration:
        first = registration.token
        await registration.update(weight=4)
        await client.delete(registration.key)
        await until(lambda: registration.token > first and registration.is_listed)
        entry = await client.get(registration.key)
        assert entry is not None
        assert json.loads(entry.value)["Metadata"]["weight"] == 4


async def test_a_deleted_entry_may_be_lost_instead(client: coord.Client, prefix: str) -> None:
    registry = client.registry(prefix + "web")
    registration = await registry.register("h:1", on_removed="stop")
    await client.delete(registration.key)
    assert await registration.lost.wait(timeout=WITHIN_S) == "revoked"
    await asyncio.sleep(0.7)  # longer than the pause before an entry would be put again
    assert await client.get(registration.key) is None
    assert await registration.deregister() is False


@pytest.mark.parametrize("ttl", [None, 3])
async def test_a_lost_session_is_healed(client: coord.Client, prefix: str, ttl: int | None) -> None:
    async with client.registry(prefix + "web", ttl=ttl).register("h:1") as registration:
        first = registration.token
        entry = await client.get(registration.key)
        assert entry is not None
        await client.lease_revoke(entry.lease)
        await until(lambda: registration.token > first and registration.is_listed)
        again = await client.get(registration.key)
        assert again is not None
        assert again.lease != entry.lease
        assert again.create_revision == registration.token
    assert await client.get(registration.key) is None


async def test_a_session_of_its_own_ends_with_the_registration(
    client: coord.Client, prefix: str
) -> None:
    registration = await client.registry(prefix + "web", ttl=10).register("h:1")
    entry = await client.get(registration.key)
    assert entry is not None
    await registration.deregister()
    assert (await client.lease_time_to_live(entry.lease)).remaining is None


async def test_draining_is_said_before_it_leaves(client: coord.Client, prefix: str) -> None:
    registry = client.registry(prefix + "web")
    async with viewing(client, prefix + "web") as view:
        stays = await registry.register("stays:1")
        goes = await registry.register("goes:1")
        await view.wait_for(2, timeout=WITHIN_S)
        draining = asyncio.ensure_future(goes.drain(0.5))
        await until(lambda: len(view.instances()) == 2 and view.instances()[0].health == "draining")
        assert {view.pick().addr for _ in range(6)} == {"stays:1"}
        assert not draining.done()
        assert await draining is True
        await until(lambda: len(view.instances()) == 1)
        draining = asyncio.ensure_future(stays.drain(60))
        await until(lambda: view.instances()[0].health == "draining")
        assert view.pick().addr == "stays:1"  # rather than none at all
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert await client.get(stays.key) is None


async def test_failing_health_takes_the_entry_away_and_brings_it_back(
    client: coord.Client, prefix: str
) -> None:
    well = True
    loop = asyncio.get_running_loop()
    loops: list[object] = []

    async def ask() -> bool:
        loops.append(asyncio.get_running_loop())
        return well

    check = coord.HealthCheck(ask, period=0.05, rise=2, fall=2)
    async with client.registry(prefix + "web").register("h:1", health=check) as registration:
        first = registration.token
        well = False
        await until(lambda: not registration.is_listed)
        assert await client.get(registration.key) is None
        assert registration.health == "failing"
        await registration.update(weight=5)  # kept for later
        assert await client.get(registration.key) is None
        well = True
        await until(lambda: registration.is_listed)
        assert registration.token > first
        entry = await client.get(registration.key)
        assert entry is not None
        assert json.loads(entry.value)["Metadata"]["weight"] == 5
    assert set(loops) == {loop}
    assert await client.get(registration.key) is None


async def test_failing_health_may_only_be_marked(client: coord.Client, prefix: str) -> None:
    def ask() -> bool:
        raise OSError("not well")

    check = coord.HealthCheck(ask, period=0.05, fall=1, policy="mark")
    registry = client.registry(prefix + "web")
    async with (
        registry.register("ill:1", health=check),
        registry.register("well:1"),
        viewing(client, prefix + "web") as view,
    ):
        await until(lambda: view.instances()[0].health == "failing")
        assert {view.pick().addr for _ in range(4)} == {"well:1"}
        assert len(await view.wait_for(1, timeout=5)) == 1


async def test_all_instances_that_vanish_at_once_stay_for_the_grace(
    client: coord.Client, prefix: str
) -> None:
    leases = await raw_instances(client, prefix + "web", 6)
    async with viewing(client, prefix + "web", brake_grace=1.5) as view:
        assert len(view.instances()) == 6
        for lease in leases:
            await client.lease_revoke(lease)
        await asyncio.sleep(0.5)
        assert len(view.instances()) == 6
        view.pick()
        await until(lambda: view.instances() == ())


async def test_a_probe_finds_out_who_is_really_gone(client: coord.Client, prefix: str) -> None:
    leases = await raw_instances(client, prefix + "web", 6)

    def probe(instance: coord.Instance) -> bool:
        return instance.addr in ("h2:1", "h3:1")

    async with viewing(client, prefix + "web", brake_grace=60, probe=probe) as view:
        for lease in leases:
            await client.lease_revoke(lease)
        await until(lambda: [each.addr for each in view.instances()] == ["h2:1", "h3:1"])


async def test_watch_tells_each_list(client: coord.Client, prefix: str) -> None:
    registry = client.registry(prefix + "web")

    def counts(instance: coord.Instance) -> bool:
        return instance.weight > 0

    async with viewing(client, prefix + "web", filter=counts) as view:
        lists = view.watch()
        assert await anext(lists) == ()
        async with registry.register("h1:1"), registry.register("ghost:1", weight=0):
            assert [each.addr for each in await anext(lists)] == ["h1:1"]
            assert [each.addr for each in view.instances()] == ["h1:1"]
        assert await anext(lists) == ()


async def test_zone_comes_first_until_too_little_of_it_is_left(
    client: coord.Client, prefix: str
) -> None:
    registry = client.registry(prefix + "web")
    async with contextlib.AsyncExitStack() as stack:
        for number in range(3):
            await stack.enter_async_context(registry.register(f"near{number}:1", zone="eu"))
        await stack.enter_async_context(registry.register("far:1", zone="us"))
        view = await stack.enter_async_context(
            registry.discover(strategy="zone", zone="eu", timeout=WITHIN_S)
        )
        assert {view.pick().zone for _ in range(8)} == {"eu"}
        near = [each for each in view.instances() if each.zone == "eu"]
        for number, zones in ((0, {"eu"}), (1, {"eu", "us"})):
            for _ in range(5):
                view.report(near[number], ok=False)
            assert {view.pick().zone for _ in range(8)} == zones
        with pytest.raises(coord.InvalidArgument):
            registry.discover(strategy="zone")


async def test_errors_eject_from_picks_but_not_from_the_list(
    client: coord.Client, prefix: str
) -> None:
    registry = client.registry(prefix + "web")
    async with (
        registry.register("bad:1"),
        registry.register("good:1"),
        viewing(client, prefix + "web") as view,
    ):
        bad = view.instances()[0]
        for _ in range(5):
            view.report(bad, ok=False, latency=0.1)
        assert {view.pick().addr for _ in range(6)} == {"good:1"}
        assert len(view.instances()) == 2


async def test_waiting_for_instances_times_out_and_says_how_many(
    client: coord.Client, prefix: str
) -> None:
    registry = client.registry(prefix + "web")
    async with registry.register("h:1"), viewing(client, prefix + "web") as view:
        with pytest.raises(coord.ServiceTimeout, match="there are 1") as caught:
            await view.wait_for(2, timeout=0.1)
        assert isinstance(caught.value, TimeoutError)
        waiting = asyncio.ensure_future(view.wait_for(2))
        async with registry.register("h:2"):
            assert len(await asyncio.wait_for(waiting, WITHIN_S)) == 2


async def test_services_are_found_by_their_entries(client: coord.Client, prefix: str) -> None:
    await raw_instances(client, prefix + "go", 1)
    await client.put(prefix + "other/key", "{}")
    async with client.registry(prefix + "web").register("h:1"):
        found = await client.services(prefix)
    assert {name: [each.addr for each in who] for name, who in found.items()} == {
        prefix + "go": ["h0:1"],
        prefix + "web": ["h:1"],
    }


async def test_a_closed_view_refuses(client: coord.Client, prefix: str) -> None:
    view = await client.registry(prefix + "web").discover()
    view.close()
    view.close()
    with pytest.raises(coord.ClientClosed):
        view.instances()
    with pytest.raises(coord.ClientClosed):
        view.pick()


async def test_arguments_are_checked_before_anything_is_sent(client: coord.Client) -> None:
    registry = client.registry("web")
    for wrong in (
        lambda: registry.register(""),
        lambda: registry.register("unix:/run/x"),
        lambda: registry.register("h:1", weight=-1),
        lambda: registry.register("h:1", metadata={"id": "x"}),
        lambda: registry.register("h:1", timeout=-1),
        lambda: registry.discover(brake_ratio=0),
        lambda: registry.discover(strategy="best"),  # type: ignore[arg-type] # the point
        lambda: client.registry(""),
        lambda: client.registry("web", ttl=0),
    ):
        with pytest.raises(coord.InvalidArgument):
            wrong()
    with pytest.raises(coord.InvalidArgument):
        await registry.register("h:1", health="ftp://h:1")
    with pytest.raises(coord.PayloadTooLarge):
        registry.register("h:1", metadata={"a": "x" * 600_000})
