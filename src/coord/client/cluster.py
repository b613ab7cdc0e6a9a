"""The part of a client that asks about the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coord.core import Core
    from coord.store.values import Member, MemberStatus


class ClusterCalls:
    """The cluster of a :class:`coord.Client`."""

    _core: Core

    async def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Return the cluster's members."""
        return await self._core.admin.members(timeout=timeout)

    async def status(self, *, timeout: float | None = None) -> MemberStatus:
        """Ask one member for its state."""
        return await self._core.admin.status(timeout=timeout)
