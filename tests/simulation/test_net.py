# ruff: noqa: ANN401 - outcomes of any kind
"""The simulated network: order and nothing else is kept, and every kind of trouble can be made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
from typing_extensions import override

from coord.runtime import TcpAddress, start_task
from coord.testing.sim.faults import blocked_pairs
from coord.testing.sim.links import LinkOptions
from coord.testing.sim.net import HostNet, SimNet
from coord.testing.sim.nodeloop import NodeLoop
from coord.testing.sim.scheduler import Scheduler
from coord.testing.sim.stream import WINDOW_BYTES, SimTransport

SERVER, CLIENT = "s", "c"
ADDRESS = TcpAddress(SERVER, 80)


class Peer(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.pieces: list[bytes] = []
        self.events: list[str] = []
        self.transport: SimTransport | None = None

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def wire(self) -> SimTransport:
        assert self.transport is not None
        return self.transport

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("SimTransport", transport)
        self.events.append("made")

    @override
    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)

    @override
    def eof_received(self) -> bool:
        self.events.append("eof")
        return False

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(f"lost {type(exc).__name__}" if exc else "lost")

    @override
    def pause_writing(self) -> None:
        self.events.append("pause")

    @override
    def resume_writing(self) -> None:
        self.events.append("resume")


class Net:
    """A server and a client on a network of their own."""

    def __init__(self, seed: int = 1, options: LinkOptions | None = None) -> None:
        self.scheduler = Scheduler(seed)
        self.net = SimNet(self.scheduler, seed, options=options)
        self.loops: dict[str, NodeLoop] = {}
        self.seams: dict[str, HostNet] = {}
        self.accepted: list[Peer] = []
        for name in (SERVER, CLIENT):
            self.boot(name)
        self.do(SERVER, self.listen)

    def boot(self, name: str) -> None:
        loop = self.loops[name] = NodeLoop(name, on_problem=self._broken)
        self.scheduler.add(loop)
        self.seams[name] = self.net.attach(name, loop)

    @staticmethod
    def _broken(context: dict[str, Any]) -> None:
        raise AssertionError(context)

    async def listen(self) -> None:
        def accept() -> Peer:
            self.accepted.append(Peer(self))
            return self.accepted[-1]

        await self.seams[SERVER].listen(accept, ADDRESS)

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> list[Any]:
        """Run a coroutine on a node; the list gets its result or its error."""
        outcome: list[Any] = []

        async def noted() -> None:
            try:
                outcome.append(await work())
            except OSError as error:
                outcome.append(error)

        self.loops[name].call_soon(lambda: start_task(noted()))
        return outcome

    def do(
        self, name: str, work: Callable[[], Coroutine[Any, Any, Any]], seconds: float = 1.0
    ) -> Any:
        outcome = self.start(name, work)
        self.run(seconds)
        return outcome[0]

    def run(self, seconds: float) -> None:
        self.scheduler.run(self.scheduler.now + seconds)

    def on(self, name: str, act: Callable[[], object], seconds: float = 1.0) -> None:
        """Do something on a node, and let time pass."""
        self.loops[name].call_soon(act)
        self.run(seconds)

    async def _connect(self) -> Peer:
        _, peer = await self.seams[CLIENT].connect(lambda: Peer(self), ADDRESS)
        return cast("Peer", peer)

    def connect(self) -> tuple[Peer, Peer]:
        near = self.do(CLIENT, self._connect)
        assert isinstance(near, Peer), near
        return near, self.accepted[-1]


def test_bytes_arrive_in_order_split_and_merged() -> None:
    net = Net(options=LinkOptions(delay_mean_s=0.05))
    near, far = net.connect()
    sent = [bytes([number]) * (number + 1) for number in range(200)]

    def write() -> None:
        for piece in sent:
            near.wire.write(piece)

    net.on(CLIENT, write, 30.0)
    assert far.data == b"".join(sent)
    assert far.pieces != sent
    assert len(far.pieces) > 1


def test_losses_only_delay_a_stream() -> None:
    net = Net(options=LinkOptions(loss=0.3))
    near, far = net.connect()
    net.on(CLIENT, lambda: [near.wire.write(bytes([n])) for n in range(100)], 60.0)
    assert far.data == bytes(range(100))


def test_a_reader_that_pauses_stops_the_writer() -> None:
    net = Net()
    near, far = net.connect()
    net.on(SERVER, far.wire.pause_reading)
    big = bytes(2 * WINDOW_BYTES)
    net.on(CLIENT, lambda: near.wire.write(big))
    assert near.events[-1] == "pause"
    assert near.wire.get_write_buffer_size() == len(big) - WINDOW_BYTES
    net.on(SERVER, far.wire.resume_reading)
    assert near.events[-1] == "resume"
    assert far.data == big


def test_close_ends_both_sides_after_what_was_written() -> None:
    net = Net()
    near, far = net.connect()

    def write_and_close() -> None:
        near.wire.write(b"last")
        near.wire.close()

    net.on(CLIENT, write_and_close)
    assert far.data == b"last"
    assert near.events == ["made", "lost"]
    assert far.events == ["made", "eof", "lost"]


def test_half_closed_streams_still_carry_the_answer() -> None:
    net = Net()
    near, far = net.connect()
    far.eof_received = lambda: True  # type: ignore[method-assign]
    net.on(CLIENT, near.wire.write_eof)
    net.on(SERVER, lambda: far.wire.write(b"answer"))
    assert near.data == b"answer"


def test_abort_resets_the_other_side() -> None:
    net = Net()
    near, far = net.connect()
    net.on(CLIENT, near.wire.abort)
    assert near.events == ["made", "lost"]
    assert far.events == ["made", "lost ConnectionResetError"]


def test_nobody_listening_is_a_refusal() -> None:
    net = Net()
    net.net.process_died(SERVER)
    assert isinstance(net.do(CLIENT, net._connect), ConnectionRefusedError)


def test_a_machine_without_power_says_nothing_until_it_is_back() -> None:
    net = Net()
    near, _ = net.connect()
    net.scheduler.remove(net.loops[SERVER])
    net.net.power_lost(SERVER)
    attempt = net.start(CLIENT, net._connect)
    net.on(CLIENT, lambda: near.wire.write(b"hello?"), 0.5)
    assert attempt == []
    assert near.events == ["made"]
    net.boot(SERVER)
    net.do(SERVER, net.listen)
    net.run(5.0)
    assert isinstance(attempt[0], Peer)
    net.on(CLIENT, lambda: near.wire.write(b"hello!"))
    assert near.events[-1] == "lost ConnectionResetError"


def test_an_unreachable_machine_times_out() -> None:
    net = Net()
    net.net.power_lost(SERVER)
    assert isinstance(net.do(CLIENT, net._connect, 60.0), TimeoutError)


def test_a_killed_process_leaves_no_connection() -> None:
    net = Net()
    near, _ = net.connect()
    net.scheduler.remove(net.loops[SERVER])
    net.net.process_died(SERVER)
    net.run(1.0)
    assert near.events[-1].startswith("lost")


def test_a_blocked_link_stalls_and_then_goes_on() -> None:
    net = Net()
    near, far = net.connect()
    net.net.block([(CLIENT, SERVER)])
    net.on(CLIENT, lambda: near.wire.write(b"a"), 10.0)
    net.on(SERVER, lambda: far.wire.write(b"back"), 1.0)
    assert far.data == b""
    assert near.data == b"back"
    net.net.unblock([(CLIENT, SERVER)])
    net.run(2.0)
    assert far.data == b"a"


def test_a_forgotten_connection_is_dead_without_a_word() -> None:
    net = Net()
    near, far = net.connect()
    net.net.forget(near.wire)
    net.on(CLIENT, lambda: near.wire.write(b"a"), 100.0)
    assert far.data == b""
    assert near.events == far.events == ["made"]


def test_a_reset_reaches_both_ends() -> None:
    net = Net()
    near, far = net.connect()
    net.net.reset(near.wire)
    net.run(1.0)
    assert near.events[-1] == far.events[-1] == "lost ConnectionResetError"


def test_a_link_that_is_severed_tells_both_ends_and_no_others() -> None:
    net = Net()
    client, server = net.connect()
    net.net.sever([(SERVER, "elsewhere"), ("elsewhere", CLIENT)])
    net.run(1.0)
    assert client.events == server.events == ["made"]
    net.net.sever([(SERVER, CLIENT), (CLIENT, SERVER)])
    net.run(1.0)
    assert client.events == server.events == ["made", "lost ConnectionResetError"]


def test_a_cancelled_connect_leaves_nothing() -> None:
    net = Net(options=LinkOptions(delay_min_s=1.0))

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await net._connect()

    net.do(CLIENT, give_up, 20.0)
    assert net.net.connections(SERVER) == []
    assert net.net.connections(CLIENT) == []


def test_datagrams_are_lost_doubled_and_overtaken() -> None:
    options = LinkOptions(loss=0.2, duplication=0.2, delay_mean_s=0.1)
    net = Net(options=options)
    got: list[int] = []
    net.seams[SERVER].on_datagram(lambda sender, data: got.append(data[0]))

    def send() -> None:
        for number in range(200):
            net.seams[CLIENT].send(SERVER, bytes([number]))

    net.on(CLIENT, send, 10.0)
    assert len(set(got)) < 200
    assert len(got) > len(set(got))
    assert got != sorted(got)


def test_the_same_seed_delivers_alike() -> None:
    def arrivals(seed: int) -> tuple[int, list[bytes]]:
        net = Net(seed, LinkOptions(loss=0.1, delay_mean_s=0.01))
        near, far = net.connect()
        net.on(CLIENT, lambda: [near.wire.write(bytes(n)) for n in range(100)], 10.0)
        return net.scheduler.trace.value, far.pieces

    assert arrivals(3) == arrivals(3)
    assert arrivals(3)[0] != arrivals(4)[0]


MEMBERS = ("m1", "m2", "m3", "m4", "m5")


def reach(member: str, pairs: list[tuple[str, str]]) -> set[str]:
    return {other for other in MEMBERS if other == member or (member, other) not in pairs}


def test_a_ring_gives_everybody_a_majority_and_no_two_the_same() -> None:
    pairs = blocked_pairs("ring", (), MEMBERS, ())
    reached = [frozenset(reach(member, pairs)) for member in MEMBERS]
    assert all(len(group) == 3 for group in reached)
    assert len(set(reached)) == 5


def test_a_bridge_reaches_both_halves_which_do_not_reach_each_other() -> None:
    pairs = blocked_pairs("bridge", ("m3",), MEMBERS, ())
    assert reach("m3", pairs) == set(MEMBERS)
    assert reach("m1", pairs) == {"m1", "m2", "m3"}
    assert reach("m5", pairs) == {"m3", "m4", "m5"}


@pytest.mark.parametrize(
    ("shape", "on", "one_way", "blocked"),
    [
        ("isolate", ("m1",), False, {("m1", "m2"), ("m2", "m1"), ("m1", "c"), ("c", "m1")}),
        ("isolate", ("m1",), True, {("m1", "m2"), ("m1", "c")}),
        ("clients", ("m2",), False, {("m2", "c"), ("c", "m2")}),
        ("split", ("m1",), False, {("m1", "m2"), ("m2", "m1")}),
    ],
)
def test_partitions(
    shape: str, on: tuple[str, ...], blocked: set[tuple[str, str]], *, one_way: bool
) -> None:
    assert set(blocked_pairs(shape, on, ("m1", "m2"), ("c",), one_way=one_way)) == blocked
