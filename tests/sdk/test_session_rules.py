"""The rules of a session (spec recipes 2), in virtual time: nothing waits, nothing depends on the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import coord
from coord import SessionState
from coord.runtime import Clock
from coord.session import Session
from tests.sdk.lone_session import Home, states_of
from tests.support.virtual import VirtualLoop, run_virtual

SECOND = 1.0
ACTIVE, SUSPENDED, EXPIRED = SessionState.ACTIVE, SessionState.SUSPENDED, SessionState.EXPIRED


def virtual(test: Callable[[Home], Awaitable[None]]) -> None:
    """Run a test with a fresh client in virtual time; background work must not have failed."""

    async def main(loop: VirtualLoop) -> None:
        home = Home(loop)
        try:
            await test(home)
        finally:
            await home.close()
        assert home.failures == []

    run_virtual(main)


@pytest.mark.parametrize(
    ("ttl", "margin"), [(1, 0.2), (2, 0.2), (3, 0.3), (5, 0.5), (10, 1), (60, 1)]
)
def test_the_safe_deadline_counts_from_the_sending(ttl: int, margin: float) -> None:
    async def test(home: Home) -> None:
        home.leases.grant_takes = 0.25
        session = await home.open(ttl)
        promised = home.leases.granted_at + ttl * 0.99 - margin
        assert session.valid_for() == pytest.approx(promised - home.env.clock.mono())
        sent_at = home.env.clock.mono()
        await asyncio.sleep(0.1)
        session.on_renewed(sent_at, ttl)
        promised = sent_at + ttl * 0.99 - margin
        assert session.valid_for() == pytest.approx(promised - home.env.clock.mono())
        session.on_renewed(sent_at - 0.2, ttl)  # an older confirmation takes nothing back
        assert session.valid_for() == pytest.approx(promised - home.env.clock.mono())

    virtual(test)


@pytest.mark.parametrize("lease_id", [None, 7])
def test_what_is_opened_while_the_client_closes_is_not_kept(lease_id: int | None) -> None:
    """The client has closed its sessions already: nobody would ever end this one."""

    async def test(home: Home) -> None:
        home.leases.grant_takes, home.leases.adopted_ttl = 0.5, 10
        session = home.session(lease_id=lease_id)
        opening = asyncio.ensure_future(session.open())
        await asyncio.sleep(0.1)
        home.closing.set()
        with pytest.raises(coord.ClientClosed):
            await opening
        await asyncio.sleep(1)
        assert home.renewals.members == []
        assert home.sessions == {}
        # What it has granted itself it gives back.
        assert home.leases.revoked == ([] if lease_id else [session.lease_id])

    virtual(test)


def test_suspension_is_told_although_its_timer_comes_early() -> None:
    """Event loops round timers to milliseconds, and not always up."""

    class Behind:
        def __init__(self, clock: Clock) -> None:
            self._clock = clock
            self.wall = clock.wall

        def mono(self) -> float:
            return self._clock.mono() - 0.001

    async def test(home: Home) -> None:
        session = await home.open(10)
        seen = states_of(session)
        session._clock = Behind(home.env.clock)
        await asyncio.sleep(5.1)
        assert seen == [SUSPENDED]

    virtual(test)


def test_the_server_decides_the_ttl() -> None:
    async def test(home: Home) -> None:
        home.leases.min_ttl = 5
        session = await home.open(1)
        assert session.ttl == 5
        assert session.valid_for() == pytest.approx(5 * 0.99 - 0.5)
        session.on_renewed(home.env.clock.mono(), 8)
        assert session.ttl == 8
        assert session.valid_for() == pytest.approx(8 * 0.99 - 0.8)

    virtual(test)


def test_a_grant_that_took_too_long_is_no_session() -> None:
    async def test(home: Home) -> None:
        home.leases.grant_takes = 12
        session = await home.open(10)
        assert session.state is EXPIRED
        with pytest.raises(coord.SessionExpired):
            session.check()
        await asyncio.sleep(SECOND)
        assert home.leases.revoked == [session.lease_id]

    virtual(test)


def test_renewals_come_every_third_of_the_ttl_jittered() -> None:
    async def test(home: Home) -> None:
        session = await home.open(30)
        home.answer_at_once(session)
        await asyncio.sleep(3600)
        gaps = [b - a for a, b in zip(home.renewals.asked, home.renewals.asked[1:], strict=False)]
        assert len(gaps) >= 3600 / 11 - 1
        assert min(gaps) >= 9 - 1e-6
        assert max(gaps) <= 11 + 1e-6
        assert len({round(gap, 3) for gap in gaps}) > 100
        assert home.renewals.hedged == []
        assert session.state is ACTIVE

    virtual(test)


def test_silence_suspends_then_expires_and_is_hedged_against() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10)
        seen = states_of(session)
        begun = home.env.clock.mono()
        await asyncio.sleep(4.99)
        assert session.state is ACTIVE
        await asyncio.sleep(0.02)
        assert session.state is SUSPENDED
        assert seen == [SUSPENDED]
        session.check()  # still valid
        assert session.valid_for() == pytest.approx(begun + 8.9 - home.env.clock.mono())
        # A quarter of the TTL after the unanswered renewal, and every quarter from then on.
        (asked,) = home.renewals.asked
        assert home.renewals.hedged == []
        await asyncio.sleep(3.8)
        assert home.renewals.hedged[0] == pytest.approx(asked + 2.5)
        assert session.state is SUSPENDED
        await asyncio.sleep(0.1)
        assert session.state is EXPIRED
        assert session.valid_for() == 0
        assert seen == [SUSPENDED, EXPIRED]
        assert session.expired.reason == "no renewal was confirmed in time"
        await asyncio.sleep(SECOND)
        assert home.leases.revoked == [session.lease_id]
        assert home.renewals.members == []
        assert home.sessions == {}

    virtual(test)


def test_an_answer_ends_the_suspension() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10)
        seen = states_of(session)
        await asyncio.sleep(6)
        session.on_renewed(home.env.clock.mono() - 1, 10)
        assert session.state is ACTIVE
        await asyncio.sleep(0.01)
        assert seen == [SUSPENDED, ACTIVE]
        home.answer_at_once(session)
        await asyncio.sleep(100)
        assert session.state is ACTIVE
        assert seen == [SUSPENDED, ACTIVE]

    virtual(test)


def test_expiry_is_told_once_and_is_for_ever() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10)
        fired: list[str | None] = []
        session.expired.watch(lambda: fired.append(session.expired.reason))
        waiting = asyncio.ensure_future(session.expired.wait())
        session.on_renewed(home.env.clock.mono(), 0)
        assert session.state is EXPIRED
        session.on_renewed(home.env.clock.mono(), 10)
        session.expire("again")
        assert await waiting == "lease not found"
        assert await session.expired.wait() == "lease not found"
        assert fired == ["lease not found"]
        assert session.state is EXPIRED
        assert home.leases.revoked == []  # there is nothing to revoke
        with pytest.raises(coord.SessionExpired, match="lease not found"):
            session.check()
        await session.close()
        assert session.state is EXPIRED

    virtual(test)


def test_a_stopped_process_finds_its_session_expired_at_its_first_call() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10)
        home.answer_at_once(session)
        await asyncio.sleep(40)
        assert session.state is ACTIVE
        sent_at = home.env.clock.mono()
        home.loop.freeze(9)  # no timer, no task has run
        assert session.state is EXPIRED
        assert session.valid_for() == 0
        with pytest.raises(coord.SessionExpired):
            session.check()
        # An answer that waited in the socket's buffer must not revive what others may have seen dead.
        session.on_renewed(sent_at, 10)
        session.on_renewed(home.env.clock.mono(), 10)
        assert session.state is EXPIRED
        assert await session.expired.wait() == "no renewal was confirmed in time"

    virtual(test)


def test_a_lease_that_outlives_an_outage_is_revoked_soon_behind_it() -> None:
    """Whoever leads then has given it its whole time again, and what it holds would block others for as long."""

    async def test(home: Home) -> None:
        session = await home.open(15)
        home.leases.reachable = False
        await asyncio.sleep(60)
        assert session.state is EXPIRED
        assert home.leases.revoked == []
        home.leases.reachable = True
        await asyncio.sleep(15 / 3)
        assert home.leases.revoked == [session.lease_id]
        await asyncio.sleep(60)
        assert home.leases.revoked == [session.lease_id]  # once is enough

    virtual(test)


def test_close_revokes_and_ends_everything() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10)
        seen = states_of(session)
        await session.close()
        await session.close()
        assert session.state is SessionState.CLOSED
        assert session.expired.reason == "closed"
        assert home.leases.revoked == [session.lease_id]
        await asyncio.sleep(60)
        assert home.renewals.asked == []
        assert seen == [SessionState.CLOSED]
        with pytest.raises(coord.SessionClosed):
            session.check()
        with pytest.raises(coord.SessionClosed):
            await session.open()

    virtual(test)


def test_close_without_a_server_leaves_the_lease_to_its_ttl() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10)
        home.leases.reachable = False
        await session.close()
        assert session.state is SessionState.CLOSED

    virtual(test)


def test_an_open_without_an_answer_leaves_nothing_in_doubt() -> None:
    async def test(home: Home) -> None:
        home.leases.answers = False
        session = home.session()
        with pytest.raises(coord.Unavailable, match="no lease for a session: no answer"):
            await session.open()
        await asyncio.sleep(SECOND)
        assert home.leases.revoked == [session.lease_id]

    virtual(test)


def test_an_open_that_fails_or_is_cancelled_revokes_what_may_exist() -> None:
    async def test(home: Home) -> None:
        home.leases.grant_takes = 1
        session = home.session(10)
        task = asyncio.ensure_future(session.open())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert home.leases.revoked == [session.lease_id]
        assert session.state is SessionState.NEW
        assert home.renewals.members == []
        home.leases.reachable = False
        with pytest.raises(coord.Unavailable):
            await home.open(10)

    virtual(test)


def test_adopting_counts_from_before_the_question() -> None:
    async def test(home: Home) -> None:
        home.leases.adopted_ttl = 10
        home.leases.grant_takes = 2
        session = await home.open(99, lease_id=77)
        assert (session.lease_id, session.ttl) == (77, 10)
        assert session.valid_for() == pytest.approx(8.9 - 2)
        home.leases.adopted_ttl = 0
        with pytest.raises(coord.SessionExpired, match="does not exist"):
            await home.open(10, lease_id=78)

    virtual(test)


def test_orphaning_keeps_the_lease() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10)
        assert await session.orphan() == session.lease_id
        await session.close()
        await asyncio.sleep(60)
        assert home.leases.revoked == []
        assert home.renewals.asked == []
        assert session.expired.reason == "orphaned"
        with pytest.raises(coord.SessionClosed):
            await session.orphan()

    virtual(test)


def test_an_application_that_is_not_alive_gets_no_renewals() -> None:
    async def test(home: Home) -> None:
        healthy = True
        session = await home.open(30, liveness=lambda: healthy, liveness_timeout=4)
        home.answer_at_once(session)
        await asyncio.sleep(300)
        assert session.state is ACTIVE  # a timeout below the renewal interval is no trap
        count = len(home.renewals.asked)
        await home.next_renewal()
        healthy = False
        await asyncio.sleep(16)
        assert len(home.renewals.asked) == count + 1
        assert session.state is SUSPENDED
        healthy = True  # in time: one of the hedges before the end saves it
        await asyncio.sleep(10)
        assert home.renewals.hedged
        session.on_renewed(home.renewals.hedged[-1], 30)
        assert session.state is ACTIVE
        healthy = False
        await asyncio.sleep(60)
        assert session.state is EXPIRED
        assert session.expired.reason == "unhealthy"

    virtual(test)


def test_a_probe_that_fails_proves_nothing() -> None:
    def probe() -> bool:
        raise OSError("broken probe")

    async def test(home: Home) -> None:
        session = await home.open(10, liveness=probe, liveness_timeout=2)
        home.answer_at_once(session)
        await asyncio.sleep(30)
        assert session.expired.reason == "unhealthy"
        assert {type(failure) for failure in home.failures} == {OSError}
        home.failures.clear()

    virtual(test)


def test_a_loop_that_is_blocked_loses_its_session() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10, liveness="loop", liveness_timeout=5)
        session.beat_on(home.loop)
        home.answer_at_once(session)
        await asyncio.sleep(100)
        assert session.state is ACTIVE
        await session.close()

    virtual(test)


def test_observers_get_the_newest_state_and_do_not_stand_in_each_others_way() -> None:
    async def test(home: Home) -> None:
        session = await home.open(10)
        told: list[SessionState] = []

        def broken(state: SessionState) -> None:
            told.append(state)
            raise LookupError

        errors: list[object] = []
        home.loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        session.on_state(broken)
        seen = states_of(session)
        await asyncio.sleep(6)
        session.on_renewed(home.env.clock.mono(), 10)
        session.expire("for the test")  # two changes before observers run: the newest counts
        await asyncio.sleep(0.01)
        assert told == seen == [SUSPENDED, EXPIRED]
        assert [type(error) for error in errors] == [LookupError, LookupError]

    virtual(test)


@pytest.mark.parametrize(
    ("ttl", "liveness_timeout"), [(0, None), (-1, None), (10**10, None), (5, 0), (5, -1)]
)
def test_wrong_arguments(ttl: int, liveness_timeout: float | None) -> None:
    async def test(home: Home) -> None:
        with pytest.raises(coord.InvalidArgument):
            home.session(ttl, liveness_timeout=liveness_timeout)
        with pytest.raises(coord.InvalidArgument, match="not open"):
            home.session(5).check()

    virtual(test)


class Server:
    """A server's view of one lease, on a clock of its own rate. ``expires`` is in the client's time."""

    def __init__(self, ttl: int, rate: float, granted_at: float) -> None:
        self._true_ttl = ttl / rate
        self.expires = granted_at + self._true_ttl

    def renew(self, now: float) -> bool:
        if now >= self.expires:
            return False
        self.expires = now + self._true_ttl
        return True


@given(
    ttl=st.integers(2, 12),
    rate=st.floats(0.991, 1.009),
    grant_delay=st.floats(0, 1),
    trips=st.lists(
        st.tuples(st.floats(0, 6), st.floats(0, 6), st.booleans()), min_size=1, max_size=12
    ),
    freezes=st.lists(st.tuples(st.floats(0, 20), st.floats(0, 15)), max_size=2),
)
def test_never_valid_after_expired(
    ttl: int,
    rate: float,
    grant_delay: float,
    trips: list[tuple[float, float, bool]],
    freezes: list[tuple[float, float]],
) -> None:
    """Any delays, losses, stops of the process and clock rates: what is locally valid exists on the server."""

    async def test(home: Home) -> None:
        home.leases.grant_takes = grant_delay
        session = await home.open(ttl)
        server = Server(ttl, rate, home.leases.granted_at)
        plan = iter(trips)

        def on_ask(sent_at: float) -> None:
            there, back, lost = next(plan, (0.0, 0.0, True))
            home.background(travel(sent_at, there, back, lost=lost), name="trip")

        async def travel(sent_at: float, there: float, back: float, *, lost: bool) -> None:
            # The request arrives on time even while our process stands still.
            alive = server.renew(sent_at + there)
            await asyncio.sleep(there + back)
            if not lost:
                session.on_renewed(sent_at, ttl if alive else 0)

        home.renewals.on_ask = on_ask
        stops = sorted(freezes)
        ended = False
        for tick in range(240):
            await asyncio.sleep(0.25)
            while stops and tick * 0.25 >= stops[0][0]:
                home.loop.freeze(stops.pop(0)[1])
            ended = _check(session, server, home.env.clock.mono(), ended=ended)
        assert ended  # trips run out, and so does the session

    virtual(test)


def _check(session: Session, server: Server, now: float, *, ended: bool) -> bool:
    valid = session.valid_for()
    if valid > 0:
        assert not ended
        assert now + valid <= server.expires
        session.check()
        return False
    assert session.state is EXPIRED
    return True
