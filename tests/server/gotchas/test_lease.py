"""Gotchas 80-94: leases. What lease/test_lease_service.py proves already is not repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest
from typing_extensions import override

from coord.runtime import real_env
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from coord_server.config import Config
from coord_server.embed import start_embedded
from tests.server.endpoint import LOOPBACK, Call, Endpoint, JumpingClock
from tests.server.gotchas.place import LEASE_NOT_FOUND, put, refused, revision_of, time_to_live

LONGEST = 2**63 - 1


class StoppedClock(JumpingClock):
    """Time passes in jumps only, however slow this machine is."""

    def __init__(self) -> None:
        super().__init__(real_env().clock)
        # A whole number: what is added to it and taken away again leaves no rounding behind.
        self._start = float(round(super().mono()))

    @override
    def mono(self) -> float:
        return self._start + self.jumped


class Disk:
    """A server with its data in a directory; each ``async with`` is one life of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def __aenter__(self) -> Endpoint:
        env = real_env()
        clock = StoppedClock()
        config = Config(name="test", listen_client_urls=LOOPBACK)
        server = await start_embedded(
            net=env.net, env=replace(env, clock=clock), config=config, data_dir=str(self._directory)
        )
        (address,) = server.client_addresses
        self._life = Endpoint(server, grpc.aio.insecure_channel(str(address)), clock)
        return self._life

    async def __aexit__(self, *_: object) -> None:
        await self._life.channel.close()
        await self._life.server.stop()


async def keep_alive(call: Call, lease: int) -> int:
    """Return the TTL that a renewal is answered with."""
    await call.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
    answer = await call.receive()
    assert isinstance(answer, rpc_pb2.LeaseKeepAliveResponse)
    assert lease == answer.ID
    return answer.TTL


@pytest.mark.parametrize("asked", [0, 1, -5, -(2**63)])
async def test_g080_short_ttls_are_raised_to_two_seconds(endpoint: Endpoint, asked: int) -> None:
    request = rpc_pb2.LeaseGrantRequest(TTL=asked)
    answer = await endpoint.call(rpcs.LEASE_GRANT, request)
    assert answer.TTL == 2
    assert (await time_to_live(endpoint, answer.ID)).grantedTTL == 2


@pytest.mark.parametrize("lease", [-1, -(2**63), LONGEST])
async def test_g081_any_id_works_and_survives_a_restart(tmp_path: Path, lease: int) -> None:
    disk = Disk(tmp_path)
    async with disk as endpoint:
        assert lease == await endpoint.grant(600, lease)
        await put(endpoint, b"k", lease=lease)
    async with disk as endpoint:
        assert list((await time_to_live(endpoint, lease)).keys) == [b"k"]
        await endpoint.revoke(lease)
        assert await endpoint.keys(b"k") == []
    async with disk as endpoint:
        assert (await time_to_live(endpoint, lease)).TTL == -1
        assert await endpoint.keys(b"k") == []


async def test_g082_three_signals_for_a_missing_lease(endpoint: Endpoint) -> None:
    assert await keep_alive(endpoint.stream(rpcs.LEASE_KEEP_ALIVE), 99) == 0
    answer = await time_to_live(endpoint, 99)
    assert (answer.ID, answer.TTL, answer.grantedTTL) == (99, -1, 0)
    assert await refused(endpoint.revoke(99)) == LEASE_NOT_FOUND


async def test_g083_a_missing_lease_does_not_disturb_the_others(endpoint: Endpoint) -> None:
    leases = [await endpoint.grant(60 + n) for n in range(3)]
    call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
    for _ in range(3):
        for n, lease in enumerate(leases):
            assert await keep_alive(call, 99 + n) == 0
            assert await keep_alive(call, lease) == 60 + n


async def test_g084_a_renewal_right_after_the_grant(endpoint: Endpoint) -> None:
    call = endpoint.stream(rpcs.LEASE_KEEP_ALIVE)
    for _ in range(30):
        assert await keep_alive(call, await endpoint.grant(60)) == 60


