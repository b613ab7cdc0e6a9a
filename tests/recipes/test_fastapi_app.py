"""The FastAPI application, by its own test client and as processes under uvicorn."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from fastapi.testclient import TestClient

import coord
from recipes import fastapi_app as recipe
from tests.recipes.programs import end, start
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess

ADDRESS = "here:80"
LOCK = f"{recipe.PREFIX}/locks/ann"


@pytest.fixture
def browser(
    shared_coord_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    monkeypatch.setenv("COORD_ENDPOINTS", shared_coord_server.endpoint)
    with TestClient(recipe.create_app(ADDRESS)) as made:
        yield made


@pytest.fixture
async def other(shared_coord_server: ServerProcess) -> AsyncIterator[coord.Client]:
    """A client of another process."""
    async with coord.connect(shared_coord_server.endpoint) as made:
        yield made
        await made.delete_prefix(recipe.PREFIX)


def deposit(browser: TestClient, name: str) -> httpx2.Response:
    return browser.put(f"/accounts/ann/deposits/{name}", params={"amount": 5})


async def test_a_deposit_counts_once_however_often_it_is_sent(
    browser: TestClient, other: coord.Client
) -> None:
    sent = [await asyncio.to_thread(deposit, browser, name) for name in ("a", "a", "b")]
    first, again, second = sent
    assert [each.json()["balance"] for each in (first, again, second)] == [5, 5, 10]
    assert first.json()["token"] < second.json()["token"]


async def test_a_request_waits_for_a_lock_that_another_process_has(
    browser: TestClient, other: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "PATIENCE_S", 0.2)
    async with other.mutex(LOCK).hold(timeout=30):
        answer = await asyncio.to_thread(deposit, browser, "a")
    assert (answer.status_code, answer.json()) == (503, {"error": "LockTimeout"})
    assert (await asyncio.to_thread(deposit, browser, "a")).json()["balance"] == 5


async def test_a_request_that_loses_its_lock_is_cancelled_and_has_done_nothing(
    browser: TestClient, other: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = threading.Event()

    async def hangs(self: coord.Client, key: str, **_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(coord.Client, "get", hangs)
        sent = asyncio.ensure_future(asyncio.to_thread(deposit, browser, "a"))
        await asyncio.to_thread(reached.wait)
        await other.delete_prefix(f"{LOCK}/")  # what a lease does when it ends
        answer = await sent
    assert (answer.status_code, answer.json()) == (503, {"error": "LockLost"})
    assert await other.get(f"{recipe.PREFIX}/accounts/ann") is None


async def test_the_write_of_a_request_that_slept_changes_nothing(
    browser: TestClient, other: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = coord.Txn.commit

    async def too_late(self: coord.Txn) -> coord.TxnResult:
        await other.delete_prefix(f"{LOCK}/")
        return await commit(self)

    with monkeypatch.context() as patch:
        patch.setattr(coord.Txn, "commit", too_late)
        answer = await asyncio.to_thread(deposit, browser, "a")
    assert answer.status_code == 503
    assert await other.get(f"{recipe.PREFIX}/accounts/ann") is None


async def test_it_is_listed_and_leads_from_its_start_to_its_end(
    shared_coord_server: ServerProcess, other: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COORD_ENDPOINTS", shared_coord_server.endpoint)
    election = other.election(f"{recipe.PREFIX}/leader")

    def serve() -> list[str]:
        with TestClient(recipe.create_app(ADDRESS)) as browser:
            assert browser.get("/ready").json() == {"store": "ready"}
            assert browser.post("/exports").json() == {"exported": True}
            while browser.get("/leader").status_code == 503:
                pass
            assert browser.get("/leader").json() == {"leader": ADDRESS}
            return list(browser.get("/instances").json())

    assert await asyncio.to_thread(serve) == [ADDRESS]
    assert dict(await other.services(f"{recipe.PREFIX}/service")) == {}
    assert await election.candidates() == ()


async def test_it_is_ready_when_its_store_is(
    shared_coord_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(store_is_away: threading.Event, seen_away: threading.Event) -> None:
        with TestClient(recipe.create_app(ADDRESS)) as browser:
            assert browser.get("/ready").status_code == 200
            store_is_away.set()
            while browser.get("/ready").status_code == 200:
                pass
            seen_away.set()
            while browser.get("/ready").status_code == 503:
                pass

    store_is_away, seen_away = threading.Event(), threading.Event()
    async with Proxy(shared_coord_server.endpoint) as proxy:
        monkeypatch.setenv("COORD_ENDPOINTS", proxy.endpoint)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(serve, store_is_away, seen_away))
            await asyncio.to_thread(store_is_away.wait)
            await proxy.refuse()
            proxy.cut()
            await asyncio.to_thread(seen_away.wait)
            await proxy.accept()


@pytest.mark.processes
async def test_another_process_takes_over_when_one_is_killed(
    shared_coord_server: ServerProcess, other: coord.Client
) -> None:
    served = [Served(shared_coord_server.endpoint) for _ in range(2)]
    election = other.election(f"{recipe.PREFIX}/leader")
    try:
        async with other.registry(f"{recipe.PREFIX}/service").discover() as view:
            await view.wait_for(2, timeout=60)
            while len(candidates := await election.candidates()) < 2:
                await asyncio.sleep(0.01)
            dies, lives = sorted(served, key=lambda s: s.address != candidates[0].value.decode())
            assert (await add_five(lives, "a")).json()["balance"] == 5
            dies.process.kill()
            await asyncio.to_thread(dies.process.wait)
            key = await other.get(candidates[0].key)
            assert key is not None
            await other.lease_revoke(key.lease)  # rather than wait for its end
            async for instances in view.watch():
                if [each.addr for each in instances] == [lives.address]:
                    break
            async for leader in election.observe():
                if leader is not None and leader.value.decode() == lives.address:
                    break
            assert (await add_five(lives, "b")).json()["balance"] == 10
            lives.process.terminate()
            async for instances in view.watch():
                if not instances:
                    break
    finally:
        end(*(each.process for each in served))


async def add_five(served: Served, deposit: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=f"http://{served.address}", timeout=60) as http:
        return await http.put(f"/accounts/ann/deposits/{deposit}", params={"amount": 5})


class Served:
    """The application under uvicorn, in a process of its own, on a socket that we bound."""

    process: subprocess.Popen[str]

    def __init__(self, endpoint: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "{}:{}".format(*probe.getsockname())
        host, port = self.address.split(":")
        words = ("-m", "uvicorn", "--factory", "--log-level", "warning", "--host", host)
        self.process = start(
            *words,
            "--port",
            port,
            "recipes.fastapi_app:create_app",
            endpoint=endpoint,
            ADVERTISE=self.address,
        )
