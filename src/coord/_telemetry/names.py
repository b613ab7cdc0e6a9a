"""Every span, attribute and metric, by name.

Attribute names are ours to keep stable; those of RPCs, servers and errors are OpenTelemetry's semantic conventions'.
``docs/guides/telemetry.md`` shows the same tables, and a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SCOPE = "coord"

RPC_SYSTEM = "rpc.system"
RPC_SERVICE = "rpc.service"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.grpc.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
RETRIES = "coord.retries"
NAME = "coord.name"
KEY = "coord.key"
TOKEN = "coord.token"  # noqa: S105 - a fencing token, no secret
LEASE = "coord.lease"
QUEUE_LENGTH = "coord.queue.length"
RECIPE = "coord.recipe"
OUTCOME = "coord.outcome"
REASON = "coord.reason"
EVENT = "coord.event"
CLEANUP = "coord.cleanup"
WATCH_KEY = "coord.watch.key"
WATCH_END = "coord.watch.end"

ATTRIBUTES: dict[str, str] = {
    RPC_SYSTEM: "always `grpc`",
    RPC_SERVICE: "such as `etcdserverpb.KV`",
    RPC_METHOD: "such as `Put`",
    RPC_STATUS: "gRPC's number of how the call ended, `0` for success",
    SERVER_ADDRESS: "host, IP address or unix socket of the endpoint that was used",
    SERVER_PORT: "its port; missing for unix sockets",
    ERROR_TYPE: "name of the error class; missing on success",
    RETRIES: "how often the request was sent again; missing when it was not",
    NAME: "the recipe's name, at most 128 characters of it",
    KEY: "the entry of the holder that a wait is linked to, at most 128 characters of it",
    TOKEN: "the fencing token",
    LEASE: "the lease id in hexadecimal, as `coord lease list` prints it",
    QUEUE_LENGTH: "how many entries were in line before ours when it was created",
    RECIPE: "the recipe's name, such as `mutex` or `rate_limiter`",
    OUTCOME: "waits: `granted`, `refused` (`try_acquire`), `timeout`, `cancelled` or `failed`;"
    " renewals: `ok` or `failed`; clean-ups: `done`, or `left` to the end of the lease",
    REASON: "`revoked`, `expired`, `lease_not_found`, `unhealthy`, `closed`, `orphaned` or `other`",
    EVENT: "`opened`, `failed` or `lost`",
    CLEANUP: "`release` or `abandon`",
    WATCH_KEY: "the watched key or start of the range, at most 128 characters of it",
    WATCH_END: "the end of the range, likewise; empty for one key",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a recipe calls its spans. ``carries_trace``: the values of its entries are ours, and name a span."""

    name: str
    wait: str
    attempt: str = ""
    hold: str = ""
    carries_trace: bool = False


MUTEX = Recipe(
    name="mutex",
    wait="coord.mutex.acquire",
    attempt="coord.mutex.try_acquire",
    hold="coord.mutex.hold",
    carries_trace=True,
)
ELECTION = Recipe(name="election", wait="coord.election.campaign", hold="coord.election.lead")
MULTI_LOCK = Recipe(
    name="multi_lock",
    wait="coord.multi_lock.acquire",
    attempt="coord.multi_lock.try_acquire",
    hold="coord.multi_lock.hold",
    carries_trace=True,
)
RATE_LIMITER = Recipe(
    name="rate_limiter",
    wait="coord.rate_limiter.acquire",
    attempt="coord.rate_limiter.try_acquire",
)
SESSION = Recipe(name="session", wait="coord.session.open")
BARRIER = Recipe(name="barrier", wait="coord.barrier.wait", hold="coord.barrier.hold")
DOUBLE_BARRIER = Recipe(name="double_barrier", wait="coord.double_barrier.enter")
LATCH = Recipe(name="latch", wait="coord.latch.wait")
RWLOCK = Recipe(
    name="rwlock",
    wait="coord.rwlock.acquire",
    attempt="coord.rwlock.try_acquire",
    hold="coord.rwlock.hold",
    carries_trace=True,
)
SEMAPHORE = Recipe(
    name="semaphore",
    wait="coord.semaphore.acquire",
    attempt="coord.semaphore.try_acquire",
    hold="coord.semaphore.hold",
    carries_trace=True,
)
QUEUES = Recipe(name="queue", wait="coord.queue.get", attempt="coord.queue.try_get")
WORK_QUEUE = Recipe(
    name="work_queue", wait="coord.work_queue.receive", hold="coord.work_queue.handle"
)
CRON = Recipe(name="cron", wait="coord.cron.start", hold="coord.cron.run")
REGISTRY = Recipe(name="registry", wait="coord.registry.register")
MEMBERSHIP = Recipe(name="membership", wait="coord.membership.join")
PARTITIONER = Recipe(
    name="partitioner",
    wait="coord.partitioner.join",
    attempt="coord.partitioner.claim",
    hold="coord.partitioner.own",
)

