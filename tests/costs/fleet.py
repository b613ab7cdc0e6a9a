"""Many clients of one store in memory, in virtual time, whose requests and events are counted.

Each client stands for a process of its own: with its connection, its session and its watches, which are not shared.
Nothing is in flight after :func:`quiet`, so what was counted until then is all that something costs.
Left out of the count: opening sessions, and their renewals, which travel on streams of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import coord
from coord.client.connecting import open_client
from coord.core import Options
from coord.embed.memory import open_memory
from coord.rpc import RpcError
from coord.rpc.metadata import Metadata
from coord.target import Target, TargetKind
from coord.transport import Cancellable, MessageStream, Transport, taps
from coord.wire import rpc_pb2
from tests.support.virtual import VirtualLoop, virtual_env

# Longer than anything that a recipe does by the clock, shorter than what waiters look up again by themselves (30 s).
_QUIET_S = 1.0
_NOT_COUNTED = frozenset({"LeaseGrant", "LeaseRevoke"})


@dataclass(slots=True)
class Spent:
    """What was counted since the last :meth:`Fleet.spent`."""

    requests: Counter[str] = field(default_factory=Counter[str])
    """Unary calls by method."""
    watches: int = 0
    """Watches that were begun."""
    events: int = 0
    """Events that were delivered, to all watches together."""
    woken: set[str] = field(default_factory=set[str])
    """Clients to which one was delivered."""

    @property
    def total(self) -> int:
        """All unary calls."""
        return self.requests.total()

    @property
    def reads(self) -> int:
        """Unary calls that only read."""
        return self.requests["Range"]


class Fleet:
    """The clients; see the module. Made by :func:`fleet`."""

    def __init__(self, connect: Callable[[str], Any]) -> None:
        self._connect = connect
        self._now = Spent()
        self.clients: list[coord.Client] = []

    async def grow(self, count: int) -> list[coord.Client]:
        """Connect so many more clients, and return them."""
        more = [await self._connect(f"client-{len(self.clients) + i}") for i in range(count)]
        self.clients += more
        return more

    async def spent(self) -> Spent:
        """Wait until nothing happens any more, and return what was counted; the count begins anew."""
        await quiet()
        spent, self._now = self._now, Spent()
        return spent

    def under(self, name: str, transport: Transport) -> Transport:
        """Return a carrier that is counted."""
        return cast("Transport", _Counted(transport, name, lambda: self._now))


class _Counted:
    """A carrier; what it does not know of is the carrier's own business."""

    def __init__(self, inner: Transport, client: str, now: Callable[[], Spent]) -> None:
        self._inner = inner
        self._client = client
        self._now = now

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the carrier has
        return getattr(self._inner, name)

    def _note(self, path: str) -> None:
        method = path.rpartition("/")[2]
        if method not in _NOT_COUNTED:
            self._now().requests[method] += 1

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        self._note(path)
        return await self._inner.unary(
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
        self._note(path)
        return self._inner.start_unary(path, request, done, timeout=timeout, metadata=metadata)

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        stream = await self._inner.open_stream(
            path, timeout=timeout, metadata=metadata, avoid=avoid
        )
        if not path.endswith("Watch/Watch"):
            return stream
        return cast("MessageStream", _CountedWatch(stream, self._client, self._now))


class _CountedWatch:
    """A stream of watches."""

    def __init__(self, inner: MessageStream, client: str, now: Callable[[], Spent]) -> None:
        self._inner = inner
        self._client = client
        self._now = now

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._inner, name)

    def send(self, message: bytes) -> None:
        request = rpc_pb2.WatchRequest.FromString(message)
        self._now().watches += request.HasField("create_request")
        self._inner.send(message)

    async def receive(self) -> bytes | None:
        message = await self._inner.receive()
        events = 0 if message is None else len(rpc_pb2.WatchResponse.FromString(message).events)
        if events:
            self._now().events += events
            self._now().woken.add(self._client)
        return message


async def quiet() -> None:
    """Wait, in virtual time, until all that was begun has ended."""
    await asyncio.sleep(_QUIET_S)


@contextlib.asynccontextmanager
async def fleet(loop: VirtualLoop) -> AsyncGenerator[Fleet]:
    """Start a store; yields the fleet, still without clients."""
    env = virtual_env(loop)
    opened = await open_memory(env)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(opened.close)

        async def connect(name: str) -> coord.Client:
            options = Options(
                target=Target(kind=TargetKind.ENDPOINTS, endpoints=opened.endpoints),
                placement="inline",
                name=name,
            )
            client = await open_client(options, replace(env, net=opened.net))
            stack.push_async_callback(client.close)
            return client

        made = Fleet(connect)
        stack.callback(taps.insert(made.under))
        yield made
