"""Hash, Defragment, Snapshot and restoring, on whole servers, by grpcio and by etcdctl."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio
import pytest

from coord.rpc.status import StatusCode
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2 as pb
from coord_server import errors, failpoints
from tests.server.endpoint import Endpoint, serving
from tests.server.maintenance.place import Place
from tests.support.servers import (
    ServerProcess,
    clean_environment,
    coord_server_command,
    coord_server_process,
    etcdctl,
)

Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"


async def hash_kv(site: Endpoint, revision: int = 0) -> int:
    answer = await site.call(rpcs.MAINTENANCE_HASH_KV, pb.HashKVRequest(revision=revision))
    return answer.hash


def snapshot(site: Endpoint, **options: Any) -> Any:  # noqa: ANN401 - of grpcio
    rpc = rpcs.MAINTENANCE_SNAPSHOT
    multi = site.channel.unary_stream(rpc.path, response_deserializer=rpc.response.FromString)
    return multi(b"", **options)


async def saved(site: Endpoint) -> bytes:
    """The bytes that a client writes to its file."""
    blobs = [answer.blob async for answer in snapshot(site)]
    return b"".join(blobs)


async def fill(site: Endpoint, count: int, size: int = 1000) -> None:
    for n in range(count):
        await site.put(b"%05d" % n, bytes(size))


# Hash.


async def test_a_hash_is_of_this_backend_alone() -> None:
    async with serving() as site:
        await site.put(b"k")
        first = await site.call(rpcs.MAINTENANCE_HASH, pb.HashRequest())
        assert first.header.revision == 2
        again = await site.call(rpcs.MAINTENANCE_HASH, pb.HashRequest())
        assert again.hash == first.hash
        keys = await hash_kv(site)
        await site.grant(60, 7)
        other = await site.call(rpcs.MAINTENANCE_HASH, pb.HashRequest())
        assert other.hash != first.hash
        assert await hash_kv(site) == keys


async def test_a_compaction_in_the_middle_of_a_hash_starts_it_anew() -> None:
    async with serving(compaction_batch_limit=1) as site:
        await fill(site, 600, 1)
        await site.delete(b"\0", b"\0")
        await site.put(b"k")
        revision = site.server.context.store.revision
        asked = asyncio.ensure_future(
            site.call(rpcs.MAINTENANCE_HASH_KV, pb.HashKVRequest(revision=revision))
        )
        refused = asyncio.ensure_future(
            site.call(rpcs.MAINTENANCE_HASH_KV, pb.HashKVRequest(revision=300))
        )
        await site.compact(revision)
        answer = await asked
        assert answer.compact_revision in {-1, revision}
        again = await site.call(rpcs.MAINTENANCE_HASH_KV, pb.HashKVRequest())
        assert again.compact_revision == revision
        if answer.compact_revision == revision:
            assert answer.hash == again.hash
        (early,) = await asyncio.gather(refused, return_exceptions=True)
        if isinstance(early, grpc.aio.AioRpcError):
            assert early.details() == errors.COMPACTED.message
        else:
            assert not isinstance(early, BaseException)
            assert early.compact_revision == -1


# Defragment.


async def test_defragmenting_gives_space_back_while_requests_are_served(tmp_path: Path) -> None:
    place = Place(tmp_path)
    site = await place.start()
    await fill(site, 300, 5000)
    await site.delete(b"\0", b"\0")
    revision = await site.put(b"k")
    await site.call(rpcs.KV_COMPACT, pb.CompactionRequest(revision=revision, physical=True))
    keys = await hash_kv(site)
    before = await site.call(rpcs.MAINTENANCE_STATUS, pb.StatusRequest())
    call = site.start(rpcs.MAINTENANCE_DEFRAGMENT, pb.DefragmentRequest())
    while not call.done():
        await site.put(b"other")
        assert await site.keys(b"k") == [b"k"]
    assert not (await call).HasField("header")
    after = await site.call(rpcs.MAINTENANCE_STATUS, pb.StatusRequest())
    assert after.dbSize < before.dbSize / 4
    assert await hash_kv(site, revision) == keys
    await place.stop(site)
    site = await place.start()
    assert await hash_kv(site, revision) == keys
    await place.stop(site)


async def test_a_defragmentation_that_fails_changes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    site = await place.start()
    await site.put(b"k")

    def fail() -> None:
        raise OSError(28, "No space left on device")

    failpoints.arm("defragment.before_swap", fail)
    try:
        with pytest.raises(grpc.aio.AioRpcError, match="No space left on device"):
            await site.call(rpcs.MAINTENANCE_DEFRAGMENT, pb.DefragmentRequest())
    finally:
        failpoints.disarm()
    await site.put(b"k2")
    assert await site.keys(b"k") == [b"k", b"k2"]
    await place.stop(site)


# Snapshot.


async def test_a_snapshot_is_chunks_and_a_hash_behind_them(tmp_path: Path) -> None:
    place = Place(tmp_path)
    site = await place.start()
    await fill(site, 100)
    answers = [answer async for answer in snapshot(site)]
    *chunks, last = answers
    content = b"".join(answer.blob for answer in chunks)
    assert len(content) % 512 == 0
    assert last.blob == hashlib.sha256(content).digest()
    left = len(content)
    for answer in chunks:
        assert 0 < len(answer.blob) <= 32 << 10
        left -= len(answer.blob)
        assert answer.remaining_bytes == left
        assert not answer.HasField("header")
    assert last.remaining_bytes == left == 0
    assert place.scratch() == []
    await place.stop(site)


async def test_a_snapshot_that_nobody_reads_stops_nothing_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path)
    site = await place.start()
    await fill(site, 50, 200_000)
    call = snapshot(site)
    first = await call.read()
    assert first.remaining_bytes > 9_000_000
    # The view is closed and the rest lies in a file; batches and the map go on.
    await fill(site, 50, 200_000)
    await site.call(rpcs.MAINTENANCE_DEFRAGMENT, pb.DefragmentRequest())
    assert len(place.scratch()) == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in snapshot(site, timeout=0.001):
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    while place.scratch():
        await site.call(rpcs.MAINTENANCE_STATUS, pb.StatusRequest())
    await place.stop(site)


async def test_a_snapshot_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    site = await place.start()

    def fail() -> None:
        raise OSError(28, "No space left on device")

    failpoints.arm("snapshot.writing", fail)
    try:
        with pytest.raises(grpc.aio.AioRpcError, match="No space left on device"):
            await saved(site)
    finally:
        failpoints.disarm()
    assert place.scratch() == []
    assert len(await saved(site)) % 512 == 32
    await place.stop(site)
    (tmp_path / "d" / "member" / "snapshot-9.tmp").write_bytes(b"left by a crash")
    site = await place.start()
    assert place.scratch() == []
    await place.stop(site)


async def test_a_server_in_memory_has_snapshots_too() -> None:
    async with serving() as site:
        await site.put(b"k")
        assert len(await saved(site)) % 512 == 32


# Restoring.


async def snapshot_of_much(path: Path) -> tuple[Path, int, int]:
    """Save a snapshot of a store with a past; return file, revision and hash."""
    place = Place(path)
    site = await place.start()
    await site.grant(3600, 7)
    await fill(site, 30)
    await site.put(b"leased", lease=7)
    await site.delete(b"00000", b"00010")
    await site.compact(20)
    await fill(site, 5)
    await site.call(
        rpcs.MAINTENANCE_ALARM,
        pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=5, alarm=pb.NOSPACE),
    )
    file = path / "saved.db"
    file.write_bytes(await saved(site))
    found = site.server.context.store.revision, await hash_kv(site)
    await place.stop(site)
    return file, *found


async def test_a_new_member_starts_from_a_snapshot(tmp_path: Path) -> None:
    file, revision, keys = await snapshot_of_much(tmp_path / "old")
    place = Place(tmp_path / "new", restore_snapshot=str(file), initial_cluster_token="other")
    site = await place.start()
    assert site.server.context.store.revision == revision
    assert await hash_kv(site) == keys
    request = pb.LeaseTimeToLiveRequest(ID=7, keys=True)
    lease = await site.call(rpcs.LEASE_TIME_TO_LIVE, request)
    assert (lease.grantedTTL, list(lease.keys)) == (3600, [b"leased"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.call(rpcs.KV_RANGE, pb.RangeRequest(key=b"k", revision=19))
    assert caught.value.details() == errors.COMPACTED.message
    # Alarms came along; members and ids did not.
    alarms = await site.call(rpcs.MAINTENANCE_ALARM, pb.AlarmRequest())
    assert [alarm.memberID for alarm in alarms.alarms] == [5]
    members = await site.call(rpcs.CLUSTER_MEMBER_LIST, pb.MemberListRequest())
    assert [member.ID for member in members.members] == [site.server.member_id]
    disarm = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=5, alarm=pb.NOSPACE)
    await site.call(rpcs.MAINTENANCE_ALARM, disarm)
    assert await site.put(b"k") == revision + 1
    await place.stop(site)
    # The flag may stay, even when the file has gone.
    for _ in range(2):
        site = await place.start()
        assert await site.put(b"k") > revision + 1
        await place.stop(site)
        file.unlink(missing_ok=True)


async def run(*flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a server that ends by itself."""
    return await asyncio.to_thread(
        subprocess.run,
        coord_server_command(*flags),
        env=clean_environment() if env is None else env,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


async def test_a_restore_that_is_killed_begins_again(tmp_path: Path) -> None:
    file, revision, keys = await snapshot_of_much(tmp_path / "old")
    directory = tmp_path / "new"
    flags = (
        f"--data-dir={directory}",
        "--listen-client-urls=http://127.0.0.1:0",
    )
    restoring = (*flags, f"--coord-restore-snapshot={file}")
    environment = clean_environment({"COORD_SERVER_FAILPOINTS": "restore.batch=crash"})
    killed = await run(*restoring, env=environment)
    assert killed.returncode == -9
    refused = await run(*flags)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()[-1:]
    assert "the restore was interrupted" in json.loads(line)["error"]
    place = Place(tmp_path, data_dir="new", restore_snapshot=str(file))
    site = await place.start()
    assert site.server.context.store.revision == revision
    assert await hash_kv(site) == keys
    await place.stop(site)


@pytest.mark.parametrize("spoil", ["missing", "damaged", "not empty", "other"])
async def test_what_cannot_be_restored_is_one_sentence(tmp_path: Path, spoil: str) -> None:
    file, _, _ = await snapshot_of_much(tmp_path / "old")
    directory = tmp_path / "new"
    expected = {
        "missing": f"cannot read snapshot {file}: No such file or directory",
        "damaged": "is damaged: expected sha256",
        "not empty": f"data directory {directory} is not empty",
        "other": f"data directory {directory} is not empty",
    }[spoil]
    if spoil == "missing":
        file.unlink()
    elif spoil == "damaged":
        data = bytearray(file.read_bytes())
        data[700] ^= 1
        file.write_bytes(data)
    else:
        place = Place(tmp_path, data_dir="new")
        if spoil == "other":
            # Restored once, from something else.
            first, _, _ = await snapshot_of_much(tmp_path / "older")
            place.settings["restore_snapshot"] = str(first)
            file.write_bytes(altered(file.read_bytes()))
        site = await place.start()
        await place.stop(site)
    result = await run(
        f"--data-dir={directory}",
        "--listen-client-urls=http://127.0.0.1:0",
        f"--coord-restore-snapshot={file}",
    )
    assert result.returncode == 1
    assert expected in json.loads(result.stderr.splitlines()[-1])["error"]
    assert "Traceback" not in result.stderr


def altered(data: bytes) -> bytes:
    """Another snapshot: the same but for its padding."""
    content = data[:-33] + b"\x01"
    return content + hashlib.sha256(content).digest()


# Unmodified etcdctl.


@pytest.mark.etcd
def test_etcdctl(tmp_path: Path, etcdctl_version: str) -> None:
    with coord_server_process(tmp_path / "a") as server:
        ctl = Ctl(server, etcdctl_version)
        for n in range(50):
            ctl("put", f"k{n}", "v" * 1000)
        hashed = ctl("endpoint", "hashkv").strip().split(", ")
        assert hashed[0] == server.url
        assert ctl("endpoint", "hashkv", "--rev=51").split(", ")[1].strip() == hashed[1]
        assert ctl("alarm", "list") == ""
        defragmented = f"Finished defragmenting etcd member[{server.url}]"
        assert ctl("defrag").startswith(defragmented)
        member = int(server.member_id, 16)
        raised = rpcs.MAINTENANCE_ALARM
        with grpc.insecure_channel(server.endpoint) as channel:
            multi: Unary = channel.unary_unary(raised.path)
            request = pb.AlarmRequest(
                action=pb.AlarmRequest.ACTIVATE, memberID=member, alarm=pb.NOSPACE
            )
            multi(request.SerializeToString(), timeout=10)
        assert ctl("alarm", "list").strip() == f"memberID:{member} alarm:NOSPACE"
        refused = etcdctl(server.url, "put", "k", "v", version=etcdctl_version)
        assert refused.returncode != 0
        assert "etcdserver: mvcc: database space exceeded" in refused.stderr
        assert ctl("alarm", "disarm").strip() == f"memberID:{member} alarm:NOSPACE"
        assert ctl("alarm", "list") == ""
        file = tmp_path / "saved.db"
        assert f"Snapshot saved at {file}" in ctl("snapshot", "save", str(file))
    with coord_server_process(tmp_path / "b", f"--coord-restore-snapshot={file}") as server:
        ctl = Ctl(server, etcdctl_version)
        assert ctl("endpoint", "hashkv").strip().split(", ")[1] == hashed[1]
        assert ctl("get", "k7", "--print-value-only") == "v" * 1000 + "\n"


class Ctl:
    """etcdctl of one release, for one server; everything succeeds."""

    def __init__(self, server: ServerProcess, version: str) -> None:
        self._server = server
        self._version = version

    def __call__(self, *words: str) -> str:
        result = etcdctl(self._server.url, *words, version=self._version)
        assert result.returncode == 0, result.stderr
        return result.stdout


def test_the_exit_of_a_full_store(tmp_path: Path) -> None:
    """The way out that etcd's manual describes: compact, defragment, disarm."""
    with coord_server_process(tmp_path, "--quota-backend-bytes=3000000") as server:
        ctl = Ctl(server, "3.5.1")
        value = "v" * 100_000
        put = etcdctl(server.url, "put", "k", value)
        while not put.returncode:
            put = etcdctl(server.url, "put", "k", value)
        assert "etcdserver: mvcc: database space exceeded" in put.stderr
        health = etcdctl(server.url, "endpoint", "health")
        assert health.returncode != 0
        revision = json.loads(ctl("get", "k", "-w", "json"))["header"]["revision"]
        ctl("compaction", "--physical", str(revision))
        ctl("alarm", "disarm")
        # Nothing was given back yet.
        assert etcdctl(server.url, "put", "k", value).returncode != 0
        ctl("defrag")
        ctl("alarm", "disarm")
        assert ctl("put", "k", value) == "OK\n"
        assert ctl("alarm", "list") == ""
        assert errors.NO_SPACE.code == StatusCode.RESOURCE_EXHAUSTED
