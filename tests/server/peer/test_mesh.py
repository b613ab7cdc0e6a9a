"""Members talking: delivery, order, loss, and what each of them hears of the others' ends."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coord.rpc import RpcError, StatusCode
from coord.runtime import Address, Net, RealNet, TcpAddress, UnixAddress
from coord_server.peer import MeshLimits, ask_url
from coord_server.peer.local import Target, target_of
from coord_server.peer.packet import PACKET_BYTES
from coord_server.raft import AppendRequest, Entry, EntryKind, Index, NodeId, Term
from tests.server.peer.members import (
    N1,
    N2,
    N3,
    NETS,
    PATIENCE_S,
    QUICK,
    Member,
    beat,
    cluster,
    introduce,
)
from tests.support.proxy import Proxy
from tests.support.servers import clean_environment

BIG = 300_000


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> Net:
    return NETS[request.param]()


def append(number: int, size: int) -> AppendRequest:
    entry = Entry(Term(1), Index(number + 1), EntryKind.NORMAL, number.to_bytes(4) * (size // 4))
    return AppendRequest(
        sender=N1,
        to=N2,
        term=Term(1),
        prev_index=Index(number),
        prev_term=Term(1),
        entries=(entry,),
        commit=Index(0),
    )


async def test_messages_arrive_in_order_at_whom_they_are_for(net: Net) -> None:
    async with cluster(N1, N2, N3, net=net) as (one, two, three):
        for number in range(300):
            one.mesh.send([beat(N1, N2, number), beat(N1, N3, number), beat(N1, N2, number + 1000)])
        await two.heard.until(lambda: len(two.heard.messages) == 600)
        await three.heard.until(lambda: len(three.heard.messages) == 300)
        expected = [number for n in range(300) for number in (n, n + 1000)]
        assert two.heard.numbers() == expected
        assert three.heard.numbers() == list(range(300))
        assert one.heard.messages == []


async def test_large_and_small_messages_keep_their_order(net: Net) -> None:
    async with cluster(N1, N2, net=net) as (one, two):
        sent = [append(n, 20_000 if n % 3 else 3 * PACKET_BYTES) for n in range(12)]
        for message in sent:
            one.mesh.send([message, beat(N1, N2, message.prev_index)])
        await two.heard.until(lambda: len(two.heard.messages) == 24)
        assert two.heard.messages[::2] == sent
        assert two.heard.numbers() == list(range(12))
        counters = one.mesh.counters(N2)
        assert counters.sent_messages == 24
        assert counters.sent_bytes == two.mesh.counters(N1).received_bytes > 12 * PACKET_BYTES
        assert counters.send_failures == 0


async def test_messages_of_one_call_are_one_delivery() -> None:
    async with cluster(N1, N2) as (one, two):
        one.mesh.send([beat(N1, N2, number) for number in range(50)])
        await two.heard.until(lambda: len(two.heard.messages) == 50)
        assert two.heard.batches == [50]


async def test_forwards_carry_who_sent_them_and_refusals_come_back(net: Net) -> None:
    async with cluster(N1, N2, net=net) as (one, two):
        one.mesh.forward(N2, 7, b"operations")
        await two.heard.until(lambda: bool(two.heard.forwards))
        assert two.heard.forwards == [(N1, one.incarnation, 7, b"operations")]
        two.mesh.refuse(N1, 7, 14, "no leader here")
        await one.heard.until(lambda: bool(one.heard.refusals))
        assert one.heard.refusals == [(7, 14, "no leader here")]
        with pytest.raises(RpcError) as caught:
            one.mesh.forward(N3, 8, b"operations")
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert not caught.value.sent


async def test_a_killed_member_is_noticed_and_its_next_life_is_met(net: Net) -> None:
    async with cluster(N1, N2, N3, net=net) as (one, two, _):
        assert two.address is not None
        await two.kill()
        await one.heard.until(lambda: one.heard.lost.count((N2, True)) == 2)
        assert one.mesh.active_since(N2) is None
        assert one.heard.unreached == [N2]
        one.mesh.send([beat(N1, N2, 1), beat(N1, N2, 2)])
        await one.heard.until(lambda: one.heard.unreached == [N2, N2])
        again = Member(N2, net=net)
        try:
            await again.listen(two.address.port)
            again.mesh.set_peers({N1: [one.url]})
            await again.connected(N1)
            await one.connected(N2)
            one.mesh.send([beat(N1, N2, 3)])
            again.mesh.send([beat(N2, N1, 4)])
            await again.heard.until(lambda: again.heard.numbers() == [3])
            await one.heard.until(lambda: one.heard.numbers() == [4])
        finally:
            await again.stop()


async def test_a_member_that_stops_in_order_counts_as_gone() -> None:
    async with cluster(N1, N2) as (one, two):
        await two.mesh.close()
        await one.heard.until(lambda: one.heard.lost.count((N2, True)) == 2)


PROGRAM = """
import asyncio
from coord.runtime import RealNet
from tests.server.peer.members import N1, N2, Member

