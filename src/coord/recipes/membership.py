"""Who is alive in a named group, and with what data (spec recipes 15; native layout).

A member is a leased key ``<name>/<id>``. The key's create revision is the member's *incarnation*: one that comes back
after its session was lost, or under the same id in another process, has a higher one.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from coord._telemetry import MEMBERSHIP, observed_wait
from coord.cache import Cache
from coord.cache.mirror import Limits
from coord.entry import check_name
from coord.errors import (
    CacheTimeout,
    CoordError,
    CoordTimeout,
    DecodeError,
    InvalidArgument,
    LostError,
    NotHeld,
)
from coord.names import as_text
from coord.recipes.opening import Opening
from coord.recipes.presence import KeyTaken, Presence
from coord.runtime import process_identity
from coord.store.keys import prefix_range
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coord.cache import CacheBatch, Mirrors
    from coord.codec.values import Entry
    from coord.coordination import Coordination
    from coord.signals import OneShot

_MAX_MEMBERS = 100_000
_MAX_BYTES = 1 << 28


class AlreadyMember(CoordError):
    """Another member has this id; ``takeover=True`` replaces it."""

    def __init__(self, name: str, member_id: str) -> None:
        self.name = name
        self.member_id = member_id
        super().__init__(f"group {name!r} has a member {member_id!r} already")


class NotMember(NotHeld):
    """The member has left the group."""


class MemberLost(LostError):
    """Membership was lost: the session has ended with ``rejoin=False``, or another has taken the id over."""

    noun = "member"


class MembershipTimeout(CoordTimeout):
    """A join, or the wait for members, did not succeed in time; nothing is left of it."""


class GroupEventKind(Enum):
    """What happened to a member."""

    JOINED = "joined"
    """It is new."""
    REJOINED = "rejoined"
    """It came back by itself, after its session was lost: the same member, a new incarnation."""
    UPDATED = "updated"
    """Its data changed."""
    LEFT = "left"
    """It left, or has died."""


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """What a member's key says."""

    nonce: str
    data: Any


class MemberCodec:
    """The value of a member's key: JSON; bytes are written in base64."""

    type_name: str = "group member"

    def encode(self, value: MemberRecord, /) -> bytes:
        """Return the value. Raises :class:`InvalidArgument` for data that is no JSON."""
        shown: dict[str, object] = {"nonce": value.nonce}
        if isinstance(value.data, bytes):
            shown["base64"] = base64.b64encode(value.data).decode()
        elif value.data is not None:
            shown["data"] = value.data
        try:
            text = json.dumps(shown, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"cannot write this data as JSON: {error}") from error
        return text.encode()

    def decode(self, data: bytes, /) -> MemberRecord:
        """Return what it says. Raises :class:`DecodeError`."""
        try:
            found: object = json.loads(data)
            if not isinstance(found, dict):
                raise DecodeError(self.type_name, "it is no JSON object")
            value = cast("dict[str, Any]", found)
            nonce = value.get("nonce")
            raw = value.get("base64")
            content = (
                value.get("data") if raw is None else base64.b64decode(str(raw), validate=True)
            )
        except (ValueError, RecursionError) as error:
            if isinstance(error, DecodeError):
                raise
            raise DecodeError(self.type_name, str(error)) from error
        return MemberRecord(nonce if isinstance(nonce, str) else "", content)


