"""Who may do what in a store: ``client.auth``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.errors import InvalidArgument
from coord.store.auth import AuthAdmin, Permission, permission_range

if TYPE_CHECKING:
    from coord.core import Core
    from coord.store.auth import Access, AuthStatus, RoleInfo, UserInfo


class Auth:
    """Users, roles and permissions of a store (etcd API: Auth). Reached as ``client.auth``.

    Users have roles, roles have permissions on keys; who has the role ``root`` may do everything.
    Nothing is checked until :meth:`enable`, and then everything is, so the order of a first setup is: add the user
    ``root``, grant it the role ``root``, add the others, enable.
    Once enabled, administration is for those with the role ``root``.

    Keys in permissions are the store's own, from its first byte on: the namespace of the client is not added, since
    permissions belong to the whole store.

    Every method takes ``timeout=`` in seconds and raises of :mod:`coord.errors`, as the client does:
    :class:`PermissionDenied`, :class:`UserNotFound`, :class:`UserExists`, :class:`RoleNotFound`, :class:`RoleExists`,
    :class:`NotGranted`, else :class:`RequestRefused` with the server's words, also for a server without this service.
    A change is sent once; when its answer does not arrive, :class:`AmbiguousResult` is raised, whose ``resolve()``
    returns the user, the role (None if there is none) or the status as it is.
    The same holds for a change whose caller was cancelled: it may have been made.
    """

    def __init__(self, core: Core) -> None:
        self._admin = AuthAdmin(core.caller)

    async def status(self, *, timeout: float | None = None) -> AuthStatus:
        """Return whether authentication is on, and the revision of users and roles (etcd 3.5 and later).

        While it is on, servers before 3.7 answer this to ``root`` only.
        """
        return await self._admin.status(timeout=timeout)

    async def enable(self, *, timeout: float | None = None) -> None:
        """Turn authentication on; nothing happens if it is.

        Refused unless there is a user ``root`` with the role ``root``.
        Clients without a user are refused from now on, this one too.
        """
        await self._admin.enable(timeout=timeout)

    async def disable(self, *, timeout: float | None = None) -> None:
        """Turn authentication off; nothing happens if it is. Users and roles stay, tokens do not."""
        await self._admin.disable(timeout=timeout)

    async def user_add(
        self,
        name: str,
        password: str | None = None,
        *,
        no_password: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Add a user with a password of at most 72 bytes.

        ``no_password=True`` adds one that cannot log in, for clients whose certificate carries the name.
        Raises :class:`UserExists`.
        """
        if (password is None) != no_password:
            raise InvalidArgument("give either a password or no_password=True")
        await self._admin.user_add(name, password, timeout=timeout)

    async def user_get(self, name: str, *, timeout: float | None = None) -> UserInfo:
        """Return a user with its roles; users may ask for themselves. Raises :class:`UserNotFound`."""
        return await self._admin.user_get(name, timeout=timeout)

    async def user_list(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the names of all users, in order."""
        return await self._admin.user_list(timeout=timeout)

    async def user_delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a user; its tokens end. Raises :class:`UserNotFound`."""
        await self._admin.user_delete(name, timeout=timeout)

    async def user_change_password(
        self, name: str, password: str, *, timeout: float | None = None
    ) -> None:
        """Give a user another password; its tokens end. Raises :class:`UserNotFound`."""
        await self._admin.user_change_password(name, password, timeout=timeout)

    async def user_grant_role(self, name: str, role: str, *, timeout: float | None = None) -> None:
        """Give a user a role; nothing happens if it has it.

        Raises :class:`UserNotFound`, :class:`RoleNotFound` (but for ``root``, which need not have been added).
        """
        await self._admin.user_grant_role(name, role, timeout=timeout)

    async def user_revoke_role(self, name: str, role: str, *, timeout: float | None = None) -> None:
        """Take a role from a user. Raises :class:`UserNotFound`, :class:`NotGranted`."""
        await self._admin.user_revoke_role(name, role, timeout=timeout)

    async def role_add(self, name: str, *, timeout: float | None = None) -> None:
        """Add a role that permits nothing yet. Raises :class:`RoleExists`."""
        await self._admin.role_add(name, timeout=timeout)

    async def role_get(self, name: str, *, timeout: float | None = None) -> RoleInfo:
        """Return a role with its permissions; users may ask for their own. Raises :class:`RoleNotFound`."""
        return await self._admin.role_get(name, timeout=timeout)

    async def role_list(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the names of all roles, in order."""
        return await self._admin.role_list(timeout=timeout)

    async def role_delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a role, and take it from every user. Raises :class:`RoleNotFound`."""
        await self._admin.role_delete(name, timeout=timeout)

    async def role_grant_permission(
        self,
        role: str,
        key: str | bytes,
        access: Access,
        *,
        end: str | bytes | None = None,
        prefix: bool = False,
        timeout: float | None = None,
    ) -> None:
        r"""Allow ``access`` to ``key``, to ``[key, end)``, or with ``prefix=True`` to all keys that start with ``key``.

        ``end=b"\0"`` means all keys from ``key`` on; an empty prefix means all keys.
        Replaces the access that the role has to exactly this range.
        A request for a range is allowed if permissions cover the whole of it.
        Raises :class:`RoleNotFound`.
        """
        first, last = permission_range(key, end, prefix=prefix)
        permission = Permission(access=access, key=first, end=last)
        await self._admin.role_grant_permission(role, permission, timeout=timeout)

    async def role_revoke_permission(
        self,
        role: str,
        key: str | bytes,
        *,
        end: str | bytes | None = None,
        prefix: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Take back the permission that was granted for exactly this range.

        Raises :class:`RoleNotFound`, :class:`NotGranted`.
        """
        first, last = permission_range(key, end, prefix=prefix)
        await self._admin.role_revoke_permission(role, first, last, timeout=timeout)