async def main():
    member = Member(N2, net=RealNet())
    await member.listen()
    member.mesh.set_peers({N1: [input()]})
    print(member.url, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_death_of_a_process_is_seen_as_a_reset() -> None:
    one = Member(N1, net=RealNet())
    await one.listen()
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
        env=clean_environment({"PYTHONPATH": f"{root}/src:{root}/src/server:{root}"}),
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(one.url.encode() + b"\n")
        async with asyncio.timeout(PATIENCE_S):
            url = (await process.stdout.readline()).decode().strip()
        one.mesh.set_peers({N2: [url]})
        await one.connected(N2)
        await one.heard.until(lambda: one.mesh.has_stream_from(N2))
        process.send_signal(signal.SIGKILL)
        await one.heard.until(lambda: len(one.heard.lost) == 2)
        assert one.heard.lost == [(N2, True)] * 2
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await one.stop()


async def test_silence_is_noticed_at_both_ends() -> None:
    limits = MeshLimits(silence_s=0.6, retry_min_s=0.01, retry_max_s=0.05)
    one, two = (Member(node, net=RealNet(), limits=limits) for node in (N1, N2))
    try:
        await one.listen()
        await two.listen()
        async with Proxy(f"127.0.0.1:{two.url.rpartition(':')[2]}") as proxy:
            two.mesh.set_peers({N1: [one.url]})
            one.mesh.set_peers({N2: [f"http://{proxy.endpoint}"]})
            await one.connected(N2)
            await two.called_by(N1)
            proxy.hold_requests()
            proxy.hold_answers()
            await one.heard.until(lambda: (N2, False) in one.heard.lost)
            await two.heard.until(lambda: (N1, False) in two.heard.lost)
            assert N2 in one.heard.unreached
            proxy.pass_on()
            await one.connected(N2)
            await two.connected(N1)
    finally:
        await one.stop()
        await two.stop()


async def test_what_waits_for_a_slow_member_is_bounded() -> None:
    limits = MeshLimits(waiting_bytes=10 * BIG, retry_min_s=0.01, retry_max_s=0.05)
    one, two = (Member(node, net=RealNet(), limits=limits) for node in (N1, N2))
    try:
        await one.listen()
        await two.listen()
        async with Proxy(f"127.0.0.1:{two.url.rpartition(':')[2]}") as proxy:
            two.mesh.set_peers({N1: [one.url]})
            one.mesh.set_peers({N2: [f"http://{proxy.endpoint}"]})
            await one.connected(N2)
            proxy.hold_requests()
            sent = 0
            # The window, the buffers of the system and the proxy take some, and then nothing does.
            while not one.heard.unreached:
                one.mesh.send([append(sent, BIG)])
                sent += 1
                await asyncio.sleep(0)
                assert sent < 1000
            assert one.mesh.waiting_bytes(N2) <= limits.waiting_bytes
            assert one.mesh.waiting_bytes(N2) > limits.waiting_bytes - 2 * BIG
            with pytest.raises(RpcError, match="no room"):
                one.mesh.forward(N2, 1, bytes(2 * BIG))
            dropped = one.mesh.counters(N2).send_failures
            assert dropped >= 1
            proxy.pass_on()
            await two.heard.until(lambda: len(two.heard.messages) == sent - dropped)
            places = [m.prev_index for m in two.heard.messages if isinstance(m, AppendRequest)]
            assert places == list(range(sent - dropped))
            assert one.mesh.waiting_bytes(N2) == 0
    finally:
        await one.stop()
        await two.stop()


async def test_the_number_of_waiting_messages_is_bounded() -> None:
    limits = MeshLimits(waiting_messages=10, retry_min_s=0.01, retry_max_s=0.05)
    async with cluster(N1, N2, limits=limits) as (one, two):
        # More than the connection takes in one turn of the loop.
        for number in range(40):
            one.mesh.send([append(number, BIG)])
        await one.heard.until(lambda: one.heard.unreached == [N2])
        dropped = one.mesh.counters(N2).send_failures
        assert 10 < dropped < 30
        await two.heard.until(lambda: len(two.heard.messages) == 40 - dropped)


async def test_questions_are_answered(net: Net) -> None:
    one, two = Member(N1, net=net), Member(N2, net=net)

    async def double(node: NodeId, request: bytes) -> bytes:
        if not request:
            raise RpcError(StatusCode.NOT_FOUND, "nothing to double")
        return b"%d:" % node + 2 * request

    async def members(request: bytes) -> bytes:
        return b"members" + request

    try:
        two.mesh.serve("double", double)
        two.mesh.serve_anyone("members", members)
        with pytest.raises(ValueError, match="answered already"):
            two.mesh.serve("members", double)
        await one.listen()
        await two.listen()
        introduce(one, two)
        await one.connected(N2)
        assert await one.mesh.ask(N2, "double", b"ab", timeout=5) == b"1:abab"
        big = bytes(5_000_000)
        assert await one.mesh.ask(N2, "double", big, timeout=5) == b"1:" + big + big
        with pytest.raises(RpcError, match="nothing to double") as caught:
            await one.mesh.ask(N2, "double", b"", timeout=5)
        assert caught.value.code is StatusCode.NOT_FOUND
        with pytest.raises(RpcError) as caught:
            await one.mesh.ask(N2, "unheard-of", b"", timeout=5)
        assert caught.value.code is StatusCode.UNIMPLEMENTED
        with pytest.raises(RpcError) as caught:
            await one.mesh.ask(N3, "double", b"", timeout=5)
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert not caught.value.sent
        # Strangers may ask what anyone may ask, and nothing else.
        answer = await ask_url(two.url, "members", b"?", env=one.env, timeout=5)
        assert answer == b"members?"
        with pytest.raises(RpcError) as caught:
            await ask_url(two.url, "double", b"?", env=one.env, timeout=5)
        assert caught.value.code is StatusCode.UNAUTHENTICATED
    finally:
        await one.stop()
        await two.stop()


async def test_a_question_without_an_answer_ends_in_time() -> None:
    async def silent(_node: NodeId, _request: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    one, two = Member(N1, net=RealNet()), Member(N2, net=RealNet())
    two.mesh.serve("silent", silent)
    try:
        await one.listen()
        await two.listen()
        introduce(one, two)
        await one.connected(N2)
        with pytest.raises(RpcError) as caught:
            await one.mesh.ask(N2, "silent", b"", timeout=0.05)
        assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
    finally:
        await one.stop()
        await two.stop()


async def test_the_urls_of_a_member_are_tried_in_turn_and_may_change() -> None:
    async with cluster(N1, N2, net=RealNet(), limits=QUICK) as (one, two):
        since = one.mesh.active_since(N2)
        dead = "http://127.0.0.1:1"
        one.mesh.set_peers({N2: [dead, two.url]})
        # What is in use and still right stays.
        assert one.mesh.active_since(N2) == since
        no_name = f"http://{'a' * 70}:1"
        one.mesh.set_peers(
            {N2: [dead, "nonsense", no_name, f"http://localhost:{two.url.rpartition(':')[2]}"]}
        )
        assert one.mesh.active_since(N2) is None
        await one.connected(N2)
        one.mesh.send([beat(N1, N2, 5)])
        await two.heard.until(lambda: two.heard.numbers() == [5])
        assert one.heard.count_logged("failed to dial peer", "nonsense") == 1
        assert one.heard.count_logged("failed to dial peer", "no host can have that name") == 1


@pytest.mark.parametrize(
    ("url", "address", "authority", "server_name", "is_secure"),
    [
        ("http://10.0.0.1:2380", TcpAddress("10.0.0.1", 2380), "10.0.0.1:2380", "10.0.0.1", False),
        ("https://localhost:1", TcpAddress("127.0.0.1", 1), "localhost:1", "localhost", True),
        ("https://[::1]:2380", TcpAddress("::1", 2380), "[::1]:2380", "::1", True),
        ("unix:///run/peer.sock", UnixAddress("/run/peer.sock"), "localhost", "localhost", False),
    ],
)
def test_what_a_url_says(
    url: str, address: Address, authority: str, server_name: str, is_secure: bool
) -> None:
    assert target_of(url) == Target(address, authority, server_name, is_secure)


async def test_nothing_is_sent_on_a_stream_that_has_just_ended() -> None:
    async with cluster(N1, N2) as (one, two):
        refusals: list[RpcError] = []

        def connection_lost(node: NodeId, *, was_reset: bool) -> None:
            assert (node, was_reset) == (N2, True)
            try:
                one.mesh.forward(N2, 1, b"operations")
            except RpcError as error:
                refusals.append(error)

        one.heard.connection_lost = connection_lost  # type: ignore[method-assign]
        await two.kill()
        await one.heard.until(lambda: one.mesh.active_since(N2) is None)
        assert [error.sent for error in refusals] == [False, False]
        assert two.heard.forwards == []
