"""``coord`` barriers against those of Go's recipes, in both roles."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import coord
from tests.support import golang

# The first run builds the Go program.
pytestmark = [pytest.mark.etcd, pytest.mark.processes, pytest.mark.timeout(400)]
PEER = Path(__file__).parent / "gopeer" / "main.go"
WITHIN_S = 30.0


class GoPeer:
    """A process of Go's recipes, which takes one step at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def begin(self, *words: object) -> asyncio.Task[str]:
        """Begin a step; the task ends with its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        return asyncio.ensure_future(self._answer())

    async def do(self, *words: object) -> str:
        return await asyncio.wait_for(self.begin(*words), WITHIN_S)

    async def _answer(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().rstrip("\n")


@contextlib.asynccontextmanager
async def go_peer(endpoint: str) -> AsyncGenerator[GoPeer]:
    built = await asyncio.to_thread(golang.program, PEER)
    if built is None:
        pytest.skip(f"needs {golang.NEEDS}")
    process = await asyncio.create_subprocess_exec(
        str(built), endpoint, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield GoPeer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 5)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def entries(client: coord.Client, name: str, count: int) -> None:
    async with client.watch(name + "/", prefix=True) as watch, asyncio.timeout(WITHIN_S):
        while await client.count(name + "/waiters/") != count:
            await anext(watch)


async def test_a_gate_of_ours_stops_go_and_one_of_gos_stops_us(
    client: coord.Client, endpoint: str, name: str
) -> None:
    barrier = client.barrier(name)
    async with go_peer(endpoint) as peer:
        for leased in (False, True):
            gate = await barrier.hold(leased=leased)
            assert "key" in await peer.do("hold", name)  # etcd's "given key already present"
            waiting = peer.begin("wait", name)
            await asyncio.sleep(0.2)
            assert not waiting.done()
            assert await gate.release() is True
            assert await asyncio.wait_for(waiting, WITHIN_S) == "ok"

        assert await peer.do("hold", name) == "ok"
        with pytest.raises(coord.BarrierHeld):
            await barrier.hold()
        passing = asyncio.ensure_future(barrier.wait(timeout=WITHIN_S))
        await asyncio.sleep(0.2)
        assert not passing.done()
        assert await peer.do("release", name) == "ok"
        await passing

        await barrier.hold()
        assert await peer.do("release", name) == "ok"  # Go asks nobody whose it is
        assert await barrier.release() is False


@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_a_round_with_go(client: coord.Client, endpoint: str, name: str, first: str) -> None:
    """One round at a time, since Go knows no rounds: whoever comes last begins it, whoever is lowest ends it."""
    async with (
        go_peer(endpoint) as peer,
        client.session(ttl=20) as session,
    ):
        barrier = client.double_barrier(name, 2, session=session)
        for _ in range(3):
            if first == "ours":
                entering = asyncio.ensure_future(barrier.enter(timeout=WITHIN_S))
                await entries(client, name, 1)
                assert await peer.do("enter", name, 2) == "ok"
                await entering
                leaving = asyncio.ensure_future(barrier.leave(timeout=WITHIN_S))
                await asyncio.sleep(0.2)
                assert not leaving.done()  # the lowest waits for the highest
                assert await peer.do("leave") == "ok"
                await leaving
            else:
                theirs = peer.begin("enter", name, 2)
                await entries(client, name, 1)
                await barrier.enter(timeout=WITHIN_S)
                assert await asyncio.wait_for(theirs, WITHIN_S) == "ok"
                left = peer.begin("leave")
                await asyncio.sleep(0.2)
                assert not left.done()
                await barrier.leave(timeout=WITHIN_S)
                assert await asyncio.wait_for(left, WITHIN_S) == "ok"
            assert (await client.get_prefix(name + "/")).items == ()
