"""A transport that loses, delays and repeats requests on request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import coord
from coord.rpc import RpcError, StatusCode
from coord.rpc.metadata import Metadata
from coord.transport import Cancellable, MessageStream, Transport

TXN = "/etcdserverpb.KV/Txn"


class Fault(Enum):
    """What happens to one request."""

    NONE = "none"
    LOSE_REQUEST = "lose request"
    """It never arrives; the caller cannot know."""
    LOSE_REPLY = "lose reply"
    """It is processed; the caller cannot know."""
    LATE = "late"
    """The caller gives up; the request arrives when :meth:`FaultyTransport.deliver_late` is called."""
    TWICE = "twice"
    """It is processed, and a copy arrives with the next :meth:`FaultyTransport.deliver_late`."""


class FaultyTransport:
    """Wraps a transport; ``plan`` says what happens to the coming requests of ``path``, then nothing does."""

    def __init__(self, inner: Transport, path: str = TXN) -> None:
        self.inner = inner
        self.path = path
        self.plan: deque[Fault] = deque()
        self.calls: list[str] = []
        self.on_call: Callable[[str], object] = lambda _: None
        self._late: list[tuple[str, bytes, Metadata]] = []

    @property
    def closed(self) -> bool:
        return self.inner.closed

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self.inner.endpoints

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        self.calls.append(path)
        self.on_call(path)
        fault = self.plan.popleft() if path == self.path and self.plan else Fault.NONE
        lost = RpcError(StatusCode.UNAVAILABLE, f"injected: {fault.value}", sent=True)
        if fault is Fault.LOSE_REQUEST:
            raise lost
        if fault is Fault.LATE:
            self._late.append((path, request, metadata))
            raise lost
        if fault is Fault.TWICE:
            self._late.append((path, request, metadata))
        answer = await self.inner.unary(
            path, request, timeout=timeout, metadata=metadata, avoid=avoid
        )
        if fault is Fault.LOSE_REPLY:
            raise lost
        return answer

    async def deliver_late(self) -> int:
        """Let the requests that are still under way arrive; return how many."""
        late, self._late = self._late, []
        for path, request, metadata in late:
            try:
                await self.inner.unary(path, request, timeout=10, metadata=metadata)
            except RpcError as refused:  # a late request may well be refused; that is an answer
                if refused.code is StatusCode.UNAVAILABLE:
                    raise
        return len(late)

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
        return await self.inner.open_stream(path, timeout=timeout, metadata=metadata, avoid=avoid)

    def suspect(self, endpoint: str | None = None) -> None:
        self.inner.suspect(endpoint)

    async def close(self) -> None:
        await self.inner.close()


def make_faulty(client: coord.Client, plan: Iterable[Fault] = ()) -> FaultyTransport:
    """Put a faulty transport under the calls of a ``runtime="inline"`` client."""
    core: Any = client._core
    assert not core.runtime.is_threaded
    faulty = FaultyTransport(core.caller.transport)
    faulty.plan.extend(plan)
    core.caller.transport = faulty
    return faulty


async def settle(client: coord.Client, prefix: str, *, turns: int = 400) -> list[bytes]:
    """Let background work run until no key is left under ``prefix``, and return what is left after ``turns``."""
    keys: list[bytes] = []
    for _ in range(turns):
        keys = [kv.key for kv in (await client.get_prefix(prefix)).items]
        if not keys:
            return []
        await asyncio.sleep(0.005)
    return keys
