"""A plan of faults for one method, on ``coord.testing.faults``: what happens to the first request, the second, ..."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import pytest
from typing_extensions import override

import coord
from coord.entry import Entry
from coord.testing import Call, FaultRule, Faults

TXN = "/etcdserverpb.KV/Txn"


class Fault(Enum):
    """What happens to one request."""

    NONE = "none"
    LOSE_REQUEST = "lose request"
    """It never arrives; the caller cannot know."""
    LOSE_REPLY = "lose reply"
    """It is processed; the caller cannot know."""
    LATE = "late"
    """The caller gives up; the request arrives when :meth:`Plan.deliver_late` is called."""
    TWICE = "twice"
    """It is processed, and a copy arrives with the next :meth:`Plan.deliver_late`."""


class Plan(Faults):
    """``plan`` says what happens to the coming requests of ``path``, then nothing does."""

    def __init__(self, path: str = TXN) -> None:
        super().__init__()
        self.path = path
        self.plan: deque[Fault] = deque()
        self.paths: list[str] = []
        self.on_call: Callable[[str], object] = lambda _: None
        self._late: list[FaultRule] = []

    @override
    def match(self, call: Call, *, is_stream: bool) -> FaultRule | None:
        if is_stream:
            return None
        self.paths.append(call.path)
        self.on_call(call.path)
        fault = self.plan.popleft() if call.path == self.path and self.plan else Fault.NONE
        match fault:
            case Fault.NONE:
                return None
            case Fault.LOSE_REQUEST:
                return self.drop_request()
            case Fault.LOSE_REPLY:
                return self.drop_reply()
            case Fault.LATE:
                return self._note_late(self.late())
            case Fault.TWICE:
                return self._note_late(self.duplicate(late=True))

    def _note_late(self, rule: FaultRule) -> FaultRule:
        self._late.append(rule)
        return rule

    async def deliver_late(self) -> int:
        """Let the requests that are still under way arrive; return how many."""
        late, self._late = self._late, []
        return sum([await rule.arrive() for rule in late])


def make_faulty(client: coord.Client, plan: Iterable[Fault] = ()) -> Plan:
    """Put a plan under the calls of a ``runtime="inline"`` client."""
    faults = Plan()
    faults.plan.extend(plan)
    put_under(client, faults)
    return faults


def put_under(client: coord.Client, faults: Faults) -> Callable[[], None]:
    """Put these faults under the calls of a ``runtime="inline"`` client; return what takes them away again."""
    core: Any = client._core
    assert not core.runtime.is_threaded
    before = core.caller.transport
    core.caller.transport = faults.under("planned", before)

    def take_away() -> None:
        core.caller.transport = before

    return take_away


async def settle(client: coord.Client, prefix: str, *, turns: int = 400) -> list[bytes]:
    """Let background work run until no key is left under ``prefix``, and return what is left after ``turns``."""
    keys: list[bytes] = []
    for _ in range(turns):
        keys = [kv.key for kv in (await client.get_prefix(prefix)).items]
        if not keys:
            return []
        await asyncio.sleep(0.005)
    return keys


def held_back(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let no attempt be abandoned before the event that is returned is set."""
    abandon, go = Entry.abandon, asyncio.Event()

    async def slow(self: Entry) -> None:
        await go.wait()
        await abandon(self)

    monkeypatch.setattr(Entry, "abandon", slow)
    return go
