"""``coord`` elections against ``etcdctl elect``, the Election service and Go's client: one line of candidates, one leader.

``COORD_INTEROP_ROUNDS`` (default 6) makes longer runs.
"""

from __future__ import annotations

import asyncio

import pytest

import coord
from coord.store.caller import Repeat
from coord.wire import election_pb2, methods
from tests.interop.contest import ROUNDS, ElectionService, Etcdctl, GoClient, contest
from tests.interop.gopeers import BUILD_WITHIN_S, go_peer
from tests.support.lines import WITHIN_S, lined_up
from tests.support.servers import clean_environment, etcd_binary

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.processes,
    pytest.mark.timeout(60 + ROUNDS * 5),
]


async def test_etcdctl_elect(
    client: coord.Client, endpoint: str, name: str, etcdctl_version: str
) -> None:
    async with client.session(ttl=30) as session:
        election = client.election(name, session=session)
        await contest(
            client,
            name,
            lambda: election.campaign("ours"),
            lambda: Etcdctl(endpoint, etcdctl_version, "elect", name, "theirs"),
            rounds=ROUNDS,
        )


async def test_election_service(client: coord.Client, name: str) -> None:
    async with client.session(ttl=30) as session:
        election = client.election(name, session=session)
        await contest(
            client,
            name,
            lambda: election.campaign("ours"),
            lambda: ElectionService(client, name, "theirs"),
            rounds=ROUNDS,
        )


@pytest.mark.timeout(BUILD_WITHIN_S + ROUNDS * 5)
async def test_go_election(client: coord.Client, endpoint: str, name: str) -> None:
    async with go_peer(endpoint) as peer, client.session(ttl=30) as session:
        election = client.election(name, session=session)
        await contest(
            client,
            name,
            lambda: election.campaign("ours"),
            lambda: GoClient(peer, "campaign", name, "theirs", back="resign"),
            rounds=ROUNDS,
        )


@pytest.mark.timeout(BUILD_WITHIN_S)
async def test_go_observes_our_terms_and_we_observe_gos(
    client: coord.Client, endpoint: str, name: str
) -> None:
    election = client.election(name)
    async with go_peer(endpoint) as observer, go_peer(endpoint) as candidate:
        term = await election.campaign("one")
        await observer.do("observe", name)
        assert await observer.do("seen") == f"{term.key.decode()} one"
        await term.proclaim("two")
        assert await observer.do("seen") == f"{term.key.decode()} two"
        leaders = election.observe()
        async with asyncio.timeout(WITHIN_S):
            seen = await anext(leaders)
            assert seen is not None
            assert (seen.key, seen.value, seen.token) == (term.key, b"two", term.token)
            rival = candidate.begin("campaign", name, "theirs")
            await lined_up(client, name, 2)
            await term.resign()
            key = await rival
            assert await observer.do("seen") == f"{key} theirs"
            seen = await anext(leaders)
            while seen is None:  # between two leaders there may be none
                seen = await anext(leaders)
            assert (seen.key, seen.value) == (key.encode(), b"theirs")
            assert seen.token > term.token
            await candidate.do("proclaim", "again")
            seen = await anext(leaders)
            assert seen is not None
            assert (seen.key, seen.value) == (key.encode(), b"again")
            await candidate.do("resign")
            assert await anext(leaders) is None


async def test_everybody_sees_the_same_leader(
    client: coord.Client, endpoint: str, name: str, etcdctl_version: str
) -> None:
    election = client.election(name)

    async def leader_by_service() -> tuple[bytes, bytes]:
        answer = await client._core.caller.call(
            methods.ELECTION_LEADER,
            election_pb2.LeaderRequest(name=name.encode()),
            repeat=Repeat.READ,
        )
        return answer.kv.key, answer.kv.value

    listener = await asyncio.create_subprocess_exec(
        etcd_binary("etcdctl", etcdctl_version),
        f"--endpoints={endpoint}",
        *("elect", "-l", name),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment({"ETCDCTL_API": "3"}),
    )
    assert listener.stdout is not None

    async def heard() -> bytes:
        """What ``etcdctl elect -l`` prints: key and value, a line each."""
        assert listener.stdout is not None
        key = await listener.stdout.readline()
        return key + await listener.stdout.readline()

    term = await election.campaign("one")
    assert await heard() == term.key + b"\none\n"
    assert await leader_by_service() == (term.key, b"one")
    rival = Etcdctl(endpoint, etcdctl_version, "elect", name, "two")
    async with client.watch(name + "/", prefix=True) as watch:
        await rival.line_up()
        waiting = await anext(watch)
    assert [c.value for c in await election.candidates()] == [b"one", b"two"]
    await term.proclaim("three")
    assert await heard() == term.key + b"\nthree\n"
    await term.resign()
    assert await rival.granted() == waiting.key
    leader = await election.leader()
    assert (leader.key, leader.value, leader.token) == (waiting.key, b"two", waiting.revision)
    assert await heard() == waiting.key + b"\ntwo\n"
    assert await leader_by_service() == (waiting.key, b"two")
    await rival.let_go()
    with pytest.raises(coord.NoLeader):
        await election.leader()
    listener.terminate()
    await listener.communicate()
