"""A partition that this process owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord.errors import LostError
from coord.grants import Grant

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.coordination import Coordination
    from coord.entry import Entry


class OwnershipLost(LostError):
    """The ownership of a partition was lost."""

    noun = "partition"


class Ownership(Grant):
    """A partition, from its claim until it is given back or lost. Made by a running :class:`coord.Partitioner`.

    ``token`` rises with each owner of the partition. Put :meth:`guard` into transactions, or use :meth:`txn`, so that
    nothing is written after somebody else has become the owner.
    """

    lost_error: type[LostError] = OwnershipLost

    def __init__(
        self,
        home: Coordination,
        entry: Entry,
        partition: str,
        *,
        ended: Callable[[Ownership], None],
    ) -> None:
        super().__init__(home, entry, None)
        self.partition: str = partition
        """The partition."""
        self._ended = ended

    @override
    def _start_watching(self) -> None:
        """Leave it to the view of the partitioner, which shows all owners with one watch."""

    @property
    def needs_fence(self) -> bool:
        """Whether it is lost, and a late copy of its claim may still put the key again."""
        return self.lost.is_set() and self._entry.doubtful

    def revoke(self) -> None:
        """Take note that the key is gone. On the runtime's loop."""
        self._lose("revoked")

    @override
    async def _release(self) -> bool:
        self._ended(self)
        return await super()._release()
