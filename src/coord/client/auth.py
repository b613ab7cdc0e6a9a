"""The part of a client that leads to users and roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.auth import Auth

if TYPE_CHECKING:
    from coord.core import Core


class AuthCalls:
    """Users and roles of the store of a :class:`coord.Client`."""

    _core: Core

    @property
    def auth(self) -> Auth:
        """Users, roles and permissions; see :class:`coord.Auth`."""
        return Auth(self._core)
