"""A transport whose streams break at random places, from a seed: before, between and in the middle of messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import coord
from coord.rpc import RpcError, StatusCode
from coord.rpc.metadata import Metadata
from coord.runtime import Address
from coord.transport import Cancellable, MessageStream, Transport


class BreakingStream:
    """Breaks, or waits for a turn of the loop or several, as its chance says. What it swallowed is lost."""

    def __init__(
        self, inner: MessageStream, chance: random.Random, owner: BreakingTransport
    ) -> None:
        self._inner = inner
        self._chance = chance
        self._owner = owner
        self.endpoint = inner.endpoint
        self.send = inner.send
        self.half_close = inner.half_close
        self.cancel = inner.cancel
        self.distrust = inner.distrust

    async def receive(self) -> bytes | None:
        message = await self._inner.receive()
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)
        by_chance = self._chance.random() < self._owner.odds
        if by_chance or self._owner.is_due:
            self._owner.is_due = False
            self._owner.broken += 1
            self._inner.cancel()
            raise RpcError(StatusCode.UNAVAILABLE, "injected: broken", sent=True)
        return message


class BreakingTransport:
    """Wraps a transport; ``is_down`` refuses everything; ``is_due`` loses the next message of a stream for certain."""

    def __init__(self, inner: Transport, chance: random.Random, *, odds: float = 0.2) -> None:
        self.inner = inner
        self._chance = chance
        self.odds = odds
        self.is_down = False
        self.is_due = False
        self.broken = 0

    @property
    def closed(self) -> bool:
        return self.inner.closed

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self.inner.endpoints

    @property
    def current(self) -> Address | None:
        return self.inner.current

    def _check(self) -> None:
        if self.is_down or self._chance.random() < self.odds:
            self.broken += 1
            raise RpcError(StatusCode.UNAVAILABLE, "injected: nobody there", sent=False)

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        self._check()
        return await self.inner.unary(
            path, request, timeout=timeout, metadata=metadata, avoid=avoid
        )

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float,
        metadata: Metadata = (),
    ) -> Cancellable:
        return self.inner.start_unary(path, request, done, timeout=timeout, metadata=metadata)

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        self._check()
        stream = await self.inner.open_stream(path, timeout=timeout, metadata=metadata, avoid=avoid)
        return BreakingStream(stream, self._chance, self)

    def suspect(self, endpoint: str | None = None) -> None:
        self.inner.suspect(endpoint)

    async def close(self) -> None:
        await self.inner.close()


def make_breaking(client: coord.Client, seed: int, *, odds: float = 0.2) -> BreakingTransport:
    """Put a breaking transport under the reads and watches of a ``runtime="inline"`` client."""
    core: Any = client._core
    assert not core.runtime.is_threaded
    breaking = BreakingTransport(core.transport, random.Random(seed), odds=odds)
    core.caller.transport = breaking
    core.watches._transport = breaking
    return breaking
