"""A follower that was away for longer than the log reaches back gets a snapshot, and its watchers no gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import coord
from coord.testing.chaos import Cluster, MemberProcess, status_of, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]
WRITES = 400


@pytest.fixture
async def forgetful(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Members that keep hardly any log for the others."""
    flags = ["--experimental-snapshot-catchup-entries=50"]
    async with Cluster(tmp_path, flags=flags) as cluster:
        yield cluster


async def fill(client: coord.Client, first: int) -> None:
    """One entry for each write."""
    for number in range(first, first + WRITES):
        await client.put(f"k/{number}", f"{number}", timeout=20)


def snapshots(member: MemberProcess) -> int:
    return sum("snapshot" in line["msg"] for line in member.log_lines())


@pytest.mark.parametrize("away", ["cut off", "killed", "paused"])
async def test_one_that_was_away_catches_up_by_snapshot(forgetful: Cluster, away: str) -> None:
    cluster = forgetful
    leader = await cluster.leader()
    member = cluster.others(leader)[0]
    async with coord.connect(leader.endpoint) as client, coord.connect(member.endpoint) as there:
        await client.put("k/0", "0")
        async with there.watch("k/", prefix=True, start_revision=1) as events:
            if away == "cut off":
                cluster.links.partition([member.name])
            elif away == "killed":
                await member.kill()
            else:
                member.pause()
            await fill(client, 1)
            # What is applied is written, and then the log may go, a tick or two later.
            await asyncio.sleep(0.5)
            await fill(client, 1 + WRITES)
            before = snapshots(member)
            if away == "cut off":
                cluster.links.heal()
            elif away == "killed":
                await member.start()
            else:
                member.resume()
            await cluster.caught_up()
            await client.put("k/last", "x")
            seen: list[tuple[int, bytes]] = []
            async with asyncio.timeout(30):
                async for event in events:
                    seen.append((event.revision, event.value))
                    if event.key == b"k/last":
                        break
        revisions = [revision for revision, _ in seen]
        assert revisions == list(range(revisions[0], revisions[0] + 2 * WRITES + 2))
        assert [int(value) for _, value in seen[:-1]] == list(range(2 * WRITES + 1))
    assert snapshots(member) > before, "it came by the log"
    await wait_until(lambda: has_all(cluster), what="all are equal", within=20)
    assert len(set((await cluster.hashes()).values())) == 1


async def has_all(cluster: Cluster) -> bool:
    found = [await status_of(member.endpoint) for member in cluster.members.values()]
    return len({status.raftAppliedIndex for status in found}) == 1
