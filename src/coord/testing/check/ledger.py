"""What writers were told, and a replay of what the store says happened: every difference is a broken promise.

A write is *acknowledged* (its revision is known), *unknown* (sent, no answer), or failed (certainly not applied).
The replay takes the store's events from the beginning, revision by revision, and demands that each revision is one
acknowledged write exactly, or one unknown write that has not been seen before.

- *lost*: an acknowledged write is not there, or an answer carried a revision that the store has not reached;
- *torn*: a revision is not what its write asked for, but less, more or something else;
- *duplicate*: a write that was done already is there again;
- *stranger*: nobody wrote this;
- *gap*, *back*: revisions are missing, taken twice, or lower than before;
- *counter*: create revision or version do not count as they should.

A program keeps a :class:`Ledger` while it runs; :func:`check_ledger` fills one from a recorded history.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from coord.store.values import EventType, KeyValue, WatchEvent
from coord.testing.check.reference import Reference, execute
from coord.testing.check.timeline import Operation, Timeline, lease_ids
from coord.testing.check.verdict import Verdict, Violation, verdict_of
from coord.testing.lines import key_bytes
from coord.testing.model import Model, Refusal, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from coord.testing.records import Record, SeenEvent

Effects = dict[bytes, tuple[bytes, int] | None]
"""By key: value and lease of a put, None for a delete."""

_SHOWN = 5
"""Writes that an explanation names."""


class Broken(AssertionError):
    """The store broke a promise: which rule, and by which writes."""

    def __init__(self, rule: str, text: str, *writes: Write) -> None:
        super().__init__(text)
        self.rule = rule
        self.writes = writes


@dataclass(slots=True, kw_only=True, eq=False)
class Write:
    """One write: what it puts, which keys it deletes, or which lease it revokes."""

    puts: Mapping[bytes, tuple[bytes, int]] = field(default_factory=dict[bytes, tuple[bytes, int]])
    deletes: tuple[bytes, ...] = ()
    revokes: int = 0

    def effects(self, state: Mapping[bytes, KeyValue]) -> Effects:
        """Return what it changes when it is applied to ``state``."""
        gone: Effects = {
            key: None
            for key, kv in state.items()
            if key in self.deletes or (self.revokes and kv.lease == self.revokes)
        }
        return gone | dict(self.puts)


@dataclass(slots=True, kw_only=True, eq=False)
class RecordedWrite(Write):
    """A write of a history: what it changes is for the model to say."""

    operation: Operation

    @override
    def effects(self, state: Mapping[bytes, KeyValue]) -> Effects:
        """Return what the request changes; nothing if it is refused."""
        model = Model(min_ttl=1, max_txn_ops=1 << 30)
        model.kv = {key: _version(kv) for key, kv in state.items()}
        model.revision = max([1, *(kv.mod_revision for kv in state.values())])
        model.leases = dict.fromkeys(lease_ids(self.operation.request), 1)
        try:
            execute(model, self.operation.op, self.operation.request)
        except Refusal:
            return {}
        return {
            change.key: None if change.now is None else (change.now.value, change.now.lease)
            for change in model.changes
        }

    @override
    def __repr__(self) -> str:
        """Show the call."""
        return self.operation.describe()


class Ledger:
    """Writes and leases of all writers, and the state that the events add up to."""

    def __init__(self) -> None:
        self.state: dict[bytes, KeyValue] = {}
        self.revision: int = 1
        self.leases: dict[int, bool] = {}
        """Granted ids; True if that is certain."""
        self.acknowledged: int = 0
        self.unknown_applied: int = 0
        self.unknown_dropped: int = 0
        self.highest_seen: int = 0
        self._by_revision: dict[int, Write] = {}
        self._unknown: dict[Write, None] = {}
        # By what they did, hashed: the values themselves may be many and large.
        self._done: dict[int, Write] = {}

    # What writers say.

    def acknowledge(self, write: Write, revision: int) -> None:
        """``write`` was answered: it made ``revision``. Raises Broken."""
        other = self._by_revision.get(revision)
        if other is not None:
            raise Broken("back", f"two writes were told revision {revision}", other, write)
        if revision <= self.revision:
            text = f"revision went back: {revision} was given after {self.revision}"
            raise Broken("back", text, write)
        self._by_revision[revision] = write
        self.acknowledged += 1
        self.saw(revision)
        if write.revokes:
            self.leases.pop(write.revokes, None)

    def doubt(self, write: Write) -> None:
        """``write`` was sent and not answered."""
        self._unknown[write] = None
        if write.revokes:
            self.leases[write.revokes] = False

    def saw(self, revision: int) -> None:
        """Remember that an answer carried ``revision``."""
        self.highest_seen = max(self.highest_seen, revision)

    # What the store says.

    def replay(self, events: Iterable[WatchEvent]) -> None:
        """Take whole revisions, in order and without gaps. Raises Broken."""
        for revision, group in itertools.groupby(events, key=lambda event: event.revision):
            if revision != self.revision + 1:
                raise Broken("gap", f"revision {revision} follows {self.revision}")
            self._take(revision, list(group))

    def _take(self, revision: int, events: list[WatchEvent]) -> None:
        happened: Effects = {}
        for event in events:
            if event.key in happened:
                raise Broken("duplicate", f"revision {revision} changes {event.key!r} twice")
            put = event.type is EventType.PUT
            happened[event.key] = (event.value, event.kv.lease) if put else None
        write = self._by_revision.pop(revision, None)
        if write is not None:
            if happened != write.effects(self.state):
                text = f"revision {revision} is {happened}, acknowledged was {write}"
                raise Broken("torn", text, write)
            self._done[_hash(happened)] = write
        else:
            self._explain(revision, happened)
        for event in events:
            self._apply(event)
        self.revision = revision

    def _explain(self, revision: int, happened: Effects) -> None:
        for write in self._unknown:
            if write.effects(self.state) == happened:
                del self._unknown[write]
                self.unknown_applied += 1
                self._done[_hash(happened)] = write
                if write.revokes:
                    self.leases.pop(write.revokes, None)
                return
        if self.is_foreign(happened):
            return
        text = f"nobody wrote revision {revision}: {happened}"
        again = self._done.get(_hash(happened))
        if again is not None and any(effect is not None for effect in happened.values()):
            raise Broken("duplicate", f"{text}; it was done before", again)
        raise Broken("stranger", text)

    def is_foreign(self, happened: Effects) -> bool:  # noqa: ARG002 - for those who know of others
        """Tell whether somebody may have done this who does not keep this ledger. Here: nobody."""
        return False

    def _apply(self, event: WatchEvent) -> None:
        old = self.state.pop(event.key, None)
        if event.type is EventType.DELETE:
            if old is None:
                text = f"revision {event.revision} deletes {event.key!r}, which is not there"
                raise Broken("counter", text)
            return
        kv = event.kv
        expected = (
            (old.create_revision, old.version + 1) if old is not None else (event.revision, 1)
        )
        if (kv.create_revision, kv.version) != expected:
            raise Broken("counter", f"{kv}: create revision and version should be {expected}")
        self.state[event.key] = kv

    def settle(self) -> None:
        """Everything that happened has been replayed: nothing acknowledged may be missing, nothing may come later.

        Raises Broken.
        """
        if self._by_revision:
            missing = list(self._by_revision.values())[:_SHOWN]
            raise Broken("lost", f"acknowledged and lost: {self._by_revision}", *missing)
        if self.highest_seen > self.revision:
            text = f"an answer carried {self.highest_seen}, the store is at {self.revision}"
            raise Broken("lost", text)
        for write in self._unknown:
            self.unknown_dropped += 1
            if write.revokes:  # its keys are still there, so the lease is, too
                self.leases[write.revokes] = True
        self._unknown.clear()

    def attached(self, lease: int) -> set[bytes]:
        """Return the keys that should be attached to a lease."""
        return {key for key, kv in self.state.items() if kv.lease == lease}


def _hash(effects: Effects) -> int:
    return hash(frozenset(effects.items()))


class _RecordedLedger(Ledger):
    """Knows that leases expire, and that others may write under some prefixes."""

    def __init__(self, strangers: Sequence[bytes]) -> None:
        super().__init__()
        self._strangers = tuple(strangers)

    @override
    def is_foreign(self, happened: Effects) -> bool:
        if all(key.startswith(self._strangers) for key in happened):
            return bool(self._strangers)
        # An expiry takes all keys of a lease, and nothing else; whether it was due is judged elsewhere.
        leases = {self.state[key].lease for key in happened if key in self.state}
        return (
            len(leases) == 1
            and 0 not in leases
            and all(effect is None for effect in happened.values())
            and self.attached(next(iter(leases))) == set(happened)
        )


def check_ledger(records: Iterable[Record], *, strangers: Sequence[bytes] = ()) -> Verdict:
    """Judge the writes of a history by what the store told: its log, or a witness.

    ``strangers`` are prefixes of keys that were also written by who was not recorded, such as lock keys. Undecided
    without a log or a witness, or if the witness did not reach the last revision that was told.
    """
    return ledger_of(Reference(Timeline(records)), strangers=strangers)


def ledger_of(reference: Reference, *, strangers: Sequence[bytes] = ()) -> Verdict:
    """As :func:`check_ledger`, of a history that was read already."""
    ledger = _RecordedLedger(strangers)
    writes = [o for o in reference.timeline.operations if o.request is not None]
    highest = max([0, *(o.revision for o in writes if o.is_ok)])
    if not reference.events:
        if not any(o.is_ok and o.changed for o in writes):
            return verdict_of("ledger", 0)
        return verdict_of("ledger", 0, (), ["neither a log nor a watch of everything is recorded"])
    try:
        for operation in writes:
            _enter(ledger, operation)
        ledger.replay(_told(reference))
        if highest > max(reference.told, reference.timeline.reached):
            reason = f"the witness reached {reference.told}, and {highest} was told"
            return verdict_of("ledger", ledger.acknowledged, (), [reason])
        ledger.saw(highest)
        ledger.settle()
    except Broken as broken:
        named = tuple(w.operation.name for w in broken.writes if isinstance(w, RecordedWrite))
        return verdict_of("ledger", ledger.acknowledged, [_violation(broken, named)])
    return verdict_of("ledger", ledger.acknowledged)


def _enter(ledger: Ledger, operation: Operation) -> None:
    if operation.is_ok and operation.op == "LeaseRevoke":
        # Whether it changed anything is not in its answer.
        ledger.doubt(RecordedWrite(operation=operation))
    elif operation.is_ok and operation.changed:
        ledger.acknowledge(RecordedWrite(operation=operation), operation.revision)
    elif operation.status == "info" and operation.writes:
        ledger.doubt(RecordedWrite(operation=operation))


def _told(reference: Reference) -> Iterator[WatchEvent]:
    """Return what the store told, in the order of revisions; gaps are for the ledger to find."""
    for revision in sorted(reference.events):
        for event in reference.events[revision]:
            yield _event(event)


def _event(event: SeenEvent) -> WatchEvent:
    pair = event.pair
    return WatchEvent(
        type=EventType.DELETE if event.is_delete else EventType.PUT,
        kv=KeyValue(
            key=key_bytes(pair.key),
            value=pair.value.encode(),
            create_revision=pair.create_revision,
            mod_revision=pair.mod_revision,
            version=pair.version,
            lease=pair.lease,
        ),
    )


def _violation(broken: Broken, named: tuple[str, ...]) -> Violation:
    shown: list[Any] = list(broken.writes[:_SHOWN])
    text = str(broken) if len(str(broken)) < _TEXT_CHARACTERS else str(broken)[:_TEXT_CHARACTERS]
    return Violation(
        rule=broken.rule, operations=named, text="\n".join([text, *(repr(w) for w in shown)])
    )


_TEXT_CHARACTERS = 500


def _version(kv: KeyValue) -> Version:
    return Version(kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
