"""Coordination for Python processes: sessions, fenced locks and elections on any etcd v3 store.

Names are loaded when they are first used: the server and the protocol rooms live in the same package, and a process
that needs only those does not pay for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from coord._version import __version__

if TYPE_CHECKING:
    from coord import compare, op
    from coord.client import Client, Connecting, connect
    from coord.cluster import Cluster
    from coord.election import Election, Leader, Term
    from coord.errors import (
        AmbiguousResult,
        CampaignTimeout,
        ClientClosed,
        Compacted,
        CoordError,
        CoordTimeout,
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
        NotHeld,
        PermissionDenied,
        ProtocolError,
        RequestRefused,
        SessionClosed,
        SessionError,
        SessionExpired,
        SessionShared,
        TooLarge,
        Unavailable,
    )
    from coord.explaining import (
        ClientExplanation,
        Explanation,
        NameExplanation,
        Place,
        SessionReport,
        Waiting,
        WatchReport,
    )
    from coord.grants import Grant, Hold
    from coord.maintenance import Maintenance
    from coord.mutex import LineEntry, Mutex, MutexGrant
    from coord.session import Session, SessionState
    from coord.store.kv import SortBy
    from coord.store.txn import Compare, Op, Operand, Txn, TxnResult
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
    from coord.watching import Watch

_HOMES = {
    "coord.client": ("Client", "Connecting", "connect"),
    "coord.cluster": ("Cluster",),
    "coord.election": ("Election", "Leader", "Term"),
    "coord.errors": (
        "AmbiguousResult",
        "CampaignTimeout",
        "ClientClosed",
        "Compacted",
        "CoordError",
        "CoordTimeout",
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
        "NotHeld",
        "PermissionDenied",
        "ProtocolError",
        "RequestRefused",
        "SessionClosed",
        "SessionError",
        "SessionExpired",
        "SessionShared",
        "TooLarge",
        "Unavailable",
    ),
    "coord.explaining": (
        "ClientExplanation",
        "Explanation",
        "NameExplanation",
        "Place",
        "SessionReport",
        "Waiting",
        "WatchReport",
    ),
    "coord.grants": ("Grant", "Hold"),
    "coord.maintenance": ("Maintenance",),
    "coord.mutex": ("LineEntry", "Mutex", "MutexGrant"),
    "coord.session": ("Session", "SessionState"),
    "coord.store.kv": ("SortBy",),
    "coord.store.txn": ("Compare", "Op", "Operand", "Txn", "TxnResult"),
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
    "coord.transport.health": (
        "Connection",
        "ConnectionState",
        "EndpointHealth",
    ),
    "coord.watching": ("Watch",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = frozenset({"compare", "op"})

__all__ = [
    "Alarm",
    "AlarmType",
    "AmbiguousResult",
    "CampaignTimeout",
    "Client",
    "ClientClosed",
    "ClientExplanation",
    "Cluster",
    "Compacted",
    "Compare",
    "Connecting",
    "Connection",
    "ConnectionState",
    "CoordError",
    "CoordTimeout",
    "DeleteResult",
    "DowngradeAction",
    "Election",
    "EndpointHealth",
    "EndpointMismatch",
    "EndpointStatus",
    "EventType",
    "Explanation",
    "ForkedError",
    "FutureRevision",
    "Grant",
    "Hold",
    "InvalidArgument",
    "KeyNotFound",
    "KeyValue",
    "KeyspaceHash",
    "Leader",
    "LeadershipLost",
    "LeaseExists",
    "LeaseGrant",
    "LeaseInfo",
    "LeaseNotFound",
    "LineEntry",
    "LockLost",
    "LockTimeout",
    "LostError",
    "Maintenance",
    "Member",
    "MemberStatus",
    "MissingExtra",
    "Mutex",
    "MutexGrant",
    "NameConflict",
    "NameExplanation",
    "NoLeader",
    "NoSpace",
    "NotHeld",
    "Op",
    "Operand",
    "PermissionDenied",
    "Place",
    "ProtocolError",
    "PutResult",
    "RangeResult",
    "RequestRefused",
    "SavedSnapshot",
    "Session",
    "SessionClosed",
    "SessionError",
    "SessionExpired",
    "SessionReport",
    "SessionShared",
    "SessionState",
    "SortBy",
    "Term",
    "TlsConfig",
    "TooLarge",
    "Txn",
    "TxnResult",
    "Unavailable",
    "Waiting",
    "Watch",
    "WatchBatch",
    "WatchEvent",
    "WatchFilter",
    "WatchReport",
    "__version__",
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
