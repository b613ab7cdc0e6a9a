"""Processes of etcd's own Go client and recipes, which take one step at a time: ``gopeer/`` has the program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support import golang
from tests.support.servers import clean_environment

# For the timeouts of tests: the first one builds the Go program.
BUILD_WITHIN_S = 400
WITHIN_S = 60.0
_SOURCES = Path(__file__).parent / "gopeer"


class Failed(Exception):
    """A step of Go's failed; the text is Go's."""


class GoPeer:
    """One process, with one session."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def begin(self, *words: object) -> asyncio.Task[str]:
        """Begin a step; the task ends with what it found, or raises :class:`Failed`."""
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        return asyncio.ensure_future(self._answer())

    async def do(self, *words: object) -> str:
        """Take a step, from its beginning to its end."""
        return await asyncio.wait_for(self.begin(*words), WITHIN_S)

    async def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = (await self._process.stdout.readline()).decode().rstrip("\n")
        said, _, found = answer.partition(" ")
        if said != "ok":
            raise Failed(answer)
        return found

    async def end(self) -> None:
        """Let it close its session and end; kill it if it does not."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.close()
            await self._process.stdin.wait_closed()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 5)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def go_peer(endpoint: str) -> AsyncGenerator[GoPeer]:
    """Run one; the test is skipped where Go cannot build it."""
    built = await asyncio.to_thread(golang.program, _SOURCES)
    if built is None:
        pytest.skip(f"needs {golang.NEEDS}")
    process = await asyncio.create_subprocess_exec(
        str(built),
        endpoint,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
        limit=2**22,
    )
    peer = GoPeer(process)
    try:
        yield peer
    finally:
        await peer.end()
