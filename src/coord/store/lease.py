"""Leases (etcd API: Lease). Keeping one alive is the business of :mod:`coord.session`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.errors import CoordTimeout, LeaseExists, ProtocolError
from coord.rpc.status import RpcError, StatusCode
from coord.store.caller import Caller, Repeat
from coord.store.keyspace import EVERYTHING, Keyspace
from coord.store.values import LeaseGrant, LeaseInfo
from coord.wire import fast, methods, rpc_pb2

if TYPE_CHECKING:
    from coord.runtime import Rand

_TRANSIENT = (StatusCode.UNAVAILABLE, StatusCode.INTERNAL)
_PAUSE_MIN_S = 0.02
_PAUSE_MAX_S = 0.1


def new_lease_id(rand: Rand) -> int:
    """Return a random positive id of 63 bits, never 0."""
    return rand.bits(63) or 1


class Leases:
    """Grants, revocations and questions about leases."""

    def __init__(self, caller: Caller, keyspace: Keyspace = EVERYTHING) -> None:
        self._caller = caller
        self._keyspace = keyspace

    async def grant(
        self,
        ttl: int,
        *,
        lease_id: int | None = None,
        reuse: bool = False,
        timeout: float | None = None,
    ) -> LeaseGrant:
        """Grant a lease of ``ttl`` seconds; the server may raise short ones to its minimum.

        Without ``lease_id`` a random one is chosen here, so that a repeated request cannot leave a second lease:
        "already exists" then means that an earlier attempt landed.
        Raises :class:`LeaseExists` when the given id is taken, unless ``reuse`` says that it can only be our own.
        """
        chosen = new_lease_id(self._caller.env.rand) if lease_id is None else lease_id
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=chosen)
        try:
            response = await self._caller.call(
                methods.LEASE_GRANT, request, repeat=Repeat.IDEMPOTENT, timeout=timeout
            )
        except LeaseExists:
            if lease_id is not None and not reuse:
                raise
            info = await self.time_to_live(chosen, timeout=timeout)
            return LeaseGrant(lease_id=chosen, ttl=info.granted, revision=0)
        return LeaseGrant(lease_id=response.ID, ttl=response.TTL, revision=response.header.revision)

    async def revoke(self, lease_id: int, *, timeout: float | None = None) -> int:
        """End a lease and delete its keys; return the revision.

        Safe to repeat, and repeated when the answer is missing; then :class:`LeaseNotFound` may mean that an earlier
        attempt did it.
        """
        response = await self._caller.call(
            methods.LEASE_REVOKE,
            rpc_pb2.LeaseRevokeRequest(ID=lease_id),
            repeat=Repeat.IDEMPOTENT,
            timeout=timeout,
        )
        return response.header.revision

    async def time_to_live(
        self, lease_id: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseInfo:
        """Ask how long a lease has; ``remaining`` is None when it does not exist.

        Of its keys, those in this client's namespace are told.
        """
        response = await self._caller.call(
            methods.LEASE_TIME_TO_LIVE,
            rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=keys),
            repeat=Repeat.READ,
            timeout=timeout,
        )
        missing = response.TTL == -1 and response.grantedTTL == 0
        return LeaseInfo(
            lease_id=lease_id,
            remaining=None if missing else float(response.TTL),
            granted=response.grantedTTL,
            keys=self._keyspace.own(response.keys),
        )

    async def keep_alive_once(self, lease_id: int, *, timeout: float | None = None) -> int:
        """Renew a lease once and return its TTL in seconds, 0 or less when it does not exist.

        On the runtime's loop only.
        Raises :class:`Unavailable`, or :class:`CoordTimeout` after ``timeout`` seconds.
        """
        limit = self._caller.request_timeout if timeout is None else timeout
        clock, rand = self._caller.env.clock, self._caller.env.rand
        deadline = clock.mono() + limit
        while True:
            try:
                async with asyncio.timeout(deadline - clock.mono()):
                    return await self._renew(lease_id, deadline - clock.mono())
            except TimeoutError:
                raise CoordTimeout("LeaseKeepAlive", limit) from None
            except RpcError as error:
                pause = rand.uniform(_PAUSE_MIN_S, _PAUSE_MAX_S)
                if error.code not in _TRANSIENT or clock.mono() + pause >= deadline:
                    path = methods.LEASE_KEEP_ALIVE.path
                    raise self._caller.failure(path, error, Repeat.READ, limit) from error
            await asyncio.sleep(pause)

    async def _renew(self, lease_id: int, timeout: float) -> int:
        stream = await self._caller.transport.open_stream(
            methods.LEASE_KEEP_ALIVE.path, timeout=timeout
        )
        try:
            stream.send(fast.encode_keep_alive(lease_id))
            message = await stream.receive()
        finally:
            stream.cancel()
        decoded = None if message is None else fast.decode_keep_alive_response(message)
        if decoded is None:
            raise ProtocolError("LeaseKeepAlive: the stream ended without an answer")
        return decoded[1]

    async def leases(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """Return the ids of all leases that the answering member knows."""
        response = await self._caller.call(
            methods.LEASE_LEASES, rpc_pb2.LeaseLeasesRequest(), repeat=Repeat.READ, timeout=timeout
        )
        return tuple([lease.ID for lease in response.leases])
