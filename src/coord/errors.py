"""Every error that ``coord`` raises, split by what the caller can do about it.

* Nothing happened, try again: :class:`Unavailable`, :class:`CoordTimeout`.
* It may have happened: :class:`AmbiguousResult`; its ``resolve()`` looks.
* Refused, and trying again will not help: :class:`RequestRefused` and its children, :class:`PermissionDenied`.
* Stop working, what you held is gone: :class:`SessionError`, :class:`LostError`.
* Used wrongly: :class:`ClientClosed`, :class:`ForkedError`, :class:`NameConflict`, :class:`InvalidArgument`.

:func:`from_status` is the one place where a gRPC status becomes one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class CoordError(Exception):
    """Root of the tree."""


class Unavailable(CoordError):
    """No server answered, and the request certainly had no effect: safe to try again."""

    def __init__(self, reason: str, *, endpoints: tuple[str, ...] = ()) -> None:
        self.reason = reason
        self.endpoints = endpoints
        tried = f" (endpoints: {', '.join(endpoints)})" if endpoints else ""
        super().__init__(f"store unavailable: {reason}{tried}")


class AmbiguousResult(CoordError):
    """A write was sent and its answer did not arrive: it may or may not have been applied, now or a little later.

    ``operation`` names the call.
    ``await resolve()`` re-reads the store and returns what can be said: for most writes that is the present state of
    the keys concerned.
    """

    def __init__(
        self,
        operation: str,
        reason: str,
        *,
        resolver: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.operation = operation
        self.reason = reason
        self._resolver = resolver
        super().__init__(f"outcome of {operation} is unknown: {reason}")

    async def resolve(self) -> object:
        """Look at the store. Raises :class:`CoordError` when it cannot be read, or nothing can be looked at."""
        if self._resolver is None:
            raise CoordError(f"nothing in the store tells whether {self.operation} was applied")
        return await self._resolver()


class CoordTimeout(CoordError, TimeoutError):
    """Waited as long as allowed. ``explain`` says what was known then, if anything."""

    def __init__(self, what: str, timeout: float | None, *, explain: str = "") -> None:
        self.what = what
        self.timeout = timeout
        self.explain = explain
        limit = "" if timeout is None else f" within {timeout:g} s"
        super().__init__(f"{what} did not finish{limit}" + (f": {explain}" if explain else ""))


class InvalidArgument(CoordError, ValueError):
    """An argument is wrong; the text says which and what is allowed. Nothing was sent."""


class PermissionDenied(CoordError):
    """The store's access rules refuse the request, or the credentials are wrong."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class RequestRefused(CoordError):
    """The store answered that it will not do this; nothing was applied.

    ``code`` and ``message`` are the server's.
    """

    def __init__(self, code: StatusCode, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{message} ({code.name})")


class Compacted(RequestRefused):
    """The revision asked for has been compacted away. ``compact_revision`` is the oldest readable one, 0 if not told."""

    def __init__(self, message: str, *, compact_revision: int = 0) -> None:
        self.compact_revision = compact_revision
        super().__init__(StatusCode.OUT_OF_RANGE, message)


class FutureRevision(RequestRefused):
    """The revision asked for does not exist yet."""


class LeaseNotFound(RequestRefused):
    """The lease has expired, was revoked, or never existed."""


class LeaseExists(RequestRefused):
    """The lease id asked for is in use."""


class KeyNotFound(RequestRefused):
    """The request needs a key that does not exist."""


class UserExists(RequestRefused):
    """There is a user of this name already."""


class UserNotFound(RequestRefused):
    """There is no user of this name."""


class RoleExists(RequestRefused):
    """There is a role of this name already."""


class RoleNotFound(RequestRefused):
    """There is no role of this name."""


class NotGranted(RequestRefused):
    """The user does not have the role, or the role not the permission, that was to be taken away."""


class NoSpace(RequestRefused):
    """The store is over its quota; deletes, compaction and reads still work."""


class TooLarge(RequestRefused):
    """The request, or its answer, is larger than the limit."""


class TxnTooLarge(TooLarge):
    """A transaction has more comparisons, or more operations in one branch, than are allowed; nothing was sent.

    Allowed are the client's ``max_txn_ops``, or what the server says when that is less.
    """


class PayloadTooLarge(TooLarge):
    """A value that a recipe should write has more bytes than allowed; nothing was sent.

    ``what`` says whose value it is, ``size_bytes`` how large it is. Allowed are the client's ``max_value_bytes``, here
    ``limit_bytes``. Keep what is larger elsewhere, and have the recipe say where.
    """

    def __init__(self, what: str, *, size_bytes: int, limit_bytes: int) -> None:
        self.what = what
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            StatusCode.INVALID_ARGUMENT,
            f"{what} has {size_bytes} bytes, but at most {limit_bytes} are allowed: keep it elsewhere and write where,"
            " or connect(max_value_bytes=...)",
        )


class ProtocolError(CoordError):
    """The other side broke the protocol, or is not an etcd v3 endpoint."""


