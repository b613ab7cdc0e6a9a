"""The twin of the part of a client that grants and ends leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.sync._portal import Twin

if TYPE_CHECKING:
    from coord.store.values import LeaseGrant, LeaseInfo


class LeaseCalls(Twin[client.Client]):
    """Leases of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def lease_grant(
        self, ttl: int, *, lease_id: int | None = None, timeout: float | None = None
    ) -> LeaseGrant:
        """Grant a lease of ``ttl`` seconds, which nobody renews: :meth:`session` does that."""
        return self._portal.call(self._async.lease_grant(ttl, lease_id=lease_id, timeout=timeout))

    def lease_revoke(self, lease_id: int, *, timeout: float | None = None) -> int:
        """End a lease and delete its keys; return the revision. Raises :class:`coord.LeaseNotFound`."""
        return self._portal.call(self._async.lease_revoke(lease_id, timeout=timeout))

    def lease_time_to_live(
        self, lease_id: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseInfo:
        """Ask how long a lease has, and with ``keys=True`` which keys are attached to it."""
        return self._portal.call(
            self._async.lease_time_to_live(lease_id, keys=keys, timeout=timeout)
        )

    def lease_keep_alive_once(self, lease_id: int, *, timeout: float | None = None) -> int:
        """Renew a lease once; return its full TTL in seconds. Raises :class:`coord.LeaseNotFound`."""
        return self._portal.call(self._async.lease_keep_alive_once(lease_id, timeout=timeout))

    def leases(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """Return the ids of all leases that the answering member knows."""
        return self._portal.call(self._async.leases(timeout=timeout))
