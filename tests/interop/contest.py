"""Contests over one name between this SDK and somebody else, with real contention in both directions.

Each round: we hold and the rival waits; we let go and the rival gets it; the rival holds and we wait; it lets go and
we get it.
Whoever waits must not hold, tokens rise with every hand-over, and the guard of the grant before is refused.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol

import coord
from coord import EventType, op
from coord.store.caller import Repeat
from coord.wire import election_pb2, lock_pb2, methods
from tests.interop.gopeers import GoPeer
from tests.support.servers import clean_environment, etcd_binary

ROUNDS = int(os.environ.get("COORD_INTEROP_ROUNDS", "6"))
_WITHIN_S = 30.0


class Rival(Protocol):
    """Somebody else who wants the name, once."""

    async def line_up(self) -> None:
        """Start to wait for it; returns at once."""
        ...

    @property
    def holds(self) -> bool:
        """Whether it has been told that it holds the name."""
        ...

    async def granted(self) -> bytes:
        """Wait until it holds the name, and return its key."""
        ...

    async def let_go(self) -> None:
        """Give the name back."""
        ...


class Etcdctl:
    """``etcdctl lock NAME`` or ``etcdctl elect NAME VALUE``."""

    def __init__(self, endpoint: str, version: str, *words: str) -> None:
        self._command = [
            etcd_binary("etcdctl", version),
            f"--endpoints={endpoint}",
            *words,
        ]
        self._process: asyncio.subprocess.Process | None = None
        self._first: asyncio.Task[bytes] | None = None

    async def line_up(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=clean_environment({"ETCDCTL_API": "3"}),
        )
        assert self._process.stdout is not None
        self._first = asyncio.ensure_future(self._process.stdout.readline())

    @property
    def holds(self) -> bool:
        assert self._first is not None
        return self._first.done()

    async def granted(self) -> bytes:
        assert self._first is not None
        return (await self._first).rstrip(b"\n")

    async def let_go(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        await self._process.communicate()
        assert self._process.returncode == 0


class LockService:
    """The server's Lock service (``v3lockpb``)."""

    def __init__(self, client: coord.Client, name: str) -> None:
        self._caller = client._core.caller
        self._client = client
        self._name = name.encode()
        self._call: asyncio.Task[lock_pb2.LockResponse] | None = None
        self._key = b""

    async def line_up(self) -> None:
        lease = await self._client.lease_grant(60)
        request = lock_pb2.LockRequest(name=self._name, lease=lease.lease_id)
        self._call = asyncio.ensure_future(
            self._caller.call(methods.LOCK_LOCK, request, repeat=Repeat.ONCE, timeout=_WITHIN_S)
        )

    @property
    def holds(self) -> bool:
        assert self._call is not None
        return self._call.done()

    async def granted(self) -> bytes:
        assert self._call is not None
        self._key = (await self._call).key
        return self._key

    async def let_go(self) -> None:
        await self._caller.call(
            methods.LOCK_UNLOCK, lock_pb2.UnlockRequest(key=self._key), repeat=Repeat.ONCE
        )


class ElectionService:
    """The server's Election service (``v3electionpb``)."""

    def __init__(self, client: coord.Client, name: str, value: str) -> None:
        self._caller = client._core.caller
        self._client = client
        self._name = name.encode()
        self._value = value.encode()
        self._call: asyncio.Task[election_pb2.CampaignResponse] | None = None

    async def line_up(self) -> None:
        lease = await self._client.lease_grant(60)
        request = election_pb2.CampaignRequest(
            name=self._name, lease=lease.lease_id, value=self._value
        )
        self._call = asyncio.ensure_future(
            self._caller.call(
                methods.ELECTION_CAMPAIGN, request, repeat=Repeat.ONCE, timeout=_WITHIN_S
            )
        )

    @property
    def holds(self) -> bool:
        assert self._call is not None
        return self._call.done()

    async def granted(self) -> bytes:
        assert self._call is not None
        return (await self._call).leader.key

    async def let_go(self) -> None:
        assert self._call is not None
        request = election_pb2.ResignRequest(leader=self._call.result().leader)
        await self._caller.call(methods.ELECTION_RESIGN, request, repeat=Repeat.ONCE)


class GoClient:
    """Go's own client: a step of ``peer`` that ends with the grant and tells the key, and one that gives it back."""

    def __init__(self, peer: GoPeer, *words: str, back: str) -> None:
        self._peer = peer
        self._words = words
        self._back = back
        self._step: asyncio.Task[str] | None = None

    async def line_up(self) -> None:
        self._step = self._peer.begin(*self._words)

    @property
    def holds(self) -> bool:
        assert self._step is not None
        return self._step.done()

    async def granted(self) -> bytes:
        assert self._step is not None
        return (await self._step).encode()

    async def let_go(self) -> None:
        await self._peer.do(self._back)


async def entered(watch: coord.Watch) -> coord.WatchEvent:
    """Wait until somebody has lined up."""
    while True:
        event = await anext(watch)
        if event.type is EventType.PUT:
            return event


async def contest(
    client: coord.Client,
    name: str,
    acquire: Callable[[], Awaitable[coord.Grant]],
    make_rival: Callable[[], Rival],
    *,
    rounds: int,
) -> list[int]:
    """Play ``rounds`` rounds and return the tokens in the order of the grants."""
    tokens: list[int] = []
    async with client.watch(name + "/", prefix=True) as watch:
        ours = await acquire()
        assert (await entered(watch)).key == ours.key
        for _ in range(rounds):
            async with asyncio.timeout(_WITHIN_S):
                tokens.append(ours.token)
                rival = make_rival()
                await rival.line_up()
                theirs = await entered(watch)
                assert await line(client, name) == [ours.key, theirs.key]
                assert not rival.holds
                ours.check()
                await ours.release()
                assert await rival.granted() == theirs.key
                assert await line(client, name) == [theirs.key]
                tokens.append(theirs.revision)
                stale = await client.txn().when(ours.guard()).then(op.put(name, "x")).commit()
                assert not stale.succeeded

                waiting = asyncio.ensure_future(acquire())
                mine = await entered(watch)
                assert await line(client, name) == [theirs.key, mine.key]
                assert not waiting.done()
                await rival.let_go()
                ours = await waiting
                assert ours.key == mine.key
                assert await line(client, name) == [ours.key]
        tokens.append(ours.token)
        await ours.release()
    assert await line(client, name) == []
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 2 * rounds + 1
    return tokens


async def line(client: coord.Client, name: str) -> list[bytes]:
    """The keys in line, first the holder."""
    found = await client.get_prefix(name + "/", sort_by=coord.SortBy.CREATE_REVISION)
    return [kv.key for kv in found.items]
