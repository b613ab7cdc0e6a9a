"""What the clients of a run have sent and received: the history that is judged, and what it promises.

Calls and outcomes are records of ``coord.testing.history``; the full answers are kept beside them, by call.
Two things are asked while the run goes on: the highest revision that anybody was told, and until when a
lease must live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.testing.history import Call, Recorder, Return, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.sim.scheduler import Scheduler

_NS = 1_000_000_000


class Journal:
    """Records calls with virtual time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.recorder: Recorder = Recorder()
        self.answers: dict[int, bytes] = {}
        """The response message of each call that was answered."""
        self.acked_revision: int = 0
        self.compacted = 0
        """The highest revision of which somebody was told that older ones are gone."""
        self.counts: dict[Status, int] = {"ok": 0, "fail": 0, "info": 0}
        self.overlapped: int = 0
        """Calls that began while another was open."""
        self.on_renewed: tuple[Callable[[int, float], None], ...] = ()
        """Hears of every answered renewal: the lease, and when it was sent."""
        self.on_gone: Callable[[int], None] | None = None
        """Hears of every renewal that was answered with TTL 0."""
        self._scheduler = scheduler
        self._next = 0
        self._open = 0
        # By lease: when its last answered renewal was sent, and the TTL that the answer named.
        self._leases: dict[int, tuple[float, float]] = {}

    def call(self, client: str, op: str, request: bytes) -> int:
        """Note that a request leaves; return its number."""
        self._next += 1
        self._open += 1
        self.overlapped += self._open > 1
        ts = int(self._scheduler.moment() * _NS)
        self.recorder.add(Call(id=self._next, client=client, ts=ts, op=op, request=request))
        return self._next

    def answered(self, call: int, response: bytes, *, revision: int, changed: bool) -> None:
        """Note an answer."""
        self.answers[call] = response
        self._end(call, "ok", revision=revision, changed=changed, response=response)
        if changed:
            self.acked_revision = max(self.acked_revision, revision)

    def failed(self, call: int, error: str) -> None:
        """Note that a request was certainly not applied."""
        self._end(call, "fail", error=error)

    def lost(self, call: int, error: str) -> None:
        """Note that nobody knows whether a request was applied."""
        self._end(call, "info", error=error)

    def _end(
        self,
        call: int,
        status: Status,
        *,
        revision: int = 0,
        changed: bool = False,
        error: str = "",
        response: bytes = b"",
    ) -> None:
        self._open -= 1
        self.counts[status] += 1
        ts = int(self._scheduler.moment() * _NS)
        self.recorder.add(
            Return(
                id=call, ts=ts, status=status, revision=revision, changed=changed,
                error=error, response=response,
            )
        )  # fmt: skip

    def renewed(self, lease: int, sent_at: float, ttl_s: float) -> None:
        """Note that a grant or renewal that was sent then was answered with this TTL."""
        for look in self.on_renewed:
            look(lease, sent_at)
        known = self._leases.get(lease)
        if known is None or known[0] < sent_at:
            self._leases[lease] = (sent_at, ttl_s)

    def gone(self, lease: int) -> None:
        """Note that a renewal of a lease that was granted was answered with TTL 0."""
        if self.on_gone is not None:
            self.on_gone(lease)

    def promised(self, lease: int) -> tuple[float, float] | None:
        """Return when the last answered renewal of a lease was sent, and its TTL."""
        return self._leases.get(lease)
