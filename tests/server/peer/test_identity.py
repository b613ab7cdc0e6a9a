"""Who may speak: nothing from a foreign cluster, member or life has any effect (R11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

import pytest

from coord.rpc import Channel, MemoryNet, RpcError, StatusCode
from coord.rpc.channel import ClientStream
from coord_server.peer import Hello, MeshLimits, Standing
from coord_server.peer.handshake import HELLO_KEY, decode_hello, encode_echo, encode_hello
from coord_server.peer.link import STREAM_PATH
from coord_server.peer.packet import PeerMessage, pack
from coord_server.raft import (
    Index,
    InstallSnapshot,
    Membership,
    NodeId,
    SnapshotMeta,
    Term,
    VoteRequest,
)
from tests.server.peer.members import (
    CLUSTER,
    N1,
    N2,
    N3,
    PATIENCE_S,
    Member,
    beat,
    cluster,
    introduce,
)

GOOD = Hello(cluster_id=CLUSTER, sender=N2, to=N1, incarnation=77)


@pytest.fixture
async def one() -> AsyncGenerator[Member]:
    """Member 1, which knows members 2 and 3 and cannot reach them."""
    member = Member(N1, net=MemoryNet())
    await member.listen()
    member.mesh.set_peers({N2: ["http://127.0.0.1:1"], N3: ["http://127.0.0.1:1"]})
    yield member
    await member.stop()


async def dialled(member: Member) -> Channel:
    assert member.address is not None
    channel = Channel(member.address, env=member.env, authority="test")
    await channel.connect(timeout=PATIENCE_S)
    return channel


async def stream(channel: Channel, hello: Hello | bytes | None) -> ClientStream:
    """Open a message stream and wait for the welcome, or for the refusal, which is raised."""
    data = encode_hello(hello) if isinstance(hello, Hello) else hello
    metadata = () if data is None else ((HELLO_KEY, data),)
    opened = channel.open_stream(STREAM_PATH, metadata=metadata)
    async with asyncio.timeout(PATIENCE_S):
        welcome = await opened.receive()
    assert welcome is not None
    opened.send(encode_echo(decode_hello(welcome).incarnation))
    return opened


def say(opened: ClientStream, *messages: PeerMessage) -> None:
    for data, _ in pack(messages):
        opened.send(data)


async def end_of(opened: ClientStream) -> RpcError:
    with pytest.raises(RpcError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await opened.receive()
    return caught.value


BAD: dict[str, tuple[Hello | bytes | None, StatusCode, str]] = {
    "no hello": (None, StatusCode.UNAUTHENTICATED, "does not say which member"),
    "noise": (b"noise", StatusCode.FAILED_PRECONDITION, "cut off"),
    "another program": (b"x" * 60, StatusCode.FAILED_PRECONDITION, "no member of a coord-server"),
    "a newer protocol": (
        encode_hello(GOOD)[:9] + b"\x02" + encode_hello(GOOD)[10:],
        StatusCode.FAILED_PRECONDITION,
        "speaks version 2 of the protocol, this member 1",
    ),
    "a foreign cluster": (
        replace(GOOD, cluster_id=0xBAD),
        StatusCode.FAILED_PRECONDITION,
        "member 2 is of cluster bad, member 1 of cluster c1",
    ),
    "for another member": (
        replace(GOOD, to=N3),
        StatusCode.FAILED_PRECONDITION,
        "this is member 1, not member 3",
    ),
    "an unknown member": (
        replace(GOOD, sender=NodeId(0xFF)),
        StatusCode.FAILED_PRECONDITION,
        "member ff is not known to member 1",
    ),
    "itself": (replace(GOOD, sender=N1), StatusCode.FAILED_PRECONDITION, "called by itself"),
}


@pytest.mark.parametrize(("hello", "code", "text"), BAD.values(), ids=BAD)
async def test_whoever_does_not_fit_is_refused(
    one: Member, hello: Hello | bytes | None, code: StatusCode, text: str
) -> None:
    channel = await dialled(one)
    data = encode_hello(hello) if isinstance(hello, Hello) else hello
    metadata = () if data is None else ((HELLO_KEY, data),)
    for _ in range(3):
        opened = channel.open_stream(STREAM_PATH, metadata=metadata)
        say(opened, beat(N2, N1, 1))
        refusal = await end_of(opened)
        assert refusal.code is code
        assert text in refusal.message
    assert one.heard.messages == []
    assert one.heard.lost == []
    assert one.heard.count_logged("refused a peer") <= 1
    await channel.close()


async def test_a_hello_that_comes_late_does_not_outlive_its_sender(one: Member) -> None:
    """The network has kept it back: what sent it is dead, and whoever lives has been heard already."""
    after = await dialled(one)
    new = await stream(after, replace(GOOD, incarnation=9))
    await one.heard.until_logged("peer has connected", "9")
    before = await dialled(one)
    late = before.open_stream(STREAM_PATH, metadata=((HELLO_KEY, encode_hello(GOOD)),))
    async with asyncio.timeout(PATIENCE_S):
        assert await late.receive() is not None
    say(late, beat(N2, N1, 1))  # no answer to the hello
    assert (await end_of(late)).code is StatusCode.INVALID_ARGUMENT
    say(new, beat(N2, N1, 2))
    await one.heard.until(lambda: one.heard.numbers() == [2])
    again = await stream(await dialled(one), replace(GOOD, incarnation=9))
    say(again, beat(N2, N1, 3))
    await one.heard.until(lambda: one.heard.numbers() == [2, 3])
    for channel in (before, after):
        await channel.close()


async def test_of_two_lives_that_answer_the_one_that_called_later_is_the_newer(one: Member) -> None:
    """Both were started since we were. The first has answered our hello and died; the answer came late."""
    first, second = await dialled(one), await dialled(one)
    old = first.open_stream(STREAM_PATH, metadata=((HELLO_KEY, encode_hello(GOOD)),))
    async with asyncio.timeout(PATIENCE_S):
        welcome = await old.receive()
    assert welcome is not None
    new = await stream(second, replace(GOOD, incarnation=9))
    await one.heard.until_logged("peer has connected", '"9"')
    old.send(encode_echo(decode_hello(welcome).incarnation))
    say(old, beat(N2, N1, 1))
    assert "incarnation 4d is over" in (await end_of(old)).message
    say(new, beat(N2, N1, 2))
    await one.heard.until(lambda: one.heard.numbers() == [2])
    with pytest.raises(RpcError, match="incarnation 4d is over"):
        await stream(first, GOOD)
    for channel in (first, second):
        await channel.close()


async def test_messages_of_an_earlier_life_have_no_effect(one: Member) -> None:
    before, after = await dialled(one), await dialled(one)
    old = await stream(before, GOOD)
    say(old, beat(N2, N1, 1))
    await one.heard.until(lambda: one.heard.numbers() == [1])
    new = await stream(after, replace(GOOD, incarnation=78))
    await one.heard.until_logged("peer has connected", "4e")
    say(old, beat(N2, N1, 2))
    assert (await end_of(old)).code is StatusCode.ABORTED
    with pytest.raises(RpcError, match="incarnation 4d is over"):
        await stream(before, GOOD)
    say(new, beat(N2, N1, 3))
    await one.heard.until(lambda: one.heard.numbers() == [1, 3])
    # The old stream's end is no news: the member is there.
    await before.close()
    assert one.heard.lost == []
    await after.close()
    await one.heard.until(lambda: one.heard.lost == [(N2, True)])


async def test_a_member_that_dials_again_leaves_its_old_stream(one: Member) -> None:
    channel = await dialled(one)
    old = await stream(channel, GOOD)
    new = await stream(channel, GOOD)
    assert (await end_of(old)).code is StatusCode.ABORTED
    say(new, beat(N2, N1, 1))
    await one.heard.until(lambda: one.heard.numbers() == [1])
    assert one.heard.lost == []
    await channel.close()


def _foreign_sender() -> PeerMessage:
    return beat(N3, N1, 1)


def _foreign_receiver() -> PeerMessage:
    return beat(N2, N3, 1)


def _not_offered() -> PeerMessage:
    meta = SnapshotMeta(index=Index(5), term=Term(1), membership=Membership(voters=(N1,)))
    return InstallSnapshot(sender=N2, to=N1, term=Term(1), snapshot=meta)


@pytest.mark.parametrize("make", [_foreign_sender, _foreign_receiver, _not_offered])
async def test_messages_that_do_not_belong_end_the_stream(
    one: Member, make: Callable[[], PeerMessage]
) -> None:
    channel = await dialled(one)
    opened = await stream(channel, GOOD)
    say(opened, make())
    assert (await end_of(opened)).code is StatusCode.INVALID_ARGUMENT
    assert one.heard.messages == []
    assert one.heard.lost == [(N2, False)]
    assert one.mesh.counters(N2).receive_failures == 1
    await channel.close()


async def test_noise_ends_the_stream(one: Member) -> None:
    channel = await dialled(one)
    opened = await stream(channel, GOOD)
    opened.send(b"\x01\xff\xff\xff\xff")
    assert (await end_of(opened)).code is StatusCode.INVALID_ARGUMENT
    await channel.close()


async def test_a_member_of_another_cluster_at_a_known_url() -> None:
    net = MemoryNet()
    one, foreign = Member(N1, net=net), Member(N2, net=net, cluster_id=0xBAD)
    await one.listen()
    await foreign.listen()
    introduce(one, foreign)
    await one.heard.until_logged(
        "peer refused", "member 1 is of cluster c1, member 2 of cluster bad"
    )
    await foreign.heard.until_logged("peer refused", "cluster")
    assert one.mesh.active_since(N2) is None
    assert foreign.heard.messages == one.heard.messages == []
    await one.stop()
    await foreign.stop()


async def test_another_member_at_a_known_url() -> None:
    async with cluster(N1, N2) as (one, two):
        one.mesh.set_peers({N2: [two.url], N3: [two.url]})
        await one.heard.until_logged("peer refused", "this is member 2, not member 3")
        assert one.mesh.active_since(N3) is None


async def test_a_removed_member_is_cut_off_and_refused() -> None:
    async with cluster(N1, N2, N3) as (one, two, three):
        urls = {N1: [one.url], N2: [two.url]}
        one.removed.add(N3)
        one.mesh.set_peers(urls)
        assert one.mesh.peers == {N2: (two.url,)}
        await three.heard.until_logged("peer refused", "member 3 was removed from the cluster")
        assert one.mesh.active_since(N3) is None
        one.mesh.send([beat(N1, N3, 1), beat(N1, N2, 2)])
        three.mesh.send([beat(N3, N1, 3)])
        await two.heard.until(lambda: two.heard.numbers() == [2])
        assert three.heard.messages == one.heard.messages == []
        assert N3 not in one.heard.unreached
        with pytest.raises(RpcError):
            await one.mesh.ask(N3, "anything", b"", timeout=1)
        assert three.was_told_removed


async def test_who_is_no_peer_for_now_is_not_told_that_it_was_removed() -> None:
    # What a snapshot says of the members may be older than what this one knew before.
    async with cluster(N1, N2, N3) as (one, two, three):
        one.mesh.set_peers({N2: [two.url]})
        await three.heard.until_logged("peer refused", "member 3 is not known to member 1")
        assert not three.was_told_removed
        one.mesh.set_peers({N2: [two.url], N3: [three.url]})
        await one.connected(N3)
        await three.connected(N1)


def vote(sender: NodeId, to: NodeId) -> VoteRequest:
    return VoteRequest(sender=sender, to=to, term=Term(2), last_index=Index(1), last_term=Term(1))


async def test_a_member_that_lags_behind_may_let_in_whom_it_does_not_know_yet() -> None:
    net = MemoryNet()
    limits = MeshLimits(retry_min_s=0.01, retry_max_s=0.05, guests=1)
    asked: list[NodeId] = []

    def standing(node: NodeId) -> Standing:
        asked.append(node)
        return Standing.NEW

    one = Member(N1, net=net, limits=limits, standing=standing)
    await one.listen()
    guests: list[Member] = []
    for node in (N2, N3):
        url = f"http://127.0.0.1:{7000 + node}"
        guest = Member(node, net=net, urls=(url,))
        await guest.listen(7000 + node)
        guest.mesh.set_peers({N1: [one.url]})
        guests.append(guest)
        if node == N2:
            await guest.connected(N1)
            await one.heard.until_logged("established connection with peer")
    two, three = guests
    # One more than there is room for.
    await three.heard.until_logged("peer refused", "member 3 is not known")
    two.mesh.send([vote(N2, N1)])
    await one.heard.until(lambda: one.heard.messages == [vote(N2, N1)])
    one.mesh.send([beat(N1, N2, 9)])
    await two.heard.until(lambda: two.heard.numbers() == [9])
    assert one.mesh.peers == {}
    assert set(asked) == {N2, N3}
    # It stays when it becomes a member, and makes room for the next.
    one.mesh.set_peers({N2: [two.url]})
    assert one.mesh.peers == {N2: (two.url,)}
    await three.connected(N1)
    # A guest is forgotten with its stream.
    await three.stop()
    await one.heard.until(lambda: (N3, True) in one.heard.lost)
    assert one.mesh.active_since(N3) is None
    assert one.mesh.active_since(N2) is not None
    await one.stop()
    await two.stop()
