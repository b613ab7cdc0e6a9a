"""A named election: standing in it, looking on, and leading in term after term."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from coord._telemetry import ELECTION, observed_wait
from coord.election.candidate import Candidate
from coord.election.leading import Leading
from coord.election.observation import Observation
from coord.election.term import Leader, Term, to_proposal
from coord.entry import check_name
from coord.errors import CampaignTimeout, InvalidArgument, NoLeader
from coord.grants import Hold
from coord.local_line import LocalLine
from coord.roster import roster
from coord.store import operations as op
from coord.store.kv import SortBy
from coord.waiter import while_valid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coord.coordination import Coordination
    from coord.grants import OnLoss
    from coord.session import Session


class Election:
    """A named election. Made by ``client.election(name)``."""

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        *,
        session: Session | None = None,
        within: bytes | None = None,
    ) -> None:
        self._home = home
        self.name: bytes = home.claim(check_name(name), within=within)
        """The name, as it stands in the store."""
        self._text = self.name.decode(errors="backslashreplace")
        self._prefix = self.name + b"/"
        self._session = session

    # -- becoming leader -------------------------------------------------------------------------------------------

    async def campaign(self, value: str | bytes = b"", *, timeout: float | None = None) -> Term:
        """Wait to become the leader, publishing ``value``, and return the term.

        Raises :class:`CampaignTimeout` after ``timeout`` seconds, :class:`SessionExpired` as soon as the session ends,
        :class:`PayloadTooLarge` for a value above the client's ``max_value_bytes``.
        A cancelled or failed campaign withdraws the candidacy, in the background.
        """
        raw = to_proposal(self._home, self._text, value)
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
        waiting = observed_wait(
            ELECTION,
            ELECTION.wait,
            self._text,
            lambda: self._campaign(raw, timeout),
            clock=self._home.env.clock,
        )
        return await self._home.run(waiting, discard=Term.discard)

    def lead(
        self,
        value: str | bytes = b"",
        *,
        timeout: float | None = None,
        on_loss: OnLoss = "cancel",
    ) -> Hold[Term]:
        """Return an ``async with`` for one term; see :class:`coord.grants.Hold`."""
        return Hold(self._home, lambda: self.campaign(value, timeout=timeout), on_loss)

    async def _campaign(self, value: bytes, timeout: float | None) -> Term:
        behind = "another campaign of this session"
        contender: Candidate | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                session = await self._home.session_or_default(self._session)
                session.check()
                line = await while_valid(session, LocalLine.join(session, self.name))
                contender = Candidate(self._home, session, self.name, value)
                try:
                    await contender.stand()
                    await contender.wait_turn()
                    return Term(self._home, contender, line)
                except BaseException:
                    contender.give_up(line)
                    raise
        except TimeoutError:
            if not scope.expired():
                raise
            if contender is not None and contender.behind is not None:
                behind = contender.behind.decode(errors="backslashreplace")
            raise CampaignTimeout(
                f"campaign in {self._text!r}", timeout, explain=f"waiting behind {behind}"
            ) from None

    # -- looking on ------------------------------------------------------------------------------------------------

    async def leader(self, *, timeout: float | None = None) -> Leader:
        """Return the present leader, as of now (linearizable). Raises :class:`NoLeader`."""
        leader = await self._home.run(self._first(timeout))
        if leader is None:
            raise NoLeader(self._text)
        return leader

    async def candidates(self, *, timeout: float | None = None) -> tuple[Leader, ...]:
        """Return the leader and those who wait, in order of succession."""
        line = await self._home.run(roster(self._home.core, self.name, timeout=timeout))
        return tuple([Leader.of(kv) for kv in line])

    async def _first(self, timeout: float | None) -> Leader | None:
        look = op.get_prefix(self._prefix, sort_by=SortBy.CREATE_REVISION, limit=1)
        result = await self._home.txn.run((), (look,), timeout=timeout)
        items = result.range(0).items
        return Leader.of(items[0]) if items else None

    async def observe(self) -> AsyncIterator[Leader | None]:
        """Yield the leader now, and again at each change of leader or value; None while there is none.

        Never goes back in time and never repeats itself; values that come faster than they are taken may be skipped.
        Goes on through lost connections and compactions.
        """
        observation = Observation(self._home, self._prefix)
        try:
            while True:
                yield await self._home.run(observation.next(), discard=observation.put_back)
        finally:
            observation.close_soon()

    # -- leading for as long as a function runs --------------------------------------------------------------------

    async def run(
        self,
        fn: Callable[[Term], Awaitable[object]],
        *,
        value: str | bytes = b"",
        rejoin: bool = True,
        on_error: Literal["raise", "rejoin"] = "rejoin",
        on_overrun: Callable[[Term], object] | Literal["exit"] | None = None,
    ) -> None:
        """Campaign, call ``fn(term)`` while leading, and again after it has ended; for as long as this call runs.

        On loss ``fn`` is cancelled, and only when it has really returned a new campaign begins: two bodies of one
        process never overlap.
        ``fn`` returning resigns; ``rejoin=False`` then ends the call.
        An exception of ``fn`` resigns, and is raised (``on_error="raise"``) or campaigns again.
        ``on_overrun(term)`` is called when ``fn`` still runs after ``term.stop_by``, so that another leader may exist soon;
        by default the loop's exception handler is told, which logs it. ``"exit"`` ends the process then, though ``fn``
        blocks its loop (with ``runtime="inline"`` that is the client's, too, and nobody is there to notice).
        An expired default session is replaced by a new one; a session of the caller's ends the call with its own end.
        """
        leading = Leading(
            self._home,
            lambda: self.campaign(value),
            fn,
            session=self._session,
            rejoin=rejoin,
            raises=on_error == "raise",
            on_overrun=on_overrun,
        )
        await leading.run()
