"""The members of a cluster: who belongs to it, and changes of that (etcd API: Cluster)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord.core import Core
    from coord.store.values import Member


class Cluster:
    """The membership of the cluster: ``client.cluster``.

    Changes are made one at a time, by any member; each returns when the answering member has applied it.
    A change whose answer is missing is not sent again: :class:`AmbiguousResult`, whose ``resolve()`` returns the
    members as they are.
    Raises :class:`RequestRefused` for what would break the cluster, and :class:`Unavailable` while too few members
    have been connected for long enough (5 s after a start).
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(
        self, *, linearizable: bool = True, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Return the members in the order of their ids.

        ``linearizable=False`` asks only the answering member, which may be behind, and works without a quorum;
        servers before etcd 3.5 always answer so.
        """
        return await self._core.admin.members(linearizable=linearizable, timeout=timeout)

    async def add(
        self, peer_urls: str | Sequence[str], *, learner: bool = False, timeout: float | None = None
    ) -> Member:
        """Add a member and return it; it has a name once it has started.

        ``learner=True`` adds one that does not vote until it is promoted, so that the quorum does not grow before
        the newcomer has caught up.
        """
        return await self._core.admin.add_member(_urls(peer_urls), learner=learner, timeout=timeout)

    async def remove(self, member_id: int, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Remove a member, for ever, and return those that stay."""
        return await self._core.admin.remove_member(member_id, timeout=timeout)

    async def update(
        self, member_id: int, peer_urls: str | Sequence[str], *, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Tell the cluster where a member's peers reach it from now on, and return all members."""
        return await self._core.admin.update_member(member_id, _urls(peer_urls), timeout=timeout)

    async def promote(self, member_id: int, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Make a learner that has caught up a voter, and return all members."""
        return await self._core.admin.promote_member(member_id, timeout=timeout)


def _urls(given: str | Sequence[str]) -> tuple[str, ...]:
    urls = (given,) if isinstance(given, str) else tuple(given)
    if not urls or not all(urls):
        raise InvalidArgument("give at least one peer URL, such as http://10.0.0.4:2380")
    return urls
