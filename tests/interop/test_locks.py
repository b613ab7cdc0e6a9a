"""``coord`` mutexes against ``etcdctl lock``, the Lock service and Go's client: they exclude each other, both ways.

``COORD_INTEROP_ROUNDS`` (default 6) makes longer runs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import coord
from tests.interop.contest import ROUNDS, Etcdctl, GoClient, LockService, contest
from tests.interop.gopeers import BUILD_WITHIN_S, go_peer
from tests.support.servers import clean_environment, etcd_binary

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.processes,
    pytest.mark.timeout(60 + ROUNDS * 5),
]


async def test_etcdctl_lock(
    client: coord.Client, endpoint: str, name: str, etcdctl_version: str
) -> None:
    async with client.session(ttl=30) as session:
        await contest(
            client,
            name,
            client.mutex(name, session=session).acquire,
            lambda: Etcdctl(endpoint, etcdctl_version, "lock", name),
            rounds=ROUNDS,
        )


async def test_lock_service(client: coord.Client, name: str) -> None:
    async with client.session(ttl=30) as session:
        await contest(
            client,
            name,
            client.mutex(name, session=session).acquire,
            lambda: LockService(client, name),
            rounds=ROUNDS,
        )


@pytest.mark.timeout(BUILD_WITHIN_S + ROUNDS * 5)
async def test_go_mutex(client: coord.Client, endpoint: str, name: str) -> None:
    async with go_peer(endpoint) as peer, client.session(ttl=30) as session:
        await contest(
            client,
            name,
            client.mutex(name, session=session).acquire,
            lambda: GoClient(peer, "lock", name, back="unlock"),
            rounds=ROUNDS,
        )


async def test_try_acquire_respects_etcdctl(
    client: coord.Client, endpoint: str, name: str, etcdctl_version: str
) -> None:
    rival = Etcdctl(endpoint, etcdctl_version, "lock", name)
    await rival.line_up()
    key = await rival.granted()
    async with client.session(ttl=30) as session:
        mutex = client.mutex(name, session=session)
        assert await mutex.try_acquire() is None
        holder = await mutex.holder()
        assert holder is not None
        assert holder.key == key
        assert holder.metadata == {}  # others leave the value empty
        await rival.let_go()
        grant = await mutex.try_acquire()
        assert grant is not None
        assert grant.token > holder.token
        await grant.release()


async def test_a_crowd_counts_without_a_lost_update(
    client: coord.Client, endpoint: str, name: str, tmp_path: Path
) -> None:
    """Programs under ``etcdctl lock`` and our tasks increment a file that has no protection of its own."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = f"n=$(cat {counter}); sleep 0.002; echo $((n+1)) > {counter}"
    per_worker = max(2, ROUNDS // 4)

    async def program() -> None:
        for _ in range(per_worker):
            process = await asyncio.create_subprocess_exec(
                etcd_binary("etcdctl"),
                f"--endpoints={endpoint}",
                *("lock", name, "--", "sh", "-c", script),
                stdout=asyncio.subprocess.DEVNULL,
                env=clean_environment({"ETCDCTL_API": "3"}),
            )
            assert await process.wait() == 0

    async def ours(session: coord.Session) -> None:
        mutex = client.mutex(name, session=session)
        for _ in range(per_worker):
            async with mutex.hold(timeout=60):
                known = int(counter.read_text())
                await asyncio.sleep(0.002)  # an invitation to break in
                counter.write_text(str(known + 1))

    async with (
        client.session(ttl=30) as one,
        client.session(ttl=30) as two,
        asyncio.TaskGroup() as group,
    ):
        for session in (one, two, two):
            group.create_task(ours(session))
        for _ in range(3):
            group.create_task(program())
    assert int(counter.read_text()) == 6 * per_worker
