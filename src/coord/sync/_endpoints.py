"""The twins of the part of a client that tells where it stands, and of what looks after the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from coord import client, cluster, maintenance
from coord.sync._portal import Iteration, Twin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.explaining import ClientExplanation, NameExplanation
    from coord.store.upkeep import (
        Alarm,
        DowngradeAction,
        EndpointStatus,
        KeyspaceHash,
        SavedSnapshot,
    )
    from coord.store.values import Member, MemberStatus
    from coord.transport.health import Connection


class Cluster(Twin[cluster.Cluster]):
    """The membership of the cluster; see :class:`coord.Cluster`."""

    __slots__ = ()

    def list(
        self, *, linearizable: bool = True, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Return the members in the order of their ids."""
        return self._portal.call(self._async.list(linearizable=linearizable, timeout=timeout))

    def add(
        self, peer_urls: str | Sequence[str], *, learner: bool = False, timeout: float | None = None
    ) -> Member:
        """Add a member and return it."""
        return self._portal.call(self._async.add(peer_urls, learner=learner, timeout=timeout))

    def remove(self, member_id: int, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Remove a member, for ever, and return those that stay."""
        return self._portal.call(self._async.remove(member_id, timeout=timeout))

    def update(
        self, member_id: int, peer_urls: str | Sequence[str], *, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Tell the cluster where a member's peers reach it from now on, and return all members."""
        return self._portal.call(self._async.update(member_id, peer_urls, timeout=timeout))

    def promote(self, member_id: int, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Make a learner that has caught up a voter, and return all members."""
        return self._portal.call(self._async.promote(member_id, timeout=timeout))


class Maintenance(Twin[maintenance.Maintenance]):
    """Status, alarms, backups and space of the members; see :class:`coord.Maintenance`."""

    __slots__ = ()

    def status(self, endpoint: str | None = None, *, timeout: float | None = None) -> MemberStatus:
        """Ask a member for its state; without ``endpoint`` the one that the client uses."""
        return self._portal.call(self._async.status(endpoint, timeout=timeout))

    def statuses(self, *, timeout: float | None = None) -> tuple[EndpointStatus, ...]:
        """Ask all endpoints of the client at once; one that fails does not hide the others."""
        return self._portal.call(self._async.statuses(timeout=timeout))

    def hash_kv(
        self, endpoint: str, *, revision: int = 0, timeout: float | None = None
    ) -> KeyspaceHash:
        """Hash the keys of a member up to ``revision``; 0 means its present one."""
        return self._portal.call(self._async.hash_kv(endpoint, revision=revision, timeout=timeout))

    def defragment(self, endpoint: str, *, timeout: float | None = None) -> None:
        """Give a member's free space back to its disk."""
        self._portal.call(self._async.defragment(endpoint, timeout=timeout))

    def alarms(self, *, timeout: float | None = None) -> tuple[Alarm, ...]:
        """Return all alarms of the cluster."""
        return self._portal.call(self._async.alarms(timeout=timeout))

    def disarm(
        self, alarm: Alarm | None = None, *, timeout: float | None = None
    ) -> tuple[Alarm, ...]:
        """Take back one alarm, or all of them, and return those that were active."""
        return self._portal.call(self._async.disarm(alarm, timeout=timeout))

    def move_leader(self, member_id: int, *, timeout: float | None = None) -> None:
        """Hand the leadership to a voter, and return once it leads."""
        self._portal.call(self._async.move_leader(member_id, timeout=timeout))

    def downgrade(
        self, action: DowngradeAction, version: str = "", *, timeout: float | None = None
    ) -> str:
        """Check, begin or cancel a downgrade to ``version``; return the cluster's version."""
        return self._portal.call(self._async.downgrade(action, version, timeout=timeout))

    def snapshot(
        self, *, endpoint: str | None = None, timeout: float | None = None
    ) -> Iteration[bytes]:
        """Iterate over the parts of a snapshot; close the iterator, or use it in a ``with``."""
        return Iteration(self._portal, self._async.snapshot(endpoint=endpoint, timeout=timeout))

    def save_snapshot(
        self, path: str, *, endpoint: str | None = None, timeout: float | None = None
    ) -> SavedSnapshot:
        """Write a snapshot to ``path``: all of it, checked and on disk, or nothing."""
        return self._portal.call(
            self._async.save_snapshot(path, endpoint=endpoint, timeout=timeout)
        )


class EndpointCalls(Twin[client.Client]):
    """Endpoints, connection events and explanations of a :class:`coord.sync.Client`."""

    __slots__ = ()

    @property
    def cluster(self) -> Cluster:
        """The membership of the cluster."""
        return Cluster(self._portal, self._async.cluster)

    @property
    def maintenance(self) -> Maintenance:
        """Status, alarms, backups and space of the members."""
        return Maintenance(self._portal, self._async.maintenance)

    @property
    def connection(self) -> Connection:
        """How the client stands to its store now, endpoint by endpoint."""
        return self._async.connection

    def on_connection(self, callback: Callable[[Connection], object]) -> Callable[[], None]:
        """Call ``callback(connection)`` at each change, on a worker thread; return what ends that."""
        return self._async.on_connection(callback)

    def sync_endpoints(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Replace the endpoints by those of the cluster's members; see :meth:`coord.Client.sync_endpoints`."""
        return self._portal.call(self._async.sync_endpoints(timeout=timeout))

    @overload
    def explain(self, name: None = None, *, timeout: float = 2.0) -> ClientExplanation: ...
    @overload
    def explain(self, name: str | bytes, *, timeout: float = 2.0) -> NameExplanation: ...

    def explain(
        self, name: str | bytes | None = None, *, timeout: float = 2.0
    ) -> ClientExplanation | NameExplanation:
        """Tell what is going on in this client, or at the name of a mutex or an election."""
        if name is None:
            return self._portal.call(self._async.explain(timeout=timeout))
        return self._portal.call(self._async.explain(name, timeout=timeout))
