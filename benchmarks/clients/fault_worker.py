"""One client under faults: ``python -m benchmarks.clients.fault_worker CLIENT ENDPOINT[,ENDPOINT...]``.

It puts, watches and keeps a lease alive, and prints one JSON line for everything that happens, with the time of the
machine's monotonic clock, until its input ends.
Every put is given :data:`DEADLINE_S` in the way that its client offers; nothing is added around it, since the question
is what the client itself does.
"""

# ruff: noqa: ANN401, BLE001 - other packages, in environments that the checkers do not see, and whatever they raise

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 2
LEASE_TTL_S = 10
PAUSE_S = 0.05
# Whom to log in as, and the folder of the certificates, where the server wants that.
USER = os.environ.get("FAULT_USER")
PASSWORD = os.environ.get("FAULT_PASSWORD")
CERTIFICATES = os.environ.get("FAULT_CERTIFICATES")
OWN = "/fault/own"
WATCHED = "/fault/watched/"


def say(kind: str, **facts: object) -> None:
    """Print what happened."""
    print(json.dumps({"at": time.monotonic(), "kind": kind, **facts}), flush=True)


def text_of(error: BaseException) -> str:
    """Name an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


_FILES = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
_ETCD3 = {"ca": "ca_cert", "cert": "cert_cert", "key": "cert_key"}


def _file(name: str) -> str:
    """Return the path of one of the certificates' files."""
    return f"{CERTIFICATES}/{name}"


class Adapter(Protocol):
    """What is asked of each client."""

    async def open(self, endpoints: list[str]) -> None:
        """Connect; clients that take one endpoint take the first."""

    async def put(self, value: str) -> None:
        """Write the own key, within the deadline."""

    def watch(self) -> AsyncIterator[tuple[str, int]]:
        """Watch the prefix from now on: keys, and revisions (0 where a client hides them)."""
        ...

    async def keep(self) -> None:
        """Keep a lease alive as the client's documentation says, and tell its id; return when it is lost."""


class Coord:
    """Ours."""

    async def open(self, endpoints: list[str]) -> None:
        coord: Any = importlib.import_module("coord")
        scheme, files = "http", None
        if CERTIFICATES:
            scheme = "https"
            files = coord.TlsConfig(**{name: _file(kind) for name, kind in _FILES.items()})
        self.client = await coord.connect(
            [f"{scheme}://{e}" for e in endpoints], user=USER, password=PASSWORD, tls=files
        ).__aenter__()

    async def put(self, value: str) -> None:
        await self.client.put(OWN, value, timeout=DEADLINE_S)

    async def watch(self) -> AsyncIterator[tuple[str, int]]:
        async with self.client.watch(WATCHED, prefix=True) as watch:
            yield "", 0
            async for event in watch:
                yield event.key.decode(), event.revision

    async def keep(self) -> None:
        async with self.client.session(ttl=LEASE_TTL_S) as session:
            say("lease", id=session.lease_id)
            say("lease lost", error=await session.expired.wait())


class Aetcd:
    """aetcd: the program renews."""

    async def open(self, endpoints: list[str]) -> None:
        aetcd: Any = importlib.import_module("aetcd")
        host, _, port = endpoints[0].partition(":")
        self.client = await aetcd.Client(
            host, int(port), USER, PASSWORD, timeout=DEADLINE_S
        ).__aenter__()

    async def put(self, value: str) -> None:
        await self.client.put(OWN.encode(), value.encode())

    async def watch(self) -> AsyncIterator[tuple[str, int]]:
        events = await self.client.watch_prefix(WATCHED.encode())
        yield "", 0
        async for event in events:
            yield event.kv.key.decode(), event.kv.mod_revision

    async def keep(self) -> None:
        lease = await self.client.lease(LEASE_TTL_S)
        say("lease", id=lease.id)
        while True:
            await asyncio.sleep(LEASE_TTL_S / 3)
            await renewed(lease.refresh())


class Etcetra:
    """etcetra: calls have no deadline; its own task renews."""

    async def open(self, endpoints: list[str]) -> None:
        etcetra: Any = importlib.import_module("etcetra")
        host, _, port = endpoints[0].partition(":")
        types: Any = importlib.import_module("etcetra.types")
        user = types.EtcdCredential(USER, PASSWORD) if USER else None
        client = etcetra.EtcdClient(etcetra.HostPortPair(host, int(port)), user)
        self.client = await client.connect().__aenter__()

    async def put(self, value: str) -> None:
        await self.client.put(OWN, value)

    async def watch(self) -> AsyncIterator[tuple[str, int]]:
        sign = asyncio.Event()
        events = self.client.watch_prefix(WATCHED, ready_event=sign)
        first = asyncio.ensure_future(anext(events))  # noqa: TID251 - awaited below
        await sign.wait()
        yield "", 0
        yield (await first).key, 0
        async for event in events:
            yield event.key, 0

    async def keep(self) -> None:
        lease = await self.client.grant_lease(LEASE_TTL_S)
        say("lease", id=lease)
        await self.client.create_lease_keepalive_task(lease, LEASE_TTL_S / 3)


