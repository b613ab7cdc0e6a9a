"""Every refusal that a client can see: its status code and its exact text.

Clients of the etcd v3 API recognise errors by message, so both columns are part of the interface
(etcd API: error tables of KV, Watch, Lease, Auth, Cluster and Maintenance). A constant bears the
symbol of its row in SCREAMING_SNAKE. A refusal is either a value, where it is the answer of an applied
operation (`ErrorSpec`), or an exception, where a call is being served (`Refused`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from coord.rpc.status import RpcError, StatusCode


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One refusal: the gRPC status and the text that clients match."""

    code: StatusCode
    message: str


class Refused(RpcError):
    """A call that the server refuses, raised from a spec; ``spec`` says which refusal it is."""

    def __init__(self, spec: ErrorSpec) -> None:
        super().__init__(spec.code, spec.message)
        self.spec = spec

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.spec,)


def _invalid(text: str) -> ErrorSpec:
    return ErrorSpec(StatusCode.INVALID_ARGUMENT, f"etcdserver: {text}")


def _precondition(text: str) -> ErrorSpec:
    return ErrorSpec(StatusCode.FAILED_PRECONDITION, f"etcdserver: {text}")


def _unavailable(text: str) -> ErrorSpec:
    return ErrorSpec(StatusCode.UNAVAILABLE, f"etcdserver: {text}")


def _not_found(text: str) -> ErrorSpec:
    return ErrorSpec(StatusCode.NOT_FOUND, f"etcdserver: {text}")


def _out_of_range(text: str) -> ErrorSpec:
    return ErrorSpec(StatusCode.OUT_OF_RANGE, f"etcdserver: {text}")


def _unknown(text: str) -> ErrorSpec:
    return ErrorSpec(StatusCode.UNKNOWN, text)


# Keys, transactions, revisions.
EMPTY_KEY: Final = _invalid("key is not provided")
KEY_NOT_FOUND: Final = _invalid("key not found")
VALUE_PROVIDED: Final = _invalid("value is provided")
LEASE_PROVIDED: Final = _invalid("lease is provided")
TOO_MANY_OPS: Final = _invalid("too many operations in txn request")
DUPLICATE_KEY: Final = _invalid("duplicate key given in txn request")
INVALID_CLIENT_API_VERSION: Final = _invalid("invalid client api version")
INVALID_SORT_OPTION: Final = _invalid("invalid sort option")
COMPACTED: Final = _out_of_range("mvcc: required revision has been compacted")
FUTURE_REV: Final = _out_of_range("mvcc: required revision is a future revision")
NO_SPACE: Final = ErrorSpec(
    StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"
)
RANGE_STREAM_SORT: Final = ErrorSpec(
    StatusCode.UNIMPLEMENTED, "RangeStream does not support custom sort orders"
)
RANGE_STREAM_FILTER: Final = ErrorSpec(
    StatusCode.UNIMPLEMENTED, "RangeStream does not support revision filters"
)

# Leases and watches.
LEASE_NOT_FOUND: Final = _not_found("requested lease not found")
LEASE_EXIST: Final = _precondition("lease already exists")
LEASE_TTL_TOO_LARGE: Final = _out_of_range("too large lease TTL")
NOT_PRIMARY_LESSOR: Final = _unknown("not a primary lessor")
WATCH_CANCELED: Final = ErrorSpec(StatusCode.CANCELLED, "etcdserver: watch canceled")