class EndpointMismatch(CoordError):
    """The members advertise client URLs that this client must not use: plain ones with TLS, or the other way round."""

    def __init__(self, urls: tuple[str, ...], *, secure: bool) -> None:
        self.urls = urls
        self.secure = secure
        ours, theirs = (("uses TLS", "plain"), ("does not use TLS", "TLS"))[not secure]
        super().__init__(
            f"this client {ours}, but the members advertise only {theirs} URLs: {', '.join(urls)}"
        )


class ClientClosed(CoordError):
    """The client was closed."""

    def __init__(self, what: str = "the client") -> None:
        super().__init__(f"{what} is closed")


class ForkedError(CoordError):
    """The object belongs to the parent process; use ``client.after_fork()`` or connect in the child."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "this client was created before fork()" + (f": {detail}" if detail else "")
        )


class NameConflict(CoordError):
    """Two recipes use names of which one is a path prefix of the other."""

    def __init__(self, name: str, other: str) -> None:
        self.name = name
        self.other = other
        super().__init__(
            f"name {name!r} conflicts with {other!r}: one is a path prefix of the other"
        )


class MissingExtra(CoordError, ImportError):
    """A feature needs a package that only an extra installs."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(f'{feature} needs more packages: pip install "coord[{extra}]"')


class SessionError(CoordError):
    """A session cannot be used any more."""


class SessionExpired(SessionError):
    """The session's lease is gone or can no longer be trusted; everything held through it is lost."""

    def __init__(self, reason: str, *, lease_id: int = 0) -> None:
        self.reason = reason
        self.lease_id = lease_id
        super().__init__(f"session {lease_id:x} expired: {reason}")


class SessionClosed(SessionError):
    """The session was closed by its owner."""

    def __init__(self, lease_id: int = 0) -> None:
        self.lease_id = lease_id
        super().__init__(f"session {lease_id:x} is closed")


class SessionShared(SessionError):
    """Another process uses the same session (lease) for the same name."""

    def __init__(self, name: str, lease_id: int) -> None:
        self.name = name
        self.lease_id = lease_id
        super().__init__(
            f"another process already contends for {name!r} with the same lease {lease_id:x}"
        )


class LostError(CoordError):
    """Something held was lost; stop the work that it protected. Never repaired: acquire again."""

    noun = "grant"

    def __init__(self, name: str, token: int, reason: str) -> None:
        self.name = name
        self.token = token
        self.reason = reason
        super().__init__(f"{self.noun} {name!r} (token {token}) was lost: {reason}")


class LockLost(LostError):
    """A mutex grant was lost."""

    noun = "lock"


class LeadershipLost(LostError):
    """A term of leadership was lost."""

    noun = "leadership of"


class NotHeld(CoordError):
    """The grant was already released."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name!r} is not held")


class NotLeader(NotHeld):
    """The term was already resigned."""


class NoCandidate(CoordError):
    """No candidate with this key is in the line of the election, behind the leader."""

    def __init__(self, name: str, key: bytes) -> None:
        self.name = name
        self.key = key
        super().__init__(
            f"election {name!r} has no candidate {key.decode(errors='backslashreplace')!r}"
        )


class LockTimeout(CoordTimeout):
    """The lock was not granted in time; no place in line is kept."""


class CampaignTimeout(CoordTimeout):
    """Leadership was not won in time; the candidacy is withdrawn."""


class TransferTimeout(CoordTimeout):
    """Leadership was not handed on in time; the term goes on."""


class CacheTimeout(CoordTimeout):
    """A cache was not complete, or not as new as asked for, in time. Nothing is left of a start that timed out."""


class CacheOverflow(CoordError):
    """The range of a cache holds more than it may: more than ``limit`` ``unit``, which are keys or bytes.

    The cache has ended; what it held is given up, since it would be incomplete.
    """

    def __init__(self, what: str, *, limit: int, unit: str) -> None:
        self.what = what
        self.limit = limit
        self.unit = unit
        super().__init__(f"the cache of {what} would hold more than {limit} {unit}")


class DecodeError(CoordError, ValueError):
    """A value is no ``type_name``. ``key`` is where it stands, if known; ``reason`` what is wrong with it."""

    def __init__(self, type_name: str, reason: str, *, key: bytes | None = None) -> None:
        self.type_name = type_name
        self.reason = reason
        self.key = key
        where = "the value" if key is None else f"the value of {key!r}"
        super().__init__(f"{where} is no {type_name}: {reason}")

    def at(self, key: bytes) -> DecodeError:
        """Return the same error with the key."""
        return DecodeError(self.type_name, self.reason, key=key)


class UpdateConflict(CoordError):
    """Others changed the key each time between reading and writing it; nothing was written."""

    def __init__(self, key: bytes, attempts: int) -> None:
        self.key = key
        self.attempts = attempts
        super().__init__(f"{key!r} was changed by others during each of {attempts} updates")


class NoLeader(CoordError):
    """The election has no leader right now."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"election {name!r} has no leader")


