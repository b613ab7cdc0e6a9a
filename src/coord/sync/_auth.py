"""The twin of the part of a client that leads to users and roles."""

from __future__ import annotations

from coord import client
from coord.sync._portal import Twin
from coord.sync.auth import Auth


class AuthCalls(Twin[client.Client]):
    """Users and roles of the store of a :class:`coord.sync.Client`."""

    __slots__ = ()

    @property
    def auth(self) -> Auth:
        """Users, roles and permissions; see :class:`coord.Auth`."""
        return Auth(self._portal, self._async.auth)
