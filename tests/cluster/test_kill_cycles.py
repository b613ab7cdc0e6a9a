"""kill -9 again and again under load, whoever it hits; every history is judged by all checkers.

``COORD_CLUSTER_KILLS`` (default 10) and ``COORD_CLUSTER_SEED`` make longer and other runs.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from coord.testing.chaos import Cluster
from tests.cluster.judged_load import JudgedLoad

KILLS = int(os.environ.get("COORD_CLUSTER_KILLS", "6"))
SEED = int(os.environ.get("COORD_CLUSTER_SEED", "0")) or random.SystemRandom().getrandbits(32)
# A history is judged as a whole, and a long one takes long: so many kills to a cluster.
KILLS_A_ROUND = 20
# Little log and small batches, so that followers come back by snapshot as well.
FLAGS = ("--experimental-snapshot-catchup-entries=60", "--backend-batch-limit=50")
_HARMLESS = frozenset({"info", "warn", "debug"})


async def choose(cluster: Cluster, rng: random.Random) -> list[str]:
    """Whom it hits: the leader, another, two of them, all."""
    leader = await cluster.leader()
    others = [member.name for member in cluster.others(leader)]
    dice = rng.random()
    if dice < 0.45:
        return [leader.name]
    if dice < 0.7:
        return [rng.choice(others)]
    if dice < 0.85:
        return [leader.name, rng.choice(others)]
    return sorted(cluster.members)


async def one_round(cluster: Cluster, kills: int, rng: random.Random) -> JudgedLoad:
    load = JudgedLoad([m.endpoint for m in cluster.members.values()], rng.getrandbits(32))
    async with load.running():
        for _ in range(kills):
            await load.more(rng.randrange(20, 80))
            victims = await choose(cluster, rng)
            load.recorder.fault("kill", "begin", *victims)
            await cluster.kill(*victims)
            await asyncio.sleep(rng.choice([0, 0.2, 0.8]))
            await cluster.start(*victims)
            load.recorder.fault("kill", "end", *victims)
        await load.more(100)
        await cluster.leader()
    await cluster.caught_up()
    return load


def check_logs(cluster: Cluster) -> None:
    for member in cluster.members.values():
        assert "Traceback" not in member.log_text()
        bad = [line for line in member.log_lines() if line["level"] not in _HARMLESS]
        assert bad == [], bad


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(120 + 15 * KILLS)
async def test_kill_cycles(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    left = KILLS
    number = 0
    while left:
        kills = min(left, KILLS_A_ROUND)
        number += 1
        async with Cluster(tmp_path / f"round{number}", flags=FLAGS) as cluster:
            load = await one_round(cluster, kills, rng)
            hashes = await cluster.hashes()
            assert len(set(hashes.values())) == 1, f"seed {SEED}: {hashes}"
            check_logs(cluster)
        print(f"seed {SEED}: {kills} kills, {dict(load.answers)}")
        try:
            load.judge()
        except Exception as error:
            error.add_note(f"COORD_CLUSTER_SEED={SEED}, round {number}")
            raise
        assert load.answers["guarded"], "nobody ever held the lock"
        left -= kills
