"""What stands behind a name: who holds it, who waits, and what the holder itself waits for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.entry import check_name
from coord.errors import CoordError
from coord.explaining.explanation import Explanation, text_of
from coord.explaining.layouts import DESCRIBERS, Described, Scene, Seat
from coord.explaining.waits import waits_of
from coord.metadata import parse
from coord.roster import roster
from coord.store import operations as op

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from coord.coordination import Coordination
    from coord.locking.waits import Waiting

# A line may be long; leases are asked about for so many of its first places, and so many keys tell the layout.
_LEASES_ASKED = 32
_KEYS_LOOKED_AT = 200
_FREE = "free"
_LINE = "line"
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One entry behind a name: who it is, what it does, and how long it has.

    ``age`` in seconds since it lined up, by the wall clocks of both machines; None for entries of other clients and
    of elections, which do not tell. ``ttl_left`` in seconds, None when the lease is gone or was not asked about.
    ``metadata`` is what an entry of ours says: host, pid, owner, label.
    ``role`` is empty in a line of locks, where the first one holds; else such as ``reads`` or ``waits for 2 permits``.
    """

    key: bytes
    token: int
    lease_id: int
    age: float | None
    ttl_left: float | None
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameExplanation(Explanation):
    """What stands behind a name.

    ``layout`` is what the keys look like: ``line`` (mutexes, multi-locks, elections), ``single key``, ``read-write
    lock``, ``semaphore``, ``double barrier``, ``barrier``, ``latch``, ``queue``, ``work queue``, ``service``,
    ``group``, ``rate limiter``; ``free`` where there are none, ``unknown`` where they fit nothing.
    ``line`` is everybody, the first ``holding`` of whom hold, or are there; the others wait. ``facts`` is what else
    there is to say, such as a limit or a depth.
    ``waits`` says what the holder waits for at other names, and the holders of those in turn, as far as their leases
    tell. ``circular``: following them leads back to this holder, so that if one task does all of it, none goes on.
    """

    name: bytes
    line: tuple[Place, ...]
    waits: tuple[Waiting, ...]
    layout: str = _LINE
    holding: int = 1
    facts: tuple[str, ...] = ()

    @property
    def holder(self) -> Place | None:
        """Who holds it, the first one where there are several; None if it is free."""
        return self.line[0] if self.line and self.holding else None

    @property
    def holders(self) -> tuple[Place, ...]:
        """All who hold it, or are there."""
        return self.line[: self.holding]

    @property
    def waiters(self) -> tuple[Place, ...]:
        """Those who wait, first in line first."""
        return self.line[self.holding :]

    @property
    def circular(self) -> bool:
        """Whether the holder waits, by way of others, for something that it holds itself."""
        return self.holder is not None and any(
            wait.holder == self.holder.lease_id for wait in self.waits
        )

    @override
    def lines(self) -> Iterator[str]:
        name = text_of(self.name)
        if self.layout == _LINE and self.holder is not None:
            yield f"{name} is held by {_place(self.holder)}"
        elif self.layout in (_LINE, _FREE):
            yield f"{name} is free"
            return
        elif self.layout == _UNKNOWN:
            yield f"{name} is of no layout that is known"
        else:
            yield f"{name} is a {self.layout}"
        for fact in self.facts:
            yield f"  {fact}"
        if self.layout != _LINE:
            for place in self.holders:
                yield f"  {_place(place)}"
        for wait in self.waits:
            held = f", held by session {wait.holder:x}" if wait.holder else ""
            yield (
                f"  session {wait.lease_id:x} waits for {text_of(wait.name)}, {wait.ahead} ahead{held}"
            )
        if self.circular:
            yield "  these wait for each other in a circle"
        for number, place in enumerate(self.waiters, 1):
            yield f"  {number}. {_place(place)}"


def _place(place: Place) -> str:
    told = place.metadata
    parts = [f"{text_of(place.key)} (token {place.token}"]
    if told.get("label"):
        parts.append(str(told["label"]))
    if told.get("host"):
        parts.append(f"{told['host']} pid {told.get('pid')}")
    if place.age is not None:
        parts.append(f"for {place.age:.1f} s")
    if place.ttl_left is not None:
        parts.append(f"lease has {place.ttl_left:g} s")
    text = ", ".join(parts) + ")"
    return f"{text} {place.role}" if place.role else text


async def explain_name(home: Coordination, name: str | bytes, timeout: float) -> NameExplanation:
    """Describe what stands behind ``name``. On the runtime's loop."""
    scene = await _look(home, check_name(name), timeout)
    layout, described = await _describe(scene)
    seats = (*described.holders, *described.waiters)
    left = await _ttls(home, seats, timeout)
    now = home.env.clock.wall()

    def place(seat: Seat) -> Place:
        kv, since = seat.kv, seat.metadata.get("since")
        return Place(
            key=kv.key,
            token=kv.create_revision,
            lease_id=kv.lease,
            age=max(0.0, now - since) if isinstance(since, (int, float)) else None,
            ttl_left=left.get(kv.lease),
            metadata=seat.metadata,
            role=seat.role,
        )

    holder = described.holders[0].kv.lease if described.holders else 0
    return NameExplanation(
        name=scene.name,
        line=tuple([place(seat) for seat in seats]),
        waits=await waits_of(home, holder, timeout) if holder else (),
        layout=layout,
        holding=len(described.holders),
        facts=described.facts,
    )


async def _look(home: Coordination, name: bytes, timeout: float) -> Scene:
    below = op.get_prefix(name + b"/", limit=_KEYS_LOOKED_AT)
    result = await home.txn.run((), (op.get(name), below), timeout=timeout)
    own, found = result.range(0).items, result.range(1)
    return Scene(
        home=home,
        name=name,
        own=own[0] if own else None,
        first=found.items,
        count=found.count,
        timeout=timeout,
    )


async def _describe(scene: Scene) -> tuple[str, Described]:
    if scene.own is None and not scene.count:
        return _FREE, Described()
    for each in DESCRIBERS:
        if each.fits(scene):
            return each.layout, await each.describe(scene)
    line = await roster(scene.home.core, scene.name, timeout=scene.timeout)
    seats = tuple([Seat(kv=kv, metadata=parse(kv.value)) for kv in line])
    text = "the key itself, and " if scene.own is not None else ""
    return _UNKNOWN, Described(waiters=seats, facts=(f"{text}{scene.count} keys below it",))


async def _ttls(
    home: Coordination, seats: tuple[Seat, ...], timeout: float
) -> Mapping[int, float | None]:
    """Return how long the leases of the first places have, in seconds."""
    leases = {seat.kv.lease for seat in seats[:_LEASES_ASKED] if seat.kv.lease}

    async def left(lease: int) -> float | None:
        return (await home.leases.time_to_live(lease, timeout=timeout)).remaining

    try:
        async with asyncio.TaskGroup() as group:
            asked = {lease: group.create_task(left(lease)) for lease in sorted(leases)}
    except* CoordError as errors:
        raise errors.exceptions[0] from None
    return {lease: task.result() for lease, task in asked.items()}
