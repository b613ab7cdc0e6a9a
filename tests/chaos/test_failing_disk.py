"""A disk that fails under the program: it writes nothing more, ends with a clear word, and comes back.

Each failure is armed together with a trap: should the server go on after it, the next step of the same kind
kills it by signal, and the exit code tells.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from coord.testing.chaos import Cluster, MemberProcess, Proxied, change
from coord.testing.check.ledger import Ledger
from coord.wire import methods, rpc_pb2
from tests.chaos.outages import End, end_of, judge, snapshot_refusal, writing

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

_POINTS = "COORD_SERVER_FAILPOINTS"


def log_fails(visit: int) -> str:
    """Not even the bytes arrive."""
    return f"wal.before_append=error(EIO)@{visit};wal.after_append=crash@{visit}"


def log_sync_fails(visit: int) -> str:
    """The bytes have arrived, and the sync is said to have failed."""
    return f"wal.after_append=error(EIO)@{visit};wal.before_append=crash@{visit + 1}"


def backend_fails(visit: int) -> str:
    return f"flush.before_write=error(EIO)@{visit};flush.after_write=crash@{visit}"


def backend_sync_fails(visit: int) -> str:
    return f"flush.after_write=error(EIO)@{visit};flush.before_write=crash@{visit + 1}"


def check_end(end: End, member: MemberProcess) -> None:
    assert end["code"] == 1, end
    assert not end["traceback"], end
    (line,) = end["fatal"]
    assert line["msg"] == "the server cannot go on"
    assert line["error"] == "[Errno 5] Input/output error"
    assert f"the disk that holds {member.data_dir} fails" in line["reason"]


async def test_a_member_whose_disk_fails_ends_and_comes_back(tmp_path: Path) -> None:
    ledger = Ledger()
    first, *others = (
        log_fails(60), log_sync_fails(60), backend_fails(4), backend_sync_fails(4)
    )  # fmt: skip
    async with Cluster(tmp_path, size=1, proxied=Proxied.NOTHING, env={_POINTS: first}) as cluster:
        member = cluster["m1"]
        async with writing(member.endpoint, ledger) as answers:
            check_end(await end_of(member), member)
            for points in others:
                member.env[_POINTS] = points
                await member.start()
                check_end(await end_of(member), member)
            del member.env[_POINTS]
            await member.start()
            await answers.more(20)
        await judge(member.endpoint, ledger)
        assert ledger.acknowledged > 100


async def test_a_snapshot_that_cannot_be_written_is_no_reason_to_end(tmp_path: Path) -> None:
    ledger = Ledger()
    env = {_POINTS: "snapshot.writing=error(EIO)"}
    async with Cluster(tmp_path, size=1, proxied=Proxied.NOTHING, env=env) as cluster:
        member = cluster["m1"]
        assert await snapshot_refusal(member) == "snapshot failed: [Errno 5] Input/output error"
        assert list((member.data_dir / "member").glob("*.tmp")) == []
        async with writing(member.endpoint, ledger) as answers:
            await answers.more(50)
        assert await snapshot_refusal(member) is None
        await judge(member.endpoint, ledger)
        assert await member.stop() == 0


async def test_the_disk_of_one_of_three_fails(tmp_path: Path) -> None:
    ledger = Ledger()
    async with Cluster(tmp_path, proxied=Proxied.NOTHING).unstarted() as cluster:
        victim, other, _ = cluster.members.values()
        victim.env[_POINTS] = log_sync_fails(100)
        await cluster.start()
        for leads in (False, True):
            await hand_over(cluster, victim if leads else other)
            async with writing(cluster.endpoints, ledger) as answers:
                check_end(await end_of(victim), victim)
                await cluster.leader()
                before = ledger.acknowledged
                await answers.more(100)
                assert ledger.acknowledged > before
            if leads:
                del victim.env[_POINTS]
            await victim.start()
        await judge(cluster.endpoints, ledger)
        hashes = await cluster.hashes()
        assert len(hashes) == 3
        assert len(set(hashes.values())) == 1


async def hand_over(cluster: Cluster, to: MemberProcess) -> None:
    """Let a member lead."""
    leader = await cluster.leader()
    if leader is not to:
        request = rpc_pb2.MoveLeaderRequest(targetID=to.member_id)
        await change(leader.endpoint, methods.MAINTENANCE_MOVE_LEADER, request)
    assert await cluster.leader() is to