class Rust:
    """etcd-client-py, with the deadline among its options."""

    async def open(self, endpoints: list[str]) -> None:
        self.rust: Any = importlib.import_module("etcd_client")
        options = self.rust.ConnectOptions().with_timeout(float(DEADLINE_S))
        options = options.with_connect_timeout(float(DEADLINE_S))
        if USER:
            options = options.with_user(USER, PASSWORD)
        client = self.rust.Client([f"http://{e}" for e in endpoints], options)
        self.client = await client.connect().__aenter__()

    async def put(self, value: str) -> None:
        await self.client.put(OWN.encode(), value.encode())

    async def watch(self) -> AsyncIterator[tuple[str, int]]:
        events = self.client.watch_prefix(WATCHED.encode())
        first = asyncio.ensure_future(anext(events))  # noqa: TID251 - awaited below
        await asyncio.sleep(1)  # its sign of readiness is given before the server has answered
        yield "", 0
        yield bytes((await first).key).decode(), 0
        async for event in events:
            yield bytes(event.key).decode(), 0

    async def keep(self) -> None:
        raise NotImplementedError("lease_grant() of 0.5.1 returns no id: nothing can be renewed")


class Etcd3:
    """etcd3 blocks: each of its three uses has a thread; the program renews."""

    async def open(self, endpoints: list[str]) -> None:
        etcd3: Any = importlib.import_module("etcd3")
        host, _, port = endpoints[0].partition(":")
        self.client = etcd3.client(
            host,
            int(port),
            timeout=DEADLINE_S,
            user=USER,
            password=PASSWORD,
            **({_ETCD3[n]: _file(kind) for n, kind in _FILES.items()} if CERTIFICATES else {}),
        )

    async def put(self, value: str) -> None:
        await asyncio.to_thread(self.client.put, OWN, value)

    async def watch(self) -> AsyncIterator[tuple[str, int]]:
        events, _ = await asyncio.to_thread(self.client.watch_prefix, WATCHED)
        yield "", 0
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event.key.decode(), event.mod_revision

    async def keep(self) -> None:
        lease = await asyncio.to_thread(self.client.lease, LEASE_TTL_S)
        say("lease", id=lease.id)
        while True:
            await asyncio.sleep(LEASE_TTL_S / 3)
            await renewed(asyncio.to_thread(lease.refresh))


async def renewed(step: Any) -> None:
    """Renew once; a failed renewal is told and the next one tried, as a careful program does."""
    try:
        await step
    except Exception as error:
        say("renewal failed", error=text_of(error))


async def puts(adapter: Adapter) -> None:
    """Put for ever; each attempt is told when it begins and when it ends."""
    number = 0
    while True:
        number += 1
        say("put", number=number)
        try:
            await adapter.put(str(number))
        except Exception as error:
            say("put failed", number=number, error=text_of(error))
        else:
            say("put done", number=number)
        await asyncio.sleep(PAUSE_S)


async def watch(adapter: Adapter) -> None:
    """Tell every event, and how the watch ends."""
    try:
        async for key, revision in adapter.watch():
            if key:
                say("event", key=key, revision=revision)
            else:
                say("watching")
    except Exception as error:
        say("watch ended", error=text_of(error))
    else:
        say("watch ended", error="without an error")


async def keep(adapter: Adapter) -> None:
    """Keep a lease."""
    try:
        await adapter.keep()
    except Exception as error:
        say("lease lost", error=text_of(error))
    else:
        say("lease lost", error="its keeper ended")


ADAPTERS: dict[str, type[Adapter]] = {
    "coord": Coord,
    "aetcd": Aetcd,
    "etcetra": Etcetra,
    "etcd3": Etcd3,
    "etcd-client-py": Rust,
}


async def main() -> None:
    """Do all three until the input ends; then leave at once, whatever the client would still want to do."""
    adapter = ADAPTERS[sys.argv[1]]()
    say("start")
    with contextlib.suppress(Exception):
        await adapter.open(sys.argv[2].split(","))
    async with asyncio.TaskGroup() as group:
        for task in (puts, watch, keep):
            group.create_task(task(adapter))
        await asyncio.to_thread(sys.stdin.read)
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
