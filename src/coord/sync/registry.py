"""The twins of services, their instances and views."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Self, TypeVar

from coord.errors import InvalidArgument
from coord.recipes import registry
from coord.recipes.registry import HealthCheck
from coord.recipes.registry.brake import BRAKE_RATIO
from coord.sync._portal import Iteration, Twin
from coord.sync.signals import OneShot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from types import TracebackType

    from coord.errors import DecodeError
    from coord.recipes.presence import OnRemoved
    from coord.recipes.registry import Instance, Strategy
    from coord.recipes.registry.instance import Health
    from coord.recipes.registry.picking import StrategyName

F = TypeVar("F")


class Registration(Twin[registry.Registration]):
    """A registered instance, until it is deregistered; see :class:`coord.Registration`. A context manager."""

    __slots__ = ()

    def __enter__(self) -> Self:
        """Deregister at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Deregister."""
        self.deregister()

    @property
    def key(self) -> bytes:
        """The key in the store."""
        return self._async.key

    @property
    def id(self) -> str:
        """The id of the instance within its service."""
        return self._async.id

    @property
    def addr(self) -> str:
        """Where the instance listens."""
        return self._async.addr

    @property
    def token(self) -> int:
        """Names the present incarnation of the registration; it rises."""
        return self._async.token

    @property
    def health(self) -> Health:
        """``serving``, ``failing`` or ``draining``."""
        return self._async.health

    @property
    def is_listed(self) -> bool:
        """Whether it is in the store, as far as this process knows."""
        return self._async.is_listed

    @property
    def lost(self) -> OneShot:
        """Fires once when it is gone for good without our doing."""
        return OneShot(self._portal, self._async.lost)

    def update(
        self,
        *,
        weight: int | None = None,
        zone: str | None = None,
        version: str | None = None,
        tags: tuple[str, ...] | None = None,
        shard: str | None = None,
        endpoints: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Change what the entry says; None leaves a field as it is. See :meth:`coord.Registration.update`."""
        self._portal.call(
            self._async.update(
                weight=weight,
                zone=zone,
                version=version,
                tags=tags,
                shard=shard,
                endpoints=endpoints,
                metadata=metadata,
                timeout=timeout,
            )
        )

    def drain(self, seconds: float) -> bool:
        """Say that no new calls should come, wait ``seconds``, and deregister. Ctrl-C deregisters at once."""
        return self._portal.call(self._async.drain(seconds))

    def deregister(self) -> bool:
        """Remove the entry; False if it was lost before. A second call returns at once."""
        return self._portal.call(self._async.deregister())


class ServiceView(Twin[registry.ServiceView]):
    """The instances of one service, live; see :class:`coord.ServiceView`. A context manager; for any thread."""

    __slots__ = ()

    def __enter__(self) -> Self:
        """Close the view at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the view."""
        self.close()

    def close(self) -> None:
        """End it, without waiting. Safe to call twice."""
        self._async.close()

    @property
    def service(self) -> str:
        """The name of the service."""
        return self._async.service

    def instances(self) -> tuple[Instance, ...]:
        """Return all instances that the filter lets through, by their keys."""
        return self._async.instances()

    @property
    def stale_for(self) -> float:
        """Seconds for which changes may be missing: 0 while the store watches."""
        return self._async.stale_for

    @property
    def undecodable(self) -> Mapping[bytes, DecodeError]:
        """Entries of the service that are no instances, and why."""
        return self._async.undecodable

    def watch(self) -> Iteration[tuple[Instance, ...]]:
        """Return an iterator over the instances now, and again after each change. Close it, or use it in a ``with``."""
        return Iteration(self._portal, self._async.watch())

    def wait_for(self, n: int, *, timeout: float | None = None) -> tuple[Instance, ...]:
        """Wait until there are at least ``n`` instances that serve, and return these."""
        return self._portal.call(self._async.wait_for(n, timeout=timeout))

    def pick(self, key: str | bytes | None = None, *, avoid: Collection[bytes] = ()) -> Instance:
        """Return the instance to use next. Raises :class:`coord.NoInstance`."""
        return self._async.pick(key, avoid=avoid)

    def report(self, instance: Instance, *, ok: bool, latency: float | None = None) -> None:
        """Tell how a call to ``instance`` has ended, and within how many seconds."""
        self._async.report(instance, ok=ok, latency=latency)


class Registry(Twin[registry.Registry]):
    """The instances of one service; see :class:`coord.Registry`. Made by ``client.registry(service)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name of the service, as it stands in the store."""
        return self._async.name

    def register(  # noqa: PLR0913 - everything that an instance may say of itself
        self,
        addr: str,
        *,
        id: str | None = None,  # noqa: A002 - the field's word
        weight: int = 1,
        zone: str | None = None,
        version: str | None = None,
        tags: Sequence[str] = (),
        shard: str | None = None,
        endpoints: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        health: HealthCheck | str | Callable[[], bool] | None = None,
        on_removed: OnRemoved = "restore",
        takeover: bool = False,
        timeout: float | None = None,
    ) -> Registration:
        """List the instance at ``addr``: ``with registry.register(...)``, or deregister it yourself.

        As :meth:`coord.Registry.register`. A function for ``health`` is called by worker threads.
        """
        opening = self._async.register(
            addr,
            id=id,
            weight=weight,
            zone=zone,
            version=version,
            tags=tags,
            shard=shard,
            endpoints=endpoints,
            metadata=metadata,
            health=_plain("health", health),
            on_removed=on_removed,
            takeover=takeover,
            timeout=timeout,
        )
        made = self._portal.obtain(opening.open, registry.Registration.discard)
        return Registration(self._portal, made)

    def discover(
        self,
        *,
        strategy: StrategyName | Strategy = "round_robin",
        zone: str | None = None,
        filter: Callable[[Instance], bool] | None = None,  # noqa: A002 - the field's word
        probe: Callable[[Instance], bool] | None = None,
        brake_ratio: float = BRAKE_RATIO,
        brake_grace: float | None = None,
        timeout: float | None = None,
    ) -> ServiceView:
        """Follow the service: ``with registry.discover() as view``, or close the view yourself.

        As :meth:`coord.Registry.discover`. ``probe`` is called by worker threads.
        """
        opening = self._async.discover(
            strategy=strategy,
            zone=zone,
            filter=filter,
            probe=_plain("probe", probe),
            brake_ratio=brake_ratio,
            brake_grace=brake_grace,
            timeout=timeout,
        )
        made = self._portal.obtain(opening.open, registry.ServiceView.close)
        return ServiceView(self._portal, made)


def _plain(what: str, given: F) -> F:
    """Return what was given. Raises :class:`InvalidArgument` for a coroutine function: no loop is here to run it."""
    asked = given.ask if isinstance(given, HealthCheck) else given
    if inspect.iscoroutinefunction(asked):
        raise InvalidArgument(f"{what} must be a plain function here")
    return given
