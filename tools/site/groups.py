"""Which public name stands on which page of the reference.

A new public name is written down here once; a test tells when it is not.
"""

# ruff: noqa: INP001 - part of a script, in a folder that is no package.

from __future__ import annotations

from dataclasses import dataclass

FACES = ("coord", "coord.sync", "coord.testing")
"""The modules whose ``__all__`` is the public API: each of their names has a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One page. A name ending in ``.*`` stands for everything in that module's ``__all__``."""

    slug: str
    title: str
    about: str
    names: tuple[str, ...]


GROUPS = (
    Group(
        slug="client",
        title="Client",
        about="The one way in, and what a client does.",
        names=("coord.connect", "coord.Connecting", "coord.Client", "coord.TlsConfig"),
    ),
    Group(
        slug="keys",
        title="Keys and values",
        about="What reads and writes of keys return.",
        names=(
            "coord.KeyValue",
            "coord.RangeResult",
            "coord.PutResult",
            "coord.DeleteResult",
            "coord.SortBy",
        ),
    ),
    Group(
        slug="transactions",
        title="Transactions",
        about="Several changes at one revision, under conditions.",
        names=(
            "coord.Txn",
            "coord.TxnResult",
            "coord.compare",
            "coord.Operand",
            "coord.Compare",
            "coord.op",
            "coord.Op",
            "coord.StmTxn",
            "coord.StmResult",
            "coord.Batch",
            "coord.Pending",
        ),
    ),
    Group(
        slug="watches",
        title="Watches",
        about="What changed, in order, without a gap.",
        names=(
            "coord.Watch",
            "coord.WatchBatch",
            "coord.WatchEvent",
            "coord.EventType",
            "coord.WatchFilter",
        ),
    ),
    Group(
        slug="cache",
        title="Caches",
        about="A copy of a key or a prefix that follows the store.",
        names=(
            "coord.Cache",
            "coord.NodeCache",
            "coord.CacheSnapshot",
            "coord.CacheIndex",
            "coord.CacheBatch",
            "coord.CacheChange",
        ),
    ),
    Group(
        slug="typed",
        title="Typed values",
        about="Values of your own types in the place of bytes.",
        names=(
            "coord.Typed",
            "coord.TypedKeyValue",
            "coord.TypedRangeResult",
            "coord.TypedWatch",
            "coord.TypedWatchBatch",
            "coord.TypedWatchEvent",
            "coord.Entry",
            "coord.Codec",
            "coord.codec",
        ),
    ),
    Group(
        slug="sessions",
        title="Leases and sessions",
        about="Keys that go with their owner, and an owner that knows how long it is one.",
        names=(
            "coord.Session",
            "coord.SessionState",
            "coord.LeaseGrant",
            "coord.LeaseInfo",
            "coord.signals.OneShot",
        ),
    ),
    Group(
        slug="locks",
        title="Locks",
        about="One holder at a time, first come first served, with a token that only rises.",
        names=(
            "coord.Mutex",
            "coord.MutexGrant",
            "coord.MultiLock",
            "coord.MultiLockGrant",
            "coord.Grant",
            "coord.Hold",
            "coord.LineEntry",
        ),
    ),
    Group(
        slug="rwlocks",
        title="Read-write locks",
        about="Many readers or one writer.",
        names=(
            "coord.RWLock",
            "coord.ReadLock",
            "coord.WriteLock",
            "coord.ReadGrant",
            "coord.WriteGrant",
            "coord.RWState",
            "coord.RWEntry",
        ),
    ),
    Group(
        slug="semaphores",
        title="Semaphores",
        about="At most so many permits in use.",
        names=(
            "coord.Semaphore",
            "coord.Permit",
            "coord.SemaphoreState",
            "coord.PermitEntry",
        ),
    ),
    Group(
        slug="elections",
        title="Elections",
        about="One leader at a time, who says where it is.",
        names=("coord.Election", "coord.Term", "coord.Leader"),
    ),
    Group(
        slug="cells",
        title="Counters and cells",
        about="Exact shared numbers, unique ids, and values that are changed by those who know them.",
        names=(
            "coord.Counter",
            "coord.ShardedCounter",
            "coord.IdAllocator",
            "coord.AtomicValue",
            "coord.Versioned",
        ),
    ),
    Group(
        slug="config",
        title="Configuration",
        about="Typed and validated, and it changes while programs run.",
        names=("coord.Config", "coord.ConfigState"),
    ),
    Group(
        slug="topics",
        title="Topics",
        about="Messages for everybody, in one order, kept for a while.",
        names=("coord.Topic", "coord.Subscription", "coord.Message", "coord.Gap"),
    ),
    Group(
        slug="rates",
        title="Rate limiters",
        about="Permits per second for a whole fleet.",
        names=("coord.RateLimiter", "coord.LimiterState", "coord.LimiterMember"),
    ),
    Group(
        slug="queues",
        title="Queues",
        about="Items handed over, each to one taker; and jobs that survive whoever works on them.",
        names=(
            "coord.Queue",
            "coord.PriorityQueue",
            "coord.DelayQueue",
            "coord.QueueItem",
            "coord.WorkQueue",
            "coord.WorkItem",
            "coord.WorkReceipt",
            "coord.WorkStats",
            "coord.DeadLetter",
            "coord.Backoff",
        ),
    ),
    Group(
        slug="cron",
        title="Scheduled jobs",
        about="Jobs that start once per tick in the whole fleet.",
        names=(
            "coord.Cron",
            "coord.Job",
            "coord.Tick",
            "coord.JobStatus",
            "coord.TickRecord",
        ),
    ),
    Group(
        slug="services",
        title="Services and groups",
        about="Who is there, and whom to call.",
        names=(
            "coord.Registry",
            "coord.Registration",
            "coord.HealthCheck",
            "coord.ServiceView",
            "coord.Instance",
            "coord.Strategy",
            "coord.Opening",
            "coord.Membership",
            "coord.GroupSeat",
            "coord.GroupMember",
            "coord.GroupEvent",
            "coord.GroupEventKind",
        ),
    ),
    Group(
        slug="partitions",
        title="Partitions",
        about="Work divided among the members of a group, each part with one of them.",
        names=(
            "coord.Partitioner",
            "coord.Ownership",
            "coord.Assignment",
            "coord.PartitionMember",
            "coord.PartitionOwner",
        ),
    ),
    Group(
        slug="grpc",
        title="gRPC",
        about="Channels over discovered instances, and servers that list themselves.",
        names=("coord.grpc.*",),
    ),
    Group(
        slug="barriers",
        title="Barriers and latches",
        about="Many start together, end together, or wait for so many others.",
        names=(
            "coord.Barrier",
            "coord.Gate",
            "coord.DoubleBarrier",
            "coord.Joined",
            "coord.CountdownLatch",
        ),
    ),
    Group(
        slug="auth",
        title="Users and rights",
        about="Who may do what.",
        names=(
            "coord.Auth",
            "coord.Access",
            "coord.Permission",
            "coord.UserInfo",
            "coord.RoleInfo",
            "coord.AuthStatus",
        ),
    ),
    Group(
        slug="cluster",
        title="Cluster",
        about="The members behind the endpoints.",
        names=(
            "coord.Cluster",
            "coord.Member",
            "coord.MemberStatus",
            "coord.Maintenance",
            "coord.EndpointStatus",
            "coord.Alarm",
            "coord.AlarmType",
            "coord.KeyspaceHash",
            "coord.SavedSnapshot",
            "coord.DowngradeAction",
        ),
    ),
    Group(
        slug="connection",
        title="Connection",
        about="Where a client is connected, and what it is doing.",
        names=(
            "coord.Connection",
            "coord.ConnectionState",
            "coord.EndpointHealth",
            "coord.Explanation",
            "coord.ClientExplanation",
            "coord.NameExplanation",
            "coord.Place",
            "coord.Waiting",
            "coord.SessionReport",
            "coord.WatchReport",
        ),
    ),
    Group(
        slug="errors",
        title="Errors",
        about="One tree, split by what the caller can do, and what programs are warned of.",
        names=("coord.errors.*",),
    ),
    Group(
        slug="sync",
        title="Without await",
        about="The blocking twin of everything above.",
        names=("coord.sync.*",),
    ),
    Group(
        slug="testing",
        title="Testing",
        about="Faults, recordings and judges for your own programs.",
        names=(
            "coord.testing.*",
            "coord.testing.chaos.*",
            "coord.testing.recording.*",
            "coord.testing.check.*",
        ),
    ),
)

