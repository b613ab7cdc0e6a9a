"""Who waits for whom, as far as the store tells: by leases, the keys attached to them, and what entries say.

A session waits for a name if its lease has an entry in that line which is not the first.
Which *task* waits the metadata tells, of entries of ours; two tasks of one session wait independently, so a wait is
certain only between entries that name their owners.
Tasks that wait for another task of their own session have no entry; their own process knows of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from coord.entry import META_PREFIX
from coord.locking.entries import owner_in
from coord.roster import roster
from coord.store import operations as op
from coord.store.kv import SortBy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord.coordination import Coordination
    from coord.store.values import KeyValue


class Agent(NamedTuple):
    """Whoever waits or holds: a task or thread of a session. ``owner`` is empty when it is not known."""

    lease_id: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The session with lease ``lease_id`` waits for ``name``, behind ``ahead`` others, held through ``holder``.

    ``ahead`` is 0 where nobody has counted. ``owner`` and ``holder_owner`` say which task or thread waits and holds,
    empty for entries that do not tell. ``token`` and ``holder_token`` are those of the two entries; ``token`` is 0 for
    a task that waits inside its process for another task of its session.
    ``serial`` puts such tasks into the order in which they began to wait.
    """

    lease_id: int
    name: bytes
    ahead: int
    holder: int
    owner: str = ""
    holder_owner: str = ""
    token: int = 0
    holder_token: int = 0
    serial: int = 0

    @property
    def waiter(self) -> Agent:
        """Who waits."""
        return Agent(self.lease_id, self.owner)

    @property
    def holding(self) -> Agent:
        """Who holds."""
        return Agent(self.holder, self.holder_owner)

    @property
    def is_certain(self) -> bool:
        """Whether both sides have said which task or thread they are."""
        return bool(self.owner and self.holder_owner)


class Waits:
    """One look at waits: each lease and each line is read once, when first asked for. On the runtime's loop."""

    def __init__(self, home: Coordination, timeout: float | None) -> None:
        self._home = home
        self._timeout = timeout
        self._seats: dict[int, tuple[tuple[bytes, KeyValue, KeyValue], ...]] = {}

    async def of(self, agent: Agent) -> tuple[Waiting, ...]:
        """Return what ``agent`` waits for; what its session waits for, where it or an entry names no owner.

        Raises what reads raise.
        """
        here = () if not agent.owner else tuple(self._inside(agent))
        if not agent.lease_id:
            return here
        if agent.lease_id not in self._seats:
            self._seats[agent.lease_id] = tuple(await self._seats_of(agent.lease_id))
        found: list[Waiting] = []
        for name, ours, first in self._seats[agent.lease_id]:
            owner = owner_in(ours.value)
            if owner and agent.owner and owner != agent.owner:
                continue  # another task of that session
            found.append(
                Waiting(
                    lease_id=agent.lease_id,
                    name=name,
                    ahead=0,
                    holder=first.lease,
                    owner=owner,
                    holder_owner=owner_in(first.value),
                    token=ours.create_revision,
                    holder_token=first.create_revision,
                )
            )
        return (*here, *found)

    async def counted(self, wait: Waiting) -> int:
        """Return how many are ahead, 0 if it waits no longer."""
        line = await roster(self._home.core, wait.name, timeout=self._timeout)
        leases = [kv.lease for kv in line]
        return leases.index(wait.lease_id) if wait.lease_id in leases else 0

    def _inside(self, agent: Agent) -> Iterator[Waiting]:
        """Yield what the agent waits for inside this process."""
        for session in self._home.sessions:
            if session.lease_id != agent.lease_id:
                continue
            for name, line in session.lines.items():
                for serial, owner in line.waiting.items():
                    if owner == agent.owner:
                        yield Waiting(
                            lease_id=agent.lease_id,
                            name=name,
                            ahead=0,
                            holder=agent.lease_id,
                            owner=owner,
                            holder_owner=line.owner,
                            serial=serial,
                        )

    async def _seats_of(self, lease_id: int) -> list[tuple[bytes, KeyValue, KeyValue]]:
        """Return where the lease waits: the name, its entry, and the first entry."""
        info = await self._home.leases.time_to_live(lease_id, keys=True, timeout=self._timeout)
        leaf = b"/" + format(lease_id, "x").encode()
        seats: list[tuple[bytes, KeyValue, KeyValue]] = []
        for key in info.keys:
            name = key.removesuffix(leaf)
            if not name or name == key or name.startswith(META_PREFIX):
                continue
            first = op.get_prefix(name + b"/", sort_by=SortBy.CREATE_REVISION, limit=1)
            result = await self._home.txn.run((), (op.get(key), first), timeout=self._timeout)
            ours, firsts = result.range(0).items, result.range(1).items
            if ours and firsts and firsts[0].key != key:
                seats.append((name, ours[0], firsts[0]))
        return seats


async def follow(
    home: Coordination, lease_id: int, *, sessions: int, timeout: float | None
) -> tuple[Waiting, ...]:
    """Return what the session with ``lease_id`` waits for, and the holders of that, as far as ``sessions`` go."""
    waits = Waits(home, timeout)
    found: list[Waiting] = []
    queue, seen = [lease_id], {lease_id}
    while queue and len(seen) <= sessions:
        for wait in await waits.of(Agent(queue.pop(0), "")):
            found.append(wait)
            if wait.holder and wait.holder not in seen:
                seen.add(wait.holder)
                queue.append(wait.holder)
    return tuple(found)
