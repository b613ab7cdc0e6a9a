"""The twin of ``client.auth``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import auth
from coord.sync._portal import Twin

if TYPE_CHECKING:
    from coord.store.auth import Access, AuthStatus, RoleInfo, UserInfo


class Auth(Twin[auth.Auth]):
    """Users, roles and permissions of a store; see :class:`coord.Auth`."""

    __slots__ = ()

    def status(self, *, timeout: float | None = None) -> AuthStatus:
        """Return whether authentication is on, and the revision of users and roles (etcd 3.5 and later)."""
        return self._portal.call(self._async.status(timeout=timeout))

    def enable(self, *, timeout: float | None = None) -> None:
        """Turn authentication on; nothing happens if it is."""
        self._portal.call(self._async.enable(timeout=timeout))

    def disable(self, *, timeout: float | None = None) -> None:
        """Turn authentication off; nothing happens if it is. Users and roles stay, tokens do not."""
        self._portal.call(self._async.disable(timeout=timeout))

    def user_add(
        self,
        name: str,
        password: str | None = None,
        *,
        no_password: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Add a user with a password of at most 72 bytes."""
        self._portal.call(
            self._async.user_add(name, password, no_password=no_password, timeout=timeout)
        )

    def user_get(self, name: str, *, timeout: float | None = None) -> UserInfo:
        """Return a user with its roles; users may ask for themselves. Raises :class:`UserNotFound`."""
        return self._portal.call(self._async.user_get(name, timeout=timeout))

    def user_list(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the names of all users, in order."""
        return self._portal.call(self._async.user_list(timeout=timeout))

    def user_delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a user; its tokens end. Raises :class:`UserNotFound`."""
        self._portal.call(self._async.user_delete(name, timeout=timeout))

    def user_change_password(
        self, name: str, password: str, *, timeout: float | None = None
    ) -> None:
        """Give a user another password; its tokens end. Raises :class:`UserNotFound`."""
        self._portal.call(self._async.user_change_password(name, password, timeout=timeout))

    def user_grant_role(self, name: str, role: str, *, timeout: float | None = None) -> None:
        """Give a user a role; nothing happens if it has it."""
        self._portal.call(self._async.user_grant_role(name, role, timeout=timeout))

    def user_revoke_role(self, name: str, role: str, *, timeout: float | None = None) -> None:
        """Take a role from a user. Raises :class:`UserNotFound`, :class:`NotGranted`."""
        self._portal.call(self._async.user_revoke_role(name, role, timeout=timeout))

    def role_add(self, name: str, *, timeout: float | None = None) -> None:
        """Add a role that permits nothing yet. Raises :class:`RoleExists`."""
        self._portal.call(self._async.role_add(name, timeout=timeout))

    def role_get(self, name: str, *, timeout: float | None = None) -> RoleInfo:
        """Return a role with its permissions; users may ask for their own. Raises :class:`RoleNotFound`."""
        return self._portal.call(self._async.role_get(name, timeout=timeout))

    def role_list(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the names of all roles, in order."""
        return self._portal.call(self._async.role_list(timeout=timeout))

    def role_delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a role, and take it from every user. Raises :class:`RoleNotFound`."""
        self._portal.call(self._async.role_delete(name, timeout=timeout))

    def role_grant_permission(
        self,
        role: str,
        key: str | bytes,
        access: Access,
        *,
        end: str | bytes | None = None,
        prefix: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Allow ``access`` to ``key``, to ``[key, end)``, or with ``prefix=True`` to all keys that start with ``key``."""
        self._portal.call(
            self._async.role_grant_permission(
                role, key, access, end=end, prefix=prefix, timeout=timeout
            )
        )

    def role_revoke_permission(
        self,
        role: str,
        key: str | bytes,
        *,
        end: str | bytes | None = None,
        prefix: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Take back the permission that was granted for exactly this range."""
        self._portal.call(
            self._async.role_revoke_permission(role, key, end=end, prefix=prefix, timeout=timeout)
        )
