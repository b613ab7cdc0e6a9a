"""OpenTelemetry, as far as an application has set it up, and nothing at all otherwise.

The problem: waiting is where the time goes in coordination, and who waited for whom can only be seen across processes.
So calls, streams, waits and holds are spans, a wait is linked to the span that the holder's entry names, requests carry
the trace context, and the rest is counted.

The API package is never imported from here: a program that wants telemetry has imported it before it makes calls.
So without it a question costs one look into ``sys.modules``, and a provider that is set later is still found.

``names`` has every span, attribute and metric; ``providers`` finds out who listens; ``calls``, ``streams``, ``waits``
and ``notes`` tell them.
Values of keys never appear; names only in spans, cut to a bounded length, never in metrics.
"""

from coord._telemetry.calls import note_retry, observed_call
from coord._telemetry.names import (
    BARRIER,
    CRON,
    DOUBLE_BARRIER,
    ELECTION,
    LATCH,
    MEMBERSHIP,
    MULTI_LOCK,
    MUTEX,
    PARTITIONER,
    QUEUES,
    RATE_LIMITER,
    REGISTRY,
    RWLOCK,
    SEMAPHORE,
    SESSION,
    WORK_QUEUE,
    Recipe,
)
from coord._telemetry.notes import (
    note_cleanup,
    note_connection,
    note_events,
    note_loss,
    note_overrun,
    note_renewal,
)
from coord._telemetry.providers import Telemetry, telemetry
from coord._telemetry.streams import observed_stream
from coord._telemetry.waits import (
    HoldSpan,
    begin_hold,
    entry_context,
    hold_lost,
    link_to_head,
    link_to_holder,
    note_queue,
    observed_wait,
    own_span,
    wants_holder,
)
from coord._telemetry.watches import watch_span

__all__ = [
    "BARRIER",
    "CRON",
    "DOUBLE_BARRIER",
    "ELECTION",
    "LATCH",
    "MEMBERSHIP",
    "MULTI_LOCK",
    "MUTEX",
    "PARTITIONER",
    "QUEUES",
    "RATE_LIMITER",
    "REGISTRY",
    "RWLOCK",
    "SEMAPHORE",
    "SESSION",
    "WORK_QUEUE",
    "HoldSpan",
    "Recipe",
    "Telemetry",
    "begin_hold",
    "entry_context",
    "hold_lost",
    "link_to_head",
    "link_to_holder",
    "note_cleanup",
    "note_connection",
    "note_events",
    "note_loss",
    "note_overrun",
    "note_queue",
    "note_renewal",
    "note_retry",
    "observed_call",
    "observed_stream",
    "observed_wait",
    "own_span",
    "telemetry",
    "wants_holder",
    "watch_span",
]
