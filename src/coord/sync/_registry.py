"""The twin of the part of a client that knows who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.recipes.partitioner.partitioner import DEFAULT_MAX_MOVES
from coord.sync._portal import Twin
from coord.sync.membership import Membership
from coord.sync.partitioner import Partitioner
from coord.sync.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coord.recipes.registry import Instance


class RegistryCalls(Twin[client.Client]):
    """Services, groups and partitions of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def registry(self, service: str | bytes, *, ttl: int | None = None) -> Registry:
        """Return the service called ``service``, to register instances and to find them; see :class:`Registry`."""
        return Registry(self._portal, self._async.registry(service, ttl=ttl))

    def membership(self, name: str | bytes, *, ttl: int | None = None) -> Membership:
        """Return the group called ``name``; see :class:`Membership`."""
        return Membership(self._portal, self._async.membership(name, ttl=ttl))

    def partitioner(
        self,
        name: str | bytes,
        partitions: int | Iterable[str],
        *,
        weight: int = 1,
        settle: float = 1.0,
        drain_timeout: float = 10,
        max_moves: int = DEFAULT_MAX_MOVES,
        ttl: int | None = None,
    ) -> Partitioner:
        """Return one that divides ``partitions`` among all who run it; see :meth:`coord.Client.partitioner`."""
        made = self._async.partitioner(
            name,
            partitions,
            weight=weight,
            settle=settle,
            drain_timeout=drain_timeout,
            max_moves=max_moves,
            ttl=ttl,
        )
        return Partitioner(self._portal, made)

    def services(
        self, prefix: str | bytes = "", *, timeout: float | None = None
    ) -> Mapping[str, tuple[Instance, ...]]:
        """Return all services whose names start with ``prefix``, with their instances. For people and tools."""
        return self._portal.call(self._async.services(prefix, timeout=timeout))
