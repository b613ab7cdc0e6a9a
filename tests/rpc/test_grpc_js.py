"""Our server under grpc-js, the client of Node, which shares no code with the other two.

The packages come from npm on first use and stay in ``.cache/grpc_js``. On a machine without Node
these tests are deselected, and the run says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from coord.rpc import AsyncCall, Method, Registry, RpcServer, async_stream, async_unary
from coord.runtime import TcpAddress, real_env
from tests.rpc.test_against_grpcio import Service

HERE = Path(__file__).parent / "grpc_js"
CACHE = Path(__file__).parents[2] / ".cache" / "grpc_js"

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def packages() -> Path:
    """Return the directory of the packages, installed once."""
    wanted = (HERE / "package.json").read_text()
    stamp = CACHE / "installed.json"
    if not stamp.exists() or stamp.read_text() != wanted:
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "package.json", CACHE / "package.json")
        npm = [
            "npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund",
            "--loglevel=error",
        ]  # fmt: skip
        done = subprocess.run(
            npm, cwd=CACHE, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        stamp.write_text(wanted)
    return CACHE / "node_modules"


class DrainingService(Service):
    """The methods of the other suite, and one that drains the server under its own feet."""

    def __init__(self) -> None:
        super().__init__()
        self.server: RpcServer | None = None
        self.drained: asyncio.Future[None] | None = None

    @override
    def methods(self) -> list[Method]:
        return [
            *super().methods(),
            async_unary("/t.T/Drain", self.drain),
            async_stream("/t.T/AwaitCancelled", self.await_cancelled),
        ]

    async def drain(self, call: AsyncCall, request: bytes) -> bytes:
        assert self.server is not None
        self.drained = asyncio.ensure_future(self.server.drain(within=30))
        await asyncio.sleep(0)
        return request

    async def await_cancelled(self, call: AsyncCall) -> None:
        await self.cancelled.wait()
        await call.send(b"")


@pytest.fixture
async def seen(packages: Path) -> AsyncIterator[dict[str, Any]]:
    """Run the client against a fresh server; what it saw."""
    service = DrainingService()
    errors: list[tuple[str, BaseException]] = []
    service.server = server = RpcServer(
        Registry(service.methods()),
        env=real_env(),
        on_error=lambda what, error: errors.append((what, error)),
    )
    address = await server.listen(TcpAddress("127.0.0.1", 0))
    client = await asyncio.create_subprocess_exec(
        "node",
        str(HERE / "client.js"),
        str(address),
        env={**os.environ, "NODE_PATH": str(packages)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = await client.communicate()
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
        await server.close()
    assert client.returncode == 0, err.decode()
    assert service.drained is not None
    await service.drained
    yield json.loads(out)
    assert errors == []


async def test_grpc_js_client(seen: dict[str, Any]) -> None:
    assert seen == {
        "echo": [True] * 12,
        "many": True,
        "errors": [[code, "naïve € 100%", ["so"]] for code in range(1, 17)],
        "metadata": [
            0,
            seen["metadata"][1],
            seen["metadata"][2],
        ],
        "bidi": [[0, 5, 100_000, 1 << 20], 0],
        "serverStream": [100, True, 0],
        "clientStream": "2500000",
        "cancel": [1, 0],
        "deadline": 4,
        "tooLarge": [8, "grpc: received message larger than max (5242880 vs. 4194304)"],
        "unknown": [12, "unknown method None for service t.T"],
        "protoLoader": "typed",
        "drain": [0, "bye", 14],
    }
    _, initial, trailers = seen["metadata"]
    assert initial["x-text"] == ["a b"]
    assert bytes(initial["x-raw-bin"][0]["data"]) == b"\x00\xff"
    assert trailers["x-trailer"] == ["t"]
    assert bytes(trailers["x-trailer-bin"][0]["data"]) == b"\xff\x00"
