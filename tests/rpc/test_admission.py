"""Connections of those who may not stay, although their certificates are sound: nothing they sent counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import trustme
from typing_extensions import override

from coord.rpc import Channel, Method, PeerInfo, Registry, RpcError, RpcServer, StatusCode
from coord.rpc.admission import Admit, PeerRefused
from coord.rpc.http1_messages import Http1Request
from coord.rpc.tls import client_context, server_context
from coord.runtime import TcpAddress, real_env


class Site:
    """A server under TLS that notes what it is asked, and clients of it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", common_name="name")
        self.ca, self.cert, self.key = (str(folder / name) for name in ("ca", "cert", "key"))
        authority.cert_pem.write_to_path(self.ca)
        leaf.cert_chain_pems[0].write_to_path(self.cert)
        leaf.private_key_pem.write_to_path(self.key)
        self.env = real_env()
        self.calls: list[str] = []
        self.errors: list[BaseException] = []
        self.server = RpcServer(
            Registry((Method("/t.T/Echo", unary=self._echo),)),
            env=self.env,
            http1=self._http1,
            on_error=lambda _what, error: self.errors.append(error),
        )
        self.channels: list[Channel] = []

    def _echo(self, _conn: object, _stream: int, _head: object, message: bytes) -> bytes:
        self.calls.append("echo")
        return message

    def _http1(self, request: Http1Request, respond: object) -> None:
        self.calls.append("http1")

    async def listen(self, admit: Admit | None) -> TcpAddress:
        context = server_context(
            self.cert, self.key, client_ca=self.ca, require_client_cert=True, admit=admit
        )
        address = await self.server.listen(TcpAddress("127.0.0.1", 0), tls=context)
        assert isinstance(address, TcpAddress)
        return address

    async def connect(self, address: TcpAddress, admit: Admit | None) -> Channel:
        channel = Channel(
            address,
            env=self.env,
            authority="localhost",
            tls=client_context(self.ca, self.cert, self.key, admit=admit),
            server_name="localhost",
        )
        self.channels.append(channel)
        await channel.connect(timeout=20)
        return channel


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    yield made
    for channel in made.channels:
        await channel.close()
    await made.server.close()
    assert made.errors == []


class Judge:
    """Notes whom it was asked about, and lets them pass or not."""

    def __init__(self, *, lenient: bool) -> None:
        self.lenient = lenient
        self.asked: list[PeerInfo] = []

    def __call__(self, peer: PeerInfo) -> None:
        self.asked.append(peer)
        if not self.lenient:
            raise PeerRefused("not you")


async def test_both_ends_ask_once_per_connection(site: Site) -> None:
    of_callers, of_called = Judge(lenient=True), Judge(lenient=True)
    address = await site.listen(of_callers)
    channel = await site.connect(address, of_called)
    for _ in range(2):
        assert await channel.unary("/t.T/Echo", b"x", timeout=20) == b"x"
    (caller,), (called,) = of_callers.asked, of_called.asked
    assert caller.address.startswith("127.0.0.1:")
    assert called.address == str(address)
    for peer in (caller, called):
        assert peer.tls
        assert "commonName', 'name'" in str(peer.certificate)


async def test_a_caller_that_is_not_admitted_is_cut_off_unheard(site: Site) -> None:
    judge = Judge(lenient=False)
    address = await site.listen(judge)
    with pytest.raises(RpcError) as caught:
        await site.connect(address, None)
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)
    assert len(judge.asked) == 1
    assert site.server.connection_count == 0


@pytest.mark.parametrize("request_bytes", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0"])
async def test_what_came_with_the_handshake_is_not_read(site: Site, request_bytes: bytes) -> None:
    address = await site.listen(Judge(lenient=False))
    context = client_context(site.ca, site.cert, site.key)
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname="localhost"
    )
    # TLS 1.3: the client is through before the server has seen its certificate.
    writer.write(request_bytes)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        async with asyncio.timeout(20):
            await reader.readexactly(1)
    writer.transport.abort()
    assert site.calls == []
    assert site.server.connection_count == 0


class Listening(asyncio.Protocol):
    """One connection of a server that never says anything."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self.heard.set()


async def test_a_server_that_is_not_admitted_hears_nothing(site: Site) -> None:
    made: list[Listening] = []

    def connected() -> Listening:
        made.append(Listening())
        return made[-1]

    context = server_context(site.cert, site.key)
    listener = await asyncio.get_running_loop().create_server(
        connected, "127.0.0.1", 0, ssl=context
    )
    address = TcpAddress("127.0.0.1", listener.sockets[0].getsockname()[1])
    judge = Judge(lenient=False)
    with pytest.raises(RpcError) as caught:
        await site.connect(address, judge)
    assert (caught.value.code, caught.value.sent) == (StatusCode.UNAVAILABLE, False)
    assert caught.value.message == f"cannot connect to {address}: not you"
    assert len(judge.asked) == 1
    assert not site.channels[0].ready
    # The next one is heard, so the first would have been by now.
    async with asyncio.TaskGroup() as group:
        connecting = group.create_task(site.connect(address, Judge(lenient=True)))
        while len(made) < 2:
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await made[1].heard.wait()
        connecting.cancel()
    assert not made[0].heard.is_set()
    listener.close()
    for each in made:
        if each.transport is not None:
            each.transport.abort()
    # Their sockets are closed in the loop's next rounds.
    for _ in range(5):
        await asyncio.sleep(0)


async def test_plain_connections_are_not_asked_about(site: Site) -> None:
    plain = await site.server.listen(TcpAddress("127.0.0.1", 0))
    await site.listen(Judge(lenient=False))
    channel = Channel(plain, env=site.env, authority="x")
    site.channels.append(channel)
    await channel.connect(timeout=20)
    assert await channel.unary("/t.T/Echo", b"y", timeout=20) == b"y"
