"""Endpoints that follow the cluster: the client URLs of its members take the place of the list given to ``connect()``.

As etcd's clients do it (spec core 7.1): voters that have started and advertise client URLs, from a linearizable list.
A list in which nothing is usable changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.errors import CoordError, EndpointMismatch, InvalidArgument
from coord.runtime import UnixAddress
from coord.target import Endpoint, Target, parse_target
from coord.transport.health import ConnectionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.runtime import Env
    from coord.store.admin import Admin
    from coord.store.values import Member
    from coord.transport import ClientTransport

_SYNC_WITHIN_S = 5.0
_JITTER = 0.1  # of the interval, both ways, so that many clients do not ask in step


class EndpointSync:
    """Replaces a transport's endpoints. On the runtime's loop.

    ``fixed``: the store is inside this process or machine, and where it is reached does not change.
    """

    def __init__(
        self, admin: Admin, transport: ClientTransport, env: Env, target: Target, *, fixed: bool
    ) -> None:
        self._admin = admin
        self._transport = transport
        self._env = env
        self._target = target
        self._current = target.endpoints
        self._fixed = fixed
        # Set once what the members advertise could not be reached: what was given then stays in the list.
        self._keeps_given = False

    async def once(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Ask for the members and use their endpoints; return the list in use.

        Raises what the call raises, and :class:`EndpointMismatch`; the old list then stays.
        """
        if self._fixed:
            return self._transport.endpoints
        members = await self._admin.members(
            linearizable=True, timeout=_SYNC_WITHIN_S if timeout is None else timeout
        )
        found = usable(members, self._target)
        if found:
            self._use(_joined(found, self._target.endpoints) if self._keeps_given else found)
        return self._transport.endpoints

    def _use(self, endpoints: tuple[Endpoint, ...]) -> None:
        if {e.address for e in endpoints} != {e.address for e in self._current}:
            self._current = endpoints
            self._transport.set_endpoints(endpoints)

    async def keep_syncing(self, every: float) -> None:
        """Do it every so many seconds, at once for the first time; failures keep the list.

        When no endpoint of the list can be reached, those given to ``connect()`` join it, for good.
        """
        while True:
            try:
                await self.once()
            except CoordError:
                if self._transport.health.read().state is not ConnectionState.READY:
                    self._keeps_given = True
                    self._use(_joined(self._current, self._target.endpoints))
            await asyncio.sleep(every * self._env.rand.uniform(1 - _JITTER, 1 + _JITTER))


def usable(members: Iterable[Member], target: Target) -> tuple[Endpoint, ...]:
    """Return the endpoints of those who serve: voters that have started, by the URLs that fit the client.

    Raises :class:`EndpointMismatch` when there are URLs, but all of the other kind with regard to TLS.
    """
    secure = target.tls is not None
    found: dict[object, Endpoint] = {}
    others: list[str] = []
    for member in members:
        if member.is_learner or not member.name:
            continue
        for url in member.client_urls:
            endpoint = _parsed(url, target)
            if endpoint is None:
                continue
            if endpoint.tls == secure:
                found[endpoint.address] = endpoint
            else:
                others.append(url)
    if others and not found:
        raise EndpointMismatch(tuple(others), secure=secure)
    return tuple(found.values())


def _parsed(url: str, target: Target) -> Endpoint | None:
    scheme = url.partition(":")[0]
    try:
        (parsed,) = parse_target([url]).endpoints
    except (InvalidArgument, ValueError):
        return None  # some clusters advertise what no client can use
    # A socket says nothing of TLS, unless it is unixs:.
    if isinstance(parsed.address, UnixAddress) and scheme == "unix":
        return Endpoint(address=parsed.address, tls=target.tls is not None, text=url)
    return parsed


def _joined(one: tuple[Endpoint, ...], two: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    return tuple({e.address: e for e in (*one, *two)}.values())
