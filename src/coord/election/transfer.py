"""Handing leadership on to a candidate of the leader's choice (spec recipes 7, transfer).

The leader writes an *intent* under its lease, ``_coord/transfer/<name>``: whom it means, and which term it is.
Candidates of this library that are ahead of that one look out for it and go to the end of the line, each under a
comparison that the leader, the one meant and the intent are still there: so an old intent moves nobody.
Other clients know nothing of it, and stay.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from coord.entry import META_PREFIX
from coord.errors import (
    AmbiguousResult,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    LeadershipLost,
    NoCandidate,
    SessionError,
    TransferTimeout,
    Unavailable,
)
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.keys import to_key
from coord.store.kv import SortBy
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S, Done, Watch, wait_until

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.values import KeyValue


def intent_key(name: bytes) -> bytes:
    """Return where the leader of an election says whom it means."""
    return META_PREFIX + b"transfer/" + name


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Whom a leader hands on to: keys, and the tokens that say which entries under them."""

    target: bytes
    target_token: int
    leader: bytes
    leader_token: int
    revision: int = 0
    """The mod revision of the intent's key; 0 before it is written."""

    def wire(self) -> bytes:
        """Return the value of its key."""
        return json.dumps(
            {
                "v": 1,
                "to": self.target.decode(errors="surrogateescape"),
                "token": self.target_token,
                "from": self.leader.decode(errors="surrogateescape"),
                "term": self.leader_token,
            }
        ).encode()

    @classmethod
    def of(cls, kv: KeyValue) -> Intent | None:
        """Parse the value of its key; None if it is none of ours, since anybody may have written it."""
        try:
            parsed: object = json.loads(kv.value)
        except (ValueError, RecursionError):
            return None
        if not isinstance(parsed, dict):
            return None
        fields = cast("dict[str, object]", parsed)
        to, leader = fields.get("to"), fields.get("from")
        token, term = fields.get("token"), fields.get("term")
        if not (isinstance(to, str) and isinstance(leader, str)):
            return None
        if not (isinstance(token, int) and isinstance(term, int)):
            return None
        return cls(
            target=to.encode(errors="surrogateescape"),
            target_token=token,
            leader=leader.encode(errors="surrogateescape"),
            leader_token=term,
            revision=kv.mod_revision,
        )

    def holds(self, key: bytes) -> tuple[Compare, ...]:
        """Compare that the leader, the one meant, and the intent under ``key`` are still there."""
        return (
            compare.create_revision(self.leader) == self.leader_token,
            compare.create_revision(self.target) == self.target_token,
            compare.mod_revision(key) == self.revision,
        )


class _Giver(Protocol):
    """The term that is handed on."""

    key: bytes
    name: str
    token: int
    session: Session

    def guard(self) -> Compare: ...

    def revoked(self) -> LeadershipLost: ...


class Transfer:
    """One handing on, from the leader's side. On the runtime's loop."""

    def __init__(self, home: Coordination, term: _Giver, to: str | bytes) -> None:
        self._home = home
        self._term = term
        self._to = to_key(to)
        # The term's key is <name>/<lease>.
        self._prefix = term.key[: term.key.rindex(b"/") + 1]
        self._key = intent_key(self._prefix[:-1])
        if not self._to.startswith(self._prefix):
            raise NoCandidate(term.name, self._to)
        self._revision = 0
        self._target_token = 0

    async def prepare(self, *, patience: float, timeout: float | None) -> None:
        """Return when the candidate is next in line, or ``patience`` seconds have passed."""
        if patience < 0 or (timeout is not None and timeout < 0):
            raise InvalidArgument("patience and timeout must be at least 0 seconds")
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await self._announce()
                patient = asyncio.timeout(patience)
                try:
                    async with patient:
                        await wait_until(self._home, self._look, session=self._term.session)
                except TimeoutError:
                    if not patient.expired():
                        raise
        except BaseException as error:
            self._home.background(self._withdraw(), name="transfer-withdraw")
            if isinstance(error, TimeoutError) and scope.expired():
                raise TransferTimeout(f"transfer of {self._term.name!r}", timeout) from None
            if isinstance(error, SessionError):
                raise LeadershipLost(
                    self._term.name, self._term.token, f"its session ended: {error}"
                ) from error
            raise

    async def _announce(self) -> None:
        """Write the intent, or say why it cannot be."""
        while True:
            try:
                if await self._announce_once():
                    return
            except (Unavailable, CoordTimeout, AmbiguousResult):
                await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)

    async def _announce_once(self) -> bool:
        term = self._term
        found = await self._home.txn.run((term.guard(),), (op.get(self._to, keys_only=True),))
        if not found.succeeded:
            raise term.revoked()
        items = found.range(0).items
        if not items or items[0].create_revision <= term.token:
            raise NoCandidate(term.name, self._to)
        self._target_token = items[0].create_revision
        if not self._home.may_fence:
            return True  # nobody would be told: they leave when they leave
        intent = Intent(
            target=self._to,
            target_token=self._target_token,
            leader=term.key,
            leader_token=term.token,
        )
        written = await self._home.txn.run(
            (term.guard(), compare.create_revision(self._to) == self._target_token),
            (op.put(self._key, intent.wire(), lease=term.session.lease_id),),
            repeat=Repeat.IDEMPOTENT,
        )
        self._revision = written.revision
        return written.succeeded  # if not, the next look says who has gone

    async def _look(self) -> Done[None] | Watch:
        """See whether somebody is between us and the candidate."""
        term = self._term
        between = op.get_prefix(
            self._prefix,
            min_create_revision=term.token + 1,
            max_create_revision=self._target_token,
            sort_by=SortBy.CREATE_REVISION,
            limit=1,
            keys_only=True,
        )
        target = op.get(self._to, keys_only=True)
        result = await self._home.txn.run((term.guard(),), (between, target))
        if not result.succeeded:
            raise term.revoked()
        there = result.range(1).items
        if not there or there[0].create_revision != self._target_token:
            raise NoCandidate(term.name, self._to)
        nearest = result.range(0).items[0].key
        if nearest == self._to:
            return Done(None)
        return Watch((nearest, self._to, term.key), result.revision)

    async def finish(self) -> KeyValue | None:
        """Take the intent back, and return the entry that leads now."""
        await self._withdraw()
        look = op.get_prefix(self._prefix, sort_by=SortBy.CREATE_REVISION, limit=1)
        items = (await self._home.txn.run((), (look,))).range(0).items
        return items[0] if items else None

    async def _withdraw(self) -> None:
        """Take the intent back; else it goes with the lease, and means nothing after the term."""
        if not self._revision:
            return
        try:
            await self._home.txn.run(
                (compare.mod_revision(self._key) == self._revision,),
                (op.delete(self._key),),
                repeat=Repeat.IDEMPOTENT,
            )
        except CoordError:
            return
