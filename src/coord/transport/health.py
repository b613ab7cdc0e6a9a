"""What a carrier knows of its endpoints, as values that any thread may read.

The carrier writes on the runtime's loop: :meth:`HealthBoard.note` for each thing that happens to an endpoint.
Readers get :class:`Connection`, which never changes once made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coord.runtime import Clock


class ConnectionState(Enum):
    """Where a connection, or the one to a single endpoint, stands."""

    IDLE = "idle"
    """No connection, and none was needed yet, or none since it was lost."""
    CONNECTING = "connecting"
    """No connection yet; for the whole client also: not every endpoint has failed."""
    READY = "ready"
    """Connected."""
    UNAVAILABLE = "unavailable"
    """The last attempt failed; for the whole client: at every endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHealth:
    """One endpoint: its state, since when (monotonic seconds), and what went wrong last (empty: nothing).

    ``suspected``: it is connected, but calls to it have failed or it has no leader, so others come first for a while.
    """

    endpoint: str
    state: ConnectionState
    since: float
    last_error: str = ""
    suspected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How a client stands to its store.

    ``endpoint`` is the one that calls go to, None while there is none; ``since`` is when ``state`` began, in monotonic
    seconds of this machine; ``endpoints`` has them all, in the order of the list.
    """

    state: ConnectionState
    endpoint: str | None
    since: float
    endpoints: tuple[EndpointHealth, ...]


class HealthBoard:
    """The newest state of every endpoint. Written on the runtime's loop, read anywhere."""

    def __init__(self, clock: Clock, names: Iterable[str]) -> None:
        self._clock = clock
        self._suspected_until: dict[str, float] = {}
        self._observers: dict[Callable[[], object], None] = {}
        now = clock.mono()
        fresh = [EndpointHealth(endpoint=n, state=ConnectionState.IDLE, since=now) for n in names]
        self._now = Connection(
            state=ConnectionState.IDLE, endpoint=None, since=now, endpoints=tuple(fresh)
        )

    def read(self) -> Connection:
        """Return the state now."""
        known, now, until = self._now, self._clock.mono(), self._suspected_until
        if not any(until.get(e.endpoint, 0.0) > now for e in known.endpoints):
            return known
        marked = [replace(e, suspected=until.get(e.endpoint, 0.0) > now) for e in known.endpoints]
        return replace(known, endpoints=tuple(marked))

    def watch(self, observer: Callable[[], object]) -> Callable[[], None]:
        """Call ``observer()`` on the runtime's loop at each change; return what ends that."""
        self._observers[observer] = None

        def unregister() -> None:
            self._observers.pop(observer, None)

        return unregister

    def note(self, name: str, state: ConnectionState, error: str = "") -> None:
        """Note what happened to an endpoint; an ``error`` stays known until the endpoint is ready."""
        now = self._clock.mono()

        def changed(one: EndpointHealth) -> EndpointHealth:
            if one.endpoint != name:
                return one
            text = "" if state is ConnectionState.READY else error or one.last_error
            if one.state is state:
                return replace(one, last_error=text)
            # An endpoint that fails again and again is down, also while it is being tried.
            if (one.state, state) == (ConnectionState.UNAVAILABLE, ConnectionState.CONNECTING):
                return one
            return replace(one, state=state, since=now, last_error=text)

        self._become(self._now.endpoint, tuple([changed(one) for one in self._now.endpoints]))

    def use(self, name: str | None) -> None:
        """Note which endpoint calls go to."""
        self._become(name, self._now.endpoints)

    def suspect(self, name: str, until: float) -> None:
        """Note that an endpoint comes last until then (monotonic seconds)."""
        self._suspected_until[name] = until
        self._tell()

    def replace(self, names: Iterable[str]) -> None:
        """Take another list of endpoints; what is known of those that stay is kept."""
        known = {one.endpoint: one for one in self._now.endpoints}
        now = self._clock.mono()
        fresh = [
            known.get(n) or EndpointHealth(endpoint=n, state=ConnectionState.IDLE, since=now)
            for n in names
        ]
        kept = {one.endpoint for one in fresh}
        self._suspected_until = {n: t for n, t in self._suspected_until.items() if n in kept}
        used = self._now.endpoint
        self._become(used if used in kept else None, tuple(fresh))

    def _become(self, used: str | None, endpoints: tuple[EndpointHealth, ...]) -> None:
        before = self._now
        states = [one.state for one in endpoints]
        state = _overall(states)
        if (used, ConnectionState.READY) not in [(one.endpoint, one.state) for one in endpoints]:
            used = None
        same = state is before.state
        self._now = Connection(
            state=state,
            endpoint=used,
            since=before.since if same else self._clock.mono(),
            endpoints=endpoints,
        )
        old = [(one.endpoint, one.state) for one in before.endpoints]
        new = [(one.endpoint, one.state) for one in endpoints]
        if not same or used != before.endpoint or old != new:
            self._tell()

    def _tell(self) -> None:
        for observer in list(self._observers):
            observer()


def _overall(states: list[ConnectionState]) -> ConnectionState:
    if ConnectionState.READY in states:
        return ConnectionState.READY
    if all(state is ConnectionState.UNAVAILABLE for state in states):
        return ConnectionState.UNAVAILABLE
    if all(state is ConnectionState.IDLE for state in states):
        return ConnectionState.IDLE
    return ConnectionState.CONNECTING