HIDDEN = frozenset(
    {
        "AtomicValue.exchange",
        "AtomicValue.updating",
        "AtomicValue.versioned",
        "Gate.discard",
        "Grant.discard",
        "HandOff.give_back",
        "GroupSeat.discard",
        "MultiLock.acquire_for",
        "MultiLock.try_acquire_for",
        "Mutex.acquire_for",
        "Mutex.try_acquire_for",
        "MutexGrant.enter_again",
        "OneShot.set",
        "OneShot.watch",
        "Ownership.needs_fence",
        "Ownership.revoke",
        "Registration.begin",
        "Registration.discard",
        "Session.attempt_limit",
        "Session.beat_on",
        "Session.confirm_lost",
        "Session.drop_lease",
        "Session.expire",
        "Session.on_renewed",
        "Session.prove_alive",
        "Session.shut",
        "StmTxn.base",
        "StmTxn.conditions",
        "StmTxn.end",
        "StmTxn.needs_check",
        "StmTxn.prefetch",
        "StmTxn.read_keys",
        "StmTxn.writes",
        "Subscription.save",
        "Tick.close",
        "Tick.end",
        "Tick.revoke",
        "Term.revoked",
        "Typed.updating",
        "_Side.acquire_for",
        "_Side.try_acquire_for",
        "Semaphore.acquire_for",
        "Semaphore.try_acquire_for",
        "WorkItem.revoke",
        "WorkQueue.give_back",
    }
)
"""Members that other rooms call and applications do not, as in ``tests/sdk/test_sync_parity.py``."""

HIDDEN_ATTRIBUTES = frozenset(
    {
        "AtomicValue.home",
        "Session.doubts",
        "Session.gate_revisions",
        "Session.leaving",
        "Session.lines",
        "Session.readers",
    }
)
"""Attributes of that kind."""
