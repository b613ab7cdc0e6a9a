"""The part of a client that knows who is there: services and groups, and what is divided among groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.errors import InvalidArgument
from coord.recipes.membership import Membership
from coord.recipes.partitioner import Partitioner
from coord.recipes.partitioner.partitioner import DEFAULT_MAX_MOVES
from coord.recipes.registry import Registry, services

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.registry import Instance


class RegistryCalls:
    """Services, groups and partitions of a :class:`coord.Client`."""

    _home: Coordination
    _mirrors: Mirrors

    def registry(self, service: str | bytes, *, ttl: int | None = None) -> Registry:
        """Return the service called ``service``, to register instances and to find them; see :class:`coord.Registry`.

        ``ttl``: seconds after which the entry of a crashed process is gone; None shares the client's default session.
        """
        return Registry(self._home, self._mirrors, service, ttl=_checked(ttl))

    def membership(self, name: str | bytes, *, ttl: int | None = None) -> Membership:
        """Return the group called ``name``; see :class:`coord.Membership`. ``ttl`` as for :meth:`registry`."""
        return Membership(self._home, self._mirrors, name, ttl=_checked(ttl))

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
        """Return one that divides ``partitions`` among all who run the partitioner ``name``; see :class:`Partitioner`.

        ``partitions`` are names, or a number that stands for ``"0"``, ``"1"``, ...; all members must be told the same.
        ``weight``: one with 2 gets twice as many as one with 1.
        ``settle``: seconds for which members and partitions must have stayed the same before anything moves.
        ``drain_timeout``: seconds that ``on_revoke`` has before a partition is given back all the same.
        ``max_moves``: how many partitions this member takes at a time, and how many it gives back.
        ``ttl``: as for :meth:`registry`; with one, the partitioner has a session of its own.
        """
        return Partitioner(
            self._home,
            self._mirrors,
            name,
            partitions,
            weight=weight,
            settle=settle,
            drain_timeout=drain_timeout,
            max_moves=max_moves,
            ttl=_checked(ttl),
        )

    async def services(
        self, prefix: str | bytes = "", *, timeout: float | None = None
    ) -> Mapping[str, tuple[Instance, ...]]:
        """Return all services whose names start with ``prefix``, with their instances, those of Go's resolvers too.

        For people and tools: there is no list of services, so this reads every key below ``prefix``.
        Raises :class:`coord.ServiceTimeout` after ``timeout`` seconds.
        """
        return await self._home.run(services(self._home.core, prefix, timeout=timeout))


def _checked(ttl: int | None) -> int | None:
    if ttl is not None and ttl < 1:
        raise InvalidArgument(f"ttl must be at least 1 second, not {ttl}")
    return ttl
