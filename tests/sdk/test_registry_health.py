"""Health checks by URL: what counts as well, against servers that answer in many ways."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

import coord
from coord.recipes.registry.health import Checker, HealthCheck
from coord.recipes.registry.reaching import HealthUrl
from coord.runtime import real_env
from tests.support.servers import free_port


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, pieces: int = 1) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """A server that reads a request and sends ``answer``; yields its port and the requests."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            size = max(1, len(answer) // pieces)
            for start in range(0, len(answer), size):
                writer.write(answer[start : start + size])
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def ask(url: str, period: float = 5.0) -> bool:
    async with coord.connect("memory:", runtime="inline") as client:
        return await Checker(client._core, HealthCheck(url, period=period)).ask()


def http(status: str, body: bytes = b"ok") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "well"),
    [
        (http("200 OK"), True),
        (http("204 No Content", b""), True),
        (http("302 Found"), True),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + http("200 OK"), True),
        (b"HTTP/1.0 200 OK\r\n\r\n", True),
        (http("404 Not Found"), False),
        (http("503 Service Unavailable"), False),
        (b"SSH-2.0-OpenSSH\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, False),
        (b"", False),
    ],
    ids=["200", "204", "302", "103", "1.0", "404", "503", "no http", "endless head", "nothing"],
)
@pytest.mark.parametrize("pieces", [1, 20])
async def test_http(answer: bytes, well: bool, pieces: int) -> None:
    async with answering(answer, pieces=pieces) as (port, seen):
        assert await ask(f"http://127.0.0.1:{port}/healthz?deep=1") is well
        (request,) = seen
        assert request.startswith(b"GET /healthz?deep=1 HTTP/1.1\r\n")
        assert f"127.0.0.1:{port}".encode() in request


async def test_tcp_is_well_when_it_takes_connections() -> None:
    async with answering(b"") as (port, seen):
        assert await ask(f"tcp://127.0.0.1:{port}") is True
        assert seen == []
    assert await ask(f"tcp://127.0.0.1:{free_port()}") is False
    assert await ask(f"http://127.0.0.1:{free_port()}") is False


async def test_no_answer_within_a_period_is_a_bad_one() -> None:
    silent = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await ask(f"http://127.0.0.1:{port}", period=0.1) is False
        silent.set()


@pytest.mark.parametrize(
    "url",
    ["", "h:1", "https://h:1", "http://", "tcp://h", "tcp://h:0", "tcp://h:70000", "http://h:x/"],
)
def test_what_is_no_url_to_ask_is_refused(url: str) -> None:
    with pytest.raises(coord.InvalidArgument, match="health must be"):
        HealthUrl(url)


async def test_port_80_is_http_s() -> None:
    url = HealthUrl("http://127.0.0.1")
    with pytest.raises(OSError, match="80"):
        await url.answers(real_env())


async def test_an_instance_follows_its_url() -> None:
    async with coord.connect("memory:") as client:
        registry = client.registry("web")
        async with contextlib.AsyncExitStack() as stack:
            port, seen = await stack.enter_async_context(answering(http("200 OK")))
            check = coord.HealthCheck(f"http://127.0.0.1:{port}/", period=0.2, fall=3)
            async with registry.register("h:1", health=check) as registration:
                async with asyncio.timeout(20):
                    while len(seen) < 3:
                        await asyncio.sleep(0.01)
                assert await client.get(registration.key) is not None
                await stack.aclose()
                async with asyncio.timeout(20):
                    while registration.health != "failing":
                        await asyncio.sleep(0.01)
                    while await client.get(registration.key) is not None:
                        await asyncio.sleep(0.01)


async def test_closing_the_client_ends_everything() -> None:
    async with coord.connect("memory:") as client:
        await client.registry("web").register("h:1", health=lambda: True)
        await client.registry("web", ttl=5).register("h:2")
        view = await client.registry("web").discover()
        await client.membership("g").join("a")
        assert len(await view.wait_for(2, timeout=20)) == 2
    with pytest.raises(coord.ClientClosed):
        view.instances()
