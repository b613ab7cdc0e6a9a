"""A transport that tells which streams were opened and what was sent on them, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import coord
from coord.rpc import RpcError
from coord.rpc.metadata import Metadata
from coord.runtime import Address
from coord.transport import Cancellable, MessageStream, Transport


class SpiedStream:
    """One stream; ``sent_at`` holds the monotonic time of each message."""

    def __init__(self, inner: MessageStream, spy: SpyingTransport, path: str) -> None:
        self._inner = inner
        self._spy = spy
        self.path = path
        self.endpoint = inner.endpoint
        self.half_close = inner.half_close
        self.receive = inner.receive
        self.distrust = inner.distrust
        self.is_open = True

    def send(self, message: bytes) -> None:
        self._spy.note(self.path)
        self._inner.send(message)

    def cancel(self) -> None:
        self.is_open = False
        self._inner.cancel()


class SpyingTransport:
    """Wraps a transport; for ``runtime="inline"`` clients."""

    def __init__(self, inner: Transport, now: Callable[[], float]) -> None:
        self.inner = inner
        self._now = now
        self.streams: list[SpiedStream] = []
        self.sent: dict[str, list[float]] = {}
        self._news = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self.inner.closed

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self.inner.endpoints

    @property
    def current(self) -> Address | None:
        return self.inner.current

    def note(self, path: str) -> None:
        self.sent.setdefault(path, []).append(self._now())
        self._news.set()

    async def until_sent(self, path: str, count: int) -> list[float]:
        """Wait until ``count`` messages have been sent on streams of ``path``; return when each was."""
        while len(self.sent.get(path, [])) < count:
            self._news.clear()
            await self._news.wait()
        return self.sent[path]

    def opened(self, path: str) -> list[SpiedStream]:
        return [stream for stream in self.streams if stream.path == path]

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        stream = await self.inner.open_stream(path, timeout=timeout, metadata=metadata, avoid=avoid)
        spied = SpiedStream(stream, self, path)
        self.streams.append(spied)
        return spied

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
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

    def suspect(self, endpoint: str | None = None) -> None:
        self.inner.suspect(endpoint)

    async def close(self) -> None:
        await self.inner.close()


def spy_on(client: coord.Client, monkeypatch: pytest.MonkeyPatch) -> SpyingTransport:
    """Put a spy under the renewals of a fresh ``runtime="inline"`` client."""
    core: Any = client._core
    assert not core.runtime.is_threaded
    spy = SpyingTransport(core.transport, core.env.clock.mono)
    monkeypatch.setattr(client._home.renewals, "_transport", spy)
    return spy
