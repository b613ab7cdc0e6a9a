"""The network of a simulated world: hosts, the links between them, and connections.

``SimNet`` is the world's; each process gets a :class:`HostNet`, which is the ``Net`` seam for it and dies
with it. A host is a machine: its kernel goes on when the process is killed, and refuses or resets what
comes for it; after a power failure it says nothing until it is up again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from coord.runtime import Address, Listener, TcpAddress
from coord.testing.sim.chance import Chance
from coord.testing.sim.links import Lane, Link, LinkOptions
from coord.testing.sim.stream import EOF, RESET, SimTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from coord.testing.sim.nodeloop import NodeLoop
    from coord.testing.sim.scheduler import Scheduler

_FIRST_PORT: Final = 49_152
# A SYN that finds nobody is sent again, after this and then twice as long each time.
_SYN_AGAIN_S: Final = 1.0
_SYN_ATTEMPTS: Final = 5


class _Host:
    """A machine: whose process runs there, what it listens to, and its open connections."""

    def __init__(self) -> None:
        self.loop: NodeLoop | None = None
        self.is_up = True
        self.listeners: dict[int, Callable[[], asyncio.Protocol]] = {}
        self.transports: dict[SimTransport, None] = {}
        self.mailbox: Callable[[str, bytes], object] | None = None


class _End(SimTransport):
    """An end that knows its host."""

    def __init__(self, loop: NodeLoop, name: str, host: _Host, extra: dict[str, Any]) -> None:
        super().__init__(loop, name, extra)
        self._machine = host
        host.transports[self] = None

    @override
    def answers_for_the_dead(self) -> bool:
        return self._machine.is_up

    @override
    def _lose(self, error: Exception | None) -> None:
        self._machine.transports.pop(self, None)
        super()._lose(error)


class SimNet:
    """All hosts and links. ``options`` holds for every link that :meth:`shape` has not changed."""

    def __init__(
        self, scheduler: Scheduler, seed: int, *, options: LinkOptions | None = None
    ) -> None:
        self._scheduler = scheduler
        self._seed = seed
        self._options = options if options is not None else LinkOptions()
        self._hosts: dict[str, _Host] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._next_port = _FIRST_PORT
        self._chance = Chance(seed, "net")

    def attach(self, name: str, loop: NodeLoop) -> HostNet:
        """Let a process that runs on ``loop`` live on the host ``name``, and return its seam."""
        host = self._hosts.setdefault(name, _Host())
        host.loop = loop
        host.is_up = True
        host.listeners = {}
        return HostNet(self, name, loop)

    def process_died(self, name: str) -> None:
        """Close the sockets of a killed process, as its kernel does: with an end or a reset, by chance."""
        for transport in self._silence(name):
            if transport.lane is not None:
                transport.lane.send(EOF if self._chance.below(0.5) else RESET)

    def power_lost(self, name: str) -> None:
        """Forget a machine's sockets without a word, until the host is attached again."""
        self._silence(name)
        self._hosts[name].is_up = False

    def _silence(self, name: str) -> list[_End]:
        host = self._hosts[name]
        transports = [end for end in host.transports if isinstance(end, _End)]
        for transport in transports:
            transport.is_lost = True
        host.transports.clear()
        host.listeners = {}
        host.loop = None
        host.mailbox = None
        for (source, _), link in self._links.items():
            if source == name:
                link.forget_what_would_have_left()
        return transports

    # Links and what happens to them.

    def link(self, source: str, target: str) -> Link:
        """Return the link from one host to another."""
        link = self._links.get((source, target))
        if link is None:
            name = f"{source}>{target}"
            link = self._links[source, target] = Link(
                self._scheduler, self._seed, name, self._options
            )
        return link

    def shape(self, options: LinkOptions) -> None:
        """Let all links, also those to come, behave like this from now on."""
        self._options = options
        for link in self._links.values():
            link.options = options

    def block(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Block the links of these (source, target)."""
        for source, target in pairs:
            self.link(source, target).block()

    def unblock(self, pairs: Iterable[tuple[str, str]], *, resend: bool = True) -> None:
        """Take back what ``block`` did."""
        for source, target in pairs:
            self.link(source, target).unblock(resend=resend)

    def connections(self, name: str) -> list[SimTransport]:
        """Return the ends of open connections on a host."""
        return list(self.host(name).transports)

    def reset(self, transport: SimTransport) -> None:
        """Break a connection, so that both ends learn of it."""
        for end in (transport, transport.peer):
            if end is not None and not end.is_lost:
                end.arrive(RESET)

    def sever(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Break all connections between these hosts, so that both ends learn of it."""
        for name, other in pairs:
            for end in list(self.host(name).transports):
                if end.peer is not None and end.peer.host == other:
                    self.reset(end)

    def forget(self, transport: SimTransport) -> None:
        """Let a connection go dead without either end learning of it, as a middlebox does."""
        for end in (transport, transport.peer):
            if end is not None and end.lane is not None:
                end.lane.is_lost = True

    # What the seams call.

    def host(self, name: str) -> _Host:
        """Return a host, making it if it is new: an address where nobody ever lived."""
        return self._hosts.setdefault(name, _Host())

    def take_port(self) -> int:
        """Return a port that nobody has."""
        self._next_port += 1
        return self._next_port

    def dial(
        self, source: NodeLoop, name: str, address: TcpAddress
    ) -> asyncio.Future[SimTransport]:
        """Begin a connection; the future gets the near end, or the refusal."""
        done: asyncio.Future[SimTransport] = source.create_future()
        _Dial(self, self._scheduler, source, name, address, done).try_once()
        return done


class _Dial:
    """One attempt to connect: SYN, SYN-ACK, and what may go wrong with them."""

    def __init__(
        self,
        net: SimNet,
        scheduler: Scheduler,
        loop: NodeLoop,
        name: str,
        address: TcpAddress,
        done: asyncio.Future[SimTransport],
    ) -> None:
        self._net = net
        self._scheduler = scheduler
        self._loop = loop
        self._name = name
        self._address = address
        self._done = done
        self._attempt = 0
        self._out = Lane(scheduler, net.link(name, address.host), self._at_target)
        self._back = Lane(scheduler, net.link(address.host, name), self._at_home)

    def try_once(self) -> None:
        self._attempt += 1
        self._out.send("syn")

    def _at_target(self, _syn: object) -> None:
        host = self._net.host(self._address.host)
        if not host.is_up:
            if self._attempt >= _SYN_ATTEMPTS:
                self._scheduler.after(_SYN_AGAIN_S, self._at_home, None)
            else:
                self._scheduler.after(_SYN_AGAIN_S * 2 ** (self._attempt - 1), self.try_once)
            return
        factory = host.listeners.get(self._address.port)
        if factory is None or host.loop is None:
            self._back.send(RESET)
            return
        self._accept(host, host.loop, factory)

    def _accept(self, host: _Host, loop: NodeLoop, factory: Callable[[], asyncio.Protocol]) -> None:
        if self._done.done() or self._loop.is_dead:
            return
        net, scheduler, home = self._net, self._scheduler, self._net.host(self._name)
        here = (self._address.host, self._address.port)
        there = (self._name, net.take_port())
        far = _End(loop, self._address.host, host, {"peername": there, "sockname": here})
        near = _End(self._loop, self._name, home, {"peername": here, "sockname": there})
        far.peer, near.peer = near, far
        far.lane = Lane(scheduler, net.link(self._address.host, self._name), near.arrive)
        near.lane = Lane(scheduler, net.link(self._name, self._address.host), far.arrive)
        loop.call_soon(lambda: far.begin(factory()))
        # On the lane that data will take, so that nothing overtakes the acknowledgement.
        far.lane.send(None)
        arrive = near.arrive

        def first(item: Any) -> None:  # noqa: ANN401 - whatever comes over the lane
            if item is None:
                self._at_home(near)
            else:
                arrive(item)

        far.lane.deliver_to(first)

    def _at_home(self, outcome: SimTransport | str | None) -> None:
        if self._loop.is_dead:
            return
        if self._done.done():
            if isinstance(outcome, SimTransport):
                outcome.abort()
        elif isinstance(outcome, SimTransport):
            self._done.set_result(outcome)
        elif outcome is None:
            self._done.set_exception(TimeoutError(f"{self._address} does not answer"))
        else:
            text = f"connect call failed {(self._address.host, self._address.port)}"
            self._done.set_exception(ConnectionRefusedError(text))


class _SimListener:
    def __init__(
        self,
        listeners: dict[int, Callable[[], asyncio.Protocol]],
        factory: Callable[[], asyncio.Protocol],
        address: TcpAddress,
    ) -> None:
        self._listeners = listeners
        self._factory = factory
        self._address = address

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (self._address,)

    def close(self) -> None:
        if self._listeners.get(self._address.port) is self._factory:
            del self._listeners[self._address.port]

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)


