"""Choosing endpoints, TLS, unix sockets, servers that restart: on both carriers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

import coord
from coord.core import Carrier
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import real_env
from coord.target import parse_target
from coord.transport import Transport
from coord.transport.grpcio import GrpcioTransport
from coord.transport.native import NativeTransport
from coord.wire import methods, rpc_pb2
from tests.sdk.conftest import CARRIERS
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess, coord_server_process, free_port

carriers = pytest.mark.parametrize("transport", CARRIERS)


@asynccontextmanager
async def opened(carrier: Carrier, *endpoints: str) -> AsyncGenerator[Transport]:
    """A bare transport on this loop."""
    kind = NativeTransport if carrier == "native" else GrpcioTransport
    transport = kind(parse_target(endpoints).endpoints, real_env())
    try:
        yield transport
    finally:
        await transport.close()


async def ask(transport: Transport, *, avoid: str | None = None, timeout: float = 10) -> None:
    request = rpc_pb2.StatusRequest().SerializeToString()
    path = methods.MAINTENANCE_STATUS.path
    await transport.unary(path, request, timeout=timeout, avoid=avoid)


async def endpoint_of_a_stream(transport: Transport, *, avoid: str | None = None) -> str:
    stream = await transport.open_stream(methods.WATCH_WATCH.path, timeout=10, avoid=avoid)
    stream.cancel()
    return stream.endpoint


@carriers
async def test_avoid(endpoint: str, transport: Carrier) -> None:
    async with (
        Proxy(endpoint) as one,
        Proxy(endpoint) as two,
        opened(transport, one.endpoint, two.endpoint) as carrier,
    ):
        first = await endpoint_of_a_stream(carrier)
        (other,) = {one.endpoint, two.endpoint} - {first}
        assert await endpoint_of_a_stream(carrier, avoid=first) == other
        assert await endpoint_of_a_stream(carrier, avoid=other) == first
        assert await endpoint_of_a_stream(carrier, avoid="unknown") in carrier.endpoints
        await ask(carrier, avoid=first)


@carriers
async def test_what_is_avoided_is_better_than_nothing(endpoint: str, transport: Carrier) -> None:
    dead = f"127.0.0.1:{free_port()}"
    async with opened(transport, endpoint, dead) as carrier:
        assert await endpoint_of_a_stream(carrier, avoid=endpoint) == endpoint
    async with opened(transport, endpoint) as carrier:
        assert await endpoint_of_a_stream(carrier, avoid=endpoint) == endpoint


@carriers
async def test_suspicion_moves_to_another_endpoint(endpoint: str, transport: Carrier) -> None:
    async with (
        Proxy(endpoint) as one,
        Proxy(endpoint) as two,
        opened(transport, one.endpoint, two.endpoint) as carrier,
    ):
        await ask(carrier)
        first = await endpoint_of_a_stream(carrier)
        carrier.suspect()
        carrier.suspect()  # many calls fail together; they count once
        await ask(carrier)
        assert await endpoint_of_a_stream(carrier) != first
    async with opened(transport, endpoint) as carrier:
        await ask(carrier)
        carrier.suspect()
        await ask(carrier)  # there is no other


@carriers
async def test_a_cancelled_call_that_waits_for_a_connection(transport: Carrier) -> None:
    async with opened(transport, f"127.0.0.1:{free_port()}") as carrier:
        for waiting in (ask(carrier), endpoint_of_a_stream(carrier)):
            task = asyncio.ensure_future(waiting)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        told: list[bytes | RpcError] = []
        call = carrier.start_unary("/a.B/C", b"", told.append, timeout=10)
        await asyncio.sleep(0.01)
        call.cancel()
        call.cancel()
    assert told == []


@carriers
async def test_callbacks(endpoint: str, transport: Carrier) -> None:
    async with opened(transport, endpoint) as carrier:
        told: asyncio.Queue[bytes | RpcError] = asyncio.Queue()
        request = rpc_pb2.StatusRequest().SerializeToString()
        path = methods.MAINTENANCE_STATUS.path
        for _ in range(2):  # without a connection, and with one
            carrier.start_unary(path, request, told.put_nowait, timeout=10)
            answer = await told.get()
            assert isinstance(answer, bytes)
            assert rpc_pb2.StatusResponse.FromString(answer).version.startswith("3.")
        carrier.start_unary("/etcdserverpb.KV/Nothing", b"", told.put_nowait, timeout=10)
        refused = await told.get()
        assert isinstance(refused, RpcError)
        assert refused.code is StatusCode.UNIMPLEMENTED


@carriers
async def test_a_stream_ends_with_its_connection(endpoint: str, transport: Carrier) -> None:
    async with Proxy(endpoint) as proxy, opened(transport, proxy.endpoint) as carrier:
        stream = await carrier.open_stream(methods.LEASE_KEEP_ALIVE.path, timeout=10)
        stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=1).SerializeToString())
        assert await stream.receive() is not None
        proxy.cut()
        with pytest.raises(RpcError) as caught:
            await stream.receive()
        assert caught.value.code is StatusCode.UNAVAILABLE
        stream.cancel()
        assert await asyncio.wait_for(half_closed(carrier), 10) == 1


@carriers
async def test_a_connection_that_is_lost_while_much_is_sent(
    endpoint: str, transport: Carrier
) -> None:
    async with Proxy(endpoint) as proxy, opened(transport, proxy.endpoint) as carrier:
        rounds = 0
        while rounds < 10:
            streams = [
                await carrier.open_stream(methods.LEASE_KEEP_ALIVE.path, timeout=10)
                for _ in range(20)
            ]
            for _ in range(20):
                for stream in streams:
                    stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=1).SerializeToString())
            try:
                await streams[0].receive()
            except RpcError as error:
                # A connection that has just died may take more streams with it.
                if error.code is not StatusCode.UNAVAILABLE:
                    raise
                for stream in streams:
                    stream.cancel()
                continue
            rounds += 1
            proxy.cut()
            for stream in streams:
                with pytest.raises(RpcError) as caught:
                    while await stream.receive() is not None:
                        pass
                assert caught.value.code is StatusCode.UNAVAILABLE, caught.value
                stream.cancel()


async def half_closed(carrier: Transport) -> int:
    """Use a stream to its end; a connection that has just died may take one more stream with it."""
    while True:
        half = await carrier.open_stream(methods.LEASE_KEEP_ALIVE.path, timeout=10)
        half.send(rpc_pb2.LeaseKeepAliveRequest(ID=1).SerializeToString())
        half.half_close()
        try:
            answers = 0
            while await half.receive() is not None:
                answers += 1
        except RpcError as error:
            if error.code is not StatusCode.UNAVAILABLE:
                raise
        else:
            return answers


@carriers
async def test_a_server_that_restarts(tmp_path: Path, transport: Carrier, prefix: str) -> None:
    listen = f"http://127.0.0.1:{free_port()}"
    with coord_server_process(tmp_path, listen=listen) as server:
        async with (
            coord.connect(server.url, transport=transport) as client,
            client.watch(prefix, prefix=True) as watch,
        ):
            await client.put(prefix + "before", "x")
            await asyncio.to_thread(server.stop)
            waiting = asyncio.ensure_future(client.put(prefix + "after", "x", timeout=30))
            with coord_server_process(tmp_path, listen=listen):
                await waiting
                assert [(await anext(watch)).key.decode() for _ in range(2)] == [
                    prefix + "before",
                    prefix + "after",
                ]
                await client.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of an authority, a server at 127.0.0.1 and a client."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "client@test")):
        pair = authority.issue_cert(identity)
        pair.private_key_pem.write_to_path(folder / f"{name}.key")
        pair.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    return {file.name: str(file) for file in folder.iterdir()}


@pytest.fixture(scope="module", params=["coord"])
def tls_server(
    certificates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A store that wants certificates from both sides."""
    with coord_server_process(
        tmp_path_factory.mktemp("tls-server"),
        f"--cert-file={certificates['server.pem']}",
        f"--key-file={certificates['server.key']}",
        f"--trusted-ca-file={certificates['ca.pem']}",
        "--client-cert-auth",
        listen="https://127.0.0.1:0",
    ) as server:
        yield server


