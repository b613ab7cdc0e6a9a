"""A transport that adds a token which somebody else obtained; what the server says to it is the caller's business."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.metadata import Metadata
    from coord.rpc.status import RpcError
    from coord.runtime import Address
    from coord.transport.base import Cancellable, MessageStream, Transport


class FixedTokenTransport:
    """See :class:`coord.transport.Transport`."""

    def __init__(self, inner: Transport, token: str) -> None:
        self.inner = inner
        self._metadata: Metadata = (("token", token),)

    @property
    def closed(self) -> bool:
        """See :class:`coord.transport.Transport`."""
        return self.inner.closed

    @property
    def endpoints(self) -> tuple[str, ...]:
        """See :class:`coord.transport.Transport`."""
        return self.inner.endpoints

    @property
    def current(self) -> Address | None:
        """See :class:`coord.transport.Transport`."""
        return self.inner.current

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        """See :class:`coord.transport.Transport`."""
        return await self.inner.unary(
            path, request, timeout=timeout, metadata=self._metadata + metadata, avoid=avoid
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
        """See :class:`coord.transport.Transport`."""
        return self.inner.start_unary(
            path, request, done, timeout=timeout, metadata=self._metadata + metadata
        )

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        """See :class:`coord.transport.Transport`."""
        return await self.inner.open_stream(
            path, timeout=timeout, metadata=self._metadata + metadata, avoid=avoid
        )

    def suspect(self, endpoint: str | None = None) -> None:
        """See :class:`coord.transport.Transport`."""
        self.inner.suspect(endpoint)

    def over(self, inner: Transport) -> FixedTokenTransport:
        """Return the same on another carrier."""
        other = copy(self)
        other.inner = inner
        return other

    async def close(self) -> None:
        """See :class:`coord.transport.Transport`."""
        await self.inner.close()
