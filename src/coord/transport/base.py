"""What every carrier offers, as protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.metadata import Metadata
    from coord.rpc.status import RpcError
    from coord.runtime import Address
    from coord.target import Endpoint
    from coord.transport.health import HealthBoard


class Cancellable(Protocol):
    """A call that has begun."""

    def cancel(self) -> object:
        """Give it up: its ``done`` is not called any more. Safe at any time, also twice."""
        ...


class MessageStream(Protocol):
    """One bidirectional call."""

    @property
    def endpoint(self) -> str:
        """The endpoint it runs on, fit for ``avoid=``."""
        ...

    def send(self, message: bytes) -> None:
        """Queue a message; the carrier sends it as soon as flow control allows."""
        ...

    def half_close(self) -> None:
        """Say that no more messages follow."""
        ...

    async def receive(self) -> bytes | None:
        """Return the next message, None after the server ended the call with OK. Raises ``RpcError``."""
        ...

    def cancel(self) -> None:
        """End the call now. Safe at any time, also twice."""
        ...

    def distrust(self) -> None:
        """Say that the server no longer accepts who we are on this stream: the next one says it afresh.

        For refusals in messages, which only their reader understands; nothing happens without a user who can log in.
        """
        ...


class Transport(Protocol):
    """A way to one store with one or more endpoints."""

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        ...

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints in use, for messages."""
        ...

    @property
    def current(self) -> Address | None:
        """Where calls go now, None without a connection; from any thread, for telemetry."""
        ...

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        """Make one call on a healthy endpoint, within ``timeout`` seconds, connecting included.

        Raises ``RpcError``; ``sent=False`` says that it certainly was not processed.
        Connection attempts are repeated over all endpoints until the deadline; the request itself is sent at most
        once.
        Cancelling the caller cancels the call on the wire.
        """
        ...

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float,
        metadata: Metadata = (),
    ) -> Cancellable:
        """As :meth:`unary`, with a callback instead of a task: ``done`` is called once, on the runtime's loop."""
        ...

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        """Open a stream on a healthy endpoint (another one than ``avoid`` if there is one).

        ``timeout`` bounds the wait for a connection, not the life of the stream.
        """
        ...

    def suspect(self, endpoint: str | None = None) -> None:
        """Say that ``endpoint``, or the one in use, does not serve as a healthy one: prefer another for a while.

        Where there is only one, and none is named, its connection is suspected: new calls may get a new one.
        """
        ...

    async def close(self) -> None:
        """Close all connections; calls still open fail with CANCELLED."""
        ...


class ClientTransport(Transport, Protocol):
    """What a client needs of its own carrier beside calls: endpoints that may change, and what is known of them."""

    @property
    def health(self) -> HealthBoard:
        """What is known of the endpoints."""
        ...

    @property
    def open_calls(self) -> int:
        """How many calls and streams have not ended, those that wait for a connection included."""
        ...

    def set_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Use these from now on. Connections to those that stay are kept.

        Calls of an endpoint that left may go on for a while; then they end, with UNAVAILABLE.
        """
        ...
