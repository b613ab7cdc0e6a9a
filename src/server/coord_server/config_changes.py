"""Changes of membership on their way through the log, and who waits for them.

Raft takes one change at a time (thesis 4.1); the others wait here in the order in which they came. A
change is decided where it is applied, against the members of that moment, so the answer comes then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, final

from coord_server import errors
from coord_server.errors import Refused
from coord_server.raft import ConfigProposed, ProposalDropped

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.errors import ErrorSpec
    from coord_server.raft import ConfigChange, Effects, RaftCore

# Changes that wait; membership is changed by operators, one member at a time.
MAX_WAITING: Final = 64


@dataclass(slots=True)
class _Asked:
    change: ConfigChange
    context: bytes
    tick: int
    future: asyncio.Future[int] = field(default_factory=asyncio.Future[int])
    term: int = 0

    def fail(self, spec: ErrorSpec) -> None:
        if not self.future.done():
            self.future.set_exception(Refused(spec))


@final
class ConfigChanges:
    """The leader's queue of changes. ``carry`` does what raft asks for."""

    def __init__(self, core: RaftCore, carry: Callable[[Effects], None]) -> None:
        self._core = core
        self._carry = carry
        self._waiting: deque[_Asked] = deque()
        self._proposed: dict[int, _Asked] = {}

    async def change(self, change: ConfigChange, context: bytes, tick: int) -> int:
        """Return the index at which the change was applied. Raises Refused.

        Cancelled, the change may still take effect.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Refused(errors.TOO_MANY_REQUESTS)
        asked = _Asked(change, context, tick)
        self._waiting.append(asked)
        self.propose()
        return await asked.future

    def propose(self) -> None:
        """Propose the oldest change, if raft takes one now."""
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()  # whoever asked is gone: nothing was done
        if not self._waiting or self._core.pending_config:
            return
        asked = self._waiting[0]
        try:
            effects = self._core.step(ConfigProposed(asked.change, asked.context))
        except ProposalDropped:
            return
        self._waiting.popleft()
        asked.term = self._core.term
        self._proposed[self._core.last_index] = asked
        self._carry(effects)

    def applied(self, index: int, term: int, refusal: ErrorSpec | None) -> None:
        """Answer whoever proposed the change at ``index``."""
        asked = self._proposed.pop(index, None)
        if asked is None:
            return
        if asked.term != term:
            asked.fail(errors.LEADER_CHANGED)
        elif refusal is not None:
            asked.fail(refusal)
        elif not asked.future.done():
            asked.future.set_result(index)

    def term_applied(self, term: int) -> None:
        """Refuse what a leader before ``term`` proposed and did not commit."""
        for index in [i for i, asked in self._proposed.items() if asked.term < term]:
            self._proposed.pop(index).fail(errors.LEADER_CHANGED)

    def state_replaced(self) -> None:
        """Tell all askers that the outcome is unknown: their entries may be in a snapshot."""
        proposed, self._proposed = self._proposed, {}
        for asked in proposed.values():
            asked.fail(errors.TIMEOUT)

    def step_down(self) -> None:
        """Refuse what was not proposed: this member does not lead."""
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            asked.fail(errors.NOT_LEADER)

    def fail_before(self, tick: int, spec: ErrorSpec) -> None:
        """Refuse what waits since ``tick``; what was proposed may still be applied."""
        while self._waiting and self._waiting[0].tick <= tick:
            self._waiting.popleft().fail(spec)
        for asked in self._proposed.values():
            if asked.tick <= tick:
                asked.fail(spec)

    def forget(self) -> None:
        """Drop everything without an answer: the node is broken and must not speak."""
        self._waiting.clear()
        self._proposed.clear()
