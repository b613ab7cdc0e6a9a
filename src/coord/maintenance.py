"""Looking after the members of a cluster, each by its endpoint (etcd API: Maintenance)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from coord.errors import CoordError, Unavailable
from coord.runtime import AtomicFile, finish
from coord.store import upkeep
from coord.store.admin import status_of
from coord.store.upkeep import Alarm, DowngradeAction, EndpointStatus, KeyspaceHash, SavedSnapshot

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from coord.core import Core
    from coord.store.caller import Caller
    from coord.store.values import MemberStatus

T = TypeVar("T")

_STATUS_AT_ONCE = 8  # connections for one round over all endpoints
_DISK_WITHIN_S = 60.0
_LEADER_TRIES = 3


class Maintenance:
    """Status, alarms, backups and space of the members: ``client.maintenance``.

    ``endpoint`` names a member by where it is reached: one of the client's endpoints, or any other ``host:port`` or
    URL of the cluster, such as a member's client URL.
    Such a call goes there and nowhere else, over a connection of its own, with the client's TLS.
    Raises :class:`InvalidArgument` for an endpoint that does not fit, and :class:`RequestRefused` with UNIMPLEMENTED
    for what a server does not have.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def status(
        self, endpoint: str | None = None, *, timeout: float | None = None
    ) -> MemberStatus:
        """Ask a member for its state; without ``endpoint`` the one that the client uses."""
        return await self._at(endpoint, lambda caller: status_of(caller, timeout=timeout))

    async def statuses(self, *, timeout: float | None = None) -> tuple[EndpointStatus, ...]:
        """Ask all endpoints of the client at once; one that fails does not hide the others."""
        core = self._core
        limit = asyncio.Semaphore(_STATUS_AT_ONCE)

        async def ask(endpoint: str) -> EndpointStatus:
            async with limit:
                try:
                    status = await self.status(endpoint, timeout=timeout)
                except CoordError as error:
                    return EndpointStatus(endpoint=endpoint, error=error)
            return EndpointStatus(endpoint=endpoint, status=status)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(endpoint)) for endpoint in core.transport.endpoints]
        return tuple([task.result() for task in tasks])

    async def hash_kv(
        self, endpoint: str, *, revision: int = 0, timeout: float | None = None
    ) -> KeyspaceHash:
        """Hash the keys of a member up to ``revision``; 0 means its present one.

        Raises :class:`Compacted` and :class:`FutureRevision`.
        """
        return await self._at(endpoint, lambda caller: upkeep.hash_kv(caller, revision, timeout))

    async def defragment(self, endpoint: str, *, timeout: float | None = None) -> None:
        """Give a member's free space back to its disk.

        etcd serves nothing meanwhile: take one member after the other, and a ``timeout`` that suits its size.
        After :class:`AmbiguousResult` it may still be at work.
        """
        await self._at(endpoint, lambda caller: upkeep.defragment(caller, timeout))

    async def alarms(self, *, timeout: float | None = None) -> tuple[Alarm, ...]:
        """Return all alarms of the cluster."""
        return await upkeep.list_alarms(self._core.caller, timeout)

    async def disarm(
        self, alarm: Alarm | None = None, *, timeout: float | None = None
    ) -> tuple[Alarm, ...]:
        """Take back one alarm, or all of them, and return those that were active.

        Free space first: a member that is still over its quota raises the alarm again.
        """
        chosen = await self.alarms(timeout=timeout) if alarm is None else (alarm,)
        gone: list[Alarm] = []
        for each in chosen:
            gone += await upkeep.disarm(self._core.caller, each, timeout)
        return tuple(gone)

    async def move_leader(self, member_id: int, *, timeout: float | None = None) -> None:
        """Hand the leadership to a voter, and return once it leads; nothing happens when it leads already.

        The leader is found among the client's endpoints, then by the client URLs of the members.
        Raises :class:`RequestRefused` when the member is unknown or a learner, :class:`Unavailable` when no leader
        is found or reached.
        """
        for _ in range(_LEADER_TRIES):  # the leader may change between the question and the request
            leader, endpoint = await self._find_leader(timeout)
            if leader == member_id:
                return
            if await self._at(
                endpoint, lambda caller: upkeep.move_leader(caller, member_id, timeout)
            ):
                return
        raise Unavailable("the leader changes")

    async def _find_leader(self, timeout: float | None) -> tuple[int, str]:
        statuses = [s.status for s in await self.statuses(timeout=timeout) if s.status is not None]
        if not statuses:
            raise Unavailable(
                "no endpoint told its status", endpoints=self._core.transport.endpoints
            )
        newest = max(statuses, key=lambda s: (s.raft_term, s.leader != 0))
        for status in statuses:
            if newest.leader and status.member_id == newest.leader:
                return newest.leader, status.endpoint
        for member in await self._core.admin.members(timeout=timeout):
            if newest.leader and member.member_id == newest.leader and member.client_urls:
                return newest.leader, member.client_urls[0]
        raise Unavailable("the cluster has no leader, or it cannot be reached")

    async def downgrade(
        self, action: DowngradeAction, version: str = "", *, timeout: float | None = None
    ) -> str:
        """Check, begin or cancel a downgrade to ``version`` (``"3.5"``); return the cluster's version.

        Needs etcd 3.6, in part 3.5.
        """
        return await upkeep.downgrade(self._core.caller, action, version, timeout)

    # -- backups ---------------------------------------------------------------------------------------------------

    async def snapshot(
        self, *, endpoint: str | None = None, timeout: float | None = None
    ) -> AsyncGenerator[bytes]:
        """Yield a consistent copy of a member's backend in parts; the last 32 bytes are the SHA-256 of the rest.

        All parts together are what ``etcdctl snapshot save`` writes. ``timeout`` bounds the wait for each part; None
        means the client's ``request_timeout``.
        Raises :class:`ProtocolError` before the last part when the hash does not fit, :class:`Unavailable` when the
        connection is lost: an interrupted snapshot begins again from the start.
        """
        limit = self._core.caller.request_timeout if timeout is None else timeout
        run = self._core.runtime.run
        reading = _Reading(self._core, endpoint, limit)
        try:
            while (part := await run(reading.next())) is not None:
                yield part
        finally:
            with contextlib.suppress(CoordError):  # the client has closed, and all of it has ended
                await finish(run(reading.close()), within=limit)

    async def save_snapshot(
        self, path: str, *, endpoint: str | None = None, timeout: float | None = None
    ) -> SavedSnapshot:
        """Write a snapshot to ``path``: all of it, checked and on disk, or nothing.

        What was there before is replaced. Only the owner may read the file.
        A cancelled or failed call leaves no file. Raises as :meth:`snapshot`, and ``OSError``.
        """
        return await self._core.runtime.run(self._save(path, endpoint, timeout))

    async def _save(self, path: str, endpoint: str | None, timeout: float | None) -> SavedSnapshot:
        disk = self._core.env.offload.run
        file, size, part = AtomicFile(path), 0, b""
        # What has begun in a thread cannot be stopped, and must have ended before the file goes: hence finish().
        try:
            await finish(disk(file.open), within=_DISK_WITHIN_S)
            async with contextlib.aclosing(
                self.snapshot(endpoint=endpoint, timeout=timeout)
            ) as parts:
                async for part in parts:
                    await finish(disk(file.write, part), within=_DISK_WITHIN_S)
                    size += len(part)
            await finish(disk(file.commit), within=_DISK_WITHIN_S)
        finally:
            await finish(disk(file.abandon), within=_DISK_WITHIN_S)
        return SavedSnapshot(path=path, size_bytes=size, sha256=part)

    # -- one endpoint ----------------------------------------------------------------------------------------------

    async def _at(self, endpoint: str | None, ask: Callable[[Caller], Awaitable[T]]) -> T:
        if endpoint is None:
            return await ask(self._core.caller)

        async def over_its_own_connection() -> T:
            async with self._core.only(endpoint) as caller:
                return await ask(caller)

        return await self._core.runtime.run(over_its_own_connection())


class _Reading:
    """A snapshot on its way, on the runtime's loop; read part by part from tasks that come and go."""

    def __init__(self, core: Core, endpoint: str | None, timeout: float) -> None:
        self._core = core
        self._endpoint = endpoint
        self._timeout = timeout
        self._parts = self._read()
        # A cancelled read may still be on its way out when the end comes.
        self._turn = asyncio.Lock()

    async def _read(self) -> AsyncGenerator[bytes]:
        async with (
            self._core.only(self._endpoint) as caller,
            contextlib.aclosing(upkeep.snapshot(caller, self._timeout)) as parts,
        ):
            async for part in parts:
                yield part

    async def next(self) -> bytes | None:
        """Return the next part, None after the last."""
        async with self._turn:
            return await anext(self._parts, None)

    async def close(self) -> None:
        """End it."""
        async with self._turn:
            await self._parts.aclose()