# The life of a request.
REQUEST_TOO_LARGE: Final = _invalid("request is too large")
# Meant as RESOURCE_EXHAUSTED, but etcd's mapping loses the code on its way to the wire.
REQUEST_TOO_MANY_REQUESTS: Final = _unknown("etcdserver: too many requests")
TOO_MANY_REQUESTS: Final = REQUEST_TOO_MANY_REQUESTS
NO_LEADER: Final = _unavailable("no leader")
NOT_LEADER: Final = _precondition("not leader")
LEADER_CHANGED: Final = _unavailable("leader changed")
STOPPED: Final = _unavailable("server stopped")
TIMEOUT: Final = _unavailable("request timed out")
TIMEOUT_DUE_TO_LEADER_FAIL: Final = _unavailable(
    "request timed out, possibly due to previous leader failure"
)
TIMEOUT_DUE_TO_CONNECTION_LOST: Final = _unavailable(
    "request timed out, possibly due to connection lost"
)
TIMEOUT_WAIT_APPLIED_INDEX: Final = _unavailable(
    "request timed out, waiting for the applied index took too long"
)
NOT_CAPABLE: Final = _precondition("not capable")
CORRUPT: Final = ErrorSpec(StatusCode.DATA_LOSS, "etcdserver: corrupt cluster")
NOT_SUPPORTED_FOR_LEARNER: Final = _precondition("rpc not supported for learner")
CANCELED: Final = ErrorSpec(StatusCode.CANCELLED, "etcdserver: request canceled")
DEADLINE_EXCEEDED: Final = ErrorSpec(
    StatusCode.DEADLINE_EXCEEDED, "etcdserver: context deadline exceeded"
)
UNKNOWN_METHOD: Final = _unknown("etcdserver: unknown method")

# Users, roles, tokens.
USER_EMPTY: Final = _invalid("user name is empty")
PERMISSION_DENIED: Final = ErrorSpec(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")
INVALID_AUTH_TOKEN: Final = ErrorSpec(StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
AUTH_OLD_REVISION: Final = _invalid("revision of auth store is old")
AUTH_FAILED: Final = _invalid("authentication failed, invalid user ID or password")
AUTH_NOT_ENABLED: Final = _precondition("authentication is not enabled")
INVALID_AUTH_MGMT: Final = _invalid("invalid auth management")
NO_PASSWORD_USER: Final = _unknown(
    "auth: authentication failed, password was given for no password user"
)
VERIFY_ONLY_KEY: Final = _unknown("auth: token signing attempted with verify-only key")
ROOT_USER_NOT_EXIST: Final = _precondition("root user does not exist")
ROOT_ROLE_NOT_EXIST: Final = _precondition("root user does not have root role")
USER_ALREADY_EXIST: Final = _precondition("user name already exists")
USER_NOT_FOUND: Final = _precondition("user name not found")
ROLE_ALREADY_EXIST: Final = _precondition("role name already exists")
ROLE_NOT_FOUND: Final = _precondition("role name not found")
ROLE_EMPTY: Final = _invalid("role name is empty")
PERMISSION_NOT_GIVEN: Final = _invalid("permission not given")
ROLE_NOT_GRANTED: Final = _precondition("role is not granted to the user")
PERMISSION_NOT_GRANTED: Final = _precondition("permission is not granted to the role")

# Members, downgrades.
MEMBER_EXIST: Final = _precondition("member ID already exist")
PEER_URL_EXIST: Final = _precondition("Peer URLs already exists")
# The same accident as with too many requests: the intended FAILED_PRECONDITION is lost.
MEMBER_NOT_ENOUGH_STARTED: Final = _unknown(
    "etcdserver: re-configuration failed due to not enough started members"
)
MEMBER_BAD_URLS: Final = _invalid("given member URLs are invalid")
MEMBER_NOT_FOUND: Final = _not_found("member not found")
MEMBER_NOT_LEARNER: Final = _precondition("can only promote a learner member")
LEARNER_NOT_READY: Final = _precondition(
    "can only promote a learner member which is in sync with leader"
)
TOO_MANY_LEARNERS: Final = _precondition("too many learner members in cluster")
CLUSTER_ID_MISMATCH: Final = _precondition("cluster ID mismatch")
UNHEALTHY: Final = _unavailable("unhealthy cluster")
BAD_LEADER_TRANSFEREE: Final = _precondition("bad leader transferee")
LEADER_TRANSFER_TIMEOUT: Final = _unknown(
    "etcdserver: request timed out, leader transfer took too long"
)
WRONG_DOWNGRADE_VERSION_FORMAT: Final = _invalid("wrong downgrade target version format")
INVALID_DOWNGRADE_TARGET_VERSION: Final = _invalid("invalid downgrade target version")
CLUSTER_VERSION_UNAVAILABLE: Final = _precondition("cluster version not found during downgrade")
DOWNGRADE_IN_PROCESS: Final = _precondition("cluster has a downgrade job in progress")
NO_INFLIGHT_DOWNGRADE: Final = _precondition("no inflight downgrade job")
