"""The part of a client that grants and ends leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.errors import LeaseNotFound
from coord.rpc.status import StatusCode

if TYPE_CHECKING:
    from coord.core import Core
    from coord.store.values import LeaseGrant, LeaseInfo


class LeaseCalls:
    """Leases of a :class:`coord.Client`."""

    _core: Core

    async def lease_grant(
        self, ttl: int, *, lease_id: int | None = None, timeout: float | None = None
    ) -> LeaseGrant:
        """Grant a lease of ``ttl`` seconds; the server raises short ones to its minimum.

        Nobody renews it: :meth:`session` does that.
        Raises :class:`LeaseExists` when ``lease_id`` is taken.
        """
        return await self._core.leases.grant(ttl, lease_id=lease_id, timeout=timeout)

    async def lease_revoke(self, lease_id: int, *, timeout: float | None = None) -> int:
        """End a lease and delete its keys; return the revision. Raises :class:`LeaseNotFound`."""
        return await self._core.leases.revoke(lease_id, timeout=timeout)

    async def lease_time_to_live(
        self, lease_id: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseInfo:
        """Ask how long a lease has, and with ``keys=True`` which keys are attached to it."""
        return await self._core.leases.time_to_live(lease_id, keys=keys, timeout=timeout)

    async def lease_keep_alive_once(self, lease_id: int, *, timeout: float | None = None) -> int:
        """Renew a lease once; return its full TTL in seconds. Raises :class:`LeaseNotFound`."""
        core = self._core
        ttl = await core.runtime.run(core.leases.keep_alive_once(lease_id, timeout=timeout))
        if ttl <= 0:
            raise LeaseNotFound(StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        return ttl

    async def leases(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """Return the ids of all leases that the answering member knows."""
        return await self._core.leases.leases(timeout=timeout)
