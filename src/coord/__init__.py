"""Coordination for Python processes: sessions, fenced locks and elections on any etcd v3 store.

Names are loaded when they are first used: the server and the protocol rooms live in the same package, and a process
that needs only those does not pay for the client.

PYTEST_DONT_REWRITE: pytest rewrites the assertions of every package that comes with a plugin, as ours does, and warns
where a program has imported one before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from coord._homes import HOMES as _HOMES
from coord._version import __version__

if TYPE_CHECKING:
    from coord import codec, compare, op
    from coord.auth import Auth
    from coord.cache import (
        Cache,
        CacheBatch,
        CacheChange,
        CacheIndex,
        CacheSnapshot,
        NodeCache,
    )
    from coord.client import Client, Connecting, connect
    from coord.cluster import Cluster
    from coord.codec import Codec, Entry, TypedKeyValue
    from coord.election import Election, Leader, Term
    from coord.errors import (
        AmbiguousResult,
        BatchFailed,
        CacheOverflow,
        CacheTimeout,
        CampaignTimeout,
        ClientClosed,
        Compacted,
        CoordError,
        CoordTimeout,
        DecodeError,
        EndpointMismatch,
        ForkedError,
        FutureRevision,
        InvalidArgument,
        KeyNotFound,
        LeadershipLost,
        LeaseExists,
        LeaseNotFound,
        LockLost,
        LockTimeout,
        LostError,
        MissingExtra,
        NameConflict,
        NoCandidate,
        NoLeader,
        NoSpace,
        NotGranted,
        NotHeld,
        NotLeader,
        PayloadTooLarge,
        PermissionDenied,
        ProtocolError,
        RequestRefused,
        RoleExists,
        RoleNotFound,
        SessionClosed,
        SessionError,
        SessionExpired,
        SessionShared,
        StmConflict,
        StmTimeout,
        TooLarge,
        TransferTimeout,
        TxnTooLarge,
        Unavailable,
        UpdateConflict,
        UserExists,
        UserNotFound,
    )
    from coord.explaining import (
        ClientExplanation,
        Explanation,
        NameExplanation,
        Place,
        SessionReport,
        WatchReport,
    )
    from coord.grants import Grant, Hold
    from coord.locking.deadlock import DeadlockDetected, DeadlockWarning
    from coord.locking.entries import LineEntry
    from coord.locking.waits import Waiting
    from coord.maintenance import Maintenance
    from coord.mutex import Mutex, MutexGrant
    from coord.notices import CoordWarning, KeyCountWarning, RightsWarning
    from coord.recipes.atomic import AtomicValue, Conflict, Versioned
    from coord.recipes.barrier import Barrier, BarrierHeld, BarrierLost, BarrierTimeout, Gate
    from coord.recipes.config import Config, ConfigInvalid, ConfigState, ConfigUnavailable
    from coord.recipes.counter import Counter, IdAllocator, NotANumber, Overflow, ShardedCounter
    from coord.recipes.cron import (
        BadSchedule,
        Cron,
        CronWarning,
        Job,
        JobExists,
        JobStatus,
        Tick,
        TickLost,
        TickRecord,
        UnknownJob,
    )
    from coord.recipes.double_barrier import BarrierFull, DoubleBarrier, Joined
    from coord.recipes.latch import CountdownLatch, LatchMismatch, LatchPending, LatchTimeout
    from coord.recipes.membership import (
        AlreadyMember,
        GroupEvent,
        GroupEventKind,
        GroupMember,
        GroupSeat,
        MemberLost,
        Membership,
        MembershipTimeout,
        NotMember,
    )
    from coord.recipes.multi_lock import MultiLock, MultiLockGrant, TooManyNames
    from coord.recipes.opening import Opening
    from coord.recipes.partitioner import (
        Assignment,
        Ownership,
        OwnershipLost,
        Partitioner,
        PartitionMember,
        PartitionOwner,
    )
    from coord.recipes.queues import (
        BadPriority,
        DelayQueue,
        PriorityQueue,
        Queue,
        QueueEmpty,
        QueueItem,
    )
    from coord.recipes.rate_limiter import (
        LimiterMember,
        LimiterMismatch,
        LimiterState,
        RateLimiter,
        RateLimitTimeout,
    )
    from coord.recipes.registry import (
        AlreadyRegistered,
        HealthCheck,
        Instance,
        NoInstance,
        Registration,
        Registry,
        ServiceTimeout,
        ServiceView,
        Strategy,
    )
    from coord.recipes.rwlock import (
        ReadGrant,
        ReadLock,
        RWEntry,
        RWLock,
        RWState,
        UpgradeRefused,
        WriteGrant,
        WriteLock,
    )
    from coord.recipes.semaphore import (
        LimitMismatch,
        Permit,
        PermitEntry,
        PermitLost,
        Semaphore,
        SemaphoreState,
        SemaphoreTimeout,
    )
    from coord.recipes.topic import CursorBusy, Gap, Message, Subscription, Topic
    from coord.recipes.work_queue import (
        Backoff,
        ClaimLost,
        ConfMismatch,
        DeadLetter,
        ReceiveTimeout,
        WorkItem,
        WorkQueue,
        WorkReceipt,
        WorkStats,
    )
    from coord.session import Session, SessionState
    from coord.store.auth import Access, AuthStatus, Permission, RoleInfo, UserInfo
    from coord.store.batch import Batch, Pending
    from coord.store.comparing import Compare, Operand
    from coord.store.kv import SortBy
    from coord.store.operations import Op
    from coord.store.stm import StmResult
    from coord.store.stm_txn import StmTxn
    from coord.store.txn import Txn, TxnResult
    from coord.store.upkeep import (
        Alarm,
        AlarmType,
        DowngradeAction,
        EndpointStatus,
        KeyspaceHash,
        SavedSnapshot,
    )
    from coord.store.values import (
        DeleteResult,
        EventType,
        KeyValue,
        LeaseGrant,
        LeaseInfo,
        Member,
        MemberStatus,
        PutResult,
        RangeResult,
        WatchBatch,
        WatchEvent,
        WatchFilter,
    )
    from coord.target import TlsConfig
    from coord.transport.health import (
        Connection,
        ConnectionState,
        EndpointHealth,
    )
    from coord.typed import (
        Typed,
        TypedRangeResult,
        TypedWatch,
        TypedWatchBatch,
        TypedWatchEvent,
    )
    from coord.watching import Watch

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = frozenset({"codec", "compare", "op"})

__all__ = [
    "Access",
    "Alarm",
    "AlarmType",
    "AlreadyMember",
    "AlreadyRegistered",
    "AmbiguousResult",
    "Assignment",
    "AtomicValue",
    "Auth",
    "AuthStatus",
    "Backoff",
    "BadPriority",
    "BadSchedule",
    "Barrier",
    "BarrierFull",
    "BarrierHeld",
    "BarrierLost",
    "BarrierTimeout",
    "Batch",
    "BatchFailed",
    "Cache",
    "CacheBatch",
    "CacheChange",
    "CacheIndex",
    "CacheOverflow",
    "CacheSnapshot",
    "CacheTimeout",
    "CampaignTimeout",
    "ClaimLost",
    "Client",
    "ClientClosed",
    "ClientExplanation",
    "Cluster",
    "Codec",
    "Compacted",
    "Compare",
    "ConfMismatch",
    "Config",
    "ConfigInvalid",
    "ConfigState",
    "ConfigUnavailable",
    "Conflict",
    "Connecting",
    "Connection",
    "ConnectionState",
    "CoordError",
    "CoordTimeout",
    "CoordWarning",
    "CountdownLatch",
    "Counter",
    "Cron",
    "CronWarning",
    "CursorBusy",
    "DeadLetter",
    "DeadlockDetected",
    "DeadlockWarning",
    "DecodeError",
    "DelayQueue",
    "DeleteResult",
    "DoubleBarrier",
    "DowngradeAction",
    "Election",
    "EndpointHealth",
    "EndpointMismatch",
    "EndpointStatus",
    "Entry",
    "EventType",
    "Explanation",
    "ForkedError",
    "FutureRevision",
    "Gap",
    "Gate",
    "Grant",
    "GroupEvent",
    "GroupEventKind",
    "GroupMember",
    "GroupSeat",
    "HealthCheck",
    "Hold",
    "IdAllocator",
    "Instance",
    "InvalidArgument",
    "Job",
    "JobExists",
    "JobStatus",
    "Joined",
    "KeyCountWarning",
    "KeyNotFound",
    "KeyValue",
    "KeyspaceHash",
    "LatchMismatch",
    "LatchPending",
    "LatchTimeout",
    "Leader",
    "LeadershipLost",
    "LeaseExists",
    "LeaseGrant",
    "LeaseInfo",
    "LeaseNotFound",
    "LimitMismatch",
    "LimiterMember",
    "LimiterMismatch",
    "LimiterState",
    "LineEntry",
    "LockLost",
    "LockTimeout",
    "LostError",
    "Maintenance",
    "Member",
    "MemberLost",
    "MemberStatus",
    "Membership",
    "MembershipTimeout",
    "Message",
    "MissingExtra",
    "MultiLock",
    "MultiLockGrant",
    "Mutex",
    "MutexGrant",
    "NameConflict",
    "NameExplanation",
    "NoCandidate",
    "NoInstance",
    "NoLeader",
    "NoSpace",
    "NodeCache",
    "NotANumber",
    "NotGranted",
    "NotHeld",
    "NotLeader",
    "NotMember",
    "Op",
    "Opening",
    "Operand",
    "Overflow",
    "Ownership",
    "OwnershipLost",
    "PartitionMember",
    "PartitionOwner",
    "Partitioner",
    "PayloadTooLarge",
    "Pending",
    "Permission",
    "PermissionDenied",
    "Permit",
    "PermitEntry",
    "PermitLost",
    "Place",
    "PriorityQueue",
    "ProtocolError",
    "PutResult",
    "Queue",
    "QueueEmpty",
    "QueueItem",
    "RWEntry",
    "RWLock",
    "RWState",
    "RangeResult",
    "RateLimitTimeout",
    "RateLimiter",
    "ReadGrant",
    "ReadLock",
    "ReceiveTimeout",
    "Registration",
    "Registry",
    "RequestRefused",
    "RightsWarning",
    "RoleExists",
    "RoleInfo",
    "RoleNotFound",
    "SavedSnapshot",
    "Semaphore",
    "SemaphoreState",
    "SemaphoreTimeout",
    "ServiceTimeout",
    "ServiceView",
    "Session",
    "SessionClosed",
    "SessionError",
    "SessionExpired",
    "SessionReport",
    "SessionShared",
    "SessionState",
    "ShardedCounter",
    "SortBy",
    "StmConflict",
    "StmResult",
    "StmTimeout",
    "StmTxn",
    "Strategy",
    "Subscription",
    "Term",
    "Tick",
    "TickLost",
    "TickRecord",
    "TlsConfig",
    "TooLarge",
    "TooManyNames",
    "Topic",
    "TransferTimeout",
    "Txn",
    "TxnResult",
    "TxnTooLarge",
    "Typed",
    "TypedKeyValue",
    "TypedRangeResult",
    "TypedWatch",
    "TypedWatchBatch",
    "TypedWatchEvent",
    "Unavailable",
    "UnknownJob",
    "UpdateConflict",
    "UpgradeRefused",
    "UserExists",
    "UserInfo",
    "UserNotFound",
    "Versioned",
    "Waiting",
    "Watch",
    "WatchBatch",
    "WatchEvent",
    "WatchFilter",
    "WatchReport",
    "WorkItem",
    "WorkQueue",
    "WorkReceipt",
    "WorkStats",
    "WriteGrant",
    "WriteLock",
    "__version__",
    "codec",
    "compare",
    "connect",
    "op",
]


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name in _SUBMODULES:
        return import_module(f"coord.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'coord' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
