"""What really happened, revision by revision, put together from all that a history tells.

In this order of trust: the committed log, a witness (a watch of everything), answered writes, and writes of
unknown outcome whose value was seen somewhere. A revision that nobody tells about is a *gap*; nothing can be
said of the store from there on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.testing.check.events import event_of
from coord.testing.check.timeline import (
    MESSAGES,
    Operation,
    Timeline,
    changes_of,
    lease_ids,
    pairs_in,
    puts_of,
    textual,
)
from coord.testing.lines import key_bytes
from coord.testing.model import Model, Refusal
from coord.testing.records import SeenEvent, WatchResponded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from coord.testing.model import Change

# The server has judged how large a transaction may be.
_ANY_SIZE = 1 << 30

_CHANGING = frozenset({"Put", "DeleteRange", "Txn", "LeaseRevoke"})


def fresh_model(timeline: Timeline) -> Model:
    """Return an empty store that knows every lease: whether one lives is judged elsewhere."""
    model = Model(min_ttl=1, max_txn_ops=_ANY_SIZE)
    for operation in timeline.operations:
        if operation.request is not None:
            for lease in lease_ids(operation.request):
                model.leases[lease] = 1
    return model


def execute(model: Model, op: str, request: Any) -> Any:  # noqa: ANN401 - any message of the API
    """Do an operation on a model and return its answer. Raises Refusal."""
    if op == "LeaseRevoke":
        model.leases[request.ID] = 1
    answer = _doers(model)[op](request)
    if op == "LeaseRevoke":
        model.leases[request.ID] = 1
    return answer


def _doers(model: Model) -> dict[str, Callable[[Any], Any]]:
    return {
        "Range": model.range,
        "Put": model.put,
        "DeleteRange": model.delete_range,
        "Txn": model.txn,
        "LeaseRevoke": model.revoke,
    }


class Reference:
    """The store's changes. ``events`` are those that the store itself told, ``told`` the last one without a gap.

    ``writers`` holds the operation that made a revision, where one is known; ``doubted`` those writes of unknown
    outcome that may have happened for all that is known.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.events: dict[int, tuple[SeenEvent, ...]] = (
            _log_events(timeline) if timeline.log else timeline.witnessed()
        )
        self.told: int = 1
        while self.told + 1 in self.events:
            self.told += 1
        self.writers: dict[int, Operation] = {}
        self.doubted: list[Operation] = []
        self.twice: list[tuple[Operation, Operation]] = []
        for operation in timeline.operations:
            if operation.is_ok and operation.changed and operation.revision:
                other = self.writers.setdefault(operation.revision, operation)
                if other is not operation:
                    self.twice.append((other, operation))
        self._resolve()
        self._revokes = _by_revision(timeline, "LeaseRevoke")
        self._model: Model | None = None

    def _resolve(self) -> None:
        """Find writes of unknown outcome by their values."""
        seen = _sightings(self.timeline, self.events)
        last_known = max([0, *self.writers, *self.events])
        for operation in self.timeline.operations:
            if operation.status != "info" or not operation.writes or operation.request is None:
                continue
            found = [seen.get((put.key, put.value), 0) for put in puts_of(operation.request)]
            revision = max(found, default=0)
            if revision and revision not in self.writers:
                operation.revision = revision
                self.writers[revision] = operation
            elif not (found and self.timeline.log and last_known <= self.told):
                self.doubted.append(operation)

    def writer_of(self, model: Model) -> Operation | None:
        """Return the operation that makes the revision after a model's, None if none is known."""
        revision = model.revision + 1
        writer = self.writers.get(revision)
        if writer is None:
            for revoke in self._revokes.get(revision, ()):
                if model.lease_keys(revoke.request.ID):
                    return revoke
        return writer

    def advance(self, model: Model) -> bool:
        """Take a model one revision further; False at a gap. What cannot be done is taken from the events."""
        revision = model.revision + 1
        told = self.events.get(revision)
        if told is not None:
            model.adopt(revision, changes_of(told))
            return True
        writer = self.writer_of(model)
        if writer is None:
            return False
        try:
            execute(model, writer.op, writer.request)
        except Refusal:
            return False
        return model.revision == revision

    @property
    def model(self) -> Model:
        """The store after everything up to the first gap."""
        if self._model is None:
            self._model = fresh_model(self.timeline)
            while self.advance(self._model):
                pass
        return self._model

    @property
    def changes(self) -> Sequence[Change]:
        """All changes up to the first gap, their values as texts."""
        return self.model.changes

    @property
    def highest(self) -> int:
        """The highest revision that anybody was told of."""
        answered = (o.revision for o in self.timeline.operations if o.is_ok)
        return max([1, *self.events, *answered])

    @property
    def gap(self) -> int:
        """The first revision that nobody tells about, 0 if there is none."""
        return self.model.revision + 1 if self.model.revision < self.highest else 0


def _by_revision(timeline: Timeline, op: str) -> dict[int, list[Operation]]:
    found: dict[int, list[Operation]] = {}
    for operation in timeline.operations:
        if operation.is_ok and operation.op == op:
            found.setdefault(operation.revision, []).append(operation)
    return found


def _sightings(
    timeline: Timeline, events: dict[int, tuple[SeenEvent, ...]]
) -> dict[tuple[bytes, bytes], int]:
    """Return where each pair of key and value was put, as far as anybody saw it."""
    seen: dict[tuple[bytes, bytes], int] = {}
    for operation in timeline.operations:
        for shown in pairs_in(operation.response):
            seen[shown.key, shown.value] = shown.mod_revision
    groups = [events[revision] for revision in sorted(events)]
    groups += [r.events for r in timeline.records if isinstance(r, WatchResponded)]
    for group in groups:
        for event in group:
            if not event.is_delete:
                pair = event.pair
                seen[key_bytes(pair.key), pair.value.encode()] = pair.mod_revision
    return seen


def _log_events(timeline: Timeline) -> dict[int, tuple[SeenEvent, ...]]:
    """Do everything that the log holds, and return what it changed."""
    model = Model(min_ttl=1, max_txn_ops=_ANY_SIZE)
    for entry in timeline.log:
        kinds = MESSAGES.get(entry.op)
        if kinds is None:
            continue
        request = textual(kinds[0].FromString(entry.request))
        try:
            if entry.op == "LeaseGrant":
                model.grant(request)
            elif entry.op in _CHANGING:
                _doers(model)[entry.op](request)
        except Refusal:
            continue  # the store has refused it, too
    found: dict[int, list[SeenEvent]] = {}
    for change in model.changes:
        found.setdefault(change.revision, []).append(event_of(change))
    return {revision: tuple(events) for revision, events in found.items()}
