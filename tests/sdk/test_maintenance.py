"""Looking after one member: status, hashes, space, alarms, backups; and that such a call goes where it is told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

import coord
import coord.sync
from coord.core import Carrier
from coord.runtime import AtomicFile
from coord.store import Repeat, upkeep
from coord.wire import methods, rpc_pb2
from tests.sdk.conftest import CARRIERS, STORES
from tests.support.proxy import Proxy
from tests.support.servers import (
    ServerProcess,
    coord_server_process,
    etcd_binary,
    free_port,
    real_etcd,
)

carriers = pytest.mark.parametrize("transport", CARRIERS)


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def one_that_serves(client: coord.Client) -> str:
    statuses = await client.maintenance.statuses()
    return next(each.endpoint for each in statuses if each.error is None)


async def test_status(client: coord.Client, prefix: str) -> None:
    revision = (await client.put(prefix, "x")).revision
    status = await client.maintenance.status()
    assert status.revision >= revision
    assert status.raft_applied_index > 0
    # Of several members one may be down: it is listed all the same.
    all_of_them = await client.maintenance.statuses()
    assert [s.endpoint for s in all_of_them] == list(client.endpoints)
    endpoint = await one_that_serves(client)
    named = await client.maintenance.status(endpoint)
    assert named.endpoint == endpoint
    assert named.cluster_id == status.cluster_id
    if len(client.endpoints) == 1:
        assert (named.member_id, status.endpoint) == (status.member_id, endpoint)


async def test_hashes(client: coord.Client, prefix: str) -> None:
    revision = (await client.put(prefix, "x")).revision
    endpoint = await one_that_serves(client)
    one = await client.maintenance.hash_kv(endpoint, revision=revision)
    await client.put(prefix, "y")
    two = await client.maintenance.hash_kv(endpoint, revision=revision)
    now = await client.maintenance.hash_kv(endpoint)
    assert one.hash == two.hash != now.hash
    assert now.revision > revision
    with pytest.raises(coord.FutureRevision):
        await client.maintenance.hash_kv(endpoint, revision=now.revision + 1_000_000)


async def test_defragment(client: coord.Client, prefix: str) -> None:
    await client.put(prefix, "x")
    await client.maintenance.defragment(await one_that_serves(client), timeout=60)
    assert await client.count(prefix) == 1


async def test_what_a_server_lacks_is_told(client: coord.Client) -> None:
    with pytest.raises((coord.RequestRefused, coord.InvalidArgument)) as caught:
        await client.maintenance.downgrade(coord.DowngradeAction.VALIDATE, "nonsense")
    assert "Downgrade is not supported" in str(caught.value) or "wrong downgrade target" in str(
        caught.value
    )


@carriers
async def test_endpoints_that_do_not_fit(endpoint: str, transport: Carrier) -> None:
    async with coord.connect(endpoint, transport=transport) as client:
        for wrong, why in (
            (f"https://{endpoint}", "does not use TLS"),
            ("memory:", "give one host:port"),
            ("etcd://a,b", "give one host:port"),
            ("nonsense", "port is missing"),
        ):
            with pytest.raises(coord.InvalidArgument, match=why):
                await client.maintenance.status(wrong)


@carriers
async def test_a_call_goes_to_the_endpoint_that_it_names(endpoint: str, transport: Carrier) -> None:
    async with Proxy(endpoint) as one, Proxy(endpoint) as two, Proxy(endpoint) as stranger:
        proxies = (one, two, stranger)
        endpoints = [one.endpoint, two.endpoint]
        async with coord.connect(endpoints, transport=transport) as client:
            await client.status()
            for named in proxies:
                before = [proxy.connections for proxy in proxies]
                await client.maintenance.status(named.endpoint)
                after = [proxy.connections for proxy in proxies]
                assert [b - a for a, b in zip(before, after, strict=True)] == [
                    int(proxy is named) for proxy in proxies
                ]
            assert stranger.endpoint not in client.endpoints


@carriers
async def test_one_dead_endpoint_does_not_hide_the_others(
    endpoint: str, transport: Carrier
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    async with coord.connect([endpoint, dead], transport=transport) as client:
        alive, gone = await client.maintenance.statuses(timeout=1)
        assert alive.status is not None
        assert gone.endpoint == dead
        assert isinstance(gone.error, coord.Unavailable)


# Alarms.


async def raise_alarm(client: coord.Client, alarm: coord.AlarmType, member_id: int) -> None:
    request = rpc_pb2.AlarmRequest(
        action=rpc_pb2.AlarmRequest.ACTIVATE,
        memberID=member_id,
        alarm=rpc_pb2.AlarmType.Value(alarm.name),
    )
    await client._core.caller.call(methods.MAINTENANCE_ALARM, request, repeat=Repeat.IDEMPOTENT)


@pytest.mark.parametrize("store", STORES)
async def test_alarms(store: str, tmp_path: Path) -> None:
    start = real_etcd if store == "etcd" else coord_server_process
    with start(tmp_path) as server:
        async with coord.connect(server.endpoint) as client:
            me = (await client.maintenance.status()).member_id
            nospace = coord.Alarm(member_id=me, type=coord.AlarmType.NOSPACE)
            assert await client.maintenance.alarms() == ()
            assert await client.maintenance.disarm() == ()
            await raise_alarm(client, coord.AlarmType.NOSPACE, me)
            assert await client.maintenance.alarms() == (nospace,)
            assert "NOSPACE" in str((await client.maintenance.status()).errors)
            with pytest.raises(coord.NoSpace):
                await client.put("k", "v")
            corrupt = coord.Alarm(member_id=0, type=coord.AlarmType.CORRUPT)
            await raise_alarm(client, coord.AlarmType.CORRUPT, 0)
            assert await client.maintenance.disarm(nospace) == (nospace,)
            assert await client.maintenance.disarm(nospace) == ()
            assert await client.maintenance.alarms() == (corrupt,)
            assert await client.maintenance.disarm() == (corrupt,)
            await client.put("k", "v")


# Backups.


async def test_a_snapshot_in_parts(client: coord.Client, prefix: str) -> None:
    await client.put(prefix, "x" * 100_000)
    parts = [part async for part in client.maintenance.snapshot()]
    backend = b"".join(parts[:-1])
    assert parts[-1] == hashlib.sha256(backend).digest()
    assert len(backend) % 512 == 0
    assert prefix.encode() in backend
    assert b"x" * 1000 in backend


async def test_a_snapshot_on_disk(client: coord.Client, prefix: str, tmp_path: Path) -> None:
    await client.put(prefix, "x")
    path = tmp_path / "backup.db"
    path.write_bytes(b"old")
    endpoint = await one_that_serves(client)
    saved = await client.maintenance.save_snapshot(str(path), endpoint=endpoint)
    content = path.read_bytes()
    assert saved == coord.SavedSnapshot(
        path=str(path), size_bytes=len(content), sha256=content[-32:]
    )
    assert hashlib.sha256(content[:-32]).digest() == saved.sha256
    assert path.stat().st_mode & 0o077 == 0
    assert names(tmp_path) == ["backup.db"]


async def test_etcdctl_reads_it(etcd_process: ServerProcess, prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "backup.db"
    async with coord.connect(etcd_process.endpoint) as client:
        revision = (await client.put(prefix, "x")).revision
        await client.maintenance.save_snapshot(str(path))
    told = subprocess.run(  # noqa: ASYNC221 - nothing else runs
        [etcd_binary("etcdctl"), "snapshot", "status", str(path), "--write-out=json"],
        capture_output=True,
        text=True,
        check=True,
        env={"ETCDCTL_API": "3"},
    )
    assert json.loads(told.stdout)["revision"] >= revision


@carriers
async def test_an_iteration_that_is_left_ends_the_stream(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with coord.connect(endpoint, transport=transport) as client:
        await client.put(prefix, "x" * 1_000_000)
        async with contextlib.aclosing(client.maintenance.snapshot()) as parts:
            assert await anext(parts)
        async with asyncio.timeout(30):
            while client._core.carrier.open_calls:
                await asyncio.sleep(0.005)


@carriers
async def test_a_cut_snapshot_leaves_the_old_file(
    endpoint: str, transport: Carrier, prefix: str, tmp_path: Path
) -> None:
    path = tmp_path / "backup.db"
    path.write_bytes(b"old")
    async with (
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
    ):
        for cut in (True, False):
            await client.put(prefix, "x")  # over a connection that works
            proxy.hold_answers()
            sent = proxy.bytes_up
            saving = asyncio.ensure_future(client.maintenance.save_snapshot(str(path)))
            while proxy.bytes_up == sent:
                await asyncio.sleep(0.005)
            if cut:
                proxy.cut()
                with pytest.raises(coord.Unavailable):
                    await saving
            else:
                saving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await saving
            proxy.pass_on()
        await client.put(prefix, "x")
        proxy.hold_answers()
        with pytest.raises(coord.CoordTimeout, match="no part came"):
            await client.maintenance.save_snapshot(str(path), timeout=0.3)
        assert path.read_bytes() == b"old"
        proxy.pass_on()
    # A cancelled caller does not wait for the clean-up, which ends before the client has closed.
    assert names(tmp_path) == ["backup.db"]


async def test_a_snapshot_whose_hash_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        from coord.store.caller import decode as real

        def spoilt(kind: type[rpc_pb2.SnapshotResponse], answer: bytes) -> object:
            message = real(kind, answer)
            if message.remaining_bytes == 0 and len(message.blob) == 32:
                message.blob = bytes(32)
            return message

        monkeypatch.setattr(upkeep, "decode", spoilt)
        path = tmp_path / "backup.db"
        with pytest.raises(coord.ProtocolError, match="SHA-256"):
            await client.maintenance.save_snapshot(str(path))
        assert names(tmp_path) == []


async def test_a_disk_that_refuses(tmp_path: Path) -> None:
    async with coord.connect("memory:") as client:
        with pytest.raises(OSError, match="No such file"):
            await client.maintenance.save_snapshot(str(tmp_path / "none" / "backup.db"))
        await client.put("k", "v")


@pytest.mark.parametrize("runtime", ["thread", "inline"])
async def test_cancelled_at_each_await(tmp_path: Path, runtime: str) -> None:
    """Once and twice: no part file stays, no stream stays, and the next snapshot works."""
    async with coord.connect("memory:", runtime=runtime) as client:  # type: ignore[arg-type]
        await client.put("k", "x" * 200_000)
        path = tmp_path / "backup.db"
        for step in range(40):
            task = asyncio.ensure_future(client.maintenance.save_snapshot(str(path)))
            for _ in range(step):
                await asyncio.sleep(0)
            task.cancel()
            if step % 2:
                await asyncio.sleep(0)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await client.maintenance.save_snapshot(str(path))
        async with asyncio.timeout(30):
            while names(tmp_path) != ["backup.db"] or client._core.carrier.open_calls:
                await asyncio.sleep(0.005)


def test_a_file_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    file = AtomicFile(str(tmp_path / "a"))
    file.abandon()
    with pytest.raises(ValueError, match="not open"):
        file.write(b"x")
    file.open()
    file.write(b"x")
    file.abandon()
    file.abandon()
    assert names(tmp_path) == []
    file = AtomicFile(str(tmp_path / "a"))
    file.open()
    file.write(b"x")
    file.commit()
    file.abandon()
    assert (tmp_path / "a").read_bytes() == b"x"


def test_the_blocking_face(endpoint: str, tmp_path: Path) -> None:
    with coord.sync.connect(endpoint) as client:
        client.put("sync", "x")
        care = client.maintenance
        assert care.status(endpoint).member_id == care.status().member_id
        assert [s.error for s in care.statuses()] == [None]
        assert care.hash_kv(endpoint).revision > 0
        care.defragment(endpoint)
        assert care.alarms() == care.disarm() == ()
        care.move_leader(care.status().member_id)
        with care.snapshot() as parts:
            assert next(parts)
        content = b"".join(care.snapshot(endpoint=endpoint))
        assert hashlib.sha256(content[:-32]).digest() == content[-32:]
        saved = care.save_snapshot(str(tmp_path / "backup.db"))
        assert saved.size_bytes == (tmp_path / "backup.db").stat().st_size
        assert [m.member_id for m in client.cluster.list()] == [care.status().member_id]
