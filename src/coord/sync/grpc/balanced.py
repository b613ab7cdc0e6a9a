"""A blocking gRPC channel over all instances of a service."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self

import grpc
from typing_extensions import override

from coord.errors import CoordError, CoordTimeout
from coord.grpc.addresses import address_of, addresses
from coord.grpc.balanced import ATTEMPTS, DRAIN_S
from coord.grpc.faults import is_its_fault
from coord.recipes.registry import NoInstance
from coord.sync._portal import behind, portal_of
from coord.sync.grpc.calls import Once, Refused, UnaryUnary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from coord.recipes.registry import Instance
    from coord.sync.registry import ServiceView

    Metadata = Sequence[tuple[str, str | bytes]]
    Serializer = Callable[[Any], bytes]
    Deserializer = Callable[[bytes], Any]
    OnState = Callable[[grpc.ChannelConnectivity], None]


def balanced_channel(
    view: ServiceView,
    *,
    channel_factory: Callable[[str], grpc.Channel] | None = None,
    idempotent: Collection[str] | Callable[[str], bool] = (),
    key: Callable[[str, Metadata], str | bytes | None] | None = None,
    endpoint: str | None = None,
    attempts: int = ATTEMPTS,
    drain: float = DRAIN_S,
) -> BalancedChannel:
    """Return a channel that sends each call to the instance that ``view`` picks; for any thread.

    As :func:`coord.grpc.balanced_channel`, with ``grpc.insecure_channel`` where nothing else is given.
    """
    return BalancedChannel(
        view,
        factory=grpc.insecure_channel if channel_factory is None else channel_factory,
        idempotent=idempotent if callable(idempotent) else frozenset(idempotent).__contains__,
        key=key,
        endpoint=endpoint,
        attempts=max(1, attempts),
        drain=drain,
    )


class Member:
    """The channel to one address, and how many calls run on it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.calls: int = 0