class HostNet:
    """The ``Net`` seam of one process. Every call raises NodeDead after its crash."""

    def __init__(self, net: SimNet, name: str, loop: NodeLoop) -> None:
        self._net = net
        self._name = name
        self._loop = loop

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,  # noqa: ARG002 - names nobody without TLS
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to a host of the world. Raises OSError; a cancelled call leaves no connection."""
        self._loop.check_alive()
        dialling = self._net.dial(self._loop, self._name, _tcp(address, tls))
        try:
            transport = await dialling
        except asyncio.CancelledError:
            if dialling.done() and not dialling.cancelled() and dialling.exception() is None:
                dialling.result().abort()
            raise
        protocol = factory()
        transport.begin(protocol)
        return transport, protocol

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Accept connections at a port of the own host; port 0 chooses one. Raises OSError if it is taken."""
        self._loop.check_alive()
        tcp = _tcp(address, tls)
        port = tcp.port or self._net.take_port()
        listeners = self._net.host(self._name).listeners
        if port in listeners:
            raise OSError(f"somebody listens at {address} already")
        listeners[port] = factory
        return _SimListener(listeners, factory, TcpAddress(self._name, port))

    # Datagrams, for a direct seam between peers.

    def on_datagram(self, receive: Callable[[str, bytes], object]) -> None:
        """Call ``receive(sender, data)`` on the own loop for each datagram."""
        self._loop.check_alive()
        self._net.host(self._name).mailbox = receive

    def send(self, to: str, data: bytes) -> None:
        """Send a datagram: it may be lost, doubled or overtaken, and nobody is told."""
        self._loop.check_alive()
        net, sender = self._net, self._name

        def deliver() -> None:
            # Whoever lives there now gets it, also a later incarnation than the one it was meant for.
            host = net.host(to)
            if host.loop is not None and host.mailbox is not None:
                host.loop.call_soon(host.mailbox, sender, data)

        net.link(sender, to).throw(deliver, len(data))


def _tcp(address: Address, tls: ssl.SSLContext | None) -> TcpAddress:
    if tls is not None:
        raise ValueError("the simulated network has no TLS")
    if not isinstance(address, TcpAddress):
        raise OSError(f"the simulated network has no {address}")
    return address
