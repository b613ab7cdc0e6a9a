"""Coordination for Python processes: sessions, fenced locks and elections on any etcd v3 store.

Names are loaded when they are first used: the server and the protocol rooms live in the same package, and a process
that needs only those does not pay for the client.

PYTEST_DONT_REWRITE: pytest rewrites the assertions of every package that comes with a plugin, as ours does, and warns
where a program has imported one before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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
        NoLeader,
        NoSpace,
        NotGranted,
        NotHeld,
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
    from coord.recipes.multi_lock import MultiLock, MultiLockGrant, TooManyNames
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

_HOMES = {
    "coord.cache": (
        "Cache",
        "CacheBatch",
        "CacheChange",
        "CacheIndex",
        "CacheSnapshot",
        "NodeCache",
    ),
    "coord.auth": ("Auth",),
    "coord.client": ("Client", "Connecting", "connect"),
    "coord.codec": ("Codec", "Entry", "TypedKeyValue"),
    "coord.cluster": ("Cluster",),
    "coord.election": ("Election", "Leader", "Term"),
    "coord.errors": (
        "AmbiguousResult",
        "BatchFailed",
        "CacheOverflow",
        "CacheTimeout",
        "CampaignTimeout",
        "ClientClosed",
        "Compacted",
        "CoordError",
        "CoordTimeout",
        "DecodeError",
        "EndpointMismatch",
        "ForkedError",
        "FutureRevision",
        "InvalidArgument",
        "KeyNotFound",
        "LeadershipLost",
        "LeaseExists",
        "LeaseNotFound",
        "LockLost",
        "LockTimeout",
        "LostError",
        "MissingExtra",
        "NameConflict",
        "NoLeader",
        "NoSpace",
        "NotGranted",
        "NotHeld",
        "PayloadTooLarge",
        "PermissionDenied",
        "ProtocolError",
        "RequestRefused",
        "RoleExists",
        "RoleNotFound",
        "SessionClosed",
        "SessionError",
        "SessionExpired",
        "SessionShared",
        "StmConflict",
        "StmTimeout",
        "TooLarge",
        "TxnTooLarge",
        "Unavailable",
        "UpdateConflict",
        "UserExists",
        "UserNotFound",
    ),
    "coord.explaining": (
        "ClientExplanation",
        "Explanation",
        "NameExplanation",
        "Place",
        "SessionReport",
        "WatchReport",
    ),
    "coord.grants": ("Grant", "Hold"),
    "coord.maintenance": ("Maintenance",),
    "coord.locking.deadlock": ("DeadlockDetected", "DeadlockWarning"),
    "coord.locking.entries": ("LineEntry",),
    "coord.locking.waits": ("Waiting",),
    "coord.mutex": ("Mutex", "MutexGrant"),
    "coord.notices": ("CoordWarning", "KeyCountWarning", "RightsWarning"),
    "coord.recipes.multi_lock": ("MultiLock", "MultiLockGrant", "TooManyNames"),
    "coord.session": ("Session", "SessionState"),
    "coord.store.batch": ("Batch", "Pending"),
    "coord.store.comparing": ("Compare", "Operand"),
    "coord.store.auth": ("Access", "AuthStatus", "Permission", "RoleInfo", "UserInfo"),
    "coord.store.kv": ("SortBy",),
    "coord.store.stm": ("StmResult",),
    "coord.store.stm_txn": ("StmTxn",),
    "coord.store.operations": ("Op",),
    "coord.store.txn": ("Txn", "TxnResult"),
    "coord.store.upkeep": (
        "Alarm",
        "AlarmType",
        "DowngradeAction",
        "EndpointStatus",
        "KeyspaceHash",
        "SavedSnapshot",
    ),
    "coord.store.values": (
        "DeleteResult",
        "EventType",
        "KeyValue",
        "LeaseGrant",
        "LeaseInfo",
        "Member",
        "MemberStatus",
        "PutResult",
        "RangeResult",
        "WatchBatch",
        "WatchEvent",
        "WatchFilter",
    ),
    "coord.target": ("TlsConfig",),
    "coord.typed": (
        "Typed",
        "TypedRangeResult",
        "TypedWatch",
        "TypedWatchBatch",
        "TypedWatchEvent",
    ),
    "coord.transport.health": (
        "Connection",
        "ConnectionState",
        "EndpointHealth",
    ),
    "coord.watching": ("Watch",),
    "coord.recipes.rwlock": (
        "RWEntry",
        "RWLock",
        "RWState",
        "ReadGrant",
        "ReadLock",
        "UpgradeRefused",
        "WriteGrant",
        "WriteLock",
    ),
    "coord.recipes.semaphore": (
        "LimitMismatch",
        "Permit",
        "PermitEntry",
        "PermitLost",
        "Semaphore",
        "SemaphoreState",
        "SemaphoreTimeout",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = frozenset({"codec", "compare", "op"})

__all__ = [
    "Access",
    "Alarm",
    "AlarmType",
    "AmbiguousResult",
    "Auth",
    "AuthStatus",
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
    "Client",
    "ClientClosed",
    "ClientExplanation",
    "Cluster",
    "Codec",
    "Compacted",
    "Compare",
    "Connecting",
    "Connection",
    "ConnectionState",
    "CoordError",
    "CoordTimeout",
    "CoordWarning",
    "DeadlockDetected",
    "DeadlockWarning",
    "DecodeError",
    "DeleteResult",
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
    "Grant",
    "Hold",
    "InvalidArgument",
    "KeyCountWarning",
    "KeyNotFound",
    "KeyValue",
    "KeyspaceHash",
    "Leader",
    "LeadershipLost",
    "LeaseExists",
    "LeaseGrant",
    "LeaseInfo",
    "LeaseNotFound",
    "LimitMismatch",
    "LineEntry",
    "LockLost",
    "LockTimeout",
    "LostError",
    "Maintenance",
    "Member",
    "MemberStatus",
    "MissingExtra",
    "MultiLock",
    "MultiLockGrant",
    "Mutex",
    "MutexGrant",
    "NameConflict",
    "NameExplanation",
    "NoLeader",
    "NoSpace",
    "NodeCache",
    "NotGranted",
    "NotHeld",
    "Op",
    "Operand",
    "PayloadTooLarge",
    "Pending",
    "Permission",
    "PermissionDenied",
    "Permit",
    "PermitEntry",
    "PermitLost",
    "Place",
    "ProtocolError",
    "PutResult",
    "RWEntry",
    "RWLock",
    "RWState",
    "RangeResult",
    "ReadGrant",
    "ReadLock",
    "RequestRefused",
    "RightsWarning",
    "RoleExists",
    "RoleInfo",
    "RoleNotFound",
    "SavedSnapshot",
    "Semaphore",
    "SemaphoreState",
    "SemaphoreTimeout",
    "Session",
    "SessionClosed",
    "SessionError",
    "SessionExpired",
    "SessionReport",
    "SessionShared",
    "SessionState",
    "SortBy",
    "StmConflict",
    "StmResult",
    "StmTimeout",
    "StmTxn",
    "Term",
    "TlsConfig",
    "TooLarge",
    "TooManyNames",
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
    "UpdateConflict",
    "UpgradeRefused",
    "UserExists",
    "UserInfo",
    "UserNotFound",
    "Waiting",
    "Watch",
    "WatchBatch",
    "WatchEvent",
    "WatchFilter",
    "WatchReport",
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
