"""What the fixtures are to suites of users."""

from __future__ import annotations

import signal

import psutil  # type: ignore[import-untyped]
import pytest

from tests.plugin.suites import RunSuite

pytestmark = [pytest.mark.processes, pytest.mark.timeout(110)]

MODES = """
import asyncio
import unittest

import pytest

import coord

{mark}


def test_plain(coord_sync_client, coord_prefix):
    coord_sync_client.put(coord_prefix + "k", "v")
    assert coord_sync_client.get(coord_prefix + "k").value == b"v"
    with coord_sync_client.mutex(coord_prefix + "m").hold(timeout=5) as grant:
        assert grant.token > 0


{coroutine}async def test_coroutine(coord_client):
    await coord_client.put("k", "v")
    async with coord_client.mutex("m").hold(timeout=5):
        assert (await coord_client.get("k")).value == b"v"


{coroutine}async def test_restart(coord_server, coord_client):
    await coord_client.put("k", "v")
    await coord_server.aio.restart()
    assert (await coord_client.get("k")).value == b"v"


{coroutine}async def test_lost_reply(coord_faults, coord_client):
    coord_faults.drop_reply("Put")
    with pytest.raises(coord.AmbiguousResult):
        await coord_client.put("k", "v")
    assert (await coord_client.get("k")).value == b"v"


{coroutine}async def test_thirty_seconds(coord_memory_client, coord_clock):
    lease = await coord_memory_client.lease_grant(30)
    await coord_memory_client.put("k", "v", lease=lease.lease_id)
    coord_clock.advance(32)
    assert await coord_memory_client.get("k") is None


def test_loops_of_its_own(coord_client):
    async def main(value):
        await coord_client.put("k", value)
        return (await coord_client.get("k")).value

    assert [asyncio.run(main(value)) for value in ("a", "b")] == [b"a", b"b"]


class TestUnit(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def client(self, coord_client):
        self.client = coord_client

    async def test_unit(self):
        await self.client.put("k", "v")
        self.assertIsNotNone(await self.client.get("k"))
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_every_kind_of_test(suite: RunSuite, mode: str) -> None:
    mark = "@pytest.mark.asyncio\n" if mode == "strict" else ""
    text = MODES.format(mark="", coroutine=mark)
    suite(text, settings={"asyncio_mode": mode}).assert_outcomes(passed=7)


def test_session_loops(suite: RunSuite) -> None:
    # A loop that outlives the clients, and clients that outlive the loop.
    text = """
    import pytest

    pytestmark = pytest.mark.asyncio(loop_scope="session")

    @pytest.mark.parametrize("number", range(3))
    async def test_one(coord_client, number):
        async with coord_client.session(ttl=10) as session:
            await coord_client.put("k", "v", lease=session.lease_id)
    """
    suite(text).assert_outcomes(passed=3)


def test_tests_do_not_see_each_other(suite: RunSuite) -> None:
    text = """
    import pytest

    @pytest.fixture(scope="session")
    def before(coord_server_shared):
        import coord.sync
        with coord.sync.connect(coord_server_shared.url) as client:
            client.put("before", "kept")
            yield client

    @pytest.mark.parametrize("number", range(3))
    def test_one(before, coord_sync_client, number):
        found = coord_sync_client.get_prefix("")
        assert [pair.key for pair in found.items] == [b"before"]
        assert coord_sync_client.leases() == ()
        lease = coord_sync_client.lease_grant(600)
        coord_sync_client.put("k", "v", lease=lease.lease_id)
        coord_sync_client.put("l", "v")
        coord_sync_client.session(ttl=60).open()

    def test_another_server(before, coord_server, coord_sync_client):
        assert coord_sync_client.get("before") is None
        assert coord_sync_client.endpoints == (coord_server.url,)
    """
    suite(text).assert_outcomes(passed=4)


def test_a_cluster_by_marker(suite: RunSuite) -> None:
    text = """
    import pytest
    import coord

    def write(client):
        while True:
            try:
                return client.put("k", "v", timeout=2)
            except (coord.AmbiguousResult, coord.Unavailable, coord.CoordTimeout):
                continue

    def test_three(coord_cluster, coord_sync_client):
        assert len(coord_cluster.members) == 3
        dead = coord_cluster.kill("leader")
        write(coord_sync_client)
        assert coord_cluster.wait_for_leader() is not dead

    @pytest.mark.coord(members=1)
    def test_one(coord_cluster, coord_sync_client):
        assert len(coord_cluster.members) == 1
        write(coord_sync_client)
        coord_cluster.pause(0)

    def test_two(coord_cluster_factory):
        assert len(coord_cluster_factory(2).members) == 2
    """
    suite(text, settings={"coord_cluster_members": "3"}).assert_outcomes(passed=3)


def test_flags_by_marker_project_and_factory(suite: RunSuite) -> None:
    text = """
    import pytest
    import coord

    pytestmark = pytest.mark.coord(args="--max-txn-ops=1")

    def test_project(coord_sync_client):
        with pytest.raises(coord.TooLarge):
            coord_sync_client.put("k", b"x" * 3000)

    def test_marker(coord_server, coord_sync_client):
        two = [coord.op.put("a", "1"), coord.op.put("b", "2")]
        with pytest.raises(coord.RequestRefused):
            coord_sync_client.txn().then(*two).commit()
        with pytest.raises(coord.TooLarge):
            coord_sync_client.put("k", b"x" * 3000)

    @pytest.mark.coord(args=["--max-request-bytes=100"])
    def test_nearest(coord_server, coord_sync_client):
        with pytest.raises(coord.TooLarge):
            coord_sync_client.put("k", b"x" * 1000)

    def test_factory(coord_server_factory, coord_sync_client_factory):
        server = coord_server_factory(args=["--max-request-bytes=100"])
        with pytest.raises(coord.TooLarge):
            coord_sync_client_factory(server.url).put("k", b"x" * 1000)
    """
    suite(text, settings={"coord_server_args": "--max-request-bytes=2000"}).assert_outcomes(
        passed=4
    )


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ("coord(size=3)", "takes args= and members=, not size"),
        ("coord(3)", "takes args= and members=, not something without a name"),
        ("coord(members=0)", "one member or more, not 0"),
        ("coord(args=3)", "a str or a sequence of str, not 3"),
    ],
)
def test_a_wrong_marker_is_refused(suite: RunSuite, marker: str, says: str) -> None:
    text = f"""
    import pytest

    @pytest.mark.{marker}
    def test_one(coord_server):
        pass
    """
    result = suite(text)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{says}*"])


def test_lines_and_what_is_broken_at_the_end(suite: RunSuite) -> None:
    # Each leaves something broken while a client has a session: its goodbye is heard nevertheless, and at once.
    text = """
    import pytest
    import coord

    @pytest.fixture(autouse=True)
    def no_loss(caplog):
        yield
        assert [record.message for record in caplog.get_records("call")] == []
        assert [record.message for record in caplog.get_records("teardown")] == []

    def test_line(coord_proxy, coord_sync_client):
        assert coord_sync_client.endpoints == (coord_proxy.url,)
        coord_sync_client.session(ttl=60).open()
        coord_proxy.blackhole()
        with pytest.raises(coord.CoordTimeout):
            coord_sync_client.get("k", timeout=0.1)

    def test_own_line(coord_proxy, coord_server, coord_sync_client, coord_sync_client_factory):
        coord_sync_client.put("k", "v")
        direct = coord_sync_client_factory(coord_server.url)
        coord_proxy.cut()
        assert direct.get("k") is not None
        with pytest.raises(coord.Unavailable):
            coord_sync_client.put("k", "w", timeout=0.2)

    def test_paused(coord_server, coord_sync_client):
        coord_sync_client.session(ttl=60).open()
        coord_server.pause()

    def test_isolated(coord_faults, coord_sync_client):
        coord_sync_client.session(ttl=60).open()
        coord_faults.isolate()

    def test_memory(coord_faults, coord_memory_sync_client):
        coord_memory_sync_client.session(ttl=60).open()
        coord_faults.isolate()
    """
    suite(text).assert_outcomes(passed=5)


def test_programs_that_connect_by_themselves_come_under_faults(suite: RunSuite) -> None:
    text = """
    import asyncio
    import pytest
    import coord

    async def program(url):
        async with coord.connect(url) as client:
            await client.put("k", "v")

    def test_program(coord_faults, coord_endpoints):
        coord_faults.drop_request("Put")
        with pytest.raises(coord.AmbiguousResult):
            asyncio.run(program(coord_endpoints))
        asyncio.run(program(coord_endpoints))
        assert coord_faults.count("Put") == 2
    """
    suite(text).assert_outcomes(passed=1)


@pytest.mark.etcd
def test_a_store_of_ones_own(suite: RunSuite, shared_etcd: object) -> None:
    endpoint = getattr(shared_etcd, "endpoint")  # noqa: B009 - the text below wants a plain str
    text = f"""
    import pytest
    import coord

    @pytest.fixture
    def coord_endpoints():
        return {endpoint!r}

    def test_etcd(coord_faults, coord_sync_client, coord_prefix):
        coord_faults.drop_reply("Put")
        with pytest.raises(coord.AmbiguousResult):
            coord_sync_client.put(coord_prefix + "k", "v")
        assert coord_sync_client.get(coord_prefix + "k").value == b"v"
        assert coord_sync_client.endpoints == ({endpoint!r},)
    """
    suite(text).assert_outcomes(passed=1)


def test_workers_have_servers_of_their_own(suite: RunSuite) -> None:
    text = """
    import os
    import pathlib
    import pytest

    @pytest.mark.parametrize("number", range(8))
    def test_one(coord_server_shared, coord_sync_client, number):
        assert [pair.key for pair in coord_sync_client.get_prefix("").items] == []
        coord_sync_client.put("k", "v")
        worker = os.environ["PYTEST_XDIST_WORKER"]
        pathlib.Path(f"{worker}.port").write_text(coord_server_shared.url)
    """
    result = suite(text, "-n2")
    result.assert_outcomes(passed=8)


def test_a_failed_test_shows_what_its_server_said(suite: RunSuite) -> None:
    text = """
    def test_one(coord_server):
        assert coord_server.url == ""
    """
    result = suite(text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*coord-server at http://127.0.0.1:*", "*ready to serve*"])


def test_a_pytest_that_is_killed_leaves_no_server(
    suite: RunSuite, pytester: pytest.Pytester
) -> None:
    text = """
    import os
    import pathlib
    import signal

    def test_one(coord_server, coord_cluster):
        pids = [coord_server.pid, *(member.pid for member in coord_cluster.members)]
        pathlib.Path("pids").write_text(" ".join(map(str, pids)))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert suite(text).ret == -signal.SIGKILL
    pids = [int(word) for word in (pytester.path / "pids").read_text().split()]
    assert len(pids) == 4
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(left, timeout=30)
    # Who has nobody to take note of its end is dead nevertheless.
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_without_the_plugin(suite: RunSuite) -> None:
    text = """
    import sys

    def test_one():
        assert "coord.testing.plugin" not in sys.modules

    def test_two(coord_server):
        pass
    """
    result = suite(text, "-p", "no:coord")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'coord_server' not found*"])


def test_fixtures_explain_themselves(suite: RunSuite) -> None:
    lines = suite("", "--fixtures").outlines
    ours = [number for number, line in enumerate(lines) if line.startswith("coord_")]
    assert len(ours) == 17
    assert [lines[number] for number in ours if "no docstring" in lines[number + 1]] == []