class BatchFailed(CoordError):
    """Some operations of a batch failed; the others took place.

    ``sent`` is the number of operations, ``errors`` the key and the error of each one that failed.
    """

    def __init__(self, sent: int, errors: tuple[tuple[bytes, CoordError], ...]) -> None:
        self.sent = sent
        self.errors = errors
        key, first = errors[0]
        super().__init__(
            f"{len(errors)} of {sent} operations failed, the first on"
            f" {key.decode(errors='backslashreplace')!r}: {first}"
        )


class StmConflict(CoordError):
    """An optimistic transaction lost against others in every attempt; nothing was written.

    ``attempts`` is their number; ``hottest`` the keys that changed most often meanwhile, each with how often.
    """

    def __init__(self, attempts: int, hottest: tuple[tuple[bytes, int], ...]) -> None:
        self.attempts = attempts
        self.hottest = hottest
        named = ", ".join(
            f"{key.decode(errors='backslashreplace')!r} ({count} times)" for key, count in hottest
        )
        super().__init__(
            f"the transaction conflicted with others in all of {attempts} attempts"
            + (f"; what changed most: {named}" if named else "")
        )


class StmTimeout(CoordTimeout):
    """An optimistic transaction was not committed in time; nothing was written."""


_BY_TEXT: dict[str, type[RequestRefused]] = {
    "etcdserver: mvcc: required revision is a future revision": FutureRevision,
    "etcdserver: requested lease not found": LeaseNotFound,
    "etcdserver: lease already exists": LeaseExists,
    "etcdserver: key not found": KeyNotFound,
    "etcdserver: user name already exists": UserExists,
    "etcdserver: user name not found": UserNotFound,
    "etcdserver: role name already exists": RoleExists,
    "etcdserver: role name not found": RoleNotFound,
    "etcdserver: role is not granted to the user": NotGranted,
    "etcdserver: permission is not granted to the role": NotGranted,
    "etcdserver: mvcc: database space exceeded": NoSpace,
    "etcdserver: request is too large": TooLarge,
    "etcdserver: too many operations in txn request": TxnTooLarge,
}
_LARGER = "message larger than max"  # gRPC's own limit, which lies above the server's
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
# Texts that arrive with UNKNOWN or UNAVAILABLE although the server says that nothing was done.
_NOT_APPLIED = frozenset(
    {
        "etcdserver: too many requests",
        "etcdserver: no leader",
        "etcdserver: leader changed",
        "etcdserver: not capable",
        "etcdserver: unhealthy cluster",
        "there is no address available",
        "there is no connection available",
    }
)
# Refusals that arrive with UNKNOWN.
_REFUSED_TEXT = frozenset(
    {
        "etcdserver: re-configuration failed due to not enough started members",
        "etcdserver: unknown method",
    }
)
_DENIED = frozenset({StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED})
_DENIED_TEXT = frozenset(
    {
        "etcdserver: user name is empty",
        "etcdserver: authentication failed, invalid user ID or password",
        "etcdserver: revision of auth store is old",
        # etcd 3.4 in its Maintenance service, with code UNKNOWN.
        "auth: permission denied",
        "auth: user name is empty",
        "auth: invalid auth token",
        "auth: revision in header is old",
    }
)
# Codes after which a write that was sent may still have been applied.
_UNCERTAIN = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.UNKNOWN,
        StatusCode.INTERNAL,
        StatusCode.ABORTED,
        StatusCode.DATA_LOSS,
    }
)


def is_unknown_outcome(error: RpcError) -> bool:
    """Say whether a write that failed with ``error`` may have been applied nevertheless."""
    said_no = error.message in _NOT_APPLIED or error.message in _REFUSED_TEXT
    return error.sent and error.code in _UNCERTAIN and not said_no


def from_status(
    error: RpcError, *, operation: str, writes: bool, timeout: float | None = None
) -> CoordError:
    """Turn a gRPC status into the error to raise.

    ``writes``: whether the request could change the store; only then can the outcome be in doubt.
    """
    code, message = error.code, error.message
    if message == _COMPACTED:
        return Compacted(message)
    known = _BY_TEXT.get(message)
    if known is not None:
        return known(code, message)
    if code is StatusCode.RESOURCE_EXHAUSTED and _LARGER in message:
        return TooLarge(code, message)
    if code in _DENIED or message in _DENIED_TEXT:
        return PermissionDenied(message)
    if message in _REFUSED_TEXT:
        return RequestRefused(code, message)
    if writes and is_unknown_outcome(error):
        return AmbiguousResult(operation, f"{message} ({code.name})")
    if code is StatusCode.DEADLINE_EXCEEDED:
        return CoordTimeout(operation, timeout)
    if code is StatusCode.UNAVAILABLE or message in _NOT_APPLIED:
        return Unavailable(message)
    if code is StatusCode.UNIMPLEMENTED:
        return RequestRefused(code, f"{operation} is not supported by this server: {message}")
    return RequestRefused(code, message)