@carriers
async def test_tls(
    tls_server: ServerProcess, certificates: dict[str, str], transport: Carrier, prefix: str
) -> None:
    tls = coord.TlsConfig(
        ca=certificates["ca.pem"], cert=certificates["client.pem"], key=certificates["client.key"]
    )
    for target, settings in (
        (tls_server.url, tls),
        (tls_server.endpoint, tls),
        (f"etcd+tls://{tls_server.endpoint}?ca={tls.ca}&cert={tls.cert}&key={tls.key}", None),
    ):
        async with coord.connect(target, tls=settings, transport=transport) as client:
            await client.put(prefix, "x")
    stranger = coord.TlsConfig(ca=certificates["other.pem"], cert=tls.cert, key=tls.key)
    nobody = coord.TlsConfig(ca=tls.ca)
    for wrong in (stranger, nobody):
        async with coord.connect(tls_server.url, tls=wrong, transport=transport) as client:
            with pytest.raises(coord.Unavailable):
                await client.put(prefix, "x", timeout=0.5)


@carriers
async def test_tls_files_that_do_not_fit(certificates: dict[str, str], transport: Carrier) -> None:
    missing = coord.TlsConfig(ca="missing.pem")
    with pytest.raises(coord.InvalidArgument, match=r"missing\.pem"):
        await coord.connect("https://127.0.0.1:1", tls=missing, transport=transport)


@carriers
async def test_an_unverified_server(
    tmp_path: Path, certificates: dict[str, str], transport: Carrier, prefix: str
) -> None:
    flags = (
        f"--cert-file={certificates['server.pem']}",
        f"--key-file={certificates['server.key']}",
    )
    with coord_server_process(tmp_path, *flags, listen="https://127.0.0.1:0") as server:
        connecting = coord.connect(
            server.url, tls=coord.TlsConfig(verify=False), transport=transport
        )
        if transport == "grpcio":
            with pytest.raises(coord.InvalidArgument, match="verify=False needs the native"):
                await connecting
            return
        async with connecting as client:
            await client.put(prefix, "x")


@carriers
async def test_unix_sockets(tmp_path: Path, transport: Carrier, prefix: str) -> None:
    path = tmp_path / "store.sock"
    with coord_server_process(tmp_path, listen=f"unix://{path}"):
        for target in (f"unix://{path}", f"unix:{path}"):
            async with coord.connect(target, transport=transport) as client:
                await client.put(prefix, target)
                found = await client.get(prefix)
                assert found is not None
                assert found.value.decode() == target
