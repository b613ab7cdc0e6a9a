"""A store in memory whose time the test moves: leases, sessions and timeouts without waiting.

The problem: that a lock is lost after thirty seconds is tested by waiting thirty seconds, or not at all.
Here client and server live on one thread with a clock of its own, and the test, on whatever loop or none, says when
time passes.

    with MemoryWorld() as world:
        client = world.connect_sync()
        lease = client.lease_grant(30)
        client.put("k", "v", lease=lease.id)
        world.clock.advance(31)
        assert client.get("k") is None

The test's own timers (``asyncio.sleep``, ``asyncio.timeout``) are not in that time; the ``timeout=`` and ``ttl=`` of
every call are.
A call that waits for its timeout needs :meth:`Clock.flying`, or another thread that advances the clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from coord.core import DEFAULT_REQUEST_TIMEOUT_S, Core, Options
from coord.errors import ClientClosed, ForkedError
from coord.runtime import LoopThread, Runtime
from coord.sync._portal import behind
from coord.target import Target, TargetKind
from coord.testing.stopped import Clock, StillLoop
from coord.testing.virtual import virtual_env

if TYPE_CHECKING:
    from types import TracebackType

    import coord
    import coord.sync
    from coord.runtime import Env
    from coord.target import Opened


class _Guest(Runtime):
    """The runtime of one client of the world, whose thread goes on when the client has closed."""

    @override
    def close(self) -> None:
        """Leave the thread to the others."""

    @override
    def stop_soon(self) -> None:
        """Leave the thread to the others."""

    @override
    async def aclose(self) -> None:
        """Leave the thread to the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inside:
    """What there is of a world between its beginning and its end."""

    loop: StillLoop
    clock: Clock
    env: Env
    host: Runtime
    opened: Opened
    thread: LoopThread


class MemoryWorld:
    """One server in memory and its clients, in a time of their own. Use it in a ``with``."""

    def __init__(self) -> None:
        self._inside: _Inside | None = None
        self._clients: list[coord.sync.Client] = []

    @property
    def clock(self) -> Clock:
        """What moves the time of the server and of all clients."""
        return self._entered().clock

    def _entered(self) -> _Inside:
        if self._inside is None:
            raise RuntimeError(
                "a MemoryWorld is entered before it is used, and not after it was left"
            )
        return self._inside

    def __enter__(self) -> Self:
        """Start the server."""
        # The server is loaded only by those who start one.
        from coord.embed.memory import open_memory

        loop = StillLoop()
        env, clock, thread = virtual_env(loop), Clock(loop), LoopThread("coord-memory", loop)
        try:
            host = Runtime(env, loop, thread)
            # A new server waits for its own ticks.
            opened = host.call_blocking(loop.fly(lambda: open_memory(env)))
        except BaseException:
            thread.stop()
            raise
        self._inside = _Inside(
            loop=loop,
            clock=clock,
            env=replace(env, net=opened.net),
            host=host,
            opened=opened,
            thread=thread,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the clients and the server. Time flies meanwhile, so that nothing waits for good."""
        inside, self._inside = self._inside, None
        if inside is None:
            return
        clients, self._clients = self._clients, []

        async def close() -> None:
            for client in clients:
                await behind(client).close()
            await inside.opened.close()

        try:
            inside.host.call_blocking(inside.loop.fly(close))
        finally:
            inside.thread.stop()

    def connect(
        self, *, name: str = "coord", request_timeout: float = DEFAULT_REQUEST_TIMEOUT_S
    ) -> coord.Client:
        """Return one more client, for coroutines of any loop; closed with the world at the latest."""
        return behind(self.connect_sync(name=name, request_timeout=request_timeout))

    def connect_sync(
        self, *, name: str = "coord", request_timeout: float = DEFAULT_REQUEST_TIMEOUT_S
    ) -> coord.sync.Client:
        """Return one more blocking client; closed with the world at the latest."""
        from coord.sync.client import Client

        inside = self._entered()
        options = Options(
            target=Target(kind=TargetKind.ENDPOINTS, endpoints=inside.opened.endpoints),
            request_timeout=request_timeout,
            name=name,
        )
        runtime = _Guest(
            inside.env, inside.thread.loop, inside.thread, forked=ForkedError, stopped=ClientClosed
        )
        client = Client(runtime.call_blocking(Core.start(options, runtime)))
        self._clients.append(client)
        return client
