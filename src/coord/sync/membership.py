"""The twins of a group and a seat in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from coord.recipes import membership
from coord.sync._portal import Iteration, Twin
from coord.sync.signals import OneShot

if TYPE_CHECKING:
    from types import TracebackType

    from coord.recipes.membership import GroupEvent, GroupMember


class GroupSeat(Twin[membership.GroupSeat]):
    """A member that this process is; see :class:`coord.GroupSeat`. A context manager."""

    __slots__ = ()

    def __enter__(self) -> Self:
        """Leave the group at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave; raise :class:`coord.MemberLost` if membership was lost inside and nothing else is to be raised."""
        self._portal.call(membership.end_seat(self._async, kind is None))

    @property
    def id(self) -> str:
        """The member's id."""
        return self._async.id

    @property
    def key(self) -> bytes:
        """The key in the store."""
        return self._async.key

    @property
    def token(self) -> int:
        """The present incarnation, or the last one; it rises each time it comes back."""
        return self._async.token

    @property
    def is_present(self) -> bool:
        """Whether it is in the store, as far as this process knows."""
        return self._async.is_present

    @property
    def lost(self) -> OneShot:
        """Fires once, with the reason, when membership is lost for good."""
        return OneShot(self._portal, self._async.lost)

    def check(self) -> None:
        """Raise :class:`coord.MemberLost` when it is lost for good, :class:`coord.NotMember` when it has left."""
        self._async.check()

    def update(self, data: Any, *, timeout: float | None = None) -> None:  # noqa: ANN401 - any JSON
        """Replace the data."""
        self._portal.call(self._async.update(data, timeout=timeout))

    def leave(self) -> bool:
        """Leave the group; False if membership was lost before. A second call returns at once."""
        return self._portal.call(self._async.leave())


class Membership(Twin[membership.Membership]):
    """A named group; see :class:`coord.Membership`. Made by ``client.membership(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    def join(
        self,
        id: str | None = None,  # noqa: A002 - the field's word
        *,
        data: Any = None,  # noqa: ANN401 - any JSON
        rejoin: bool = True,
        takeover: bool = False,
        timeout: float | None = None,
    ) -> GroupSeat:
        """Become a member: ``with group.join() as me``, or leave yourself; see :meth:`coord.Membership.join`."""
        opening = self._async.join(id, data=data, rejoin=rejoin, takeover=takeover, timeout=timeout)
        return GroupSeat(
            self._portal, self._portal.obtain(opening.open, membership.GroupSeat.discard)
        )

    def members(self, *, timeout: float | None = None) -> tuple[GroupMember, ...]:
        """Return the members, by their ids."""
        return self._portal.call(self._async.members(timeout=timeout))

    @property
    def stale_for(self) -> float:
        """Seconds for which changes of the group may be missing: 0 while the store watches."""
        return self._async.stale_for

    def wait_for(self, n: int, *, timeout: float | None = None) -> tuple[GroupMember, ...]:
        """Wait until there are at least ``n`` members, and return them."""
        return self._portal.call(self._async.wait_for(n, timeout=timeout))

    def watch(self) -> Iteration[GroupEvent]:
        """Return an iterator over who is there and each change. Close it, or use it in a ``with``."""
        return Iteration(self._portal, self._async.watch())
