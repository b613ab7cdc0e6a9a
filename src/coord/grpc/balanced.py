"""A gRPC channel over all instances of a service."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
import grpc.aio
from typing_extensions import override

from coord.errors import CoordError
from coord.grpc.addresses import address_of, addresses
from coord.grpc.calls import BalancedCall, Observed, unavailable
from coord.recipes.registry import NoInstance
from coord.runtime import start_task

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from coord.recipes.registry import Instance, ServiceView

    Metadata = Sequence[tuple[str, str | bytes]]
    Serializer = Callable[[Any], bytes]
    Deserializer = Callable[[bytes], Any]

DRAIN_S = 30.0
"""How long calls to an instance that has gone from the view may go on."""
ATTEMPTS = 3


def balanced_channel(
    view: ServiceView,
    *,
    channel_factory: Callable[[str], grpc.aio.Channel] | None = None,
    idempotent: Collection[str] | Callable[[str], bool] = (),
    key: Callable[[str, Metadata], str | bytes | None] | None = None,
    endpoint: str | None = None,
    attempts: int = ATTEMPTS,
    drain: float = DRAIN_S,
) -> BalancedChannel:
    """Return a channel that sends each call to the instance that ``view`` picks; for the loop that makes it.

    ``channel_factory`` makes the channel to one address, by default ``grpc.aio.insecure_channel``.
    ``idempotent`` are the methods, as ``/package.Service/Method``, whose unary calls may be sent again to another
    instance when one does not answer (UNAVAILABLE); all others only if they surely were not sent. ``attempts`` bounds
    it, and the call's timeout covers all of them. Streams are never sent again.
    ``key(method, metadata)`` gives the key for the ``sticky`` strategy.
    ``endpoint``: use the address of that name among the instance's ``endpoints``.
    Calls to an instance that has gone from the view may go on for ``drain`` seconds.

    How each call ended is reported to the view. The view stays its owner's; close the channel before it.
    """
    return BalancedChannel(
        view,
        factory=grpc.aio.insecure_channel if channel_factory is None else channel_factory,
        idempotent=idempotent if callable(idempotent) else frozenset(idempotent).__contains__,
        key=key,
        endpoint=endpoint,
        attempts=max(1, attempts),
        drain=drain,
    )


class BalancedChannel(grpc.aio.Channel):
    """See :func:`balanced_channel`. Where there is no instance, calls fail with UNAVAILABLE."""

    def __init__(
        self,
        view: ServiceView,
        *,
        factory: Callable[[str], grpc.aio.Channel],
        idempotent: Callable[[str], bool],
        key: Callable[[str, Metadata], str | bytes | None] | None,
        endpoint: str | None,
        attempts: int,
        drain: float,
    ) -> None:
        self._view = view
        self._factory = factory
        self.is_idempotent: Callable[[str], bool] = idempotent
        """Whether a method may be sent again."""
        self._key = key
        self._endpoint = endpoint
        self.attempts: int = attempts
        """How often a unary call is sent at most."""
        self._drain = drain
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._seen: tuple[Instance, ...] = ()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    # -- for its calls ---------------------------------------------------------------------------------------------

    def pick(
        self, method: str, metadata: Metadata | None, avoid: frozenset[bytes] = frozenset()
    ) -> tuple[Instance, grpc.aio.Channel]:
        """Return an instance for a call, and the channel to it. Raises :class:`coord.NoInstance`."""
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        self._prune()
        key = None if self._key is None else self._key(method, metadata or ())
        instance = self._view.pick(key, avoid=avoid)
        return instance, self._channel(self._address(instance))

    def report(self, instance: Instance, *, ok: bool, latency: float | None) -> None:
        """Tell the view how a call has ended."""
        with contextlib.suppress(CoordError):  # the view may have been closed meanwhile
            self._view.report(instance, ok=ok, latency=latency)

    async def wait_for_instance(self) -> None:
        """Wait until there is one. Raises what the view raises."""
        await self._view.wait_for(1)

    def _address(self, instance: Instance) -> str:
        return address_of(instance, self._endpoint, self._view.service)

    def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._factory(address)
        return channel

    def _prune(self) -> None:
        """Let go of channels to instances that are gone; calls that run on them may end."""
        now = self._view.instances()
        if now is self._seen:
            return
        self._seen = now
        wanted = addresses(now, self._endpoint)
        for address in [known for known in self._channels if known not in wanted]:
            closing = start_task(self._channels.pop(address).close(self._drain))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    # -- the interface of a channel --------------------------------------------------------------------------------

    @override
    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what makes calls of a method with one request and one response."""

        def begin(request: Any, **options: Any) -> BalancedCall:  # noqa: ANN401 - gRPC's
            def send(channel: grpc.aio.Channel, timeout: float | None) -> Any:  # noqa: ANN401 - gRPC's
                made: Any = channel.unary_unary(method, request_serializer, response_deserializer)
                return made(request, **(options | {"timeout": timeout}))

            return BalancedCall(self, method, send, options)

        return begin

    @override
    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what makes calls of a method with one request and a stream of responses."""
        return self._once("unary_stream", method, request_serializer, response_deserializer)

    @override
    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what makes calls of a method with a stream of requests and one response."""
        return self._once("stream_unary", method, request_serializer, response_deserializer)

    @override
    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what makes calls of a method with streams both ways."""
        return self._once("stream_stream", method, request_serializer, response_deserializer)

    def _once(
        self,
        kind: str,
        method: str,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
    ) -> Callable[..., Any]:
        """Return what makes calls that are sent once, to the instance that is picked when they begin."""

        def begin(*requests: Any, **options: Any) -> Any:  # noqa: ANN401 - gRPC's
            try:
                instance, channel = self.pick(method, options.get("metadata"))
            except NoInstance as error:
                raise unavailable(error) from error
            made = getattr(channel, kind)(method, serializer, deserializer)
            call = made(*requests, **options)
            call.add_done_callback(Observed(self, instance))
            return call

        return begin

    @override
    async def close(self, grace: float | None = None) -> None:
        """Close the channels to all instances; calls that run get ``grace`` seconds."""
        self._closed = True
        channels, self._channels = self._channels, {}
        async with asyncio.TaskGroup() as group:
            for channel in channels.values():
                group.create_task(channel.close(grace))
        for task in list(self._closing):
            task.cancel()
        if self._closing:
            await asyncio.wait(self._closing)

    @override
    async def __aenter__(self) -> Self:
        """Close the channel at the end of the block."""
        return self

    @override
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the channel."""
        await self.close()

    @override
    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return READY when the channel to any instance is, else IDLE; SHUTDOWN when this one is closed."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if try_to_connect:
            for instance in self._view.instances():
                with contextlib.suppress(NoInstance):
                    self._channel(self._address(instance))
        states = {channel.get_state(try_to_connect) for channel in self._channels.values()}
        ready = grpc.ChannelConnectivity.READY
        return ready if ready in states else grpc.ChannelConnectivity.IDLE

    @override
    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until :meth:`get_state` tells another state."""
        while self.get_state() is last_observed_state:
            lists = self._view.watch()
            await anext(lists)
            waits: list[asyncio.Task[Any]] = [start_task(cast("Any", anext(lists)))]
            waits += [
                start_task(channel.wait_for_state_change(channel.get_state()))
                for channel in self._channels.values()
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
                await asyncio.wait(waits)

    @override
    async def channel_ready(self) -> None:
        """Wait until there is an instance, and a connection to it."""
        await self.wait_for_instance()
        _, channel = self.pick("", None)
        await channel.channel_ready()
