"""The key messages of the etcd v3 API, copied by hand from its field tables: number, name, type."""

from __future__ import annotations

MESSAGES = {
    "mvccpb.KeyValue": """
        1 key bytes | 2 create_revision int64 | 3 mod_revision int64 | 4 version int64
        | 5 value bytes | 6 lease int64""",
    "mvccpb.Event": "1 type mvccpb.Event.EventType | 2 kv mvccpb.KeyValue | 3 prev_kv mvccpb.KeyValue",
    "authpb.UserAddOptions": "1 no_password bool",
    "authpb.User": """
        1 name bytes | 2 password bytes | 3 roles repeated string | 4 options authpb.UserAddOptions""",
    "authpb.Permission": "1 permType authpb.Permission.Type | 2 key bytes | 3 range_end bytes",
    "authpb.Role": "1 name bytes | 2 keyPermission repeated authpb.Permission",
    "etcdserverpb.ResponseHeader": """
        1 cluster_id uint64 | 2 member_id uint64 | 3 revision int64 | 4 raft_term uint64""",
    "etcdserverpb.RangeRequest": """
        1 key bytes | 2 range_end bytes | 3 limit int64 | 4 revision int64
        | 5 sort_order etcdserverpb.RangeRequest.SortOrder
        | 6 sort_target etcdserverpb.RangeRequest.SortTarget
        | 7 serializable bool | 8 keys_only bool | 9 count_only bool
        | 10 min_mod_revision int64 | 11 max_mod_revision int64
        | 12 min_create_revision int64 | 13 max_create_revision int64""",
    "etcdserverpb.RangeResponse": """
        1 header etcdserverpb.ResponseHeader | 2 kvs repeated mvccpb.KeyValue | 3 more bool
        | 4 count int64""",
    "etcdserverpb.RangeStreamResponse": "1 range_response etcdserverpb.RangeResponse",
    "etcdserverpb.PutRequest": """
        1 key bytes | 2 value bytes | 3 lease int64 | 4 prev_kv bool | 5 ignore_value bool
        | 6 ignore_lease bool""",
    "etcdserverpb.PutResponse": "1 header etcdserverpb.ResponseHeader | 2 prev_kv mvccpb.KeyValue",
    "etcdserverpb.DeleteRangeRequest": "1 key bytes | 2 range_end bytes | 3 prev_kv bool",
    "etcdserverpb.DeleteRangeResponse": """
        1 header etcdserverpb.ResponseHeader | 2 deleted int64 | 3 prev_kvs repeated mvccpb.KeyValue""",
    "etcdserverpb.RequestOp": """
        1 request_range etcdserverpb.RangeRequest | 2 request_put etcdserverpb.PutRequest
        | 3 request_delete_range etcdserverpb.DeleteRangeRequest
        | 4 request_txn etcdserverpb.TxnRequest""",
    "etcdserverpb.ResponseOp": """
        1 response_range etcdserverpb.RangeResponse | 2 response_put etcdserverpb.PutResponse
        | 3 response_delete_range etcdserverpb.DeleteRangeResponse
        | 4 response_txn etcdserverpb.TxnResponse""",
    "etcdserverpb.Compare": """
        1 result etcdserverpb.Compare.CompareResult | 2 target etcdserverpb.Compare.CompareTarget
        | 3 key bytes | 4 version int64 | 5 create_revision int64 | 6 mod_revision int64
        | 7 value bytes | 8 lease int64 | 64 range_end bytes""",
    "etcdserverpb.TxnRequest": """
        1 compare repeated etcdserverpb.Compare | 2 success repeated etcdserverpb.RequestOp
        | 3 failure repeated etcdserverpb.RequestOp""",
    "etcdserverpb.TxnResponse": """
        1 header etcdserverpb.ResponseHeader | 2 succeeded bool
        | 3 responses repeated etcdserverpb.ResponseOp""",
    "etcdserverpb.CompactionRequest": "1 revision int64 | 2 physical bool",
    "etcdserverpb.WatchRequest": """
        1 create_request etcdserverpb.WatchCreateRequest
        | 2 cancel_request etcdserverpb.WatchCancelRequest
        | 3 progress_request etcdserverpb.WatchProgressRequest""",
    "etcdserverpb.WatchCreateRequest": """
        1 key bytes | 2 range_end bytes | 3 start_revision int64 | 4 progress_notify bool
        | 5 filters repeated etcdserverpb.WatchCreateRequest.FilterType | 6 prev_kv bool
        | 7 watch_id int64 | 8 fragment bool""",
    "etcdserverpb.WatchResponse": """
        1 header etcdserverpb.ResponseHeader | 2 watch_id int64 | 3 created bool | 4 canceled bool
        | 5 compact_revision int64 | 6 cancel_reason string | 7 fragment bool
        | 11 events repeated mvccpb.Event""",
    "etcdserverpb.LeaseGrantRequest": "1 TTL int64 | 2 ID int64",
    "etcdserverpb.LeaseGrantResponse": """
        1 header etcdserverpb.ResponseHeader | 2 ID int64 | 3 TTL int64 | 4 error string""",
    "etcdserverpb.LeaseKeepAliveRequest": "1 ID int64",
    "etcdserverpb.LeaseKeepAliveResponse": """
        1 header etcdserverpb.ResponseHeader | 2 ID int64 | 3 TTL int64""",
    "etcdserverpb.LeaseTimeToLiveResponse": """
        1 header etcdserverpb.ResponseHeader | 2 ID int64 | 3 TTL int64 | 4 grantedTTL int64
        | 5 keys repeated bytes""",
    "etcdserverpb.LeaseCheckpoint": "1 ID int64 | 2 remaining_TTL int64",
    "etcdserverpb.Member": """
        1 ID uint64 | 2 name string | 3 peerURLs repeated string | 4 clientURLs repeated string
        | 5 isLearner bool""",
    "etcdserverpb.AlarmRequest": """
        1 action etcdserverpb.AlarmRequest.AlarmAction | 2 memberID uint64
        | 3 alarm etcdserverpb.AlarmType""",
    "etcdserverpb.StatusResponse": """
        1 header etcdserverpb.ResponseHeader | 2 version string | 3 dbSize int64 | 4 leader uint64
        | 5 raftIndex uint64 | 6 raftTerm uint64 | 7 raftAppliedIndex uint64
        | 8 errors repeated string | 9 dbSizeInUse int64 | 10 isLearner bool
        | 11 storageVersion string | 12 dbSizeQuota int64
        | 13 downgradeInfo etcdserverpb.DowngradeInfo""",
    "etcdserverpb.HashKVResponse": """
        1 header etcdserverpb.ResponseHeader | 2 hash uint32 | 3 compact_revision int64
        | 4 hash_revision int64""",
    "etcdserverpb.SnapshotResponse": """
        1 header etcdserverpb.ResponseHeader | 2 remaining_bytes uint64 | 3 blob bytes
        | 4 version string""",
    "etcdserverpb.AuthUserAddRequest": """
        1 name string | 2 password string | 3 options authpb.UserAddOptions
        | 4 hashedPassword string""",
    "etcdserverpb.AuthUserGrantRoleRequest": "1 user string | 2 role string",
    "etcdserverpb.AuthUserRevokeRoleRequest": "1 name string | 2 role string",
    "v3lockpb.LockRequest": "1 name bytes | 2 lease int64",
    "v3lockpb.LockResponse": "1 header etcdserverpb.ResponseHeader | 2 key bytes",
    "v3electionpb.LeaderKey": "1 name bytes | 2 key bytes | 3 rev int64 | 4 lease int64",
    "v3electionpb.CampaignRequest": "1 name bytes | 2 lease int64 | 3 value bytes",
    "v3electionpb.LeaderResponse": "1 header etcdserverpb.ResponseHeader | 2 kv mvccpb.KeyValue",
    "grpc.health.v1.HealthCheckRequest": "1 service string",
    "grpc.health.v1.HealthCheckResponse": "1 status grpc.health.v1.HealthCheckResponse.ServingStatus",
}

ENUMS = {
    "mvccpb.Event.EventType": "PUT DELETE",
    "authpb.Permission.Type": "READ WRITE READWRITE",
    "etcdserverpb.RangeRequest.SortOrder": "NONE ASCEND DESCEND",
    "etcdserverpb.RangeRequest.SortTarget": "KEY VERSION CREATE MOD VALUE",
    "etcdserverpb.Compare.CompareResult": "EQUAL GREATER LESS NOT_EQUAL",
    "etcdserverpb.Compare.CompareTarget": "VERSION CREATE MOD VALUE LEASE",
    "etcdserverpb.WatchCreateRequest.FilterType": "NOPUT NODELETE",
    "etcdserverpb.AlarmType": "NONE NOSPACE CORRUPT",
    "etcdserverpb.AlarmRequest.AlarmAction": "GET ACTIVATE DEACTIVATE",
    "etcdserverpb.DowngradeRequest.DowngradeAction": "VALIDATE ENABLE CANCEL",
    "grpc.health.v1.HealthCheckResponse.ServingStatus": "UNKNOWN SERVING NOT_SERVING SERVICE_UNKNOWN",
}
