"""A lease kept alive, with a local notion of validity that is always more pessimistic than the server's.

The safe deadline counts from the time at which the last confirmed renewal was *sent*, takes off 1 % for clocks that
run at different rates, and a margin.
If clock rates differ by less than that, there is no instant at which a session is locally valid and its lease has
expired on a correct server (spec recipes 2).

Every question about validity reads the clock.
So a process that was stopped for longer than the TTL finds its session expired at its first call, before any timer
has had a chance to run.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Literal, Self

from coord._telemetry import SESSION, note_loss, note_renewal, observed_wait
from coord.errors import (
    AmbiguousResult,
    ClientClosed,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    LeaseNotFound,
    SessionClosed,
    SessionExpired,
    Unavailable,
)
from coord.observing import Observer
from coord.runtime import Backoff, finish
from coord.signals import OneShot
from coord.store.lease import new_lease_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from coord.coordination import Coordination
    from coord.entry import Entry
    from coord.grants import Grant
    from coord.local_line import LocalLine

DRIFT = 0.01
"""How far two clock rates may differ before the guarantees end."""
_MARGIN_MIN_S = 0.2
_MARGIN_MAX_S = 1.0
_REVOKE_WITHIN_S = 5.0
_REVOKE_AGAIN_S = 0.2
_JITTER = 0.1  # of the renewal interval, both ways, so that many sessions do not renew in step
_MAX_TTL_S = 9_000_000_000  # the server's limit (spec core 4.2)


class SessionState(Enum):
    """Where a session stands."""

    NEW = "new"
    """Not opened yet."""
    ACTIVE = "active"
    """Confirmed recently."""
    SUSPENDED = "suspended"
    """No confirmation for half the TTL; grants are still valid."""
    EXPIRED = "expired"
    """Gone for ever."""
    CLOSED = "closed"
    """Closed by its owner."""


Liveness = Literal["loop"] | None
_LIVING = (SessionState.ACTIVE, SessionState.SUSPENDED)


class Session:
    """One lease and its renewals. Made by ``client.session()``; an async context manager.

    ``state``, ``valid_for()`` and ``check()`` may be called from any thread; the rest from any loop.
    """

    def __init__(
        self,
        coordination: Coordination,
        *,
        ttl: int = 15,
        lease_id: int | None = None,
        critical: bool = False,
        liveness: Liveness | Callable[[], bool] = None,
        liveness_timeout: float | None = None,
        name: str | None = None,
    ) -> None:
        if not 1 <= ttl <= _MAX_TTL_S:
            raise InvalidArgument(f"ttl must be 1 to {_MAX_TTL_S} seconds, not {ttl}")
        if liveness_timeout is not None and liveness_timeout <= 0:
            raise InvalidArgument(
                f"liveness_timeout must be positive seconds, not {liveness_timeout}"
            )
        self._home = coordination
        self._clock = coordination.env.clock
        self._asked_ttl = ttl
        self._adopted = lease_id is not None
        self._critical = critical
        self._liveness = liveness
        self._liveness_timeout = float(ttl) if liveness_timeout is None else liveness_timeout
        self.name: str = name or ""
        """What the caller named it, for messages."""
        self.lease_id: int = lease_id or 0
        """The lease's id; 0 before the session is open."""
        self.ttl: int = 0
        """Seconds, as the server granted them; 0 before the session is open."""
        self.expired: OneShot = OneShot(coordination.runtime, "session expiry")
        """Fires once, with the reason, when the session expires."""
        self._deadline = 0.0
        self._confirmed_at = 0.0
        self._state = SessionState.NEW
        self._observers: dict[Observer[SessionState], None] = {}
        self._timers: list[asyncio.TimerHandle] = []
        self._proved_alive_at = 0.0
        self._asking: asyncio.Task[object] | None = None
        # Somebody has been told that the safe deadline has passed: from then on no confirmation may revive us.
        self._doomed = False
        self.spares_lease: bool = False
        """Whether the lease is left alone when the session expires, until :meth:`drop_lease` (used by the recipes)."""
        self.lines: dict[bytes, LocalLine] = {}
        """Per name, the local line of contenders (used by the recipes)."""
        self.gate_revisions: dict[bytes, int] = {}
        """Per name, the mod revision of its create fence."""
        self.doubts: dict[bytes, list[Entry]] = {}
        """Per name, the attempts whose create may still land, where nothing fences it off."""
        self.leaving: dict[bytes, set[asyncio.Task[object]]] = {}
        """Per name, the attempts that are being abandoned and that no local line waits for."""
        self.readers: dict[bytes, dict[Grant, str]] = {}
        """Per name, the shared grants, each with the task or thread that took it."""

    # -- what may be asked from anywhere ---------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """The state now, by the clock."""
        if self._state in _LIVING:
            now = self._clock.mono()
            if self._doomed or now >= self._deadline:
                self._doomed = True
                return SessionState.EXPIRED
            if now >= self._confirmed_at + self.ttl / 2:
                return SessionState.SUSPENDED
            return SessionState.ACTIVE
        return self._state

    def valid_for(self) -> float:
        """Seconds for which the session is surely still valid; 0 if it is not."""
        if self._state in _LIVING:
            left = self._deadline - self._clock.mono()
            if left > 0 and not self._doomed:
                return left
            self._doomed = True
        return 0.0

    def check(self) -> None:
        """Raise :class:`SessionExpired` or :class:`SessionClosed` unless the session is valid right now."""
        if self.valid_for() > 0:
            return
        state = self.state
        if state is SessionState.EXPIRED:
            raise SessionExpired(
                self.expired.reason or "its safe deadline passed", lease_id=self.lease_id
            )
        if state is SessionState.CLOSED:
            raise SessionClosed(self.lease_id)
        if state is SessionState.NEW:
            raise InvalidArgument(
                "the session is not open: use 'async with' or 'await session.open()'"
            )

    def on_state(self, callback: Callable[[SessionState], object]) -> Callable[[], None]:
        """Call ``callback(state)`` at each change, on the caller's loop; return what ends that.

        Changes that come faster than the callback returns are coalesced to the newest, so the last one is never left
        out, unless the client closes meanwhile.
        Without a running loop the callback runs on a worker thread, one call at a time.
        An exception in it goes to the loop's exception handler, and does not end the subscription.
        """
        observer: Observer[SessionState] = Observer(self._home.core, callback)
        self._observers[observer] = None

        def end() -> None:
            observer.ended = True
            self._observers.pop(observer, None)

        return end

    # -- life ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the session."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""
        await self.close()

    async def open(self, *, timeout: float | None = None) -> Self:
        """Grant the lease, or adopt the given one, and start renewing.

        Raises :class:`SessionExpired` when an adopted lease does not exist, :class:`Unavailable` or
        :class:`CoordTimeout` when no server answers.
        A cancelled open leaves at most a lease that nobody renews.
        """
        if self._state is not SessionState.NEW:
            self.check()
            return self
        opening = observed_wait(
            SESSION, SESSION.wait, self.name, lambda: self._open(timeout), clock=self._clock
        )
        await self._home.run(opening)
        return self

    async def _open(self, timeout: float | None) -> None:
        if self._state is not SessionState.NEW:
            return
        if self._adopted:
            info_sent = self._clock.mono()
            ttl = await self._home.leases.keep_alive_once(self.lease_id, timeout=timeout)
            if ttl <= 0:
                raise SessionExpired("the lease to adopt does not exist", lease_id=self.lease_id)
            if self._home.core.closing.is_set():
                raise ClientClosed
            self._begin(info_sent, ttl)
            return
        self.lease_id = new_lease_id(self._home.env.rand)
        sent_at = self._clock.mono()  # of the first attempt: a repeated one may answer for it
        try:
            grant = await self._home.leases.grant(
                self._asked_ttl, lease_id=self.lease_id, reuse=True, timeout=timeout
            )
        except BaseException as error:
            self._home.background(self._revoke_quietly(), name="session-drop")
            if isinstance(error, AmbiguousResult):
                # Nobody knows the lease, so it matters to nobody.
                raise Unavailable(f"no lease for a session: {error.reason}") from error
            raise
        if self._home.core.closing.is_set():  # all sessions have been closed already
            self._home.background(self._revoke_quietly(), name="session-drop")
            raise ClientClosed
        self._begin(sent_at, grant.ttl)

    def _begin(self, sent_at: float, ttl: int) -> None:
        self.ttl = ttl
        self._state = SessionState.ACTIVE
        self._confirm(sent_at)
        self.prove_alive()
        if callable(self._liveness):
            self._asking = self._home.background(
                self._keep_asking(self._liveness), name="session-liveness-loop"
            )
        self._home.renewals.add(self, critical=self._critical)
        self._home.sessions[self] = None
        if self.state is SessionState.EXPIRED:
            self.expire("the grant took longer than its TTL")
            return
        self._schedule()
        self._tell(SessionState.ACTIVE)

    def _confirm(self, sent_at: float) -> None:
        margin = min(_MARGIN_MAX_S, max(_MARGIN_MIN_S, self.ttl / 10))
        self._confirmed_at = max(self._confirmed_at, sent_at)
        self._deadline = max(self._deadline, sent_at + self.ttl * (1 - DRIFT) - margin)

    # -- renewal: on the runtime's loop ----------------------------------------------------------------------------

    @property
    def attempt_limit(self) -> float:
        """See :class:`coord.renewal.Renewable`."""
        return self.ttl / 4

    def _schedule(self) -> None:
        """Plan the next renewal, a hedge if it stays unanswered, the suspicion, and the end."""
        for timer in self._timers:
            timer.cancel()
        loop = asyncio.get_running_loop()
        now = self._clock.mono()
        rand = self._home.env.rand
        third = self.ttl / 3
        renew_in = max(
            0.0, self._confirmed_at + third * rand.uniform(1 - _JITTER, 1 + _JITTER) - now
        )
        quarter = self.ttl / 4
        self._timers = [
            loop.call_later(renew_in, self._renew),
            loop.call_later(renew_in + quarter, self._hedge),
            loop.call_later(max(0.0, self._confirmed_at + self.ttl / 2 - now), self._suspect),
            loop.call_later(max(0.0, self._deadline - now), self._end_reached),
        ]

    def _renew(self) -> None:
        if self._test_deadline() and self._is_alive():
            self._home.renewals.renew(self)

    def _hedge(self) -> None:
        if not self._test_deadline():
            return
        quarter = self.ttl / 4
        # Without a proof of life nothing is sent, but the proof may still come before the end.
        if self._is_alive():
            note_renewal(None)
            self._home.background(
                self._home.renewals.renew_elsewhere(self, timeout=quarter), name="session-hedge"
            )
        self._timers.append(asyncio.get_running_loop().call_later(quarter, self._hedge))

    def _suspect(self) -> None:
        if not self._test_deadline():
            return
        if self.state is not SessionState.SUSPENDED:
            # The timer was early by a rounding: look again.
            self._timers.append(asyncio.get_running_loop().call_later(0.005, self._suspect))
            return
        self._state = SessionState.SUSPENDED
        self._tell(SessionState.SUSPENDED)

    def _end_reached(self) -> None:
        self._test_deadline()
        if not self.expired.is_set() and self._state is not SessionState.CLOSED:
            # The timer was early by a rounding: look again.
            self._timers.append(asyncio.get_running_loop().call_later(0.005, self._end_reached))

    def _test_deadline(self) -> bool:
        """Expire if the safe deadline has passed; say whether the session goes on."""
        if self._state not in (SessionState.ACTIVE, SessionState.SUSPENDED):
            return False
        if self._doomed or self._clock.mono() >= self._deadline:
            unhealthy = self._liveness is not None and not self._is_alive()
            self.expire("unhealthy" if unhealthy else "no renewal was confirmed in time")
            return False
        return True

    def on_renewed(self, sent_at: float, ttl: int) -> None:
        """See :class:`coord.renewal.Renewable`."""
        # The old deadline first: a confirmation that waited in a buffer while the process was stopped must not
        # revive a session that others may have seen dead.
        if not self._test_deadline():
            return
        note_renewal(self._clock.mono() - sent_at if ttl > 0 else None)
        if ttl <= 0:
            self.expire("lease not found")
            return
        self.ttl = ttl
        self._confirm(sent_at)
        if not self._test_deadline():
            return
        if self._state is SessionState.SUSPENDED:
            self._state = SessionState.ACTIVE
            self._tell(SessionState.ACTIVE)
        self._schedule()

    def _is_alive(self) -> bool:
        """Ask the liveness gate; its proof counts for ``liveness_timeout`` seconds."""
        if self._liveness is None:
            return True
        return self._clock.mono() - self._proved_alive_at < self._liveness_timeout

    async def _keep_asking(self, probe: Callable[[], bool]) -> None:
        """Ask the application several times per timeout whether it is alive; a failing probe is no proof."""

        async def ask() -> None:
            if await self._home.env.offload.run(probe):
                self.prove_alive()

        while (asking := self._home.background(ask(), name="session-liveness")) is not None:
            await asyncio.wait({asking})
            await asyncio.sleep(self._liveness_timeout / 4)

    def prove_alive(self) -> None:
        """Note that the application is alive, from any thread."""
        self._proved_alive_at = self._clock.mono()

    def beat_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """For ``liveness="loop"``: let ``loop`` prove that it runs, several times per timeout."""

        def beat() -> None:
            self.prove_alive()
            if self._state in (SessionState.NEW, SessionState.ACTIVE, SessionState.SUSPENDED):
                loop.call_later(self._liveness_timeout / 4, beat)

        beat()

    # -- ends ------------------------------------------------------------------------------------------------------

    def expire(self, reason: str) -> None:
        """Declare the session expired, once, for ever. On the runtime's loop."""
        if self._state in (SessionState.EXPIRED, SessionState.CLOSED):
            return
        self._state = SessionState.EXPIRED
        self._leave()
        note_loss(SESSION, reason)
        self.expired.set(reason)
        self._tell(SessionState.EXPIRED)
        if reason != "lease not found" and not self.spares_lease:
            self._home.background(self._revoke_in_the_end(), name="session-revoke")

    def _leave(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._asking is not None:
            self._asking.cancel()
        self._home.renewals.remove(self)
        self._home.sessions.pop(self, None)

    def _tell(self, state: SessionState) -> None:
        for observer in list(self._observers):  # a copy: they come and go in any thread
            observer.tell(state)

    def drop_lease(self) -> None:
        """Revoke the lease that an expired session has spared, in the background. On the runtime's loop."""
        if self.spares_lease and self._state is SessionState.EXPIRED:
            self.spares_lease = False
            self._home.background(self._revoke_in_the_end(), name="session-revoke")

    async def _revoke_quietly(self) -> None:
        with contextlib.suppress(CoordError):  # without an answer the lease ends by its TTL
            await self._home.leases.revoke(self.lease_id, timeout=_REVOKE_WITHIN_S)

    async def _revoke_in_the_end(self) -> None:
        """Revoke until that is answered, for as long as the client lives.

        A lease may outlive an outage by far, and block others meanwhile: whoever becomes leader gives it its whole time
        again. Asked at most as often as the session was renewed.
        """
        backoff = Backoff(self._home.env.rand, _REVOKE_AGAIN_S, self.ttl / 3)
        with contextlib.suppress(CoordError):  # it has gone, or nothing can be done about it
            while True:
                try:
                    await self._home.leases.revoke(self.lease_id, timeout=_REVOKE_WITHIN_S)
                except (Unavailable, CoordTimeout, AmbiguousResult):
                    await backoff.pause()
                else:
                    return

    async def close(self) -> None:
        """Stop renewing and revoke the lease, which deletes every key held through it.

        Waits at most 5 s for the server; if it does not answer, the lease ends by its TTL.
        Runs to its end although the caller is cancelled.
        """

        async def ending() -> None:
            # Made here, not as an argument: a client that is closed never begins this, nor would it end that.
            await finish(self.shut(), within=_REVOKE_WITHIN_S * 2)

        with contextlib.suppress(ClientClosed):  # closing the client has closed its sessions
            await self._home.run(ending())

    async def shut(self) -> None:
        """Close, on the runtime's loop."""
        if self._state is SessionState.NEW:
            self._state = SessionState.CLOSED
        if self._state in (SessionState.EXPIRED, SessionState.CLOSED):
            return
        if not self._test_deadline():
            return
        self._state = SessionState.CLOSED
        self._leave()
        self.expired.set("closed")
        self._tell(SessionState.CLOSED)
        await self._revoke_quietly()

    async def orphan(self) -> int:
        """Stop renewing but keep the lease, and return its id: another process may adopt it before its TTL ends.

        Raises :class:`SessionExpired` when it has expired already.
        """
        return await self._home.run(self._orphan())

    async def _orphan(self) -> int:
        self.check()
        self._state = SessionState.CLOSED
        self._leave()
        self.expired.set("orphaned")
        self._tell(SessionState.CLOSED)
        return self.lease_id

    async def confirm_lost(self) -> None:
        """Ask the server whether the lease still exists, and expire if it does not. On the runtime's loop."""
        try:
            info = await self._home.leases.time_to_live(self.lease_id)
        except LeaseNotFound:
            self.expire("lease not found")
        else:
            if info.remaining is None:
                self.expire("lease not found")