WATCH = "coord.watch"
# The span of a call or stream is called by its path.
RPC = "<service>/<method>"

_ENDED = (RPC_STATUS, SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE)
_WAIT = (NAME, OUTCOME, TOKEN, QUEUE_LENGTH, ERROR_TYPE)
_HOLD = (NAME, TOKEN, LEASE, REASON, ERROR_TYPE)

SPANS: dict[str, tuple[str, ...]] = {
    RPC: (RPC_SYSTEM, RPC_SERVICE, RPC_METHOD, *_ENDED, RETRIES),
    MUTEX.wait: _WAIT,
    MUTEX.attempt: _WAIT,
    MUTEX.hold: _HOLD,
    ELECTION.wait: _WAIT,
    ELECTION.hold: _HOLD,
    MULTI_LOCK.wait: _WAIT,
    MULTI_LOCK.attempt: _WAIT,
    MULTI_LOCK.hold: _HOLD,
    RATE_LIMITER.wait: (NAME, OUTCOME, ERROR_TYPE),
    RATE_LIMITER.attempt: (NAME, OUTCOME, ERROR_TYPE),
    SESSION.wait: (NAME, OUTCOME, ERROR_TYPE),
    BARRIER.wait: (NAME, OUTCOME, ERROR_TYPE),
    BARRIER.hold: _HOLD,
    DOUBLE_BARRIER.wait: (NAME, OUTCOME, ERROR_TYPE),
    LATCH.wait: (NAME, OUTCOME, ERROR_TYPE),
    RWLOCK.wait: _WAIT,
    RWLOCK.attempt: _WAIT,
    RWLOCK.hold: _HOLD,
    SEMAPHORE.wait: _WAIT,
    SEMAPHORE.attempt: _WAIT,
    SEMAPHORE.hold: _HOLD,
    QUEUES.wait: (NAME, OUTCOME, ERROR_TYPE),
    QUEUES.attempt: (NAME, OUTCOME, ERROR_TYPE),
    WORK_QUEUE.wait: (NAME, OUTCOME, TOKEN, ERROR_TYPE),
    WORK_QUEUE.hold: _HOLD,
    CRON.wait: (NAME, OUTCOME, TOKEN, ERROR_TYPE),
    CRON.hold: _HOLD,
    REGISTRY.wait: (NAME, OUTCOME, ERROR_TYPE),
    MEMBERSHIP.wait: (NAME, OUTCOME, ERROR_TYPE),
    PARTITIONER.wait: (NAME, OUTCOME, ERROR_TYPE),
    PARTITIONER.attempt: (NAME, OUTCOME, TOKEN, ERROR_TYPE),
    PARTITIONER.hold: _HOLD,
    WATCH: (WATCH_KEY, WATCH_END),
}
"""Which attributes a span may have."""


