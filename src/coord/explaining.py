"""What is going on, for people and for programs: of a client itself, and of the line behind a name (spec recipes C15)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.entry import check_name
from coord.errors import CoordError
from coord.locking.waits import Waits, follow
from coord.maintenance import Maintenance
from coord.metadata import parse
from coord.roster import roster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from coord.coordination import Coordination
    from coord.locking.waits import Waiting
    from coord.session import SessionState
    from coord.store.upkeep import EndpointStatus
    from coord.store.values import KeyValue
    from coord.transport.health import Connection

# A line may be long; leases are asked about for so many of its first places, and so many holders are followed.
_LEASES_ASKED = 32
_HOLDERS_FOLLOWED = 8


class Explanation:
    """What was found; ``str()`` of it is for people, its fields are for programs."""

    def lines(self) -> Iterator[str]:
        """Yield the text line by line."""
        raise NotImplementedError

    @override
    def __str__(self) -> str:
        return "\n".join(self.lines())


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """One open session of this client; ``valid_for`` in seconds."""

    name: str
    lease_id: int
    state: SessionState
    ttl: int
    valid_for: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReport:
    """One watch of this client.

    ``next_revision`` is the first one that it has not taken in; ``buffered`` events wait for their reader.
    ``behind`` is how many revisions the store has beyond that: an upper bound of what the watch has yet to see, since
    not every revision concerns it; None when the store did not answer.
    A ``parked`` watch waits for its reader before it goes on.
    """

    key: bytes
    end: bytes
    next_revision: int
    buffered: int
    behind: int | None
    parked: bool
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientExplanation(Explanation):
    """A client as of now. ``leader`` is a member's id, 0 while none is known; ``version`` is empty then."""

    name: str
    asked_at: float
    connection: Connection
    statuses: tuple[EndpointStatus, ...]
    version: str
    leader: int
    sessions: tuple[SessionReport, ...]
    watches: tuple[WatchReport, ...]
    open_calls: int
    token: str

    @override
    def lines(self) -> Iterator[str]:
        now, link = self.asked_at, self.connection
        place = f" on {link.endpoint}" if link.endpoint else ""
        yield f"client {self.name!r}: {link.state.value}{place} for {now - link.since:.1f} s"
        version = f"server {self.version}" if self.version else "server unknown"
        leader = f"leader {self.leader:x}" if self.leader else "no leader known"
        yield f"  {version}, {leader}, {self.open_calls} calls and streams open, {self.token}"
        told = {status.endpoint: status for status in self.statuses}
        for one in link.endpoints:
            text = f"  endpoint {one.endpoint}: {one.state.value} for {now - one.since:.1f} s"
            if one.suspected:
                text += ", suspected"
            status = told.get(one.endpoint)
            if status is not None and status.status is not None:
                text += f", member {status.status.member_id:x} at revision {status.status.revision}"
                text += "".join([f", {error.strip()}" for error in status.status.errors])
            error = one.last_error or (str(status.error) if status and status.error else "")
            yield text + (f" ({error})" if error else "")
        for session in self.sessions:
            name = f" {session.name!r}" if session.name else ""
            yield (
                f"  session{name} {session.lease_id:x}: {session.state.value},"
                f" valid for {session.valid_for:.1f} of {session.ttl} s"
            )
        for watch in self.watches:
            yield f"  watch {_text(watch.key)}: {_progress(watch)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One entry in a line: who it is, and how long it has.

    ``age`` in seconds since it lined up, by the wall clocks of both machines; None for entries of other clients and
    of elections, which do not tell. ``ttl_left`` in seconds, None when the lease is gone or was not asked about.
    ``metadata`` is what a mutex entry of ours says: host, pid, owner, label.
    """

    key: bytes
    token: int
    lease_id: int
    age: float | None
    ttl_left: float | None
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class NameExplanation(Explanation):
    """The line behind a name: the first place holds it.

    ``waits`` says what the holder waits for at other names, and the holders of those in turn, as far as their leases
    tell. ``circular``: following them leads back to this holder, so that if one task does all of it, none goes on.
    """

    name: bytes
    line: tuple[Place, ...]
    waits: tuple[Waiting, ...]

    @property
    def holder(self) -> Place | None:
        """Who holds it, None if it is free."""
        return self.line[0] if self.line else None

    @property
    def waiters(self) -> tuple[Place, ...]:
        """Those who wait, first in line first."""
        return self.line[1:]

    @property
    def circular(self) -> bool:
        """Whether the holder waits, by way of others, for something that it holds itself."""
        return self.holder is not None and any(
            wait.holder == self.holder.lease_id for wait in self.waits
        )

    @override
    def lines(self) -> Iterator[str]:
        if self.holder is None:
            yield f"{_text(self.name)} is free"
            return
        yield f"{_text(self.name)} is held by {_place(self.holder)}"
        for wait in self.waits:
            yield (
                f"  session {wait.lease_id:x} waits for {_text(wait.name)}, {wait.ahead} ahead,"
                f" held by session {wait.holder:x}"
            )
        if self.circular:
            yield "  these wait for each other in a circle"
        for number, place in enumerate(self.waiters, 1):
            yield f"  {number}. {_place(place)}"


def _text(raw: bytes) -> str:
    return repr(raw.decode(errors="backslashreplace"))


def _progress(watch: WatchReport) -> str:
    if not watch.created:
        return "not confirmed by a server"
    behind = "" if watch.behind is None else f", at most {watch.behind} revisions behind"
    parked = ", parked until its reader has caught up" if watch.parked else ""
    return f"next is revision {watch.next_revision}{behind}, {watch.buffered} events unread{parked}"


def _place(place: Place) -> str:
    told = place.metadata
    parts = [f"{_text(place.key)} (token {place.token}"]
    if told.get("label"):
        parts.append(str(told["label"]))
    if told.get("host"):
        parts.append(f"{told['host']} pid {told.get('pid')}")
    if place.age is not None:
        parts.append(f"for {place.age:.1f} s")
    if place.ttl_left is not None:
        parts.append(f"lease has {place.ttl_left:g} s")
    return ", ".join(parts) + ")"


async def explain_client(home: Coordination, timeout: float) -> ClientExplanation:
    """Describe a client; the store is asked for at most ``timeout`` seconds. On the runtime's loop."""
    core = home.core
    statuses = await Maintenance(core).statuses(timeout=timeout)
    answered = [one.status for one in statuses if one.status is not None]
    newest = max(answered, key=lambda s: (s.raft_term, s.leader != 0), default=None)
    revision = max([s.revision for s in answered], default=None)
    return ClientExplanation(
        name=core.name,
        asked_at=core.env.clock.mono(),
        connection=core.carrier.health.read(),
        statuses=statuses,
        # What all members have: a mixed cluster offers what its oldest member does.
        version=min([s.version for s in answered], key=_version, default=""),
        leader=newest.leader if newest is not None else 0,
        sessions=tuple(
            [
                SessionReport(
                    name=s.name,
                    lease_id=s.lease_id,
                    state=s.state,
                    ttl=s.ttl,
                    valid_for=s.valid_for(),
                )
                for s in home.sessions
            ]
        ),
        watches=tuple(
            [
                WatchReport(
                    key=feed.spec.key,
                    end=feed.spec.end,
                    next_revision=feed.next_revision,
                    buffered=feed.buffered,
                    behind=None if revision is None else max(0, revision + 1 - feed.next_revision),
                    parked=feed.parked,
                    created=feed.created.is_set(),
                )
                for feed in core.watches.feeds()
            ]
        ),
        open_calls=core.carrier.open_calls,
        token=core.ways.identity(),
    )


