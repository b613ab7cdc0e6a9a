"""The end of a client: nothing of it is left, and no server can put it off for longer than it says."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import pytest

import coord
import coord.sync
from coord.client.connecting import open_client
from coord.core import FAREWELL_S, Carrier, Placement
from coord.testing import Faults, proxy
from tests.sdk.conftest import CARRIERS
from tests.sdk.open_things import KINDS, nothing_more, open_kind, open_kind_sync, tasks_of
from tests.support.servers import ServerProcess
from tests.support.uncollected import uncollected
from tests.support.virtual import VirtualLoop, run_virtual, virtual_env

PLACEMENTS: tuple[Placement, ...] = ("thread", "inline")
HANGS_S = 60.0  # many times what a close may take: only a hang is longer


@asynccontextmanager
async def in_memory(
    loop: VirtualLoop, reports: list[dict[str, Any]]
) -> AsyncGenerator[tuple[coord.Client, Faults]]:
    """A client and its store in one virtual time, and what can be done to it; ``reports`` is what it complains of."""
    loop.set_exception_handler(lambda _, report: reports.append(report))
    faults = Faults()
    with faults.everywhere():
        options = coord.connect("memory:", runtime="inline")._options
        yield await open_client(options, virtual_env(loop)), faults


def test_how_long_a_silent_server_puts_off_the_end() -> None:
    async def main(loop: VirtualLoop) -> None:
        reports: list[dict[str, Any]] = []
        before = asyncio.all_tasks()
        async with in_memory(loop, reports) as (client, faults):
            opened = [await open_kind(kind, client) for kind in KINDS]
            sessions = [await client.session(ttl=60).open() for _ in range(100)]
            await client.txn().then(coord.op.put("k", "v")).commit()  # leaves the lease of a marker
            faults.isolate()
            calls = [
                asyncio.ensure_future(client.put("k", "w", timeout=600)),
                asyncio.ensure_future(client.mutex("m").acquire(timeout=600)),
            ]
            await asyncio.sleep(1)
            began = loop.time()
            await client.close()
            assert loop.time() - began <= FAREWELL_S  # virtual: no machine is too slow for it
            for call in calls:
                with pytest.raises((coord.ClientClosed, coord.AmbiguousResult, coord.SessionError)):
                    await call
        assert {s.state for s in sessions} == {coord.SessionState.CLOSED}
        assert asyncio.all_tasks() - before == set()
        assert reports == []
        del opened

    run_virtual(main)


def test_one_silence_takes_no_time_from_other_farewells() -> None:
    async def main(loop: VirtualLoop) -> None:
        reports: list[dict[str, Any]] = []
        async with in_memory(loop, reports) as (client, faults):
            await client.session(ttl=60).open()
            core: Any = client._core
            core.at_close(asyncio.Event().wait)
            await client.close()
            assert faults.count("LeaseRevoke") == 1
        assert reports == []

    run_virtual(main)


@pytest.mark.parametrize("runtime", PLACEMENTS)
async def test_who_waits_for_a_release_is_not_cancelled_by_the_end(
    coord_server: ServerProcess, runtime: Placement
) -> None:
    with proxy(coord_server.endpoint) as line:
        client = await coord.connect(line.endpoint, runtime=runtime)
        grant = await client.mutex("m").acquire()
        line.blackhole()
        release = asyncio.ensure_future(grant.release())
        await asyncio.sleep(0)
        await client.close()
        assert await release is True


Silence = Literal["blackholed", "stopped"]


@contextmanager
def stopped(server: ServerProcess) -> Generator[None]:
    """Stop the process of a server: its connections stay, and nobody answers."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


async def close_async(
    endpoint: str, transport: Carrier, runtime: Placement, silent: threading.Barrier
) -> None:
    """Open everything, and close when the server has fallen silent; inside a loop of its own."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    client = await coord.connect(endpoint, transport=transport, runtime=runtime)
    opened = [await open_kind(kind, client) for kind in KINDS]
    await asyncio.to_thread(silent.wait, HANGS_S)
    await asyncio.to_thread(silent.wait, HANGS_S)
    async with asyncio.timeout(HANGS_S):
        await client.close()
    assert tasks_of(client) == set()
    assert reports == []
    del opened


def close_sync(endpoint: str, transport: Carrier, silent: threading.Barrier) -> None:
    """The same, of a blocking client."""
    client = coord.sync.connect(endpoint, transport=transport)
    opened = [open_kind_sync(kind, client) for kind in KINDS]
    silent.wait(HANGS_S)
    silent.wait(HANGS_S)
    client.close()
    assert tasks_of(client._async) == set()
    del opened


@pytest.mark.processes
@pytest.mark.parametrize("transport", CARRIERS)
@pytest.mark.parametrize("silence", ["blackholed", "stopped"])
def test_every_client_of_a_silent_server_ends(
    coord_server: ServerProcess, silence: Silence, transport: Carrier
) -> None:
    """All at once, since each of them takes its time."""
    endpoint = coord_server.endpoint
    for runtime in PLACEMENTS:  # what a carrier and a thread's loop make once in a process
        asyncio.run(use(endpoint, transport, runtime))
    with nothing_more(), contextlib.ExitStack() as stack:
        line = stack.enter_context(proxy(endpoint))
        target = line.endpoint if silence == "blackholed" else endpoint
        barrier = threading.Barrier(4)
        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            ends = [
                threads.submit(asyncio.run, close_async(target, transport, runtime, barrier))
                for runtime in PLACEMENTS
            ]
            ends.append(threads.submit(close_sync, target, transport, barrier))
            barrier.wait(HANGS_S)
            if silence == "blackholed":
                line.blackhole()
            else:
                stack.enter_context(stopped(coord_server))
            barrier.wait(HANGS_S)
            for end in ends:
                end.result(HANGS_S)


async def use(endpoint: str, transport: Carrier, runtime: Placement) -> None:
    """Use a client for a moment."""
    async with coord.connect(endpoint, transport=transport, runtime=runtime) as client:
        await client.get("k")


async def open_and_close(endpoint: str, transport: Carrier, runtime: Placement, kind: str) -> None:
    client = await coord.connect(endpoint, transport=transport, runtime=runtime)
    opened = await open_kind(kind, client)
    await client.close()
    assert tasks_of(client) == set()
    del opened


def open_and_close_sync(endpoint: str, transport: Carrier, kind: str) -> None:
    client = coord.sync.connect(endpoint, transport=transport)
    opened = open_kind_sync(kind, client)
    client.close()
    assert tasks_of(client._async) == set()
    del opened


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transport", CARRIERS)
@pytest.mark.parametrize("face", [*PLACEMENTS, "sync"])
def test_nothing_is_left(
    shared_coord_server: ServerProcess,
    face: Placement | Literal["sync"],
    transport: Carrier,
    kind: str,
) -> None:
    endpoint = shared_coord_server.endpoint
    for runtime in PLACEMENTS:  # what a carrier and a thread's loop make once in a process
        asyncio.run(use(endpoint, transport, runtime))
    with uncollected(), nothing_more():
        if face == "sync":
            open_and_close_sync(endpoint, transport, kind)
        else:
            asyncio.run(open_and_close(endpoint, transport, face, kind))
