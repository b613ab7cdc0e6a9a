"""The network of the harness does as it is told: held, reset, one-way, slow and split links."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

import pytest

from coord.testing.chaos import ChaosProxy, Cluster, Links, Rule, WaitedTooLong, wait_until
from coord.testing.chaos.links import CLIENTS

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def echo_behind(links: Links) -> AsyncGenerator[ChaosProxy]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    links.join("m1")
    try:
        async with ChaosProxy("m1", port, links) as proxy:
            yield proxy
    finally:
        server.close()


@contextlib.asynccontextmanager
async def dialled(proxy: ChaosProxy) -> AsyncGenerator[Pair]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def quiet(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
            return False
    return True


@pytest.mark.parametrize("way", [(CLIENTS, "m1"), ("m1", CLIENTS)])
async def test_a_held_direction_keeps_bytes_and_delivers_them_when_healed(
    way: tuple[str, str],
) -> None:
    links = Links()
    async with echo_behind(links) as proxy, dialled(proxy) as (reader, writer):
        links.set(*way, Rule(held=True))
        writer.write(b"world")
        assert await quiet(reader)
        links.heal()
        assert await reader.readexactly(5) == b"world"


async def test_a_reset_ends_what_is_open_and_what_comes() -> None:
    links = Links()
    async with echo_behind(links) as proxy, dialled(proxy) as (reader, _):
        links.set(CLIENTS, "m1", Rule(reset=True))
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            async with dialled(proxy):
                pass
        links.heal()
        async with dialled(proxy):
            pass


async def test_delay_and_throttle_take_their_time_and_pieces_are_small() -> None:
    links = Links()
    async with echo_behind(links) as proxy, dialled(proxy) as (reader, writer):
        links.set(CLIENTS, "m1", Rule(delay_s=0.2))
        began = time.monotonic()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert time.monotonic() - began >= 0.2
        links.set(CLIENTS, "m1", Rule(bytes_per_s=10_000))
        began = time.monotonic()
        writer.write(bytes(3_000))
        await reader.readexactly(3_000)
        assert time.monotonic() - began >= 0.25
        links.set("m1", CLIENTS, Rule(chunk_bytes=1, delay_s=0.001))
        writer.write(b"ab" * 10)
        pieces = b""
        while len(pieces) < 20:
            piece = await reader.read(100)
            assert len(piece) < 20
            pieces += piece
        assert pieces == b"ab" * 10


async def test_a_partition_names_its_sides() -> None:
    links = Links()
    for name in ("a", "b", "c"):
        links.join(name)
    links.partition(["a"])
    assert links.rule("a", "b").held
    assert links.rule("c", "a").held
    assert links.rule("b", "c") == Rule() == links.rule(CLIENTS, "a")
    for sides in ((["x"],), (["a"], ["a"])):
        with pytest.raises(ValueError, match="no member, or on two sides"):
            links.partition(*sides)
    links.heal()
    assert links.rule("a", "b") == Rule()


async def test_a_wait_ends() -> None:
    with pytest.raises(WaitedTooLong, match="never: not within"):
        await wait_until(lambda: False, what="never", within=0.05)


@pytest.mark.processes
@pytest.mark.timeout(120)
async def test_the_proxies_know_which_member_calls(cluster: Cluster) -> None:
    def all_known() -> bool:
        return all(
            {name, *proxy.callers} >= set(cluster.members)
            for name, proxy in cluster.proxies.items()
        )

    await wait_until(all_known, what="all have dialled each other", within=20)
