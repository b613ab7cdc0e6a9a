"""What a client is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.explaining.explanation import Explanation, text_of
from coord.maintenance import Maintenance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord.coordination import Coordination
    from coord.session import SessionState
    from coord.store.upkeep import EndpointStatus
    from coord.transport.health import Connection


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
            yield f"  watch {text_of(watch.key)}: {_progress(watch)}"


def _progress(watch: WatchReport) -> str:
    if not watch.created:
        return "not confirmed by a server"
    behind = "" if watch.behind is None else f", at most {watch.behind} revisions behind"
    parked = ", parked until its reader has caught up" if watch.parked else ""
    return f"next is revision {watch.next_revision}{behind}, {watch.buffered} events unread{parked}"


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
