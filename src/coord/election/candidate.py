"""One candidacy: a place in the line that steps back when the leader means somebody further behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord._telemetry import ELECTION
from coord.contender import Contender
from coord.election.transfer import Intent, intent_key
from coord.errors import AmbiguousResult, CoordTimeout, LeadershipLost, Unavailable
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.waiter import Done, Sight, Watch, wait_until

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.session import Session


class Candidate(Contender):
    """One attempt of one session to lead, with what it would publish. On the runtime's loop."""

    def __init__(self, home: Coordination, session: Session, name: bytes, value: bytes) -> None:
        # Any entry under our lease is ours: the local line admits one campaign at a time.
        super().__init__(
            home,
            session,
            name,
            recipe=ELECTION,
            lost_error=LeadershipLost,
            is_ours=lambda _: True,
        )
        self._value = value
        self._intent = intent_key(name)
        self._ignored = 0
        """The mod revision of an intent that turned out to be old."""

    async def stand(self) -> None:
        """Create our entry, or take over what stands under our lease already. Raises as :meth:`enter`."""
        await self.enter(self._value)
        if self.entry is not None and self.entry.value != self._value:
            await self._republish()

    async def _republish(self) -> None:
        """Campaigning again under the same lease acts as a proclaim (spec core 8.4)."""
        result = await self._home.txn.run(
            (self.guard(),),
            (op.put(self.key, self._value, lease=self.session.lease_id),),
            repeat=Repeat.IDEMPOTENT,
        )
        if not result.succeeded:
            await self.raise_lost(self._lost_error)

    @override
    async def wait_turn(self) -> None:
        """Wait until no older entry is left, stepping back when the leader asks for it."""
        while not self._alone:
            first = None if self._first is None else self._with_intents(self._first)
            intent = await wait_until(self._home, self._consider, session=self.session, first=first)
            if intent is None:
                return
            await self._step_back(intent)
        self.session.check()

    async def _consider(self) -> Done[Intent | None] | Watch:
        # An intent from before our entry means somebody ahead of us: so it is enough to look from then on.
        intends = (op.get(self._intent),) if self._home.may_fence else ()
        result = await self._home.txn.run((self.guard(),), (self.ahead(), *intends))
        if not result.succeeded:
            await self.raise_lost(self._lost_error)
        items = result.range(0).items
        if not items:
            return Done(None)
        for kv in result.range(1).items if intends else ():
            intent = Intent.of(kv)
            if intent and kv.mod_revision != self._ignored and self.token < intent.target_token:
                return Done(intent)
        return self._with_intents(self.watch_behind(items[0], result.revision))

    def _with_intents(self, watch: Watch) -> Watch:
        """Look out for intents, too, where we may read them."""
        if not self._home.may_fence:
            return watch
        return Watch((*watch.sights, Sight(self._intent, on="put")), watch.revision)

    async def _step_back(self, intent: Intent) -> None:
        """Go to the end of the line, if the intent is still one."""
        self.look_again()
        try:
            if not (await self.leave_if(intent.holds(self._intent))).succeeded:
                self._ignored = intent.revision
                return
        except (Unavailable, CoordTimeout, AmbiguousResult):
            await self.leave()
        self.forget()
        await self.stand()
