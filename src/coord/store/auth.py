"""Users, roles and permissions of the store (etcd API: Auth)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from coord.errors import AmbiguousResult, InvalidArgument, RoleNotFound, UserNotFound
from coord.store.caller import Caller, Repeat
from coord.store.keys import FROM_KEY, prefix_range, to_bytes, to_key
from coord.wire import auth_pb2, methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.wire.methods import Rpc

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)

# bcrypt looks at no more; servers refuse longer ones or cut them off, depending on their version.
_PASSWORD_MAX_BYTES = 72


class Access(Enum):
    """What a permission allows on its keys."""

    READ = "read"
    WRITE = "write"
    READWRITE = "readwrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    r"""Access to ``key``, or to ``[key, end)``; ``end`` is b"\0" for all keys from ``key`` on (etcd API: Permission)."""

    access: Access
    key: bytes
    end: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthStatus:
    """Whether the store asks who its clients are; ``auth_revision`` grows with each change of users and roles."""

    enabled: bool
    auth_revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserInfo:
    """A user and the names of its roles."""

    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleInfo:
    """A role and what it permits."""

    name: str
    permissions: tuple[Permission, ...]


_TO_WIRE = {
    Access.READ: auth_pb2.Permission.READ,
    Access.WRITE: auth_pb2.Permission.WRITE,
    Access.READWRITE: auth_pb2.Permission.READWRITE,
}
_FROM_WIRE = {wire: access for access, wire in _TO_WIRE.items()}


def permission_range(
    key: str | bytes, end: str | bytes | None, *, prefix: bool
) -> tuple[bytes, bytes]:
    """Return the key and range end of a permission. Raises :class:`InvalidArgument`, as the server would."""
    if prefix:
        if end is not None:
            raise InvalidArgument("give either end or prefix, not both")
        return prefix_range(key)
    first, last = to_key(key), b"" if end is None else to_bytes(end, "end")
    if end is not None and last != FROM_KEY and last <= first:
        raise InvalidArgument(f"end {last!r} must lie behind key {first!r}")
    return first, last


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{what} must be text that is not empty")
    return value


def _password(value: object) -> str:
    # An empty one would be accepted, and nobody could log in with it.
    if not isinstance(value, str) or not value:
        raise InvalidArgument("password must be text that is not empty")
    if len(value.encode()) > _PASSWORD_MAX_BYTES:
        raise InvalidArgument(f"password is longer than {_PASSWORD_MAX_BYTES} bytes of UTF-8")
    return value


class AuthAdmin:
    """The calls of the Auth service. A change is sent once: a late copy could undo a newer one."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def status(self, *, timeout: float | None = None) -> AuthStatus:
        """Return whether authentication is on."""
        answer = await self._read(methods.AUTH_STATUS, rpc_pb2.AuthStatusRequest(), timeout)
        return AuthStatus(enabled=answer.enabled, auth_revision=answer.authRevision)

    async def enable(self, *, timeout: float | None = None) -> None:
        """Turn authentication on."""
        request = rpc_pb2.AuthEnableRequest()
        await self._change(methods.AUTH_ENABLE, request, self.status, timeout)

    async def disable(self, *, timeout: float | None = None) -> None:
        """Turn authentication off."""
        request = rpc_pb2.AuthDisableRequest()
        await self._change(methods.AUTH_DISABLE, request, self.status, timeout)

    async def user_add(self, name: str, password: str | None, *, timeout: float | None) -> None:
        """Add a user; without a password, one that only certificates stand for."""
        request = rpc_pb2.AuthUserAddRequest(
            name=_name(name, "user name"),
            password="" if password is None else _password(password),
            options=auth_pb2.UserAddOptions(no_password=password is None),
        )
        await self._change(methods.AUTH_USER_ADD, request, self._find_user(name), timeout)

    async def user_get(self, name: str, *, timeout: float | None = None) -> UserInfo:
        """Return a user."""
        request = rpc_pb2.AuthUserGetRequest(name=_name(name, "user name"))
        answer = await self._read(methods.AUTH_USER_GET, request, timeout)
        return UserInfo(name=name, roles=tuple(answer.roles))

    async def user_list(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the names of all users."""
        request = rpc_pb2.AuthUserListRequest()
        return tuple((await self._read(methods.AUTH_USER_LIST, request, timeout)).users)

    async def user_delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a user."""
        request = rpc_pb2.AuthUserDeleteRequest(name=_name(name, "user name"))
        await self._change(methods.AUTH_USER_DELETE, request, self._find_user(name), timeout)

    async def user_change_password(
        self, name: str, password: str, *, timeout: float | None = None
    ) -> None:
        """Give a user another password."""
        request = rpc_pb2.AuthUserChangePasswordRequest(
            name=_name(name, "user name"), password=_password(password)
        )
        await self._change(
            methods.AUTH_USER_CHANGE_PASSWORD, request, self._find_user(name), timeout
        )

    async def user_grant_role(self, name: str, role: str, *, timeout: float | None = None) -> None:
        """Give a user a role."""
        request = rpc_pb2.AuthUserGrantRoleRequest(
            user=_name(name, "user name"), role=_name(role, "role name")
        )
        await self._change(methods.AUTH_USER_GRANT_ROLE, request, self._find_user(name), timeout)

    async def user_revoke_role(self, name: str, role: str, *, timeout: float | None = None) -> None:
        """Take a role from a user."""
        request = rpc_pb2.AuthUserRevokeRoleRequest(
            name=_name(name, "user name"), role=_name(role, "role name")
        )
        await self._change(methods.AUTH_USER_REVOKE_ROLE, request, self._find_user(name), timeout)

    async def role_add(self, name: str, *, timeout: float | None = None) -> None:
        """Add a role."""
        request = rpc_pb2.AuthRoleAddRequest(name=_name(name, "role name"))
        await self._change(methods.AUTH_ROLE_ADD, request, self._find_role(name), timeout)

    async def role_get(self, name: str, *, timeout: float | None = None) -> RoleInfo:
        """Return a role."""
        request = rpc_pb2.AuthRoleGetRequest(role=_name(name, "role name"))
        answer = await self._read(methods.AUTH_ROLE_GET, request, timeout)
        permissions = [
            Permission(access=_FROM_WIRE[p.permType], key=p.key, end=p.range_end)
            for p in answer.perm
        ]
        return RoleInfo(name=name, permissions=tuple(permissions))

    async def role_list(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the names of all roles."""
        request = rpc_pb2.AuthRoleListRequest()
        return tuple((await self._read(methods.AUTH_ROLE_LIST, request, timeout)).roles)

    async def role_delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a role."""
        request = rpc_pb2.AuthRoleDeleteRequest(role=_name(name, "role name"))
        await self._change(methods.AUTH_ROLE_DELETE, request, self._find_role(name), timeout)

    async def role_grant_permission(
        self, role: str, permission: Permission, *, timeout: float | None = None
    ) -> None:
        """Let a role do something."""
        request = rpc_pb2.AuthRoleGrantPermissionRequest(
            name=_name(role, "role name"),
            perm=auth_pb2.Permission(
                permType=_TO_WIRE[permission.access], key=permission.key, range_end=permission.end
            ),
        )
        await self._change(
            methods.AUTH_ROLE_GRANT_PERMISSION, request, self._find_role(role), timeout
        )

    async def role_revoke_permission(
        self, role: str, key: bytes, end: bytes, *, timeout: float | None = None
    ) -> None:
        """Take a permission from a role."""
        request = rpc_pb2.AuthRoleRevokePermissionRequest(
            role=_name(role, "role name"), key=key, range_end=end
        )
        await self._change(
            methods.AUTH_ROLE_REVOKE_PERMISSION, request, self._find_role(role), timeout
        )

    async def _read(self, rpc: Rpc[Req, Resp], request: Req, timeout: float | None) -> Resp:
        return await self._caller.call(rpc, request, repeat=Repeat.READ, timeout=timeout)

    async def _change(
        self,
        rpc: Rpc[Req, Resp],
        request: Req,
        resolver: Callable[[], Awaitable[object]],
        timeout: float | None,
    ) -> None:
        try:
            await self._caller.call(rpc, request, repeat=Repeat.ONCE, timeout=timeout)
        except AmbiguousResult as error:
            raise AmbiguousResult(
                error.operation, error.reason, resolver=resolver
            ) from error.__cause__

    def _find_user(self, name: str) -> Callable[[], Awaitable[UserInfo | None]]:
        async def find() -> UserInfo | None:
            try:
                return await self.user_get(name)
            except UserNotFound:
                return None

        return find

    def _find_role(self, name: str) -> Callable[[], Awaitable[RoleInfo | None]]:
        async def find() -> RoleInfo | None:
            try:
                return await self.role_get(name)
            except RoleNotFound:
                return None

        return find