def _version(text: str) -> tuple[int, ...]:
    release = text.partition("+")[0].partition("-")[0]
    return tuple([int(part) for part in release.split(".") if part.isdigit()])


async def explain_name(home: Coordination, name: str | bytes, timeout: float) -> NameExplanation:
    """Describe the line behind ``name``. On the runtime's loop."""
    raw = check_name(name)
    found = await roster(home.core, raw, timeout=timeout)
    now = home.env.clock.wall()

    async def left(kv: KeyValue) -> float | None:
        return (await home.leases.time_to_live(kv.lease, timeout=timeout)).remaining

    leased = [kv for kv in found[:_LEASES_ASKED] if kv.lease]
    try:
        async with asyncio.TaskGroup() as group:
            asked = {kv.key: group.create_task(left(kv)) for kv in leased}
    except* CoordError as errors:
        raise errors.exceptions[0] from None

    def place(kv: KeyValue) -> Place:
        told = parse(kv.value)
        since = told.get("since")
        return Place(
            key=kv.key,
            token=kv.create_revision,
            lease_id=kv.lease,
            age=max(0.0, now - since) if isinstance(since, (int, float)) else None,
            ttl_left=asked[kv.key].result() if kv.key in asked else None,
            metadata=told,
        )

    places = tuple([place(kv) for kv in found])
    waits = await _waits(home, places[0].lease_id, timeout) if places else ()
    return NameExplanation(name=raw, line=places, waits=waits)


async def _waits(home: Coordination, lease_id: int, timeout: float) -> tuple[Waiting, ...]:
    """Follow what the holder of ``lease_id`` waits for, and the holders of that."""
    found = await follow(home, lease_id, sessions=_HOLDERS_FOLLOWED, timeout=timeout)
    waits = Waits(home, timeout)
    counted = [replace(wait, ahead=await waits.counted(wait)) for wait in found]
    return tuple([wait for wait in counted if wait.ahead])
