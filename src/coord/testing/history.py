"""What happened in a run, as lines of JSON: written while it runs, judged afterwards.

``call`` and ``ret`` are a request and its outcome: ``ok`` (answered), ``fail`` (certainly not done) or
``info`` (nobody knows). ``wopen``, ``wresp`` and ``wend`` are the life of one watcher; a watcher that
reconnects goes on under a new name. ``sess``, ``lock`` and ``elect`` are what the recipes did, ``fault``
what was done to them, ``log`` what a member's log holds after the run, ``meta`` how the run was started.

A client has one call open at a time; after an ``info`` write it goes on under a new id. Values that are
written are different from each other, so that a value tells which write it came from.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from coord.runtime import RealClock
from coord.testing.lines import (
    LONG_VALUE_BYTES,
    HistoryError,
    encode,
    key_bytes,
    key_text,
    read,
    value_text,
)
from coord.testing.records import (
    Call,
    Fault,
    LogEntry,
    Meta,
    Pair,
    Record,
    Return,
    SeenEvent,
    SessionEvent,
    SessionPhase,
    Status,
    Tenure,
    TenureKind,
    TenurePhase,
    WatchEnded,
    WatchOpened,
    WatchResponded,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from coord.runtime import Clock

__all__ = [
    "LONG_VALUE_BYTES",
    "Call",
    "Fault",
    "HistoryError",
    "LogEntry",
    "Meta",
    "Pair",
    "Record",
    "Recorder",
    "Return",
    "SeenEvent",
    "SessionEvent",
    "SessionPhase",
    "Status",
    "Tenure",
    "TenureKind",
    "TenurePhase",
    "WatchEnded",
    "WatchOpened",
    "WatchResponded",
    "encode",
    "key_bytes",
    "key_text",
    "read",
    "value_text",
]

NANOSECONDS = 1_000_000_000


class Recorder:
    """Takes records and passes each on as a line; keeps them in ``records`` if there is nowhere to write.

    ``clock`` is the one clock of the history: virtual in a simulation, else the machine's monotonic one.
    What is kept grows with the run: give ``write`` for long ones.
    """

    def __init__(
        self, write: Callable[[str], object] | None = None, *, clock: Clock | None = None
    ) -> None:
        self.records: list[Record] = []
        self._write = write
        self._clock: Clock = clock or RealClock()
        self._ids = itertools.count(1)
        self._watchers = itertools.count(1)

    def now(self) -> int:
        """Return the time for ``ts``, in nanoseconds."""
        return round(self._clock.mono() * NANOSECONDS)

    def new_id(self) -> int:
        """Return an id that no call or attempt of this recorder has had."""
        return next(self._ids)

    def new_watcher(self, client: str) -> str:
        """Return a watcher's name that was not used before."""
        return f"{client}.{next(self._watchers)}"

    def add(self, record: Record) -> None:
        """Record something."""
        if self._write is None:
            self.records.append(record)
        else:
            self._write(encode(record) + "\n")

    def begin(self, client: str, op: str, request: bytes, *, endpoint: str = "") -> int:
        """Record that a request leaves now, and return its id for :meth:`end`."""
        number = self.new_id()
        ts = self.now()
        self.add(Call(id=number, client=client, ts=ts, op=op, request=request, endpoint=endpoint))
        return number

    def end(
        self,
        number: int,
        status: Status,
        *,
        revision: int = 0,
        changed: bool = False,
        error: str = "",
        response: bytes = b"",
    ) -> None:
        """Record the outcome of a call, now."""
        self.add(
            Return(
                id=number,
                ts=self.now(),
                status=status,
                revision=revision,
                changed=changed,
                error=error,
                response=response,
            )
        )

    def fault(self, kind: str, phase: Literal["begin", "end"], *on: str) -> None:
        """Record that a fault begins or ends, now."""
        self.add(Fault(kind=kind, ts=self.now(), phase=phase, on=on))
