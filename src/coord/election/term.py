"""A term of leadership, and what others see of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.election.transfer import Transfer
from coord.errors import LeadershipLost, NotHeld, NotLeader
from coord.grants import Grant
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.errors import LostError
    from coord.store.values import KeyValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who leads: its key, its published value, the token of its term, and the revision of the value."""

    key: bytes
    value: bytes
    token: int
    revision: int
    lease_id: int

    @classmethod
    def of(cls, kv: KeyValue) -> Leader:
        """Convert the leader's entry."""
        return cls(
            key=kv.key,
            value=kv.value,
            token=kv.create_revision,
            revision=kv.mod_revision,
            lease_id=kv.lease,
        )


class Term(Grant):
    """Leadership, from its confirmation until it is resigned or lost."""

    lost_error: type[LostError] = LeadershipLost
    not_held_error: type[NotHeld] = NotLeader

    @property
    def stop_by(self) -> float:
        """When work that only a leader may do has to have stopped, in monotonic seconds of this machine.

        Each confirmed renewal moves it on; once leadership is lost or given back, it has passed.
        """
        return self._home.env.clock.mono() + self.valid_for()

    async def proclaim(self, value: str | bytes, *, timeout: float | None = None) -> int:
        """Publish a new value and return its revision.

        Repeated while the outcome is unknown, which is safe: the write holds only while this term lasts.
        Raises :class:`LeadershipLost` when the term is over, :class:`PayloadTooLarge` for a value above the client's
        ``max_value_bytes``; after ``timeout`` seconds (None: the client's ``request_timeout``) without an answer
        :class:`Unavailable`, :class:`CoordTimeout`, or :class:`AmbiguousResult` when it may have been published.
        """
        raw = to_proposal(self._home, self.name, value)
        self.check()
        return await self._home.run(self._proclaim(raw, timeout))

    async def _proclaim(self, value: bytes, timeout: float | None) -> int:
        result = await self._home.txn.run(
            (self.guard(),),
            (op.put(self.key, value, lease=self.session.lease_id),),
            repeat=Repeat.IDEMPOTENT,
            timeout=timeout,
        )
        if not result.succeeded:
            raise self.revoked()
        return result.revision

    async def transfer(
        self, to: str | bytes, *, patience: float = 5.0, timeout: float | None = None
    ) -> Leader | None:
        """Hand leadership on to the candidate with the key ``to``, and return who leads then; None if nobody does.

        The candidates of this library that are ahead of it go to the end of the line; then this term resigns.
        Others stay where they are, so after ``patience`` seconds it resigns all the same: look at who is returned.
        Raises :class:`NoCandidate` when there is no such candidate (any more), :class:`TransferTimeout` after
        ``timeout`` seconds; the term goes on then, as after a cancellation.
        Raises :class:`LeadershipLost` when the term is over.
        """
        self.check()
        transfer = Transfer(self._home, self, to)
        await self._home.run(transfer.prepare(patience=patience, timeout=timeout))
        if not await self.release():
            raise LeadershipLost(self.name, self.token, self.lost_reason or "revoked")
        first = await self._home.run(transfer.finish())
        return None if first is None else Leader.of(first)

    def revoked(self) -> LeadershipLost:
        """Take note that the entry is gone, and return what to raise. On the runtime's loop."""
        self._lose("revoked")
        return LeadershipLost(self.name, self.token, self.lost_reason or "revoked")

    async def resign(self) -> bool:
        """Step down; False if leadership had been lost before. The same as :meth:`release`."""
        return await self.release()


def to_proposal(home: Coordination, name: str, value: str | bytes) -> bytes:
    """Return what an entry of the election holds. Raises :class:`PayloadTooLarge`."""
    return to_value(value, f"the value of election {name!r}", home.txn.max_value_bytes)
