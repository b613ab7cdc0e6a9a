"""Which metrics the server shows, and where each figure comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord_server import __version__
from coord_server.metrics import process_samples
from coord_server.usage import ETCD_CLUSTER_VERSION, ETCD_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.server import RpcServer
    from coord_server.api.context import ApiContext


def register(context: ApiContext, rpc: RpcServer) -> None:
    """Add the gauges of a running server to its metrics; each is read when somebody asks."""
    metrics = context.metrics
    replica, store, backend = context.replica, context.store, context.backend
    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "etcd_server_has_leader": (
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            lambda: float(replica.leader_id != 0),
        ),
        "etcd_server_is_leader": (
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            lambda: float(replica.is_leader),
        ),
        "etcd_server_is_learner": ("Whether or not this member is a learner.", lambda: 0.0),
        "etcd_server_proposals_committed_total": (
            "The total number of consensus proposals committed.",
            lambda: float(replica.committed_index),
        ),
        "etcd_server_proposals_applied_total": (
            "The total number of consensus proposals applied.",
            lambda: float(replica.applied_index),
        ),
        "etcd_server_quota_backend_bytes": (
            "Current backend storage quota size in bytes.",
            lambda: float(context.config.quota_bytes or 0),
        ),
        "etcd_mvcc_db_total_size_in_bytes": (
            "Total size of the underlying database physically allocated in bytes.",
            lambda: float(backend.size_bytes()),
        ),
        "etcd_mvcc_db_total_size_in_use_in_bytes": (
            "Total size of the underlying database logically in use in bytes.",
            lambda: float(backend.in_use_bytes()),
        ),
        "etcd_debugging_mvcc_current_revision": (
            "The current revision of store.",
            lambda: float(store.revision),
        ),
        "etcd_debugging_mvcc_compact_revision": (
            "The revision of the last compaction in store.",
            lambda: float(store.compact_revision),
        ),
        "etcd_debugging_mvcc_keys_total": (
            "Total number of keys.",
            lambda: float(store.count(b"\0", b"\0")),
        ),
        "coord_server_connections": (
            "Client connections that are open.",
            lambda: float(rpc.connection_count),
        ),
        "coord_server_wal_sync_average_seconds": (
            "How long a write to the log has taken lately.",
            lambda: replica.sync_average_s,
        ),
        "coord_server_leases": ("Leases that exist.", lambda: float(len(context.lessor.ids()))),
        "coord_server_backend_pending_operations": (
            "Applied operations that only the log holds so far.",
            lambda: float(replica.applier.pending_ops),
        ),
    }
    for name, (text, read) in gauges.items():
        metrics.gauge(name, text, read)
    _identity(context)
    process_samples(metrics, context.env.disk.read_file, context.env.disk.listdir)


def _identity(context: ApiContext) -> None:
    metrics = context.metrics
    text = "Which version is running. 1 for 'server_version' label with current version."
    metrics.gauge("etcd_server_version", text, _one, server_version=ETCD_VERSION)
    text = "Which version is running. 1 for 'cluster_version' label with current cluster version"
    metrics.gauge("etcd_cluster_version", text, _one, cluster_version=ETCD_CLUSTER_VERSION)
    text = "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID."
    metrics.gauge("etcd_server_id", text, _one, server_id=f"{context.stamp.member_id:x}")
    metrics.gauge("coord_server_info", "The program's own version.", _one, version=__version__)


def _one() -> float:
    return 1.0