class BalancedChannel(grpc.Channel):
    """See :func:`balanced_channel`. Where there is no instance, calls fail with UNAVAILABLE."""

    def __init__(
        self,
        view: ServiceView,
        *,
        factory: Callable[[str], grpc.Channel],
        idempotent: Callable[[str], bool],
        key: Callable[[str, Metadata], str | bytes | None] | None,
        endpoint: str | None,
        attempts: int,
        drain: float,
    ) -> None:
        self._view = view
        self._portal = portal_of(view)
        self._factory = factory
        self.is_idempotent: Callable[[str], bool] = idempotent
        """Whether a method may be sent again."""
        self._key = key
        self._endpoint = endpoint
        self.attempts: int = attempts
        """How often a unary call is sent at most."""
        self._drain = drain
        self._lock = threading.RLock()
        self._members: dict[str, Member] = {}
        self._gone: set[Member] = set()
        self._seen: tuple[Instance, ...] = ()
        self._closed = False
        self._states: dict[str, grpc.ChannelConnectivity] = {}
        self._listeners: list[OnState] = []
        self._told: grpc.ChannelConnectivity | None = None

    # -- for its calls ---------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return monotonic seconds, by the client's clock."""
        return self._portal.core.env.clock.mono()

    def pick(
        self, method: str, metadata: Metadata | None, avoid: frozenset[bytes] = frozenset()
    ) -> tuple[Instance, Member]:
        """Return an instance for a call, and where to send it; :meth:`ended` must follow.

        Raises :class:`coord.NoInstance`.
        """
        key = None if self._key is None else self._key(method, metadata or ())
        with self._lock:
            if self._closed:
                raise ValueError("Cannot invoke RPC on closed channel!")
            self._prune()
            instance = self._view.pick(key, avoid=avoid)
            member = self._member(self._address(instance))
            member.calls += 1
        return instance, member

    def ended(
        self, instance: Instance, member: Member, code: grpc.StatusCode | None, latency: float
    ) -> None:
        """Take note of how a call has ended, and tell the view."""
        with self._lock:
            member.calls -= 1
            closes = not member.calls and member in self._gone
            if closes:
                self._gone.discard(member)
        if closes:
            member.channel.close()
        with contextlib.suppress(CoordError):  # the view may have been closed meanwhile
            self._view.report(instance, ok=not is_its_fault(code), latency=latency)

    def wait_for_instance(self, timeout: float | None) -> None:
        """Wait until there is one. Raises :class:`Refused` with DEADLINE_EXCEEDED."""
        try:
            self._view.wait_for(1, timeout=timeout)
        except CoordTimeout as error:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise Refused(code, "there is no instance") from error

    def when_instance(self, timeout: float | None, go_on: Callable[[bool], object]) -> None:
        """Call ``go_on`` from another thread when there is one, with whether there is."""

        async def wait() -> None:
            found = False
            try:
                await behind(self._view).wait_for(1, timeout=timeout)
                found = True
            except CoordError:
                pass
            await asyncio.to_thread(go_on, found)

        self._portal.runtime.post(
            lambda: self._portal.in_background(wait(), name="wait for an instance")
        )

    def _address(self, instance: Instance) -> str:
        return address_of(instance, self._endpoint, self._view.service)

    def _member(self, address: str) -> Member:
        member = self._members.get(address)
        if member is None:
            member = self._members[address] = Member(self._factory(address))
            if self._listeners:
                self._listen(address, member, try_to_connect=False)
        return member

    def _prune(self) -> None:
        """Let go of channels to instances that are gone; calls that run on them may end."""
        now = self._view.instances()
        if now is self._seen:
            return
        self._seen = now
        wanted = addresses(now, self._endpoint)
        for address in [known for known in self._members if known not in wanted]:
            member = self._members.pop(address)
            self._states.pop(address, None)
            if member.calls:
                self._gone.add(member)
                self._close_later(member)
            else:
                member.channel.close()

    def _close_later(self, member: Member) -> None:
        async def close() -> None:
            await asyncio.sleep(self._drain)
            with self._lock:
                left = member in self._gone
                self._gone.discard(member)
            if left:
                member.channel.close()

        self._portal.runtime.post(
            lambda: self._portal.in_background(close(), name="drain a gRPC channel")
        )

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
        return UnaryUnary(self, method, request_serializer, response_deserializer)

    @override
    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what makes calls of a method with one request and a stream of responses."""
        return Once(self, "unary_stream", method, request_serializer, response_deserializer)

    @override
    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what makes calls of a method with a stream of requests and one response."""
        return Once(self, "stream_unary", method, request_serializer, response_deserializer)

    @override
    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return what makes calls of a method with streams both ways."""
        return Once(self, "stream_stream", method, request_serializer, response_deserializer)

    @override
    def close(self) -> None:
        """Close the channels to all instances; calls that run are cancelled."""
        with self._lock:
            self._closed = True
            members = [*self._members.values(), *self._gone]
            self._members.clear()
            self._gone.clear()
            self._listeners.clear()
        for member in members:
            member.channel.close()

    @override
    def __enter__(self) -> Self:
        """Close the channel at the end of the block."""
        return self

    @override
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the channel."""
        self.close()

    # -- its state -------------------------------------------------------------------------------------------------

    @override
    def subscribe(self, callback: OnState, try_to_connect: bool | None = None) -> None:
        """Tell ``callback`` of READY, when the channel to any instance is, and of IDLE, from a thread of gRPC's.

        With ``try_to_connect`` connects to the instances, as soon as there are some.
        """
        with self._lock:
            first = not self._listeners
            self._listeners.append(callback)
            told = self._told = self._state()
            if first:
                for address, member in self._members.items():
                    self._listen(address, member, try_to_connect=bool(try_to_connect))
        callback(told)
        if try_to_connect:
            self.when_instance(None, self._connect)

    @override
    def unsubscribe(self, callback: OnState) -> None:
        """Tell ``callback`` no more."""
        with self._lock, contextlib.suppress(ValueError):
            self._listeners.remove(callback)

    def _connect(self, found: bool) -> None:  # noqa: FBT001 - as it is called
        with self._lock:
            if self._closed or not found:
                return
            self._prune()
            for instance in self._view.instances():
                with contextlib.suppress(NoInstance):
                    address = self._address(instance)
                    self._listen(address, self._member(address), try_to_connect=True)

    def _listen(self, address: str, member: Member, *, try_to_connect: bool) -> None:
        def changed(state: grpc.ChannelConnectivity) -> None:
            with self._lock:
                if self._members.get(address) is not member:
                    return
                self._states[address] = state
                now = self._state()
                if now is self._told:
                    return
                self._told = now
                listeners = tuple(self._listeners)
            for listener in listeners:
                listener(now)

        member.channel.subscribe(changed, try_to_connect=try_to_connect)

    def _state(self) -> grpc.ChannelConnectivity:
        ready = grpc.ChannelConnectivity.READY
        return ready if ready in self._states.values() else grpc.ChannelConnectivity.IDLE