async def test_g085_a_key_belongs_to_its_last_lease(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    async with disk as endpoint:
        leases = [await endpoint.grant(600) for _ in range(4)]
        for name, first, second in ((b"now", 0, 1), (b"later", 2, 3)):
            await put(endpoint, name, lease=leases[first])
            await put(endpoint, name, lease=leases[second])
        await endpoint.revoke(leases[0])
        assert await endpoint.keys(b"now") == [b"now"]
        await endpoint.revoke(leases[1])
        assert await endpoint.keys(b"now") == []
    async with disk as endpoint:
        await endpoint.revoke(leases[2])
        assert await endpoint.keys(b"later") == [b"later"]
        await endpoint.revoke(leases[3])
        assert await endpoint.keys(b"later") == []


async def test_g086_a_put_without_a_lease_detaches(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    async with disk as endpoint:
        now, later = await endpoint.grant(600), await endpoint.grant(600)
        for name, lease in ((b"now", now), (b"later", later)):
            await put(endpoint, name, lease=lease)
            await put(endpoint, name)
        await endpoint.revoke(now)
        assert await endpoint.keys(b"now") == [b"now"]
    async with disk as endpoint:
        await endpoint.revoke(later)
        assert await endpoint.keys(b"later") == [b"later"]


async def test_g087_revoking_without_keys_changes_no_revision(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    assert await endpoint.revoke(lease) == 1
    attached = await endpoint.grant(60)
    await put(endpoint, b"k", lease=attached)
    await endpoint.delete(b"k")
    assert await endpoint.revoke(attached) == await revision_of(endpoint) == 3


async def test_g088_a_new_leader_gives_the_full_time(tmp_path: Path) -> None:
    # One member becomes leader anew when it starts.
    disk = Disk(tmp_path)
    async with disk as endpoint:
        lease = await endpoint.grant(60)
        endpoint.clock.jumped += 50
        assert (await time_to_live(endpoint, lease)).TTL == 10
    async with disk as endpoint:
        # And an election timeout of a second.
        assert (await time_to_live(endpoint, lease)).TTL == 61


async def test_g089_time_left_can_exceed_the_ttl_and_fall_to_zero(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    async with disk as endpoint:
        lease = await endpoint.grant(60)
        assert (await time_to_live(endpoint, lease)).TTL == 60
    async with disk as endpoint:
        answer = await time_to_live(endpoint, lease)
        assert (answer.grantedTTL, answer.TTL) == (60, 61)
        endpoint.clock.jumped += 61
        left = await time_to_live(endpoint, lease)
        # Due, and not yet deleted; or deleted by now.
        assert left.TTL <= 0
        assert left.grantedTTL == (0 if left.TTL == -1 else 60)


async def test_g091_granting_tests_for_existence(endpoint: Endpoint) -> None:
    await endpoint.grant(60, 7)
    exists = ("FAILED_PRECONDITION", "etcdserver: lease already exists")
    assert await refused(endpoint.grant(60, 7)) == exists
    await endpoint.revoke(7)
    assert await endpoint.grant(60, 7) == 7


async def test_g094_there_is_no_lease_0(endpoint: Endpoint) -> None:
    assert await keep_alive(endpoint.stream(rpcs.LEASE_KEEP_ALIVE), 0) == 0
    assert (await time_to_live(endpoint, 0)).TTL == -1
    assert await refused(endpoint.revoke(0)) == LEASE_NOT_FOUND


async def test_g095_one_renewer_may_go_and_the_other_stay(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    gone, stays = (endpoint.stream(rpcs.LEASE_KEEP_ALIVE) for _ in range(2))
    for call in (gone, stays, gone, stays):
        assert await keep_alive(call, lease) == 60
    gone.cancel()
    for _ in range(3):
        assert await keep_alive(stays, lease) == 60
