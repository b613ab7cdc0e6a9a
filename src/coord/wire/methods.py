"""Every RPC of an endpoint as one record: where it is, what goes in, what comes out, who streams.

Servers bind handlers to these records and clients call by them, so a path is written once, here.
Constants are ``SERVICE_METHOD``; where the API's method name already opens with its service
(``LeaseGrant``, ``AuthEnable``) the word stands once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from coord.wire import election_pb2, health_pb2, lock_pb2, rpc_pb2

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Request, Response]):
    """One method of a gRPC service.

    ``path`` is the request path, ``/package.Service/Method``. ``client_streaming`` and
    ``server_streaming`` tell whether that side sends any number of messages instead of one.
    """

    path: str
    request: type[Request]
    response: type[Response]
    client_streaming: bool = False
    server_streaming: bool = False


KV_RANGE = Rpc("/etcdserverpb.KV/Range", rpc_pb2.RangeRequest, rpc_pb2.RangeResponse)
KV_RANGE_STREAM = Rpc(
    "/etcdserverpb.KV/RangeStream",
    rpc_pb2.RangeRequest,
    rpc_pb2.RangeStreamResponse,
    server_streaming=True,
)
KV_PUT = Rpc("/etcdserverpb.KV/Put", rpc_pb2.PutRequest, rpc_pb2.PutResponse)
KV_DELETE_RANGE = Rpc(
    "/etcdserverpb.KV/DeleteRange", rpc_pb2.DeleteRangeRequest, rpc_pb2.DeleteRangeResponse
)
KV_TXN = Rpc("/etcdserverpb.KV/Txn", rpc_pb2.TxnRequest, rpc_pb2.TxnResponse)
KV_COMPACT = Rpc("/etcdserverpb.KV/Compact", rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse)

WATCH_WATCH = Rpc(
    "/etcdserverpb.Watch/Watch",
    rpc_pb2.WatchRequest,
    rpc_pb2.WatchResponse,
    client_streaming=True,
    server_streaming=True,
)

LEASE_GRANT = Rpc(
    "/etcdserverpb.Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseGrantResponse
)
LEASE_REVOKE = Rpc(
    "/etcdserverpb.Lease/LeaseRevoke", rpc_pb2.LeaseRevokeRequest, rpc_pb2.LeaseRevokeResponse
)
LEASE_KEEP_ALIVE = Rpc(
    "/etcdserverpb.Lease/LeaseKeepAlive",
    rpc_pb2.LeaseKeepAliveRequest,
    rpc_pb2.LeaseKeepAliveResponse,
    client_streaming=True,
    server_streaming=True,
)
LEASE_TIME_TO_LIVE = Rpc(
    "/etcdserverpb.Lease/LeaseTimeToLive",
    rpc_pb2.LeaseTimeToLiveRequest,
    rpc_pb2.LeaseTimeToLiveResponse,
)
LEASE_LEASES = Rpc(
    "/etcdserverpb.Lease/LeaseLeases", rpc_pb2.LeaseLeasesRequest, rpc_pb2.LeaseLeasesResponse
)

CLUSTER_MEMBER_ADD = Rpc(
    "/etcdserverpb.Cluster/MemberAdd", rpc_pb2.MemberAddRequest, rpc_pb2.MemberAddResponse
)
CLUSTER_MEMBER_REMOVE = Rpc(
    "/etcdserverpb.Cluster/MemberRemove", rpc_pb2.MemberRemoveRequest, rpc_pb2.MemberRemoveResponse
)
CLUSTER_MEMBER_UPDATE = Rpc(
    "/etcdserverpb.Cluster/MemberUpdate", rpc_pb2.MemberUpdateRequest, rpc_pb2.MemberUpdateResponse
)
CLUSTER_MEMBER_LIST = Rpc(
    "/etcdserverpb.Cluster/MemberList", rpc_pb2.MemberListRequest, rpc_pb2.MemberListResponse
)
CLUSTER_MEMBER_PROMOTE = Rpc(
    "/etcdserverpb.Cluster/MemberPromote",
    rpc_pb2.MemberPromoteRequest,
    rpc_pb2.MemberPromoteResponse,
)

MAINTENANCE_ALARM = Rpc(
    "/etcdserverpb.Maintenance/Alarm", rpc_pb2.AlarmRequest, rpc_pb2.AlarmResponse
)
MAINTENANCE_STATUS = Rpc(
    "/etcdserverpb.Maintenance/Status", rpc_pb2.StatusRequest, rpc_pb2.StatusResponse
)
MAINTENANCE_DEFRAGMENT = Rpc(
    "/etcdserverpb.Maintenance/Defragment", rpc_pb2.DefragmentRequest, rpc_pb2.DefragmentResponse
)
MAINTENANCE_HASH = Rpc("/etcdserverpb.Maintenance/Hash", rpc_pb2.HashRequest, rpc_pb2.HashResponse)
MAINTENANCE_HASH_KV = Rpc(
    "/etcdserverpb.Maintenance/HashKV", rpc_pb2.HashKVRequest, rpc_pb2.HashKVResponse
)
MAINTENANCE_SNAPSHOT = Rpc(
    "/etcdserverpb.Maintenance/Snapshot",
    rpc_pb2.SnapshotRequest,
    rpc_pb2.SnapshotResponse,
    server_streaming=True,
)
MAINTENANCE_MOVE_LEADER = Rpc(
    "/etcdserverpb.Maintenance/MoveLeader", rpc_pb2.MoveLeaderRequest, rpc_pb2.MoveLeaderResponse
)
MAINTENANCE_DOWNGRADE = Rpc(
    "/etcdserverpb.Maintenance/Downgrade", rpc_pb2.DowngradeRequest, rpc_pb2.DowngradeResponse
)

AUTH_ENABLE = Rpc(
    "/etcdserverpb.Auth/AuthEnable", rpc_pb2.AuthEnableRequest, rpc_pb2.AuthEnableResponse
)
AUTH_DISABLE = Rpc(
    "/etcdserverpb.Auth/AuthDisable", rpc_pb2.AuthDisableRequest, rpc_pb2.AuthDisableResponse
)
AUTH_STATUS = Rpc(
    "/etcdserverpb.Auth/AuthStatus", rpc_pb2.AuthStatusRequest, rpc_pb2.AuthStatusResponse
)
AUTH_AUTHENTICATE = Rpc(
    "/etcdserverpb.Auth/Authenticate", rpc_pb2.AuthenticateRequest, rpc_pb2.AuthenticateResponse
)
AUTH_USER_ADD = Rpc(
    "/etcdserverpb.Auth/UserAdd", rpc_pb2.AuthUserAddRequest, rpc_pb2.AuthUserAddResponse
)
AUTH_USER_GET = Rpc(
    "/etcdserverpb.Auth/UserGet", rpc_pb2.AuthUserGetRequest, rpc_pb2.AuthUserGetResponse
)
AUTH_USER_LIST = Rpc(
    "/etcdserverpb.Auth/UserList", rpc_pb2.AuthUserListRequest, rpc_pb2.AuthUserListResponse
)
AUTH_USER_DELETE = Rpc(
    "/etcdserverpb.Auth/UserDelete", rpc_pb2.AuthUserDeleteRequest, rpc_pb2.AuthUserDeleteResponse
)
AUTH_USER_CHANGE_PASSWORD = Rpc(
    "/etcdserverpb.Auth/UserChangePassword",
    rpc_pb2.AuthUserChangePasswordRequest,
    rpc_pb2.AuthUserChangePasswordResponse,
)
AUTH_USER_GRANT_ROLE = Rpc(
    "/etcdserverpb.Auth/UserGrantRole",
    rpc_pb2.AuthUserGrantRoleRequest,
    rpc_pb2.AuthUserGrantRoleResponse,
)
AUTH_USER_REVOKE_ROLE = Rpc(
    "/etcdserverpb.Auth/UserRevokeRole",
    rpc_pb2.AuthUserRevokeRoleRequest,
    rpc_pb2.AuthUserRevokeRoleResponse,
)
AUTH_ROLE_ADD = Rpc(
    "/etcdserverpb.Auth/RoleAdd", rpc_pb2.AuthRoleAddRequest, rpc_pb2.AuthRoleAddResponse
)
AUTH_ROLE_GET = Rpc(
    "/etcdserverpb.Auth/RoleGet", rpc_pb2.AuthRoleGetRequest, rpc_pb2.AuthRoleGetResponse
)
AUTH_ROLE_LIST = Rpc(
    "/etcdserverpb.Auth/RoleList", rpc_pb2.AuthRoleListRequest, rpc_pb2.AuthRoleListResponse
)
AUTH_ROLE_DELETE = Rpc(
    "/etcdserverpb.Auth/RoleDelete", rpc_pb2.AuthRoleDeleteRequest, rpc_pb2.AuthRoleDeleteResponse
)
AUTH_ROLE_GRANT_PERMISSION = Rpc(
    "/etcdserverpb.Auth/RoleGrantPermission",
    rpc_pb2.AuthRoleGrantPermissionRequest,
    rpc_pb2.AuthRoleGrantPermissionResponse,
)
AUTH_ROLE_REVOKE_PERMISSION = Rpc(
    "/etcdserverpb.Auth/RoleRevokePermission",
    rpc_pb2.AuthRoleRevokePermissionRequest,
    rpc_pb2.AuthRoleRevokePermissionResponse,
)

LOCK_LOCK = Rpc("/v3lockpb.Lock/Lock", lock_pb2.LockRequest, lock_pb2.LockResponse)
LOCK_UNLOCK = Rpc("/v3lockpb.Lock/Unlock", lock_pb2.UnlockRequest, lock_pb2.UnlockResponse)

ELECTION_CAMPAIGN = Rpc(
    "/v3electionpb.Election/Campaign", election_pb2.CampaignRequest, election_pb2.CampaignResponse
)
ELECTION_PROCLAIM = Rpc(
    "/v3electionpb.Election/Proclaim", election_pb2.ProclaimRequest, election_pb2.ProclaimResponse
)
ELECTION_LEADER = Rpc(
    "/v3electionpb.Election/Leader", election_pb2.LeaderRequest, election_pb2.LeaderResponse
)
ELECTION_OBSERVE = Rpc(
    "/v3electionpb.Election/Observe",
    election_pb2.LeaderRequest,
    election_pb2.LeaderResponse,
    server_streaming=True,
)
ELECTION_RESIGN = Rpc(
    "/v3electionpb.Election/Resign", election_pb2.ResignRequest, election_pb2.ResignResponse
)

HEALTH_CHECK = Rpc(
    "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
)
HEALTH_WATCH = Rpc(
    "/grpc.health.v1.Health/Watch",
    health_pb2.HealthCheckRequest,
    health_pb2.HealthCheckResponse,
    server_streaming=True,
)

ALL: tuple[Rpc[Any, Any], ...] = (
    KV_RANGE,
    KV_RANGE_STREAM,
    KV_PUT,
    KV_DELETE_RANGE,
    KV_TXN,
    KV_COMPACT,
    WATCH_WATCH,
    LEASE_GRANT,
    LEASE_REVOKE,
    LEASE_KEEP_ALIVE,
    LEASE_TIME_TO_LIVE,
    LEASE_LEASES,
    CLUSTER_MEMBER_ADD,
    CLUSTER_MEMBER_REMOVE,
    CLUSTER_MEMBER_UPDATE,
    CLUSTER_MEMBER_LIST,
    CLUSTER_MEMBER_PROMOTE,
    MAINTENANCE_ALARM,
    MAINTENANCE_STATUS,
    MAINTENANCE_DEFRAGMENT,
    MAINTENANCE_HASH,
    MAINTENANCE_HASH_KV,
    MAINTENANCE_SNAPSHOT,
    MAINTENANCE_MOVE_LEADER,
    MAINTENANCE_DOWNGRADE,
    AUTH_ENABLE,
    AUTH_DISABLE,
    AUTH_STATUS,
    AUTH_AUTHENTICATE,
    AUTH_USER_ADD,
    AUTH_USER_GET,
    AUTH_USER_LIST,
    AUTH_USER_DELETE,
    AUTH_USER_CHANGE_PASSWORD,
    AUTH_USER_GRANT_ROLE,
    AUTH_USER_REVOKE_ROLE,
    AUTH_ROLE_ADD,
    AUTH_ROLE_GET,
    AUTH_ROLE_LIST,
    AUTH_ROLE_DELETE,
    AUTH_ROLE_GRANT_PERMISSION,
    AUTH_ROLE_REVOKE_PERMISSION,
    LOCK_LOCK,
    LOCK_UNLOCK,
    ELECTION_CAMPAIGN,
    ELECTION_PROCLAIM,
    ELECTION_LEADER,
    ELECTION_OBSERVE,
    ELECTION_RESIGN,
    HEALTH_CHECK,
    HEALTH_WATCH,
)