class Kind(Enum):
    """What an instrument does with its numbers."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One instrument; units by UCUM. ``attributes`` have few values each, so that series stay few."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


# From a local call to a slow disk.
_CALL_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
# From an uncontended lock to a leader of days.
_LONG_S = (
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 86400.0,
)  # fmt: skip
_COUNTS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10000.0)

CALL_DURATION = Metric(
    name="coord.client.call.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Duration of unary calls, retries included.",
    attributes=(RPC_SERVICE, RPC_METHOD, RPC_STATUS, ERROR_TYPE),
    boundaries=_CALL_S,
)
RETRY_COUNT = Metric(
    name="coord.client.retries",
    kind=Kind.COUNTER,
    unit="{retry}",
    description="Requests that were sent again.",
    attributes=(RPC_SERVICE, RPC_METHOD, RPC_STATUS),
)
STREAMS = Metric(
    name="coord.client.streams",
    kind=Kind.COUNTER,
    unit="{stream}",
    description="Streams that have ended.",
    attributes=(RPC_SERVICE, RPC_METHOD, RPC_STATUS),
)
CONNECTIONS = Metric(
    name="coord.client.connections",
    kind=Kind.COUNTER,
    unit="{event}",
    description="Connections that were opened, could not be opened, or were lost; native transport.",
    attributes=(EVENT, SERVER_ADDRESS, SERVER_PORT),
)
WAIT_DURATION = Metric(
    name="coord.client.wait.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Time from asking to being granted, or to giving up.",
    attributes=(RECIPE, OUTCOME),
    boundaries=_LONG_S,
)
HOLD_DURATION = Metric(
    name="coord.client.hold.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Time from the grant to its release or loss.",
    attributes=(RECIPE,),
    boundaries=_LONG_S,
)
QUEUE = Metric(
    name="coord.client.queue.length",
    kind=Kind.HISTOGRAM,
    unit="{entry}",
    description="Entries in line before ours when it was created.",
    attributes=(RECIPE,),
    boundaries=_COUNTS,
)
LOSSES = Metric(
    name="coord.client.losses",
    kind=Kind.COUNTER,
    unit="{loss}",
    description="Grants lost before their release, and sessions that expired.",
    attributes=(RECIPE, REASON),
)
OVERRUNS = Metric(
    name="coord.client.overruns",
    kind=Kind.COUNTER,
    unit="{overrun}",
    description="Functions that were still at work when another leader or owner may have existed.",
    attributes=(RECIPE,),
)
RENEWALS = Metric(
    name="coord.client.renewals",
    kind=Kind.COUNTER,
    unit="{renewal}",
    description="Renewals of leases that were confirmed, or refused, or not answered within a quarter of the TTL.",
    attributes=(OUTCOME,),
)
RENEWAL_DURATION = Metric(
    name="coord.client.renewal.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Time from sending a renewal to its confirmation.",
    boundaries=_CALL_S,
)
WATCH_EVENTS = Metric(
    name="coord.client.watch.events",
    kind=Kind.COUNTER,
    unit="{event}",
    description="Events that watches received, those of the recipes included.",
)
WATCH_LAG = Metric(
    name="coord.client.watch.lag",
    kind=Kind.HISTOGRAM,
    unit="{revision}",
    description="How many revisions the store was ahead of the events when it sent them.",
    boundaries=_COUNTS,
)
CLEANUPS = Metric(
    name="coord.client.cleanups",
    kind=Kind.COUNTER,
    unit="{cleanup}",
    description="Entries taken out of the line after a release, or after a wait was abandoned.",
    attributes=(RECIPE, CLEANUP, OUTCOME),
)

METRICS = (
    CALL_DURATION, RETRY_COUNT, STREAMS, CONNECTIONS, WAIT_DURATION, HOLD_DURATION, QUEUE, LOSSES, OVERRUNS,
    RENEWALS, RENEWAL_DURATION, WATCH_EVENTS, WATCH_LAG, CLEANUPS,
)  # fmt: skip

_LONGEST_TEXT = 128


def bounded(raw: bytes | str) -> str:
    """Return a name or key as text that is safe as an attribute: printable escapes, cut to a bounded length."""
    # Cut before decoding: a key may be as long as a request.
    text = raw[:_LONGEST_TEXT]
    return (text.decode(errors="backslashreplace") if isinstance(text, bytes) else text)[
        :_LONGEST_TEXT
    ]
