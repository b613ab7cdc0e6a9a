"""Certificates that are replaced while a client lives: new connections take the new ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

import coord
from coord.core import Carrier
from coord.runtime import real_env
from coord.transport.reloading import Reloading, context_of
from tests.sdk.auth_stores import PASSWORD, PREFIX, USER, add_users
from tests.sdk.conftest import CARRIERS, ETCD_RELEASE, STORES
from tests.sdk.test_failures import reached
from tests.support.certificates import Certificates
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess, coord_server_process, free_port, real_etcd

carriers = pytest.mark.parametrize("transport", CARRIERS)
stores = pytest.mark.parametrize("kind", STORES)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


@contextmanager
def secured(
    kind: str, folder: Path, certificates: Certificates, port: int
) -> Generator[ServerProcess]:
    """Run a store that wants certificates, at a port and on data that a later one takes over."""
    listen, flags = f"https://127.0.0.1:{port}", certificates.server_flags()
    if kind == "etcd":
        with real_etcd(folder, *flags, version=ETCD_RELEASE, listen=listen) as server:
            yield server
    else:
        with coord_server_process(folder, *flags, listen=listen) as server:
            yield server


async def values(watch: coord.Watch, number: int) -> list[str]:
    return [(await anext(watch)).value.decode() for _ in range(number)]


@carriers
@stores
async def test_everything_is_replaced_under_a_watch_and_a_session(
    tmp_path: Path, certificates: Certificates, transport: Carrier, kind: str
) -> None:
    port = free_port()
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(secured(kind, tmp_path, certificates, port))
        async with (
            coord.connect(server.url, tls=certificates.config(), transport=transport) as client,
            client.watch("k") as watch,
            client.session(ttl=30) as session,
        ):
            grant = await client.mutex("lock", session=session).acquire(timeout=10)
            for number in range(2):
                await client.put("k", f"before {number}")
                await asyncio.to_thread(server.stop)
                # The new server takes no old client, and no client that knows the old authority only takes it.
                certificates.rotate()
                server = servers.enter_context(secured(kind, tmp_path, certificates, port))
                await client.put("k", f"after {number}", timeout=30)
            assert await values(watch, 4) == ["before 0", "after 0", "before 1", "after 1"]
            assert await client.lease_keep_alive_once(session.lease_id) == session.ttl
            grant.check()
            assert await grant.release()


@carriers
async def test_cut_connections_come_back_with_new_certificates(
    tmp_path: Path, certificates: Certificates, transport: Carrier
) -> None:
    # etcd reads its own certificate at every handshake, so that it goes on while everything but its
    # trust in clients is replaced.
    with secured("etcd", tmp_path, certificates, free_port()) as server:
        trusted = certificates.authority
        async with (
            Proxy(server.endpoint) as proxy,
            coord.connect(
                f"https://{proxy.endpoint}", tls=certificates.config(), transport=transport
            ) as client,
            client.watch("k") as watch,
            client.session(ttl=30) as session,
        ):
            for number in range(3):
                await client.put("k", f"{number} before")
                certificates.rotate()
                certificates.authority = trusted
                certificates.issue_client()
                proxy.cut()
                await client.get("k", timeout=30)  # a write might be lost with the connection
                await client.put("k", f"{number} after")
            words = [f"{number} {word}" for number in range(3) for word in ("before", "after")]
            assert await values(watch, 6) == words
            assert await client.lease_keep_alive_once(session.lease_id) == session.ttl


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_pair(path: Path) -> None:
    other = Certificates(path.parent.parent / "other")
    path.write_bytes(Path(other.path(path.name)).read_bytes())


BREAKS = [truncated, emptied, of_another_pair, Path.unlink]


@carriers
@pytest.mark.parametrize("spoil", BREAKS)
@pytest.mark.parametrize("name", ["client.key", "client.pem"])
async def test_unfit_files_leave_the_last_good_ones_in_use(
    tmp_path: Path,
    certificates: Certificates,
    transport: Carrier,
    spoil: Callable[[Path], None],
    name: str,
) -> None:
    told: list[dict[str, Any]] = []

    def take(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context["message"].startswith("coord:"):  # gRPC has its own now and then
            told.append(context)

    asyncio.get_running_loop().set_exception_handler(take)
    port = free_port()
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(secured("coord", tmp_path, certificates, port))
        async with (
            Proxy(server.endpoint) as proxy,
            coord.connect(
                f"https://{proxy.endpoint}",
                tls=certificates.config(),
                transport=transport,
                runtime="inline",
            ) as client,
        ):
            await client.put("k", "x")
            spoil(Path(certificates.path(name)))
            for _ in range(4):
                connections = proxy.connections
                proxy.cut()
                await client.get("k", timeout=30)
                assert proxy.connections > connections
            if transport == "native":
                (report,) = told
                assert "the last good ones stay in use" in report["message"]
                assert certificates.path("client") in report["message"]
                assert isinstance(report["exception"], ValueError)
            # gRPC may have reconnected by itself each time, and not asked for files.
            assert len(told) <= 1, told
            await asyncio.to_thread(server.stop)
            certificates.rotate()
            servers.enter_context(secured("coord", tmp_path, certificates, port))
            await client.put("k", "y", timeout=30)
            assert len(told) <= 1, told


@carriers
async def test_files_are_looked_at_while_nothing_answers(
    tmp_path: Path, certificates: Certificates, transport: Carrier
) -> None:
    port = free_port()
    with secured("coord", tmp_path, certificates, port) as server:
        config = certificates.config()
        stranger = Certificates(tmp_path / "stranger")
        for name in ("ca.pem", "client.pem", "client.key"):
            copy(stranger.path(name), certificates.path(name))
        async with (
            Proxy(server.endpoint) as proxy,
            coord.connect(f"https://{proxy.endpoint}", tls=config, transport=transport) as client,
        ):
            call = asyncio.ensure_future(client.put("k", "x", timeout=30))

            async def refused() -> bool:
                return proxy.connections > 0

            await reached(refused, "a connection has been tried")
            certificates.issue_client()
            certificates.authority.cert_pem.write_to_path(certificates.path("ca.pem"))
            assert (await call).revision > 0


async def test_files_that_stay_as_they_are_are_read_once(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[coord.TlsConfig] = []

    def load(tls: coord.TlsConfig) -> object:
        loads.append(tls)
        return context_of(tls)

    reloading = Reloading(certificates.config(), real_env(), load)
    first = reloading.current
    for _ in range(3):
        assert await reloading.fresh() is first
    assert len(loads) == 1
    certificates.issue_client()
    async with asyncio.TaskGroup() as group:
        dials = [group.create_task(reloading.fresh()) for _ in range(8)]
    (second,) = {dial.result() for dial in dials}
    assert second is not first
    assert len(loads) == 2
    system = Reloading(coord.TlsConfig(), real_env(), load)
    assert await system.fresh() is system.current


@carriers
async def test_a_certificate_that_stands_for_a_user(
    tmp_path: Path, certificates: Certificates, transport: Carrier
) -> None:
    with secured("etcd", tmp_path, certificates, free_port()) as server:
        add_users(server.url, certificates.config())
        certificates.issue_client(USER)
        async with coord.connect(
            server.url, tls=certificates.config(), transport=transport
        ) as client:
            await client.put(PREFIX + "k", "x")
            with pytest.raises(coord.PermissionDenied, match="permission denied"):
                await client.put("shut", "x")
            assert (await anext(client.watch(PREFIX + "k", start_revision=1))).value == b"x"
        certificates.issue_client("nobody-known")
        async with (
            coord.connect(server.url, tls=certificates.config(), transport=transport) as stranger,
            coord.connect(
                server.url,
                tls=certificates.config(),
                user=USER,
                password=PASSWORD,
                transport=transport,
            ) as client,
        ):
            with pytest.raises(coord.PermissionDenied):
                await stranger.put(PREFIX + "k", "x")
            await client.put(PREFIX + "k", "y")  # a user who logs in counts more than a certificate
