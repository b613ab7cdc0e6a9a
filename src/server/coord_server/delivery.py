"""From committed entries to state, answers and events.

Each entry is applied once and in order, on every member alike. On the one that proposed it, and on the
ones that forwarded a part of it, somebody waits for the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from coord_server import errors

if TYPE_CHECKING:
    from coord_server.apply import Applier
    from coord_server.config_changes import ConfigChanges
    from coord_server.errors import ErrorSpec
    from coord_server.forwarding import Forwarding
    from coord_server.mvcc.hub import WatchHub
    from coord_server.proposals import ProposedBatch
    from coord_server.raft import ConfigChange, Entry


@final
class Delivery:
    """Applies entries and gives each asker its answer."""

    def __init__(
        self,
        applier: Applier,
        hub: WatchHub,
        *,
        forwarding: Forwarding,
        changes: ConfigChanges,
    ) -> None:
        self._applier = applier
        self._hub = hub
        self._forwarding = forwarding
        self._changes = changes
        # By log index: entries of this member's own operations that are not applied.
        self._inflight: dict[int, ProposedBatch] = {}

    def expect(self, index: int, term: int, batch: ProposedBatch) -> None:
        """Note whose operations the entry at ``index`` holds."""
        batch.term = term
        self._inflight[index] = batch

    def apply(self, entry: Entry) -> None:
        """Apply an entry of operations."""
        batch = self._inflight.pop(entry.index, None)
        if batch is not None and batch.term != entry.term:
            # The place went to another leader's entry. Ours is lost for good.
            batch.fail(errors.LEADER_CHANGED)
            batch = None
        applier, forwarding = self._applier, self._forwarding
        awaited = batch is not None and batch.awaited
        before = applier.term
        applied = applier.apply(
            entry.index,
            entry.term,
            entry.data,
            answers=awaited or forwarding.outstanding,
            prepared=() if batch is None else batch.prepared,
        )
        if applied.events:
            self._hub.notify(applied.events, applier.store.revision)
        if awaited and batch is not None:
            own = applied.results
            if applied.origins:
                own = own[: applied.origins[0].first_result]
            batch.answer(own)
        if applied.origins and forwarding.outstanding:
            for origin in applied.origins:
                results = applied.results[origin.first_result : origin.end_result]
                forwarding.applied(origin.member, origin.incarnation, origin.seq, results)
        if entry.term != before:
            self._term_applied(entry.term)

    def apply_config(self, entry: Entry) -> ConfigChange | None:
        """Apply a change of membership; return it, None if it was refused."""
        before = self._applier.term
        outcome = self._applier.apply_config(entry.index, entry.term, entry.data)
        self._changes.applied(entry.index, entry.term, outcome.refusal)
        if entry.term != before:
            self._term_applied(entry.term)
        return outcome.change

    def _term_applied(self, term: int) -> None:
        """Give up on entries of earlier terms that have not come by: nothing can commit them now."""
        self._forwarding.term_applied(term)
        self._changes.term_applied(term)
        for index in [i for i, batch in self._inflight.items() if batch.term < term]:
            self._inflight.pop(index).fail(errors.LEADER_CHANGED)

    def state_replaced(self) -> None:
        """Give up on everybody: the answers are in entries that are not applied one by one."""
        inflight, self._inflight = self._inflight, {}
        for batch in inflight.values():
            batch.fail(errors.TIMEOUT)
        self._forwarding.state_replaced()
        self._changes.state_replaced()

    def fail_before(self, tick: int, spec: ErrorSpec) -> None:
        """Tell those who have waited since ``tick``; their entries may still be applied."""
        for batch in self._inflight.values():
            if batch.tick <= tick:
                batch.fail(spec)

    def forget(self) -> None:
        """Drop everything without an answer: the node is broken and must not speak."""
        self._inflight.clear()