_CODEC = MemberCodec()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    """A member as its entry tells: ``data`` as it was given, ``token`` its incarnation, ``lease_id`` its session's."""

    id: str
    data: Any
    token: int
    revision: int
    lease_id: int
    nonce: str = ""

    @classmethod
    def of(cls, prefix: bytes, entry: Entry[MemberRecord]) -> GroupMember:
        """Convert an entry below ``prefix``."""
        return cls(
            id=as_text(entry.key[len(prefix) :]),
            data=entry.value.data,
            token=entry.create_revision,
            revision=entry.mod_revision,
            lease_id=entry.lease,
            nonce=entry.value.nonce,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEvent:
    """One change: ``member`` as it is now, of ``LEFT`` as it was; ``before`` as it was, None if it was not there.

    ``resync``: the history in between is gone, and this is the difference between before and now; a member may have
    left and come back, several times.
    """

    kind: GroupEventKind
    member: GroupMember
    before: GroupMember | None = None
    resync: bool = False


class GroupSeat:
    """A member that this process is. Made by ``membership.join()``; for any loop and thread."""

    def __init__(
        self, home: Coordination, group: str, ident: str, nonce: str, presence: Presence
    ) -> None:
        self._home = home
        self._group = group
        self._nonce = nonce
        self._presence = presence
        self.id: str = ident
        """The member's id."""
        self.key: bytes = presence.key
        """The key in the store."""

    @override
    def __repr__(self) -> str:
        """Show the key and its state."""
        state = "present" if self.is_present else "absent"
        return f"<coord.GroupSeat {self._presence.text!r}: {state}>"

    @property
    def token(self) -> int:
        """The present incarnation, or the last one; it rises each time it comes back."""
        return self._presence.token

    @property
    def is_present(self) -> bool:
        """Whether it is in the store, as far as this process knows."""
        return self._presence.is_shown

    @property
    def lost(self) -> OneShot:
        """Fires once, with the reason, when membership is lost for good."""
        return self._presence.lost

    def check(self) -> None:
        """Raise :class:`MemberLost` when it is lost for good, :class:`NotMember` when it has left."""
        reason = self._presence.lost.reason
        if reason is not None:
            raise MemberLost(f"{self._group}/{self.id}", self.token, reason)
        if self._presence.is_over:
            raise NotMember(f"{self._group}/{self.id}")

    async def update(self, data: Any, *, timeout: float | None = None) -> None:  # noqa: ANN401 - any JSON
        """Replace the data. Raises :class:`NotMember`, :class:`MemberLost`, and what a write raises.

        Written when it comes back, if it is not present now; also after an error of the write.
        """
        self.check()
        value = _encoded(self._home, self._group, MemberRecord(self._nonce, data))
        try:
            await self._home.run(self._presence.show(value, timeout=timeout))
        except NotHeld:
            self.check()
            raise

    async def leave(self) -> bool:
        """Leave the group; False if membership was lost before. A second call returns at once.

        Waits until the store has confirmed, or the lease has ended. Cancelling the caller does not stop it.
        """
        return await self._presence.leave()

    def discard(self) -> None:
        """Leave in the background: nobody is left to use it. On the runtime's loop."""
        self._presence.discard()


class Membership:
    """A named group. Made by ``client.membership(name)``; may be shared and kept.

    ``ttl``: seconds after which a crashed process is no member any more; None shares the client's default session.
    The first call that reads opens a live copy of the group, which ends with this object or the client.
    """

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        name: str | bytes,
        *,
        ttl: int | None = None,
    ) -> None:
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._text = as_text(self.name)
        self._prefix = self.name + b"/"
        self._ttl = ttl
        start, end = prefix_range(self._prefix)
        self._cache: Cache[MemberRecord] = Cache(
            mirrors,
            start,
            end,
            codec=_CODEC,
            limits=Limits(max_keys=_MAX_MEMBERS, max_bytes=_MAX_BYTES),
            timeout=None,
        )
        self._opening = asyncio.Lock()
        self._is_open = False
        self._seen = 0

    # -- being one -------------------------------------------------------------------------------------------------

    def join(
        self,
        id: str | None = None,  # noqa: A002 - the field's word
        *,
        data: Any = None,  # noqa: ANN401 - any JSON
        rejoin: bool = True,
        takeover: bool = False,
        timeout: float | None = None,
    ) -> Opening[GroupSeat]:
        """Become a member: ``async with group.join() as me``, or await it and leave yourself.

        ``id`` is unique in the group, by default made of host, process and a random number; another member's raises
        :class:`AlreadyMember`, or is replaced with ``takeover=True``.
        ``data`` is anything that JSON knows, or bytes.
        A member whose session is lost comes back by itself; with ``rejoin=False`` it is lost, and the end of the
        ``async with`` raises :class:`MemberLost`.
        Raises :class:`MembershipTimeout` after ``timeout`` seconds; nothing is left of it then, nor after a
        cancellation.
        """
        nonce = format(self._home.env.rand.bits(64), "016x")
        if id is None:
            host, pid = process_identity()
            id = f"{host}-{pid}-{nonce}".replace("/", "-")  # noqa: A001 - as above
        if not id or "/" in id or "\0" in id:
            raise InvalidArgument(f"a member's id must have neither '/' nor NUL, unlike {id!r}")
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
        value = _encoded(self._home, self._text, MemberRecord(nonce, data))
        ident = id

        async def open_it() -> GroupSeat:
            presence = Presence(
                self._home,
                self._prefix + ident.encode(),
                recipe=MEMBERSHIP,
                is_ours=lambda found: _nonce_of(found) == nonce,
                ttl=self._ttl,
                heals=rejoin,
                on_removed="restore" if rejoin else "stop",
            )
            seat = GroupSeat(self._home, self._text, ident, nonce, presence)
            waiting = observed_wait(
                MEMBERSHIP,
                MEMBERSHIP.wait,
                self._text,
                lambda: self._join(seat, presence, value, takeover, timeout),
                clock=self._home.env.clock,
            )
            return await self._home.run(waiting, discard=GroupSeat.discard)

        return Opening(open_it, end_seat)

    async def _join(
        self,
        seat: GroupSeat,
        presence: Presence,
        value: bytes,
        takeover: bool,  # noqa: FBT001 - handed on
        timeout: float | None,
    ) -> GroupSeat:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await presence.open(value, takeover=takeover)
        except TimeoutError:
            if not scope.expired():
                raise
            raise MembershipTimeout(
                f"joining {self._text!r}", timeout, explain="the store did not answer"
            ) from None
        except KeyTaken:
            raise AlreadyMember(self._text, seat.id) from None
        self._seen = max(self._seen, presence.revision)
        return seat

    # -- looking on ------------------------------------------------------------------------------------------------

    async def members(self, *, timeout: float | None = None) -> tuple[GroupMember, ...]:
        """Return the members, by their ids: as of a moment ago, with all that this object has joined.

        The first call reads the group, later ones nothing. Raises :class:`MembershipTimeout` after ``timeout`` seconds.
        """
        await self._home.run(self._ready(timeout))
        return self._members()

    def _members(self) -> tuple[GroupMember, ...]:
        entries = self._cache.snapshot().entries()
        return tuple([GroupMember.of(self._prefix, entry) for entry in entries])

    async def _ready(self, timeout: float | None) -> None:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                async with self._opening:
                    if not self._is_open:
                        await self._cache.open()
                        self._is_open = True
                await self._cache.wait_revision(self._seen)
        except CacheTimeout:
            raise
        except TimeoutError:
            if not scope.expired():
                raise
            raise MembershipTimeout(
                f"reading group {self._text!r}", timeout, explain="the store did not answer"
            ) from None

    @property
    def stale_for(self) -> float:
        """Seconds for which changes of the group may be missing: 0 while the store watches."""
        return self._cache.stale_for

    async def wait_for(self, n: int, *, timeout: float | None = None) -> tuple[GroupMember, ...]:
        """Wait until there are at least ``n`` members, and return them.

        Raises :class:`MembershipTimeout` after ``timeout`` seconds. A cancelled wait leaves nothing behind.
        """
        if n < 0:
            raise InvalidArgument(f"n must be at least 0, not {n}")
        return await self._home.run(self._wait_for(n, timeout))

    async def _wait_for(self, n: int, timeout: float | None) -> tuple[GroupMember, ...]:
        scope = asyncio.timeout(timeout)
        found: tuple[GroupMember, ...] = ()
        try:
            async with scope:
                await self._ready(None)
                changes = self._cache.changes()
                while len(found := self._members()) < n:
                    await anext(changes)
                return found
        except TimeoutError:
            if not scope.expired():
                raise
            raise MembershipTimeout(
                f"waiting for {n} members of {self._text!r}",
                timeout,
                explain=f"there are {len(found)}",
            ) from None

    async def watch(self) -> AsyncIterator[GroupEvent]:
        """Yield those who are there as joined, and then each change.

        Goes on through lost connections and compactions. Who reads slowly gets differences instead of every step.
        """
        await self._home.run(self._ready(None))
        changes = self._cache.changes()
        for member in self._members():
            yield GroupEvent(kind=GroupEventKind.JOINED, member=member)
        gone: dict[str, str] = {}
        while True:
            for event in self._events(await anext(changes), gone):
                yield event

    def _events(self, batch: CacheBatch[MemberRecord], gone: dict[str, str]) -> list[GroupEvent]:
        """Return what a batch means; ``gone`` are the nonces of those who left, by their ids."""
        events: list[GroupEvent] = []
        resync = batch.resync or batch.coalesced
        for change in batch.changes:
            old = None if change.old is None else GroupMember.of(self._prefix, change.old)
            new = None if change.new is None else GroupMember.of(self._prefix, change.new)
            if new is None:
                if old is not None:
                    gone[old.id] = old.nonce
                    kind = GroupEventKind.LEFT
                    events.append(GroupEvent(kind=kind, member=old, before=old, resync=resync))
                continue
            before = gone.pop(new.id, "") if old is None else old.nonce
            if old is not None and old.token == new.token:
                kind = GroupEventKind.UPDATED
            elif before and before == new.nonce:
                kind = GroupEventKind.REJOINED
            else:
                kind = GroupEventKind.JOINED
            events.append(GroupEvent(kind=kind, member=new, before=old, resync=resync))
        return events


async def end_seat(seat: GroupSeat, clean: bool) -> None:  # noqa: FBT001 - as Opening calls it
    """Leave at the end of a block, and raise :class:`MemberLost` if it was ``clean`` but membership was lost."""
    reason = seat.lost.reason
    await seat.leave()
    if clean and reason is not None:
        raise MemberLost(as_text(seat.key), seat.token, reason)


def _encoded(home: Coordination, group: str, record: MemberRecord) -> bytes:
    what = f"the data of a member of {group!r}"
    return to_value(_CODEC.encode(record), what, home.txn.max_value_bytes)


def _nonce_of(value: bytes) -> str:
    try:
        return _CODEC.decode(value).nonce
    except DecodeError:
        return ""
