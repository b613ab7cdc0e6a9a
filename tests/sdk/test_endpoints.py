"""Clusters of several members, of both kinds, as a client sees them: membership, and endpoints that follow it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme

import coord
from coord.core import Carrier, Core, Placement
from coord.errors import EndpointMismatch
from coord.store.values import Member
from coord.syncing import usable
from coord.target import Endpoint, parse_target
from tests.sdk.conftest import CARRIERS, ETCD_RELEASE, STORES
from tests.sdk.test_failures import reached
from tests.support.groups import Group, group
from tests.support.proxy import Proxy
from tests.support.quick import QUICK, connect_quick
from tests.support.servers import coord_server_process, free_port
from tests.support.uncollected import uncollected

carriers = pytest.mark.parametrize("transport", CARRIERS)


@pytest.fixture(params=STORES, scope="module")
def three(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Group]:
    """Three members, who stay three."""
    directory = tmp_path_factory.mktemp("three")
    with group(directory, request.param, version=ETCD_RELEASE) as made:
        yield made


# Membership.


@carriers
async def test_members_and_their_leader(three: Group, transport: Carrier) -> None:
    async with coord.connect(three.endpoints, transport=transport) as client:
        members = await client.cluster.list()
        assert [m.name for m in sorted(members, key=lambda m: m.name)] == ["m1", "m2", "m3"]
        assert all(m.is_started and not m.is_learner for m in members)
        assert set(await client.cluster.list(linearizable=False)) == set(members)
        by_endpoint = {m.client_urls[0].partition("://")[2]: m.member_id for m in members}
        for endpoint in three.endpoints:
            status = await client.maintenance.status(endpoint)
            assert (status.endpoint, status.member_id) == (endpoint, by_endpoint[endpoint])
            assert (await client.maintenance.hash_kv(endpoint)).member_id == status.member_id
        assert {s.status.member_id for s in await client.maintenance.statuses() if s.status} == set(
            by_endpoint.values()
        )


@carriers
async def test_the_leader_moves(three: Group, transport: Carrier) -> None:
    async with coord.connect(three.endpoints, transport=transport) as client:
        leader = (await client.maintenance.status()).leader
        for member in await client.cluster.list():
            await client.maintenance.move_leader(member.member_id)

            async def leads(wanted: int = member.member_id) -> bool:
                told = await client.maintenance.statuses()
                return all(s.status is not None and s.status.leader == wanted for s in told)

            await reached(leads, "all members see the new leader")
        await client.maintenance.move_leader(leader)
        await client.maintenance.move_leader(leader)
        with pytest.raises(coord.RequestRefused):
            await client.maintenance.move_leader(12345)


async def test_the_leader_is_found_by_the_members_addresses(three: Group) -> None:
    async with coord.connect(three.endpoints) as all_of_them:
        members = {
            m.client_urls[0].partition("://")[2]: m for m in await all_of_them.cluster.list()
        }
        # Two of them in turn: the client knows only one endpoint, and at least once that is a follower.
        for endpoint in three.endpoints[:2]:
            async with coord.connect(endpoint) as client:
                await client.maintenance.move_leader(members[three.endpoints[2]].member_id)
                await client.maintenance.move_leader(members[endpoint].member_id)
                status = await client.maintenance.status()
                assert status.leader == status.member_id


@pytest.mark.parametrize("store", STORES)
async def test_growing_and_shrinking(store: str, tmp_path: Path) -> None:
    with group(tmp_path, store, size=1, version=ETCD_RELEASE) as made:
        async with coord.connect(made.endpoints) as client:
            for wrong in ("", (), ["http://a:1", ""]):
                with pytest.raises(coord.InvalidArgument, match="peer URL"):
                    await client.cluster.add(wrong)
            first = (await client.cluster.list())[0]
            with pytest.raises(coord.RequestRefused, match="not enough started members"):
                await client.cluster.remove(first.member_id)
            made.peers["m2"] = f"http://127.0.0.1:{free_port()}"
            added = await client.cluster.add(made.peers["m2"], learner=True)
            assert (added.is_started, added.is_learner) == (False, True)
            assert added.peer_urls == (made.peers["m2"],)
            with pytest.raises(coord.RequestRefused, match="in sync with leader"):
                await client.cluster.promote(added.member_id)
            made.launch("m2", joins=True)

            async def promoted() -> bool:
                try:
                    members = await client.cluster.promote(added.member_id)
                except (coord.RequestRefused, coord.AmbiguousResult):  # not yet, says the server
                    return False
                return not any(m.is_learner for m in members)

            await reached(promoted, "the learner has caught up and is promoted")
            await surely_refused(
                lambda: client.cluster.promote(added.member_id), "promote a learner"
            )
            made.wait("m2")  # until it has told its name, every removal is refused for that
            await surely_refused(lambda: client.cluster.remove(12345), "member not found")
            known = {m.endpoint for m in made.members.values()}
            synced = await client.sync_endpoints()
            assert {url.removeprefix("http://") for url in synced} == known

            async def removed() -> bool:
                try:
                    left = await client.cluster.remove(added.member_id)
                except coord.Unavailable:  # not connected for long enough, says the server
                    return False
                return [m.member_id for m in left] == [first.member_id]

            await reached(removed, "the second member is removed")
            assert [
                u.removeprefix("http://") for u in await client.sync_endpoints()
            ] == made.endpoints[:1]


@pytest.mark.parametrize("store", STORES)
async def test_a_member_that_moves(store: str, tmp_path: Path) -> None:
    with group(tmp_path, store, size=1, version=ETCD_RELEASE) as made:
        async with coord.connect(made.endpoints) as client:
            before, after = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
            added = await client.cluster.add(before, learner=True)
            changed = await client.cluster.update(added.member_id, [after])
            assert {m.peer_urls for m in changed} >= {(after,)}
            assert await client.cluster.list() == changed


@pytest.mark.parametrize("store", STORES)
async def test_a_learner_that_moves_before_it_is_promoted(store: str, tmp_path: Path) -> None:
    with group(tmp_path, store, size=1, version=ETCD_RELEASE) as made:
        async with coord.connect(made.endpoints) as client:
            await client.put("k", "before")
            added = await client.cluster.add(f"http://127.0.0.1:{free_port()}", learner=True)
            made.peers["m2"] = f"http://127.0.0.1:{free_port()}"
            changed = await client.cluster.update(added.member_id, [made.peers["m2"]])
            (learner,) = [m for m in changed if m.member_id == added.member_id]
            if store == "etcd":
                # It takes a learner that moved for a voter, although it has no vote (etcd issue 21694).
                assert not learner.is_learner
                await surely_refused(
                    lambda: client.cluster.promote(added.member_id), "promote a learner"
                )
                return
            assert learner.is_learner
            made.launch("m2", joins=True)

            async def promoted() -> bool:
                try:
                    await client.cluster.promote(added.member_id)
                except (coord.RequestRefused, coord.AmbiguousResult):  # not yet, says the server
                    return False
                return True

            await reached(promoted, "the learner has caught up at its new address")
            made.wait("m2")
            members = {m.name: m for m in await client.cluster.list()}
            assert members["m2"].peer_urls == (made.peers["m2"],)
            assert not members["m2"].is_learner
        async with coord.connect(made.members["m2"].endpoint) as there:
            found = await there.get("k")  # asks the leader, so the two of them talk
            assert found is not None
            assert found.value == b"before"
            await there.put("k", "after")


async def test_a_change_whose_answer_is_missing_is_ambiguous(tmp_path: Path) -> None:
    with coord_server_process(tmp_path) as server:
        async with (
            coord.connect(server.endpoint) as direct,
            Proxy(server.endpoint) as proxy,
            coord.connect(proxy.endpoint) as client,
        ):
            await client.status()
            proxy.hold_answers()
            adding = asyncio.ensure_future(client.cluster.add("http://127.0.0.1:1", learner=True))

            async def applied() -> bool:
                return len(await direct.cluster.list()) == 2

            await reached(applied, "the member is added")
            proxy.cut()
            proxy.pass_on()
            with pytest.raises(coord.AmbiguousResult) as caught:
                await adding
            assert await caught.value.resolve() == await direct.cluster.list()


# Which endpoints are used.

MEMBERS = (
    Member(
        member_id=1,
        name="a",
        peer_urls=(),
        client_urls=("http://a:1", "unix://x"),
        is_learner=False,
    ),
    Member(member_id=2, name="b", peer_urls=(), client_urls=("https://b:1",), is_learner=False),
    Member(member_id=3, name="c", peer_urls=(), client_urls=("http://c:1",), is_learner=True),
    Member(member_id=4, name="", peer_urls=(), client_urls=("http://d:1",), is_learner=False),
    Member(
        member_id=5, name="e", peer_urls=(), client_urls=("http://", "ftp://e:1"), is_learner=False
    ),
)


def test_which_urls_are_usable() -> None:
    plain, secure = parse_target("seed:1"), parse_target("https://seed:1")
    assert [e.text for e in usable(MEMBERS, plain)] == ["http://a:1", "unix://x"]
    found = usable(MEMBERS, secure)
    assert [(e.text, e.tls) for e in found] == [("unix://x", True), ("https://b:1", True)]
    assert usable(MEMBERS[2:], plain) == ()
    with pytest.raises(EndpointMismatch, match=r"does not use TLS.*only TLS URLs: https://b:1"):
        usable(MEMBERS[1:], plain)
    with pytest.raises(EndpointMismatch, match=r"uses TLS.*only plain URLs: http://f:1"):
        usable(
            [
                Member(
                    member_id=6,
                    name="f",
                    peer_urls=(),
                    client_urls=("http://f:1",),
                    is_learner=False,
                )
            ],
            secure,
        )


@carriers
async def test_one_endpoint_becomes_three(three: Group, transport: Carrier, prefix: str) -> None:
    async with (
        coord.connect(three.endpoints[0], transport=transport) as client,
        client.watch(prefix) as watch,
        client.session() as session,
    ):
        urls = await client.sync_endpoints()
        assert set(urls) >= {f"http://{e}" for e in three.endpoints[1:]}
        # The one that was in use is the same under its old name: nothing was cut.
        assert three.endpoints[0] in client.endpoints
        assert client.endpoints == urls
        assert await client.sync_endpoints() == urls
        await client.put(prefix, "x")
        assert (await anext(watch)).value == b"x"
        assert session.valid_for() > 0


@carriers
@pytest.mark.parametrize("runtime", ["thread", "inline"])
async def test_streams_leave_an_endpoint_that_left_the_list(
    three: Group, transport: Carrier, runtime: Placement, prefix: str
) -> None:
    async with Proxy(three.endpoints[0]) as proxy:  # noqa: SIM117 - the client needs its address
        async with (
            connect_quick(proxy.endpoint, transport=transport, runtime=runtime) as client,
            client.watch(prefix, prefix=True) as watch,
            client.session(ttl=5) as session,
        ):
            await client.put(prefix + "a", "x")
            assert (await anext(watch)).value == b"x"
            assert proxy.open_connections == 1

            async def left() -> bool:
                return proxy.open_connections == 0

            with uncollected():
                # Nobody advertises the proxy.
                assert proxy.endpoint not in await client.sync_endpoints()
                await reached(left, "the connection is given up")
            await client.put(prefix + "b", "y")
            assert (await anext(watch)).value == b"y"
            assert session.valid_for() > 0
            assert set(client.endpoints) == {f"http://{e}" for e in three.endpoints}


@carriers
@pytest.mark.parametrize("runtime", ["thread", "inline"])
async def test_a_call_that_failed_keeps_no_connection(
    three: Group, transport: Carrier, runtime: Placement, prefix: str
) -> None:
    async with (
        Proxy(three.endpoints[0]) as proxy,
        coord.connect(proxy.endpoint, transport=transport, runtime=runtime) as client,
    ):
        await client.put(prefix, "x")
        assert proxy.open_connections == 1

        async def left() -> bool:
            return proxy.open_connections == 0

        with uncollected():
            proxy.hold_answers()
            for _ in range(3):
                with contextlib.suppress(coord.CoordTimeout, coord.Unavailable):
                    await client.get(prefix, timeout=0.1)
            proxy.pass_on()
            await client.sync_endpoints()  # nobody advertises the proxy
            await reached(left, "the connection is given up")


@carriers
async def test_a_call_that_runs_may_end(three: Group, transport: Carrier, prefix: str) -> None:
    slow = dataclasses.replace(QUICK, drain=30, keepalive_time=30)
    async with Proxy(three.endpoints[0]) as proxy:  # noqa: SIM117 - the client needs its address
        async with connect_quick(proxy.endpoint, transport=transport, limits=slow) as client:
            await client.status()
            proxy.hold_answers()
            before = proxy.bytes_up
            call = asyncio.ensure_future(client.put(prefix, "x"))
            while proxy.bytes_up == before:
                await asyncio.sleep(0.005)
            async with coord.connect(three.endpoints) as other:
                members = await other.cluster.list()
            target = parse_target(three.endpoints)
            core = client._core
            await core.runtime.run(switch(core, usable(members, target)))
            proxy.pass_on()
            await call
            assert await client.get(prefix) is not None


async def surely_refused(change: Callable[[], Awaitable[object]], words: str) -> None:
    """Ask until the store answers: etcd drops a change while the one before is not applied, and lets it time out."""
    for _ in range(5):
        try:
            await change()
        except coord.AmbiguousResult:
            continue
        except coord.RequestRefused as refused:
            if words in str(refused):
                return
            raise
        pytest.fail(f"not refused with {words!r}")
    pytest.fail("the store never answers")


async def switch(core: Core, endpoints: tuple[Endpoint, ...]) -> None:
    core.carrier.set_endpoints(endpoints)


@carriers
async def test_auto_sync_follows_a_cluster(three: Group, transport: Carrier) -> None:
    connecting = coord.connect(three.endpoints[0], transport=transport, auto_sync=0.05)
    async with connecting as client:

        async def synced() -> bool:
            return len(client.endpoints) == 3

        await reached(synced, "all members are known")
        # A second round changes nothing.
        known = client.endpoints
        await client.sync_endpoints()
        assert client.endpoints == known


@carriers
@pytest.mark.parametrize("store", STORES)
async def test_members_that_advertise_what_nobody_reaches(
    store: str, tmp_path: Path, transport: Carrier, prefix: str
) -> None:
    """The list given to connect() is tried again, so the client does not lose its store for good."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    with group(tmp_path, store, size=1, version=ETCD_RELEASE, advertise=nowhere) as made:
        connecting = coord.connect(
            made.endpoints, transport=transport, auto_sync=0.05, request_timeout=0.5
        )
        async with connecting as client:

            async def misled() -> bool:
                return nowhere in client.endpoints

            await reached(misled, "the client has taken the advertised address")

            async def back() -> bool:
                with contextlib.suppress(coord.CoordError):
                    await client.put(prefix, "x", timeout=0.5)
                    return made.endpoints[0] in client.endpoints
                return False

            await reached(back, "it has come back to the address it was given")


