"""Real servers, clusters and lines: what is done to them happens, and nothing of them is left."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import coord
import coord.sync
from coord.testing import MemberFailed, Server, cluster, proxy, server
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_keeps_its_data_and_its_address() -> None:
    with server() as one, coord.sync.connect(one.url) as client:
        url, first = one.url, one.pid
        client.put("k", "v")
        one.kill()
        assert not one.is_running
        assert not is_alive(first)
        with pytest.raises(coord.Unavailable):
            client.get("k", timeout=0.1)
        one.start()
        assert one.url == url
        found = client.get("k")
        one.restart()
        again = client.get("k")
        last = one.pid
        directory = one.data_dir
        assert directory.exists()
        assert "ready to serve" in one.log_text()
    assert found is not None
    assert found == again
    assert len({first, last}) == 2
    assert not is_alive(last)
    assert not directory.exists()


def test_a_paused_server_answers_when_it_goes_on() -> None:
    with server() as one, coord.sync.connect(one.endpoint) as client:
        client.put("k", "v")
        one.pause()
        with pytest.raises(coord.CoordTimeout):
            client.get("k", timeout=0.1)
        one.resume()
        assert client.get("k") is not None
        one.pause()
        one.stop()
        assert not one.is_running


async def test_the_face_to_await() -> None:
    async with server() as one, coord.connect(one.url) as client:
        await client.put("k", "v")
        await one.restart()
        assert await client.get("k") is not None
        await one.kill()
        assert not one.is_running
        await one.start()
        await one.pause()
        await one.resume()
        pid = one.pid
        await one.stop()
    assert not is_alive(pid)


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    starting = server(directory=tmp_path)
    pids: list[int] = []

    async def start() -> None:
        async with starting as one:
            pids.append(one.pid)
            await asyncio.Event().wait()

    # Before it is there, and then while it runs.
    for turns in (3, None):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(start())
            if turns is None:
                while not pids:
                    await asyncio.sleep(0.01)
            else:
                for _ in range(turns):
                    await asyncio.sleep(0)
            task.cancel()
        assert task.cancelled()
    assert [is_alive(pid) for pid in pids] == [False]
    # The data are free again: no process holds them.
    async with server(directory=tmp_path):
        pass


def test_a_directory_is_kept(tmp_path: Path) -> None:
    with server(directory=tmp_path) as one, coord.sync.connect(one.url) as client:
        url = one.url
        client.put("k", "v")
    with server(directory=tmp_path) as one, coord.sync.connect(one.url) as client:
        assert one.url == url
        assert client.get("k") is not None


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(MemberFailed, match="unknown flag --nonsense"), server(args=["--nonsense"]):
        pass


def test_flags_and_environment_reach_the_server() -> None:
    with (
        server(args=["--max-request-bytes=1000"]) as small,
        server(env={"ETCD_MAX_TXN_OPS": "1"}) as strict,
        coord.sync.connect(small.url) as client,
        coord.sync.connect(strict.url) as other,
    ):
        with pytest.raises(coord.TooLarge):
            client.put("k", b"x" * 2000)
        two = [coord.op.put("a", "1"), coord.op.put("b", "2")]
        with pytest.raises(coord.RequestRefused):
            other.txn().then(*two).commit()


def test_an_opening_is_for_once_at_a_time() -> None:
    opening = server()
    with opening, pytest.raises(RuntimeError, match="is running"):
        opening.__enter__()


def put(client: coord.sync.Client, key: str, value: str) -> None:
    """Write until it is certain: whom the test kills may have been asked."""
    while True:
        try:
            client.put(key, value, timeout=2)
        except (coord.AmbiguousResult, coord.Unavailable, coord.CoordTimeout):
            continue
        return


def test_a_cluster_survives_its_leader() -> None:
    with cluster(3) as three, coord.sync.connect(three.endpoints) as client:
        client.put("k", "1")
        pids = [member.pid for member in three.members]
        dead = three.kill("leader")
        put(client, "k", "2")
        assert three.wait_for_leader() is not dead
        assert [member.is_running for member in three.members].count(False) == 1
        dead.start()
        three.restart("follower")
        three.stop(0)
        three.start("m1")
        found = client.get("k")
        pids += [member.pid for member in three.members]
    assert found is not None
    assert found.value == b"2"
    assert not any(is_alive(pid) for pid in pids)


def test_a_cut_off_leader_is_replaced() -> None:
    with cluster(3) as three, coord.sync.connect(three.endpoints) as client:
        client.put("k", "1")
        old = three.isolate("leader")
        new = three.wait_for_leader()
        assert new is not old
        put(client, "k", "2")
        with (
            coord.sync.connect(old.url) as stranded,
            pytest.raises(coord.CoordError),
        ):
            stranded.get("k", timeout=0.2)
        three.heal()
        with coord.sync.connect(old.url) as back:
            found = back.get("k", timeout=30)
        assert found is not None
        assert found.value == b"2"


async def test_a_paused_member_and_a_partition() -> None:
    async with cluster(3) as three, coord.connect(three.endpoints, request_timeout=30) as client:
        paused = await three.pause("leader")
        assert await three.wait_for_leader() is not paused
        await three.resume(0)
        await three.resume(1)
        await three.resume(2)
        await three.partition([0], [1, 2])
        leader = await three.wait_for_leader()
        assert leader in (three.members[1], three.members[2])
        assert await three.member(0) is three.members[0]
        await three.heal()
        await client.put("k", "v")


def test_members_that_there_are_not() -> None:
    with cluster(1) as one:
        assert isinstance(one[0], Server)
        assert one["m1"] is one[0] is one["leader"]
        for who in (1, -1, "m2"):
            with pytest.raises(LookupError, match="no member"):
                one.kill(who)
        with pytest.raises(LookupError, match="no follower"):
            one.kill("follower")
    with pytest.raises(ValueError, match="one member or more"):
        cluster(0)


@pytest.mark.parametrize("kind", ["coord", "etcd"])
def test_a_line_breaks_and_heals(kind: str, request: pytest.FixtureRequest) -> None:
    name = "shared_etcd" if kind == "etcd" else "shared_coord_server"
    target: ServerProcess = request.getfixturevalue(name)
    with proxy(target.url) as line, coord.sync.connect(line.url, request_timeout=5) as client:
        client.put("k", "v")
        assert line.connections == 1
        line.reset()
        assert client.get("k") is not None
        line.cut()
        with pytest.raises(coord.Unavailable):
            client.put("k", "x", timeout=0.2)
        line.heal()
        assert client.get("k") is not None
        line.refuse()
        assert client.get("k") is not None
        line.reset()
        with pytest.raises(coord.Unavailable):
            client.get("k", timeout=0.2)
        line.accept()
        assert client.get("k") is not None
        line.blackhole(requests=False)
        with pytest.raises(coord.AmbiguousResult):
            client.put("k", "w", timeout=0.2)
        line.latency(0.001, jitter=0.001)
        found = client.get("k")
    assert found is not None
    # The request passed, only its answer did not.
    assert found.value == b"w"


def test_a_line_stands_before_this_machine() -> None:
    for target in ("example.com:2379", "127.0.0.1", "unix:/x"):
        with pytest.raises(ValueError, match=r"127\.0\.0\.1:port"):
            proxy(target)
