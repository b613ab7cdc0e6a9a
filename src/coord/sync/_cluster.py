"""The twin of the part of a client that asks about the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.sync._portal import Twin

if TYPE_CHECKING:
    from coord.store.values import Member, MemberStatus


class ClusterCalls(Twin[client.Client]):
    """The cluster of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Return the cluster's members."""
        return self._portal.call(self._async.members(timeout=timeout))

    def status(self, *, timeout: float | None = None) -> MemberStatus:
        """Ask one member for its state."""
        return self._portal.call(self._async.status(timeout=timeout))
