"""Registering instances of a service, and finding them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from coord._telemetry import REGISTRY, observed_wait
from coord.cache import Cache
from coord.cache.mirror import Limits
from coord.codec.values import decoded
from coord.entry import META_PREFIX, check_name
from coord.errors import CacheTimeout, DecodeError, InvalidArgument
from coord.names import as_text
from coord.recipes.asking import Question
from coord.recipes.opening import Opening
from coord.recipes.presence import KeyTaken, Presence
from coord.recipes.registry.brake import BRAKE_RATIO, Brake
from coord.recipes.registry.errors import AlreadyRegistered, ServiceTimeout
from coord.recipes.registry.health import Checker, HealthCheck
from coord.recipes.registry.instance import Instance, Record, RecordCodec
from coord.recipes.registry.picking import strategy_of
from coord.recipes.registry.registration import Registration
from coord.recipes.registry.view import Follower, ServiceView
from coord.store.keys import prefix_range
from coord.store.paging import Pages
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.core import Core
    from coord.recipes.presence import OnRemoved
    from coord.recipes.registry.picking import Strategy, StrategyName

DEFAULT_TTL_S = 15
_MAX_INSTANCES = 100_000
_MAX_BYTES = 1 << 28
_CODEC = RecordCodec()


class Registry:
    """The instances of one service. Made by ``client.registry(service)``; holds nothing by itself.

    ``ttl``: seconds after which the entry of a crashed process is gone; None shares the client's default session.
    """

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        service: str | bytes,
        *,
        ttl: int | None = None,
    ) -> None:
        self._home = home
        self._mirrors = mirrors
        self.name: bytes = home.claim(check_name(service))
        """The name of the service, as it stands in the store."""
        self._text = as_text(self.name)
        self._prefix = self.name + b"/"
        self._ttl = ttl

    # -- registering -----------------------------------------------------------------------------------------------

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
        health: HealthCheck | str | Callable[[], bool | Awaitable[bool]] | None = None,
        on_removed: OnRemoved = "restore",
        takeover: bool = False,
        timeout: float | None = None,
    ) -> Opening[Registration]:
        """List the instance at ``addr``: ``async with registry.register(...)``, or await it and deregister yourself.

        ``id`` is unique within the service, by default ``addr``; another registration of it raises
        :class:`coord.AlreadyRegistered`, or is replaced with ``takeover=True``.
        ``health`` takes the entry away while the instance is not well: a :class:`coord.HealthCheck`, or the function
        or URL that it asks.
        ``on_removed``: whether an entry that others have deleted is put again (``"restore"``), or is lost (``"stop"``).
        ``metadata`` is yours, as JSON.

        Raises :class:`coord.ServiceTimeout` after ``timeout`` seconds; nothing is left of it then, nor after a
        cancellation. Raises :class:`coord.PayloadTooLarge` for an entry above the client's ``max_value_bytes``.
        """
        record = Record(
            addr=addr,
            id=addr if id is None else id,
            nonce=format(self._home.env.rand.bits(64), "016x"),
            weight=weight,
            zone=zone or "",
            version=version or "",
            tags=tuple(tags),
            shard=shard or "",
            endpoints=endpoints or {},
            since=self._home.env.clock.wall(),
            metadata=metadata or {},
        )
        record.check()
        what = f"the entry of instance {record.id!r} of service {self._text!r}"
        to_value(record.encode(), what, self._home.txn.max_value_bytes)
        check = health if health is None or isinstance(health, HealthCheck) else HealthCheck(health)
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")

        async def open_it() -> Registration:
            checker = None if check is None else Checker(self._home.core, check)
            presence = Presence(
                self._home,
                self._prefix + record.id.encode(),
                recipe=REGISTRY,
                is_ours=lambda value: _nonce_of(value) == record.nonce,
                ttl=self._ttl,
                on_removed=on_removed,
            )
            made = Registration(self._home, presence, record, checker)
            waiting = observed_wait(
                REGISTRY,
                REGISTRY.wait,
                self._text,
                lambda: self._register(made, presence, record, takeover, timeout),
                clock=self._home.env.clock,
            )
            return await self._home.run(waiting, discard=Registration.discard)

        return Opening(open_it, _deregister)

    async def _register(
        self,
        made: Registration,
        presence: Presence,
        record: Record,
        takeover: bool,  # noqa: FBT001 - handed on
        timeout: float | None,
    ) -> Registration:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await presence.open(record.encode(), takeover=takeover)
        except TimeoutError:
            if not scope.expired():
                raise
            raise ServiceTimeout(
                f"registering {record.id!r} of {self._text!r}",
                timeout,
                explain="the store did not answer",
            ) from None
        except KeyTaken as error:
            holder = "" if error.holder is None else _addr_of(error.holder.value)
            raise AlreadyRegistered(self._text, record.id, holder) from None
        made.begin()
        return made

    # -- finding ---------------------------------------------------------------------------------------------------

    def discover(
        self,
        *,
        strategy: StrategyName | Strategy = "round_robin",
        zone: str | None = None,
        filter: Callable[[Instance], bool] | None = None,  # noqa: A002 - the field's word
        probe: Callable[[Instance], bool | Awaitable[bool]] | None = None,
        brake_ratio: float = BRAKE_RATIO,
        brake_grace: float | None = None,
        timeout: float | None = None,
    ) -> Opening[ServiceView]:
        """Follow the service: ``async with registry.discover() as view``, or await it and close the view yourself.

        The view is complete when this returns; a store that is down is waited for, for ``timeout`` seconds
        (:class:`coord.ServiceTimeout`).
        ``strategy`` picks: ``round_robin``, ``random``, ``weighted``, ``least_loaded``, ``sticky`` or your own.
        With ``zone`` instances of that zone come first, until less than half of its capacity is in order;
        ``strategy="zone"`` is ``round_robin`` with a zone.
        ``filter`` leaves instances out; it is called by readers, once for each list.
        When more than ``brake_ratio`` of at least four instances vanish within one TTL, they stay listed for
        ``brake_grace`` seconds (default: two TTLs), unless ``probe`` finds them dead.
        """
        if strategy == "zone" and zone is None:
            raise InvalidArgument("the zone strategy needs zone=")
        if not 0 < brake_ratio <= 1:
            raise InvalidArgument(f"brake_ratio must be in (0, 1], not {brake_ratio}")
        chosen = strategy_of(strategy, self._home.env.rand)
        ttl = DEFAULT_TTL_S if self._ttl is None else self._ttl
        grace = 2.0 * ttl if brake_grace is None else brake_grace

        async def open_it() -> ServiceView:
            core = self._home.core
            question = None if probe is None else Question(core, probe)
            brake = Brake(ratio=brake_ratio, window=ttl, grace=grace)
            follower = await self._home.run(
                self._follow(brake, question, timeout), discard=Follower.stop
            )
            return ServiceView(core, self._text, follower, chosen, zone=zone, accept=filter)

        return Opening(open_it, _close)

    async def _follow(
        self, brake: Brake, probe: Question[bool] | None, timeout: float | None
    ) -> Follower:
        start, end = prefix_range(self._prefix)
        limits = Limits(max_keys=_MAX_INSTANCES, max_bytes=_MAX_BYTES)
        cache: Cache[Record] = Cache(
            self._mirrors, start, end, codec=_CODEC, limits=limits, timeout=timeout
        )
        try:
            await cache.open(timeout=timeout)
        except CacheTimeout as error:
            raise ServiceTimeout(
                f"discovering {self._text!r}", timeout, explain=error.explain
            ) from None
        follower = Follower(self._home.core, cache, self._prefix, brake, probe)
        follower.start()
        return follower


async def services(
    core: Core, prefix: str | bytes, *, timeout: float | None
) -> dict[str, tuple[Instance, ...]]:
    """Return all services whose names start with ``prefix``, with their instances. On the runtime's loop.

    There is no list of services: this reads every key below ``prefix``, and takes those whose value is an instance's.
    """
    found: dict[str, list[Instance]] = {}
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            async for page in Pages(core.kv, prefix_range(prefix)):
                for kv in page.items:
                    service, slash, _ = kv.key.rpartition(b"/")
                    if not slash or kv.key.startswith(META_PREFIX) or not kv.value.startswith(b"{"):
                        continue
                    try:
                        entry = decoded(_CODEC, kv)
                    except DecodeError:
                        continue
                    name = as_text(service)
                    found.setdefault(name, []).append(Instance.of(service + b"/", entry))
    except TimeoutError:
        if not scope.expired():
            raise
        raise ServiceTimeout("reading the services", timeout) from None
    return {name: tuple(instances) for name, instances in sorted(found.items())}


async def _deregister(registration: Registration, _: bool) -> None:  # noqa: FBT001 - as Opening calls it
    await registration.deregister()


async def _close(view: ServiceView, _: bool) -> None:  # noqa: FBT001 - as Opening calls it
    view.close()


def _nonce_of(value: bytes) -> str:
    try:
        return _CODEC.decode(value).nonce
    except DecodeError:
        return ""


def _addr_of(value: bytes) -> str:
    try:
        return _CODEC.decode(value).addr
    except DecodeError:
        return "another program"
