"""A FastAPI application: found by name, ready when its store is, with locked requests and one leader for the background.

Problem: an asynchronous web application runs in many processes. It must be found by its callers, say when it cannot
work, do some things one request at a time over all processes, and some things in one process only.

Guarantee: one client for each process, for as long as the application lives. The process is listed from its start to
its end, and gone from the list within a time to live if it is killed. Deposits to one account happen one at a time,
and each deposit once, however often it is sent: it is written under the lock's guard, so a request that slept through
its lease changes nothing. At most ``EXPORTS`` exports run at once, over all processes. ``lead`` runs in one process
at a time.

On loss: a request that loses its lock is cancelled and answered with 503, and may be sent again. ``/ready`` says 503
while the store cannot be reached, so that the load balancer asks others. A leader that is cut off has its ``lead``
cancelled before another one begins.

Servers stop taking connections before the lifespan ends, so callers must go on to the next instance when one refuses.

Run it: ``python -m recipes.fastapi_app``, which serves on the loopback and asks itself; needs ``fastapi``, ``uvicorn``
and ``httpx2``. As a service: ``ADVERTISE=host:8000 uvicorn --factory recipes.fastapi_app:create_app``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypedDict, cast

import httpx2
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

import coord

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PREFIX = "recipes/fastapi"
EXPORTS = 3
PATIENCE_S = 5
"""How long a request stands in line before its caller is told to come again."""


# -- from the start of the process to its end ----------------------------------------------------------------------


class State(TypedDict):
    """What requests find in ``request.state``."""

    client: coord.Client
    view: coord.ServiceView


async def lead(client: coord.Client, term: coord.Term) -> None:
    """Do what one process does for all; here it notes its term, really it works until it is cancelled."""
    note = coord.op.put(f"{PREFIX}/term", str(term.token))
    await client.txn().when(term.guard()).then(note).commit()
    await term.lost.wait()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[State]:
    """Connect, be listed and stand for leadership, for as long as the application runs."""
    advertise: str = app.state.advertise
    async with coord.connect() as client:
        registry = client.registry(f"{PREFIX}/service")
        election = client.election(f"{PREFIX}/leader")
        async with (
            registry.discover(timeout=30) as view,
            registry.register(advertise, timeout=30),
            asyncio.TaskGroup() as group,
        ):
            standing = group.create_task(election.run(partial(lead, client), value=advertise))
            yield State(client=client, view=view)
            standing.cancel()


# -- what requests ask for -----------------------------------------------------------------------------------------


def store(request: Request) -> coord.Client:
    """Return the client of this process."""
    return cast("coord.Client", request.state.client)


def service(request: Request) -> coord.ServiceView:
    """Return the view over all processes of this application."""
    return cast("coord.ServiceView", request.state.view)


Store = Annotated[coord.Client, Depends(store)]


def account_lock(account: str, client: Store) -> coord.Mutex:
    """Return the lock of the account that the path names."""
    return client.mutex(f"{PREFIX}/locks/{account}")


def export_permits(client: Store) -> coord.Semaphore:
    """Return the permits of exports."""
    return client.semaphore(f"{PREFIX}/exports", limit=EXPORTS)


# -- requests ------------------------------------------------------------------------------------------------------


async def deposit(
    account: str,
    deposit: str,
    amount: int,
    client: Store,
    lock: Annotated[coord.Mutex, Depends(account_lock)],
) -> dict[str, int]:
    """Add to an account, once for each name of a deposit; one at a time, over all processes."""
    total, receipt = f"{PREFIX}/accounts/{account}", f"{PREFIX}/deposits/{account}/{deposit}"
    async with lock.hold(timeout=PATIENCE_S) as grant:
        found = await client.get(total)
        balance = int(found.value) if found else 0
        if await client.get(receipt) is None:
            balance += amount
            # With a database, its row compares the token instead: see fenced_postgres_writer.
            writes = coord.op.put(total, str(balance)), coord.op.put(receipt, str(grant.token))
            if not (await client.txn().when(grant.guard()).then(*writes).commit()).succeeded:
                raise HTTPException(503, "the lock was lost")
        return {"balance": balance, "token": grant.token}


async def export(permits: Annotated[coord.Semaphore, Depends(export_permits)]) -> dict[str, bool]:
    """Do something heavy, of which the whole fleet does only so many at once."""
    async with permits.hold(timeout=PATIENCE_S):
        return {"exported": True}


async def leader(client: Store) -> dict[str, str]:
    """Say which process leads."""
    found = await client.election(f"{PREFIX}/leader").leader()
    return {"leader": found.value.decode()}


async def instances(view: Annotated[coord.ServiceView, Depends(service)]) -> list[str]:
    """Say where this application runs."""
    return [each.addr for each in view.instances()]


async def ready(client: Store, response: Response) -> dict[str, str]:
    """Say whether this process can work now: for load balancers and probes."""
    state = client.connection.state
    if state is not coord.ConnectionState.READY:
        response.status_code = 503
    return {"store": state.value}


async def try_again(_: Request, error: Exception) -> Response:
    """Answer for somebody else's turn, a lost lock or a store that is away. All requests here may be repeated."""
    text = {"error": type(error).__name__}
    return JSONResponse(text, status_code=503, headers={"Retry-After": "1"})


def create_app(advertise: str | None = None) -> FastAPI:
    """Return the application; ``advertise`` is the address at which others reach this process."""
    app = FastAPI(lifespan=lifespan)
    app.state.advertise = advertise or os.environ["ADVERTISE"]
    app.put("/accounts/{account}/deposits/{deposit}")(deposit)
    app.post("/exports")(export)
    app.get("/leader")(leader)
    app.get("/instances")(instances)
    app.get("/ready")(ready)
    passing = (coord.AmbiguousResult, coord.CoordTimeout, coord.LostError, coord.SessionError)
    for error in (*passing, coord.NoLeader, coord.Unavailable):
        app.add_exception_handler(error, try_again)
    return app


# -- a server that is asked ----------------------------------------------------------------------------------------


async def ask(address: str) -> None:
    async with httpx2.AsyncClient(base_url=f"http://{address}", timeout=30) as http:
        print("ready:", (await http.get("/ready")).json()["store"])
        print("listed:", (await http.get("/instances")).json() == [address])
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                url = f"/accounts/ann/deposits/{number}?amount=5"
                group.create_task(http.put(url))
                group.create_task(http.put(url))  # sent twice, as after a lost answer
        last = await http.put("/accounts/ann/deposits/9?amount=5")
        print("balance:", last.json()["balance"])
        print("exported:", (await http.post("/exports")).json()["exported"])
        while (answer := await http.get("/leader")).is_error:
            pass
        print("leads:", answer.json()["leader"] == address)


async def main() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*listening.getsockname())
        server = uvicorn.Server(uvicorn.Config(create_app(address), log_level="warning"))
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listening]))
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0.01)
            await ask(address)
            server.should_exit = True


if __name__ == "__main__":
    asyncio.run(main())
