"""A server inside the process, on any net; and what becomes of one that cannot go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from coord.rpc import MemoryNet
from coord.runtime import RealNet, real_env
from coord.wire import fast
from coord_server.bootstrap import (
    DataDirError,
    identity_from_metadata,
    new_identity,
)
from coord_server.config import Config
from coord_server.embed import start_embedded
from coord_server.env import ServerEnv
from coord_server.flag_values import Url
from coord_server.log import Log
from coord_server.ops import OpKind
from coord_server.server import Server, StartError
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk
from coord_server.tls import client_listener_context

LOOPBACK = (Url(scheme="http", host="127.0.0.1", port=0),)


def test_ids_are_those_that_etcd_computes() -> None:
    identity = new_identity(["http://localhost:2380"], "etcd-cluster")
    assert f"{identity.member_id:x}" == "8e9e05c52164694d"
    assert f"{identity.cluster_id:x}" == "cdf818194e3a8c32"
    assert identity_from_metadata(identity.to_metadata()) == identity
    assert new_identity(["b", "a"], "t") == new_identity(["a", "b"], "t")
    for wrong in (b"", b"x" * 24, identity.to_metadata() + b"x"):
        with pytest.raises(DataDirError, match="not written by coord-server"):
            identity_from_metadata(wrong)


@pytest.fixture
async def memory() -> AsyncIterator[Server]:
    server = await start_embedded(net=MemoryNet(), env=real_env())
    yield server
    await server.stop()
    await server.stop()


async def test_on_a_network_in_memory(memory: Server) -> None:
    (url,) = memory.client_urls
    assert url.startswith("http://127.0.0.1:")
    answer = await memory.context.replica.submit(int(OpKind.PUT), fast.encode_put(b"a", b"1"))
    assert fast.decode_put_response(answer) == 2
    assert memory.connection_count == 0


async def test_two_servers_in_one_process_do_not_meet() -> None:
    net, env = MemoryNet(), real_env()
    first = await start_embedded(net=net, env=env)
    second = await start_embedded(net=net, env=env)
    assert first.client_urls != second.client_urls
    await first.context.replica.submit(int(OpKind.PUT), fast.encode_put(b"a", b"1"))
    assert (first.context.store.revision, second.context.store.revision) == (2, 1)
    await first.stop()
    await second.stop()


async def test_a_directory_keeps_the_data(tmp_path: Path) -> None:
    env = real_env()
    path = str(tmp_path / "d")
    server = await start_embedded(net=RealNet(), env=env, data_dir=path)
    await server.context.replica.submit(int(OpKind.PUT), fast.encode_put(b"a", b"1"))
    await server.stop()
    server = await start_embedded(net=RealNet(), env=env, data_dir=path)
    found = server.context.store.get(b"a")
    assert found is not None
    assert (found.value, server.context.store.revision) == (b"1", 2)
    await server.stop()


async def test_advertised_urls_follow_the_port() -> None:
    advertised = (Url(scheme="http", host="db.example", port=0),)
    config = Config(listen_client_urls=LOOPBACK, advertise_client_urls=advertised)
    server = await start_embedded(net=MemoryNet(), env=real_env(), config=config)
    (url,) = server.client_urls
    (member,) = server.context.members
    assert list(member.clientURLs) == [f"http://db.example:{url.rpartition(':')[2]}"]
    await server.stop()


def test_a_server_that_was_not_started_has_no_context() -> None:
    env = real_env()
    disk = MemoryDisk()
    seams = ServerEnv(clock=env.clock, net=env.net, rand=env.rand, offload=env.offload, disk=disk)
    log = Log(clock=env.clock, write=lambda _line: None)
    with pytest.raises(StartError, match="has not been started"):
        _ = Server(Config(), seams, log).context


async def test_a_failing_disk_ends_the_server_without_an_answer() -> None:
    env = real_env()
    disk = MemoryDisk()
    lines: list[str] = []
    fatal: list[BaseException] = []
    died = asyncio.Event()

    def on_fatal(error: BaseException) -> None:
        fatal.append(error)
        died.set()

    server = Server(
        Config(data_dir="d", listen_client_urls=LOOPBACK),
        ServerEnv(clock=env.clock, net=MemoryNet(), rand=env.rand, offload=env.offload, disk=disk),
        Log(clock=env.clock, write=lines.append),
        make_backend=lambda _path: MemoryBackend(),
        on_fatal=on_fatal,
    )
    await server.start()
    disk.fail_next_sync()
    answers: list[object] = []

    class Responder:
        def respond(self, stream_id: int, message: bytes) -> None:
            answers.append((stream_id, message))

        def fail(self, stream_id: int, code: int, message: str, trailers: object = ()) -> None:
            answers.append((stream_id, code, message, trailers))

    server.context.replica.propose(int(OpKind.PUT), fast.encode_put(b"a", b"1"), Responder(), 1)
    await died.wait()
    await server.stop()
    assert isinstance(fatal[0], OSError)
    assert answers == []
    (line,) = (parsed for parsed in map(json.loads, lines) if parsed["level"] == "fatal")
    assert line["msg"] == "the server cannot go on"


async def test_a_start_that_fails_gives_everything_back() -> None:
    env = real_env()
    disk = MemoryDisk()
    seams = ServerEnv(
        clock=env.clock, net=MemoryNet(), rand=env.rand, offload=env.offload, disk=disk
    )
    log = Log(clock=env.clock, write=lambda _line: None)
    config = Config(data_dir="d", listen_client_urls=LOOPBACK)

    def broken(_path: str) -> MemoryBackend:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        await Server(config, seams, log, make_backend=broken).start()
    server = Server(config, seams, log, make_backend=lambda _path: MemoryBackend())
    await server.start()
    await server.stop()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Config(cert_file="/nonexistent", key_file="/nonexistent"), "certificate file"),
    ],
)
def test_unusable_certificates_are_named(settings: Config, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        client_listener_context(settings)
    assert client_listener_context(replace(settings, cert_file="", key_file="")) is None