@carriers
async def test_what_is_inside_this_process_does_not_change(transport: Carrier) -> None:
    if transport == "native":
        async with coord.connect("memory:", auto_sync=0.01) as client:
            assert await client.sync_endpoints() == ("memory:",)
            await client.put("k", "v")


def test_auto_sync_is_a_time() -> None:
    for wrong in (0, -1, float("nan")):
        with pytest.raises(coord.InvalidArgument, match="auto_sync"):
            coord.connect("memory:", auto_sync=wrong)


@carriers
async def test_plain_urls_are_refused_by_a_client_with_tls(
    tmp_path: Path, transport: Carrier
) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pair.private_key_pem.write_to_path(tmp_path / "server.key")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    with coord_server_process(
        tmp_path,
        f"--cert-file={tmp_path / 'server.pem'}",
        f"--key-file={tmp_path / 'server.key'}",
        "--advertise-client-urls=http://127.0.0.1:1",
        listen="https://127.0.0.1:0",
    ) as server:
        tls = coord.TlsConfig(ca=str(tmp_path / "ca.pem"))
        async with coord.connect(server.url, tls=tls, transport=transport) as client:
            with pytest.raises(EndpointMismatch, match="uses TLS"):
                await client.sync_endpoints()
            assert client.endpoints == (server.url,)
            assert (await client.maintenance.status(server.endpoint)).member_id
