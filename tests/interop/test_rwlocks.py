"""Our read-write lock and the RWMutex of etcd's own recipes exclude each other, and stand in one line.

The Go program is built from what Debian packages (golang-go, golang-etcd-server-dev); without them this is skipped.
``COORD_INTEROP_ROUNDS`` (default 6) is how often each contender takes the lock in the contest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import coord
from tests.interop.contest import ROUNDS
from tests.support import peers
from tests.support.lines import WITHIN_S, lined_up
from tests.support.servers import clean_environment

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

SOURCE = Path(__file__).parent / "gorwmutex" / "main.go"
PACKAGES = Path("/usr/share/gocode")
BUILD_TIMEOUT_S = 280.0


@pytest.fixture(scope="session")
def program() -> Path:
    """The Go program, built once for each version of its source."""
    go = shutil.which("go")
    if go is None or not (PACKAGES / "src/go.etcd.io/etcd/contrib/recipes").is_dir():
        pytest.skip("golang-go and golang-etcd-server-dev are not installed")
    built = peers.UNPACKED / f"gorwmutex-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [go, "build", "-o", str(built), str(SOURCE)],
            env=os.environ
            | {
                "GO111MODULE": "off",
                "GOFLAGS": "",
                "GOPATH": str(PACKAGES),
                "GOCACHE": str(built.parent / "gocache"),
            },
            timeout=BUILD_TIMEOUT_S,
            check=True,
        )
    return built


class GoContender:
    """One process with one RWMutex."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, word: str) -> asyncio.Task[None]:
        """Send a command; the task ends when it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        await self._process.stdin.drain()
        expected = b"released\n" if word == "release" else b"held\n"
        return asyncio.ensure_future(self._answer(expected))

    async def _answer(self, expected: bytes) -> None:
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == expected

    async def do(self, word: str) -> None:
        async with asyncio.timeout(WITHIN_S):
            await (await self.ask(word))


@contextlib.asynccontextmanager
async def contender(program: Path, endpoint: str, name: str) -> AsyncGenerator[GoContender]:
    process = await asyncio.create_subprocess_exec(
        str(program),
        endpoint,
        name,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        yield GoContender(process)
        process.stdin.close()  # type: ignore[union-attr] # a pipe
        async with asyncio.timeout(WITHIN_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_one_line_and_a_downgrade(
    program: Path, client: coord.Client, endpoint: str, name: str
) -> None:
    rw = client.rwlock(name)
    async with (
        contender(program, endpoint, name) as one,
        contender(program, endpoint, name) as two,
    ):
        # We read; the Go writer waits for us, and we wait behind it.
        reading = await rw.read().acquire(timeout=WITHIN_S)
        writing = await one.ask("write")
        await lined_up(client, name, 2)
        behind = asyncio.ensure_future(rw.read().acquire())
        await lined_up(client, name, 3)
        assert await rw.read().try_acquire() is None
        assert not writing.done()
        await reading.release()
        async with asyncio.timeout(WITHIN_S):
            await writing
        assert not behind.done()
        state = await rw.state()
        assert state.writer is not None
        assert state.writer.metadata == {}
        await one.do("release")
        async with asyncio.timeout(WITHIN_S):
            await (await behind).release()

        # We write; a Go writer and then a Go reader of another process wait. The downgrade lets neither pass the other.
        alone = await rw.write(downgradable=True).acquire(timeout=WITHIN_S)
        reader = await two.ask("read")
        await lined_up(client, name, 3)
        writer = await one.ask("write")
        await lined_up(client, name, 4)
        assert not reader.done()
        await alone.downgrade()
        async with asyncio.timeout(WITHIN_S):
            await reader
        assert not writer.done()
        await two.do("release")
        await lined_up(client, name, 2)
        assert not writer.done()
        alone.check()
        await alone.release()
        async with asyncio.timeout(WITHIN_S):
            await writer
        await one.do("release")
    assert await client.count(name + "/") == 0


async def test_a_contest(program: Path, client: coord.Client, endpoint: str, name: str) -> None:
    """Two Go contenders and two of ours, reading, writing and downgrading; nobody is inside with whom it must not."""
    rand = random.Random(name)
    inside: dict[int, str] = {}

    def enter(number: int, mode: str) -> None:
        inside[number] = mode
        assert "write" not in inside.values() or len(inside) == 1, inside

    async def rival(number: int, go: GoContender, plan: list[str]) -> None:
        for mode in plan:
            await go.do(mode)
            enter(number, mode)
            await asyncio.sleep(0.002)
            del inside[number]
            await go.do("release")

    async def ours(number: int, session: coord.Session, plan: list[str]) -> None:
        rw = client.rwlock(name, session=session)
        for mode in plan:
            if mode == "read":
                async with rw.read().hold(timeout=WITHIN_S):
                    enter(number, mode)
                    await asyncio.sleep(0.002)
                    del inside[number]
            else:
                async with rw.write(downgradable=True).hold(timeout=WITHIN_S) as grant:
                    enter(number, mode)
                    await asyncio.sleep(0.002)
                    inside[number] = "read"
                    await grant.downgrade()
                    enter(number, "read")
                    del inside[number]

    async with (
        client.session(ttl=30) as session,
        contender(program, endpoint, name) as one,
        contender(program, endpoint, name) as two,
        asyncio.TaskGroup() as group,
    ):

        def plan() -> list[str]:
            return rand.choices(["read", "write"], k=ROUNDS)

        for number, go in enumerate((one, two)):
            group.create_task(rival(number, go, plan()))
        for number in (2, 3):
            group.create_task(ours(number, session, plan()))
    assert await client.count(name + "/") == 0
